"""The stage that says how operators change along the layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.engine.stages import Result, Results
from workbench.errors import ShapeError
from workbench.operators.drift import drift_genes, layer_likeness
from workbench.operators.store import StoredOperators

if TYPE_CHECKING:
    from workbench.recipes.run.context import RunContext

TABLES = ("drift_layers", "drift_genes")


def drift_stage(context: RunContext, _: Path, __: Results) -> Result:
    """Compare the layers' mean operators, and name the genes that hold the change between blocks of layers.

    Parameters
    ----------
    context
        Run whose operators were read.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``tables``; of a model too shallow for blocks ``skipped`` instead, with the reason.
    """
    operators: StoredOperators = context.operators
    try:
        genes = drift_genes(operators, operators.genes, context.config.adaptor.blocks)
    except ShapeError as error:
        return {"skipped": str(error)}
    context.write(dict(zip(TABLES, (layer_likeness(operators), genes), strict=True)))
    return {"tables": TABLES}
