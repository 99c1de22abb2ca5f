"""The output folder of a command: whose it is, and that nothing in it is taken over that the workbench did not make."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from _thread import interrupt_main
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import LeaseCompromise, LeaseSettingsMismatch, SoftFileLease, Timeout

from workbench import __version__
from workbench.errors import ArtifactError, OutputError
from workbench.files import read_json, remove_parts, write_json

MARKER, LAYOUT = "workbench.json", 2
LOCK = "workbench.lock"
# Seconds after which the folder of a process on another machine that shows no life is taken over.
_LEASE = 60
# The configuration as it was run, overrides included and paths absolute.
RESOLVED = "resolved.yaml"
# What commands write beside the marker.
OURS = (
    *(RESOLVED, "manifest.json", "metrics.json", "report.html", "stages", "tables", "figures"),
    *("algorithm", "operator", "sweep", "rulers", "cohorts"),
)
_OLDER = "It is of an older layout of the workbench, and nothing in it was changed; choose another folder with --out."


def check_folder(out: Path, recipe: str, files: Sequence[str] = ()) -> None:
    """Refuse an output folder that a command cannot have, before any work; nothing is made or changed.

    Parameters
    ----------
    out
        The folder. Files of the user's may lie in it, but none where the workbench writes.
    recipe
        Name of the recipe that would write there.
    files
        What it would write beside what every command writes.

    Raises
    ------
    OutputError
        If the folder cannot be written, is of an older layout or of another command, or holds files under the names of
        ours that the workbench did not make.
    """
    above = next(path for path in (out.absolute(), *out.absolute().parents) if os.path.exists(path))
    if not above.is_dir() or not os.access(above, os.W_OK):
        why = "may not be written" if above.is_dir() else "is a file"
        raise OutputError(f"The output folder '{out}' cannot be written ('{above}' {why}); choose another with --out.")
    try:
        check_layout(out)
    except OSError as error:
        raise OutputError(
            f"The output folder '{out}' cannot be made ({error.strerror}); choose another with --out."
        ) from error
    if (out / MARKER).is_file():
        owner = _marker(out).get("recipe")
        if owner != recipe:
            raise OutputError(f"'{out}' holds the results of 'workbench {owner}'; choose another folder with --out.")
    elif taken := [name for name in (*OURS, *files) if (out / name).exists()]:
        raise OutputError(
            f"'{out}' holds {', '.join(taken)}, which the workbench did not make and would overwrite; choose another "
            "folder with --out."
        )


def claim(out: Path, recipe: str, files: Sequence[str] = ()) -> None:
    """Make an output folder and mark it as this command's.

    Parameters
    ----------
    out
        The folder, as `check_folder` takes it.
    recipe
        Name of the recipe that writes there.
    files
        As in `check_folder`.

    Raises
    ------
    OutputError
        As `check_folder` does.
    """
    check_folder(out, recipe, files)
    if not (out / MARKER).is_file():
        write_json(out / MARKER, {"layout": LAYOUT, "recipe": recipe, "workbench": __version__})


@contextmanager
def hold(out: Path) -> Iterator[list[Path]]:
    """Have an output folder alone for as long as the work lasts, and remove what killed processes left half-written in it.

    The folder of a process that is gone is taken over: at once on this machine, and where it was on another one after a
    minute without a sign of life. No clock is compared, and a process that is only stopped is not gone.

    Parameters
    ----------
    out
        The folder; it is made.

    Yields
    ------
    list of Path
        Halves of files that were removed.

    Raises
    ------
    OutputError
        If another process works in the folder.
    """
    lock = SoftFileLease(out / LOCK, lease_duration=_LEASE, thread_local=False, on_compromise=_lost)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _take(lock, out)
    except OSError as error:
        raise OutputError(f"'{out}' cannot be written ({error}); choose another folder with --out.") from error
    try:
        ours = [out / name for name in OURS if (out / name).is_dir()]
        below = [folder for one in ours for folder in one.rglob("*/")]
        yield [part for folder in (out, *ours, *below) for part in remove_parts(folder)]
    finally:
        lock.release()


def _take(lock: SoftFileLease, out: Path) -> None:
    try:
        # Long enough to take over from a process that is gone, and for one that only now takes it to say who it is.
        lock.acquire(timeout=0.5)
        return
    except (Timeout, LeaseSettingsMismatch):
        pass
    if (owner := lock.owner) is not None and owner.hostname == platform.node() and psutil.pid_exists(owner.pid):
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(psutil.Process(owner.pid).create_time()))
        raise OutputError(
            f"Process {owner.pid} on this machine, begun at {began}, works in '{out}'. Wait for its end or stop it, or choose another "
            "folder with --out."
        )
    who = f"process {owner.pid} of '{owner.hostname}'" if owner else "a process that has not said its name"
    print(f"[folder] '{out}' is held by {who}; waiting up to {_LEASE} s to see whether it is alive", file=sys.stderr)
    try:
        lock.acquire(timeout=_LEASE + 15)
    except (Timeout, LeaseSettingsMismatch) as error:
        raise OutputError(
            f"'{out}' is held by {who}; wait for its end or choose another folder with --out. If it is gone, remove '{out / LOCK}'."
        ) from error


def _lost(_: LeaseCompromise) -> None:
    print("[folder] another process has taken the folder over, as if this one were gone; stopping", file=sys.stderr)
    if callable(signal.getsignal(signal.SIGINT)):
        interrupt_main()
    else:  # shells let what a script starts in the background ignore interrupts
        os.kill(os.getpid(), signal.SIGTERM)


def check_layout(out: Path) -> None:
    """Refuse a folder that an older workbench wrote.

    Parameters
    ----------
    out
        A folder, which need not exist.

    Raises
    ------
    OutputError
        If it has another layout than this version's, or results without a marker of it.
    """
    if (out / MARKER).is_file():
        found = _marker(out).get("layout")
        if found == LAYOUT:
            return
        if isinstance(found, int) and found > LAYOUT:
            raise OutputError(
                f"'{out}' is of layout {found}, which is newer than this workbench's {LAYOUT}; use the newer one, or "
                "choose another folder with --out."
            )
        raise OutputError(f"'{out}' cannot be gone on with. {_OLDER}")
    if any(any(out.glob(left)) for left in ("stages/*/begun.json", "stages/*/done.json", "sweep/sweep.json")):
        raise OutputError(f"'{out}' cannot be gone on with. {_OLDER}")


def _marker(out: Path) -> dict[str, Any]:
    try:
        found = read_json(out / MARKER)
    except ArtifactError:  # cut, or of the user's
        found = None
    if not isinstance(found, dict) or "layout" not in found:
        raise OutputError(
            f"'{out}' holds a {MARKER} that the workbench did not make, or that was cut; choose another folder with --out."
        )
    return found
