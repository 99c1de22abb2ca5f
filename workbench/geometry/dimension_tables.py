"""Tables of intrinsic dimension: every estimator with its interval, over subsample sizes, and the LET elbow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import t as student

from workbench.errors import EvaluationError, unknown_name
from workbench.geometry import dimension
from workbench.geometry.neighbors import Neighbors, Points, among, check_points, distinct, find_neighbors
from workbench.geometry.quality import trustworthiness
from workbench.operators.adaptor import LETAdaptor
from workbench.seeds import generator

Estimator = Callable[[np.ndarray, Neighbors, dimension.Scales], float]
ESTIMATORS: Mapping[str, Estimator] = {
    "participation ratio": lambda x, near, s: dimension.participation_ratio(x),
    "local PCA": lambda x, near, s: float(dimension.pca_local(x, near.first(s.k)).mean()),
    "TwoNN": lambda x, near, s: dimension.two_nn(near),
    "maximum likelihood": lambda x, near, s: dimension.likelihood(near.first(s.k)),
    "correlation integral": lambda x, near, s: dimension.correlation_dimension(x, near, k1=s.k1, k2=s.k2),
}


def dimension_table(
    x: Points,
    *,
    estimators: Iterable[str] = tuple(ESTIMATORS),
    scales: dimension.Scales | None = None,
    n_subsamples: int = 20,
    approximate: bool | None = None,
    seed: int,
) -> pd.DataFrame:
    """Every estimator on the same points, with an interval from subsamples.

    The interval is estimate +- t * sd, with sd over random halves without replacement (Politis & Romano 1994): half of
    n points drawn from n vary about the estimate of all as n points vary about the truth, so no factor is needed. A
    bootstrap would repeat points, and a repeated point has a neighbour at distance 0. The interval says how much
    another sample of as many points would differ; bias, of which every estimator has some, is not in it.

    Parameters
    ----------
    x
        Points; repeated ones are dropped, and the note says so.
    estimators
        Names from `ESTIMATORS`, one row each, in this order; all of them by default.
    scales
        Neighbourhood sizes; those of `Scales` by default.
    n_subsamples
        Random halves for the interval. With 0 or 1 there is no interval (NaN).
    approximate
        Whether neighbours are searched approximately; None decides by the number of points, see `find_neighbors`.
    seed
        Seed of the halves and of an approximate search.

    Returns
    -------
    DataFrame
        ``estimator``, ``dimension``, ``low``, ``high`` (95 %), ``n``, ``k``, ``note``.

    Raises
    ------
    EvaluationError
        If an estimator is unknown, or there are too few distinct points.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.dimension_tables import dimension_table
    >>> line = np.random.default_rng(0).normal(size=(200, 1)) @ np.ones((1, 3))
    >>> table = dimension_table(line, n_subsamples=0, seed=0).round(1)
    >>> dict(zip(table["estimator"], table["dimension"]))["participation ratio"]
    1.0
    """
    names, scales = _known(estimators), scales or dimension.Scales()
    near, x, notes = _prepare(x, _spare(scales.most) if n_subsamples else scales.most, scales, approximate, seed)
    n = len(x)
    draws = []
    for i in range(n_subsamples):
        rows = np.sort(generator(seed, "dimension", str(i)).permutation(n)[: n // 2])
        draws.append(_estimates(names, x[rows], among(near, x, rows, scales.most), scales))
    found = []
    for j, (name, value) in enumerate(zip(names, _estimates(names, x, near, scales), strict=True)):
        drawn = [draw[j] for draw in draws]
        # Half of n is n / 2 rounded down: the correction for it is 1 but for rounding.
        spread = np.std(drawn, ddof=1) * np.sqrt((n // 2) / (n - n // 2)) if n_subsamples > 1 else np.nan
        margin = student.ppf(0.975, max(n_subsamples - 1, 1)) * spread
        k, more = _neighbours_used(name, scales)
        found.append((name, value, value - margin, value + margin, n, k, "; ".join([*more, *notes])))
    return pd.DataFrame(found, columns=["estimator", "dimension", "low", "high", "n", "k", "note"])


def agreement(table: pd.DataFrame) -> dict[str, float]:
    """How far the estimators of a table agree.

    Parameters
    ----------
    table
        Table from `dimension_table`, of one point cloud.

    Returns
    -------
    dict
        ``median``, ``low`` and ``high`` (least and greatest estimate) and ``n_estimators``; those that are not finite
        are left out.
    """
    values = table["dimension"].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    found = (np.median(values), values.min(), values.max()) if len(values) else (np.nan, np.nan, np.nan)
    median, low, high = map(float, found)
    return {"median": median, "low": low, "high": high, "n_estimators": len(values)}


def subsample_curve(
    x: Points,
    *,
    sizes: Sequence[int] | None = None,
    repeats: int = 5,
    estimators: Iterable[str] = tuple(ESTIMATORS),
    scales: dimension.Scales | None = None,
    approximate: bool | None = None,
    seed: int,
) -> pd.DataFrame:
    """Estimates from ever larger subsets: fewer points see a coarser scale.

    A level stretch speaks for a dimension; growth with n to the end, for noise at the smallest scale or for bias that
    more points would still lessen.

    Parameters
    ----------
    x
        Points; repeated ones are dropped before subsets are drawn.
    sizes
        Subset sizes, each more than the neighbours used and at most all points. When None: an eighth, a quarter, half
        and all of the points where that leaves enough.
    repeats
        Random subsets of each size, without replacement, 1 or more; all points are taken once.
    estimators, scales, approximate, seed
        As in `dimension_table`.

    Returns
    -------
    DataFrame
        ``estimator``, ``n``, ``dimension`` (mean over subsets), ``sd`` (over subsets), ``scale`` (median distance of
        the last neighbour used).

    Raises
    ------
    EvaluationError
        As `dimension_table`, or if a size is too small or too large.
    """
    names, scales = _known(estimators), scales or dimension.Scales()
    x = distinct(check_points(x, 1))[0]
    n, least = len(x), scales.most + 1
    if sizes is None:
        sizes = sorted({m for m in (n // 8, n // 4, n // 2, n) if m >= least})
    if not sizes or min(sizes) < least or max(sizes) > n:
        raise EvaluationError(
            f"Subsets of {', '.join(map(str, sizes)) or 'no size'} were asked for; {n} distinct points and "
            f"{scales.most} neighbours allow {least} to {n}."
        )
    found = []
    for size in sizes:
        values, reach = [], []
        for i in range(repeats if size < n else 1):
            rows = np.sort(generator(seed, "curve", str(size), str(i)).permutation(n)[:size])
            near = find_neighbors(x[rows], scales.most, approximate=approximate, seed=seed)
            values.append(_estimates(names, x[rows], near, scales))
            reach.append(np.median(near.distances[:, -1]))
        mean = np.mean(values, axis=0)
        sd = np.std(values, axis=0, ddof=1) if len(values) > 1 else np.full(len(names), np.nan)
        found += [(name, size, mean[j], sd[j], np.mean(reach)) for j, name in enumerate(names)]
    return pd.DataFrame(found, columns=["estimator", "n", "dimension", "sd", "scale"])


def let_elbow(
    features: Float[np.ndarray, "anchor feature"],
    distances: Float[np.ndarray, "anchor anchor"],
    *,
    ks: Iterable[int] = range(1, 16),
    n_neighbors: int = 5,
    adaptor: LETAdaptor | None = None,
    weights: Float[np.ndarray, " anchor"] | None = None,
) -> pd.DataFrame:
    """Objective and trustworthiness of the LET adaptor for each width of its latent, to find the elbow.

    Parameters
    ----------
    features
        Features of the anchors under one feature map, f(x) of each centroid.
    distances
        Ruler distances between the same anchors, from 0 to 1.
    ks
        Widths of the latent, one row each; an adaptor is fitted for each.
    n_neighbors
        Neighbourhood size of trustworthiness, fewer than half of the anchors.
    adaptor
        Settings other than the width; those of `LETAdaptor` by default. It is not changed.
    weights
        Weight of each anchor in the fits, see `LETAdaptor.fit`; all the same when None.

    Returns
    -------
    DataFrame
        ``k``, ``stress`` and ``reconstruction`` (both terms of the objective), ``trustworthiness`` (of the latent
        against the features, by Euclidean distance).

    Raises
    ------
    EvaluationError
        If the anchors do not differ or are too few.
    """
    settings = (adaptor or LETAdaptor()).get_params()
    found = []
    for k in ks:
        fitted = LETAdaptor(**{**settings, "k": k}).fit(features, distances, weights)
        kept = trustworthiness(features, fitted.transform(features), n_neighbors).mean()
        found.append((k, fitted.stress_, fitted.reconstruction_, float(kept)))
    return pd.DataFrame(found, columns=["k", "stress", "reconstruction", "trustworthiness"])


def _known(estimators: Iterable[str]) -> list[str]:
    names = list(estimators)
    if unknown := [name for name in names if name not in ESTIMATORS]:
        raise EvaluationError(unknown_name("estimator", unknown[0], ESTIMATORS))
    return names


def _estimates(names: list[str], x: np.ndarray, near: Neighbors, scales: dimension.Scales) -> list[float]:
    return [ESTIMATORS[name](x, near, scales) for name in names]


def _spare(k: int) -> int:
    """Neighbours among all of which, in half of the points, k are nearly always left."""
    return int(np.ceil(2 * k + 5 * np.sqrt(k)))


def _prepare(
    x: np.ndarray, k: int, scales: dimension.Scales, approximate: bool | None, seed: int
) -> tuple[Neighbors, np.ndarray, list[str]]:
    """Neighbours of distinct points, the points, and what to note about both."""
    n_given, x = len(x), distinct(check_points(x, 1))[0]
    least = 2 * (scales.most + 1)
    if len(x) < least:
        raise EvaluationError(
            f"{len(x)} distinct points of {n_given} are too few for {scales.most} neighbours in every half of them; "
            f"{least} are needed. Ask for fewer neighbours."
        )
    near = find_neighbors(x, min(k, len(x) - 1), approximate=approximate, seed=seed)
    notes = [f"{n_given - len(x)} repeated points dropped"] if len(x) < n_given else []
    return near, x, notes if near.exact else [*notes, f"approximate neighbours, recall {near.recall:.3f}"]


def _neighbours_used(name: str, scales: dimension.Scales) -> tuple[int, list[str]]:
    """Neighbours that an estimator uses, for the table; 0 where it uses none."""
    special = {
        "participation ratio": (0, ["of all points at once, blind to curvature"]),
        "TwoNN": (2, []),
        "correlation integral": (scales.k2, [f"radii from neighbour {scales.k1} to {scales.k2}"]),
    }
    return special.get(name, (scales.k, []))
