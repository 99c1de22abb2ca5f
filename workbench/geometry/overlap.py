"""Neighbourhoods that two spaces share, corrected for chance, inside batches and never across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from numba import njit

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import Neighbors, Points, find_neighbors

ALL = "all cells"
# Batches with fewer cells are left out: of a neighbourhood of 50 they would leave nothing to miss.
FEWEST = 50


def shared_neighbors(one: Neighbors, other: Neighbors) -> Int[np.ndarray, "point k"]:
    """How many of a point's k nearest are the same in both spaces, for every k up to those that were found.

    Unchanged by whatever leaves the order of each point's neighbours: turning, shifting, one scale for all.

    Parameters
    ----------
    one, other
        Neighbours of the same points in both spaces, in the same order.

    Returns
    -------
    ndarray
        Column k - 1 counts among the k nearest.

    Raises
    ------
    EvaluationError
        If the two are of different numbers of points.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.neighbors import find_neighbors
    >>> from workbench.geometry.overlap import shared_neighbors
    >>> line = np.array([[0.0], [1.0], [3.0], [7.0]])
    >>> near = find_neighbors(line, 2, seed=0)
    >>> shared_neighbors(near, find_neighbors(-line, 2, seed=0)).tolist()
    [[1, 2], [1, 2], [1, 2], [1, 2]]
    """
    if len(one) != len(other):
        raise EvaluationError(f"Neighbours of {len(one)} and of {len(other)} points; give both of the same points.")
    k = min(one.k, other.k)
    found = np.zeros((len(one), k), dtype=np.int64)
    _count_shared(one.indices[:, :k].astype(np.int64), other.indices[:, :k].astype(np.int64), found)
    return found.cumsum(1)


@njit(cache=True, nogil=True)
def _count_shared(one, other, found):
    """Count each neighbour that both have at the larger of its two ranks."""
    for i in range(len(one)):
        for a in range(one.shape[1]):
            for b in range(other.shape[1]):
                if one[i, a] == other[i, b]:
                    found[i, max(a, b)] += 1
                    break


def beyond_chance(shared: Int[np.ndarray, "point k"], n: int) -> Float[np.ndarray, "point k"]:
    """R_NX by point: ((n - 1) Q - k) / (n - 1 - k), with Q the shared share of the k nearest (Lee, Renard, Bernard, Dupont & Verleysen 2013).

    0 on average where a space says nothing of the other, 1 where it has the same neighbours. The mean over points is R_NX.

    Parameters
    ----------
    shared
        From `shared_neighbors`, one column per k from 1.
    n
        Points among which neighbours were searched, more than the largest k and one.

    Raises
    ------
    EvaluationError
        If there are too few points.
    """
    k = np.arange(1, shared.shape[1] + 1)
    if n - 1 <= k[-1]:
        raise EvaluationError(f"Among {n} points the {k[-1]} nearest are all there are; ask for fewer neighbours.")
    return ((n - 1) * shared / k - k) / (n - 1 - k)


def area_over_log_k(rnx: Float[np.ndarray, "point k"]) -> Float[np.ndarray, " point"]:
    """Area under R_NX over log k, from 1 to the largest k: the mean with weights 1 / k (Lee, Peluffo-Ordonez & Verleysen 2015).

    Parameters
    ----------
    rnx
        R_NX of each point, or of several spaces, at every k from 1 on.
    """
    weights = 1 / np.arange(1, rnx.shape[-1] + 1)
    return rnx @ weights / weights.sum()


@dataclass(frozen=True)
class BatchNeighbors:
    """Neighbours inside each batch.

    Attributes
    ----------
    names
        Batches that are large enough, by name.
    rows
        Numbers of the cells of each.
    near
        Neighbours of these cells among each other.
    left_out
        Cells of each batch that was too small.
    n
        Number of cells, those of batches that were left out among them.
    kind
        What the neighbours are of, in words.
    """

    names: tuple[str, ...]
    rows: tuple[Int[np.ndarray, " _"], ...]
    near: tuple[Neighbors, ...]
    left_out: Mapping[str, int]
    n: int
    kind: str

    @property
    def k(self) -> int:
        """Neighbours of each cell."""
        return self.near[0].k

    @property
    def recall(self) -> float:
        """Smallest share of true neighbours that the search of a batch has found; 1 where all were exact."""
        return min(near.recall for near in self.near)

    def of(self, points: Points, *, seed: int, kind: str = "") -> BatchNeighbors:
        """Neighbours in another space of the same cells, in the same batches.

        Parameters
        ----------
        points
            The cells in that space, in the same order.
        seed
            Seed of an approximate search, see `find_neighbors`.
        kind
            What these neighbours are of, in words.

        Raises
        ------
        EvaluationError
            If there are other cells, or points are unusable.
        """
        if len(points) != self.n:
            raise EvaluationError(
                f"The space has {len(points)} cells, its reference {self.n}; give both of the same cells."
            )
        near = tuple(find_neighbors(points[rows], self.k, seed=seed) for rows in self.rows)
        return BatchNeighbors(self.names, self.rows, near, self.left_out, self.n, kind)


def split_batches(
    batch: Shaped[np.ndarray, " cell"] | None, n: int, k: int, fewest: int = FEWEST
) -> tuple[dict[str, Int[np.ndarray, " _"]], dict[str, int]]:
    """Cells of each batch, and the batches that are too small for k neighbours.

    Parameters
    ----------
    batch
        Batch of each cell, empty for a cell of none, which is left out; None where all cells are one batch.
    n
        Number of cells, of which `batch` has one value each.
    k
        Neighbours that are to be searched; a batch needs two cells more.
    fewest
        Cells that a batch needs in any case.

    Returns
    -------
    rows, left_out
        Numbers of the cells by batch; number of cells of each batch that is too small.

    Raises
    ------
    EvaluationError
        If no batch is large enough.
    """
    names = np.full(n, ALL, dtype=object) if batch is None else np.asarray(batch, dtype=object)
    rows = {str(name): np.flatnonzero(names == name) for name in sorted(set(names.tolist()) - {""})}
    least = max(fewest, k + 2)
    kept = {name: own for name, own in rows.items() if len(own) >= least}
    if not kept:
        largest = max((len(own) for own in rows.values()), default=0)
        raise EvaluationError(
            f"None of {len(rows)} batches has the {least} cells that {k} neighbours inside a batch need; the largest has {largest}. Ask for fewer "
            "neighbours, take more cells, or name a coarser batch."
        )
    return kept, {name: len(own) for name, own in rows.items() if name not in kept}


def batch_neighbors(
    points: Points,
    batch: Shaped[np.ndarray, " cell"] | None = None,
    *,
    k: int = 50,
    fewest: int = FEWEST,
    kind: str = "points as given",
    seed: int,
) -> BatchNeighbors:
    """Neighbours inside each batch, of points that are there already; `expression.expression_neighbors` makes those of counts.

    Parameters
    ----------
    points
        Cells, one row each, finite.
    batch, k, fewest
        As in `split_batches`.
    kind
        What the points are, in words, for tables.
    seed
        As in `find_neighbors`.

    Raises
    ------
    EvaluationError
        If no batch is large enough, or points are unusable.
    """
    rows, left_out = split_batches(batch, len(points), k, fewest)
    near = tuple(find_neighbors(points[own], k, seed=seed) for own in rows.values())
    return BatchNeighbors(tuple(rows), tuple(rows.values()), near, left_out, len(points), kind)


def overlap(one: BatchNeighbors, other: BatchNeighbors) -> Float[np.ndarray, "point k"]:
    """R_NX of each cell for every k, inside its batch; NaN for cells of batches that were left out.

    The mean over cells is that of the batches, each counting by its cells. Unchanged by whatever leaves the order of neighbours
    (turning, shifting, one scale for all), and by the order of cells but for exact ties. It falls with the cells of a batch, as more of
    them share a neighbourhood: compare spaces on the same cells.

    Parameters
    ----------
    one, other
        Neighbours in both spaces, of the same batches.

    Raises
    ------
    EvaluationError
        If the batches differ.
    """
    if one.n != other.n or one.names != other.names:
        raise EvaluationError("The two have different cells or batches; make one by `of` of the other.")
    k = min(one.k, other.k)
    found = np.full((one.n, k), np.nan)
    for rows, a, b in zip(one.rows, one.near, other.near, strict=True):
        found[rows] = beyond_chance(shared_neighbors(a.first(k), b.first(k)), len(rows))
    return found


def check_ks(ks: Sequence[int], k: int) -> tuple[int, ...]:
    """Neighbourhood sizes, if neighbours were found for all of them.

    Parameters
    ----------
    ks
        Sizes that are asked for.
    k
        Neighbours of each cell that were found.

    Raises
    ------
    EvaluationError
        If a size is below 1 or above.
    """
    if not ks or min(ks) < 1 or max(ks) > k:
        raise EvaluationError(
            f"Overlap is asked for k = {', '.join(map(str, ks)) or 'none'}, but neighbours are there for 1 to {k}."
        )
    return tuple(ks)
