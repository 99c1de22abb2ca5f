"""Gene-space operators of heads from the checkpoint alone: no cell is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from workbench.errors import EvaluationError, unknown_name
from workbench.models import CellModel
from workbench.models.devices import sums_type
from workbench.operators.operator import check_head

KINDS = ("qk", "ov")


@dataclass(frozen=True)
class WeightOperators:
    """Operators of all heads as products of two thin matrices, A = left @ right, of rank d_head at most.

    Attributes
    ----------
    kind
        Kind of operator: ``qk`` or ``ov``.
    genes
        Panel: names of both axes of every operator, in order.
    left, right
        Factors, float32: 2 x layers x heads x genes x d_head x 4 bytes, 59 MB at 12 x 8 heads, 1,200 genes and d_head 64.
    """

    kind: str
    genes: tuple[str, ...]
    left: Float[np.ndarray, "layer head gene d_head"]
    right: Float[np.ndarray, "layer head d_head gene"]

    def matrix(self, layer: int, head: int) -> Float[np.ndarray, "gene gene"]:
        """Operator of one head; 5.8 MB at 1,200 genes.

        Parameters
        ----------
        layer, head
            Place of the head, both counted from 0.
        """
        check_head(self.left.shape, layer, head)
        return self.left[layer, head] @ self.right[layer, head]

    def apply(self, x: Float[np.ndarray, "cell gene"], layer: int, head: int) -> Float[np.ndarray, "cell gene"]:
        """X A, without making A.

        Parameters
        ----------
        x
            Expression on the genes, one row per cell.
        layer, head
            Place of the head, both counted from 0.
        """
        check_head(self.left.shape, layer, head)
        return (x @ self.left[layer, head]) @ self.right[layer, head]

    def dense(self) -> Float[np.ndarray, "layer head gene gene"]:
        """All operators; 553 MB at 12 x 8 heads and 1,200 genes."""
        return self.left @ self.right


def weight_operators(model: CellModel, genes: Sequence[str], kind: str) -> WeightOperators:
    """``qk`` or ``ov`` operators of every head.

    With E the gene embeddings after their LayerNorm, one row per gene:

    - ``qk``: A = (E W_Q + b_Q) (E W_K)^T / sqrt(d_head), the attention score of query gene i (row) for key gene j
      (column), as in the ``attention`` operator. The key bias adds the same to all keys of a query, which the softmax
      takes out, so it is left out; the query bias moves the pattern and is kept.
    - ``ov``: A = E W_V W_O E^T, what the head writes for a source gene i (row) when something attends to it, read along
      the embedding of gene j (column). The biases of values and output are the same for every source gene, say
      nothing of which genes are expressed, and are left out.

    Both are formulas of the direct path (method: arXiv:2603.10261; biases are ours): they take E for the stream of every
    layer, though by then lower layers, values and LayerNorms have changed it (scGPT is post-norm).

    Parameters
    ----------
    model
        The checkpoint, on any device.
    genes
        In the vocabulary, each once.
    kind
        Kind of operator: ``qk`` or ``ov``.

    Raises
    ------
    EvaluationError
        If the kind or a gene is unknown, a gene is named twice, or none is.
    """
    names = tuple(genes)
    if kind not in KINDS:
        raise EvaluationError(unknown_name("operator", kind, KINDS))
    for gene in names:
        if gene not in model.vocabulary.ids:
            raise EvaluationError(unknown_name("gene", gene, model.vocabulary.genes))
    if not names or len(set(names)) < len(names):
        twice = next((gene for i, gene in enumerate(names) if gene in names[:i]), None)
        raise EvaluationError(f"The genes of an operator must be there, each once; found {twice or 'none'}.")
    ids = torch.as_tensor(model.vocabulary.encode(names), device=model.device)
    lefts, rights = [], []
    with torch.no_grad():
        # One copy in double precision at a time: sums over the width are then exact to float32.
        wide = sums_type(model.device)
        e = model.gene_embedding(ids).to(wide)
        for layer in range(model.config.n_layers):
            weight = model.block(layer).weight
            if kind == "qk":
                left = e @ weight("W_Q").to(wide) + weight("b_Q").to(wide)[:, None]
                right = e @ weight("W_K").to(wide) / model.config.d_head**0.5
            else:
                left = e @ weight("W_V").to(wide)
                right = e @ weight("W_O").to(wide).transpose(1, 2)
            lefts.append(left.float().cpu().numpy())
            rights.append(right.transpose(1, 2).float().cpu().numpy())
    return WeightOperators(kind, names, np.stack(lefts), np.stack(rights))
