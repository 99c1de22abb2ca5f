"""From one number per cell to effects: intervals over cells or donors, nulls, and what two ablations do together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm import tqdm

from workbench.ablation.nulls import (
    degrees_of,
    detectable_size,
    excess,
    is_beyond,
    least_found,
    over,
    p_among,
    rms,
    standard_error,
)
from workbench.seeds import generator, key
from workbench.stats import benjamini_hochberg, over_few, spearman

_TOLD_BY = 100  # draws of a bootstrap by which donors are told from cells


def bootstrap_weights(n: int, draws: int, seed: int, groups: Int[np.ndarray, " cell"] | None = None) -> np.ndarray:
    """How often each cell counts in each bootstrap draw, (draw, cell).

    Parameters
    ----------
    n
        Number of cells or of their values.
    draws, seed
        Number of bootstrap draws, and their seed.
    groups
        Donor of each cell, to draw whole donors; None to draw cells.
    """
    rng = generator(seed, "bootstrap")
    if groups is None:
        return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    names, inverse = np.unique(groups, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, inverse].astype(np.float64)


def interval(values: Float[np.ndarray, " cell"], weights: Float[np.ndarray, "draw cell"]) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over cells, or over donors, stretched where they are few (`stats.over_few`); NaN cells are left out.

    NaN where the cells that are left are all of one donor, of which nothing can be said of other donors.

    Parameters
    ----------
    values
        One value for each cell, NaN where undefined.
    weights
        Weights of the cells in each draw, from `bootstrap_weights`.
    """
    known = np.isfinite(values)
    w = weights[:, known]
    # Cells of one donor are drawn together in every draw: their mean never varies.
    if (w == w[:, :1]).all():
        return float("nan"), float("nan")
    total = w.sum(1)
    means = (w @ values[known])[total > 0] / total[total > 0]
    # Cells of a donor are drawn together; no two others are, in as many draws.
    return over_few(float(values[known].mean()), means, np.unique(w[:_TOLD_BY], axis=1).shape[1])


