"""What a campaign says: paired differences over splits and donors, wins, ties and losses, ranks. No winner over all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from workbench.evidence.endpoints import ALL, LOWER
from workbench.seeds import generator
from workbench.stats import Error, benjamini_hochberg, error_over_splits, paired_wilcoxon, wilcoxon_p

ALPHA = 0.05
WIN, TIE, LOSS, UNDEFINED = "win", "tie", "loss", "undefined"
_WHERE = ["kind", "data"]
_WHAT = ["endpoint", "metric", "better"]
_FEWEST_SPLITS, _SIMULATED = 3, 2000
OVER_SPLITS, NO_TEST = "over splits, corrected", "none"
FEWEST_DONORS = 4  # of a single split, as a transfer is


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


def compare(scores: pd.DataFrame, splits: pd.DataFrame, ours: str) -> pd.DataFrame:
    """Ours against every other method, endpoint metric by endpoint metric, over the same splits.

    Parameters
    ----------
    scores, splits
        Tables of a campaign: one row per value, of all test cells of a split and of each donor's alone; and one per split.
    ours
        Name of the method that is compared with the others.

    Returns
    -------
    DataFrame
        ``ours``, ``method``, ``kind``, ``data``, ``endpoint``, ``metric``, ``better``; ``ours_value`` and ``value`` (means over the splits in
        which both are defined); ``difference`` (above 0 where ours is better) with ``low`` and ``high`` (95 %) and two-sided ``p``
        by ``test``; ``donor_sd`` (spread over donors of their mean differences, by which docs/calibration.md tells how well the test
        holds its level); ``detectable`` (what would have been found, see `Error.judged`); ``n_splits``; ``effect`` (see `rank_biserial`);
        ``q`` (Benjamini-Hochberg over the endpoint metrics of a method, kind and data); ``outcome``; ``p_wilcoxon`` (two-sided,
        over splits as if they were independent, which is the paper's).

    Notes
    -----
    The error of a difference is that of `error_over_splits`; with fewer than three splits there is none. A transfer is a single
    split, whose training side is given: there it is that of a t-test over the tested donors, of which it takes four. A score of
    all test cells is another one than the mean of their donors'; interval and p are around the difference of the former.
    """
    rows: list[dict[str, Any]] = []
    share = splits.set_index("split")["test_share"]
    for where, part in scores.groupby(_WHERE, sort=False):
        others = [name for name in part["method"].unique() if name != ours]
        for what, cells in part.groupby(_WHAT, sort=False):
            sign = -1.0 if what[2] == LOWER else 1.0
            wide = cells.pivot(index=["scope", "split"], columns="method", values="value")
            for name in others:
                pair = wide.reindex(columns=[ours, name]).dropna()
                apart = sign * (pair[ours] - pair[name])
                single = apart.index.get_level_values("scope") != ALL
                difference = apart[~single].droplevel("scope")
                mean = float(difference.mean())
                own = apart[single].groupby("scope").mean()
                one_split = part["split"].nunique() == 1
                error, test = _error(
                    difference, own if one_split else None, float(share.reindex(difference.index).mean())
                )
                values = difference.to_numpy()
                rows.append(
                    {
                        "ours": ours,
                        "method": name,
                        **dict(zip([*_WHERE, *_WHAT], (*where, *what), strict=True)),
                        "ours_value": pair[ours][~single].mean(),
                        "value": pair[name][~single].mean(),
                        "difference": mean,
                        **error.judged(mean),
                        "test": test,
                        "donor_sd": own.std(),
                        "n_splits": len(values),
                        "effect": rank_biserial(values),
                        "p_wilcoxon": paired_wilcoxon(values),
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
    "test", "donor_sd", "n_splits", "detectable", "effect", "p", "q", "outcome", "p_wilcoxon",
)  # fmt: skip


def held_out(scores: pd.DataFrame) -> pd.DataFrame:
    """Which donor is tested in which split: splits by donors, True where it is; both in the order of their names.

    Parameters
    ----------
    scores
        Rows of one kind of split and one dataset; donors are what scopes other than all cells are named after.
    """
    pairs = scores.loc[scores["scope"] != ALL, ["split", "scope"]].drop_duplicates()
    return pd.crosstab(pairs["split"], pairs["scope"]).astype(bool)


def _error(difference: pd.Series, own: pd.Series | None, test_share: float) -> tuple[Error, str]:
    """Error of a difference over splits, or over donors of a single split, given theirs, and the name of the test that it makes."""
    if own is not None and len(own) >= FEWEST_DONORS:
        return Error(float(own.std() / np.sqrt(len(own))), len(own) - 1), f"over {len(own)} donors"
    error = error_over_splits(difference.to_numpy(), test_share)
    return error, OVER_SPLITS if np.isfinite(error.error) else NO_TEST


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


def wilcoxon_level(held: pd.DataFrame, seed: int = 0) -> float:
    """Share of true nulls that Wilcoxon's test over splits calls at p <= 0.05, where donors differ and methods do not.

    Parameters
    ----------
    held
        Which donor is tested in which split, from `held_out`.
    seed
        Seed of the 2,000 simulated campaigns: a normal difference for each donor, and a split has the mean of its donors'.
    """
    tested = held.to_numpy(dtype=float)
    donors = generator(seed, "level of Wilcoxon").normal(size=(_SIMULATED, tested.shape[1]))
    values = donors @ (tested / tested.sum(1, keepdims=True)).T
    return float(np.mean(wilcoxon_p(values) <= ALPHA))


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
    made = comparisons[comparisons["n_splits"] > 0]
    for (kind, data), part in splits.groupby(_WHERE, sort=False):
        n, apart = len(part), int(part["disjoint"].astype(bool).sum())
        who = f"{str(kind).capitalize()}, {data}"
        held = held_out(scores[(scores["kind"] == kind) & (scores["data"] == data)])
        if n > apart:
            level = (
                f" calls {wilcoxon_level(held):.0%} of true nulls at p <= {ALPHA} ({_SIMULATED:,} simulated campaigns on these splits)"
                if len(held) >= _FEWEST_SPLITS
                else " takes them to be independent and its p is too small"
            )
            said.append(
                f"{who}: the {n} splits share cells; Wilcoxon over them (p_wilcoxon){level}, and no mark goes by it."
            )
        compared = made[(made["kind"] == kind) & (made["data"] == data)]
        if len(compared):
            said.append(f"{who}: {_tests(compared)}")
        if (spread := compared["donor_sd"][compared["test"] != NO_TEST].dropna()).size:
            said.append(
                f"{who}: donors differ in a difference by {spread.median():.2g} (sd, median of {len(spread):,} comparisons; nine in ten by at most "
                f"{spread.quantile(0.9):.2g}); docs/calibration.md has how well the test holds its level where they do."
            )
        if (found := compared.dropna(subset="detectable")).size:
            sizes = found.groupby(["endpoint", "metric"], sort=False)["detectable"].median()
            parts = "; ".join(f"{' '.join(key)} {size:.2g}" for key, size in zip(sizes.index, sizes, strict=True))
            said.append(
                f"{who}: a tie is no evidence of no difference. What would have been found in four of five such campaigns, at p <= {ALPHA} "
                f"and before the correction for many metrics (median over methods): {parts}."
            )
    undefined = scores[(scores["scope"] == ALL) & scores["status"].str.startswith("undefined")]
    if len(undefined):
        names = ", ".join(dict.fromkeys(undefined["endpoint"]))
        said.append(f"Undefined in some splits or in all, and counted in none of these: {names}.")
    return said


def _tests(compared: pd.DataFrame) -> str:
    """By which tests some comparisons are judged, as `compare` says of each; the usual kind first, others by their metrics."""
    said = compared["test"]
    donors = said.str.extract(r"over (\d+) donors")[0].astype(float)
    kinds = {
        "over splits, corrected for shared cells (Nadeau and Bengio)": said == OVER_SPLITS,
        f"a t-test over at most {donors.max():.0f} donors, those with both classes of an endpoint": donors.notna(),
        f"not given, which takes {_FEWEST_SPLITS} splits, or {FEWEST_DONORS} donors of a single one, so that they are ties": said
        == NO_TEST,
    }
    parts: list[str] = []
    for what, where in kinds.items():
        names = ", ".join(dict.fromkeys(compared["endpoint"][where] + " " + compared["metric"][where]))
        if names:
            parts.append(f"for {names} they are {what}" if parts else f"intervals and p are {what}")
    return "; ".join(parts) + "."
