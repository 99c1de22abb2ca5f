"""Stages of long work: done once, kept while their inputs are unchanged, done again when anything they depend on is not."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from workbench.engine.code import code_of
from workbench.engine.tables import table_path, types_path, write_table
from workbench.errors import ArtifactError
from workbench.files import PART, digest, hash_file, plain, read_json, write_json

Result = dict[str, Any]
Results = Mapping[str, Result]
_BEGUN, _DONE = "begun.json", "done.json"


@dataclass(frozen=True)
class Stage:
    """A part of long work.

    Attributes
    ----------
    name
        Names its folder under ``stages/``.
    work
        Does the work. It is given its folder and the results of the stages it comes `after`, and returns what later
        stages and the report need, JSON-ready. After an interruption it is called again in the same folder and may go
        on with what it finds there; what work with other inputs left is removed before.
    inputs
        Everything else that the result depends on, JSON-ready; or a function that makes it of the results so far.
    after
        Stages whose results it reads. Their keys are among its inputs.
    tables
        Names of the tables that it leaves; those that only its work can tell stand in its result under ``tables``.
    files
        Other files that it leaves, relative to the output folder.
    part
        Part of the command that it belongs to; empty: it is always asked for.
    version
        Number that stands for its code in place of the modules it uses. Who declares one has to raise it with every change
        of what is computed.
    """

    name: str
    work: Callable[[Path, Results], Result]
    inputs: Any | Callable[[Results], Any] = ()
    after: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    part: str = ""
    version: int | None = None

    def key(self, results: Results) -> str:
        """Hash of everything that the result depends on.

        Parameters
        ----------
        results
            Of the stages that were done or kept before, by name.
        """
        given = self.inputs(results) if callable(self.inputs) else self.inputs
        below = {name: results[name]["key"] for name in self.after}
        return digest(self.name, plain(given), below, code_of(self.work) if self.version is None else self.version)

    def left(self, out: Path, result: Result) -> list[Path]:
        """Files that its work has left outside its folder.

        Parameters
        ----------
        out
            Output folder that the files lie in.
        result
            What its work returned, for tables that it names.
        """
        names = dict.fromkeys((*self.tables, *result.get("tables", ())))
        tables = [table_path(out, name) for name in names]
        return [*tables, *map(types_path, tables), *(out / file for file in self.files)]


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes; what it holds now where the system keeps no peak."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def key_of(out: Path, name: str) -> str:
    """Key of what a stage holds now, ended or not; empty where it was never begun.

    Parameters
    ----------
    out
        Output folder that holds ``stages/``.
    name
        Name of the stage, as in `Stage.name`.
    """
    folder = out / "stages" / name
    return str((_read(folder / _DONE) or _read(folder / _BEGUN)).get("key", ""))


def stands_on(out: Path, name: str, below: str) -> bool:
    """Whether what a stage left was made on what another stage holds now; True where the folder does not say.

    Parameters
    ----------
    out
        Output folder that holds ``stages/``.
    name
        Name of the stage, as in `Stage.name`.
    below
        Name of a stage that it comes after.
    """

    def last(stage: str) -> dict[str, Any] | None:
        folder = out / "stages" / stage
        return _read(folder / _DONE) if (folder / _DONE).is_file() or (folder / _BEGUN).is_file() else None

    own, under = last(name), last(below)
    if own is None or under is None:
        return True
    # Begun and not ended: nothing is known to stand on it.
    return bool(own and under) and own.get("after", {}).get(below, under["key"]) == under["key"]


def damaged(out: Path, files: Mapping[str, Sequence[Any]], trust: bool = False) -> dict[str, str]:
    """What happened to files since they were recorded: by name ``changed`` or ``removed``; those that are sound are left out.

    Parameters
    ----------
    out
        Folder that the names are relative to.
    files
        Size in bytes and hash of each file, by its name.
    trust
        Whether the size alone is looked at, which takes no time.
    """
    found = {}
    for name, (size, content) in files.items():
        path = out / name
        if not path.is_file():
            found[name] = "removed"
        elif path.stat().st_size != size or not (trust or hash_file(path) == content):
            found[name] = "changed"
    return found


def damaged_tables(out: Path) -> dict[str, str]:
    """What happened to the tables of a run since its stages wrote them, by name of the table; sound ones are left out.

    Parameters
    ----------
    out
        Output folder that holds ``stages/``; one without has no record of its tables, and none is found.
    """
    recorded = [_made(folder).get("files", {}) for folder in (out / "stages").glob("*")]
    tables = {name: given for files in recorded for name, given in files.items() if name.endswith(".csv")}
    return {Path(name).stem: state for name, state in damaged(out, tables).items()}


@dataclass
class StageRunner:
    """Does stages in one folder and remembers what each depended on.

    Attributes
    ----------
    out
        Output folder that holds ``stages/``.
    trust
        Whether files of finished stages are believed by their size; else their content is compared with its hash.
    seconds, reused, peak
        By stage: its time, whether it was taken as it was, and the peak memory of the process when it was made (bytes).
    results
        By stage: what its work returned, and its ``key``.
    """

    out: Path
    trust: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    reused: dict[str, bool] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    # Damage that `plan` has found, by stage and key, so that no file is hashed twice.
    _seen: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def plan(self, stages: Sequence[Stage]) -> None:
        """Say in a line what is kept, what goes on and what is made again, before anything long; nothing in a new folder.

        Parameters
        ----------
        stages
            All that will be asked for, in their order.
        """
        known = dict(self.results)
        kept, going_on, again = list[str](), list[str](), list[str]()
        for stage in stages:
            # Inputs that are made of results may be read from the tables of stages that are to be made.
            unknown = callable(stage.inputs) and (again or going_on)
            key = stage.key(known) if not unknown and all(name in known for name in stage.after) else ""
            made, folder = _made(self.out / "stages" / stage.name), self.out / "stages" / stage.name
            if key and made.get("key") == key:
                known[stage.name] = {**made["result"], "key": key}
                faults = self._seen[stage.name, key] = damaged(self.out, made["files"], self.trust)
                (again if faults else kept).append(stage.name)
            elif key and not made and _read(folder / _BEGUN).get("key") == key:
                going_on.append(stage.name)
            else:
                again.append(stage.name)
        if kept or going_on:
            said = {"kept": kept, "goes on": going_on, "to make": again}
            parts = [f"{what}: {', '.join(names)}" for what, names in said.items() if names]
            print(f"[stages] {'; '.join(parts)}", file=sys.stderr)

    def run(self, stage: Stage) -> Result:
        """Do a stage, unless it is done with the same inputs and the same code and all that it left is there unchanged.

        Parameters
        ----------
        stage
            The stage; those it comes after were done or kept before.
        """
        if (known := self.kept(stage)) is not None:
            return known
        folder, key = self.out / "stages" / stage.name, stage.key(self.results)
        done, begun = folder / _DONE, folder / _BEGUN
        if folder.is_dir() and not (begun.is_file() and _read(begun).get("key") == key):
            shutil.rmtree(folder)
        elif (made := _made(folder)).get("key") == key:
            self._put_away(stage, made)
        done.unlink(missing_ok=True)
        write_json(begun, {"key": key})
        print(f"[{stage.name}] ...", file=sys.stderr)
        began = time.perf_counter()
        result = plain(stage.work(folder, {name: self.results[name] for name in stage.after}))
        seconds, peak = time.perf_counter() - began, peak_memory()
        below = {name: self.results[name]["key"] for name in stage.after}
        files = {
            path.relative_to(self.out).as_posix(): [path.stat().st_size, hash_file(path)]
            for path in (*stage.left(self.out, result), *_inside(folder))
        }
        made = {"key": key, "after": below, "seconds": seconds, "peak_bytes": peak, "files": files, "result": result}
        write_json(done, {**made, "hash": digest(plain(made))})
        print(f"[{stage.name}] done in {seconds:.1f} s", file=sys.stderr)
        return self._remember(stage.name, {**result, "key": key}, seconds, peak, reused=False)

    def kept(self, stage: Stage, asked: bool = True) -> Result | None:
        """What a stage left that was done with these inputs and this code; None where it has to be done.

        A file that was changed, cut or removed since is named, and the stage has to be done again.

        Parameters
        ----------
        stage
            Stage whose inputs and files are looked at.
        asked
            Whether it will be done where it is not kept, for what is said.
        """
        if not all(name in self.results for name in stage.after):
            return None
        key, made = stage.key(self.results), _made(self.out / "stages" / stage.name)
        if made.get("key") != key:
            return None
        if faults := self._damage(stage.name, made):
            then = "made again" if asked else "left out until it is made again"
            for name, state in faults.items():
                print(f"[{stage.name}] {name} was {state} since this stage wrote it; {then}", file=sys.stderr)
            return None
        print(f"[{stage.name}] unchanged, kept", file=sys.stderr)
        result = {**made["result"], "key": key}
        return self._remember(stage.name, result, made["seconds"], made["peak_bytes"], reused=True)

    def _put_away(self, stage: Stage, made: Mapping[str, Any]) -> None:
        """Take the files of a damaged stage out of its way; what is sound in its own folder may be gone on with."""
        folder = self.out / "stages" / stage.name
        for name, state in self._damage(stage.name, made).items():
            path = self.out / name
            if state == "changed" and folder not in path.parents:
                # Somebody may have written notes into it.
                print(f"[{stage.name}] what {name} holds now is kept as {path.name}.changed", file=sys.stderr)
                path.replace(path.with_name(f"{path.name}.changed"))
            path.unlink(missing_ok=True)
        for path in stage.left(self.out, made["result"]):
            path.unlink(missing_ok=True)

    def _damage(self, name: str, made: Mapping[str, Any]) -> dict[str, str]:
        """What happened to the files of a finished stage; they are not read again right after `plan` has."""
        seen = self._seen.pop((name, made["key"]), None)
        return damaged(self.out, made["files"], self.trust) if seen is None else seen

    def _remember(self, name: str, result: Result, seconds: float, peak: int, *, reused: bool) -> Result:
        self.results[name], self.seconds[name], self.peak[name], self.reused[name] = result, seconds, peak, reused
        return result

    def runtime(self) -> pd.DataFrame:
        """Seconds and peak memory of the stages so far, also written to ``tables/runtime.csv``.

        Returns
        -------
        DataFrame
            ``stage``, ``seconds``, ``peak_bytes``.
        """
        rows = [(name, seconds, self.peak[name]) for name, seconds in self.seconds.items()]
        table = pd.DataFrame(rows, columns=["stage", "seconds", "peak_bytes"])
        write_table(table_path(self.out, "runtime"), table)
        return table


def run_all(runner: StageRunner, stages: Sequence[Stage], parts: Sequence[str] = ()) -> None:
    """Do stages in their order; those of parts that are not asked for are kept where they can be.

    Parameters
    ----------
    runner
        Does them, and remembers their results.
    stages
        Each after those that it comes after.
    parts
        Parts that are asked for; all when empty.
    """
    asked = [not parts or not stage.part or stage.part in parts for stage in stages]
    runner.plan([stage for stage, wanted in zip(stages, asked, strict=True) if wanted])
    for stage, wanted in zip(stages, asked, strict=True):
        if wanted:
            runner.run(stage)
        else:
            runner.kept(stage, asked=False)


def _inside(folder: Path) -> list[Path]:
    """What a stage has left in its own folder, without what says so, locks, and halves of files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path.name not in (_BEGUN, _DONE) and path.suffix not in (".lock", PART)]


def _made(folder: Path) -> dict[str, Any]:
    """The record of a finished stage; nothing where there is none that is whole."""
    found = _read(folder / _DONE)
    return found if found.pop("hash", "") == digest(found) else {}


def _read(file: Path) -> dict[str, Any]:
    """What a control file holds; nothing where it is absent or was cut, for then the stage is done again."""
    try:
        found = read_json(file) if file.is_file() else {}
    except ArtifactError:
        return {}
    return found if isinstance(found, dict) else {}