def effect_table(
    differences: dict[str, Float[np.ndarray, "ablation cell"]],
    ablations: pd.DataFrame,
    *,
    draws: int,
    seed: int,
    groups: Int[np.ndarray, " cell"] | None = None,
    worse: dict[str, int] | None = None,
    bar: tqdm | None = None,
) -> pd.DataFrame:
    """Mean effects with intervals, nulls and p values.

    Parameters
    ----------
    differences
        By metric: its value with the ablation minus its value in the intact model.
    ablations
        One row per ablation: ``key``, ``places``, ``how``, ``kind``, ``layer``, ``head`` and ``null`` (number of the
        random-direction draw; -1 for the ablation itself).
    draws, seed
        Number of bootstrap draws, and their seed.
    groups
        Donor of each cell; None to draw cells.
    worse
        By metric, as in `Metric`.
    bar
        Progress bar that goes on by one for each row of the table; none by default.

    Returns
    -------
    pandas.DataFrame
        One row per metric and ablation (null draws are no rows of their own): ``effect`` (mean over cells), ``low`` and
        ``high`` (95 % bootstrap over cells or donors, as `interval` gives it), ``sd`` (over cells), ``se`` (of the mean, over cells or
        donors), ``n_cells``; ``null_mean``, ``null_low``, ``null_high`` (smallest and largest), ``null_se`` (root mean square of their standard
        errors) and ``n_null`` of its own random-direction draws;
        ``ratio`` (size of the effect over the root mean square of these draws), ``p`` and ``q`` (Benjamini-Hochberg over the heads of a metric
        and way of ablating); ``n_pool`` (null draws that p is of); ``beyond`` (q <= 0.05, and the interval, where there is one, excludes
        0); ``detectable`` (size of the effect that is found to be ``beyond`` four times in five, see the notes); ``heads_as_large`` (share of the other heads with an effect of that size or more).

    Notes
    -----
    p compares ``ratio`` with the same ratio of every null draw of every head, each draw against the root mean square of
    the other draws of its head: (1 + number as large) / (1 + draws). It is pooled over heads because a few draws per
    head cannot give a small p. It assumes that a draw relates to its head's other draws alike in all heads.

    The effect of a head may scatter over cells more than that of random changes (``se`` above ``null_se``), and then its mean over a few
    cells is larger than theirs by chance of the cells. So each draw is moved by chance of what it scatters more, see `p_among`.
    ``beyond`` asks the interval, too: an effect may be larger than those of random changes, and its sign be open.

    An effect is ``detectable`` where it is what a head alone needs for q <= 0.05 (`least_found`, times the root mean square of
    its draws), or half the interval where that is more, and 0.84 standard errors beside. It is infinite where the draws are too
    few for any effect.
    """
    weights = bootstrap_weights(len(next(iter(differences.values()))[0]), draws, seed, groups)
    parts = []
    for metric, values in differences.items():
        mean, errors = cell_means(values), standard_error(values, groups)
        for how in dict.fromkeys(ablations["how"]):
            here = ablations["how"] == how
            rows = []
            for i in np.flatnonzero((here & (ablations["null"] < 0)).to_numpy()):
                row = ablations.iloc[i]
                own = (here & (ablations["places"] == row["places"]) & (ablations["null"] >= 0)).to_numpy()
                low, high = interval(values[i], weights)
                known = np.isfinite(values[i])
                null = mean[own]
                null_se, scale = rms(errors[own]), rms(null)
                rows.append(
                    {
                        "metric": metric,
                        "ablation": row["places"],
                        **{c: row[c] for c in ("how", "kind", "layer", "head")},
                        "effect": mean[i],
                        "low": low,
                        "high": high,
                        "sd": float(values[i][known].std(ddof=1)) if known.sum() > 1 else float("nan"),
                        "se": errors[i],
                        "n_cells": int(known.sum()),
                        "null_mean": float(null.mean()) if len(null) else float("nan"),
                        "null_low": float(null.min()) if len(null) else float("nan"),
                        "null_high": float(null.max()) if len(null) else float("nan"),
                        "null_se": null_se,
                        "n_null": len(null),
                        "ratio": abs(over(mean[i], scale)),
                        "detectable": scale,
                        "worse": (worse or {}).get(metric, 0),
                        "_more": over(excess(errors[i], null_se), scale),
                        "_degrees": degrees_of(values[i], groups),
                        "_pool": [over(null[j], rms(np.delete(null, j))) for j in range(len(null))],
                    }
                )
                if bar is not None:
                    bar.update()
            parts.append(_with_p(pd.DataFrame(rows)))
    return pd.concat(parts, ignore_index=True)


def cell_means(values: Float[np.ndarray, "ablation cell"]) -> Float[np.ndarray, " ablation"]:
    """Mean over the cells that have a value; NaN where none has.

    Parameters
    ----------
    values
        A value for each ablation and cell, NaN where undefined.
    """
    known = np.isfinite(values)
    n = known.sum(1)
    return np.where(n > 0, np.where(known, values, 0).sum(1) / np.maximum(n, 1), np.nan)


def _with_p(table: pd.DataFrame) -> pd.DataFrame:
    pooled = np.array([ratio for ratios in table.pop("_pool") for ratio in ratios])
    beside = list(zip(table["ratio"], table.pop("_more"), table.pop("_degrees"), strict=True))
    table["p"] = [p_among(ratio, pooled, more, degrees) for ratio, more, degrees in beside]
    heads = (table["kind"] == "head").to_numpy()
    table["n_pool"] = int((~np.isnan(pooled)).sum())
    table["q"] = np.nan
    table.loc[heads, "q"] = benjamini_hochberg(table.loc[heads, "p"].to_numpy())
    tests = int(table.loc[heads, "p"].notna().sum())
    needed = np.array([least_found(pooled, tests, more, degrees) for _, more, degrees in beside])
    table["beyond"] = is_beyond(table)
    table["detectable"] = detectable_size(needed, table["detectable"].to_numpy(), table)
    size = table["effect"].abs().to_numpy()
    table["heads_as_large"] = [
        float((np.delete(size[heads], np.flatnonzero(np.flatnonzero(heads) == i)) >= size[i]).mean())
        if np.isfinite(size[i]) and heads.sum() > 1
        else float("nan")
        for i in range(len(table))
    ]
    return table


