"""What the first axis of a latent goes with: broad classes of its groups, and gene programs, beside groups that change places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata

from workbench.seeds import generator
from workbench.stats import null_summary


def axis_rows(
    latent: Float[np.ndarray, "anchor k"],
    group: Int[np.ndarray, " anchor"],
    broad: Shaped[np.ndarray, " anchor"],
    programs: Mapping[str, Float[np.ndarray, " anchor"]],
    *,
    draws: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Eta squared of broad classes on the first principal axis of a latent, and its rank correlation with programs.

    All are of group means: anchors of one group are no replicates. Under the null, classes and programs change places among groups.

    Parameters
    ----------
    latent
        Latent of the anchors; the widest axis is taken, whose sign means nothing.
    group
        Number of each anchor's group.
    broad
        Broad class of each anchor, the same for all of a group.
    programs
        By name: mean expression of a program in each anchor.
    draws, seed
        Exchanges of groups, and the seed of them.

    Returns
    -------
    list of dict
        ``measure``, ``of`` (what is compared), ``value`` (of programs with its sign, the axis turned to where the first one is positive),
        ``null_mean``, ``null_high`` and ``p`` (of the size), ``n_null``, ``n`` groups, ``axis_share`` of the latent's variance.
    """
    centred = latent - latent.mean(0)
    _, s, vt = np.linalg.svd(centred, full_matrices=False)
    numbers, at = np.unique(group, return_inverse=True)
    first = np.unique(at, return_index=True)[1]

    def means(values: np.ndarray) -> np.ndarray:
        return np.bincount(at, values) / np.bincount(at)

    axis, classes = means(centred @ vt[0]), np.unique(broad[first].astype(str), return_inverse=True)[1]
    about = {"n": len(numbers), "axis_share": float(s[0] ** 2 / (s**2).sum())}
    rng = generator(seed, "first axis")
    orders = [rng.permutation(len(numbers)) for _ in range(draws)]
    rows = []
    if 1 < classes.max() + 1 < len(numbers):
        null = np.array([_eta(axis, classes[order]) for order in orders])
        value = _eta(axis, classes)
        rows.append(
            {"measure": "eta squared", "of": "broad classes", "value": value, **null_summary(value, null), **about}
        )
    ranks = {name: _ranked(means(values)) for name, values in programs.items()}
    own = _ranked(axis)
    turn = np.sign(next((own @ one for one in ranks.values()), 1.0)) or 1.0
    for name, one in ranks.items():
        value, null = float(turn * (own @ one)), np.array([abs(own @ one[order]) for order in orders])
        found = {**null_summary(abs(value), null), **about}
        rows.append({"measure": "rank correlation", "of": name, "value": value, **found})
    return rows


def _eta(values: np.ndarray, classes: np.ndarray) -> float:
    size = np.bincount(classes)
    between = (size * (np.bincount(classes, values) / size - values.mean()) ** 2).sum()
    return float(between / ((values - values.mean()) ** 2).sum())


def _ranked(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values) - (len(values) + 1) / 2
    return ranks / np.linalg.norm(ranks) if ranks.any() else ranks
