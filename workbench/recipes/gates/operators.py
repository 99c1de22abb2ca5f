"""The operators of every head, averaged over the cells of the internal cohort or from the checkpoint alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.engine.stages import Result, Results
from workbench.operators.capturing import Reading, Workers, clear_state, read_operators

if TYPE_CHECKING:
    from workbench.recipes.gates.context import GatesContext


def operators_stage(context: GatesContext, folder: Path, results: Results) -> Result:
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
    found = read_operators(folder, _reading(context), Workers(context.backend, _reading, context.handle))
    clear_state(folder)
    return found


def _reading(context: GatesContext) -> Reading:
    tokens = context.fed(context.cells[context.internal], context.data_of(context.internal), context.genes)
    return Reading(context.model, tokens, context.genes, **context.reading)
