"""Rank correlation of latent with ruler distances, with donor, tissue and sequencing depth regressed out, and an interval over donors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import rankdata

from workbench.errors import EvaluationError
from workbench.seeds import generator
from workbench.stats import correlation_over_few, spearman

_TINY = 1e-12
# Pairs that each column of a covariate needs: with fewer, the regression would take away what is there.
_PAIRS = 10


@dataclass(frozen=True)
class Association:
    """A rank correlation over pairs of anchors.

    Attributes
    ----------
    spearman
        Rank correlation of both distances as they are, from -1 to 1.
    residualised
        The same with factors and covariates regressed out of both ranks.
    low, high
        95 % bootstrap interval of it, clusters resampled; NaN with fewer than two.
    n_anchors, n_pairs, n_clusters
        Anchors, pairs with both distances, and clusters (donors; anchors where none are named).
    factors
        Names of the factors and covariates that were regressed out. A factor that is the same, or different, in every pair cannot
        be; nor can a covariate that all anchors share or do not all have, nor covariates with fewer than 10 pairs for each of
        their five columns.
    """

    spearman: float
    residualised: float
    low: float
    high: float
    n_anchors: int
    n_pairs: int
    n_clusters: int
    factors: tuple[str, ...]


def residualised_correlation(
    latent: Float[np.ndarray, "anchor anchor"],
    ruler: Float[np.ndarray, "anchor anchor"],
    factors: Mapping[str, Shaped[np.ndarray, " anchor"]],
    *,
    covariates: Mapping[str, Float[np.ndarray, " anchor"]] | None = None,
    clusters: Shaped[np.ndarray, " anchor"] | None = None,
    draws: int = 1000,
    seed: int,
) -> Association:
    """Partial Spearman correlation over pairs: given whether the two anchors share a donor, a tissue, and how deeply both were sequenced.

    Both distances are ranked over the pairs, the indicators of a shared level and the second-degree polynomial of sum and
    absolute difference of each covariate are regressed out of the ranks by least squares, and the residuals correlated. The
    difference alone would not do: thin cells lie far from everything, and so do the leaves of a tree. In a bootstrap draw whole clusters are drawn with replacement; ranks stay those
    of all pairs, and the regression is done again. A pair inside a cluster that was drawn w times counts w times, and one
    between clusters drawn v and w times v w n / (n - 1) times: in expectation each counts once, so that a draw does not
    hold more pairs inside clusters than the data do. The interval is as long as `stats.over_few` makes it.

    Parameters
    ----------
    latent, ruler
        Distances between anchors, symmetric; NaN where unknown, and such pairs are left out.
    factors
        Level of each anchor, by name of the factor; with no factor and no covariate, the correlation is the plain one.
    covariates
        Number of each anchor, by name, such as the mean log library size of its cells; none by default.
    clusters
        What is resampled, such as donors; anchors when None.
    draws
        Draws of the bootstrap behind the 95 % interval; 0 for none.
    seed
        Seed of the bootstrap; the correlations themselves have no random number.

    Raises
    ------
    EvaluationError
        If shapes differ or fewer than three pairs have both distances.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.residual import residualised_correlation
    >>> at, donors = np.array([0.0, 1.0, 2.5, 4.5, 7.0]), np.array(list("aabbb"))
    >>> between = np.abs(at[:, None] - at)
    >>> found = residualised_correlation(between, between**2, {"donor": donors}, draws=0, seed=0)
    >>> round(found.spearman, 6), round(found.residualised, 6), found.n_pairs
    (1.0, 1.0, 10)
    """
    n = len(latent)
    numbers = covariates or {}
    if ruler.shape != latent.shape or any(len(of) != n for of in (*factors.values(), *numbers.values())):
        raise EvaluationError(
            f"Distances are {latent.shape} and {ruler.shape}, factors have {[len(v) for v in factors.values()]} levels and "
            f"covariates {[len(v) for v in numbers.values()]} numbers; give all of the same anchors."
        )
    i, j = np.triu_indices(n, 1)
    known = np.isfinite(latent[i, j]) & np.isfinite(ruler[i, j])
    i, j = i[known], j[known]
    if len(i) < 3:
        raise EvaluationError(f"{len(i)} pairs of {n} anchors have both distances; at least three are needed.")
    shared = {name: (levels[i] == levels[j]).astype(float) for name, levels in factors.items()}
    kept = tuple(name for name, column in shared.items() if 0 < column.mean() < 1)
    # Standard units keep the moments below well-conditioned; a correlation does not see them.
    ranks = [_standard(rankdata(distances[i, j])) for distances in (latent, ruler)]
    columns = [*ranks, *(_standard(shared[name]) for name in kept)]
    known_numbers = {name: of for name, of in numbers.items() if np.isfinite(of).all() and np.ptp(of) > _TINY}
    polynomials = [column for of in known_numbers.values() for column in _polynomial(of[i], of[j])]
    if len(i) >= _PAIRS * len(polynomials):
        kept, columns = (*kept, *known_numbers), [*columns, *polynomials]
    names = np.arange(n) if clusters is None else np.unique(clusters, return_inverse=True)[1].reshape(-1)
    n_clusters = int(names.max()) + 1
    whole = _partial(_moments(columns, i, j, np.ones((1, n)), names, 1.0))[0]
    low = high = float("nan")
    if draws and n_clusters >= 2:
        rng = generator(seed, "residualised")
        drawn = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), draws)
        weights = drawn[:, names].astype(float)
        found = _partial(_moments(columns, i, j, weights, names, n_clusters / (n_clusters - 1)))
        low, high = correlation_over_few(float(whole), found, n_clusters)
    plain = spearman(latent[i, j], ruler[i, j])
    return Association(plain, float(whole), low, high, n, len(i), n_clusters, kept)


def _polynomial(one: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    """Sum and absolute difference of both anchors' numbers, their squares and their product."""
    total, apart = _standard(one + other), _standard(np.abs(one - other))
    return [total, apart, *map(_standard, (total**2, apart**2, total * apart))]


