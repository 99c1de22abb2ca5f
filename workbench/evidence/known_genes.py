"""What is known of the release's gene table from the symbols of genes alone: who is whose nearest neighbour."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from workbench.models.load import Contents
from workbench.seeds import generator

# Genes of the major histocompatibility complex that present peptides, or load them, by class.
CLASSES = {
    "I": ("HLA-A", "HLA-B", "HLA-C", "HLA-E", "HLA-F", "HLA-G"),
    "II": (
        *("HLA-DRA", "HLA-DRB1", "HLA-DRB5", "HLA-DPA1", "HLA-DPB1", "HLA-DQA1", "HLA-DQB1"),
        *("HLA-DMA", "HLA-DMB", "HLA-DOA", "HLA-DOB"),
    ),
}
_DRAWS = 1000


def hla_neighbours(contents: Contents, seed: int) -> dict[str, Any]:
    """Share of HLA genes whose nearest neighbour among them, by the cosine of rows of the gene table, is of their class.

    Parameters
    ----------
    contents
        Checkpoint whose gene table is read, before its LayerNorm.
    seed
        Seed of the permutations of classes beside it.

    Returns
    -------
    dict
        ``found``, ``n`` genes and ``beside``; or ``why`` it cannot be asked.
    """
    ids = contents.vocabulary.ids
    known = [(gene, kind) for kind, genes in CLASSES.items() for gene in genes if gene in ids]
    if any(sum(kind == one for _, kind in known) < 3 for one in CLASSES):
        return {"why": f"the vocabulary has {len(known)} of the {sum(map(len, CLASSES.values()))} HLA genes"}
    table = contents.tensors["embed.gene.embedding.weight"].float().numpy()
    rows, kinds = table[[ids[gene] for gene, _ in known]].astype(np.float64), np.array([kind for _, kind in known])
    rng = generator(seed, "classes of HLA genes")
    chance = np.mean([same_class(rows, rng.permutation(kinds)) for _ in range(_DRAWS)])
    return {"found": same_class(rows, kinds), "n": len(known), "beside": f"classes permuted: {chance:.3f}"}


def same_class(rows: Float[np.ndarray, "gene d"], kinds: Shaped[np.ndarray, " gene"]) -> float:
    """Share of points whose nearest neighbour, by cosine, is of their own kind.

    Parameters
    ----------
    rows
        One row per gene, none of them zero.
    kinds
        Kind of each gene, such as its class.
    """
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    return float((kinds[cosine.argmax(1)] == kinds).mean())
