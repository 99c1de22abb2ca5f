"""The stage that says how operators change along the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.errors import ShapeError
from workbench.figures.requests import Request
from workbench.operators.drift import drift_genes, layer_likeness
from workbench.recipes.run.chain import Chain
from workbench.recipes.run.section import Section, read_table, setting

_TABLES = ("drift_layers", "drift_genes")


def drift_stage(chain: Chain, folder: Path) -> dict[str, Any]:
    """Likeness of layers, and genes that hold the change between blocks.

    Parameters
    ----------
    chain
        The run.
    folder
        Of the stage.
    """
    operators = chain.operators.leaving(())
    try:
        genes = drift_genes(operators, chain.panel, chain.config.adaptor.blocks)
    except ShapeError as error:
        return {"skipped": str(error)}
    for name, table in zip(_TABLES, (layer_likeness(operators), genes), strict=True):
        table.to_csv(chain.tables / f"{name}.csv", index=False)
    return {}


def drift_section(chain: Chain, result: dict[str, Any]) -> Section:
    """What the report says of it.

    Parameters
    ----------
    chain
        The run.
    result
        What the stage returned.
    """
    if "skipped" in result:
        return Section(skipped=[{"what": "Change of the operators along the layers", "why": result["skipped"]}])
    blocks = "the configured blocks of layers" if chain.config.adaptor.blocks else "thirds of the model"
    caption = (
        f"Mean {chain.config.operator} operators of the layers, what all query genes share taken off; blocks: {blocks}. No null was drawn: "
        f"the figure describes, it does not test. {setting(chain)}"
    )
    return Section([Request("drift", caption)], {name: read_table(chain, name) for name in _TABLES})
