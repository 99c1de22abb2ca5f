"""How well an embedding keeps neighbourhoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numba import njit

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import Neighbors, Points, check_points, find_neighbors, row_slices

# Distances that differ by less are equal: rounding must not part them.
_EQUAL = 1e-13
# Squared distances below this share of the largest square have lost half their digits to cancellation.
_CANCELLED = 1e-9


@dataclass(frozen=True)
class Quality:
    """Neighbourhood preservation, as one term per point whose mean is the measure.

    Attributes
    ----------
    ks
        Neighbourhood sizes, one row of each array below.
    trustworthiness
        1 where no intruder is among the k nearest in the embedding.
    continuity
        1 where none of the k nearest in the original space is lost.
    rank_error_embedding, rank_error_original
        Mean relative rank error over the k nearest in the embedding, and over those in the original space; 0 is best,
        1 is a complete reversal of ranks.
    """

    ks: tuple[int, ...]
    trustworthiness: Float[np.ndarray, "k point"]
    continuity: Float[np.ndarray, "k point"]
    rank_error_embedding: Float[np.ndarray, "k point"]
    rank_error_original: Float[np.ndarray, "k point"]

    def table(self) -> pd.DataFrame:
        """One row per k: the means over points."""
        names = ("trustworthiness", "continuity", "rank_error_embedding", "rank_error_original")
        return pd.DataFrame({"k": self.ks} | {name: getattr(self, name).mean(1) for name in names})


def embedding_quality(
    x: Points,
    y: Float[np.ndarray, "point latent"],
    ks: Sequence[int],
    *,
    near_x: Neighbors | None = None,
    near_y: Neighbors | None = None,
) -> Quality:
    """Trustworthiness, continuity and mean relative rank errors, for several k from one computation of ranks.

    With r(i, j) the rank of j among the others by distance from i in x (from 1), U the k nearest in y and n points,

        T = 1 - 2 / (n k (2n - 3k - 1)) sum_i sum_{j in U(i)} max(r(i, j) - k, 0)

    (Venna & Kaski 2001), continuity is the same with the spaces exchanged, and the mean relative rank error over U is

        sum_i sum_{j in U(i)} |r(i, j) - s(i, j)| / s(i, j) / (n sum_{l <= k} |n - 2l| / l)

    with s the rank in y (Lee & Verleysen 2009; some write n - 2l + 1, counting a point among its own neighbours).

    Parameters
    ----------
    x
        Points in the original space.
    y
        The same points in the embedding, in the same order.
    ks
        Neighbourhood sizes, each fewer than half of the points.
    near_x, near_y
        Exact neighbours where they are there already, at least as many as the largest k.

    Raises
    ------
    EvaluationError
        If the spaces differ in points, a k is too large, or points are unusable.

    Notes
    -----
    Equally far points share the best of their ranks. Where several are equally far as the last neighbour, each of them counts by
    the share that has a place, so that the order of the points decides nothing. Distances are made block by block: memory grows
    with n k.
    """
    ks = tuple(ks)
    _check_ks(x, y, ks)
    (trust, error_y), (continuity, error_x) = _one_way(y, x, ks, near_y), _one_way(x, y, ks, near_x)
    return Quality(ks, trust, continuity, error_y, error_x)


def trustworthiness(
    x: Points, y: Float[np.ndarray, "point latent"], k: int, *, near_y: Neighbors | None = None
) -> Float[np.ndarray, " point"]:
    """Trustworthiness alone, as one term per point; their mean is T. Continuity is the same of (y, x).

    Parameters
    ----------
    x, y, near_y
        As in `embedding_quality`.
    k
        Neighbourhood size, fewer than half of the points.

    Raises
    ------
    EvaluationError
        As in `embedding_quality`.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.quality import trustworthiness
    >>> x = np.random.default_rng(0).normal(size=(60, 2))
    >>> [round(float(trustworthiness(x, y, 5).mean()), 2) for y in (x, x[:, :1])]  # all of it, one coordinate
    [1.0, 0.73]
    """
    _check_ks(x, y, (k,))
    return _one_way(y, x, (k,), near_y)[0][0]


def ranks_of(x: Points, others: Int[np.ndarray, "point k"]) -> Int[np.ndarray, "point k"]:
    """Rank of chosen points among all others, by Euclidean distance from each point.

    Parameters
    ----------
    x
        Points, finite; distances are Euclidean.
    others
        Numbers of the points to rank for each point; none may be the point itself.

    Returns
    -------
    ndarray
        1 + number of points that are closer.
    """
    x = np.ascontiguousarray(check_points(x, 1) - np.mean(x, 0, dtype=np.float64))
    squares = np.einsum("nd,nd->n", x, x)
    ranks = np.empty(others.shape, dtype=np.int64)
    others = np.ascontiguousarray(others, dtype=np.int64)
    for part in row_slices(len(x), 8 * len(x)):
        _count_closer(x[part] @ x.T, x, squares, others[part], part.start, _CANCELLED * squares.max(), ranks[part])
    return ranks


@njit(cache=True, nogil=True)
def _count_closer(products, x, squares, others, start, cancelled, ranks):
    """Ranks of `others` for a block of points from `start` on, given the block's inner products with all points."""
    n, k = len(x), others.shape[1]
    row = np.empty(n)
    for b in range(len(products)):
        i = start + b
        for j in range(n):
            row[j] = squares[i] + squares[j] - 2 * products[b, j]
        limits = row[others[b]]
        if limits.min() < cancelled:
            for j in range(n):
                total = 0.0
                for d in range(x.shape[1]):
                    total += (x[i, d] - x[j, d]) ** 2
                row[j] = total
            limits = row[others[b]] * (1 - _EQUAL)
        else:
            limits = row[others[b]] - 4e-15 * (squares[i] + squares[others[b]])
        order = np.argsort(limits)
        limits = limits[order]
        last = limits[k - 1]
        closer = np.zeros(k, dtype=np.int64)
        row[i] = np.inf
        for j in range(n):
            if row[j] < last:
                # First limit above the distance: it and all later ones have one closer point more.
                # By hand: numba's searchsorted makes the whole a half slower.
                low, high = 0, k - 1
                while low < high:
                    middle = (low + high) // 2
                    if limits[middle] > row[j]:
                        high = middle
                    else:
                        low = middle + 1
                closer[low] += 1
        ranks[b][order] = np.cumsum(closer) + 1


