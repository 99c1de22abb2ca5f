"""How much, and how repeatably, a cell type changes a gene's vector: what is known of the release, and how it is measured."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from jaxtyping import Bool, Float

from workbench.cells.expression import expression_on
from workbench.models import CellModel
from workbench.seeds import generator, order_of

# As published, but for fewer cells and genes: 600 cells a type and 5,000 genes there. A mean is of as many vectors, which decides its noise.
CAP, MOST_TYPES, MOST_CELLS, MOST_GENES, FEWEST_GENES = 50, 12, 200, 2000, 150
# Layers of the release by name of the answer, of 12.
LAYERS = {"context_2": 2, "context_4": 4, "context_9": 9}


def of_contexts(model: CellModel, cells: AnnData, seed: int) -> dict[str, dict[str, Any]]:
    """Contextualisation excess behind a sixth, a third and three quarters of the layers, in the model's own input.

    Parameters
    ----------
    model
        Checkpoint that is asked, on any device.
    cells
        Cells as `workbench.load` gives them, with their types.
    seed
        Seed of the draw of cells, of the halves and of the permutation.

    Returns
    -------
    dict
        By name of the answer: ``found``, ``n`` (pairs of a gene and two types) and ``beside``; or ``why`` it cannot be asked.
    """
    if "cell_type" not in cells.obs:
        return dict.fromkeys(LAYERS, {"why": "the cells name no cell type (--cell-type)"})
    kinds, names = cells.obs["cell_type"].to_numpy(dtype=str), cells.obs_names.to_numpy(dtype=str)
    counts = {kind: int((kinds == kind).sum()) for kind in set(kinds) - {""}}
    chosen = sorted((kind for kind, n in counts.items() if n >= 2 * CAP), key=lambda kind: (-counts[kind], kind))
    if len(chosen := chosen[:MOST_TYPES]) < 2:
        return dict.fromkeys(LAYERS, {"why": f"fewer than two cell types have {2 * CAP} cells"})
    rows = [np.flatnonzero(kinds == kind) for kind in chosen]
    rows = [own[order_of(seed, names[own], "context")[:MOST_CELLS]] for own in rows]
    place = {names[row]: (i % 2, kind) for kind, own in enumerate(rows) for i, row in enumerate(own)}
    cells = cells[np.concatenate(rows)]
    cells = cells.to_memory() if cells.isbacked else cells.copy()
    n_layers = model.config.n_layers
    blocks = [max(1, round(depth * n_layers / 12)) for depth in LAYERS.values()]
    vectors, balanced = context_vectors(model, cells, place, len(chosen), blocks, seed)
    found = {}
    for (name, depth), block, own in zip(LAYERS.items(), blocks, vectors, strict=True):
        measured = contextualisation(own, balanced, seed)
        if n_layers != 12 and "beside" in measured:
            measured["beside"] += f"; here behind {block} of {n_layers} layers, for {depth} of 12"
        found[name] = measured
    return found


def context_vectors(
    model: CellModel, cells: AnnData, place: dict[str, tuple[int, int]], n_types: int, blocks: list[int], seed: int
) -> tuple[Float[np.ndarray, "layer half type gene d"], Bool[np.ndarray, "type gene"]]:
    """Mean vector of each gene in each half of each cell type, of 50 cells at most.

    Parameters
    ----------
    model
        Checkpoint that is asked, on any device.
    cells
        Cells in the order in which they are taken.
    place
        Half and number of the type of each cell, by its name.
    n_types
        Number of types that `place` tells apart.
    blocks
        Behind how many layers the vectors are taken.
    seed
        Seed of the genes that are drawn where a cell has too many.

    Returns
    -------
    vectors, balanced
        Of the genes that most cells express; and which of them reach 50 cells in both halves of a type.
    """
    tokens = model.tokenizer(cells, seed=seed)
    hooks = [f"blocks.{block - 1}.hook_resid_post" for block in blocks]
    seen = expression_on(cells, tokens.match, tokens.match.genes)[0].getnnz(axis=0)
    most = np.sort(np.argsort(-seen, kind="stable")[:MOST_GENES])
    genes = [tokens.match.genes[i] for i in most]
    # Padding and genes that are not asked for go to a last row.
    row = np.full(model.config.n_tokens, len(genes))
    row[model.vocabulary.encode(genes)] = np.arange(len(genes))
    count = np.zeros((2, n_types, len(genes) + 1), dtype=int)
    total = np.zeros((len(hooks), 2, n_types, len(genes) + 1, model.config.d_model), dtype=np.float32)
    with torch.no_grad():
        for batch in tokens.batches(8):
            batch = batch.to(model.device, model.dtype)
            cache = model.run_with_cache(batch, names_filter=hooks, outputs=(), return_cache_object=False)[1]
            streams = np.stack([cache[hook].float().cpu().numpy() for hook in hooks])
            ids, is_gene = batch.gene_ids.cpu().numpy(), batch.genes.cpu().numpy()
            for i, cell in enumerate(batch.cell_ids):
                half, kind = place[cell]
                at = np.where(is_gene[i], row[ids[i]], len(genes))
                new = np.flatnonzero((at < len(genes)) & (count[half, kind, at] < CAP))
                count[half, kind, at[new]] += 1
                total[:, half, kind, at[new]] += streams[:, i, new]
    count, total = count[..., :-1], total[..., :-1, :]
    balanced: np.ndarray = np.all(count >= CAP, axis=0)
    return total / np.maximum(count, 1)[None, ..., None], balanced


def contextualisation(
    vectors: Float[np.ndarray, "half type gene d"],
    balanced: Bool[np.ndarray, "type gene"],
    seed: int,
    fewest: int = FEWEST_GENES,
) -> dict[str, Any]:
    """Excess of the agreement of a gene's own shift between two cell types over that of another gene's.

    A shift is the change of a gene's vector from one type to another, less the mean change of all genes. Its cosine between two
    halves of the cells is averaged over genes and pairs of types; that of shifts of different genes is taken off. Each coordinate is
    standardised over all entries first. 0 is what a model gives in which all genes move alike. Source: Biodyn-AI/gene-context.

    Parameters
    ----------
    vectors
        Mean vectors of two halves of the cells of each type.
    balanced
        Which genes count in which type.
    seed
        Seed of the permutation of genes.
    fewest
        Fewest genes that a pair of types has to share.

    Returns
    -------
    dict
        ``found``, ``n`` and ``beside``; or ``why`` there is none.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.evidence.known_contexts import contextualisation
    >>> own = np.random.default_rng(0).standard_normal((1, 3, 40, 16)).repeat(2, axis=0)  # both halves alike
    >>> round(contextualisation(own, np.ones((3, 40), bool), seed=0, fewest=10)["found"], 1)
    1.0
    """
    entries = vectors[:, balanced]
    if not entries.size:
        return {"why": f"no gene is a token in {CAP} cells of both halves of a type"}
    sd = entries.std((0, 1))
    vectors = (vectors - entries.mean((0, 1))) / np.where(sd > 0, sd, 1)
    same, different = [], []
    for one, other in combinations(range(len(balanced)), 2):
        genes = np.flatnonzero(balanced[one] & balanced[other])
        if len(genes) < fewest:
            continue
        shift = vectors[:, other, genes] - vectors[:, one, genes]
        shift -= shift.mean(1, keepdims=True)
        shift /= np.maximum(np.linalg.norm(shift, axis=-1, keepdims=True), 1e-12)
        dealt = generator(seed, "contextualisation", str(one), str(other)).permutation(len(genes))
        same.append((shift[0] * shift[1]).sum(-1))
        different.append((shift[0] * shift[1][dealt]).sum(-1))
    if not same:
        return {"why": f"no two cell types share {fewest} genes that are tokens in {CAP} cells of both halves of each"}
    own, others = np.concatenate(same), np.concatenate(different)
    beside = f"another gene's shift {others.mean():.3f}; {len(same)} pairs of types"
    return {"found": float(own.mean() - others.mean()), "n": len(own), "beside": beside}
