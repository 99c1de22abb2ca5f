"""Likeness of two spaces of the same points: linear CKA, and angles between their principal components."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import Points, check_points


def cka(x: Points, y: Float[np.ndarray, "point other"], *, debiased: bool = True) -> float:
    """Linear CKA of two spaces of the same points (Kornblith et al. 2019), 1 where one is the other turned, shifted or scaled.

    Debiased: of the unbiased estimate of HSIC (Song et al. 2012; Nguyen, Raghu & Kornblith 2021), which is 0 on average for spaces that have
    nothing in common and may be negative. The plain one then is not 0: about 1 - 1.06 (k - 1) / (d + k) for k centroids in d dimensions.
    Unchanged by turning, shifting and one scale for all of either space, and by the order of points; the plain one by repeating all
    points as well.

    Parameters
    ----------
    x, y
        The same points in both spaces, in the same order; four or more.
    debiased
        False: the plain one, from 0 to 1.

    Returns
    -------
    float
        NaN where a space is so noisy that its own unbiased estimate is not above 0.

    Raises
    ------
    EvaluationError
        If the spaces differ in points, or points are unusable.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.likeness import cka
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.normal(size=(2, 15, 512))
    >>> bool(abs(cka(x, y)) < 0.1), bool(cka(x, y, debiased=False) > 0.9)
    (True, True)
    """
    x, y = _both(x, y, 4 if debiased else 2)
    return cka_of(hsic(x, y), hsic(x, x), hsic(y, y))[int(debiased)]


def cka_of(cross: tuple[float, float], of_x: tuple[float, float], of_y: tuple[float, float]) -> tuple[float, float]:
    """Plain and debiased CKA from what `hsic` gives: for one space beside many, its own is made once.

    Parameters
    ----------
    cross
        Of one space with the other.
    of_x, of_y
        Of each space with itself.
    """

    def one(i: int) -> float:
        known = of_x[i] > 0 and of_y[i] > 0
        return float(cross[i] / np.sqrt(of_x[i] * of_y[i])) if known else float("nan")

    return one(0), one(1)


def hsic(x: Points, y: Float[np.ndarray, "point other"]) -> tuple[float, float]:
    """Hilbert-Schmidt independence criterion of two spaces with a linear kernel: plain and unbiased, without their factors.

    Parameters
    ----------
    x, y
        The same points in both spaces, **centred**, in the same order. The unbiased one is NaN for fewer than four.
    """
    n = len(x)
    whole = float(((x.T @ y) ** 2).sum() if x.shape[1] * y.shape[1] <= n * n else ((x @ x.T) * (y @ y.T)).sum())
    if n < 4:
        return whole, float("nan")
    # Kernels lose their diagonals, of which the sums over rows of centred ones are the negatives.
    one, other = (np.einsum("nd,nd->n", a, a, dtype=np.float64) for a in (x, y))
    return whole, whole - n / (n - 2) * float(one @ other) + float(one.sum() * other.sum()) / ((n - 1) * (n - 2))


def principal_angle(x: Points, y: Float[np.ndarray, "point other"], axes: int = 20) -> float:
    """Mean angle, in degrees, between what the leading principal components of two spaces tell of the same points.

    Of the scores on the first `axes` components of each: 0 where they span the same, 90 where they share nothing. Unchanged by turning,
    shifting and one scale for all of either space, by the order of points and by repeating all of them. By chance the mean squared
    cosine is axes / (points - 1).

    Parameters
    ----------
    x, y
        As in `cka`.
    axes
        Components of each space, fewer than the points and at most the coordinates of the narrower space, which are taken where it has fewer.

    Raises
    ------
    EvaluationError
        As `cka`.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.likeness import principal_angle
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> round(principal_angle(x, x[:, ::-1] * 3 + 1, axes=4), 3)
    0.0
    """
    x, y = _both(x, y, 2)
    axes = min(axes, x.shape[1], y.shape[1], len(x) - 1)
    return angle_between(leading_scores(x, axes), leading_scores(y, axes))


def angle_between(one: Float[np.ndarray, "point axis"], other: Float[np.ndarray, "point axis2"]) -> float:
    """Mean principal angle, in degrees, between the spans of orthonormal columns.

    Parameters
    ----------
    one, other
        From `leading_scores`; of the wider one as many directions count as the narrower has.
    """
    cosines = np.linalg.svd(one.T @ other, compute_uv=False)
    return float(np.degrees(np.arccos(np.clip(cosines, 0, 1))).mean())


def leading_scores(x: Points, axes: int) -> Float[np.ndarray, "point axis"]:
    """Orthonormal scores on the leading principal components; fewer where points have fewer.

    Parameters
    ----------
    x
        Points, **centred**, one row each.
    axes
        Components to keep, at most.
    """
    if x.shape[1] <= len(x):
        values, vectors = np.linalg.eigh(x.T @ x)
        scores = x @ vectors[:, ::-1][:, :axes]
    else:
        values, scores = np.linalg.eigh(x @ x.T)
        scores = scores[:, ::-1][:, :axes]
    real = values[::-1][:axes] > 1e-12 * values[-1]
    return scores[:, real] / np.linalg.norm(scores[:, real], axis=0)


def _both(x: np.ndarray, y: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    if len(x) != len(y):
        raise EvaluationError(f"One space has {len(x)} points, the other {len(y)}; give both of the same points.")
    x, y = check_points(x, least - 1), check_points(y, least - 1)
    return x - x.mean(0), y - y.mean(0)
