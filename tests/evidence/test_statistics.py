"""Paired statistics against closed forms, scipy and planted differences; what is undefined stays so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare, ttest_1samp, wilcoxon

from workbench.evidence.statistics import (
    cautions,
    compare,
    critical_difference,
    outcome,
    rank_biserial,
    ranks,
    summarise,
    tally,
    wilcoxon_level,
)
from workbench.stats import error_over_splits

DONORS = ("a", "b", "c", "d", "e", "f")


def campaign(values, donors=DONORS, kind="donor holdout", better="higher", endpoint="stage", metric="macro-F1"):
    """Scores of methods by split: an array or a function of the split's number; donors score as their split does."""
    n = len(next(iter(values.values())))
    rows = []
    for name, own in values.items():
        for i, value in enumerate(own):
            held = (donors[i % len(donors)], donors[(i + 1 + i // len(donors)) % len(donors)]) if donors else ()
            for scope in ("all", *held):
                status = "ok" if np.isfinite(value) else "undefined: one class only"
                rows.append((name, f"s{i}", kind, "cells", scope, endpoint, metric, better, value, 9, status))
    columns = ["method", "split", "kind", "data", "scope", "endpoint", "metric", "better", "value", "n_cells", "status"]
    splits = pd.DataFrame(
        {
            "split": [f"s{i}" for i in range(n)],
            "kind": kind,
            "data": "cells",
            "test_donors": ["+".join(donors[:2]) if donors else ""] * n,
            "disjoint": [i < 3 for i in range(n)],
            "test_share": 0.25,
        }
    )
    return pd.DataFrame(rows, columns=columns), splits


def one(table, **where):
    for key, value in where.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_a_planted_difference_is_found_with_scipys_p():
    rng = np.random.default_rng(0)
    ours, other = 0.8 + rng.normal(0, 0.02, 12), 0.7 + rng.normal(0, 0.02, 12)
    scores, splits = campaign({"ours": ours, "other": other})
    row = one(compare(scores, splits, "ours"), method="other")
    assert row["difference"] == pytest.approx((ours - other).mean()) and row["outcome"] == "win"
    assert row["p_wilcoxon"] == wilcoxon(ours - other).pvalue and 0 < row["p"] == row["q"] < 0.01
    assert row["low"] < row["difference"] < row["high"] and row["test"] == "over splits, corrected"
    assert row["effect"] == 1 and 0 < row["detectable"] < row["difference"]


def test_lower_is_better_turns_the_sign():
    scores, splits = campaign({"ours": np.full(8, 0.2) + np.arange(8) / 100, "other": np.full(8, 0.1)}, better="lower")
    row = one(compare(scores, splits, "ours"), method="other")
    assert row["difference"] < 0 and row["outcome"] == "loss" and row["effect"] == -1


def test_only_splits_with_both_count():
    ours = np.array([0.5, np.nan, 0.7, 0.6, 0.5, 0.6])
    scores, splits = campaign({"ours": ours, "other": np.full(6, 0.5)})
    row = one(compare(scores, splits, "ours"), method="other")
    assert row["n_splits"] == 5 and row["difference"] == pytest.approx(np.nanmean(ours) - 0.5)


def test_a_method_that_was_not_run_is_undefined_and_never_a_half():
    scores, splits = campaign({"ours": np.full(6, 0.5), "other": np.full(6, np.nan)})
    table = compare(scores, splits, "ours")
    row = one(table, method="other")
    assert row["outcome"] == "undefined" and row["n_splits"] == 0 and np.isnan(row["difference"])
    assert one(tally(table), method="other")["undefined"] == 1
    methods = pd.DataFrame({"method": ["ours", "other"], "group": ["extracted", "peer"]})
    said = one(summarise(scores, methods), method="other")
    assert np.isnan(said["value"]) and said["n_undefined"] == 6 and said["status"].startswith("undefined")


def test_without_donors_the_interval_is_corrected_for_shared_cells():
    rng = np.random.default_rng(0)
    d = rng.normal(0.05, 0.05, 10)
    scores, splits = campaign({"ours": d, "other": np.zeros(10)}, donors=())
    row = one(compare(scores, splits, "ours"), method="other")
    from scipy.stats import t

    reach = t.ppf(0.975, 9) * np.sqrt(d.var(ddof=1) * (1 / 10 + 0.25 / 0.75))
    assert row["test"] == "over splits, corrected"
    assert (row["low"], row["high"]) == (pytest.approx(d.mean() - reach), pytest.approx(d.mean() + reach))


def test_the_order_of_rows_changes_nothing():
    rng = np.random.default_rng(0)
    scores, splits = campaign({"ours": rng.random(9), "b": rng.random(9), "c": rng.random(9)})
    first = compare(scores, splits, "ours").set_index("method")
    mixed = compare(scores.sample(frac=1, random_state=1), splits.sample(frac=1, random_state=2), "ours")
    pd.testing.assert_frame_equal(first, mixed.set_index("method").loc[first.index])


def test_the_interval_is_of_scores_of_all_test_cells_of_a_split():
    scores, splits = campaign({"ours": np.full(12, 0.7), "other": np.full(12, 0.6)})
    # Those of single donors vary and have no part in it; a donor without both classes has none.
    alone = (scores["scope"] != "all") & (scores["method"] == "ours")
    values = scores["value"].mask(alone, np.random.default_rng(0).random(len(scores))).mask(scores["scope"] == "c")
    row = one(compare(scores.assign(value=values), splits, "ours"), method="other")
    assert (row["low"], row["difference"], row["high"]) == pytest.approx((0.1, 0.1, 0.1))
    assert row["test"] == "over splits, corrected" and row["n_splits"] == 12 and row["donor_sd"] > 0


def test_three_donors_are_too_few_for_a_model_of_donors():
    rng = np.random.default_rng(1)
    scores, splits = campaign({"ours": rng.random(6), "other": rng.random(6)}, donors=("a", "b", "c"))
    assert one(compare(scores, splits, "ours"), method="other")["test"] == "over splits, corrected"


def test_two_splits_have_a_difference_but_neither_p_nor_interval():
    scores, splits = campaign({"ours": np.array([0.8, 0.9]), "other": np.array([0.1, 0.1])}, donors=())
    row = one(compare(scores, splits, "ours"), method="other")
    assert row["difference"] == pytest.approx(0.75) and row["test"] == "none" and row["outcome"] == "tie"
    assert np.isnan([row["p"], row["q"], row["low"], row["high"]]).all()


def test_kinds_and_data_are_judged_apart():
    first, splits = campaign({"ours": np.full(6, 0.9) + np.arange(6) / 100, "b": np.full(6, 0.5)})
    second = campaign({"ours": np.full(6, 0.1), "b": np.full(6, 0.5) + np.arange(6) / 100}, kind="transfer")[0]
    second["split"] = "to " + second["split"]
    more = splits.assign(split="to " + splits["split"], kind="transfer")
    table = compare(pd.concat([first, second]), pd.concat([splits, more]), "ours")
    assert dict(zip(table["kind"], table["outcome"], strict=True)) == {"donor holdout": "win", "transfer": "loss"}
    assert tally(table)[["wins", "losses"]].to_numpy().tolist() == [[1, 0], [0, 1]]


def test_q_is_over_the_metrics_of_a_method():
    rng = np.random.default_rng(3)
    parts = [campaign({"ours": rng.normal(0.02 * i, 0.05, 9), "b": np.zeros(9)}, endpoint=f"e{i}") for i in range(4)]
    table = compare(pd.concat([scores for scores, _ in parts]), parts[0][1], "ours")
    p = np.sort(table["p"].to_numpy())
    expected = np.minimum.accumulate((p * 4 / np.arange(1, 5))[::-1])[::-1]
    assert np.sort(table["q"].to_numpy()) == pytest.approx(expected)


def test_the_bootstrap_covers_a_planted_difference():
    rng = np.random.default_rng(0)
    hits = 0
    donors = tuple(f"d{i}" for i in range(12))
    for _ in range(60):
        # A difference of 0.1 with donors that differ; each split tests one donor.
        d = 0.1 + rng.normal(0, 0.1, 12)
        rows, splits = campaign({"ours": d, "b": np.zeros(12)}, donors=donors)
        rows = rows[(rows["scope"] == "all") | (rows["scope"] == ("d" + rows["split"].str[1:]))]
        row = one(compare(rows, splits, "ours"), method="b")
        hits += row["low"] <= 0.1 <= row["high"]
    # 95 % are wanted; a percentile bootstrap of twelve is known to be somewhat narrow.
    assert 50 <= hits <= 60


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 2, 3], 1), ([-1, 2, 0, 3], (5 - 1) / 6), ([1, -1], 0), ([0, 0], np.nan)],
)
def test_rank_biserial(values, expected):
    assert rank_biserial(np.array(values, dtype=float)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ((0.1, 0.01, 9), "win"),
        ((-0.1, 0.01, 9), "loss"),
        ((0.1, 0.06, 9), "tie"),
        ((0.1, np.nan, 2), "tie"),
        ((np.nan, np.nan, 0), "undefined"),
    ],
)
def test_outcomes(case, expected):
    assert outcome(*case) == expected


