"""How far a holdout correlation may be off because other donors could have been there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata
from scipy.stats import t as student

from workbench.cells.splits import Split
from workbench.seeds import generator
from workbench.stats import correlation_over_few, spearman

# With fewer, there are too few ways to draw them again.
FEWEST_DONORS = 5
_DRAWS = 1000
_TINY = 1e-12


@dataclass(frozen=True)
class Pairs:
    """Pairs of anchors that a split compares.

    Attributes
    ----------
    i, j
        Numbers of both anchors of each pair.
    angle, distance
        Latent angle and ruler distance of each pair.
    """

    i: Int[np.ndarray, " pair"]
    j: Int[np.ndarray, " pair"]
    angle: Float[np.ndarray, " pair"]
    distance: Float[np.ndarray, " pair"]


def donor_interval(
    splits: Sequence[Pairs], donor: Shaped[np.ndarray, " anchor"], seed: int
) -> tuple[float, float, int]:
    """95 % interval of the mean rank correlation over splits, donors of the judged anchors drawn with replacement.

    Adaptors stay as they were fitted, and ranks those of all pairs of a split. The interval is as long as `stats.over_few` makes it; how
    often it holds the mean over other cohorts, fits and all, was simulated (docs/calibration_donors.md). A pair inside a donor that was drawn w times counts w times, one between donors drawn v and
    w times v w n / (n - 1) times, so that in expectation each counts once. A split counts by the mean weight of its pairs; one
    without a pair in a draw does not count in it.

    Parameters
    ----------
    splits
        Pairs of anchors that each split compares.
    donor
        Name of the donor of each anchor, judged or not.
    seed
        Seed of the 1,000 draws.

    Returns
    -------
    low, high, n_donors
        NaN with fewer than five donors.
    """
    named = np.unique(np.concatenate([donor[np.concatenate([one.i, one.j])] for one in splits]) if splits else [])
    n = len(named)
    if n < FEWEST_DONORS:
        return float("nan"), float("nan"), n
    drawn = generator(seed, "donor interval").multinomial(n, np.full(n, 1 / n), _DRAWS).astype(float)
    total, weight = np.zeros(_DRAWS), np.zeros(_DRAWS)
    for one in splits:
        mean, value = _correlation(
            one, np.searchsorted(named, donor[one.i]), np.searchsorted(named, donor[one.j]), drawn
        )
        known = np.isfinite(value)
        total[known] += (mean * value)[known]
        weight[known] += mean[known]
    found = total[weight > 0] / weight[weight > 0]
    observed = float(np.mean([spearman(one.angle, one.distance) for one in splits]))
    return *correlation_over_few(observed, found, n), n


def without_donor(split: Split, donor: Shaped[np.ndarray, " anchor"], name: str) -> Split:
    """The split as it would be had one donor not been there, neither among the anchors that are fitted on nor among those judged.

    Parameters
    ----------
    split
        Numbers of the anchors on its sides.
    donor
        Name of the donor of each anchor, judged or not.
    name
        The donor that is left out.
    """
    train, test, against = (
        None if rows is None else rows[donor[rows] != name] for rows in (split.train, split.test, split.against)
    )
    assert train is not None and test is not None
    return Split(train, test, against)


def refitted_interval(value: float, without: Float[np.ndarray, " donor"]) -> tuple[float, float]:
    """95 % interval over donors of a mean rank correlation, by leaving out one after the other and fitting again.

    That of the jackknife, on the scale of Fisher's z, with Student's t of as many degrees of freedom as there are donors less one. Unlike
    `donor_interval` it has in it that adaptors would have been fitted on other donors: for anchors of branches that these have not seen.

    Parameters
    ----------
    value
        The correlation with all donors.
    without
        The same without one donor each, all of it fitted again; NaN where nothing was left to judge.

    Returns
    -------
    low, high
        NaN with fewer than five donors that can be left out.
    """
    z = np.arctanh(np.clip(without[np.isfinite(without)], -1 + _TINY, 1 - _TINY))
    if (n := len(z)) < FEWEST_DONORS or not np.isfinite(value):
        return float("nan"), float("nan")
    half = student.ppf(0.975, n - 1) * np.sqrt((n - 1) * z.var())
    at = np.arctanh(np.clip(value, -1 + _TINY, 1 - _TINY))
    return float(np.tanh(at - half)), float(np.tanh(at + half))


def _correlation(one: Pairs, a: np.ndarray, b: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean weight of the pairs, and weighted correlation of their ranks, of each draw; NaN where nothing varies."""
    n = drawn.shape[1]
    x, y = (ranks - ranks.mean() for ranks in (rankdata(one.angle), rankdata(one.distance)))
    x, y = x / len(x), y / len(y)
    sums = np.zeros((6, n, n))
    for at, values in enumerate((np.ones(len(x)), x, y, x * x, y * y, x * y)):
        np.add.at(sums[at], (a, b), values)
    inside = np.einsum("kaa->ka", sums).copy()
    np.einsum("kaa->ka", sums)[:] = 0
    moments = inside @ drawn.T + np.einsum("da,kab,db->kd", drawn, sums, drawn) * n / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mx, my, xx, yy, xy = moments[1:] / moments[0]
        spread = (xx - mx**2) * (yy - my**2)
        value = np.where(spread > _TINY, (xy - mx * my) / np.sqrt(spread), np.nan)
    return moments[0] / len(x), value
