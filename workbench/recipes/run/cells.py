"""The stage that places the cells on panel and ruler, for every stage and worker after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cells.expression import expression_on
from workbench.cells.placed import PlacedCells
from workbench.cells.technical import technical_covariates
from workbench.engine.stages import Result, Results

if TYPE_CHECKING:
    from workbench.recipes.run.context import RunContext

TABLES = ("cells",)


def cells_stage(context: RunContext, folder: Path, _: Results) -> Result:
    """Keep expression on the panel with stage, group, fold and library size of each cell, and list the cells in a table.

    Parameters
    ----------
    context
        Run whose cells are placed.
    folder
        Folder of the stage, for `PlacedCells.open`.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``n_cells``, ``n_placed``, ``unplaced_labels`` with the nearest names of stages.
    """
    cells, genes, (obs, unplaced) = context.adata, context.panel, context.places
    expression = expression_on(cells, context.tokenizer.match, genes)[0]
    obs = obs.join(technical_covariates(cells, context.tokenizer.match))
    PlacedCells(cells.uns["workbench"]["name"], obs, genes, expression, unplaced=unplaced).save(folder)
    context.write({"cells": obs.reset_index(names="cell_id")})
    return {"n_cells": len(obs), "n_placed": int((obs["stage"] >= 0).sum()), "unplaced_labels": unplaced}
