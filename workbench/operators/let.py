"""LET's loss and its minimum, compiled: a preconditioned L-BFGS that runs to the optimum and needs no lock of Python."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit
from numpy.polynomial import Chebyshev, Polynomial

from workbench.errors import EvaluationError

# A latent's direction is z / sqrt(|z|^2 + (_FLOOR times the anchors' root mean square of |z|)^2). Without it the direction
# jumps as z passes 0, and the loss has optima that no fit can reach: some anchor at 0, its direction chosen freely.
_FLOOR = 1e-3
_MEMORY = 100  # pairs of steps that L-BFGS keeps
_FIRST = 50  # steps before the preconditioner is made anew
_LONGER = 1.4  # times as many each later time: fewer forget what was learnt too often, more go on along old axes
_TRIES = 40  # of a line search
_NONE = 1e-6  # gradient at the start that counts as none: the start is the optimum then
_SHARE = 0.3  # of the angles' curvature in the preconditioner; the squares of all other pairs damp it


@dataclass(frozen=True)
class Optimum:
    """Where a fit ended.

    Attributes
    ----------
    w, b
        W and b in the coordinates of the points, W in the gauge that `minimised` describes.
    stress, reconstruction
        Both terms of the loss.
    n_iter
        Steps of L-BFGS that were taken in all.
    gradient
        Norm of the gradient, relative to that at the start.
    stopped
        Why: ``gradient`` (at most the tolerance), ``steps`` (none left) or ``rounding`` (no step lowers the loss).
    """

    w: Float[np.ndarray, "k axis"]
    b: Float[np.ndarray, " axis"]
    stress: float
    reconstruction: float
    n_iter: int
    gradient: float
    stopped: str


def weights_of(given: Float[np.ndarray, " anchor"] | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of anchors (sum 1) and of their pairs (symmetric, 0 on the diagonal, sum 1 above it).

    Parameters
    ----------
    given
        Weight of each anchor, of which only ratios count; all equal when None.
    n
        Number of anchors, two or more.

    Raises
    ------
    EvaluationError
        If a weight is no number above zero.
    """
    weights = np.ones(n) if given is None else np.asarray(given, dtype=np.float64)
    if weights.shape != (n,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise EvaluationError(f"{n} anchors need {n} weights above zero; found {weights.size}, or some that are not.")
    of_pair = np.outer(weights, weights)
    np.fill_diagonal(of_pair, 0)
    return weights / weights.sum(), of_pair / np.triu(of_pair, 1).sum()


def minimised(
    points: Float[np.ndarray, "anchor axis"],
    distances: Float[np.ndarray, "anchor anchor"],
    weights: Float[np.ndarray, " anchor"] | None,
    *,
    k: int,
    alpha: float,
    beta: float,
    steps: int,
    tol: float,
) -> Optimum:
    """Minimise stress and reconstruction over W and b, from the first k axes of the points.

    A rotation of the latent changes nothing in the loss. Of all rotations the one is returned in which W is nearest to
    its start: then its first k columns are symmetric and have no negative eigenvalue.

    Parameters
    ----------
    points
        Anchors on their principal axes, mean 0, total variance 1.
    distances, weights
        Ruler distances and weights of the anchors, as `LETAdaptor.fit` takes them.
    k, alpha, beta, steps, tol
        As in `LETAdaptor`.
    """
    of_anchor, of_pair = weights_of(weights, len(points))
    axes = points.shape[1]
    given = np.ascontiguousarray(distances, dtype=np.float64), of_anchor, of_pair, float(beta), float(alpha)
    w, b, turned, least, n_iter, phase = np.eye(k, axes), np.zeros(axes), np.eye(axes), -1.0, 0, _FIRST
    while True:
        own = points @ turned
        around, turn, curvature = _separated(own @ w.T - w @ b, own, of_anchor, beta, alpha)
        turned, own, w, b = turned @ turn, np.ascontiguousarray(own @ turn), around.T @ w @ turn, b @ turn
        scale = 1 / np.sqrt(curvature)
        flat = np.concatenate([w.ravel(), b])
        if least < 0:
            start = max(float(np.linalg.norm(loss(flat, k, own, *given)[2])), _NONE)
            least = tol * start
        flat, taken, norm, stuck = _descend(flat / scale, scale, min(phase, steps - n_iter), least, k, own, *given)
        w, b = (flat * scale)[: k * axes].reshape(k, axes), (flat * scale)[k * axes :]
        n_iter, phase = n_iter + taken, int(_LONGER * phase)
        if norm <= least or stuck or n_iter == steps:
            break
    stress, rebuilt, _ = loss(flat * scale, k, own, *given)
    w, b = w @ turned.T, b @ turned.T
    u, _, vt = np.linalg.svd(w[:, :k] @ np.eye(min(k, axes), k))
    stopped = "gradient" if norm <= least else "rounding" if stuck else "steps"
    return Optimum((u @ vt).T @ w, b, stress, rebuilt, n_iter, norm / start, stopped)


def _of_square(square: np.ndarray) -> np.ndarray:
    root = np.sqrt(square)
    return np.where(square > 1e-9, np.arcsin(root) / np.where(root > 0, root, 1), 1 + square / 6)


# arcsin(s) / s as a polynomial in s^2 for s up to 1/2, to 2e-15, the highest power first. The arccosine of the C library is a call
# for each pair, and was half of a fit over 100 anchors; plain arithmetic goes eight pairs at a time.
_ARCSINE = tuple(
    Chebyshev.interpolate(_of_square, 12, domain=[0, 0.25]).convert(kind=Polynomial, window=[-1, 1]).coef[::-1].tolist()
)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _of_pairs(cosines, distances, of_pair, beta, pulls, losses):
    """Weighted squared errors of the angles of some pairs, and their derivatives by the cosines, into the last two."""
    for j in range(len(cosines)):
        c = min(1.0, max(-1.0, cosines[j]))
        size = abs(c)
        wide = size <= 0.5
        square = size * size if wide else 0.5 * (1.0 - size)
        share = 0.0
        for coefficient in _ARCSINE:
            share = share * square + coefficient
        sine = (size if wide else math.sqrt(square)) * share
        angle = 0.5 * math.pi - sine if wide else 2.0 * sine
        residual = beta * (angle if c >= 0 else math.pi - angle) - distances[j]
        weighted = of_pair[j] * residual
        losses[j] = weighted * residual
        # d angle / d cosine = -1 / sin(angle). (1 - c)(1 + c) and not 1 - c^2, which would lose half the digits of a small
        # angle. Directions are shorter than 1, so the sine of an angle between them is never 0 but for rounding.
        pulls[j] = -2.0 * beta * weighted / math.sqrt(max((1.0 - c) * (1.0 + c), 1e-16))


@njit(cache=True, nogil=True)
def _pull(cosine, distances, of_pair, beta):
    """Weighted squared error of the angles over pairs; `cosine` becomes its derivative by itself, 0 on the diagonal."""
    n, total = len(cosine), 0.0
    pulls, losses = np.empty(n), np.empty(n)
    for i in range(n):
        _of_pairs(cosine[i, i + 1 :], distances[i, i + 1 :], of_pair[i, i + 1 :], beta, pulls, losses)
        cosine[i, i] = 0.0
        for j in range(i + 1, n):
            total += losses[j - i - 1]
            cosine[i, j] = pulls[j - i - 1]
            cosine[j, i] = pulls[j - i - 1]
    return total


@njit(cache=True, nogil=True)
def loss(flat, k, points, distances, of_anchor, of_pair, beta, alpha):
    """Both terms, and the gradient of their sum.

    Parameters
    ----------
    flat
        W, k by axis and row by row, and b after it, as one vector.
    k
        Width of the latent, 1 or more.
    points, distances
        Anchors, shape (anchor, axis), and ruler distances between them, shape (anchor, anchor).
    of_anchor, of_pair
        Weights of anchors and of their pairs, as `weights_of` makes them.
    beta, alpha
        Ruler units per radian, and the weight of the reconstruction.

    Returns
    -------
    stress, reconstruction, gradient
        Two numbers, and a vector like `flat`.
    """
    n, axes = points.shape
    w, b = flat[: k * axes].reshape(k, axes), flat[k * axes :]
    z, at_b = np.dot(points, w.T), np.dot(w, b)
    size, length, mean = np.zeros(n), np.zeros(n), np.zeros(axes)
    spread = square = 0.0
    for i in range(n):
        for j in range(k):
            z[i, j] -= at_b[j]
            size[i] += z[i, j] * z[i, j]
        spread += of_anchor[i] * size[i]
        for j in range(axes):
            mean[j] += of_anchor[i] * points[i, j]
            square += of_anchor[i] * points[i, j] * points[i, j]
    floor = _FLOOR * _FLOOR
    unit = np.empty_like(z)
    for i in range(n):
        length[i] = math.sqrt(size[i] + floor * spread + 1e-300)
        for j in range(k):
            unit[i, j] = z[i, j] / length[i]
    pull = np.dot(unit, unit.T)
    stress = _pull(pull, distances, of_pair, beta)
    slope = np.dot(pull, unit)
    # Nothing pulls along z itself but for the floor, by z's own length and by that of all.
    along, every = np.zeros(n), 0.0
    for i in range(n):
        for j in range(k):
            along[i] -= slope[i, j] * unit[i, j]
        along[i] /= length[i] * length[i]
        every += along[i]
    # With y = points - b and z = y W^T the error is z W - y, and |z W - y|^2 = z W W^T z - 2 z z + y y: only products with W
    # itself have the length of the features. Its slope along z is 2 alpha a (z W W^T - z).
    through, weighted = np.dot(z, np.dot(w, w.T)), np.empty_like(z)
    rebuilt = square - 2 * np.dot(mean, b) + np.dot(b, b)
    total, sum_z, sum_weighted = np.zeros(k), np.zeros(k), np.zeros(k)
    for i in range(n):
        for j in range(k):
            weighted[i, j] = of_anchor[i] * z[i, j]
            rebuilt += weighted[i, j] * (through[i, j] - 2 * z[i, j])
            of_z = slope[i, j] / length[i] + z[i, j] * (along[i] + floor * every * of_anchor[i])
            of_z += 2 * alpha * of_anchor[i] * (through[i, j] - z[i, j])
            sum_z[j] += of_z
            sum_weighted[j] += weighted[i, j]
            slope[i, j] = of_z - 2 * alpha * weighted[i, j]
            total[j] += slope[i, j]
    # W gets the slope along z by z = y W^T, and where it rebuilds y once more: 2 alpha a z (z W - y). So does b, by y. Both
    # are multiplied out, so that no y is made.
    gradient = np.empty_like(flat)
    of_w, again = np.dot(slope.T, points), np.dot(np.dot(z.T, weighted), w)
    of_b, more = np.dot(sum_z, w), np.dot(sum_weighted, w)
    for j in range(axes):
        for i in range(k):
            gradient[i * axes + j] = of_w[i, j] - total[i] * b[j] + 2 * alpha * again[i, j]
        gradient[k * axes + j] = 2 * alpha * (more[j] - mean[j] + b[j]) - of_b[j]
    return stress, alpha * rebuilt, gradient


# Sums may be added up in any order: then they go eight at a time. BLAS costs more to call than such a short vector to read.
@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(one, other):
    total = 0.0
    for i in range(len(one)):
        total += one[i] * other[i]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _add(to, times, what):
    for i in range(len(to)):
        to[i] += times * what[i]


@njit(cache=True, nogil=True)
def _direction(gradient, steps, changes, curved, used, last):
    """The two loops of L-BFGS: minus the inverse of its Hessian times the gradient."""
    direction, taken = -gradient, np.zeros(used)
    for back in range(used):
        at = (last - back) % _MEMORY
        taken[back] = _dot(steps[at], direction) / curved[at]
        _add(direction, -taken[back], changes[at])
    if used:
        direction *= curved[last] / _dot(changes[last], changes[last])
    for back in range(used - 1, -1, -1):
        at = (last - back) % _MEMORY
        _add(direction, taken[back] - _dot(changes[at], direction) / curved[at], steps[at])
    return direction


@njit(cache=True, nogil=True)
def _descend(x, scale, most, least, k, points, distances, of_anchor, of_pair, beta, alpha):
    """L-BFGS in scaled coordinates, at most so many steps, until the plain gradient's norm is at most `least`.

    Where it ended, number of steps, that norm, and whether no step lowers the loss any more.
    """
    steps, changes, curved = np.zeros((_MEMORY, len(x))), np.zeros((_MEMORY, len(x))), np.zeros(_MEMORY)
    stress, rebuilt, plain = loss(x * scale, k, points, distances, of_anchor, of_pair, beta, alpha)
    value, gradient, norm = stress + rebuilt, plain * scale, math.sqrt(np.dot(plain, plain))
    used, last, taken, stuck = 0, -1, 0, False
    while taken < most and norm > least and not stuck:
        direction = _direction(gradient, steps, changes, curved, used, last)
        down = np.dot(gradient, direction)
        low, high, found = 0.0, np.inf, False
        step = 1.0 if used else min(1.0, 1.0 / math.sqrt(-down))
        for _ in range(_TRIES):
            at = x + step * direction
            stress, rebuilt, plain = loss(at * scale, k, points, distances, of_anchor, of_pair, beta, alpha)
            now, slopes = stress + rebuilt, plain * scale
            slope = np.dot(slopes, direction)
            # Near the optimum the loss itself is all rounding; its slope says then whether enough was won (Hager and Zhang).
            level = now <= value + 1e-13 * abs(value) and slope <= -0.9998 * down
            if not (level or now <= value + 1e-4 * step * down):
                high = step
            elif slope < 0.9 * down:
                low = step
            else:
                found = True
                break
            step = (low + high) / 2 if high < np.inf else 2 * step
        if not found:
            # What was remembered is forgotten first: then the direction is that of the gradient.
            stuck = used == 0
            used, last = 0, -1
            continue
        moved, changed = at - x, slopes - gradient
        curve = np.dot(moved, changed)
        if curve > 0:
            last = (last + 1) % _MEMORY
            used = min(used + 1, _MEMORY)
            steps[last], changes[last], curved[last] = moved, changed, curve
        x, value, gradient, norm = at, now, slopes, math.sqrt(np.dot(plain, plain))
        taken += 1
    return x, taken, norm, stuck


def _separated(z: np.ndarray, points: np.ndarray, of_anchor: np.ndarray, beta: float, alpha: float) -> tuple[Any, ...]:
    """Axes of latent and points in which the loss is nearly separable, and its curvature there by W and by b.

    The reconstruction bends W by the variances of the latent and of the points; the angles bend each anchor's z by
    1 / |z|^2. Both are Kronecker products, which their eigenvectors make diagonal.
    """
    size = (z * z).sum(1)
    bend = _SHARE * 4 * beta**2 * of_anchor / (max(z.shape[1] - 1, 1) * np.maximum(size, 0.05 * size.mean()))
    of_axis, turn = np.linalg.eigh(points.T @ (bend[:, None] * points))
    of_latent, around = np.linalg.eigh(z.T @ (of_anchor[:, None] * z))
    variance = of_anchor @ (points @ turn) ** 2
    of_w = np.maximum(of_axis, 0) + 2 * alpha * (np.maximum(of_latent, 0)[:, None] + variance)
    of_b = np.full(len(of_axis), 2 * alpha + bend.sum())
    return around, turn, np.maximum(np.concatenate([of_w.ravel(), of_b]), 1e-12)
