"""Neighbours of expression: analytic Pearson residuals of counts, batch by batch, from sparse rows.

The residual of a count x of a gene with share p in a cell of library size l is (x - m) / sqrt(m + m^2 / theta), with m = l p, cut at the
square root of the number of cells (Lause, Berens & Kobak 2021). Shares and cuts are those of the batch, so that a batch has the same
residuals whatever else is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Float32, Int, Shaped
from numba import njit
from scipy.stats import rankdata

from workbench.cells.matrix import row_block
from workbench.errors import EvaluationError
from workbench.geometry.likeness import hsic, leading_scores
from workbench.geometry.neighbors import find_neighbors
from workbench.geometry.overlap import FEWEST, BatchNeighbors, split_batches

RESIDUALS = "Pearson residuals of counts"
THETA = 100.0
AXES = 20
_GENES = 2000
_ROWS = 512
# Genes of cells' own machinery and of controls, and genes that too few cells or counts speak for.
_TECHNICAL = ("MT-", "ERCC-", "RPL", "RPS")
_RARE = 10


@dataclass(frozen=True)
class Residuals:
    """Analytic Pearson residuals of one batch, made when they are asked for.

    Attributes
    ----------
    counts
        Counts of the cells for the chosen genes.
    library
        Counts of each cell over all genes.
    share
        Share of each chosen gene in all counts of the batch.
    theta
        Overdispersion: the variance of a count is m + m^2 / theta.
    """

    counts: sp.csr_matrix
    library: Float[np.ndarray, " cell"]
    share: Float[np.ndarray, " gene"]
    theta: float

    def dense(self) -> Float32[np.ndarray, "cell gene"]:
        """The residuals, as float32."""
        found = np.empty(self.counts.shape, dtype=np.float32)
        counts = self.counts
        _fill(counts.indptr, counts.indices, counts.data, self.library, self.share, self.theta, found)
        return found

    def centred(self) -> Float[np.ndarray, "cell gene"]:
        """The residuals less their mean over the batch, as float64."""
        dense = self.dense().astype(np.float64)
        dense -= dense.mean(0)
        return dense

    @cached_property
    def own_hsic(self) -> tuple[float, float]:
        """What `likeness.hsic` gives of the residuals with themselves; made once for all spaces."""
        centred = self.centred()
        return hsic(centred, centred)

    @cached_property
    def scores(self) -> Float[np.ndarray, "cell axis"]:
        """`likeness.leading_scores` of the residuals, 20 at most; made once for all spaces."""
        return leading_scores(self.centred(), AXES)


@dataclass(frozen=True)
class Expression:
    """Expression as neighbours inside batches, with the residuals that they are of.

    Attributes
    ----------
    neighbors
        Neighbours of each cell inside its batch.
    residuals
        Residuals of each batch, in the order of `neighbors`.
    genes
        Numbers of the chosen genes.
    """

    neighbors: BatchNeighbors
    residuals: tuple[Residuals, ...]
    genes: Int[np.ndarray, " gene"]


def technical_genes(names: Iterable[str]) -> Bool[np.ndarray, " gene"]:
    """Which genes are mitochondrial, ribosomal or spiked in, by their symbols (``MT-``, ``RPL``, ``RPS``, ``ERCC-``).

    Parameters
    ----------
    names
        Symbols of the genes, in capitals or not.
    """
    return np.array([str(name).upper().startswith(_TECHNICAL) for name in names], dtype=bool)


def expression_neighbors(
    counts: Any,
    batch: Shaped[np.ndarray, " cell"] | None = None,
    *,
    leave_out: Bool[np.ndarray, " gene"] | None = None,
    k: int = 50,
    n_genes: int = _GENES,
    theta: float = THETA,
    fewest: int = FEWEST,
    seed: int,
) -> Expression:
    """Neighbours by analytic Pearson residuals inside each batch: made once, for every space that is laid beside them.

    Genes are those of the highest residual variance, by the median over batches of their ranks, as in scFoundry 0.2.1; genes with
    fewer than 10 counts or in fewer than 10 cells are left out. Residuals are dense for one batch at a time and the chosen genes only.

    Parameters
    ----------
    counts
        Whole numbers, cell by gene: dense, sparse, or anndata's backed matrix, which is read in blocks of rows.
    batch, k, fewest
        As in `overlap.split_batches`.
    leave_out
        Genes never to choose, such as `technical_genes`; none when None.
    n_genes
        Genes to choose, at most.
    theta
        As in `Residuals`.
    seed
        As in `find_neighbors`.

    Raises
    ------
    EvaluationError
        If values are negative or no whole numbers, a cell holds no count, no gene is left, or no batch is large enough.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.expression import expression_neighbors
    >>> counts = np.random.default_rng(0).poisson(2.0, (60, 30))
    >>> expression_neighbors(counts, k=5, seed=0).neighbors.near[0].indices.shape
    (60, 5)
    """
    n, n_all = counts.shape
    rows, left_out = split_batches(batch, n, k, fewest)
    number = np.full(n, -1)
    for i, own in enumerate(rows.values()):
        number[own] = i
    sizes = np.array([len(own) for own in rows.values()])
    library, totals, detected = _sums(counts, number, len(sizes))
    candidates = (detected.sum(0) >= _RARE) & (totals.sum(0) >= _RARE)
    if leave_out is not None:
        candidates &= ~leave_out
    if not candidates.any():
        raise EvaluationError(f"None of {n_all} genes is in {_RARE} cells and holds {_RARE} counts; take more cells.")
    share = totals / totals.sum(1, keepdims=True)
    which = np.flatnonzero(candidates)
    genes = _most_variable(counts, number, library, share, sizes, which, detected.sum(0)[which], n_genes, theta)
    chosen = _columns(counts, genes, number, detected[:-1, genes].sum(1))
    residuals, near = [], []
    for i, own in enumerate(rows.values()):
        one = Residuals(chosen[i], library[own], share[i, genes], theta)
        residuals.append(one)
        near.append(find_neighbors(one.dense(), k, seed=seed))
    found = BatchNeighbors(tuple(rows), tuple(rows.values()), tuple(near), left_out, n, RESIDUALS)
    return Expression(found, tuple(residuals), genes)


def residuals_of(
    counts: Any, rows: Int[np.ndarray, " _"], genes: Int[np.ndarray, " gene"], theta: float = THETA
) -> Residuals:
    """Residuals of some cells as one batch, without a search for neighbours.

    Parameters
    ----------
    counts
        As in `expression_neighbors`.
    rows
        Numbers of the cells, ascending.
    genes
        Numbers of the genes to have residuals of.
    theta
        As in `Residuals`.
    """
    blocks = []
    for start in range(0, counts.shape[0], _ROWS):
        own = rows[(rows >= start) & (rows < start + _ROWS)] - start
        if len(own):
            blocks.append(row_block(counts, start, start + _ROWS)[own])
    held = sp.vstack(blocks, format="csr").astype(np.float64)
    library = held.sum(1).A1
    share = held.sum(0).A1[genes] / max(library.sum(), 1)
    return Residuals(held[:, genes].astype(np.float32), library, share, theta)


def _sums(counts: Any, number: np.ndarray, n_batches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Library size of each cell; counts of each gene by batch; and cells that have it, with those of no batch in a last row."""
    n, n_genes = counts.shape
    library, totals = np.zeros(n), np.zeros((n_batches + 1, n_genes))
    detected = np.zeros((n_batches + 1, n_genes), dtype=np.int64)
    for start in range(0, n, _ROWS):
        block = row_block(counts, start, start + _ROWS)
        if not np.isfinite(block.data).all() or (block.data < 0).any() or (block.data != np.rint(block.data)).any():
            raise EvaluationError(
                "Pearson residuals need counts, whole numbers from 0; found other values. Name the layer with counts, or take neighbours of "
                "the values that there are (`batch_neighbors`)."
            )
        here = number[start : start + _ROWS]
        _add_counts(block.indptr, block.indices, block.data, here, library[start : start + _ROWS], totals, detected)
    empty = np.flatnonzero((library <= 0) & (number >= 0))
    if len(empty):
        raise EvaluationError(f"{len(empty)} cells hold no count (first: row {empty[0]}); leave them out.")
    return library, totals[:-1], detected


