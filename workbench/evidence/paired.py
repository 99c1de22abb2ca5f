"""Paired differences of two methods over repeated holdouts of donors: their error, interval, p, and what could have been found.

A difference in one donor of one split has three parts: what the donor is like when it is tested, what the donors that the
methods were fitted on made of them, and a rest. Splits share donors on both sides, so neither splits nor donors are
independent. A linear mixed model with both parts, fitted by restricted maximum likelihood, allows for that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize

from workbench.stats import NO_ERROR, ONCE, Error

# The fewest for which experiments/calibration.py has simulated it.
FEWEST_DONORS = 4
_TIGHT: dict[str, Any] = {"method": "L-BFGS-B", "options": {"ftol": 1e-13, "gtol": 1e-9}}


def error_over_donors(
    values: Float[np.ndarray, " value"],
    donor: Int[np.ndarray, " value"],
    split: Int[np.ndarray, " value"],
    trained_on: Bool[np.ndarray, "split donor"],
) -> Error:
    """Error of a mean over splits that hold out whole donors, by a mixed model of tested and training donors.

    Parameters
    ----------
    values
        Difference of the two methods on the cells of one donor in one split, finite.
    donor, split
        Number of the donor and of the split of each value, from 0.
    trained_on
        Whether the methods were fitted on a donor in a split. Where it is the same in all splits, as in a transfer, nothing
        can be said of other training donors, and the error is that of the tested donors.

    Returns
    -------
    Error
        With a degree of freedom less than there are tested donors; none for fewer than four of them.

    Notes
    -----
    Where each donor is held out once, who is tested and who was trained on say the same, and no model tells them apart: the
    error is then that of the donors' mean, wider by `workbench.stats.ONCE`.
    """
    n_donors = len(np.unique(donor))
    if n_donors < FEWEST_DONORS:
        return NO_ERROR
    if held_out_once(donor, trained_on):
        return Error(float(np.sqrt(values.var(ddof=1) * ONCE / n_donors)), n_donors - 1)
    tested = np.equal.outer(donor, np.unique(donor)).astype(float)
    varied = trained_on[:, (trained_on != trained_on[:1]).any(0)].astype(float)
    share = (varied / np.maximum(trained_on.sum(1, keepdims=True), 1))[split]
    return Error(_restricted(values, [tested, share]), n_donors - 1)


def held_out_once(donor: Int[np.ndarray, " value"], trained_on: Bool[np.ndarray, "split donor"]) -> bool:
    """Whether each donor has one value, in splits that others were trained on.

    Parameters
    ----------
    donor, trained_on
        As in `error_over_donors`.
    """
    return len(trained_on) > 1 and len(np.unique(donor)) == len(donor)


def _restricted(y: Float[np.ndarray, " value"], effects: list[np.ndarray]) -> float:
    """Standard error of the mean of y in a model with one variance for each matrix of effects, fitted by REML."""
    effects = [z for z in effects if z.shape[1]]
    n, sizes, z = len(y), [z.shape[1] for z in effects], np.concatenate(effects, 1)
    # All that is needed of the values: the rest is of the size of the donors.
    both = np.stack([np.ones(n), y - y.mean()], 1)
    inner, across, own = z.T @ z, z.T @ both, both.T @ both
    if own[1, 1] <= 1e-24 * n * max(1.0, y.mean() ** 2):
        return 0.0

    starts, every = np.cumsum([0, *sizes[:-1]]), np.concatenate([inner, across], 1)

    def reduced(logs: np.ndarray) -> tuple[np.ndarray, float, np.ndarray, np.ndarray]:
        """Sums of squares under the model and the log determinant, for variances as multiples of the rest's, and their slopes."""
        root = np.repeat(np.exp(logs / 2), sizes)
        lower = np.linalg.cholesky(np.eye(len(root)) + root[:, None] * inner * root)
        half = np.linalg.solve(lower, root[:, None] * every)
        solved = every - half[:, : len(root)].T @ half
        slopes = -np.einsum("ei,ej->eij", solved[:, len(root) :], solved[:, len(root) :]) * (root**2)[:, None, None]
        of_determinant = np.add.reduceat(np.diag(solved) * root**2, starts)
        right = half[:, len(root) :]
        return (
            own - right.T @ right,
            2 * float(np.log(np.diag(lower)).sum()),
            np.add.reduceat(slopes, starts),
            of_determinant,
        )

    def left(sums: np.ndarray) -> float:
        return max(float(sums[1, 1] - sums[0, 1] ** 2 / sums[0, 0]), 1e-300)

    def criterion(logs: np.ndarray) -> tuple[float, np.ndarray]:
        sums, determinant, slopes, of_determinant = reduced(logs)
        share = sums[0, 1] / sums[0, 0]
        of_left = slopes[:, 1, 1] - 2 * share * slopes[:, 0, 1] + share**2 * slopes[:, 0, 0]
        value = (n - 1) * np.log(left(sums)) + determinant + float(np.log(sums[0, 0]))
        return value, (n - 1) * of_left / left(sums) + of_determinant + slopes[:, 0, 0] / sums[0, 0]

    bounds, ends = [(-12.0, 9.0)] * len(effects), (0.0, -5.0)
    # The criterion may have two valleys: one where the donors carry the variance, one where the rest does.
    found = [minimize(criterion, np.full(len(effects), at), jac=True, bounds=bounds, **_TIGHT) for at in ends]
    sums = reduced(min(found, key=lambda one: float(one.fun)).x)[0]
    return float(np.sqrt(left(sums) / (n - 1) / sums[0, 0]))
