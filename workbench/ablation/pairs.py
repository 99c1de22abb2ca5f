"""What two ablations do together beyond the sum of both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from workbench.ablation.effects import bootstrap_weights, cell_means, interval
from workbench.ablation.nulls import (
    detectable_size,
    is_beyond,
    least_found,
    over,
    p_among,
    standard_error,
    usual_size,
)
from workbench.errors import EvaluationError
from workbench.stats import benjamini_hochberg


def interactions(
    singles: dict[str, Float[np.ndarray, " cell"]],
    pairs: dict[tuple[str, str], Float[np.ndarray, " cell"]],
    random: Collection[tuple[str, str]] = (),
    control: Collection[tuple[str, str]] = (),
    *,
    draws: int,
    seed: int,
    groups: Int[np.ndarray, " cell"] | None = None,
) -> pd.DataFrame:
    """Effect of two heads ablated together minus the sum of their effects, with an interval over cells or donors.

    Parameters
    ----------
    singles, pairs
        Effect per cell, by head and by pair of heads.
    random
        Those of the pairs that were drawn at random, as the null of the others.
    control
        Those of the pairs that are of one layer. Such heads cannot react to each other.
    draws, seed, groups
        As in `effect_table`.

    Returns
    -------
    pandas.DataFrame
        ``first``, ``second``, ``effect_first``, ``effect_second``, ``effect_both``, ``interaction``, ``low``, ``high``,
        ``n_cells``, ``random``, ``same_layer``; ``size`` (geometric mean of the root mean squares over cells of both single effects)
        and ``relative`` (size of the interaction over ``size``); ``growth`` (the power of ``size`` with which ``relative`` grows over the random
        pairs) and ``expected`` (the root mean square of interactions of random pairs of this size, and of this scatter over cells, see
        `usual_size`). For pairs that are not random ``p`` (the interaction over ``expected``, against that of the
        random pairs; its smallest value is 1 / (1 + random pairs), see `enough_draws`). For those that are no control either ``q``
        (Benjamini-Hochberg over these pairs), ``beyond`` and ``detectable``, as in `effect_table`. Below zero: together less than the sum (one does what the other does); above: more.

    Notes
    -----
    Heads with large effects have large interactions, whatever they do, the largest heads are those that are tested, and means over a few cells
    have a part of chance. So p goes by the interaction over what a random pair of that size and scatter does.
    """
    if not pairs:
        raise EvaluationError("There is no pair of heads to compare; ask for at least two top heads.")
    weights = bootstrap_weights(len(next(iter(singles.values()))), draws, seed, groups)
    rows: list[dict[str, Any]] = []
    for (a, b), both in pairs.items():
        difference = both - singles[a] - singles[b]
        low, high = interval(difference, weights)
        means: Sequence[float] = [float(cell_means(v[None])[0]) for v in (singles[a], singles[b], both, difference)]
        squares = [float(cell_means(v[None] ** 2)[0]) for v in (singles[a], singles[b])]
        rows.append(
            {
                "first": a,
                "second": b,
                **dict(zip(("effect_first", "effect_second", "effect_both", "interaction"), means, strict=True)),
                "low": low,
                "high": high,
                "se": float(standard_error(difference[None], groups)[0]),
                "n_cells": int(np.isfinite(difference).sum()),
                "random": (a, b) in random,
                "same_layer": (a, b) in control,
                "size": (squares[0] * squares[1]) ** 0.25,
            }
        )
    table = pd.DataFrame(rows)
    drawn = table["random"].to_numpy(dtype=bool)
    tested = ~drawn & ~table["same_layer"].to_numpy(dtype=bool)
    # Infinite where a head does nothing alone, and NaN where the pair does nothing either.
    table["relative"] = table["interaction"].abs() / table["size"]
    size, error = table["size"].to_numpy(), (table["se"] / table["size"]).to_numpy()
    typical, power, middle = usual_size(table["relative"].to_numpy()[drawn], size[drawn], error[drawn])
    table["growth"] = power if drawn.any() else np.nan
    some = np.where(size > 0, size, np.nan)
    own = typical * (some / middle) ** power
    table["expected"] = np.where(size == 0, 0.0, some * np.sqrt(own**2 + np.nan_to_num(error, posinf=0.0) ** 2))
    ratio = np.array([over(value, scale) for value, scale in zip(table["interaction"], table["expected"], strict=True)])
    null = ratio[drawn]
    # What a pair scatters more is in what is expected of it.
    table["p"] = [np.nan if drawn[i] else p_among(ratio[i], null, 0.0, 1) for i in range(len(table))]
    table["q"] = benjamini_hochberg(table["p"].where(tested).to_numpy())
    needed = least_found(null, int(table["q"].notna().sum())) if drawn.any() else np.nan
    table["beyond"] = is_beyond(table)
    table["detectable"] = detectable_size(np.asarray(needed), table["expected"].to_numpy(), table).where(tested)
    return table
