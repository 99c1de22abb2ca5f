"""What a campaign says: paired differences over splits and donors, wins, ties and losses, ranks. No winner over all."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from workbench.evidence.endpoints import ALL, LOWER
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg, corrected_difference, paired_wilcoxon

ALPHA = 0.05
WIN, TIE, LOSS, UNDEFINED = "win", "tie", "loss", "undefined"
_WHERE = ["kind", "data"]
_WHAT = ["endpoint", "metric", "better"]
_DRAWS, _FEWEST_DONORS, _FEWEST_CORRECTED = 2000, 4, 3
OVER_SPLITS, NO_INTERVAL = "over splits, corrected", "none"
# Six pairs are the fewest with which a two-sided signed-rank test can come to 0.05: 2 / 2^6 = 0.031.
FEWEST_SPLITS = 6


def summarise(scores: pd.DataFrame, methods: pd.DataFrame) -> pd.DataFrame:
    """Mean over splits of every method, endpoint and metric.

    Parameters
    ----------
    scores, methods
        Tables of a campaign: one row per value, and one per method.

    Returns
    -------
    DataFrame
        ``method``, ``group``, ``kind``, ``data``, ``endpoint``, ``metric``, ``better``, ``value`` (mean over the splits in which it is
        defined), ``sd`` (over splits, which overlap), ``n_splits``, ``n_undefined``, ``status`` (of the first split that is
        undefined, where none is defined).
    """
    own = scores[scores["scope"] == ALL]
    grouped = own.groupby(["method", *_WHERE, *_WHAT], sort=False)
    table = grouped["value"].agg(value="mean", sd="std", n_splits="count", n="size").reset_index()
    table["n_undefined"] = table.pop("n") - table["n_splits"]
    status = grouped["status"].agg(lambda said: "ok" if (said == "ok").any() else said.iloc[0])
    table["status"] = status.to_numpy()
    table = table.merge(methods[["method", "group"]], on="method", how="left")
    return table[["method", "group", *_WHERE, *_WHAT, "value", "sd", "n_splits", "n_undefined", "status"]]


def compare(scores: pd.DataFrame, splits: pd.DataFrame, ours: str, seed: int) -> pd.DataFrame:
    """Ours against every other method, endpoint metric by endpoint metric, over the same splits.

    Parameters
    ----------
    scores, splits
        Tables of a campaign: one row per value, and one per split.
    ours
        Name of the method that is compared with the others.
    seed
        Seed of the bootstrap over donors.

    Returns
    -------
    DataFrame
        ``ours``, ``method``, ``kind``, ``data``, ``endpoint``, ``metric``, ``better``; ``ours_value`` and ``value`` (means over the splits in
        which both are defined); ``difference`` (above 0 where ours is better) with ``low`` and ``high`` (95 %) by ``interval``;
        ``n_splits``; ``effect`` (see `rank_biserial`); ``p`` (two-sided Wilcoxon over splits), ``q`` (Benjamini-Hochberg over the
        endpoint metrics of a method, kind and data); ``outcome``; ``n_disjoint``, ``difference_disjoint`` and ``p_disjoint``, of the
        splits that share no test cell.

    Notes
    -----
    The bootstrap draws donors, each with its mean difference over the splits that test it; a score of a donor's cells
    alone is another one than that of all test cells together, so the interval is moved to the difference over splits.
    With fewer than four donors that have values it is that of `corrected_difference` over splits, as it is for what has no
    value by donor; with fewer than three splits as well there is none.
    """
    rows: list[dict[str, Any]] = []
    share = splits.set_index("split")["test_share"]
    apart = set(splits.loc[splits["disjoint"].astype(bool), "split"])
    for where, part in scores.groupby(_WHERE, sort=False):
        others = [name for name in part["method"].unique() if name != ours]
        for what, cells in part.groupby(_WHAT, sort=False):
            sign = -1.0 if what[2] == LOWER else 1.0
            wide = cells.pivot(index=["scope", "split"], columns="method", values="value")
            for name in others:
                pair = wide.reindex(columns=[ours, name]).dropna()
                both = pair.loc[ALL] if ALL in pair.index else pair.iloc[:0].droplevel("scope")
                difference = sign * (both[ours] - both[name])
                alone = difference[difference.index.isin(apart)]
                rows.append(
                    {
                        "ours": ours,
                        "method": name,
                        **dict(zip([*_WHERE, *_WHAT], (*where, *what), strict=True)),
                        "ours_value": both[ours].mean(),
                        "value": both[name].mean(),
                        "difference": difference.mean(),
                        **_interval(pair, difference, sign, share, ours, name, seed),
                        "n_splits": len(difference),
                        "effect": rank_biserial(difference.to_numpy()),
                        "p": paired_wilcoxon(difference.to_numpy()),
                        "n_disjoint": len(alone),
                        "difference_disjoint": alone.mean(),
                        "p_disjoint": paired_wilcoxon(alone.to_numpy()),
                    }
                )
    table = pd.DataFrame(rows, columns=list(_COMPARED))
    if len(table):
        grouped = table.groupby(["method", *_WHERE], sort=False)["p"]
        table["q"] = grouped.transform(lambda p: benjamini_hochberg(p.to_numpy(dtype=float)))
    judged = zip(table["difference"].tolist(), table["q"].tolist(), table["n_splits"].tolist(), strict=True)
    table["outcome"] = [outcome(*one) for one in judged]
    return table


_COMPARED = (
    "ours", "method", "kind", "data", "endpoint", "metric", "better", "ours_value", "value", "difference", "low", "high",
    "interval", "n_splits", "effect", "p", "q", "outcome", "n_disjoint", "difference_disjoint", "p_disjoint",
)  # fmt: skip


def outcome(difference: float, q: float, n: int) -> str:
    """``win``, ``tie``, ``loss``, or ``undefined`` where no split has both.

    Parameters
    ----------
    difference, q, n
        Above 0 where ours is better; its q; splits.
    """
    if not n:
        return UNDEFINED
    if not q <= ALPHA:
        return TIE
    return WIN if difference > 0 else LOSS


def rank_biserial(difference: Float[np.ndarray, " split"]) -> float:
    """Matched-pairs rank-biserial correlation: share of the ranks that favour ours less that of the others (Kerby 2014).

    Parameters
    ----------
    difference
        Paired; zeros are left out. NaN where nothing is left.
    """
    kept = difference[np.abs(difference) > 1e-12]
    if not len(kept):
        return float("nan")
    ranks = rankdata(np.abs(kept))
    return float((ranks @ np.sign(kept)) / ranks.sum())


def _interval(
    pair: pd.DataFrame, difference: pd.Series, sign: float, share: pd.Series, ours: str, name: str, seed: int
) -> dict[str, Any]:
    nothing = {"low": np.nan, "high": np.nan, "interval": NO_INTERVAL}
    if not len(difference):
        return nothing
    donors = pair[pair.index.get_level_values("scope") != ALL]
    each = (sign * (donors[ours] - donors[name])).groupby(level="scope").mean()
    if len(each) >= _FEWEST_DONORS:
        # By name: donors in another order give the same draws.
        values = each.sort_index().to_numpy()
        rng = generator(seed, "benchmark bootstrap", name)
        drawn = values[rng.integers(0, len(values), (_DRAWS, len(values)))].mean(1)
        shift = float(difference.mean()) - values.mean()
        low, high = np.quantile(drawn, [0.025, 0.975]) + shift
        return {"low": low, "high": high, "interval": f"bootstrap over {len(values)} donors"}
    held = share.reindex(difference.index).mean()
    if len(difference) < _FEWEST_CORRECTED or not 0 < held < 1:
        return nothing
    found = corrected_difference(difference.to_numpy(), float(held))
    return {"low": found["low"], "high": found["high"], "interval": OVER_SPLITS}


def tally(comparisons: pd.DataFrame) -> pd.DataFrame:
    """Wins, ties and losses of ours against each method, over its endpoint metrics.

    Parameters
    ----------
    comparisons
        Table of a campaign that `compare` made.

    Returns
    -------
    DataFrame
        ``method``, ``kind``, ``data``, ``wins``, ``ties``, ``losses``, ``undefined``, ``above`` (metrics on which ours is above, surely or not).
    """
    rows = []
    for (method, kind, data), part in comparisons.groupby(["method", *_WHERE], sort=False):
        counts = part["outcome"].value_counts()
        found = {"wins": WIN, "ties": TIE, "losses": LOSS, "undefined": UNDEFINED}
        said = {name: int(counts.get(word, 0)) for name, word in found.items()}
        above = int((part["difference"] > 0).sum())
        rows.append({"method": method, "kind": kind, "data": data, **said, "above": above})
    return pd.DataFrame(rows, columns=["method", *_WHERE, "wins", "ties", "losses", "undefined", "above"])


def ranks(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean rank of each method over splits, with Friedman's test and Nemenyi's critical difference (Demsar 2006).

    Parameters
    ----------
    scores
        Table of a campaign. Methods that are undefined in a split are left out, splits in which nobody is defined as well.

    Returns
    -------
    DataFrame
        ``kind``, ``data``, ``endpoint``, ``metric``, ``method``, ``mean_rank`` (1: best), ``n_splits``, ``n_methods``,
        ``critical_difference``, ``friedman_p``; nothing where fewer than two splits or two methods are left.
    """
    rows: list[dict[str, Any]] = []
    own = scores[scores["scope"] == ALL]
    for (kind, data, endpoint, metric, better), part in own.groupby([*_WHERE, *_WHAT], sort=False):
        wide = part.pivot(index="split", columns="method", values="value")[list(part["method"].unique())]
        wide = wide.dropna(how="all").dropna(axis=1)
        n, k = wide.shape
        if n < 2 or k < 2:
            continue
        sign = 1.0 if better == LOWER else -1.0
        values = np.round(sign * wide.to_numpy(), 12)
        mean = rankdata(values, axis=1).mean(0)
        # With two methods there is nothing for Friedman's test, and with none that differ anywhere nothing to test.
        same = k < 3 or not (values != values[:, :1]).any()
        p = np.nan if same else float(friedmanchisquare(*values.T).pvalue)
        about = {"n_splits": n, "n_methods": k, "critical_difference": critical_difference(k, n), "friedman_p": p}
        for name, rank in zip(wide.columns, mean.tolist(), strict=True):
            where = {"kind": kind, "data": data, "endpoint": endpoint, "metric": metric}
            rows.append({**where, "method": name, "mean_rank": rank, **about})
    columns = ["kind", "data", "endpoint", "metric", "method", "mean_rank", "n_splits", "n_methods"]
    return pd.DataFrame(rows, columns=[*columns, "critical_difference", "friedman_p"])


