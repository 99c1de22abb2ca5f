"""Exact nearest neighbours of all points by single-precision blocks, each pair once, and proven in double precision."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numba import njit

# Points on either side of a block: its 2 MiB of products stay in the cache of a core.
_BLOCK = 768
# Products that are looked at together.
_RUN = 32
_TWO = np.float32(2)  # a plain 2 would make bounds double, and slow
# Half the distance from 1 to the next number in single precision.
_UNIT = 2.0**-24
# Products of points this near the mean, in units of the largest coordinate, may be lost in single precision.
_SMALLEST = 1e-30


def likely_nearest(
    x: Float[np.ndarray, "point feature"], n_found: int
) -> tuple[Int[np.ndarray, "point found"], Float[np.ndarray, " point"]]:
    """Candidates for the nearest others of every point, and how near any other point can be at most.

    Squared distances are made of products in single precision. Whatever the order of summation, rounding moves one by at most
    (d + 16) u (|a|^2 + |b|^2), with d features and u = 2^-24; candidates are those of the smallest lower bounds.

    Parameters
    ----------
    x
        Points, finite and not all the same.
    n_found
        Candidates of each point, fewer than the points.

    Returns
    -------
    candidates, beyond
        Numbers of other points, in no order; and a distance that no point left out is nearer than.
    """
    n, d = x.shape
    mean = x.mean(0, dtype=np.float64)
    parts = [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
    scale = 1 / max(float(np.abs(x[part] - mean).max()) for part in parts)
    points, lower = np.empty(x.shape, dtype=np.float32), np.empty(n, dtype=np.float32)
    for part in parts:
        points[part] = (x[part] - mean) * scale
        # Their sum less twice the product is then a lower bound instead of the squared distance.
        squares = np.einsum("nd,nd->n", points[part], points[part], dtype=np.float64)
        lower[part] = (1 - (d + 16) * _UNIT) * squares - _SMALLEST
    found, bounds = np.zeros((n, n_found), dtype=np.int32), np.full((n, n_found), np.inf, dtype=np.float32)
    worst = bounds[:, -1].copy()
    for row in range(0, n, _BLOCK):
        for column in range(row, n, _BLOCK):
            products = points[row : row + _BLOCK] @ points[column : column + _BLOCK].T
            _take(products, row, column, lower, found, bounds, worst)
    return found.astype(np.int64), np.sqrt(np.maximum(worst.astype(np.float64), 0)) / scale


@njit(cache=True, nogil=True)
def _take(products, row, column, lower, found, bounds, worst):
    """Lay a block of products beside the candidates of its rows and of its columns."""
    n = products.shape[1]
    others, limits = lower[column : column + n], worst[column : column + n]
    for a in range(products.shape[0]):
        i = row + a
        own, line, first = lower[i], products[a], max(0, i + 1 - column)
        for start in range(first // _RUN * _RUN, n, _RUN):
            # Most runs hold no candidate. Without a branch inside, this is eight or sixteen products at a time.
            limit, near = worst[i], start + _RUN > n
            if not near:
                for b in range(start, start + _RUN):
                    bound = own + others[b] - _TWO * line[b]
                    near |= (bound < limit) | (bound < limits[b])
            if near:
                for b in range(max(start, first), min(start + _RUN, n)):
                    bound = own + others[b] - _TWO * line[b]
                    if bound < worst[i]:
                        _insert(i, column + b, bound, found, bounds, worst)
                    if bound < limits[b]:
                        _insert(column + b, i, bound, found, bounds, worst)


@njit(cache=True, nogil=True)
def _insert(i, j, bound, found, bounds, worst):
    """Put j among the candidates of i, which ascend by their bounds, in the place of the last."""
    at = bounds.shape[1] - 1
    while at > 0 and bounds[i, at - 1] > bound:
        bounds[i, at], found[i, at] = bounds[i, at - 1], found[i, at - 1]
        at -= 1
    bounds[i, at], found[i, at] = bound, j
    worst[i] = bounds[i, -1]
