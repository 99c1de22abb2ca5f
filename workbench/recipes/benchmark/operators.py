"""The stages that no label has a part in: operators and embeddings of the cells, and operators of an untrained model."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from workbench.capture.pooled import RESIDUALS, Clock, PooledSink
from workbench.capture.sinks import HookFilter
from workbench.engine.stages import Result, Results
from workbench.files import write_arrays
from workbench.models import CellModel, CellTokenizer
from workbench.operators.capturing import Reading, Workers, clear_state, read_operators

if TYPE_CHECKING:
    from workbench.recipes.benchmark.context import BenchmarkContext

_SAMPLE = 32


def operators_stage(context: BenchmarkContext, folder: Path, _: Results) -> Result:
    """Read operators by group and embeddings of the internal cells, in one pass over them.

    Parameters
    ----------
    context
        Campaign whose internal cells are read.
    folder
        Folder of the stage; an interrupted capture in it goes on, and a finished one is not made again.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        As `read_operators` gives it, with ``seconds`` over all sessions and ``forward_seconds_per_cell``.
    """
    found = _read(context, folder, context.internal, context.genes)
    forward = _forward_seconds(context.model, context.tokenizer(context.internal))
    # Not before all is done: an interruption must not cost the pass over the cells.
    clear_state(folder)
    return {**found, "forward_seconds_per_cell": forward}


def transfer_stage(context: BenchmarkContext, folder: Path, _: Results) -> Result:
    """Read embeddings of the cells of every cohort that is transferred to.

    Parameters
    ----------
    context
        Campaign whose other cohorts are read.
    folder
        Folder of the stage, with a folder per cohort; interrupted captures in it go on.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``seconds``, by cohort.
    """
    names = [name for name in context.cohort_names if name != context.internal]
    seconds = {name: _read(context, context.model_folder(name), name, ())["seconds"] for name in names}
    for name in names:
        clear_state(context.model_folder(name))
    return {"seconds": seconds}


def untrained_stage(context: BenchmarkContext, folder: Path, _: Results) -> Result:
    """Read the operators of a model of the same shape that was never trained: a control.

    Parameters
    ----------
    context
        Campaign whose internal cells are read.
    folder
        Folder of the stage; an interrupted capture in it goes on.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        As `read_operators` gives it.
    """
    found = read_operators(folder, _untrained(context), Workers(context.backend, _untrained, context.handle))
    clear_state(folder)
    return found


def _read(context: BenchmarkContext, folder: Path, name: str, genes: tuple[str, ...]) -> dict[str, Any]:
    """Embeddings of a cohort, and operators on some genes where there are any, in one pass over its cells."""
    again = partial(_with_embeddings, name=name, genes=genes)
    reading = again(context)
    pooled, clock = (one.sink for one in reading.more)
    assert isinstance(pooled, PooledSink) and isinstance(clock, Clock)
    found = read_operators(folder, reading, Workers(context.backend, again, context.handle))
    seconds = clock.seconds()
    write_arrays(context.embeddings_file(name), pooled.result())
    return {**found, "seconds": seconds}


def _with_embeddings(context: BenchmarkContext, name: str, genes: tuple[str, ...]) -> Reading:
    sinks = [HookFilter(RESIDUALS, sink) for sink in (PooledSink(), Clock())]
    return Reading(context.model, context.tokenizer(name), genes, more=sinks, **context.reading)


def _untrained(context: BenchmarkContext) -> Reading:
    model = context.model.untrained(context.config.seed)
    return Reading(model, context.tokenizer(context.internal), context.genes, **context.reading)


def _forward_seconds(model: CellModel, tokenizer: CellTokenizer) -> float:
    """Seconds of a forward pass per cell, tokenising included: the better of two passes over some cells."""
    stop = min(_SAMPLE, len(tokenizer))
    took = []
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            for tokens in tokenizer.batches(16, 0, stop):
                model(tokens.to(model.device, model.dtype))
        took.append((time.perf_counter() - began) / stop)
    return min(took)
