"""What of a finished run may go, how much that is, and what is lost with it: ``workbench clean``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.console import aligned, size_text, time_text
from workbench.engine.folder import MARKER, check_layout, hold
from workbench.engine.record import BEGUN, damaged, made_of
from workbench.errors import OutputError
from workbench.files import remove_parts

LOST = (
    "Lost with them: the same command, or one with other settings such as another adaptor.k, makes them again, forward "
    "passes included; the explorer in Jupyter needs them."
)
STAYS = (
    "What still works without: the report, tables and figures, 'workbench figures', the exported algorithm or checkpoint, "
    "'workbench apply'."
)


@dataclass(frozen=True)
class Removable:
    """What a finished stage keeps for later stages and commands.

    Attributes
    ----------
    stage
        Name of the stage, as in `Stage.name`.
    files
        Files that it wrote into its folder and that are as large as they were.
    size
        Bytes of all of them.
    seconds
        Time that it took to make them.
    """

    stage: str
    files: tuple[Path, ...]
    size: int
    seconds: float


@dataclass(frozen=True)
class Cleaned:
    """What `clean` found and removed.

    Attributes
    ----------
    folder, size
        The folder, and how many bytes are left in it.
    parts
        Halves of files that were removed.
    changed
        Files that a run has put aside, for their user to remove.
    may_go
        By stage, what could go; what went where it was asked for.
    removed
        Whether what may go was removed now.
    unfinished
        Why nothing of the stages may go; empty where it may.
    """

    folder: Path
    size: int
    parts: tuple[Path, ...]
    changed: tuple[Path, ...]
    may_go: tuple[Removable, ...]
    removed: bool
    unfinished: str

    @property
    def freed(self) -> int:
        """Size of what may go, or went."""
        return sum(one.size for one in self.may_go)


def clean(folder: Path, stages: bool = False) -> Cleaned:
    """Remove halves of files whose writers are no more, and if asked what stages keep; results are never touched.

    Parameters
    ----------
    folder
        Folder of a run, or any folder in which files were being written.
    stages
        Whether what finished stages keep in their folders goes. Their records stay: tables are still compared with them, and a
        later run makes again what it misses.

    Raises
    ------
    OutputError
        If there is no such folder or a process works in it; with `stages` also if it is not of this workbench or not finished.
    """
    if not folder.is_dir():
        raise OutputError(
            f"There is no folder '{folder}'; name the folder of a run, or one in which files were being written."
        )
    if not (folder / MARKER).is_file():
        check_layout(folder)
        if stages:
            raise OutputError(f"'{folder}' is no folder of the workbench (it has no {MARKER}); nothing was removed.")
        return Cleaned(folder, _size(folder), tuple(remove_parts(folder)), (), (), False, "")
    if stages:
        check_layout(folder)
    with hold(folder) as parts:
        why, found = _unfinished(folder), list[Removable]()
        if stages and why:
            raise OutputError(f"{why} Nothing was removed; give its command again first.")
        if not why:
            found = [one for one in map(_removable, sorted((folder / "stages").glob("*/"))) if one.files]
        for path in [path for one in found for path in one.files if stages]:
            path.unlink()
        changed = tuple(sorted(folder.rglob("*.changed")))
        return Cleaned(folder, _size(folder), tuple(parts), changed, tuple(found), stages, why)


def _unfinished(folder: Path) -> str:
    """Why a run is not finished; empty where it is."""
    if not (folder / "manifest.json").is_file():
        return f"'{folder}' holds a run that is not finished: it has no manifest.json."
    open_ = [one.parent.name for one in (folder / "stages").glob(f"*/{BEGUN}") if not made_of(one.parent)]
    return f"'{folder}' holds a run that is not finished: {', '.join(sorted(open_))}." if open_ else ""


def _removable(stage: Path) -> Removable:
    """What a finished stage recorded in its own folder; what was changed since may be somebody's."""
    made, out = made_of(stage), stage.parents[1]
    own = {name: given for name, given in made.get("files", {}).items() if stage in (out / name).parents}
    other = damaged(out, own, trust=True)
    files = tuple(out / name for name in own if name not in other)
    return Removable(
        stage.name, files, sum(own[name][0] for name in own if name not in other), made.get("seconds", 0.0)
    )


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def cleaned_told(done: Cleaned) -> dict[str, Any]:
    """What was found and removed, ready for JSON.

    Parameters
    ----------
    done
        Answer of `clean`, whether anything went or not.
    """
    rows = [{"stage": one.stage, "bytes": one.size, "seconds": one.seconds} for one in done.may_go]
    return {
        "removed": [str(path) for path in done.parts],
        "changed": [str(path) for path in done.changed],
        "bytes": done.size,
        "stages": {"bytes": done.freed, "removed": done.removed, "by_stage": rows, "not_finished": done.unfinished},
    }


def cleaned_text(done: Cleaned) -> str:
    """What was found and removed, as text.

    Parameters
    ----------
    done
        Answer of `clean`, whether anything went or not.
    """
    lines = [f"{len(done.parts)} halves of files removed.", *map(str, done.parts)]
    if done.changed:
        lines += [
            "Yours to remove, put aside because they were changed after the run had written them:",
            *map(str, done.changed),
        ]
    lines.append(f"'{done.folder}' takes {size_text(done.size)}{' now' if done.removed else ''}.")
    if done.unfinished:
        lines.append(f"{done.unfinished} What its stages keep is needed to go on.")
    if not done.may_go:
        return "\n".join(lines)
    how = "Removed" if done.removed else f"May go, with 'workbench clean {done.folder} --stages'"
    rows = [(one.stage, size_text(one.size), time_text(one.seconds)) for one in done.may_go]
    table = [f"  {line}" for line in aligned(("stage", "size", "took"), rows)]
    return "\n".join([*lines, f"{how}: {size_text(done.freed)} that stages keep.", *table, LOST, STAYS])
