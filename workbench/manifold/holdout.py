"""How well latent angles follow the ruler on anchors that the adaptor never saw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

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
    splits: list[np.ndarray],
    adaptor: LETAdaptor,
    *,
    within: bool,
    permutations: int,
    seed: int,
) -> dict[str, Any]:
    """Fit on the anchors that are left, correlate latent angles with ruler distances on those held out.

    Parameters
    ----------
    features, stage
        Anchors.
    ruler
        Distances between stages.
    splits
        Anchors to hold out, one array per split.
    adaptor
        Its settings; a fresh copy is fitted per split.
    within
        True: pairs of held-out anchors (random and donor holdout). False: pairs of a held-out and a training anchor
        (branch holdout, where all held-out anchors lie close together).
    permutations
        Null draws: the stages of the held-out anchors are permuted (`within`), or those of the training anchors in
        the same pairs, after the fit, in every split alike often.
    seed
        Seed of the null.

    Returns
    -------
    dict
        ``spearman`` (mean over splits), ``sd``, ``n_splits``, ``n_pairs`` (mean), ``null_mean``, ``null_high`` (97.5 %
        of the mean over splits) and ``p``.
    """
    found, pairs = [], []
    null: list[list[float]] = [[] for _ in range(permutations)]
    everyone = np.arange(len(stage))
    for number, test in enumerate(splits):
        train = np.setdiff1d(everyone, test)
        if len(train) < 3 or len(set(stage[train])) < 2:
            continue
        fitted = LETAdaptor(**adaptor.get_params()).fit(features[train], ruler[np.ix_(stage[train], stage[train])])
        angle = angles(fitted.transform(features))
        other = test if within else train
        if within:
            i, j = np.triu_indices(len(test), 1)
        else:
            i, j = (a.ravel() for a in np.indices((len(test), len(train))))
        latent = angle[test[i], other[j]]
        value = spearman(latent, ruler[stage[test[i]], stage[other[j]]])
        if not np.isfinite(value):
            continue
        found.append(value)
        pairs.append(len(i))
        rng = generator(seed, "holdout null", str(number))
        for draw in range(permutations):
            shuffled = rng.permutation(stage[other])
            first = shuffled[i] if within else stage[test[i]]
            null[draw].append(spearman(latent, ruler[first, shuffled[j]]))
    if not found:
        nothing = dict.fromkeys(("spearman", "sd", "n_pairs", "null_mean", "null_high", "p"), float("nan"))
        return {**nothing, "n_splits": 0, "status": "undefined: no split leaves enough anchors"}
    means = np.array([np.nanmean(draw) for draw in null])
    return {
        "spearman": float(np.mean(found)),
        "sd": float(np.std(found, ddof=1)) if len(found) > 1 else float("nan"),
        "n_splits": len(found),
        "n_pairs": float(np.mean(pairs)),
        "null_mean": float(means.mean()),
        "null_high": float(np.quantile(means, 0.975)),
        "p": permutation_p(float(np.mean(found)), means),
        "status": "ok",
    }
