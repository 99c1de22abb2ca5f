"""Nearest neighbours of points, found once and shared by everything that needs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numba import njit

from workbench.errors import EvaluationError
from workbench.geometry.search import likely_nearest
from workbench.seeds import generator

# From here on the approximate search is the faster one, and it is the default.
APPROXIMATE_ABOVE = 50_000
_RECALL_SAMPLE = 500
# Candidates beyond k, so that rounding in the search cannot push out a true neighbour.
_MARGIN = 3
# The same of a search in single precision, and an eighth of k more.
_SPARE = 6
# Up to so many dimensions a tree is faster.
_FEW = 8
# Brute force squares by |a|^2 + |b|^2 - 2ab; below this share of the largest square that has lost half its digits.
_CANCELLED = 1e-9
_BLOCK_BYTES = 64 * 2**20

Points: TypeAlias = Float[np.ndarray, "point feature"]


@dataclass(frozen=True)
class Neighbors:
    """The k nearest other points of every point.

    Attributes
    ----------
    indices
        Nearest first; a point is never its own neighbour. Exact ties go by index.
    distances
        Euclidean, ascending, in the units of the points.
    exact
        False when the search was approximate.
    recall
        Share of the true neighbours that were found, on a random sample of points; 1 when exact.
    n_duplicates
        Points that repeat an earlier one exactly. They are neighbours at distance 0.
    """

    indices: Int[np.ndarray, "point k"]
    distances: Float[np.ndarray, "point k"]
    exact: bool
    recall: float
    n_duplicates: int

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def k(self) -> int:
        """Neighbours of each point."""
        return self.indices.shape[1]

    def first(self, k: int) -> Neighbors:
        """The nearest k of them.

        Parameters
        ----------
        k
            How many neighbours to keep, from 1 to those that were found.

        Raises
        ------
        EvaluationError
            If there are fewer.
        """
        if not 1 <= k <= self.k:
            raise EvaluationError(f"{k} neighbours were asked for, but {self.k} were found; search again with more.")
        return replace(self, indices=self.indices[:, :k], distances=self.distances[:, :k])


def find_neighbors(x: Points, k: int, *, approximate: bool | None = None, seed: int) -> Neighbors:
    """The k nearest other points of every point, by Euclidean distance in float64.

    Exact: a tree in up to 8 dimensions, else all pairs in single precision, each once, and what that leaves open in double. Approximate: nearest neighbour descent (Dong,
    Moses & Li 2011, pynndescent), with its recall measured on a random sample. Either way the distances are those of
    the coordinates' differences, without the cancellation of the products that the search itself uses.

    Parameters
    ----------
    x
        Points, finite, in any unit; taken as float64.
    k
        Neighbours of each point, from 1 to one fewer than the points.
    approximate
        False: exact. True: approximate. None: exact up to 50,000 points, approximate above.
    seed
        Seed of the approximate search and of the sample for its recall; an exact search has no random number.

    Raises
    ------
    EvaluationError
        If there are too few points, a value is not finite, or all points are the same.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.neighbors import find_neighbors
    >>> near = find_neighbors(np.array([[0.0], [1.0], [3.0], [7.0]]), 2, seed=0)
    >>> near.indices.tolist()
    [[1, 2], [0, 2], [1, 0], [2, 1]]
    >>> near.distances[:, 0].tolist()
    [1.0, 1.0, 2.0, 4.0]
    """
    x = as_they_are(x, k)
    if approximate is None:
        approximate = len(x) > APPROXIMATE_ABOVE
    if not approximate:
        indices, distances = _all_exact(x, k)
        # Only a point whose nearest one is at no distance has a repeat.
        near = x[distances[:, 0] == 0]
        return Neighbors(indices, distances, True, 1.0, len(near) - len(distinct(near)[0]))
    n_duplicates = len(x) - len(distinct(x)[0])
    indices, distances = _approximate(x, k, seed)
    sample = np.sort(generator(seed, "recall").permutation(len(x))[:_RECALL_SAMPLE])
    # By distance, not index: of two points equally far either is right.
    furthest = _exact(x, sample, k)[1][:, -1:]
    recall = float((distances[sample] <= furthest * (1 + 1e-12)).mean())
    return Neighbors(indices, distances, False, recall, n_duplicates)


def among(neighbors: Neighbors, x: Points, rows: Int[np.ndarray, " kept"], k: int) -> Neighbors:
    """Neighbours within a subset, read off those among all points; only points left with too few are searched again.

    Parameters
    ----------
    neighbors
        Among all points; with about k n / kept neighbours and some spare, few points are searched again.
    x
        All points, without repeats, in the order of `neighbors`.
    rows
        Places of the subset's points in `x`, each once.
    k
        Neighbours wanted within the subset, fewer than its points.

    Returns
    -------
    Neighbors
        Indices count within `rows`. As exact as `neighbors`.

    Raises
    ------
    EvaluationError
        If the subset is too small.
    """
    kept = check_points(x[rows], k)
    place = np.full(len(x), -1)
    place[rows] = np.arange(len(rows))
    found = place[neighbors.indices[rows]]
    order = np.argsort(found < 0, axis=1, kind="stable")[:, :k]
    indices = np.take_along_axis(found, order, 1)
    distances = np.take_along_axis(neighbors.distances[rows], order, 1)
    if indices.shape[1] < k:
        indices, distances = (
            np.pad(a, [(0, 0), (0, k - a.shape[1])], constant_values=-1) for a in (indices, distances)
        )
    short = np.flatnonzero((indices < 0).any(1))
    if len(short):
        indices[short], distances[short] = _exact(kept, short, k)
    return Neighbors(indices, distances, neighbors.exact, neighbors.recall, 0)


def distinct(x: Points) -> tuple[Float[np.ndarray, "kept feature"], Int[np.ndarray, " kept"]]:
    """Points without exact repeats, in their order.

    Parameters
    ----------
    x
        Points; two that differ in the last bit are two, -0.0 and 0.0 are one.

    Returns
    -------
    kept, rows
        The first of each set of equal points, and where they were.
    """
    # By digests, so that no copy of the points is sorted; adding zero makes -0.0 the same as 0.0.
    found: dict[bytes, int] = {}
    for i, row in enumerate(np.ascontiguousarray(x)):
        found.setdefault(blake2b(row + 0.0, digest_size=16).digest(), i)
    first = np.array(list(found.values()), dtype=np.int64)
    return (x if len(first) == len(x) else x[first]), first


def check_points(x: Points, k: int) -> Points:
    """Points as float64, if k neighbours can be found among them.

    Parameters
    ----------
    x, k
        As in `as_they_are`.

    Raises
    ------
    EvaluationError
        As `find_neighbors`.
    """
    return as_they_are(x, k).astype(np.float64, copy=False)


def as_they_are(x: Points, k: int) -> Points:
    """Points as float64, or as float32 if they come so, if k neighbours can be found among them: for what widens some at a time.

    Parameters
    ----------
    x
        Points of any number type, a row each.
    k
        Neighbours that each point must have; the points must be more.

    Raises
    ------
    EvaluationError
        As `find_neighbors`.
    """
    if k < 1:
        raise EvaluationError(f"{k} neighbours were asked for; ask for one at least.")
    if len(x) < k + 1:
        raise EvaluationError(f"{k} neighbours need at least {k + 1} points; found {len(x)}. Ask for fewer neighbours.")
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise EvaluationError(
            f"{bad.sum()} of {len(x)} points hold NaN or infinite values (first: row {np.flatnonzero(bad)[0]}); "
            "leave them out."
        )
    x = np.ascontiguousarray(x, dtype=np.float32 if x.dtype == np.float32 else np.float64)
    if (x == x[0]).all():
        raise EvaluationError(f"All {len(x)} points are the same; they have neither neighbours nor a shape.")
    return x


def row_slices(n: int, row_bytes: int) -> Iterator[slice]:
    """Consecutive slices of rows for work in blocks, so that memory does not grow with their number.

    Parameters
    ----------
    n
        Number of rows; the slices cover each of them once.
    row_bytes
        Bytes that the work on one row takes; a slice takes 64 MiB, or is one row.

    Examples
    --------
    >>> from workbench.geometry.neighbors import row_slices
    >>> list(row_slices(5, row_bytes=24 * 2**20))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 6, None)]
    """
    step = max(1, _BLOCK_BYTES // row_bytes)
    return (slice(start, start + step) for start in range(0, n, step))


def _all_exact(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of all points among each other."""
    rows, spare = np.arange(len(x)), k + _SPARE + k // 8
    if x.shape[1] <= _FEW or spare >= len(x):
        return _exact(x, rows, k)
    found, beyond = likely_nearest(x, spare)
    indices, distances = _nearest(x, rows, found, k)
    # A point that was left out may be as near as the last of these: they are searched in double precision.
    unsure = np.flatnonzero(~(distances[:, -1] < beyond))
    if len(unsure):
        indices[unsure], distances[unsure] = _exact(x, unsure, k)
    return indices, distances


