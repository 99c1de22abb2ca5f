"""LET, Latent Embedding Transfer: a linear encoder whose angles follow a ruler (method: arXiv:2603.10261)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numba import njit
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from workbench.errors import EvaluationError, ShapeError
from workbench.threads import one_thread

_SIN_FLOOR = 1e-3


# Equality and representation stay those of scikit-learn, which reads the settings off the signature.
@dataclass(eq=False, repr=False)
class LETAdaptor(TransformerMixin, BaseEstimator):
    """Linear latent z = W (f - b) whose pairwise angles reproduce ruler distances between anchors.

    Minimises, over W (k by features) and b,

        mean over pairs of (beta * angle(z_i, z_j) - d_ij)^2
        + alpha * mean over anchors of |W^T z_i + b - f_i|^2 / (total variance of f).

    The division by the total variance is ours: the paper gives neither alpha nor the scale of f, and with it alpha
    means the same whatever the operator's norm.

    Parameters
    ----------
    k
        Width of the latent, 1 or more; coordinates beyond the rank of the anchors stay zero at first.
    alpha
        Weight of the reconstruction beside the stress, 0 or more. 0: angles alone, and the lengths of z mean nothing.
    beta
        Ruler units per radian; 1 / pi makes the largest possible angle one ruler diameter.
    steps
        Iterations of L-BFGS, at most.

    Attributes
    ----------
    encoder_ : ndarray, shape (k, feature)
        W: one row per coordinate of the latent.
    bias_ : ndarray, shape (feature,)
        b: the features that are mapped to 0.
    scale_ : float
        Features are divided by this before anything else; it is folded into `encoder_`.
    stress_, reconstruction_ : float
        Both terms at the end.
    n_iter_ : int
        Iterations that L-BFGS took, `steps` at most.

    Notes
    -----
    The gradient never leaves the affine hull of the anchors, so the problem is solved exactly in at most
    (anchors - 1) coordinates. It starts from the principal axes: there is no random number in it.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.adaptor import LETAdaptor, angles
    >>> on_ruler = np.array([[0.0, 0.5, 1.0], [0.5, 0.0, 0.5], [1.0, 0.5, 0.0]])  # three stages in a row
    >>> fitted = LETAdaptor(k=2).fit(np.eye(3), on_ruler)
    >>> (angles(fitted.transform(np.eye(3))) / np.pi)[0].round(3).tolist()
    [0.0, 0.5, 1.0]
    """

    k: int = 10
    alpha: float = 0.1
    beta: float = 1 / np.pi
    steps: int = 200

    def fit(
        self,
        X: Any,
        distances: Float[np.ndarray, "anchor anchor"],
        sample_weight: Float[np.ndarray, " anchor"] | None = None,
    ) -> LETAdaptor:
        """Fit to anchors.

        Parameters
        ----------
        X
            Features of the anchors, shape (anchor, feature).
        distances
            Ruler distances between them, from 0 to 1.
        sample_weight
            Weight of each anchor in the reconstruction; a pair weighs as the product of its two. Only ratios count.

        Raises
        ------
        EvaluationError
            If the anchors do not differ in their features, or a weight is no number above zero.
        """
        X = check_array(X, dtype=np.float64)
        distances = check_array(distances, dtype=np.float64)
        n = len(X)
        if distances.shape != (n, n):
            raise ShapeError(f"{n} anchors need {n} x {n} distances; found {distances.shape}.")
        mean = X.mean(0)
        u, s, vt = np.linalg.svd(X - mean, full_matrices=False)
        rank = int((s > s[0] * 1e-10).sum()) if s[0] > 0 else 0
        if rank == 0:
            raise EvaluationError("The anchors' features do not differ: the operator maps all of them to one point.")
        self.scale_ = float(np.sqrt((s**2).sum() / n))
        points = u[:, :rank] * s[:rank] / self.scale_
        problem = _problem(points, distances, sample_weight)

        def taken_apart(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return flat[: self.k * rank].reshape(self.k, rank), flat[self.k * rank :]

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            stress, rec, grad_w, grad_b = _loss(*taken_apart(flat), problem, float(self.beta), self.alpha)
            return stress + rec, np.concatenate([grad_w.ravel(), grad_b])

        # The principal axes in the order of their variance, and b in the mean of the anchors.
        start = np.concatenate([np.eye(self.k, rank).ravel(), np.zeros(rank)])
        options = {"maxiter": self.steps, "maxcor": 20}
        with one_thread():
            found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
        w, b = taken_apart(found.x)
        self.stress_, self.reconstruction_ = map(float, _loss(w, b, problem, float(self.beta), self.alpha)[:2])
        self.encoder_ = (w @ vt[:rank]) / self.scale_
        self.bias_ = mean + (b * self.scale_) @ vt[:rank]
        self.n_iter_ = int(found.nit)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "row k"]:
        """Latent z = W (f - b).

        Parameters
        ----------
        X
            Features under the same feature map, shape (row, feature).
        """
        check_is_fitted(self)
        return (check_array(X, dtype=np.float64) - self.bias_) @ self.encoder_.T


def fit_to_ruler(
    adaptor: LETAdaptor,
    features: Float[np.ndarray, "anchor feature"],
    stage: Int[np.ndarray, " anchor"],
    ruler: Float[np.ndarray, "stage stage"],
    weights: Float[np.ndarray, " anchor"] | None = None,
    rows: Int[np.ndarray, " row"] | None = None,
) -> LETAdaptor:
    """Fit a fresh adaptor with given settings to some anchors.

    Parameters
    ----------
    adaptor
        Adaptor whose settings count; it is not changed.
    features, stage
        Features of all anchors, and the number of the stage of each.
    ruler
        Distances between all stages, by their numbers.
    weights
        Weights of all anchors, above zero; all equal by default.
    rows
        Numbers of the anchors to fit to; all by default.

    Raises
    ------
    EvaluationError
        If there are fewer than three anchors or two stages.
    """
    rows = np.arange(len(stage)) if rows is None else rows
    at = stage[rows]
    if len(at) < 3 or len(set(at.tolist())) < 2:
        raise EvaluationError(
            f"{len(at)} anchors of {len(set(at.tolist()))} stages are left to fit on; three of two stages are needed."
        )
    share = None if weights is None else weights[rows]
    return LETAdaptor(**adaptor.get_params()).fit(features[rows], ruler[np.ix_(at, at)], share)


def angles(z: Float[np.ndarray, "row k"]) -> Float[np.ndarray, "row row"]:
    """Angle between every two rows, in radians from 0 to pi.

    Parameters
    ----------
    z
        Latent, one row each; only directions matter. A row of zeros is at a right angle to all.
    """
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return np.arccos(np.clip(unit @ unit.T, -1, 1))


@dataclass(frozen=True)
class _Problem:
    """What stays the same in a fit: anchors, distances, weights, and the weighted mean and mean square of the anchors."""

    points: np.ndarray
    distances: np.ndarray
    of_anchor: np.ndarray
    of_pair: np.ndarray
    mean: np.ndarray
    square: float


def _problem(points: np.ndarray, distances: np.ndarray, given: np.ndarray | None) -> _Problem:
    """Weights of anchors have sum 1, those of pairs are a symmetric matrix with sum 1 above its diagonal."""
    n = len(points)
    weights = np.ones(n) if given is None else np.asarray(given, dtype=np.float64)
    if weights.shape != (n,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise EvaluationError(f"{n} anchors need {n} weights above zero; found {weights.size}, or some that are not.")
    of_anchor, of_pair = weights / weights.sum(), np.outer(weights, weights)
    np.fill_diagonal(of_pair, 0)
    square = float(of_anchor @ (points * points).sum(1))
    return _Problem(points, distances, of_anchor, of_pair / np.triu(of_pair, 1).sum(), of_anchor @ points, square)


@njit(cache=True, nogil=True)
def _pull(cosine, distances, of_pair, beta, floor):
    """Weighted squared error of the angles over pairs; `cosine` becomes its derivative by itself, 0 on the diagonal."""
    n = len(cosine)
    total = 0.0
    for i in range(n):
        cosine[i, i] = 0.0
        for j in range(i + 1, n):
            c = min(1.0, max(-1.0, cosine[i, j]))
            residual = beta * np.arccos(c) - distances[i, j]
            weighted = of_pair[i, j] * residual
            total += weighted * residual
            # d angle / d cosine = -1 / sin(angle), kept finite where two anchors coincide. (1 - c)(1 + c) and not 1 - c^2,
            # which would lose half the digits of a small angle.
            pull = -2.0 * beta * weighted / max(np.sqrt((1.0 - c) * (1.0 + c)), floor)
            cosine[i, j] = pull
            cosine[j, i] = pull
    return total


def _loss(
    w: np.ndarray, b: np.ndarray, problem: _Problem, beta: float, alpha: float
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Both terms and the gradient of their sum; the points have total variance 1, the weights of the anchors sum 1."""
    points, of_anchor = problem.points, problem.of_anchor
    z = points @ w.T - w @ b
    norm = np.maximum(np.sqrt((z * z).sum(1, keepdims=True)), 1e-12)
    unit = z / norm
    pull = unit @ unit.T
    stress = float(_pull(pull, problem.distances, problem.of_pair, beta, _SIN_FLOOR))
    grad_unit = pull @ unit
    # An angle does not change with the length of z, so nothing pulls along z itself.
    grad_z = (grad_unit - unit * (unit * grad_unit).sum(1, keepdims=True)) / norm
    # With y = points - b and z = y W^T the error is z W - y, and |z W - y|^2 = z W W^T z - 2 z z + y y: only products with W
    # itself have the length of the features.
    weighted, through = of_anchor[:, None] * z, z @ (w @ w.T)
    length = problem.square - 2 * (problem.mean @ b) + b @ b
    rec = alpha * float((weighted * (through - 2 * z)).sum() + length)
    # The error's slope along z is 2 alpha a (z W W^T - z).
    grad_z += 2 * alpha * of_anchor[:, None] * (through - z)
    # W gets the slope along z by z = y W^T, and where it rebuilds y once more: 2 alpha a z (z W - y). So does b, by y. Both
    # are multiplied out, so that no y is made.
    of_points = grad_z - 2 * alpha * weighted
    total = of_points.sum(0)
    grad_w = of_points.T @ points - np.outer(total, b) + 2 * alpha * (z.T @ weighted) @ w
    grad_b = 2 * alpha * (weighted.sum(0) @ w - problem.mean + b) - grad_z.sum(0) @ w
    return stress, rec, grad_w, grad_b
