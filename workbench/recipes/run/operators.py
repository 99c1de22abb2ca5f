"""The stages that no label has a part in: the panel, the operators of every head, and those of an untrained model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.capture.by_gene import GeneMeansSink, stream_of
from workbench.capture.ragged import MemorySink
from workbench.capture.sinks import HookFilter
from workbench.engine.stages import Result, Results
from workbench.files import write_arrays, write_json, write_text
from workbench.operators.capturing import Reading, Workers, clear_state, read_operators

if TYPE_CHECKING:
    from workbench.models import CellModel
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
    """Read the operators of every head and, where they are kept, the cells' embeddings, in one pass over the cells.

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
    if not context.embeds:
        found = read(context, folder, trained_reading)
        clear_state(folder)
        return found
    reading = _with_embedding(context)
    memory = reading.more[-1].sink
    assert isinstance(memory, MemorySink)
    found = read(context, folder, _with_embedding, reading)
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
    found = read(context, folder, untrained_reading)
    clear_state(folder)
    return found


def read(
    context: RunContext, folder: Path, make: Callable[[RunContext], Reading], reading: Reading | None = None
) -> dict[str, Any]:
    """Read operators and, where a ruler over genes asks for them, the mean vectors of the panel's genes in the same pass.

    Parameters
    ----------
    context
        Run whose cells are read.
    folder
        Folder of the stage; vectors go to ``vectors.safetensors``: ``table``, ``n`` (cells in which a gene is a token) and one array per
        layer, by its number.
    make
        From the run to what is read, in this process and in workers.
    reading
        What `make` gave, where its sinks are looked at afterwards; made here when None.

    Returns
    -------
    dict
        As `read_operators` gives it.
    """
    reading = make(context) if reading is None else reading
    found = read_operators(folder, reading, Workers(context.backend, make, context.handle))
    model, layers = reading.model, context.gene_layers
    if layers:
        ids = torch.as_tensor(model.vocabulary.encode(context.panel), device=model.device)
        with torch.no_grad():
            arrays = {"table": model.gene_embedding(ids).double().cpu().numpy()}
        for layer, one in zip(layers, reading.more, strict=False):
            assert isinstance(one.sink, GeneMeansSink)
            arrays["n"], mean = one.sink.result()
            arrays[str(layer)] = mean[one.pattern]
        write_arrays(folder / VECTORS, arrays)
    return found


def trained_reading(context: RunContext) -> Reading:
    """Operators of the model, and the gene vectors that a ruler over genes asks for.

    Parameters
    ----------
    context
        Run whose cells are read.
    """
    return _reading(context, context.model)


def untrained_reading(context: RunContext) -> Reading:
    """The same of a model of its shape that was never trained.

    Parameters
    ----------
    context
        Run whose cells are read.
    """
    return _reading(context, context.model.untrained(context.config.seed))


def _with_embedding(context: RunContext) -> Reading:
    reading = trained_reading(context)
    return replace(reading, more=(*reading.more, HookFilter(_CELL, MemorySink())))


def _reading(context: RunContext, model: CellModel) -> Reading:
    more = [HookFilter(stream_of(i), GeneMeansSink(context.panel, model.vocabulary)) for i in context.gene_layers]
    return Reading(model, context.fed_cells, context.panel, more=more, **context.reading)
