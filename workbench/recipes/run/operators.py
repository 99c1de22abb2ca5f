"""The stages that no label has a part in: the panel, the operators of every head, and those of an untrained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.capture.ragged import MemorySink
from workbench.capture.sinks import HookFilter
from workbench.engine.stages import Result, Results
from workbench.files import write_arrays, write_json, write_text
from workbench.operators.capturing import Reading, Workers, clear_state, read_operators
from workbench.operators.convention import PAPER

if TYPE_CHECKING:
    from workbench.recipes.run.context import RunContext

PANEL, GROUPS, EMBEDDING = "panel.txt", "groups.json", "embedding.safetensors"
_CELL = "hook_cell"


def panel_stage(context: RunContext, folder: Path, _: Results) -> Result:
    """Keep which genes the operators are between, and by which groups of cells their sums are kept.

    Parameters
    ----------
    context
        Run whose genes are matched.
    folder
        Folder of the stage, with a gene per line in ``panel.txt`` and the names of the groups in ``groups.json``.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``genes`` and ``matched``, what was matched, and ``values``, what the values look like; ``n_panel``, ``n_groups``, ``groups``.
    """
    tokenizer, groups = context.tokenizer, context.groups
    write_text(folder / PANEL, "\n".join(context.panel) + "\n")
    write_json(folder / GROUPS, {"kind": groups.kind, "names": list(groups.names)})
    return {
        "genes": tokenizer.match.to_dict(),
        "matched": str(tokenizer.match),
        "values": str(tokenizer.values),
        "n_panel": len(context.panel),
        "n_groups": len(groups),
        "groups": groups.kind,
    }


def operators_stage(context: RunContext, folder: Path, _: Results) -> Result:
    """Read the operators of every head and, of scGPT's own input, the cells' embeddings, in one pass over the cells.

    Parameters
    ----------
    context
        Run whose cells are read.
    folder
        Folder of the stage; an interrupted capture in it goes on.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        As `read_operators` gives it.
    """
    if context.config.capture.convention == PAPER:  # an input without <cls>, so that there is no embedding to keep
        found = _read(context, folder, _operators_alone)
        clear_state(folder)
        return found
    reading = _with_embedding(context)
    memory = reading.more[0].sink
    assert isinstance(memory, MemorySink)
    found = read_operators(folder, reading, Workers(context.backend, _with_embedding, context.handle))
    write_arrays(folder / EMBEDDING, {"cell": memory.result().values[_CELL]})
    clear_state(folder)
    return found


def untrained_stage(context: RunContext, folder: Path, _: Results) -> Result:
    """Read the operators of a model of the same shape that was never trained: a control.

    Parameters
    ----------
    context
        Run whose cells are read.
    folder
        Folder of the stage; an interrupted capture in it goes on.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        As `read_operators` gives it.
    """
    found = _read(context, folder, _untrained)
    clear_state(folder)
    return found


def _read(context: RunContext, folder: Path, reading: Callable[[RunContext], Reading]) -> dict[str, Any]:
    return read_operators(folder, reading(context), Workers(context.backend, reading, context.handle))


def _operators_alone(context: RunContext) -> Reading:
    return Reading(context.model, context.fed_cells, context.panel, **context.reading)


def _with_embedding(context: RunContext) -> Reading:
    return replace(_operators_alone(context), more=(HookFilter(_CELL, MemorySink()),))


def _untrained(context: RunContext) -> Reading:
    return replace(_operators_alone(context), model=context.model.untrained(context.config.seed))