def _exact(x: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of some points among all."""
    from sklearn.neighbors import NearestNeighbors

    centred = _centred(x)
    n_found = min(k + 1 + _MARGIN, len(x))

    def search(algorithm: str, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fitted = NearestNeighbors(n_neighbors=n_found, algorithm=algorithm).fit(centred)
        found = fitted.kneighbors(centred if len(which) == len(x) else centred[which], return_distance=False)
        return _nearest(x, which, _without_self(found, which), k)

    if x.shape[1] <= _FEW:
        return search("kd_tree", rows)
    indices, distances = search("brute", rows)
    lost = np.flatnonzero(
        distances[:, -1] ** 2 < _CANCELLED * np.einsum("nd,nd->n", centred, centred, dtype=np.float64).max()
    )
    if len(lost):
        indices[lost], distances[lost] = search("ball_tree", rows[lost])
    return indices, distances


def _approximate(x: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours of all points by nearest neighbour descent; what it leaves open is searched exactly."""
    from pynndescent import NNDescent

    rows = np.arange(len(x))
    state = int(generator(seed, "neighbors").integers(2**31))
    points, n_found = _centred(x).astype(np.float32, copy=False), min(k + 1 + _MARGIN, len(x))
    found = NNDescent(points, n_neighbors=n_found, random_state=state).neighbor_graph[0]
    open_ = np.flatnonzero((found < 0).any(1))
    indices, distances = _nearest(x, rows, _without_self(np.maximum(found, 0).astype(np.int64), rows), k)
    if len(open_):
        indices[open_], distances[open_] = _exact(x, open_, k)
    return indices, distances


def _centred(x: np.ndarray) -> np.ndarray:
    """Points less their mean in their own precision, without a wider copy of all of them."""
    mean, found = x.mean(0, dtype=np.float64), np.empty_like(x)
    for part in row_slices(len(x), 8 * x.shape[1]):
        found[part] = x[part] - mean
    return found


def _without_self(found: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Candidates less the point itself; less the last one where its repeats took the point's own place."""
    own = found == rows[:, None]
    own[~own.any(1), -1] = True
    return found[~own].reshape(len(rows), -1)


def _nearest(x: np.ndarray, rows: np.ndarray, found: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of the candidates and their distances, by differences."""
    distances = np.empty(found.shape)
    _by_differences(x, rows, found, distances)
    order = np.lexsort((found, distances), axis=1)[:, :k]
    return np.take_along_axis(found, order, 1), np.take_along_axis(distances, order, 1)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _by_differences(x, rows, found, distances):
    """Distances of points from their candidates."""
    for i in range(len(rows)):
        for c in range(found.shape[1]):
            total = 0.0
            for d in range(x.shape[1]):
                total += (np.float64(x[rows[i], d]) - np.float64(x[found[i, c], d])) ** 2
            distances[i, c] = np.sqrt(total)
