"""A pass over cells in parts: each is done by a worker and kept when it is done, and they are added up in the order of the cells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from workbench import __version__
from workbench.capture.activations import hook_shapes
from workbench.capture.record import STATE, capture
from workbench.capture.sinks import HookFilter, JoinedSink, Plan, Sink
from workbench.engine.sweep import IDENTITY, Backend, Task, count_workers, finished, run_sweep
from workbench.errors import ArtifactError, CellsError, CheckpointError, HookError
from workbench.files import read_json, read_state
from workbench.models import CellModel, CellTokenizer

# Hooks hang on the model, which threads of one worker share.
_ALONE = threading.Lock()


@dataclass(frozen=True)
class Pass:
    """What a pass over cells is made of.

    Attributes
    ----------
    model
        Hooked model, on the device of the process that made this.
    tokens
        Tokens of all cells, in the order of the file.
    hooks
        Names or wildcards of hooks.
    sinks
        Sinks that nothing has been put into yet.
    batch_size
        Cells per forward pass; as `capture` chooses when None.
    """

    model: CellModel
    tokens: CellTokenizer
    hooks: Sequence[str]
    sinks: Sequence[Sink]
    batch_size: int | None = None


def goes_in_parts(folder: Path, backend: Backend) -> bool:
    """Whether a pass is done in parts: with more than one worker, or as it was begun.

    Parameters
    ----------
    folder
        Folder of the states, which need not be there.
    backend
        Who works; threads share one model, so they are one worker.
    """
    if (folder / IDENTITY).is_file() or (folder / STATE).is_file():
        return (folder / IDENTITY).is_file()
    return backend.name != "threading" and count_workers(backend) > 1


def capture_in_parts(
    own: Pass, again: Callable[[], Pass], folder: Path, backend: Backend, save_every: int = 1024
) -> int:
    """Record activations as `capture` does, consecutive cells by a worker each, and fill the sinks with all of them.

    There are as many parts as workers when the pass is begun; later commands keep them, whatever their workers. A part has a state of its
    own, so a killed one goes on at its last save and the others are left as they are. Sums are those of one pass but for rounding, which
    the number of parts changes and nothing else does.

    Parameters
    ----------
    own
        The pass in this process, whose sinks are filled.
    again
        Makes the same pass in a worker; it is sent there.
    folder
        Folder for the states of the parts, which all workers see.
    backend
        Who does the parts, and how many at a time.
    save_every
        Cells between two saves of a part.

    Returns
    -------
    int
        Tokens of all cells.

    Raises
    ------
    HookError
        If a sink cannot be filled in parts.
    CellsError
        If the sinks of all workers of this machine do not fit into its memory.
    CheckpointError
        If a worker has another version of the package, or another checkpoint under the same path.
    ArtifactError
        If the state of a finished part was changed.
    """
    inner = [sink.sink if isinstance(sink, HookFilter) else sink for sink in own.sinks]
    if wrong := [sink for sink in inner if not isinstance(sink, JoinedSink)]:
        raise HookError(f"A {type(wrong[0]).__name__} cannot be filled in parts; capture with one worker.")
    n, names = len(own.tokens), own.model.resolve_hooks(own.hooks)
    plan = Plan(hook_shapes(own.model, own.tokens, names), own.tokens.lengths())
    if (folder / IDENTITY).is_file():
        parts = [tuple(part) for part in read_json(folder / IDENTITY)["parts"]]
    else:
        ends = np.linspace(0, n, min(count_workers(backend), n) + 1).round().astype(int).tolist()
        parts = list(zip(ends, ends[1:], strict=False))
    _check_memory(own.sinks, plan, parts, backend)
    identity = {"cells": n, "parts": [list(part) for part in parts]}
    sent = __version__, own.model.fingerprint()
    tasks = [
        Task(_name(part), (again, str(folder.resolve()), part, save_every, sent, number == 0))
        for number, part in enumerate(parts)
    ]
    for key, rows in finished(folder, identity, tasks).items():
        if not (folder / key / STATE).is_file():
            rows.unlink()
    found = run_sweep(folder, identity, tasks, capture_part, backend)
    for sink in own.sinks:
        sink.open(plan)
    for number, task in enumerate(tasks):
        saved = read_state(folder / task.key / STATE)
        if saved is None:
            raise ArtifactError(
                f"'{folder / task.key / STATE}' was changed; remove it and give the same command again."
            )
        for i, sink in enumerate(own.sinks):
            arrays = {k.split(":", 1)[1]: v for k, v in saved[0].items() if k.startswith(f"{i}:")}
            if number:
                sink.join(arrays)  # type: ignore[attr-defined]
            else:
                sink.restore(arrays, parts[0][1])
    for sink in own.sinks:
        sink.flush(n)
    return int(found["n_tokens"].sum())


def capture_part(
    again: Callable[[], Pass],
    folder: str,
    rows: tuple[int, int],
    save_every: int,
    sent: tuple[str, str],
    progress: bool = False,
) -> pd.DataFrame:
    """One part, in the process that calls this; what is saved of it is gone on with.

    Parameters
    ----------
    again, save_every
        As in `capture_in_parts`.
    folder
        Folder with a folder for each part.
    rows
        First cell of the part, and the one after its last.
    sent
        Version of the package and fingerprint of the model, which this process has to have, too.
    progress
        Whether a bar shows how far this part is.

    Returns
    -------
    DataFrame
        One row: ``start``, ``stop``, ``n_tokens``, ``resumed_at``.
    """
    with _ALONE:
        made = again()
        if (here := (__version__, made.model.fingerprint())) != sent:
            what, were, are = ("version", sent[0], here[0]) if here[0] != sent[0] else ("checkpoint", sent[1], here[1])
            raise CheckpointError(
                f"A worker has another {what} than the command that sent it work: {are}, not {were}. Give workers the same package and the "
                "same checkpoint under the same path."
            )
        done = capture(
            made.model, made.tokens, list(made.hooks), list(made.sinks), batch_size=made.batch_size,
            state=Path(folder) / _name(rows), save_every=save_every, rows=rows, progress=progress,
        )  # fmt: skip
    row: dict[str, Any] = {"start": rows[0], "stop": rows[1], "n_tokens": done.n_tokens, "resumed_at": done.resumed_at}
    return pd.DataFrame([row])


def _name(rows: tuple[int, int]) -> str:
    return f"cells-{rows[0]:09d}-{rows[1]:09d}"


def _check_memory(sinks: Sequence[Sink], plan: Plan, parts: Sequence[tuple[int, ...]], backend: Backend) -> None:
    """Refuse more workers on this machine than its memory has room for: each has sums of its own, of the groups of its cells."""
    if backend.name != "loky":
        return
    workers, of = min(count_workers(backend), len(parts)), [Plan(plan.shapes, plan.lengths[a:b], a) for a, b in parts]
    each = sorted(sum(sink.memory(one) for sink in sinks) for one in of)
    at_once = sum(each[-workers:])
    if workers > 1 and at_once > 0.9 * (free := psutil.virtual_memory().available):
        raise CellsError(
            f"{workers} workers would take about {at_once / workers / 2**30:.1f} GiB of memory each, and {free / 2**30:.1f} GiB are free. Give fewer "
            "--jobs, fewer capture.groups or a smaller panel."
        )