# Table 5 of Demsar, JMLR 7:1 (2006): critical values of the two-tailed Nemenyi test at 0.05.
@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_the_published_ones(k, q):
    assert critical_difference(k, 10) == pytest.approx(q * np.sqrt(k * (k + 1) / 60), abs=2e-3)


def test_ranks_are_friedmans():
    rng = np.random.default_rng(0)
    values = {"a": rng.random(8), "b": rng.random(8), "c": rng.random(8), "gone": np.full(8, np.nan)}
    scores, _ = campaign(values)
    table = ranks(scores)
    assert set(table["method"]) == {"a", "b", "c"} and table["mean_rank"].sum() == pytest.approx(6)
    assert table["friedman_p"].iloc[0] == pytest.approx(friedmanchisquare(values["a"], values["b"], values["c"]).pvalue)
    worst = campaign({"a": np.ones(5), "b": np.zeros(5)}, better="lower")[0]
    assert one(ranks(worst), method="b")["mean_rank"] == 1


def test_cautions_name_what_is_shared_and_what_would_have_been_found():
    scores, splits = campaign({"ours": np.array([0.5, np.nan, 0.5, 0.6]), "b": np.zeros(4)})
    table = compare(scores, splits, "ours")
    said = " ".join(cautions(scores, splits, table))
    # Four splits cannot reach 0.05 in a signed-rank test.
    assert "the 4 splits share cells; Wilcoxon over them (p_wilcoxon) calls 0% of true nulls" in said
    assert "a tie is no evidence of no difference. What would have been found" in said
    assert f"stage macro-F1 {table['detectable'].iloc[0]:.2g}" in said
    assert "Undefined in some splits" in said and "stage" in said


