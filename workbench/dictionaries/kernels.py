"""Compiled loops of a training step over the few features that are active: selection, decoding, gradients, Adam.

Every sum runs in one order, whatever number of threads shares the work: rows and features are dealt out whole.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# Sums may be taken in any order within a row, which lets them use wide registers; which order is fixed when they are compiled.
_fast = njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})


@njit(cache=True, nogil=True)
def _largest(x, n, k):  # type: ignore[no-untyped-def]
    """The k-th largest of the first n numbers, which are put into another order; numpy.partition takes twice as long on a few."""
    low, high = 0, n - 1
    while low < high:
        middle = x[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while x[i] > middle:
                i += 1
            while x[j] < middle:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i, j = i + 1, j - 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            break
    return x[k - 1]


@njit(cache=True, nogil=True)
def top_of_rows(  # type: ignore[no-untyped-def]
    pre, lengths, k, features, values
):
    """The k features of each row that are the largest in units of their decoder's length, ascending; of equals the first.

    Parameters
    ----------
    pre
        Activations of all features in units of what they write, (row, feature).
    lengths
        Length of what each feature writes.
    k
        How many features of each row are chosen.
    features, values
        Written: the features, (row, k), and their activations, 0 where they are below 0.
    """
    n, width = pre.shape
    # The k-th largest of the maxima of 2 k groups bounds the k-th largest of all from below: few features are left to compare.
    n_groups = min(2 * k, width)
    scaled = np.empty(width, np.float32)
    tops, found = np.empty(width, np.float32), np.empty(width + 1, np.int32)
    values[:], features[:] = 0, 0
    for row in range(n):
        for j in range(width):
            scaled[j] = pre[row, j] * lengths[j]
        tops[:n_groups] = scaled[:n_groups]
        for start in range(n_groups, width - n_groups + 1, n_groups):
            for j in range(n_groups):
                other = scaled[start + j]
                tops[j] = other if other > tops[j] else tops[j]
        bound = _largest(tops, n_groups, k)
        m = 0
        for j in range(width):
            found[m] = j
            m += scaled[j] >= bound
        for i in range(m):
            tops[i] = scaled[found[i]]
        last = _largest(tops, m, min(k, m))
        over = 0
        for i in range(m):
            over += scaled[found[i]] > last
        equal, at = k - over, 0
        for i in range(m):
            j = found[i]
            if scaled[j] > last or (scaled[j] == last and equal > 0):
                equal -= scaled[j] == last
                features[row, at] = j
                values[row, at] = max(pre[row, j], np.float32(0))
                at += 1


@njit(cache=True, nogil=True)
def over(pre, lengths, floor, counts, features, values):  # type: ignore[no-untyped-def]
    """Features that are larger than a floor in units of their decoder's length, row by row and ascending.

    Parameters
    ----------
    pre, lengths
        As in `top_of_rows`.
    floor
        Number that they are larger than, at least 0.
    counts, features, values
        Written: how many each row has, (row); which they are, and their activations, with room for all there are.

    Returns
    -------
    int
        How many they are.
    """
    at = 0
    for row in range(len(pre)):
        start = at
        for j in range(pre.shape[1]):
            if pre[row, j] * lengths[j] > floor:
                features[at], values[at] = j, pre[row, j]
                at += 1
        counts[row] = at - start
    return at


@_fast
def reconstruct(  # type: ignore[no-untyped-def]
    x, scale, starts, features, values, decoder, bias, ends, weight, first, residual, gradients
):
    """What active features stand for, how far it is from the rows, and what that asks of each activation.

    Parameters
    ----------
    x, scale
        Rows that are to come out, (row, d_out), and what they are multiplied by.
    starts, features, values
        Active features of row r and their activations are those from ``starts[r]`` to ``starts[r + 1]``, ascending.
    decoder, bias
        What each feature writes, (feature, d_out), and what is always written.
    ends
        Widths of nested dictionaries, ascending; the last is the whole one.
    weight
        What an error is multiplied by to give the gradient of the loss.
    first
        Number of the first row in `residual`, which is of the whole batch.
    residual
        Written: gradient of the loss over what the features of each nested dictionary write, (level, row, d_out).
    gradients
        Written: gradient of the loss over each activation.

    Returns
    -------
    tuple
        The squared error of the whole dictionary, and the gradient over the bias, (d_out).
    """
    n_levels, d = len(ends), x.shape[1]
    error, total = np.float64(0), np.zeros(d, np.float64)
    out = np.empty(d, np.float32)
    for row in range(len(x)):
        to = first + row
        out[:] = bias
        p, end = starts[row], starts[row + 1]
        for level in range(n_levels):
            while p < end and features[p] < ends[level]:
                if p + 3 < end and features[p + 3] < ends[level]:
                    a, b, c, e = values[p], values[p + 1], values[p + 2], values[p + 3]
                    A, B = decoder[features[p]], decoder[features[p + 1]]
                    C, E = decoder[features[p + 2]], decoder[features[p + 3]]
                    for i in range(d):
                        out[i] += a * A[i] + b * B[i] + c * C[i] + e * E[i]
                    p += 4
                else:
                    a, A = values[p], decoder[features[p]]
                    for i in range(d):
                        out[i] += a * A[i]
                    p += 1
            for i in range(d):
                residual[level, to, i] = out[i] - x[row, i] * scale
        own = np.float32(0)
        for i in range(d):
            own += residual[n_levels - 1, to, i] * residual[n_levels - 1, to, i]
        error += own
        # What a feature writes is part of every dictionary that it is in.
        for i in range(d):
            residual[n_levels - 1, to, i] *= weight
        for level in range(n_levels - 2, -1, -1):
            for i in range(d):
                residual[level, to, i] = residual[level, to, i] * weight + residual[level + 1, to, i]
        for i in range(d):
            total[i] += residual[0, to, i]
        level = 0
        for p in range(starts[row], end):
            while features[p] >= ends[level]:
                level += 1
            a = np.float32(0)
            if values[p] > 0:
                A = decoder[features[p]]
                for i in range(d):
                    a += residual[level, to, i] * A[i]
            gradients[p] = a
    return error, total


@njit(cache=True, nogil=True)
def by_feature(starts, features, values, width):  # type: ignore[no-untyped-def]
    """Active places in order of their features, within a feature in that of their rows.

    Parameters
    ----------
    starts, features, values
        As in `reconstruct`; places without an activation are left out.
    width
        Number of features of the dictionary, silent ones among them.

    Returns
    -------
    tuple
        Where each feature's places start, (width + 1); their numbers; their rows.
    """
    at = np.zeros(width + 1, np.int64)
    for p in range(len(features)):
        at[features[p] + 1] += values[p] > 0
    for j in range(width):
        at[j + 1] += at[j]
    bounds = at.copy()
    places, rows = np.empty(at[width], np.int32), np.empty(at[width], np.int32)
    for row in range(len(starts) - 1):
        for p in range(starts[row], starts[row + 1]):
            if values[p] > 0:
                to = at[features[p]]
                places[to], rows[to] = p, row
                at[features[p]] += 1
    return bounds, places, rows


@_fast
def gather(bounds, rows, weights, x, block, total):  # type: ignore[no-untyped-def]
    """Sums of weighted rows, one for each feature.

    Parameters
    ----------
    bounds
        Where each feature's places start, one more than features.
    rows, weights
        The row and the weight of each place, rows ascending within a feature.
    x
        What is added up, (row, number).
    block
        Rows that are gone through by all features before the next ones, few enough to stay in the cache.
    total
        Written: the sum of each feature, (feature, number).
    """
    n, d = len(bounds) - 1, x.shape[1]
    total[:] = 0
    at = bounds[:n].copy()
    for last in range(block, len(x) + block, block):
        for j in range(n):
            out = total[j]
            p, end = at[j], bounds[j + 1]
            while p + 3 < end and rows[p + 3] < last:
                a, b, c, e = weights[p], weights[p + 1], weights[p + 2], weights[p + 3]
                A, B, C, E = x[rows[p]], x[rows[p + 1]], x[rows[p + 2]], x[rows[p + 3]]
                for i in range(d):
                    out[i] += a * A[i] + b * B[i] + c * C[i] + e * E[i]
                p += 4
            while p < end and rows[p] < last:
                a, A = weights[p], x[rows[p]]
                for i in range(d):
                    out[i] += a * A[i]
                p += 1
            at[j] = p


@_fast
def squares(x):  # type: ignore[no-untyped-def]
    """Sum of the squares of each row.

    Parameters
    ----------
    x
        A matrix in single precision, (row, number).
    """
    found = np.empty(len(x), np.float32)
    for j in range(len(x)):
        own = np.float32(0)
        for i in range(x.shape[1]):
            own += x[j, i] * x[j, i]
        found[j] = own
    return found


@_fast
def adam(weights, gradient, mean, square, clip, size, beta1, beta2, correction, eps):  # type: ignore[no-untyped-def]
    """A step of Adam, as torch takes it.

    Parameters
    ----------
    weights, mean, square
        Changed in place: what is trained, and both moments, (row, number).
    gradient
        The gradient, before it is made shorter.
    clip
        Number that the gradient is multiplied by.
    size
        Rate over the correction of the first moment.
    beta1, beta2, eps
        The constants of Adam, as torch names them.
    correction
        Root of the correction of the second moment.
    """
    one = np.float32(1)
    for j in range(len(weights)):
        for i in range(weights.shape[1]):
            g = gradient[j, i] * clip
            m = mean[j, i] + (one - beta1) * (g - mean[j, i])
            v = beta2 * square[j, i] + (one - beta2) * g * g
            mean[j, i], square[j, i] = m, v
            weights[j, i] -= size * (m / (math.sqrt(v) / correction + eps))