def _standard(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    return (values - values.mean()) / spread if spread > _TINY else np.zeros_like(values)


def _moments(
    columns: list[np.ndarray], i: np.ndarray, j: np.ndarray, weights: np.ndarray, clusters: np.ndarray, between: float
) -> np.ndarray:
    """Weighted cross moments of a constant and the columns, (draw, variable, variable)."""
    # A pair weighs w_i inside a cluster and `between` w_i w_j across two, so that a sum over pairs is linear and quadratic in
    # the weights of anchors: one product of matrices serves all draws, and no draw lists its pairs.
    variables, within = [np.ones(len(i)), *columns], clusters[i] == clusters[j]
    p, n = len(variables), weights.shape[1]
    moments = np.empty((len(weights), p, p))
    for a in range(p):
        for b in range(a, p):
            value = variables[a] * variables[b]
            products = np.zeros((n, n))
            products[i, j] = np.where(within, 0, between * value)
            inside = np.bincount(i[within], value[within], n)
            moments[:, a, b] = moments[:, b, a] = ((weights @ products) * weights).sum(1) + weights @ inside
    return moments


def _partial(moments: np.ndarray) -> np.ndarray:
    """Correlation of the first two columns given the constant and the others; NaN where nothing is left of one."""
    out = np.full(len(moments), np.nan)
    others, held = [0, *range(3, moments.shape[1])], np.flatnonzero(moments[:, 0, 0] > 0)
    moment = moments[held] / moments[held, :1, :1]
    given = moment[:, others][:, :, [1, 2]]
    inverse = np.linalg.pinv(moment[:, others][:, :, others], hermitian=True)
    left = moment[:, 1:3, 1:3] - given.transpose(0, 2, 1) @ inverse @ given
    kept = (left[:, 0, 0] > _TINY) & (left[:, 1, 1] > _TINY)
    of = left[kept]
    out[held[kept]] = np.clip(of[:, 0, 1] / np.sqrt(of[:, 0, 0] * of[:, 1, 1]), -1, 1)
    return out
