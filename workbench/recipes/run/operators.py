"""The stages that no label has a part in: the panel, the operators of every head, and those of an untrained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.capture.by_gene import GeneMeansSink, stream_of
from workbench.capture.ragged import MemorySink
from workbench.capture.sinks import HookFilter
from workbench.engine.stages import Result, Results
from workbench.files import write_arrays, write_json, write_text
from workbench.models import CellModel
from workbench.operators.capturing import clear_state, read_operators
from workbench.operators.convention import PAPER

if TYPE_CHECKING:
    from workbench.recipes.run.context import RunContext

PANEL, GROUPS, EMBEDDING, VECTORS = "panel.txt", "groups.json", "embedding.safetensors", "vectors.safetensors"
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
        found = read(context, folder, context.model)
        clear_state(folder)
        return found
    memory = MemorySink()
    found = read(context, folder, context.model, HookFilter(_CELL, memory))
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
    found = read(context, folder, context.model.untrained(context.config.seed))
    clear_state(folder)
    return found


def read(context: RunContext, folder: Path, model: CellModel, *more: HookFilter) -> dict[str, Any]:
    """Read the operators of a model, and in the same pass the mean vectors of the panel's genes where a ruler over genes asks for them.

    Parameters
    ----------
    context
        Run whose cells are read.
    folder
        Folder of the stage; vectors go to ``vectors.safetensors``: ``table``, ``n`` (cells in which a gene is a token) and one array per
        layer, by its number.
    model
        The model, or one of its shape that was never trained.
    *more
        Further sinks of the pass.

    Returns
    -------
    dict
        As `read_operators` gives it.
    """
    layers = context.gene_layers
    names = {i: stream_of(i) for i in layers}
    sinks = {i: GeneMeansSink(context.panel, model.vocabulary) for i in layers}
    every = [*more, *(HookFilter(names[i], sink) for i, sink in sinks.items())]
    found = read_operators(folder, model, context.fed_cells, context.panel, more=every, **context.reading)
    if layers:
        ids = torch.as_tensor(model.vocabulary.encode(context.panel), device=model.device)
        with torch.no_grad():
            arrays = {"table": model.gene_embedding(ids).double().cpu().numpy()}
        for i, sink in sinks.items():
            arrays["n"], mean = sink.result()
            arrays[str(i)] = mean[names[i]]
        write_arrays(folder / VECTORS, arrays)
    return found
