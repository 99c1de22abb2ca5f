"""How well latent angles follow the ruler on anchors that the adaptor never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits

from workbench.extractor.adaptor import LETAdaptor, angles
from workbench.seeds import generator
from workbench.stats import permutation_p, spearman

_HOLDOUT_SHARE = 0.3


def random_splits(n: int, n_splits: int, seed: int) -> Iterator[np.ndarray]:
    """Anchors to hold out: 30 % at random, drawn anew each time.

    Parameters
    ----------
    n
        Anchors.
    n_splits, seed
        How many splits, and the seed.
    """
    for i in range(n_splits):
        yield np.sort(generator(seed, "holdout", str(i)).permutation(n)[: max(3, round(_HOLDOUT_SHARE * n))])


def group_splits(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Anchors to hold out: one whole group (branch or donor) after the other, those with at least one anchor.

    Parameters
    ----------
    groups
        Group of each anchor.
    """
    for group in sorted(set(groups.tolist())):
        yield np.flatnonzero(groups == group)


def holdout_correlation(
    features: Float[np.ndarray, "anchor feature"],
    stage: Int[np.ndarray, " anchor"],
    ruler: Float[np.ndarray, "stage stage"],
    splits: Callable[[np.ndarray], list[np.ndarray]],
    adaptor: LETAdaptor,
    *,
    within: bool,
    refits: int,
    seed: int,
) -> tuple[dict[str, Any], Float[np.ndarray, " draw"]]:
    """Fit on the anchors that are left, correlate latent angles with ruler distances on those held out.

    Parameters
    ----------
    features, stage
        Anchors.
    ruler
        Distances between stages.
    splits
        Given the stage of each anchor, the anchors to hold out, one array per split. It is asked again with every
        relabelling, so that a branch holdout of the null holds out relabelled branches.
    adaptor
        Its settings; a fresh copy is fitted per split.
    within
        True: pairs of held-out anchors (random and donor holdout). False: pairs of a held-out and a training anchor
        (branch holdout, where all held-out anchors lie close together).
    refits
        Null draws. In each the stages present are relabelled at random, all anchors of a stage alike, and everything
        is fitted again. Anchors of one stage stay together, so recognising a cell type, a donor or a part of the same
        group is worth as much under the null; only following the ruler's own distances beats it.
    seed
        Seed of the null.

    Returns
    -------
    row, null
        ``spearman`` (mean over splits), ``sd``, ``n_splits``, ``n_pairs`` (mean), ``status``; and the null draws of the
        same mean, for `with_null`.
    """
    found, pairs = _over_splits(features, stage, ruler, splits(stage), adaptor, within)
    if not len(found):
        nothing = dict.fromkeys(("spearman", "sd", "n_pairs"), float("nan"))
        return {**nothing, "n_splits": 0, "status": "undefined: no split leaves enough anchors"}, np.zeros(0)
    present = np.unique(stage)
    null = []
    for draw in range(refits):
        relabel = np.arange(len(ruler))
        relabel[present] = generator(seed, "relabel", str(draw)).permutation(present)
        again = relabel[stage]
        values = _over_splits(features, again, ruler, splits(again), adaptor, within)[0]
        null.append(values.mean() if len(values) else np.nan)
    row = {
        "spearman": float(found.mean()),
        "sd": float(found.std(ddof=1)) if len(found) > 1 else float("nan"),
        "n_splits": len(found),
        "n_pairs": float(pairs.mean()),
        "status": "ok",
    }
    return row, np.array(null)


def with_null(row: dict[str, Any], null: Float[np.ndarray, " draw"]) -> dict[str, Any]:
    """Put a null beside a result.

    Parameters
    ----------
    row
        From `holdout_correlation`.
    null
        Its own draws, or draws pooled over comparable results.

    Returns
    -------
    dict
        `row` with ``null_mean``, ``null_high`` (97.5 %), ``n_null`` and ``p`` (one-sided).
    """
    null = null[np.isfinite(null)]
    if not len(null) or not np.isfinite(row["spearman"]):
        return {**row, **dict.fromkeys(("null_mean", "null_high", "p"), float("nan")), "n_null": 0}
    return {
        **row,
        "null_mean": float(null.mean()),
        "null_high": float(np.quantile(null, 0.975)),
        "n_null": len(null),
        "p": permutation_p(row["spearman"], null),
    }


@threadpool_limits.wrap(limits=1)
def _over_splits(
    features: np.ndarray,
    stage: np.ndarray,
    ruler: np.ndarray,
    splits: list[np.ndarray],
    adaptor: LETAdaptor,
    within: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank correlation and number of pairs of each split that allows one."""
    found, pairs = [], []
    for test in splits:
        train = np.setdiff1d(np.arange(len(stage)), test)
        if len(train) < 3 or len(set(stage[train])) < 2:
            continue
        fitted = LETAdaptor(**adaptor.get_params()).fit(features[train], ruler[np.ix_(stage[train], stage[train])])
        other = test if within else train
        i, j = np.triu_indices(len(test), 1) if within else (a.ravel() for a in np.indices((len(test), len(train))))
        latent = angles(fitted.transform(features))[test[i], other[j]]
        value = spearman(latent, ruler[stage[test[i]], stage[other[j]]])
        if np.isfinite(value):
            found.append(value)
            pairs.append(len(i))
    return np.array(found), np.array(pairs)
