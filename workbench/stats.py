"""The statistics that every room uses: rank correlation, permutation p, Benjamini-Hochberg."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata


def spearman(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Spearman rank correlation; NaN when one side is constant or there are fewer than three values.

    Parameters
    ----------
    a, b
        Paired values.
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
        The statistic.
    null
        Its values under permutation; NaN draws are left out.
    """
    null = null[np.isfinite(null)]
    if not np.isfinite(observed) or not len(null):
        return float("nan")
    # Ties by rounding count as equal.
    return float((1 + (null >= observed - 1e-12).sum()) / (1 + len(null)))


def benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjusted p (q) values of Benjamini & Hochberg 1995; NaN tests are left out of the count.

    Parameters
    ----------
    p
        p values.
    """
    q = np.full(len(p), np.nan)
    kept = np.flatnonzero(np.isfinite(p))
    order = kept[np.argsort(p[kept])]
    scaled = p[order] * len(kept) / np.arange(1, len(kept) + 1)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return q
