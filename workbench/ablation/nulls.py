"""p of an effect among null draws, where both are means over cells, of which some scatter more than others."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.optimize import brentq, minimize
from scipy.special import stdtr
from scipy.stats import norm

from workbench.stats import permutation_p

ALPHA = 0.05
LARGEST = 1e300
# Below this share of the variance a difference of two variances is rounding.
_ROUNDING = 1e-9
# From the width of a 95 % interval to what is added for power of 80 %.
_POWER = norm.ppf(0.8) / (2 * norm.ppf(0.975))


def standard_error(
    values: Float[np.ndarray, "row cell"], groups: Int[np.ndarray, " cell"] | None = None
) -> Float[np.ndarray, " row"]:
    """Standard error of the mean over cells of each row; over donors, whose cells go together, where they are given.

    Parameters
    ----------
    values
        One value for each cell, NaN where undefined.
    groups
        Donor of each cell; None where every cell is a draw of its own.

    Returns
    -------
    ndarray
        NaN where fewer than two cells, or donors, have a value.
    """
    known = np.isfinite(values)
    n = known.sum(1)
    mean = np.where(known, values, 0).sum(1) / np.maximum(n, 1)
    off = np.where(known, values - mean[:, None], 0.0)
    if groups is None:
        square, draws = (off**2).sum(1), n
    else:
        member = (groups[:, None] == np.unique(groups)).astype(np.float64)
        square, draws = ((off @ member) ** 2).sum(1), ((known @ member) > 0).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(draws > 1, np.sqrt(square * draws / (draws - 1)) / n, np.nan)


def degrees_of(values: Float[np.ndarray, " cell"], groups: Int[np.ndarray, " cell"] | None) -> int:
    """Degrees of freedom of a mean over cells: one fewer than cells, or donors, that have a value."""
    known = np.isfinite(values)
    return int(known.sum() if groups is None else len(np.unique(groups[known]))) - 1


def rms(values: Float[np.ndarray, " draw"]) -> float:
    """Root mean square; NaN of no value."""
    return float(np.sqrt((values**2).mean())) if len(values) else float("nan")


def over(effect: float, scale: float) -> float:
    """An effect over what random changes do, with its sign; infinite where they do nothing at all, and NaN where it does nothing either."""
    if scale > 0 or np.isnan(scale):
        return float(effect / scale)
    return float(effect * np.inf) if effect else float("nan")


def excess(own: float, draws: float) -> float:
    """What a mean scatters beyond the draws that it is compared with: a standard error, 0 where it scatters no more.

    Parameters
    ----------
    own
        Standard error of the mean that is tested.
    draws
        Root mean square of the standard errors of its draws.
    """
    more = own**2 - draws**2
    return math.sqrt(more) if more > _ROUNDING * own**2 else 0.0


def p_among(observed: float, null: Float[np.ndarray, " draw"], more: float, degrees: int) -> float:
    """Two-sided p of a mean among those of null draws, each of which is moved by what the observed one scatters more.

    (1 + expected number of draws at least as large) / (1 + draws). A head that does no more than its random changes do, but whose effect
    differs more from cell to cell, has a larger mean over a few cells by chance: so chance of that size is added to each draw, as
    Student's t. Without any to add this is `permutation_p` of the sizes.

    Parameters
    ----------
    observed
        The statistic of the data, whose sign does not count; where it is NaN, the p is.
    null
        The same statistic of the draws, with its sign. NaN draws are left out; one that is infinite counts as larger than every number.
    more
        As `excess` gives it, on the scale of the statistic.
    degrees
        Degrees of freedom of the observed mean: one fewer than there are cells, or donors.
    """
    null = np.nan_to_num(null, nan=np.nan, posinf=LARGEST, neginf=-LARGEST)
    size = min(abs(observed), LARGEST)
    if not more or not np.isfinite(more) or size == LARGEST:
        return permutation_p(size, np.abs(null))
    null = null[np.isfinite(null)]
    if not np.isfinite(size) or not len(null):
        return float("nan")
    # The survival function of `scipy.stats.t` at a third of its time.
    larger = stdtr(degrees, (null - size) / more) + stdtr(degrees, (-size - null) / more)
    return float((1 + larger.sum()) / (1 + len(null)))


def least_found(null: Float[np.ndarray, " draw"], tests: int, more: float = 0.0, degrees: int = 1) -> float:
    """What the statistic of one test has to exceed to reach q <= 0.05 though no other test does.

    Parameters
    ----------
    null
        Null draws of the statistic, as `p_among` takes them.
    tests
        Number of tests that q is over.
    more, degrees
        What the observed mean scatters more than the draws, and its degrees of freedom, as in `p_among`.

    Returns
    -------
    float
        Infinite where the draws are too few for any value to reach it.
    """
    sizes = np.sort(np.minimum(np.abs(null[~np.isnan(null)]), LARGEST))
    wanted = ALPHA / max(tests, 1)
    larger = math.floor(wanted * (1 + len(sizes)) + 1e-9) - 1
    if not 0 <= larger < len(sizes) or (needed := float(sizes[-1 - larger])) >= LARGEST:
        return float("inf")
    if not more or not np.isfinite(more):
        return needed
    # Draws of infinite size count at every value; the others fall below any share far enough out.
    high = float(sizes[sizes < LARGEST][-1]) + more
    while p_among(high, null, more, degrees) > wanted:
        high *= 2
        if high >= LARGEST:
            return float("inf")
    return float(brentq(lambda at: p_among(at, null, more, degrees) - wanted, 0.0, high, rtol=1e-9))


def usual_size(
    relative: Float[np.ndarray, " pair"], size: Float[np.ndarray, " pair"], error: Float[np.ndarray, " pair"]
) -> tuple[float, float, float]:
    """How large ratios to a size are by themselves, beside their sampling error, and with which power of the size they still grow.

    The variance of a ratio is taken to be ``(typical * (size / middle) ** power) ** 2`` and that of its error beside. Most likely values for
    normal ratios; the power is drawn to 0 by a normal prior of standard deviation 1, which counts where pairs are few or alike in size.

    Parameters
    ----------
    relative
        Ratios of the pairs of a null, of which those that are not finite are left out.
    size
        Sizes that they are relative to, above 0 where a pair is to count.
    error
        Standard error of each ratio; one that is not known counts as 0.

    Returns
    -------
    typical, power, middle
        ``middle`` is the geometric mean of the sizes. NaN, 0 and 1 without a pair.
    """
    fit = np.isfinite(relative) & np.isfinite(size) & (size > 0)
    if not fit.any():
        return float("nan"), 0.0, 1.0
    square, noise = relative[fit] ** 2, np.nan_to_num(error[fit]) ** 2
    middle = float(np.exp(np.log(size[fit]).mean()))
    x, least = np.log(size[fit] / middle), 1e-12 * square.mean()
    if not least:
        return 0.0, 0.0, middle

    def unlikely(at: np.ndarray) -> tuple[float, np.ndarray]:
        own = np.exp(2 * (at[0] + np.clip(at[1] * x, -50, 50)))
        variance = own + noise + least
        slope = 2 * own * (1 - square / variance) / variance
        value = float((np.log(variance) + square / variance).sum() + at[1] ** 2)
        return value, np.array([slope.sum(), slope @ x + 2 * at[1]])

    found = minimize(unlikely, np.array([0.5 * math.log(square.mean()), 0.0]), jac=True, method="BFGS").x
    return math.exp(found[0]), float(found[1]), middle


def is_beyond(table: pd.DataFrame) -> pd.Series:
    """Whether an effect is more than chance gives by its null and by its interval: q at most 0.05, and an interval, if any, without 0."""
    return (table["q"] <= ALPHA) & ~((table["low"] <= 0) & (table["high"] >= 0))


def detectable_size(needed: np.ndarray, scale: np.ndarray, table: pd.DataFrame) -> pd.Series:
    """Size of an effect that is found to be `is_beyond` four times in five.

    Parameters
    ----------
    needed
        What q asks for, from `least_found`.
    scale
        What that is a multiple of.
    table
        Its intervals, ``low`` and ``high``.
    """
    width = table["high"] - table["low"]
    with np.errstate(invalid="ignore"):  # of nothing, infinitely much is not known
        size = needed * scale
    return np.maximum(size, width / 2) + _POWER * width