def split_cells(names: Sequence[str], draws: int, seed: int) -> Int[np.ndarray, " cell"]:
    """Disjoint draws of cells, as even as can be: the number of the draw that each cell is in.

    Parameters
    ----------
    names
        Names of the cells; their order does not matter.
    draws, seed
        Number of the draws, and their seed.
    """
    number = np.empty(len(names), dtype=np.int64)
    number[sorted(range(len(names)), key=lambda i: key(seed, "draw of cells", names[i]))] = (
        np.arange(len(names)) % draws
    )
    return number


def over_draws(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """How the effects of heads repeat over draws of cells.

    Parameters
    ----------
    tables
        What `effect_table` makes of each draw, all of the same ablations.

    Returns
    -------
    pandas.DataFrame
        One row per metric, way of ablating and head: ``effect_1``, ``effect_2`` and so on, their ``mean`` and ``sd``; ``n_draws``
        (those with an effect), ``n_cells`` (of the smallest of these), ``n_found`` (draws where it is ``beyond``; NaN without a null) and
        ``detectable`` (median over the draws: the size of effect that one draw finds four times in five).
    """
    at = ["metric", "how", "ablation", "layer", "head"]
    kept = [table[table["kind"] == "head"].set_index(at) for table in tables]
    effect, q, beyond, n, found = (
        pd.concat([t[name] for t in kept], axis=1).to_numpy(np.float64)
        for name in ("effect", "q", "beyond", "n_cells", "detectable")
    )
    known = np.isfinite(effect)
    columns: dict[str, Any] = {f"effect_{i + 1}": effect[:, i] for i in range(len(kept))}
    spread = pd.DataFrame(effect)
    columns |= {"mean": spread.mean(axis=1), "sd": spread.std(axis=1), "n_draws": known.sum(1)}
    columns |= {"n_cells": np.where(known, n, np.inf).min(1)}
    columns |= {"n_found": np.where(np.isfinite(q).any(1), beyond.sum(1), np.nan)}
    columns |= {"detectable": pd.DataFrame(found).median(axis=1)}
    return pd.DataFrame({k: np.asarray(v) for k, v in columns.items()}, index=kept[0].index).reset_index()


def reliability(values: Float[np.ndarray, "head cell"], seed: int, splits: int = 50) -> float:
    """Rank correlation over heads between the mean effects in two halves of the cells, averaged over random halvings.

    Near 0, these cells do not tell which heads matter more: then no estimate can be expected to rank heads right.

    Parameters
    ----------
    values
        Effect per head and cell; NaN cells are left out.
    seed, splits
        Seed and number of the random halvings.
    """
    known = values[:, np.isfinite(values).all(0)]
    if known.shape[1] < 4:
        return float("nan")
    found = []
    for i in range(splits):
        order = generator(seed, "halves", str(i)).permutation(known.shape[1])
        halves = np.array_split(order, 2)
        found.append(spearman(known[:, halves[0]].mean(1), known[:, halves[1]].mean(1)))
    return float(np.mean(found))


def top_heads(table: pd.DataFrame, metric: str, n: int) -> list[str]:
    """Heads with the largest effects: harm where the metric has a worse side, size where it has none.

    Parameters
    ----------
    table
        Table of effects that `effect_table` has made.
    metric
        Name of the metric that heads are ordered by.
    n
        Number of heads wanted, at most all.
    """
    heads = table[(table["metric"] == metric) & (table["kind"] == "head")]
    worse = heads["worse"].to_numpy()
    score = np.where(worse == 0, heads["effect"].abs(), worse * heads["effect"])
    return heads["ablation"].to_numpy()[np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:n]].tolist()
