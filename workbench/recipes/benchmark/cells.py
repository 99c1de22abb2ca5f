"""The stage that places the cells of every cohort on the ruler and on all genes that a panel may take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cells.expression import expression_on
from workbench.engine.stages import Result, Results
from workbench.files import digest, write_arrays, write_json
from workbench.recipes.benchmark.splits import genes_of_all

if TYPE_CHECKING:
    from workbench.recipes.benchmark.context import BenchmarkContext

GENES = "genes.json"


def cells_stage(context: BenchmarkContext, folder: Path, _: Results) -> Result:
    """Keep expression, counts, places and embeddings of the user's of the drawn cells of every cohort, for every stage and worker after it.

    Parameters
    ----------
    context
        Campaign whose cells are placed.
    folder
        Folder of the stage, with a folder per cohort and the genes of the operators afterwards.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``cohorts``, what each holds; ``kind``, ``n_units`` and ``n_splits`` of the repeated splits; ``n_genes`` and
        ``genes``, a hash of the genes of the operators.
    """
    made, about = {}, {}
    for name, placed in context.placed.items():
        genes = context.measured[name]
        expression, counts = expression_on(context.cells[name], context.matches[name], genes, context.drawn[name])
        made[name] = replace(placed, genes=genes, expression=expression, counts=counts)
        made[name].save(context.cohort_folder(name))
        if own := context.embeddings[name]:
            write_arrays(context.own_file(name), own)
        about[name] = {
            "cells": len(placed),
            "of": len(context.cells[name]),
            "placed": len(placed.placed),
            "stages": len(set(placed.stage[placed.placed].tolist())),
            "donors": 0 if placed.donor is None else len(set(placed.donor.tolist())),
            "genes": len(genes),
            "unplaced_labels": dict(placed.unplaced),
        }
    genes = genes_of_all(context.holdouts, made, context.config.panel.size)
    write_json(folder / GENES, genes)
    return {
        "cohorts": about,
        "kind": context.kind,
        "n_units": len(context.units),
        "n_splits": len(context.holdouts),
        "n_genes": len(genes),
        "genes": digest(genes),
    }
