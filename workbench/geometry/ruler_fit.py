"""How points of a representation, such as genes, follow a ruler: held-out groups, other fits, a margin over principal components, nulls.

Genes of one family lie together in a representation and on a ruler for reasons of their own. So whole groups are held out, distances are
averaged over the pairs of two groups, pairs within a group are left out, and what is permuted is groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from workbench.errors import EvaluationError
from workbench.geometry.gene_covariates import make_strata
from workbench.geometry.quality import trustworthiness
from workbench.geometry.ruler_embeddings import COMPONENTS, ISOMAP, MDS, embedded, spread_of
from workbench.operators.adaptor import LETAdaptor, angles
from workbench.seeds import generator, key
from workbench.stats import null_summary

LET = "LET, held-out groups"
# A rewired null stops when so many draws are as large: its p is then known well enough (Besag & Clifford 1991).
ENOUGH = 10
FEWEST_GROUPS = 12
_NEAR = 10


@dataclass(frozen=True)
class Layout:
    """Points on a ruler, and what is held out and permuted together.

    Attributes
    ----------
    distances
        Ruler distances between the points, from 0 to 1.
    group
        Number of the group of each point, from 0.
    fold
        Fold in which each group is held out.
    stratum
        Stratum of each group: under the null, groups of one stratum and fold change places.
    """

    distances: Float[np.ndarray, "point point"]
    group: Int[np.ndarray, " point"]
    fold: Int[np.ndarray, " group"]
    stratum: Int[np.ndarray, " group"]

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.fold)

    def averaged(self, between: Float[np.ndarray, "point point"]) -> Float[np.ndarray, "group group"]:
        """Mean over the pairs of points of two groups.

        Parameters
        ----------
        between
            Something of each pair of points, such as a distance.
        """
        share = np.zeros((self.n_groups, len(self.group)))
        share[self.group, np.arange(len(self.group))] = 1 / np.bincount(self.group)[self.group]
        return share @ between @ share.T

    def measured(self, distances: Float[np.ndarray, "point point"]) -> Layout:
        """The same points on another ruler.

        Parameters
        ----------
        distances
            Distances between the same points on that ruler.
        """
        return Layout(distances, self.group, self.fold, self.stratum)


def lay_out(
    distances: Float[np.ndarray, "point point"],
    groups: Shaped[np.ndarray, " point"],
    covariates: Float[np.ndarray, "point covariate"],
    *,
    folds: int,
    seed: int,
    least: int = 10,
) -> Layout:
    """Deal groups of points to folds of like size, and into strata that are alike in their covariates.

    Parameters
    ----------
    distances
        Ruler distances between the points, from 0 to 1.
    groups
        Name of the group of each point, such as its family.
    covariates
        What groups are matched for, such as expression level; the mean over a group's points counts.
    folds
        Number of folds; every one needs four groups.
    seed
        Seed of the order in which groups of one size are dealt.
    least
        Groups of a stratum, at least.

    Raises
    ------
    EvaluationError
        If there are too few groups.
    """
    names, group = np.unique(groups.astype(str), return_inverse=True)
    if len(names) < max(FEWEST_GROUPS, 4 * folds):
        raise EvaluationError(
            f"{len(group)} points on the ruler are of {len(names)} groups; {max(FEWEST_GROUPS, 4 * folds)} groups are needed for {folds} folds. Take "
            "more genes into the panel, smaller groups, or fewer folds."
        )
    size, load, fold = np.bincount(group), np.zeros(folds), np.zeros(len(names), dtype=int)
    for i in sorted(range(len(names)), key=lambda i: (-size[i], key(seed, "folds of groups", str(names[i])))):
        fold[i] = load.argmin()
        load[fold[i]] += size[i]
    means = np.zeros((len(names), covariates.shape[1]))
    np.add.at(means, group, covariates)
    return Layout(distances, group, fold, make_strata(means / size[:, None], min_size=least))


def cross_fitted(
    x: Float[np.ndarray, "point axis"], layout: Layout, adaptor: LETAdaptor
) -> Float[np.ndarray, "group group"]:
    """Angles between held-out groups in latents that were fitted without them; NaN for two groups of different folds.

    Parameters
    ----------
    x
        Representation of the points, one row each.
    layout
        Their places on the ruler, groups and folds.
    adaptor
        Its settings; a fresh copy is fitted for each fold, to the points of all others.
    """
    found, of_point = np.full((layout.n_groups, layout.n_groups), np.nan), layout.fold[layout.group]
    for fold in range(layout.fold.max() + 1):
        kept, out = np.flatnonzero(of_point != fold), np.flatnonzero(layout.fold == fold)
        fitted = LETAdaptor(**adaptor.get_params()).fit(x[kept], layout.distances[np.ix_(kept, kept)])
        found[np.ix_(out, out)] = layout.averaged(angles(fitted.transform(x)))[np.ix_(out, out)]
    return found


class Follows:
    """Rank correlation with a ruler over pairs of groups of one fold, and its null by exchanging groups.

    Parameters
    ----------
    layout
        Places of the points on the ruler, groups, folds and strata.
    whole
        True: all groups count as one fold, for a representation that was not fitted to the ruler.
    """

    def __init__(self, layout: Layout, *, whole: bool = False) -> None:
        self.layout, self.fold = layout, np.zeros_like(layout.fold) if whole else layout.fold
        self._ruler = self._ranked(layout.averaged(layout.distances))

    def scored(self, between: Float[np.ndarray, "group group"]) -> float:
        """Rank correlation within each fold, averaged by the number of pairs.

        Parameters
        ----------
        between
            Distances or angles between groups in a representation, known for two of one fold.
        """
        return float(self._scores(self._ranked(between), [np.arange(len(self.fold))])[0])

    def null(self, between: Float[np.ndarray, "group group"], draws: int, seed: int) -> Float[np.ndarray, " draw"]:
        """The same with the places on the ruler exchanged among groups of one fold and stratum.

        A latent of a held-out fold has seen none of these places, so no fit is repeated. The same seed gives the same exchanges for every
        representation, so that differences of two have a null as well.

        Parameters
        ----------
        between
            As in `scored`.
        draws, seed
            Number of exchanges, and the seed of them.
        """
        rng, block = (
            generator(seed, "exchanged groups"),
            self.fold * (self.layout.stratum.max() + 1) + self.layout.stratum,
        )
        slots, orders = np.argsort(block, kind="stable"), []
        for _ in range(draws):
            order = np.empty(len(block), dtype=int)
            order[slots] = np.lexsort((rng.random(len(block)), block))
            orders.append(order)
        return self._scores(self._ranked(between), orders)

    def _ranked(self, between: np.ndarray) -> list[np.ndarray]:
        """Centred ranks of the pairs of each fold, as symmetric matrices of length 1."""
        out = []
        for fold in range(self.fold.max() + 1):
            rows = np.flatnonzero(self.fold == fold)
            upper = np.triu_indices(len(rows), 1)
            # Sums over pairs in another order differ in the last digits, and must tie.
            ranks = rankdata(np.round(between[np.ix_(rows, rows)][upper], 10))
            ranks -= ranks.mean()
            length = np.linalg.norm(ranks)
            square = np.zeros((len(rows), len(rows)))
            square[upper] = ranks / length if length > 0 else np.nan
            out.append(square + square.T)
        return out

    def _scores(self, ranked: list[np.ndarray], orders: Sequence[np.ndarray]) -> np.ndarray:
        found, pairs = np.zeros(len(orders)), 0
        for fold, (own, ruler) in enumerate(zip(ranked, self._ruler, strict=True)):
            rows, n = np.flatnonzero(self.fold == fold), len(own) * (len(own) - 1) // 2
            place = np.empty(len(self.fold), dtype=int)
            place[rows] = np.arange(len(rows))
            moved = (place[order[rows]] for order in orders)
            found += n * np.array([(own * ruler[np.ix_(at, at)]).sum() / 2 for at in moved])
            pairs += n
        return found / pairs

    @property
    def n_pairs(self) -> int:
        """Pairs of groups that are compared."""
        sizes = np.bincount(self.fold)
        return int((sizes * (sizes - 1) // 2).sum())


def until_enough(observed: float, drawn: Callable[[int], float], most: int) -> dict[str, float]:
    """P of a value beside draws that take long to make: they end when ten are as large, or at a number.

    Parameters
    ----------
    observed
        Statistic of the data, large where there is an effect.
    drawn
        Makes the statistic of a null draw by its number, from 0.
    most
        Draws at most. With ten draws as large p is 10 / draws, otherwise (1 + as large) / (1 + draws).

    Returns
    -------
    dict
        ``null_mean``, ``null_high`` (97.5 %), ``n_null`` and ``p``.
    """
    values: list[float] = []
    while len(values) < most and sum(value >= observed - 1e-12 for value in values) < ENOUGH:
        values.append(drawn(len(values)))
    row = null_summary(observed, np.array(values))
    if sum(value >= observed - 1e-12 for value in values) >= ENOUGH:
        row["p"] = ENOUGH / len(values)
    return row


def follow_rows(
    x: Float[np.ndarray, "point axis"],
    layout: Layout,
    adaptor: LETAdaptor,
    *,
    neighbours: Sequence[int] = (10, 15, 20),
    seeds: Sequence[int] = (0, 1, 2),
    draws: int,
    seed: int,
    rewired: Callable[[int], Float[np.ndarray, "point point"]] | None = None,
    rewirings: int = 0,
) -> list[dict[str, Any]]:
    """How a representation follows a ruler, by every fit, with the margin over two principal components and both nulls.

    Parameters
    ----------
    x
        Representation of the points, few columns: see `reduced`.
    layout
        Their places on the ruler, groups, folds and strata.
    adaptor
        Settings of the fit to the ruler.
    neighbours, seeds
        Neighbours of the graph under geodesic MDS and Isomap, and seeds of the start of MDS; none of either leaves them out.
    draws, seed
        Exchanges of groups within fold and stratum, and their seed.
    rewired
        Distances between the points on a rewired ruler, by the number of the draw; None where the ruler is no graph.
    rewirings
        Rewired rulers at most, see `until_enough`; the adaptor is fitted to each anew.

    Returns
    -------
    list of dict
        One for each fit: ``method``, ``k`` and ``seed`` (NaN where they mean nothing), ``spearman``, ``null_mean``, ``null_high``, ``p`` and
        ``n_null`` under exchanged groups, ``rewired_mean``, ``rewired_high``, ``rewired_p`` and ``n_rewired``, ``margin`` (over two principal
        components on the same pairs) with ``margin_p``, ``trustworthiness`` (of the two coordinates of a fit that saw no ruler against the
        representation, 10 neighbours), ``n_groups``, ``n_points``, ``n_pairs`` and ``status``.
    """
    about: dict[str, Any] = {"n_groups": layout.n_groups, "n_points": len(x)}
    plane = layout.averaged(spread_of(embedded(x, COMPONENTS, 0, 0)))
    asked: list[tuple[str, float, float]] = [(LET, np.nan, np.nan), (COMPONENTS, np.nan, np.nan)]
    asked += [(MDS, k, one) for k in neighbours for one in seeds] + [(ISOMAP, k, np.nan) for k in neighbours]
    rows = []
    for method, k, start in asked:
        name = {"method": method, "k": k, "seed": start, **about}
        fitted = method == LET
        follows, trust = Follows(layout, whole=not fitted), np.nan
        try:
            if fitted:
                between = cross_fitted(x, layout, adaptor)
            else:
                flat = embedded(x, method, int(np.nan_to_num(k)), int(np.nan_to_num(start)))
                between = layout.averaged(spread_of(flat))
                trust = float(trustworthiness(x, flat, min(_NEAR, (len(x) - 1) // 2)).mean())
        except EvaluationError as error:
            nothing = dict.fromkeys(
                (
                    "spearman",
                    "null_mean",
                    "null_high",
                    "p",
                    "rewired_mean",
                    "rewired_high",
                    "rewired_p",
                    "margin",
                    "margin_p",
                    "trustworthiness",
                ),
                np.nan,
            )
            rows.append({**name, **nothing, "n_null": 0, "n_rewired": 0, "n_pairs": 0, "status": f"undefined: {error}"})
            continue
        row = {**name, "spearman": follows.scored(between), "n_pairs": follows.n_pairs, "status": "ok"}
        row |= {"trustworthiness": trust}
        drawn = follows.null(between, draws, seed)
        row |= null_summary(row["spearman"], drawn)
        margin = row["spearman"] - follows.scored(plane)
        beside = null_summary(margin, drawn - follows.null(plane, draws, seed))
        own = method == COMPONENTS
        row |= {"margin": np.nan if own else margin, "margin_p": np.nan if own else beside["p"]}

        def again(draw: int, fitted: bool = fitted, between: np.ndarray = between) -> float:
            assert rewired is not None
            other = layout.measured(rewired(draw))
            return Follows(other, whole=not fitted).scored(cross_fitted(x, other, adaptor) if fitted else between)

        beside = until_enough(row["spearman"], again, rewirings if rewired is not None else 0)
        row |= {"rewired_mean": beside["null_mean"], "rewired_high": beside["null_high"]}
        row |= {"rewired_p": beside["p"], "n_rewired": beside["n_null"]}
        rows.append(row)
    return rows
