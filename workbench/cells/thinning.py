"""Log-normalised expression as it would be of fewer counts, for readouts that are to hold on shallower cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Shaped

from workbench.cells.scale import TARGET
from workbench.seeds import generator

# Shares of its counts that copies of a training cell keep.
SHARES = (0.5, 0.25)


def library_sizes(x: sp.csr_matrix) -> Float[np.ndarray, " cell"]:
    """Library size of each cell, read off its smallest value: log1p of counts per 10,000 of one count.

    Parameters
    ----------
    x
        Log-normalised expression, cell by gene. Of a cell with no gene of a single count the size comes out too small.

    Returns
    -------
    ndarray, shape (cell,)
        Counts over all genes; NaN for a cell that expresses nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from workbench.cells.thinning import library_sizes
    >>> library_sizes(sp.csr_matrix(np.log1p([[5.0, 10.0], [0.0, 20.0]])))  # one count is 5, or 20, of 10,000
    array([2000.,  500.])
    """
    return TARGET / _one_count(sp.csr_matrix(x))


def thinned(
    x: sp.csr_matrix, share: float, names: Shaped[np.ndarray, " cell"], genes: Sequence[str], seed: int
) -> sp.csr_matrix:
    """Log-normalised expression of cells of whose counts a share was kept, each count by itself.

    A cell's smallest value is taken for one count, and its other values for the nearest whole numbers of counts. What a cell adds
    up to over all genes is thinned by the same share, so that the panel's part of it stays what it is on average.

    Parameters
    ----------
    x
        Log1p of counts per 10,000, cell by gene.
    share
        Chance of each count to stay, above 0 and up to 1.
    names, genes
        Names of the cells and of the columns, on which the draw depends: neither order changes anything.
    seed
        Seed of the draw, any whole number.

    Returns
    -------
    csr_matrix, shape (cell, gene)
        float64, columns of a row in order.
    """
    out = sp.csr_matrix(x, dtype=np.float64, copy=True)
    out.sort_indices()
    unit = _one_count(out)
    place = np.argsort(np.argsort(np.asarray(genes).astype(str), kind="stable"), kind="stable")
    for i, name in enumerate(names):
        own = slice(out.indptr[i], out.indptr[i + 1])
        counts = np.rint(np.expm1(out.data[own]) / unit[i]).astype(np.int64)
        order, kept = np.argsort(place[out.indices[own]], kind="stable"), np.empty_like(counts)
        kept[order] = generator(seed, "thinned", str(share), str(name)).binomial(counts[order], share)
        out.data[own] = np.log1p(kept * unit[i] / share)
    out.eliminate_zeros()
    return out


def with_thinned(
    x: sp.csr_matrix,
    names: Shaped[np.ndarray, " cell"],
    genes: Sequence[str],
    seed: int,
    shares: Sequence[float] = SHARES,
) -> sp.csr_matrix:
    """Cells, and below them a copy of all of them for each share of counts.

    Parameters
    ----------
    x, names, genes, seed
        As in `thinned`.
    shares
        Shares of counts that the copies keep; without any, the cells themselves come back.
    """
    return sp.vstack([x.astype(np.float64), *(thinned(x, share, names, genes, seed) for share in shares)], format="csr")


def _one_count(x: sp.csr_matrix) -> Float[np.ndarray, " cell"]:
    """What one count of each cell is of 10,000; NaN for a cell that expresses nothing."""
    found = np.full(x.shape[0], np.nan)
    full = np.diff(x.indptr) > 0
    if full.any():
        found[full] = np.expm1(np.minimum.reduceat(x.data, x.indptr[:-1][full]).astype(np.float64))
    return found
