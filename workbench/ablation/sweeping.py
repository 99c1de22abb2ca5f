"""A grid of ablations as tasks of a sweep, by any backend: what each ablation does to each cell."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from jaxtyping import Float

from workbench.ablation.edits import touched
from workbench.ablation.sites import DRAWN, Ablation
from workbench.ablation.study import Study, differences, evaluate
from workbench.engine.context import Handle
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.errors import CellsError
from workbench.files import read_arrays, write_arrays

_SHARE = "fallback share"
# Rows that are read, joined and written, and what the allocator keeps, whatever the size.
_TABLES = 2**26


@dataclass(frozen=True)
class Found:
    """What a sweep found.

    Attributes
    ----------
    effects
        By metric: its value under each ablation minus the intact one, cells in the order of their names (random draws go
        by that order, not by the file's).
    fallback_share
        Share of the tokens touched by each ablation that got a fallback value; NaN for null draws.
    """

    effects: Mapping[str, Float[np.ndarray, "ablation cell"]]
    fallback_share: Float[np.ndarray, " ablation"]

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file.

        Parameters
        ----------
        path
            File to write; an old one is replaced.
        """
        write_arrays(path, {**{f"effects/{name}": x for name, x in self.effects.items()}, _SHARE: self.fallback_share})

    @classmethod
    def open(cls, path: Path, names: Sequence[str]) -> Found:
        """What `save` wrote.

        Parameters
        ----------
        path
            Path of a file that `save` wrote.
        names
            Metrics that are wanted; tables have them in this order.
        """
        arrays, _ = read_arrays(path, [*(f"effects/{name}" for name in names), _SHARE])
        return cls({name: arrays[f"effects/{name}"] for name in names}, arrays[_SHARE])


def sweep(
    study: Study,
    grid: Sequence[Ablation],
    block: int,
    folder: Path,
    backend: Backend,
    identity: Mapping[str, Any],
    source: Study | Handle | None = None,
) -> Found:
    """Run a grid: finished tasks in the folder are kept, and no task is done twice.

    Parameters
    ----------
    study
        Cells, metrics and references that rows depend on.
    grid
        Ablations, null draws among them.
    block
        Number of cells in a task, at most.
    folder
        Folder in which the rows of tasks are kept.
    backend
        How and by how many workers tasks are done.
    identity
        What the rows depend on; a folder of another identity is refused. Empty where the caller sees to that.
    source
        What tasks take along: the study itself when None, or the handle of a context that has a ``study``.

    Raises
    ------
    OutputError
        If the folder belongs to another sweep; the difference is said.
    CellsError
        If the passes would take more memory than is free; said before the first.
    """
    check_memory(study, grid, backend)
    tasks = make_tasks(len(study.tokens), source or study, grid, block)
    rows = run_sweep(folder, identity, tasks, run_task, backend)
    order = study.by_name
    effects = {name: values[:, order] for name, values in differences(study, rows, grid).items()}
    return Found(effects, _fallback_share(study, rows, grid))


def peak_bytes(study: Study, grid: Sequence[Ablation]) -> int:
    """Memory that a worker takes for its passes at most, about, beside the model and the means of the reference.

    It grows with cells per pass, their length and the width of the model, and hardly with the number of ablations.

    Parameters
    ----------
    study
        Cells, metrics, and cells per pass.
    grid
        Ablations, null draws among them.
    """
    shape, tokens = study.model.config, study.tokens
    cells, longest = min(study.batch_size, len(tokens)), int((~tokens.padding).sum(1).max())
    # Streams that are held at a time: of the intact pass, of the ablation, inside the layer that is computed, in a decoder.
    streams = 20 + len({place.hook for one in grid if one.how in DRAWN for place in one.sites})
    passes = 4 * cells * longest * (streams * shape.d_model + shape.d_mlp)
    together = any(metric.together for metric in study.metrics)
    # Embeddings of all cells are joined, and stacked, where a metric needs them together.
    return _TABLES + passes + 4 * (len(grid) + 1) * len(tokens) * (3 * shape.d_model * together + 16)


def check_memory(study: Study, grid: Sequence[Ablation], backend: Backend) -> None:
    """Say how much memory a sweep takes, and refuse more than is free.

    Parameters
    ----------
    study, grid
        As in `peak_bytes`.
    backend
        Its workers on this machine take their memory at the same time; those of a cluster, and a GPU's memory, are not looked at.

    Raises
    ------
    CellsError
        If it is more than nine tenths of what is free.
    """
    local = {"loky", "threading"} & {backend.name}
    workers = max(backend.jobs, 1) if backend.jobs > 0 else os.cpu_count() or 1
    each, free = peak_bytes(study, grid), psutil.virtual_memory().available
    total = each * (workers if local else 1)
    if backend.progress:
        print(f"[sweep] about {each / 2**30:.2f} GiB of memory a worker, beside the model", file=sys.stderr)
    if backend.name != "dask" and study.model.device.type == "cpu" and total > 0.9 * free:
        raise CellsError(
            f"The passes would take about {total / 2**30:.1f} GiB of memory ({study.batch_size} cells a pass), but {free / 2**30:.1f} "
            "GiB are free. Lower study.batch_size, study.max_tokens or --jobs."
        )


def make_tasks(n_cells: int, source: Study | Handle, grid: Sequence[Ablation], block: int) -> list[Task]:
    """All ablations of a block of cells are one task: they share the passes that nothing is changed in.

    Parameters
    ----------
    n_cells
        Number of cells that the study has.
    source, grid, block
        As in `sweep`.
    """
    blocks = [tuple(range(at, min(at + block, n_cells))) for at in range(0, n_cells, block)]
    return [Task(f"cells {rows[0]} to {rows[-1]}", (source, tuple(grid), rows)) for rows in blocks]


def run_task(source: Study | Handle, grid: Sequence[Ablation], rows: Sequence[int]) -> pd.DataFrame:
    """Work of one task, in whatever process.

    Parameters
    ----------
    source
        The study, or the handle of a context that has it.
    grid
        Ablations, null draws among them.
    rows
        Numbers of the task's cells.
    """
    return evaluate(source if isinstance(source, Study) else source.open().study, grid, rows)


def _fallback_share(study: Study, rows: pd.DataFrame, grid: Sequence[Ablation]) -> Float[np.ndarray, " ablation"]:
    """Share of the tokens that each ablation touches that got a fallback value; NaN for null draws."""
    column = "fallbacks" if "fallbacks" in rows else "fallbacks_masked"
    lost = rows.groupby("ablation")[column].sum()
    share = np.full(len(grid), np.nan)
    for i, one in enumerate(grid):
        if one.rotation is None:
            share[i] = lost[one.key] / max(1, int(touched(study.tokens, one, study.model.vocabulary).sum()))
    return share
