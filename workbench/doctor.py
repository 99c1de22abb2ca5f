"""What works here, and what each optional feature lacks: ``workbench doctor``.

All that is required is imported, then every module of the workbench; what breaks there becomes a sentence.
"""

from __future__ import annotations

import pkgutil
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import workbench
from workbench import __version__
from workbench.console import columns
from workbench.errors import WorkbenchError
from workbench.machine import Machine, Torch, first_line, read_machine, read_torch
from workbench.requirements import (
    REQUIRED,
    ROOT,
    Feature,
    Need,
    check,
    import_error,
    importable,
    installed,
    name_of,
    pip,
    read_features,
)  # fmt: skip

SHIPPED = ROOT / "artifacts" / "scgpt-blood-mini"
NEVER = "flash-attn and torchtext are never needed: checkpoints that were trained with them are read without."


@dataclass(frozen=True)
class Checkpoint:
    """Whether a checkpoint folder can be read, and one line about it.

    Attributes
    ----------
    path
        Folder, as it was given.
    readable
        Whether it could be read.
    said
        Size and release where it could; the error's sentence where it could not.
    """

    path: str
    readable: bool
    said: str


@dataclass(frozen=True)
class Diagnosis:
    """All that `diagnose` found.

    Attributes
    ----------
    workbench, python
        Version of the workbench, and of Python.
    code
        Folder that the workbench runs from.
    required
        Packages without which nothing works.
    modules
        Sentences about modules of the workbench that cannot be imported, though all that is required can.
    torch, machine
        Torch with its devices; cores, memory, disk and folders.
    checkpoints
        Those that were tried; none where torch cannot be imported.
    features
        Optional features, and what each lacks.
    """

    workbench: str
    python: str
    code: str
    required: tuple[Need, ...]
    modules: tuple[str, ...]
    torch: Torch
    machine: Machine
    checkpoints: tuple[Checkpoint, ...]
    features: tuple[Feature, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what is required and broken."""
        said = []
        if self.torch.problem:
            torch = next(requirement for requirement in REQUIRED if requirement.startswith("torch>"))
            said.append(f"{self.torch.problem} Install it again: {pip('--force-reinstall', torch)}")
        lacking = [need for need in self.required if need.problem]
        said += [f"{need.what} is required and {need.problem}." for need in lacking]
        broken = [need.what for need in lacking if str(need.problem).startswith("cannot be imported")]
        if len(broken) < len(lacking):
            wanted = [need.what for need in lacking if need.what not in broken]
            said.append(f"To install what is required: {pip(*wanted)}")
        if broken:
            said.append(
                f"To renew what cannot be imported: {pip('--upgrade', '--force-reinstall', '--no-deps', *broken)}"
            )
        said += self.modules
        if self.machine.compiled_code is None:
            said.append("Compiled code can be kept nowhere; set NUMBA_CACHE_DIR to a folder that can be written.")
        unread = [one for one in self.checkpoints if not one.readable]
        return (*said, *(f"The checkpoint '{one.path}' cannot be read. {one.said}" for one in unread))

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what is worth knowing and breaks nothing."""
        said = [self.torch.note] if self.torch.note else []
        if not self.machine.folder_writable:
            said.append(f"The current folder '{self.machine.folder}' cannot be written; name another with --out.")
        if not self.machine.cache_writable:
            said.append(
                f"'{self.machine.cache}' cannot be written, and make needs it; set XDG_CACHE_HOME to another folder."
            )
        return (*said, NEVER)

    @property
    def works(self) -> bool:
        """Whether all that is required works."""
        return not self.problems


def diagnose(checkpoint: str | Path | None = None) -> Diagnosis:
    """Look at what is installed, at the machine and at checkpoints; nothing is changed or left behind.

    Parameters
    ----------
    checkpoint
        Checkpoint folder to try, beside the one that comes with a checkout; None for that one alone.
    """
    paths = [SHIPPED] if SHIPPED.is_dir() else []
    if checkpoint is not None and Path(checkpoint).resolve() not in paths:
        paths.append(Path(checkpoint))
    torch = read_torch() if installed("torch") else Torch(None, ())
    # torch has told its own story already.
    required = [check(one) if name_of(one) == "torch" else importable(check(one)) for one in REQUIRED]
    sound = torch.version and not any(need.problem for need in required)
    return Diagnosis(
        workbench=__version__,
        python=platform.python_version(),
        code=str(Path(__file__).resolve().parent),
        required=tuple(required),
        modules=read_modules() if sound else (),
        torch=torch,
        machine=read_machine(),
        checkpoints=tuple(read_checkpoint(path) for path in paths) if torch.version else (),
        features=read_features(),
    )


def read_modules() -> tuple[str, ...]:
    """Import every module of the workbench; one sentence for each that cannot be."""
    names = [found.name for found in pkgutil.walk_packages(workbench.__path__, "workbench.", lambda name: None)]
    errors = {name: import_error(name) for name in names if not name.endswith("__main__")}
    return tuple(f"{name} cannot be imported ({error})." for name, error in errors.items() if error)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Try to read a checkpoint, and say in one line what it is or what is wrong.

    Parameters
    ----------
    path
        Folder of a checkpoint; whatever is wrong with it becomes a sentence.
    """
    try:
        from workbench.models.inspection import describe

        found = describe(path)
    # Ours is a sentence already; the libraries that the reader needs may raise anything.
    except Exception as error:
        return Checkpoint(
            str(path), False, str(error) if isinstance(error, WorkbenchError) else f"{first_line(error)}."
        )
    heads, config = found["heads"], found["config"]
    said = (
        f"{heads['layers']} layers x {heads['per_layer']} heads, width {config['d_model']}, "
        f"{found['vocabulary']['genes']:,} genes, {found['release'] or 'not a known release'}"
    )
    return Checkpoint(str(path), True, said)


def told(diagnosis: Diagnosis) -> dict[str, Any]:
    """A diagnosis, ready for JSON.

    Parameters
    ----------
    diagnosis
        What `diagnose` found; nothing is looked up again.
    """
    features = [{**asdict(one), "works": one.works} for one in diagnosis.features]
    said = {"works": diagnosis.works, "problems": list(diagnosis.problems), "notes": list(diagnosis.notes)}
    return {**said, **asdict(diagnosis), "features": features}


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """A diagnosis as text.

    Parameters
    ----------
    diagnosis
        What `diagnose` found; nothing is looked up again.
    """
    machine, torch = diagnosis.machine, diagnosis.torch
    versions = ", ".join(f"{name_of(need.what)} {need.found or 'MISSING'}" for need in diagnosis.required)
    cores = f"{machine.cores}, of which this process may use {machine.usable_cores}"
    memory = f"{_size(machine.memory)}, available {_size(machine.memory_available)}"
    lines = [
        f"workbench {diagnosis.workbench} in {diagnosis.code}, python {diagnosis.python}, {machine.system}",
        *("", "Required packages"),
        *textwrap.wrap(versions, min(columns() or 110, 110), initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False),
        *("", "Machine"),
        *_table([
            *[
                (one.name, one.said + (f", {_size(one.memory)}" if one.memory is not None else "")
                 + ("; device auto takes it" if one.name == torch.auto else ""))
                for one in torch.devices
            ],
            ("cores", cores),
            ("memory", memory),
            ("disk", f"{_size(machine.disk_free)} free in {machine.folder}{_closed(machine.folder_writable)}"),
            ("cache", machine.cache + _closed(machine.cache_writable)),
        ]),
        *("", "Checkpoints"),
        *(f"  {one.path}: {one.said if one.readable else 'CANNOT BE READ'}" for one in diagnosis.checkpoints),
        *([] if diagnosis.checkpoints else ["  none was tried"]),
        *("", "Optional"),
    ]  # fmt: skip
    optional: list[tuple[str, str]] = []
    for one in diagnosis.features:
        needs = ", ".join(f"{need.what} {need.problem}" if need.problem else _found(need) for need in one.needs)
        optional.append((one.name, f"{'yes' if one.works else 'no '}  {needs}"))
        optional += [("", f"     {command}") for command in one.install]
    last = "All that is required works." if diagnosis.works else "Something that is required is broken."
    return "\n".join([*lines, *_table(optional), "", *diagnosis.notes, "", *diagnosis.problems, last])


def _found(need: Need) -> str:
    return f"{name_of(need.what)} {need.found}" if "/" not in str(need.found) else str(need.found)


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:<{width}}  {said}" for name, said in rows]


def _closed(writable: bool) -> str:
    return "" if writable else " (cannot be written)"


def _size(n: int | None) -> str:
    return "unknown" if n is None else f"{n / 2**30:.1f} GiB"
