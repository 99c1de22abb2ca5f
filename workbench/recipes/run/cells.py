"""The stage that places the cells on panel and ruler, for every stage and worker after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.cells.placed import PlacedCells, matched_matrices

if TYPE_CHECKING:
    from workbench.recipes.run.context import RunContext

TABLES = ("cells",)


def cells_stage(context: RunContext, folder: Path, _: Mapping[str, Any]) -> dict[str, Any]:
    """Keep expression on the panel with stage, group and fold of each cell, and list the cells in a table.

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
    match = context.tokenizer.match
    column = dict(zip(match.genes, match.columns.tolist(), strict=True))
    expression = matched_matrices(cells, {gene: column[gene] for gene in genes}, np.arange(len(obs)))[0]
    PlacedCells(cells.uns["workbench"]["name"], obs, genes, expression, unplaced=unplaced).save(folder)
    context.write({"cells": obs.reset_index(names="cell_id")})
    return {"n_cells": len(obs), "n_placed": int((obs["stage"] >= 0).sum()), "unplaced_labels": unplaced}
