"""The statistics that every room uses: rank correlation, permutation p, Benjamini-Hochberg, paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import ndtri, stdtr, stdtrit
from scipy.stats import rankdata, wilcoxon

# Differences for which SciPy's signed-rank test is exact with ties too.
_EXACT = 13
_Z = float(ndtri(0.975))
# Column of a holdout's correlation of features without what follows library size, detected genes and mitochondrial share: where it is
# there, null and p of the row are of it.
WITHOUT = "without_sequencing"


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Spearman rank correlation; NaN when one side is constant or there are fewer than three values.

    Parameters
    ----------
    a, b
        Paired values of one length; ties get their mean rank.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.stats import spearman
    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
    0.5
    """
    if len(a) < 3:
        return float("nan")
    x, y = rankdata(a), rankdata(b)
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def permutation_p(observed: float, null: Float[np.ndarray, " draw"]) -> float:
    """One-sided p of a value that is large when there is an effect, with the observed draw counted.

    (1 + number of null draws at least as large) / (1 + draws): Phipson & Smyth 2010.

    Parameters
    ----------
    observed
        The statistic of the data; where it is not finite, the p is NaN.
    null
        The same statistic under permutation; NaN draws are left out, and without any other the p is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.stats import permutation_p
    >>> permutation_p(3.0, np.array([0.1, 2.0, 3.5, 1.0]))  # one of four draws is as large: (1 + 1) / (1 + 4)
    0.4
    """
    null = null[np.isfinite(null)]
    if not np.isfinite(observed) or not len(null):
        return float("nan")
    # Ties by rounding count as equal.
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))


def dealt_anew(
    labels: Shaped[np.ndarray, " cell"],
    blocks: Shaped[np.ndarray, " cell"],
    rows: Int[np.ndarray, " row"],
    draws: int,
    rng_of: Callable[[str], np.random.Generator],
    *,
    whole: bool,
) -> Shaped[np.ndarray, "draw row"]:
    """Labels of some cells under the null: given to other cells of their block, or to other blocks as a whole.

    Parameters
    ----------
    labels, blocks
        Label and block of every cell. Cells of one block, such as those of a donor or of a fold, may be alike.
    rows
        Numbers of the cells whose labels are asked for. Where blocks are not whole, labels stay among these.
    draws
        Number of draws, a row of the result each.
    rng_of
        Gives the generator of a block by its name, and that of whole blocks by ``donors``.
    whole
        Whether each block has one label alone, so that only whole blocks can exchange theirs.
    """
    names, first, of = np.unique(blocks, return_index=True, return_inverse=True)
    if whole:
        return rng_of("donors").permuted(np.tile(labels[first], (draws, 1)), axis=1)[:, of[rows]]
    found = np.empty((draws, len(rows)), dtype=labels.dtype)
    for block in np.unique(of[rows]):
        here = of[rows] == block
        found[:, here] = rng_of(str(names[block])).permuted(np.tile(labels[rows[here]], (draws, 1)), axis=1)
    return found


