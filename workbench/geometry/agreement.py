"""How far two latents of the same points agree, beside latents that were fitted to rulers which say nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.geometry.likeness import cka, principal_angle
from workbench.stats import permutation_p

CKA, ANGLE = "debiased CKA", "mean principal angle"
Latents = Sequence[Float[np.ndarray, "_ _"]]
# Name: what it is, and the side on which two latents are more alike.
MEASURES: Mapping[str, tuple[Callable[[Any, Any], float], int]] = {CKA: (cka, 1), ANGLE: (principal_angle, -1)}


def agreement_rows(one: Latents, other: Latents) -> list[dict[str, Any]]:
    """Agreement of two latents, beside draws of either that were fitted to a ruler without meaning.

    Two latents of one model share its features, so they agree whatever their rulers say. What counts is whether they agree more than the
    one does with draws of the other.

    Read both nulls together. A latent whose ruler is in the features lies along their strong directions, and its draws less, so that beside
    these alone p is small for one of eight pairs that have nothing to do with each other (`experiments/calibration_others.py`).

    Parameters
    ----------
    one, other
        The latent, and after it its null draws; all of the same points in the same order.

    Returns
    -------
    list of dict
        For each measure and each of the two whose draws are the null: ``measure``, ``value``, ``null_of`` (``ruler`` for draws of the first,
        ``other`` for those of the second), ``null_mean``, ``null_low``, ``null_high`` (2.5 and 97.5 %), ``n_null``, ``p`` (as much alike as
        observed, or more), ``p_apart`` (as little alike, or less), ``n_points``, ``axes`` (of the narrower latent).

    Raises
    ------
    EvaluationError
        If there are fewer than four points, or they differ.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.agreement import agreement_rows
    >>> z, *drawn = np.random.default_rng(0).normal(size=(20, 60, 3))
    >>> rows = agreement_rows([z, *drawn], [2 * z, *drawn])
    >>> rows[0]["measure"], round(rows[0]["value"], 6), rows[0]["p"]
    ('debiased CKA', 1.0, 0.05)
    """
    axes, rows = min(one[0].shape[1], other[0].shape[1]), []
    for name, (measure, sign) in MEASURES.items():
        value = measure(one[0], other[0])
        nulls = {"ruler": [measure(z, other[0]) for z in one[1:]], "other": [measure(one[0], z) for z in other[1:]]}
        for null_of, values in nulls.items():
            drawn = np.array([v for v in values if np.isfinite(v)])
            low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (np.nan, np.nan)
            rows.append(
                {
                    "measure": name,
                    "value": value,
                    "null_of": null_of,
                    "null_mean": float(drawn.mean()) if len(drawn) else float("nan"),
                    "null_low": float(low),
                    "null_high": float(high),
                    "n_null": len(drawn),
                    "p": permutation_p(sign * value, sign * drawn),
                    "p_apart": permutation_p(-sign * value, -sign * drawn),
                    "n_points": len(one[0]),
                    "axes": axes,
                }
            )
    return rows