def _most_variable(
    counts: Any,
    number: np.ndarray,
    library: np.ndarray,
    share: np.ndarray,
    sizes: np.ndarray,
    candidates: np.ndarray,
    detected: np.ndarray,
    n_genes: int,
    theta: float,
) -> Int[np.ndarray, " gene"]:
    """The candidates of the highest residual variance, by the median over batches of their ranks; `detected` is of the candidates."""
    total, squares = (np.zeros((len(sizes), len(candidates))) for _ in range(2))
    place = np.full(counts.shape[1], -1)
    place[candidates] = np.arange(len(candidates))
    own_share = np.ascontiguousarray(share[:, candidates])
    limits = np.sqrt(sizes).astype(float)
    for start in range(0, len(number), _ROWS):
        block = row_block(counts, start, start + _ROWS)
        here, size = number[start : start + _ROWS], library[start : start + _ROWS]
        _add_residuals(
            block.indptr, block.indices, block.data, here, size, own_share, place, theta, limits, total, squares
        )
    n = sizes[:, None]
    variance = (squares - total**2 / n) / (n - 1)
    ranks = np.stack([rankdata(row) for row in variance]) / len(candidates)
    # Ties by the mean rank, then by cells, then by place in the matrix.
    order = np.lexsort((np.arange(len(candidates)), -detected, -ranks.mean(0), -np.median(ranks, 0)))
    return candidates[order[:n_genes]]


