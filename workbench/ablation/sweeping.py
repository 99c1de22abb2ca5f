"""A grid of ablations as tasks of a sweep, by any backend, and its table of effects."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from workbench.ablation.build import Prepared, prepare
from workbench.ablation.edits import touched
from workbench.ablation.effects import effect_table
from workbench.ablation.grid import describe_grid, identity, make_grid
from workbench.ablation.sites import Ablation
from workbench.ablation.study import Study, differences, evaluate
from workbench.engine.config import load_cells
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.models.scgpt.checkpoint import load_checkpoint
from workbench.settings import AblationConfig, StudyConfig, SweepConfig

Opener = Callable[[], Study]


def sweep_effects(
    prepared: Prepared,
    grid: Sequence[Ablation],
    study: StudyConfig,
    sweep: SweepConfig,
    folder: Path | None,
    backend: Backend,
    opener: Opener | None = None,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Run a grid and make its table of effects.

    Parameters
    ----------
    prepared, grid
        Study and ablations.
    study, sweep
        Their settings.
    folder
        Of the sweep; a temporary one when None.
    backend
        How to run tasks.
    opener
        Makes the study again in another process; the study itself is sent there when None.

    Returns
    -------
    effects, differences
        `effect_table` with ``unit`` and ``fallback_share``, and effects per metric, ablation and cell, the cells in the
        order of their names (random draws go by that order, not by the file's).
    """
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        rows = run_sweep(
            place,
            identity(prepared, grid, sweep.block),
            make_tasks(prepared.study, grid, sweep.block, opener),
            run_task,
            **backend.options(),
        )
    order = prepared.by_name
    found = {name: values[:, order] for name, values in differences(prepared.study, rows, grid).items()}
    worse = {metric.name: metric.worse for metric in prepared.study.metrics}
    table = effect_table(
        found,
        describe_grid(grid),
        draws=study.bootstrap,
        seed=prepared.study.seed,
        groups=prepared.donors_by_name,
        worse=worse,
    )
    units = {metric.name: metric.unit for metric in prepared.study.metrics}
    table["unit"] = table["metric"].map(units)
    table["fallback_share"] = _fallback_share(prepared.study, rows, grid, table)
    return table, found


def make_tasks(study: Study, grid: Sequence[Ablation], block: int, opener: Opener | None = None) -> list[Task]:
    """All ablations of a block of cells are one task: they share the passes that nothing is changed in.

    Parameters
    ----------
    study, grid
        Study and ablations.
    block
        Cells per task.
    opener
        As in `sweep_effects`.
    """
    n = len(study.tokens)
    source: Study | Opener = opener or study
    return [
        Task(f"cells {at} to {min(at + block, n) - 1}", (source, tuple(grid), tuple(range(at, min(at + block, n)))))
        for at in range(0, n, block)
    ]


def run_task(source: Study | Opener, grid: Sequence[Ablation], rows: Sequence[int]) -> pd.DataFrame:
    """Work of one task.

    Parameters
    ----------
    source
        The study, or what makes it.
    grid, rows
        Ablations and cell numbers.
    """
    return evaluate(source if isinstance(source, Study) else source(), grid, rows)


@dataclass(frozen=True)
class FromConfig:
    """Makes a configuration's study, once per process and run; small enough to send to any worker."""

    config: str
    # Files may change between two runs, and workers may outlive one.
    run: int = field(default_factory=time.time_ns)

    def __call__(self) -> Study:
        """The study."""
        return opened(self)[0].study


@lru_cache(maxsize=1)
def opened(source: FromConfig) -> tuple[Prepared, list[Ablation], AnnData]:
    """Study, grid and cells of a configuration, made once per process and run.

    Parameters
    ----------
    source
        `AblationConfig` as JSON.
    """
    settings = AblationConfig.model_validate_json(source.config)
    model = load_checkpoint(settings.checkpoint)
    grid = make_grid(model, settings.sweep, settings.seed)
    cells = load_cells(settings.data)
    share = settings.data.min_gene_share
    return prepare(model, cells, settings.study, grid, seed=settings.seed, min_gene_share=share), grid, cells


def _fallback_share(
    study: Study, rows: pd.DataFrame, grid: Sequence[Ablation], table: pd.DataFrame
) -> Float[np.ndarray, " row"]:
    """Share of the tokens that each ablation touches that got a fallback value, in the order of the table."""
    column = "fallbacks" if "fallbacks" in rows else "fallbacks_masked"
    lost = rows.groupby("ablation")[column].sum()
    share = {
        (str(one), one.how): lost[one.key] / max(1, int(touched(study.tokens, one, study.model.vocabulary).sum()))
        for one in grid
        if one.rotation is None
    }
    return np.array([share[at] for at in zip(table["ablation"], table["how"], strict=True)])
