"""LET, Latent Embedding Transfer: a linear encoder whose angles follow a ruler (method: arXiv:2603.10261)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, check_is_fitted

from workbench.errors import EvaluationError, ShapeError
from workbench.operators.let import minimised
from workbench.threads import one_thread

# Singular values below this share of the largest are rounding: operators are of single precision. Angles do not see how long a
# latent is, so a fit would stretch such axes a million times, in thousands of steps, to a result that hangs on the last digits.
RANK = 1e-6


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
        Iterations of L-BFGS, at most. A fit that is cut off before `tol` hangs on the last digits of its input.
    tol
        The fit ends where the norm of the gradient is at most this share of that at the start.

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
    gradient_ : float
        Norm of the gradient at the end, relative to that at the start.
    stopped_ : str
        Why the fit ended: ``gradient`` (`tol` is met), ``steps`` (none left) or ``rounding`` (no step lowers the loss).

    Notes
    -----
    The gradient never leaves the affine hull of the anchors, so the problem is solved exactly in at most
    (anchors - 1) coordinates. Only principal axes whose spread is above a millionth of the largest count; the others are
    rounding. It starts from these axes: there is no random number in it.

    The loss has more than one minimum, and the one that is found from the principal axes need not be the lowest. Around it
    only a rotation of the latent is free: of all rotations, W is returned in the one that is nearest to the principal
    axes. The direction of an anchor at z = 0 is not defined; lengths below a thousandth of the root mean square of all
    count less in the angle, so that a minimum is there to be reached.

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
    steps: int = 20_000
    tol: float = 1e-7

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
        with one_thread():
            u, s, vt = _svd(X - mean)
            rank = int((s > s[0] * RANK).sum()) if s[0] > 0 else 0
            if rank == 0:
                raise EvaluationError(
                    "The anchors' features do not differ: the operator maps all of them to one point."
                )
            # Each axis points to where its largest loading is above zero: LAPACK leaves the sign open.
            sign = np.sign(vt[np.arange(rank), np.abs(vt[:rank]).argmax(1)])
            axes, at = vt[:rank] * sign[:, None], u[:, :rank] * sign
            self.scale_ = float(np.sqrt((s**2).sum() / n))
            settings: dict[str, Any] = {name: getattr(self, name) for name in ("k", "alpha", "beta", "steps", "tol")}
            found = minimised(at * s[:rank] / self.scale_, distances, sample_weight, **settings)
            self.encoder_ = (found.w @ axes) / self.scale_
            self.bias_ = mean + (found.b * self.scale_) @ axes
        self.stress_, self.reconstruction_ = found.stress, found.reconstruction
        self.n_iter_, self.gradient_, self.stopped_ = found.n_iter, found.gradient, found.stopped
        self.n_features_in_ = X.shape[1]
        if found.stopped == "steps":
            # The same words each time, so that many fits say it once.
            warnings.warn(
                "LET stopped before its optimum: its result hangs on the last digits of the features. Raise steps.",
                ConvergenceWarning,
                stacklevel=2,
            )
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


def _svd(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition of finite numbers, also where LAPACK's divide and conquer does not come to an end."""
    try:
        return np.linalg.svd(x, full_matrices=False)
    except np.linalg.LinAlgError:  # seen once in 20,000 fits at the real size; QR iterations take longer and converge
        return scipy.linalg.svd(x, full_matrices=False, lapack_driver="gesvd")


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
