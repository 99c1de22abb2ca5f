"""Exact nearest neighbours of all points by single-precision blocks, each pair once, and proven in double precision."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from scipy.linalg import eigh

# Points on either side of a block: its 2 MiB of products stay in the cache of a core.
_BLOCK = 768
# Products that are looked at together.
_RUN = 32
_TWO = np.float32(2)  # a plain 2 would make bounds double, and slow
# Half the distance from 1 to the next number in single precision.
_UNIT = 2.0**-24
# Products of points this near the mean, in units of the largest coordinate, may be lost in single precision.
_SMALLEST = 1e-30
# Points for each feature from which on leading coordinates are worth their axes, and which share of the features they are.
_MANY, _LEADING = 8, 8
# Of a block, the share of pairs that may be looked at one by one: beyond it, products of all are quicker.
_FEW_PAIRS = 16
# Blocks after which leading coordinates are given up where they leave too many pairs open in most.
_TRIES = 8


def likely_nearest(
    x: Float[np.ndarray, "point feature"], n_found: int
) -> tuple[Int[np.ndarray, "point found"], Float[np.ndarray, " point"]]:
    """Candidates for the nearest others of every point, and how near any other point can be at most.

    Squared distances are made of products in single precision. Whatever the order of summation, rounding moves one by at most
    (d + 16) u (|a|^2 + |b|^2), with d features and u = 2^-24; candidates are those of the smallest lower bounds.

    Of many points, most pairs are ruled out by fewer coordinates: those along the widest axes, and as one more the length of
    what is left. No distance among these is longer than the whole one.

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
    points = np.empty(x.shape, dtype=np.float32)
    for part in parts:
        points[part] = (x[part] - mean) * scale
    order = None
    if n >= _MANY * d and d // _LEADING > 1:
        leading = _leading(points, d // _LEADING)
        order = _by_halves(leading)
        points, leading = points[order], leading[order]
        # 16 more: what is left is known to the last digits of the whole.
        leading_lower = _lower(leading, leading.shape[1] + 32)
    lower = _lower(points, d + 16)
    found, bounds = np.zeros((n, n_found), dtype=np.int32), np.full((n, n_found), np.inf, dtype=np.float32)
    worst = bounds[:, -1].copy()

    def take(rows: slice, columns: slice, of: np.ndarray, its_lower: np.ndarray, pairs: int) -> int:
        products = of[rows] @ of[columns].T
        at = (rows.start, columns.start)
        return _take(products, at, its_lower, pairs, points, lower, found, bounds, worst)

    for part in parts:  # first, since points of one block are near each other where they are in order
        take(part, part, points, lower, 0)
    tried = given_up = 0
    for i, rows in enumerate(parts):
        for columns in parts[i + 1 :]:
            done = 0
            if order is not None and not (given_up >= _TRIES and 2 * given_up > tried):
                pairs = _BLOCK**2 // _FEW_PAIRS
                done = take(rows, columns, leading, leading_lower, pairs)
                tried, given_up = tried + 1, given_up + (rows.start + done < min(rows.stop, n))
            if rows.start + done < min(rows.stop, n):
                take(slice(rows.start + done, rows.stop), columns, points, lower, 0)
    beyond = np.sqrt(np.maximum(worst.astype(np.float64), 0)) / scale
    if order is None:
        return found.astype(np.int64), beyond
    found[order], beyond[order] = order[found], beyond.copy()
    return found.astype(np.int64), beyond


def _lower(points: Float[np.ndarray, "point feature"], n_roundings: int) -> Float[np.ndarray, " point"]:
    """What each of two points adds to a lower bound of their squared distance, less twice their product."""
    squares = np.einsum("nd,nd->n", points, points, dtype=np.float64)
    # In this way their sum less twice the product is a lower bound instead of the squared distance.
    return ((1 - n_roundings * _UNIT) * squares - _SMALLEST).astype(np.float32)


def _leading(points: Float[np.ndarray, "point feature"], n_axes: int) -> Float[np.ndarray, "point axis"]:
    """Coordinates along the widest axes but one, and the length of what is left."""
    d = points.shape[1]
    axes = eigh(points.T @ points, subset_by_index=(d - n_axes + 1, d - 1))[1].astype(np.float64)
    axes = np.linalg.qr(axes)[0]  # orthonormal in double precision, wherever the axes point
    found = np.empty((len(points), n_axes), dtype=np.float32)
    for start in range(0, len(points), _BLOCK):
        part = points[start : start + _BLOCK].astype(np.float64)
        along = part @ axes
        left = np.einsum("nd,nd->n", part, part) - np.einsum("na,na->n", along, along)
        found[start : start + _BLOCK] = np.column_stack([along, np.sqrt(np.maximum(left, 0))])
    return found


def _by_halves(points: Float[np.ndarray, "point axis"]) -> Int[np.ndarray, " point"]:
    """An order in which each block holds points near each other: halves across the widest coordinate, halved again."""
    order, open_ = np.arange(len(points)), [(0, len(points))]
    while open_:
        start, stop = open_.pop()
        n_blocks = -(-(stop - start) // _BLOCK)
        if n_blocks > 1:
            own, middle = order[start:stop], n_blocks // 2 * _BLOCK
            widest = points[own][:, points[own].var(0).argmax()]
            order[start:stop] = own[np.argpartition(widest, middle)]
            open_ += [(start, start + middle), (start + middle, stop)]
    return order


@njit(cache=True, nogil=True)
def _take(products, at, its_lower, pairs, points, lower, found, bounds, worst):
    """Lay a block of products beside the candidates of its rows and columns; return of how many rows.

    Products of leading coordinates only rule out: at most so many `pairs` (0: these are of all coordinates) are then looked at whole.
    """
    row, column = at
    n, n_pairs = products.shape[1], 0
    others, limits = its_lower[column : column + n], worst[column : column + n]
    for a in range(products.shape[0]):
        i = row + a
        own, line, first = its_lower[i], products[a], max(0, i + 1 - column)
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
                    if pairs and (bound < worst[i] or bound < limits[b]):
                        j, n_pairs = column + b, n_pairs + 1
                        bound = lower[i] + lower[j] - _TWO * _product(points[i], points[j])
                    if bound < worst[i]:
                        _insert(i, column + b, bound, found, bounds, worst)
                    if bound < limits[b]:
                        _insert(column + b, i, bound, found, bounds, worst)
        if n_pairs > pairs:
            return a + 1
    return products.shape[0]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _product(a, b):
    """Product of two points, its sum in whatever order is quick."""
    total = np.float32(0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@njit(cache=True, nogil=True)
def _insert(i, j, bound, found, bounds, worst):
    """Put j among the candidates of i, which ascend by their bounds, in the place of the last."""
    at = bounds.shape[1] - 1
    while at > 0 and bounds[i, at - 1] > bound:
        bounds[i, at], found[i, at] = bounds[i, at - 1], found[i, at - 1]
        at -= 1
    bounds[i, at], found[i, at] = bound, j
    worst[i] = bounds[i, -1]