def null_of_folds(scores: Float[np.ndarray, "fold draw"]) -> Float[np.ndarray, " draw"]:
    """Mean over folds of scores whose labels were dealt anew in each fold against fixed predictions, as wide as it ought to be.

    What is said of one fold was learned from the labels of the others, so that chance agrees over folds: of a score that is linear in
    the labels of both sides each pair of folds counts twice. So the mean is taken the square root of two wider about its own mean.

    Parameters
    ----------
    scores
        A row per fold that is judged; NaN where a fold has no score in a draw. One fold alone is left as it is.
    """
    known = np.isfinite(scores)
    mean = np.where(known, scores, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
    middle = np.nanmean(mean) if np.isfinite(mean).any() else np.nan
    return middle + math.sqrt(min(2, len(scores))) * (mean - middle)


def null_summary(observed: float, null: Float[np.ndarray, " draw"]) -> dict[str, float]:
    """Where the null of a statistic lies, and the p of what was observed.

    Parameters
    ----------
    observed
        The statistic of the data, as in `permutation_p`.
    null
        The same statistic under permutation; NaN draws are left out.

    Returns
    -------
    dict
        ``null_mean``, ``null_high`` (97.5 % quantile), ``n_null`` and ``p``; NaN and 0 without a draw.
    """
    null = null[np.isfinite(null)]
    mean, high = (null.mean(), np.quantile(null, 0.975)) if len(null) else (np.nan, np.nan)
    return {
        "null_mean": float(mean),
        "null_high": float(high),
        "n_null": len(null),
        "p": permutation_p(observed, null),
    }


def over_few(value: float, draws: Float[np.ndarray, " draw"], n: int) -> tuple[float, float]:
    """95 % interval from a bootstrap over a few groups, as long as Student's t asks.

    The percentiles of such a bootstrap are too near: of a mean over 5 groups they hold the truth in 85 %, over 10 in 90 %. So their
    distances from the value are stretched by t(n - 1) / z * sqrt(n / (n - 1)), with which it is 95 % for any n.

    Parameters
    ----------
    value
        The statistic of the data, on a scale without bounds.
    draws
        The same statistic of each bootstrap draw; those that are not finite are left out.
    n
        Number of the groups that were drawn, such as donors; NaN with fewer than two.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.stats import over_few
    >>> low, high = over_few(0.0, np.linspace(-1, 1, 1001), 5)
    >>> round(low, 2), round(high, 2)
    (-1.5, 1.5)
    """
    draws = draws[np.isfinite(draws)]
    if n < 2 or not len(draws) or not np.isfinite(value):
        return float("nan"), float("nan")
    stretch = stdtrit(n - 1, 0.975) / _Z * math.sqrt(n / (n - 1))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(value + stretch * (low - value)), float(value + stretch * (high - value))


def correlation_over_few(value: float, draws: Float[np.ndarray, " draw"], n: int) -> tuple[float, float]:
    """The same of a correlation, on the scale of Fisher's z, so that it ends within -1 and 1.

    Parameters
    ----------
    value, draws, n
        As `over_few` takes them, but from -1 to 1.
    """
    most = 1 - 1e-12
    low, high = over_few(np.arctanh(np.clip(value, -most, most)), np.arctanh(np.clip(draws, -most, most)), n)
    return float(np.tanh(low)), float(np.tanh(high))


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p (q) values of Benjamini & Hochberg 1995; NaN tests are left out of the count.

    Parameters
    ----------
    p
        p values of all tests of one family, in any order; NaN stays NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.stats import benjamini_hochberg
    >>> benjamini_hochberg(np.array([0.01, 0.04, np.nan, 0.03])).round(3)
    array([0.03, 0.04,  nan, 0.04])
    """
    q = np.full(len(p), np.nan)
    kept = np.flatnonzero(np.isfinite(p))
    order = kept[np.argsort(p[kept])]
    scaled = p[order] * len(kept) / np.arange(1, len(kept) + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q


def enough_draws(tests: int, alpha: float = 0.05) -> int:
    """Draws of a null with which a single one of several tests can reach a q below alpha.

    Its smallest p is 1 / (1 + draws), and Benjamini and Hochberg multiply it by the number of tests.

    Parameters
    ----------
    tests
        Number of tests that are corrected for together.
    alpha
        Level that q is to fall below, above 0.

    Examples
    --------
    >>> from workbench.stats import enough_draws
    >>> enough_draws(10)
    200
    """
    return math.ceil(tests / alpha)


@dataclass(frozen=True)
class Error:
    """How far a mean difference may be off.

    Attributes
    ----------
    error
        Standard error of the mean difference; NaN where there is none.
    df
        Degrees of freedom of its t distribution.
    """

    error: float
    df: float

    def judged(self, difference: float) -> dict[str, float]:
        """Interval and p of a mean difference, and the smallest one that would have been found.

        Parameters
        ----------
        difference
            Mean difference that the error is of.

        Returns
        -------
        dict
            ``low``, ``high`` (95 %), ``p`` (two-sided) and ``detectable``: the true difference that is found at p <= 0.05 in
            about 80 % of such campaigns; NaN where there is no error.
        """
        if not np.isfinite([self.error, difference]).all():
            return dict.fromkeys(("low", "high", "p", "detectable"), float("nan"))
        reach = self.error * float(stdtrit(self.df, 0.975))
        p = float(difference == 0) if self.error == 0 else 2 * float(stdtr(self.df, -abs(difference) / self.error))
        more = self.error * float(stdtrit(self.df, 0.8))
        return {"low": difference - reach, "high": difference + reach, "p": p, "detectable": reach + more}


NO_ERROR = Error(float("nan"), float("nan"))


def error_over_splits(values: Float[np.ndarray, " split"], test_share: float) -> Error:
    """Error of a mean of paired differences over splits that share training cells, or training donors.

    The variance of the mean is s^2 (1 / n + test / train) (Nadeau & Bengio, Machine Learning 52:239, 2003).

    Parameters
    ----------
    values
        Difference of the two methods in each split, finite; fewer than three have no error.
    test_share
        Share of the cells, or of the donors, that a split holds out, above 0 and below 1.

    Notes
    -----
    docs/calibration.md has how often it calls a true null, in designs of 5 to 24 donors and of folds of cells.
    """
    n = len(values)
    if n < 3 or not 0 < test_share < 1:
        return NO_ERROR
    return Error(float(np.sqrt(values.var(ddof=1) * (1 / n + test_share / (1 - test_share)))), n - 1)


def corrected_difference(values: Float[np.ndarray, " split"], test_share: float) -> dict[str, float]:
    """Mean of paired differences over splits that share training cells, with an interval that allows for that.

    Parameters
    ----------
    values, test_share
        As in `error_over_splits`.

    Returns
    -------
    dict
        ``difference``, ``n_folds``, and what `Error.judged` says of it.
    """
    mean = float(values.mean())
    return {"difference": mean, "n_folds": len(values), **error_over_splits(values, test_share).judged(mean)}


def paired_wilcoxon(values: Float[np.ndarray, " split"]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of paired differences; 1 where all are zero.

    Splits that share cells are not independent, so that this p is too small; see `corrected_difference`.

    Parameters
    ----------
    values
        Difference in each split; with fewer than three the p is NaN.
    """
    if len(values) < 3:
        return float("nan")
    # Differences that are only rounding would otherwise be ranked.
    values = np.where(np.abs(values) < 1e-12, 0, values)
    return 1.0 if not values.any() else float(wilcoxon_p(values[None])[0])


def wilcoxon_p(values: Float[np.ndarray, "test split"]) -> Float[np.ndarray, " test"]:
    """Two-sided p of Wilcoxon's signed-rank test in each row: that of SciPy, without its slow way through ties.

    Parameters
    ----------
    values
        Differences, of which those that are 0 are left out; in a row not all are. Where one is NaN, so is the p.
    """
    if (n := values.shape[1]) > _EXACT:
        return wilcoxon(values, axis=1).pvalue
    # All signs are gone through, which SciPy does in a loop in Python where there are ties: half an hour for 2,000 rows of 13.
    ranks = rankdata(np.where(values == 0, np.nan, np.abs(values)), axis=1, nan_policy="omit")
    ranks, signs = np.nan_to_num(ranks), np.array(list(product((0.0, 1.0), repeat=n)))
    found = np.empty(len(values))
    for i, (row, observed) in enumerate(zip(ranks, ((values > 0) * ranks).sum(1), strict=True)):
        null = signs @ row
        found[i] = 2 * min((null <= observed).mean(), (null >= observed).mean())
    return np.where(np.isnan(values).any(1), np.nan, np.minimum(found, 1))
