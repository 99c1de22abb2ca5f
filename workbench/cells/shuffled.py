"""Cells as controls: each gene's values permuted over cells, and cells thinned to one library size."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.matrix import row_block, row_blocks
from workbench.errors import CellsError
from workbench.seeds import generator

_LOWEST = 0.05


def permuted_genes(cells: AnnData, batches: np.ndarray | None = None, *, seed: int) -> AnnData:
    """Cells in which each gene's values are dealt anew over the cells of a batch: every gene keeps its values, no two go together.

    Parameters
    ----------
    cells
        Cells as `workbench.load` gives them, in memory; not changed.
    batches
        Batch of each cell, within which values are dealt; all cells together when None.
    seed
        Seed of the deal, which also depends on the gene's name: neither the order of genes nor that of cells changes it.

    Returns
    -------
    AnnData
        Of the same names and columns; a cell may come to express fewer genes than before.

    Examples
    --------
    >>> import numpy as np
    >>> from anndata import AnnData
    >>> from workbench.cells.shuffled import permuted_genes
    >>> dealt = permuted_genes(AnnData(np.eye(3, dtype=np.float32)), seed=0)
    >>> dealt.X.sum(0).tolist()
    [[1.0, 1.0, 1.0]]
    """
    whole = row_block(cells.X, 0, cells.n_obs).tocsc()
    batch = np.zeros(cells.n_obs, dtype=int) if batches is None else np.unique(batches, return_inverse=True)[1]
    # In the order of names: the same cells in another order are dealt the same values.
    order = np.argsort(cells.obs_names.to_numpy(dtype=str), kind="stable")
    members = [order[batch[order] == b] for b in range(int(batch.max()) + 1)]
    data, indices, dealt = whole.data.copy(), np.empty_like(whole.indices), np.empty(cells.n_obs, dtype=int)
    for j, gene in enumerate(cells.var_names):
        part, rng = slice(whole.indptr[j], whole.indptr[j + 1]), generator(seed, "permuted gene", str(gene))
        for rows in members:
            dealt[rows] = rows[rng.permutation(len(rows))]
        indices[part] = dealt[whole.indices[part]]
    mixed = sp.csc_matrix((data, indices, whole.indptr), shape=whole.shape).tocsr()
    mixed.sort_indices()
    return _with(cells, mixed)


def thinned(cells: AnnData, target: int | None = None, *, seed: int) -> tuple[AnnData, int, int]:
    """Cells whose counts are drawn without replacement down to one library size.

    Parameters
    ----------
    cells
        Cells with counts; not changed.
    target
        Counts that are left to each cell; by default the library size that 5 % of the cells do not reach.
    seed
        Seed of the draw, which also depends on the cell's name, so that the order of cells does not change it.

    Returns
    -------
    cells, target, smaller
        The thinned cells, the library size, and how many cells have less and are left as they are.

    Raises
    ------
    CellsError
        If values are no counts.
    """
    totals = np.concatenate([np.asarray(block.sum(1)).ravel() for _, block in row_blocks(cells.X)])
    target = int(np.quantile(totals, _LOWEST)) if target is None else target
    parts = []
    for start, block in row_blocks(cells.X):
        if not np.array_equal(block.data, np.round(block.data)):
            raise CellsError(
                "Only counts can be thinned, and some values are no whole numbers; give the layer with counts."
            )
        kept = block.copy()
        for i in range(block.shape[0]):
            own = slice(block.indptr[i], block.indptr[i + 1])
            counts = block.data[own].astype(np.int64)
            if counts.sum() > target:
                rng = generator(seed, "thinned", str(cells.obs_names[start + i]))
                kept.data[own] = _drawn(counts, block.indices[own], cells.var_names, target, rng)
        kept.eliminate_zeros()
        parts.append(kept)
    return _with(cells, sp.vstack(parts).tocsr()), target, int((totals < target).sum())


def _drawn(counts: np.ndarray, columns: np.ndarray, genes: object, target: int, rng: np.random.Generator) -> np.ndarray:
    """Counts drawn in the order of the genes' names, which no order of columns changes."""
    order = np.argsort(np.asarray(genes)[columns].astype(str), kind="stable")
    found = np.empty(len(counts), dtype=np.float64)
    found[order] = rng.multivariate_hypergeometric(counts[order], target, method="marginals")
    return found


def _with(cells: AnnData, matrix: sp.csr_matrix) -> AnnData:
    made = AnnData(matrix, obs=cells.obs.copy(), var=cells.var.copy())
    made.uns["workbench"] = dict(cells.uns.get("workbench", {}))
    return made
