"""The geometry of the configured feature map on the internal cohort."""

from __future__ import annotations

from pathlib import Path

from workbench.engine.stages import Result, Results
from workbench.geometry.overview import geometry
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.maps import MODEL, matrix_of


def geometry_stage(context: GatesContext, folder: Path, results: Results) -> Result:
    """Measure dimension, neighbourhoods, shape, distances and lineages.

    Parameters
    ----------
    context
        Gate run with its cohorts and operators.
    folder
        Folder of the stage; nothing is put there.
    results
        Results of the stages before it, whose files are read instead.

    Returns
    -------
    dict
        ``tables``, the names of those that the anchors allow, and ``skipped``: why of each of the others.
    """
    tables, skipped = geometry(
        context.cohorts[context.internal],
        matrix_of(context, MODEL),
        context.ruler,
        context.adaptor(),
        branches=context.lineages,
        seed=context.config.seed,
    )
    context.write(tables)
    return {"tables": list(tables), "skipped": skipped}
