"""How well latent angles follow the ruler on anchors that the adaptor never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from workbench.cells.splits import Split
from workbench.evidence.donor_interval import FEWEST_DONORS, Pairs, donor_interval, refitted_interval, without_donor
from workbench.operators.adaptor import LETAdaptor, angles, fit_to_ruler
from workbench.operators.operator import Head, OperatorSource
from workbench.seeds import generator
from workbench.stats import WITHOUT, null_summary, spearman
from workbench.threads import threaded

_HOLDOUT_SHARE = 0.3


# Three to fit on and three to compare with each other.
FEWEST_ANCHORS = 6


def random_splits(n: int, n_splits: int, seed: int, share: float = _HOLDOUT_SHARE) -> Iterator[Split]:
    """Hold out some of the anchors at random, drawn anew each time, and compare them with each other.

    Parameters
    ----------
    n
        Number of anchors; three at least are held out.
    n_splits, seed
        How many splits, and the seed.
    share
        Share of the anchors that is held out, 30 % by default.
    """
    for i in range(n_splits):
        test = np.sort(generator(seed, "holdout", str(i)).permutation(n)[: max(3, round(share * n))])
        yield Split(np.setdiff1d(np.arange(n), test), test)


def group_splits(groups: np.ndarray, *, against_rest: bool = False) -> Iterator[Split]:
    """Hold out one whole group (donor, branch) after the other.

    Parameters
    ----------
    groups
        Group of each anchor, such as its donor or branch.
    against_rest
        Compare the held-out anchors with the others instead of with each other: for branches, whose anchors all lie
        close together.
    """
    for group in sorted(set(groups.tolist())):
        test, rest = np.flatnonzero(groups == group), np.flatnonzero(groups != group)
        yield Split(rest, test, rest if against_rest else None)


def holdout_correlation(
    features: Float[np.ndarray, "anchor feature"],
    stage: Int[np.ndarray, " anchor"],
    ruler: Float[np.ndarray, "stage stage"],
    splits: Callable[[np.ndarray], Sequence[Split]],
    adaptor: LETAdaptor,
    *,
    refits: int,
    seed: int,
    weights: Float[np.ndarray, " anchor"] | None = None,
    kinds: Shaped[np.ndarray, " anchor"] | None = None,
    donor: Shaped[np.ndarray, " anchor"] | None = None,
    within: bool = False,
) -> tuple[dict[str, Any], Float[np.ndarray, " draw"]]:
    """Fit on the anchors that are left, correlate latent angles with ruler distances on those held out.

    Parameters
    ----------
    features, stage
        Features of each anchor, and its stage number.
    ruler
        Distances between stages, from 0 to 1.
    splits
        Given the stage of each anchor, the splits. It is asked again with every relabelling, so that a branch holdout
        of the null holds out relabelled branches.
    adaptor
        Its settings; a fresh copy is fitted per split.
    refits
        Null draws: stages relabelled (see `relabelled`), everything fitted again.
    seed
        Seed of the null draws; splits have their own.
    weights
        Of the anchors, when the adaptor is fitted.
    kinds
        Cell type of each anchor: with them, also the correlation over pairs of different types only. Over all pairs,
        features that merely recognise a type gain from pairs of one type, whose distance is 0.
    donor
        Donor of each anchor: with them, also `donor_interval` of the correlation; with `within` that of `refitted_interval`, which fits once
        more for each donor and split.
    within
        Of splits that compare held-out anchors with others, also the held-out ones with each other.

    Returns
    -------
    row, null
        ``spearman`` (mean over splits), ``sd``, ``n_splits``, ``n_pairs`` (mean), ``n_iter`` (most that a fit took, those of
        the null as well), ``n_unconverged`` (fits that stopped before `LETAdaptor.tol`), ``status``; and the null draws
        of the same mean, for `with_null`. With `kinds` also ``between``, ``between_high`` (97.5 % of its null) and
        ``between_p``; NaN where no two distances differ. With `donor` also ``donor_low``, ``donor_high`` and ``n_donors``. With
        `within` also ``weighted`` (the mean over splits, each by its held-out anchors), ``within`` (mean over splits whose
        held-out anchors have different distances to each other), ``within_weighted``, ``n_within`` (such splits), and
        ``within_high`` and ``within_p`` of the null.
    """
    labels = [stage, *(relabelled(stage, seed, draw) for draw in range(refits))]
    asked = [(draw, split) for draw, label in enumerate(labels) for split in splits(label)]
    judged = _judged(features, labels, ruler, asked, adaptor, weights, kinds, within)
    found = [one for one in judged if one.draw == 0]
    if not found:
        more = ["between", "between_high", "between_p"] if kinds is not None else []
        more += ["donor_low", "donor_high"] if donor is not None else []
        more += ["weighted", "within", "within_weighted", "within_high", "within_p"] if within else []
        counts = ["n_donors"] if donor is not None else []
        counts += ["n_within"] if within else []
        nothing = dict.fromkeys(("spearman", "sd", "n_pairs", *more), float("nan"))
        none: dict[str, Any] = {**nothing, **dict.fromkeys(("n_splits", "n_iter", "n_unconverged", *counts), 0)}
        return {**none, "status": "undefined: no split leaves enough anchors"}, np.zeros(0)
    values = np.array([one.spearman for one in found])
    row: dict[str, Any] = {
        "spearman": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else float("nan"),
        "n_splits": len(values),
        "n_pairs": float(np.mean([one.n_pairs for one in found])),
        "n_iter": max(one.n_iter for one in judged),
        "n_unconverged": sum(not one.converged for one in judged),
        "status": "ok",
    }
    if kinds is not None:
        between, *drawn = (_mean(judged, draw, "between") for draw in range(1 + refits))
        null = null_summary(between, np.array(drawn))
        row |= {"between": between, "between_high": null["null_high"], "between_p": null["p"]}
    if donor is not None:
        low, high, n_donors = donor_interval([one.pairs for one in found if one.pairs], donor, seed)
        if within and n_donors >= FEWEST_DONORS:
            names = np.unique(donor[np.concatenate([[*one.pairs.i, *one.pairs.j] for one in found if one.pairs])])
            fewer = [(k, without_donor(split, donor, name)) for k, name in enumerate(names) for split in splits(stage)]
            again = _judged(features, [stage] * len(names), ruler, fewer, adaptor, weights)
            low, high = refitted_interval(row["spearman"], np.array([_mean(again, k) for k in range(len(names))]))
        row |= {"donor_low": low, "donor_high": high, "n_donors": n_donors}
    if within:
        inside, *drawn = (_mean(judged, draw, "within") for draw in range(1 + refits))
        null = null_summary(inside, np.array(drawn))
        row |= {"weighted": _mean(judged, 0, weighted=True), "within": inside}
        row |= {"within_weighted": _mean(judged, 0, "within", weighted=True)}
        row |= {"n_within": sum(bool(np.isfinite(one.within)) for one in found)}
        row |= {"within_high": null["null_high"], "within_p": null["p"]}
    return row, np.array([_mean(judged, 1 + draw) for draw in range(refits)])


def with_null(row: dict[str, Any], null: Float[np.ndarray, " draw"]) -> dict[str, Any]:
    """Put a null beside a result.

    Parameters
    ----------
    row
        The row that `holdout_correlation` returns; with ``without_sequencing`` where the null is of features without what
        follows sequencing, and then this is what it is compared with.
    null
        Its own draws, or draws pooled over comparable results.

    Returns
    -------
    dict
        `row` with ``null_mean``, ``null_high`` (97.5 %), ``n_null`` and ``p`` (one-sided).
    """
    value = row.get(WITHOUT, row["spearman"])
    return {**row, **null_summary(value, null if np.isfinite(value) else null[:0])}


def relabelled(stage: Int[np.ndarray, " anchor"], seed: int, draw: int) -> Int[np.ndarray, " anchor"]:
    """Stages of a null draw: those present change places at random, all anchors of a stage alike.

    Anchors of one stage stay together, so recognising a cell type, a donor or a part of the same group is worth as much
    under this null; only following the ruler's own distances beats it. The same as a ruler from
    `null_rulers.shuffled` among the stages present.

    Parameters
    ----------
    stage
        Stage number of each anchor, from 0.
    seed, draw
        Seed, and number of the null draw.
    """
    present = np.unique(stage)
    place = np.zeros(present.max() + 1, dtype=int)
    place[present] = generator(seed, "relabel", str(draw)).permutation(present)
    return place[stage]


def head_scores(
    operators: OperatorSource,
    centroids: Float[np.ndarray, "anchor gene"],
    stage: Int[np.ndarray, " anchor"],
    ruler: Float[np.ndarray, "stage stage"],
    splits: Sequence[Split],
    adaptor: LETAdaptor,
    weights: Float[np.ndarray, " anchor"] | None = None,
) -> dict[Head, float]:
    """Mean over splits of the rank correlation on held-out anchors, for every head alone.

    Parameters
    ----------
    operators
        Operators of all heads, on the genes of the centroids.
    centroids, stage
        Mean expression of each anchor, and its stage number.
    ruler, splits, adaptor, weights
        As in `holdout_correlation`; here the splits are the same for all heads.

    Returns
    -------
    dict
        By layer and head; NaN where no split can be judged.
    """
    asked = [(0, split) for split in splits]
    found = {}
    for layer, head in np.ndindex(*operators.shape):
        judged = _judged(centroids @ operators.head(layer, head), [stage], ruler, asked, adaptor, weights)
        found[layer, head] = _mean(judged, 0)
    return found


@dataclass(frozen=True)
class _Fit:
    """A fit on a split's anchors, judged on those held out; `draw` is the number of the labels it was given."""

    draw: int
    spearman: float
    between: float
    within: float
    n_held: int
    pairs: Pairs | None
    n_pairs: int
    n_iter: int
    converged: bool


