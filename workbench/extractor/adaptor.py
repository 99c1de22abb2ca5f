"""LET, Latent Embedding Transfer: a linear encoder whose angles follow a ruler (method: arXiv:2603.10261)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from threadpoolctl import threadpool_limits

from workbench.errors import EvaluationError, ShapeError

_SIN_FLOOR = 1e-3


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
        Width of the latent.
    alpha
        Weight of the reconstruction.
    beta
        Ruler units per radian; 1 / pi makes the largest possible angle one ruler diameter.
    steps
        L-BFGS iterations at most.

    Attributes
    ----------
    encoder_ : ndarray, shape (k, feature)
        W.
    bias_ : ndarray, shape (feature,)
        b.
    scale_ : float
        Features are divided by this before anything else; it is folded into `encoder_`.
    stress_, reconstruction_ : float
        Both terms at the end.
    n_iter_ : int
        Iterations used.

    Notes
    -----
    The gradient never leaves the affine hull of the anchors, so the problem is solved exactly in at most
    (anchors - 1) coordinates. It starts from the principal axes: there is no random number in it.
    """

    def __init__(self, k: int = 10, alpha: float = 0.1, beta: float = 1 / np.pi, steps: int = 200) -> None:
        self.k = k
        self.alpha = alpha
        self.beta = beta
        self.steps = steps

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
        pairs = np.triu_indices(n, 1)
        of_anchor, of_pair = _weights(sample_weight, n, pairs)
        k = self.k
        start = np.zeros((k, rank))
        start[: min(k, rank), : min(k, rank)] = np.eye(min(k, rank))

        def loss(w: np.ndarray, b: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
            return _loss(w, b, points, distances, pairs, (of_anchor, of_pair), self.beta, self.alpha)

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            w, b = flat[: k * rank].reshape(k, rank), flat[k * rank :]
            stress, rec, grad_w, grad_b = loss(w, b)
            return stress + rec, np.concatenate([grad_w.ravel(), grad_b])

        # The matrices are small: more BLAS threads only wait for each other, and would make rounding depend on them.
        with threadpool_limits(1):
            found = minimize(
                objective,
                np.concatenate([start.ravel(), np.zeros(rank)]),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": self.steps, "maxcor": 20},
            )
        w, b = found.x[: k * rank].reshape(k, rank), found.x[k * rank :]
        self.stress_, self.reconstruction_ = (float(v) for v in loss(w, b)[:2])
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
            Features, shape (row, feature).
        """
        check_is_fitted(self)
        return (check_array(X, dtype=np.float64) - self.bias_) @ self.encoder_.T


def angles(z: Float[np.ndarray, "row k"]) -> Float[np.ndarray, "row row"]:
    """Angle between every two rows, in radians.

    Parameters
    ----------
    z
        Latent.
    """
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return np.arccos(np.clip(unit @ unit.T, -1, 1))


def _weights(given: np.ndarray | None, n: int, pairs: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the anchors and of the pairs, both with sum 1."""
    weights = np.ones(n) if given is None else np.asarray(given, dtype=np.float64)
    if weights.shape != (n,) or not (np.isfinite(weights) & (weights > 0)).all():
        raise EvaluationError(f"{n} anchors need {n} weights above zero; found {weights.size}, or some that are not.")
    of_pair = weights[pairs[0]] * weights[pairs[1]]
    return weights / weights.sum(), of_pair / of_pair.sum()


def _loss(
    w: np.ndarray,
    b: np.ndarray,
    points: np.ndarray,
    distances: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray],
    shares: tuple[np.ndarray, np.ndarray],
    beta: float,
    alpha: float,
) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Both terms and the gradient of their sum; `points` have total variance 1."""
    n = len(points)
    of_anchor, of_pair = shares
    y = points - b
    z = y @ w.T
    norm = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    unit = z / norm
    cosine = np.clip(unit @ unit.T, -1, 1)
    theta = np.arccos(cosine)
    residual = (beta * theta - distances)[pairs]
    stress = float(of_pair @ residual**2)
    # d angle / d cosine = -1 / sin(angle), kept finite where two anchors coincide.
    pull = np.zeros((n, n))
    pull[pairs] = -2 * beta * of_pair * residual / np.maximum(np.sin(theta[pairs]), _SIN_FLOOR)
    grad_unit = (pull + pull.T) @ unit
    grad_z = (grad_unit - unit * (unit * grad_unit).sum(1, keepdims=True)) / norm
    error = z @ w + b - points
    rec = alpha * float(of_anchor @ (error**2).sum(1))
    grad_error = 2 * alpha * of_anchor[:, None] * error
    grad_z = grad_z + grad_error @ w.T
    grad_w = grad_z.T @ y + z.T @ grad_error
    grad_b = grad_error.sum(0) - (grad_z @ w).sum(0)
    return stress, rec, grad_w, grad_b
