"""The stage that says how operators change along the layers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from workbench.engine.stages import Result, Results
from workbench.errors import ShapeError
from workbench.operators.drift import drift_genes, layer_likeness
from workbench.operators.operator import thirds
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
    n_layers = operators.shape[0]
    try:
        blocks = context.config.adaptor.blocks or thirds(n_layers)
    except ShapeError as error:
        return {"skipped": str(error)}
    n = n_layers + sum(map(len, blocks))
    with tqdm(total=n, unit="layer", desc="drift", disable=not context.backend.progress) as bar:
        found = layer_likeness(operators, bar), drift_genes(operators, operators.genes, blocks, bar=bar)
    context.write(dict(zip(TABLES, found, strict=True)))
    return {"tables": TABLES}
