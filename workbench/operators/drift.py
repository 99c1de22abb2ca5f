"""How a model's operators change along its layers: likeness of layers, and the genes that hold the change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from workbench.operators.operator import OperatorSource, thirds

READ, WRITE = "read", "write"


def layer_likeness(operators: OperatorSource, bar: tqdm | None = None) -> pd.DataFrame:
    """Cosine between the mean operators of every two layers.

    What all query genes share (the mean over rows) is taken off first: it tells no gene from another, and in attention,
    whose rows sum to one, it alone would make all layers alike.

    Parameters
    ----------
    operators
        Operators of every head of a model, on one panel.
    bar
        Progress bar that goes on by one for each layer; none by default.

    Returns
    -------
    DataFrame
        ``first``, ``second``, ``cosine``, ``n_heads``, ``n_genes``; both orders of a pair, and each layer with itself.
    """
    n_layers, n_heads = operators.shape
    flat = np.stack([_own(_mean(operators, [layer], bar)).ravel() for layer in range(n_layers)])
    norm = np.linalg.norm(flat, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (flat @ flat.T) / np.outer(norm, norm)
    first, second = np.indices(cosine.shape)
    table = pd.DataFrame({"first": first.ravel(), "second": second.ravel(), "cosine": cosine.ravel()})
    return table.assign(n_heads=n_heads, n_genes=round(flat.shape[1] ** 0.5))


def drift_genes(
    operators: OperatorSource,
    genes: Sequence[str],
    blocks: Sequence[Sequence[int]] = (),
    top: int = 50,
    bar: tqdm | None = None,
) -> pd.DataFrame:
    """Genes whose rows (read) or columns (write) hold most of the change from one block of layers to the next.

    Parameters
    ----------
    operators
        Operators of every head of a model, on one panel.
    genes
        Panel of the operators: names of rows and columns.
    blocks
        Layers of each block, from 0; thirds of the model when empty.
    top
        Genes that are listed of each step and side, at most.
    bar
        Progress bar that goes on by one for each layer of each block; none by default.

    Returns
    -------
    DataFrame
        ``step`` (``block 1 - block 2``), ``side``, ``gene``, ``rank`` from 1, ``share`` of the squared change (rows without what
        all share), which sums to 1 over all genes of a side.
    """
    chosen = [tuple(block) for block in blocks] or thirds(operators.shape[0])
    pooled = [_mean(operators, block, bar) for block in chosen]
    rows = []
    for i, (one, other) in enumerate(zip(pooled, pooled[1:], strict=False)):
        squared = _own(one - other) ** 2
        for side, axis in ((READ, 1), (WRITE, 0)):
            share = squared.sum(axis) / max(squared.sum(), np.finfo(float).tiny)
            order = np.argsort(-share, kind="stable")[:top]
            step = f"block {i + 1} - block {i + 2}"
            rows += [(step, side, genes[g], rank, share[g]) for rank, g in enumerate(order, start=1)]
    return pd.DataFrame(rows, columns=["step", "side", "gene", "rank", "share"])


def _mean(operators: OperatorSource, layers: Sequence[int], bar: tqdm | None) -> Float[np.ndarray, "gene gene"]:
    found = operators.mean(layers)
    if bar is not None:
        bar.update(len(layers))
    return found


def _own(matrix: Float[np.ndarray, "gene gene"]) -> Float[np.ndarray, "gene gene"]:
    return np.asarray(matrix, dtype=np.float64) - matrix.mean(0)