def _check_ks(x: np.ndarray, y: np.ndarray, ks: tuple[int, ...]) -> None:
    """Refuse spaces of different points, and sizes that do not suit their number."""
    n = len(x)
    if len(y) != n:
        raise EvaluationError(
            f"The original space has {n} points, the embedding {len(y)}; give both of the same points."
        )
    if not ks or min(ks) < 1 or max(ks) >= n / 2:
        raise EvaluationError(
            f"Neighbourhoods need 1 <= k < n / 2; found k = {', '.join(map(str, ks)) or 'none'} for n = {n} points."
        )


def _one_way(
    of: np.ndarray, other: np.ndarray, ks: tuple[int, ...], near: Neighbors | None
) -> tuple[np.ndarray, np.ndarray]:
    """One less the scaled excess of ranks, and the relative rank error, of neighbours in one space, (k, point) each."""
    n, most = len(of), max(ks) + 1
    if near is None or near.k < most:
        near = find_neighbors(of, most, approximate=False, seed=0)
    near = near.first(most)
    ranks, own = ranks_of(other, near.first(max(ks)).indices), _own_ranks(near.distances)[:, :-1]
    excess = np.stack([np.maximum(ranks[:, :k] - k, 0).sum(1).astype(float) for k in ks])
    error = np.stack([(np.abs(ranks - own) / own)[:, :k].sum(1) for k in ks])
    tied = np.stack([near.distances[:, k] <= near.distances[:, k - 1] * (1 + _EQUAL) for k in ks])
    of, other = (np.asarray(points, dtype=np.float64) for points in (of, other))
    for i in np.flatnonzero(tied.any(0)).tolist():
        distances, there = _distances(of, i), _ranks(_distances(other, i))
        wrong = np.abs(there - (here := _ranks(distances))) / here
        for at in np.flatnonzero(tied[:, i]).tolist():
            k, last = ks[at], near.distances[i, ks[at] - 1]
            inside = distances < last * (1 - _EQUAL)
            edge = ~inside & (distances <= last * (1 + _EQUAL))
            for sums, terms in ((excess, np.maximum(there - k, 0)), (error, wrong)):
                sums[at, i] = terms[inside].sum() + (k - inside.sum()) * terms[edge].mean()
    of_k = np.array(ks)[:, None]
    worst = [(np.abs(n - 2 * (place := np.arange(1, k + 1))) / place).sum() for k in ks]
    return 1 - excess * 2.0 / (of_k * (2 * n - 3 * of_k - 1)), error / np.array(worst)[:, None]


def _distances(x: np.ndarray, i: int) -> np.ndarray:
    """Distances of all others from a point."""
    return np.sqrt(((np.delete(x, i, 0) - x[i]) ** 2).sum(1))


def _ranks(distances: np.ndarray) -> np.ndarray:
    """Rank of each among all; equal distances share the best."""
    return 1 + np.searchsorted(np.sort(distances), distances * (1 - _EQUAL))


def _own_ranks(distances: np.ndarray) -> np.ndarray:
    """Rank of each neighbour in the space it is a neighbour in; equal distances share the best."""
    new = np.ones(distances.shape, dtype=bool)
    new[:, 1:] = distances[:, 1:] > distances[:, :-1] * (1 + _EQUAL)
    return np.maximum.accumulate(np.where(new, np.arange(1, distances.shape[1] + 1), 0), axis=1)