def critical_difference(k: int, n: int, alpha: float = ALPHA) -> float:
    """Nemenyi's critical difference of mean ranks: q sqrt(k (k + 1) / (6 n)) (Demsar, JMLR 7:1, 2006).

    Parameters
    ----------
    k, n
        Numbers of methods and of splits, two or more each.
    alpha
        Level; q is the studentised range quantile over sqrt(2).
    """
    q = float(studentized_range.ppf(1 - alpha, k, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(k * (k + 1) / (6 * n)))


def cautions(scores: pd.DataFrame, splits: pd.DataFrame, comparisons: pd.DataFrame) -> list[str]:
    """What the numbers of splits and donors allow to be said.

    Parameters
    ----------
    scores, splits
        Tables of a campaign: one row per value, and one per split.
    comparisons
        Table of the same campaign that `compare` made.
    """
    said = []
    own, made = scores[(scores["scope"] == ALL) & scores["value"].notna()], comparisons[comparisons["n_splits"] > 0]
    for (kind, data), part in splits.groupby(_WHERE, sort=False):
        n, apart = len(part), int(part["disjoint"].astype(bool).sum())
        who = f"{str(kind).capitalize()}, {data}"
        if n > apart:
            said.append(
                f"{who}: the {n} splits share test and training cells, so that Wilcoxon's p, which takes them to be "
                f"independent, is too small; {apart} of them share no test cell (columns *_disjoint)."
            )
        compared = made[(made["kind"] == kind) & (made["data"] == data)]
        there = own[(own["kind"] == kind) & (own["data"] == data)]
        metrics, smallest = len(there[["endpoint", "metric"]].drop_duplicates()), 2.0 ** (1 - n)
        needed = ceil(metrics * smallest / ALPHA)
        if n < FEWEST_SPLITS:
            left = ", and only the intervals say something" if (compared["interval"] != NO_INTERVAL).any() else ""
            said.append(
                f"{who}: {n} split{'s' * (n > 1)} cannot reach p <= {ALPHA} in a two-sided signed-rank test ({FEWEST_SPLITS} are the "
                f"fewest): by that test every outcome is a tie{left}."
            )
        elif needed > 1:
            said.append(
                f"{who}: {n} splits reach p = {smallest:.2g} at best, so that q <= {ALPHA} takes at least {needed} of the {metrics} "
                "endpoint metrics at once: a tie is no evidence of no difference."
            )
        if len(compared):
            said.append(f"{who}: {_intervals(compared)}")
    undefined = scores[(scores["scope"] == ALL) & scores["status"].str.startswith("undefined")]
    if len(undefined):
        names = ", ".join(dict.fromkeys(undefined["endpoint"]))
        said.append(f"Undefined in some splits or in all, and counted in none of these: {names}.")
    return said


def _intervals(compared: pd.DataFrame) -> str:
    """What the intervals of some comparisons are, as `compare` says of each; the usual kind first, others by their metrics."""
    said = compared["interval"]
    drawn = said.str.extract(r"over (\d+) donors")[0].astype(float)
    kinds = {
        f"a bootstrap over at most {drawn.max():.0f} donors, those with both classes of an endpoint": drawn.notna(),
        "over splits, corrected for shared cells": said == OVER_SPLITS,
        f"not given, which takes {_FEWEST_DONORS} donors or {_FEWEST_CORRECTED} splits": said == NO_INTERVAL,
    }
    parts: list[str] = []
    for what, where in kinds.items():
        names = ", ".join(dict.fromkeys(compared["endpoint"][where] + " " + compared["metric"][where]))
        if names:
            parts.append(f"for {names} they are {what}" if parts else f"intervals are {what}")
    return "; ".join(parts) + "."