def _judged(
    features: np.ndarray,
    labels: Sequence[np.ndarray],
    ruler: np.ndarray,
    asked: Sequence[tuple[int, Split]],
    adaptor: LETAdaptor,
    weights: np.ndarray | None,
    kinds: np.ndarray | None = None,
    within: bool = False,
) -> list[_Fit]:
    """Fits of all splits, each with labels of its own number.

    Left out are splits with fewer than three anchors or one stage to fit on, or no two distances to compare.
    """

    def judge(task: tuple[int, Split]) -> _Fit | None:
        draw, split = task
        stage, train = labels[draw], split.train
        if len(train) < 3 or len(set(stage[train])) < 2:
            return None
        fitted = fit_to_ruler(adaptor, features, stage, ruler, weights, train)
        i, j = split.pairs()
        angle, distance = angles(fitted.transform(features))[i, j], ruler[stage[i], stage[j]]
        value = spearman(angle, distance)
        if not np.isfinite(value):
            return None
        apart = np.zeros(len(i), bool) if kinds is None else kinds[i] != kinds[j]
        between = spearman(angle[apart], distance[apart])
        inside, pairs = float("nan"), Pairs(i, j, angle, distance) if draw == 0 else None
        if within and split.against is not None:
            of_held, (a, b) = fitted.transform(features[split.test]), np.triu_indices(len(split.test), 1)
            inside = spearman(angles(of_held)[a, b], ruler[stage[split.test][a], stage[split.test][b]])
        done = (fitted.n_iter_, fitted.stopped_ == "gradient")
        return _Fit(draw, value, between, inside, len(split.test), pairs, len(i), *done)

    return [one for one in threaded(judge, asked) if one is not None]


def _mean(judged: Sequence[_Fit], draw: int, what: str = "spearman", *, weighted: bool = False) -> float:
    known = [(value, one.n_held) for one in judged if one.draw == draw and np.isfinite(value := getattr(one, what))]
    values, n_held = zip(*known, strict=True) if known else ((), ())
    return float(np.average(values, weights=n_held if weighted else None)) if known else float("nan")