def test_cautions_are_of_the_splits_of_each_dataset():
    values = {"ours": np.full(6, 0.6), "b": np.full(6, 0.5)}
    scores, splits = campaign(values)
    data = {f"s{i}": f"other {i}" for i in range(6)}
    scores = scores.assign(kind="transfer", data=scores["split"].map(data))
    splits = splits.assign(kind="transfer", data=splits["split"].map(data), disjoint=True, test_share=np.nan)
    said = cautions(scores, splits, compare(scores, splits, "ours"))
    wanted = "intervals and p are not given, which takes 3 splits, or 4 donors of a single one, so that they are ties."
    assert [one for one in said if one.startswith("Transfer, other")] == [
        f"Transfer, other {i}: {wanted}" for i in range(6)
    ]


def test_cautions_say_of_each_metric_by_what_it_is_judged():
    values = {"ours": np.arange(6) / 100 + 0.6, "b": np.full(6, 0.5)}
    scores, splits = campaign(values)
    said = cautions(scores, splits, compare(scores, splits, "ours"))
    assert (
        "Donor holdout, cells: intervals and p are over splits, corrected for shared cells (Nadeau and Bengio)." in said
    )
    # A single split: donors where there are any, and what has no value by donor has no test.
    one_split = splits.head(1).assign(kind="transfer", disjoint=True, test_share=np.nan)
    to = pd.concat([scores.query("scope == 'all'").head(1), scores.query("scope != 'all'").drop_duplicates(["scope"])])
    to = to.assign(split="s0", kind="transfer", value=np.arange(7) / 100 + 0.6)
    to = pd.concat([to, to.query("scope == 'all'").assign(endpoint="clusters", metric="ARI")])
    to = pd.concat([to, to.assign(method="b", value=0.5)])
    said = cautions(to, one_split, compare(to, one_split, "ours"))
    assert (
        "Transfer, cells: intervals and p are a t-test over at most 6 donors, those with both classes of an endpoint; for clusters ARI they "
        "are not given, which takes 3 splits, or 4 donors of a single one, so that they are ties."
    ) in said
    # Of what nobody was asked, no test is spoken of.
    nothing = scores.assign(value=np.nan, status="not run: not there")
    assert "intervals and p are" not in " ".join(cautions(nothing, splits, compare(nothing, splits, "ours")))


