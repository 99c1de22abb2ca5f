"""The cells of every cohort, placed on the ruler and on the operators' genes, with their anchors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.cells.expression import expression_on
from workbench.cells.placed import PlacedCells
from workbench.cells.technical import technical_covariates
from workbench.engine.stages import Result, Results
from workbench.errors import EvaluationError
from workbench.seeds import key

if TYPE_CHECKING:
    from workbench.recipes.gates.context import GatesContext

# Readouts of the screen and the geometry of cells need no more; anchors are of all cells.
MOST_CELLS = 5000


def cohort_folder(folder: Path, name: str) -> Path:
    """Where the cells of a cohort are kept; a cohort is called as its user likes, a folder is not.

    Parameters
    ----------
    folder
        Folder of the stage `cohorts`.
    name
        Name of the cohort, any text.
    """
    return folder / f"{key(0, 'cohort', name):016x}"


def cohorts_stage(context: GatesContext, folder: Path, results: Results) -> Result:
    """Place the cells of every cohort on ruler and panel, make their anchors, and keep both for the workers.

    Parameters
    ----------
    context
        Gate run whose cells are placed.
    folder
        Folder of the stage, with a folder per cohort afterwards; of more than 5,000 cells a sample is kept there.
    results
        Results of stages before it; none is needed.

    Returns
    -------
    dict
        ``n_genes``.
    """
    rows = []
    for name in context.config.cohorts:
        cells = _placed(context, name)
        rows.append(_row(context, name, cells))
        _sampled(cells, context.config.seed).save(cohort_folder(folder, name))
    context.write({"cohorts": pd.DataFrame(rows)})
    return {"n_genes": len(context.genes)}


def _placed(context: GatesContext, name: str) -> PlacedCells:
    """All cells of a cohort with their anchors; a gene that the cohort does not measure counts as not expressed."""
    config, cells, (obs, unplaced) = context.config, context.cells[name], context.places[name]
    expression = expression_on(cells, context.matches[name], context.genes)[0]
    obs = obs.join(technical_covariates(cells, context.matches[name]))
    title = cells.uns["workbench"]["name"]
    made = PlacedCells(title, obs, context.genes, expression, context.ruler, unplaced=unplaced)
    anchors = config.cohorts[name].anchors or config.anchors
    try:
        return replace(made, anchors=made.make_anchors(**anchors.model_dump(), seed=config.seed))
    except EvaluationError as error:
        raise EvaluationError(f"Cohort '{name}': {error}") from error


def _sampled(cells: PlacedCells, seed: int) -> PlacedCells:
    """The cells in the order of their names, by whose place draws go, or some of them; anchors stay those of all."""
    names = cells.names
    rows = np.argsort(names, kind="stable")
    if len(rows) > MOST_CELLS:
        drawn = np.argsort([key(seed, "screen", name) for name in names[rows]], kind="stable")[:MOST_CELLS]
        rows = rows[np.sort(drawn)]
    return replace(cells.take(rows), anchors=cells.anchors)


def _row(context: GatesContext, name: str, cells: PlacedCells) -> dict[str, Any]:
    """What a cohort holds, for the table."""
    assert cells.anchors is not None
    obs, stage = cells.obs, cells.anchors.stage.tolist()
    return {
        "cohort": name,
        "role": context.config.cohorts[name].role,
        "data": cells.name,
        "cells": len(cells),
        "placed": len(cells.placed),
        "anchors": len(stage),
        "stages": len(set(stage)),
        "branches": len({context.ruler.branches[one] for one in stage}),
        "donors": len(set(obs["donor"])) if "donor" in obs else 0,
        "tissues": len(set(obs["tissue"])) if "tissue" in obs else 0,
        "gene_coverage": float(np.isin(cells.genes, context.matches[name].genes).mean()),
        "unplaced_labels": "; ".join(f"{label} ({hint})" for label, hint in cells.unplaced.items()),
    }
