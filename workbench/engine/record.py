"""What a stage has written down of itself, and whether the files that it left are still as it left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import ArtifactError
from workbench.files import digest, hash_file, read_json

BEGUN, DONE = "begun.json", "done.json"


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
    return str((read_control(folder / DONE) or read_control(folder / BEGUN)).get("key", ""))


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
        return read_control(folder / DONE) if (folder / DONE).is_file() or (folder / BEGUN).is_file() else None

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
    recorded = [made_of(folder).get("files", {}) for folder in (out / "stages").glob("*")]
    tables = {name: given for files in recorded for name, given in files.items() if name.endswith(".csv")}
    return {Path(name).stem: state for name, state in damaged(out, tables).items()}


def made_of(folder: Path) -> dict[str, Any]:
    """The record of a finished stage; nothing where there is none that is whole.

    Parameters
    ----------
    folder
        Folder of the stage, under ``stages/``.
    """
    found = read_control(folder / DONE)
    return found if found.pop("hash", "") == digest(found) else {}


def read_control(file: Path) -> dict[str, Any]:
    """What a control file holds; nothing where it is absent or was cut, for then the stage is done again.

    Parameters
    ----------
    file
        Path of ``begun.json`` or ``done.json``.
    """
    try:
        found = read_json(file) if file.is_file() else {}
    except ArtifactError:
        return {}
    return found if isinstance(found, dict) else {}