def test_a_transfer_is_judged_over_the_donors_of_its_one_split():
    rng = np.random.default_rng(4)
    each = rng.normal(0.1, 0.05, 6)
    rows = [("all", each.mean()), *zip(DONORS, each, strict=True)]
    fixed = {
        "split": "to x",
        "kind": "transfer",
        "data": "x",
        "endpoint": "stage",
        "metric": "F1",
        "better": "higher",
        "status": "ok",
    }
    table = [
        {"method": name, "scope": scope, "value": own * (name == "ours"), **fixed}
        for name in ("ours", "b")
        for scope, own in rows
    ]
    splits = pd.DataFrame([{"split": "to x", "kind": "transfer", "data": "x", "disjoint": True, "test_share": np.nan}])
    row = one(compare(pd.DataFrame(table), splits, "ours"), method="b")
    assert row["test"] == "over 6 donors" and row["p"] == pytest.approx(ttest_1samp(each, 0).pvalue)


def test_splits_are_judged_over_splits_and_the_spread_of_donors_is_said():
    rng = np.random.default_rng(5)
    ours = rng.normal(0.1, 0.05, 6)
    scores, splits = campaign({"ours": ours, "b": np.zeros(6)})
    table = compare(scores, splits, "ours")
    row = one(table, method="b")
    # Donor i is tested in splits i and i - 1.
    each = (ours + np.roll(ours, 1)) / 2
    assert row["donor_sd"] == pytest.approx(each.std(ddof=1))
    assert row["test"] == "over splits, corrected"
    assert row["p"] == pytest.approx(error_over_splits(ours, 0.25).judged(ours.mean())["p"])
    spread = (
        f"Donor holdout, cells: donors differ in a difference by {each.std(ddof=1):.2g} (sd, median of 1 comparisons"
    )
    assert spread in " ".join(cautions(scores, splits, table))
    # Where scores of single donors are not there, nothing is said of them.
    whole = scores[scores["scope"] == "all"]
    table = compare(whole, splits, "ours")
    assert np.isnan(one(table, method="b")["donor_sd"]) and "donors differ" not in " ".join(
        cautions(whole, splits, table)
    )


def test_the_level_of_wilcoxon_is_simulated_on_the_very_splits():
    apart = pd.DataFrame(np.eye(12, dtype=bool))
    assert abs(wilcoxon_level(apart) - 0.05) < 0.02, "splits of one donor each are independent"
    rng = np.random.default_rng(0)
    shared = pd.DataFrame([np.isin(range(8), rng.permutation(8)[:2]) for _ in range(20)])
    assert 0.3 < wilcoxon_level(shared) < 0.6