def _columns(
    counts: Any, genes: np.ndarray, number: np.ndarray, entries: Int[np.ndarray, " batch"]
) -> list[sp.csr_matrix]:
    """Some columns of the cells of each batch, whose entries are counted, read in blocks of rows."""
    # One array of each kind, so that the memory of all of them goes back at once.
    ends = np.cumsum(entries)
    data, columns = np.empty(ends[-1], dtype=np.float32), np.empty(ends[-1], dtype=np.int32)
    lengths = np.zeros(len(number), dtype=np.int64)
    free = ends - entries
    for start in range(0, counts.shape[0], _ROWS):
        block = row_block(counts, start, start + _ROWS)[:, genes]
        here, own = number[start : start + _ROWS], np.diff(block.indptr)
        lengths[start : start + _ROWS] = own
        of_entry = np.repeat(here, own)
        for i in np.unique(here[here >= 0]):
            mine = slice(free[i], free[i] + own[here == i].sum())
            data[mine], columns[mine] = block.data[of_entry == i], block.indices[of_entry == i]
            free[i] = mine.stop
    found = []
    for i, (end, length) in enumerate(zip(ends, entries, strict=True)):
        starts = np.concatenate([[0], np.cumsum(lengths[number == i])]).astype(np.int32)
        mine = slice(end - length, end)
        found.append(sp.csr_matrix((data[mine], columns[mine], starts), shape=(len(starts) - 1, len(genes))))
    return found


@njit(cache=True, nogil=True)
def _add_counts(indptr, indices, data, batch, library, totals, detected):
    """Add counts by cell, and by batch and gene; those of cells of no batch, -1, in the last row."""
    for i in range(len(batch)):
        for at in range(indptr[i], indptr[i + 1]):
            library[i] += data[at]
            totals[batch[i], indices[at]] += data[at]
            detected[batch[i], indices[at]] += 1


@njit(cache=True, nogil=True)
def _residual(x, mean, theta, limit):
    """Residual of a count, cut, in single precision."""
    if mean <= 0:
        return np.float32(0)
    return np.float32(min(max((x - mean) / np.sqrt(mean + mean * mean / theta), -limit), limit))


@njit(cache=True, nogil=True)
def _of_zero(mean, theta, limit):
    """Residual of a count of 0, cut, in single precision: one root and one division, most of the time of all."""
    return np.float32(-min(np.sqrt(mean * theta / (theta + mean)), limit))


@njit(cache=True, nogil=True)
def _add_residuals(indptr, indices, data, batch, library, share, place, theta, limits, total, squares):
    """Add residuals and their squares by batch and gene; counts of 0 have one, too."""
    for i in range(len(batch)):
        b = batch[i]
        if b < 0:
            continue
        for g in range(share.shape[1]):
            r = _of_zero(library[i] * share[b, g], theta, limits[b])
            total[b, g] += r
            squares[b, g] += r * r
        for at in range(indptr[i], indptr[i + 1]):
            g = place[indices[at]]
            if g < 0:
                continue
            mean = library[i] * share[b, g]
            none, r = _of_zero(mean, theta, limits[b]), _residual(data[at], mean, theta, limits[b])
            total[b, g] += np.float64(r) - np.float64(none)
            squares[b, g] += np.float64(r) * r - np.float64(none) * none


@njit(cache=True, nogil=True)
def _fill(indptr, indices, data, library, share, theta, found):
    """Residuals of all cells and genes, cut at the root of the number of cells."""
    limit = np.sqrt(len(library))
    for i in range(len(library)):
        for g in range(len(share)):
            found[i, g] = _of_zero(library[i] * share[g], theta, limit)
        for at in range(indptr[i], indptr[i + 1]):
            g = indices[at]
            found[i, g] = _residual(data[at], library[i] * share[g], theta, limit)
