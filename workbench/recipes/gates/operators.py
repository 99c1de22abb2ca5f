"""The operators of every head, averaged over the cells of the internal cohort or from the checkpoint alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.operators.capturing import clear_state, read_operators

if TYPE_CHECKING:
    from workbench.recipes.gates.context import GatesContext


def operators_stage(context: GatesContext, folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Read the operators of every head; no label, ruler, anchor or other cohort has a part in them.

    Parameters
    ----------
    context
        Gate run whose internal cohort is read.
    folder
        Folder of the stage; an interrupted capture in it goes on.
    results
        Results of stages before it; none is needed.

    Returns
    -------
    dict
        As `read_operators` gives it.
    """
    config, cells, groups = context.config, context.cells[context.internal], context.groups
    tokenizer = context.model.tokenizer(
        cells,
        seed=config.seed,
        max_tokens=config.capture.max_tokens,
        min_share=context.data_of(context.internal).min_gene_share,
    )
    found = read_operators(
        folder,
        context.model,
        tokenizer,
        context.genes,
        config.operator,
        groups=dict(zip(cells.obs_names, groups.of_cell.tolist(), strict=True)),
        batch_size=config.capture.batch_size,
    )
    clear_state(folder)
    return found
