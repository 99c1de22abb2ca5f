"""What is known before of stages that read cells through a model, for ``--dry-run``."""

from __future__ import annotations

import time

import numpy as np
import torch

from workbench.engine.plan import Load
from workbench.models import CellModel, CellTokenizer
from workbench.models.tokens import Tokens
from workbench.recipes.shared import OperatorContext

_FEW = 8
AT_LEAST = "at least: passes alone, from one over a few cells"


def seconds_per_cell(model: CellModel, tokens: Tokens) -> float:
    """Seconds of a forward pass per cell, from the second of two passes over these cells.

    Parameters
    ----------
    model
        Model that is timed, on its own device.
    tokens
        Tokens of a few cells of those that will be read.
    """
    few = tokens.to(model.device, model.dtype)
    with torch.no_grad():
        model(few, outputs=())
        began = time.perf_counter()
        model(few, outputs=()).residual.sum().item()  # a GPU has ended when its numbers are here
    return (time.perf_counter() - began) / len(few)


def passes_load(context: OperatorContext, tokenizer: CellTokenizer, genes: int | None, *, always: bool = False) -> Load:
    """Load of a stage that reads operators, in a pass over cells or from the weights.

    Parameters
    ----------
    context
        Context of the command; says which operators, and by which groups their sums are kept.
    tokenizer
        Tokens of the cells that are read.
    genes
        Number of genes of the operators; 0 where none are made, None where it is not known yet.
    always
        Whether there is a pass even where operators are made of the weights alone, for embeddings.
    """
    attention, n, shape = context.config.operator == "attention", len(tokenizer), context.model.config
    passed, heads, memory, disk = always or attention, shape.n_layers * shape.n_heads, None, None
    if genes is not None and attention:
        # Of each group the sum of every head, those of its layers, and the counts; as `write_pairs` leaves them.
        sums, each = len(context.groups), np.dtype(context.config.capture.sums).itemsize * genes**2
        memory, disk = sums * heads * each, sums * (heads + shape.n_layers + 1) * each
    elif genes is not None:
        disk = 2 * 4 * heads * genes * shape.d_head
    seconds = seconds_per_cell(context.model, tokenizer.tokens(0, min(_FEW, n))) * n if passed else None
    return Load(n, n if passed else 0, memory=memory, disk=disk, seconds=seconds, basis=AT_LEAST)
