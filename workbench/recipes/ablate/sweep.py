"""The stages ``sweep`` and ``pairs``: what ablations do to each cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workbench.ablation.sites import Ablation
from workbench.ablation.sweeping import sweep
from workbench.engine.stages import Result, Results
from workbench.recipes.ablate.context import FOUND, AblationContext


def sweep_stage(
    context: AblationContext, ablations: Callable[[], list[Ablation]], folder: Path, results: Results
) -> Result:
    """Sweep ablations; finished tasks of an interrupted sweep in the folder are kept.

    Parameters
    ----------
    context
        Study, and who does the tasks.
    ablations
        Makes the list of ablations when the stage is done.
    folder
        Where rows and effects per cell are left.
    results
        Results of other stages, of which none is needed.
    """
    block, grid = context.config.sweep.block, ablations()
    # The stage is keyed by all that the rows depend on, and work of other inputs was removed.
    sweep(context.study, grid, block, folder, context.backend, {}, context.source).save(folder / FOUND)
    return {"n_ablations": len(grid), "n_cells": len(context.study.tokens)}
