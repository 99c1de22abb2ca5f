"""Effects: intervals cover, p values hold under the null, and tables follow from the numbers by hand."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, norm
from scipy.stats import t as student

from workbench.ablation.effects import (
    bootstrap_weights,
    effect_table,
    interactions,
    interval,
    least_found,
    over_draws,
    reliability,
    split_cells,
    top_heads,
)
from workbench.stats import enough_draws


def described(n_heads: int, n_null: int, how: str = "mean") -> pd.DataFrame:
    """Heads of one layer, each followed by its null draws."""
    return pd.DataFrame(
        [
            {
                "key": f"L0H{h} {how} {n}",
                "places": f"L0H{h}",
                "how": how,
                "kind": "head",
                "layer": 0,
                "head": h,
                "null": n,
            }
            for h in range(n_heads)
            for n in range(-1, n_null)
        ]
    )


def with_mean(means, n_cells: int = 4) -> np.ndarray:
    """Per-cell values with these means."""
    spread = np.linspace(-1, 1, n_cells)
    return np.asarray(means, dtype=float)[:, None] + spread


# Bootstrap


def test_every_draw_counts_as_many_cells_as_there_are():
    weights = bootstrap_weights(30, 500, seed=0)
    assert weights.shape == (500, 30) and (weights.sum(1) == 30).all() and (weights >= 0).all()
    assert np.abs(weights.mean(0) - 1).max() < 4.5 / np.sqrt(500)
    assert abs(weights.var() - (1 - 1 / 30)) < 0.05, "multinomial, so nearly Poisson"
    assert np.array_equal(weights, bootstrap_weights(30, 500, seed=0))
    assert not np.array_equal(weights, bootstrap_weights(30, 500, seed=1))


def test_donors_stay_whole():
    donor = np.array([5, 2, 2, 9, 5, 5, 9, 2, 2, 7])
    weights = bootstrap_weights(10, 400, seed=0, groups=donor)
    for d in (2, 5, 7, 9):
        each = weights[:, donor == d]
        assert (each == each[:, :1]).all()
    drawn = weights[:, [1, 0, 9, 3]]
    assert (drawn.sum(1) == 4).all() and np.abs(drawn.mean(0) - 1).max() < 4.5 / np.sqrt(400)


def test_an_interval_is_quantiles_of_means_over_drawn_cells():
    values = np.array([1.0, 4.0, np.nan, -2.0, 0.5])
    weights = bootstrap_weights(5, 200, seed=3)
    means = []
    for row in weights:
        drawn = [v for v, times in zip(values, row.astype(int), strict=True) for _ in range(times) if np.isfinite(v)]
        if drawn:
            means.append(np.mean(drawn))
    assert interval(values, weights) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert np.isnan(interval(np.array([1.0, np.nan, np.nan, np.nan, np.nan]), weights)).all()


def test_one_donor_has_no_interval():
    values, donor = np.array([1.0, 4.0, 3.0, -2.0, 0.5]), np.array([0, 0, 0, 1, 1])
    donors, cells = bootstrap_weights(5, 200, 0, donor), bootstrap_weights(5, 200, 0)
    mean, stretch = values.mean(), student.ppf(0.975, 1) / norm.ppf(0.975) * np.sqrt(2)
    wanted = mean + stretch * (np.array([-0.75, 8 / 3]) - mean)
    assert interval(values, donors) == pytest.approx(tuple(wanted)), "of two donors, one is drawn twice half the time"
    assert np.isnan(interval(values, bootstrap_weights(5, 200, 0, np.full(5, 7)))).all()
    of_one = np.where(donor == 0, values, np.nan)
    assert np.isnan(interval(of_one, donors)).all() and np.isfinite(interval(of_one, cells)).all()
    table = effect_table({"m": values[None], "n": of_one[None]}, described(1, 0), draws=200, seed=0, groups=donor)
    assert table["low"].isna().tolist() == table["high"].isna().tolist() == [False, True]


def coverage(repeats: int, draws: int, seed: int = 0) -> dict[str, float]:
    """How often intervals hold the true mean: cells alone; 25 donors of 4 cells, drawn whole, and cell by cell."""
    rng = np.random.default_rng(seed)
    hits = {"cells": [], "donors": [], "cells of donors": []}
    for i in range(repeats):
        cells = rng.normal(2, 3, 80)
        donor = rng.permutation(np.repeat(np.arange(25), 4))
        grouped = 2 + rng.standard_normal(25)[donor] + 0.5 * rng.standard_normal(100)
        for name, values, groups in (
            ("cells", cells, None),
            ("donors", grouped, donor),
            ("cells of donors", grouped, None),
        ):
            low, high = interval(values, bootstrap_weights(len(values), draws, i, groups))
            hits[name].append(low <= 2 <= high)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def test_intervals_cover_nineteen_times_in_twenty():
    """A percentile bootstrap covers slightly less than it says: about 94 % with 80 cells, 93 % with 25 donors."""
    repeats = 600
    found = coverage(repeats, draws=300)
    error = 3 * np.sqrt(0.95 * 0.05 / repeats)
    assert 0.94 - error < found["cells"] < 0.95 + error
    assert 0.925 - error < found["donors"] < 0.95 + error
    assert found["cells of donors"] < 0.8, "cells of one donor are no independent draws"


# The table


def test_the_table_by_hand():
    #         L0H0: effect, nulls     L0H1: effect, nulls
    means = [-3.6, 1.0, -2.0, 3.0, 1.7, 4.0, 4.0, -4.0]
    table = effect_table({"m": with_mean(means)}, described(2, 3), draws=50, seed=0, worse={"m": -1}).set_index(
        "ablation"
    )
    first, second = table.loc["L0H0"], table.loc["L0H1"]
    assert table.index.tolist() == ["L0H0", "L0H1"] and (table["metric"] == "m").all() and (table["worse"] == -1).all()
    assert first["effect"] == pytest.approx(-3.6) and second["effect"] == pytest.approx(1.7)
    assert first[["n_null", "n_cells"]].tolist() == [3, 4]
    assert first["sd"] == pytest.approx(np.linspace(-1, 1, 4).std(ddof=1))
    assert first[["null_mean", "null_low", "null_high"]].tolist() == pytest.approx([2 / 3, -2, 3])
    assert second[["null_mean", "null_low", "null_high"]].tolist() == pytest.approx([4 / 3, -4, 4])
    # Over the root mean square of the draws.
    assert first["ratio"] == pytest.approx(3.6 / np.sqrt(14 / 3)) and second["ratio"] == pytest.approx(1.7 / 4)
    # Draws against the others of their head: 1 / sqrt(6.5), 2 / sqrt(5), 3 / sqrt(2.5), and 1 three times.
    draws = np.array([1 / np.sqrt(6.5), 2 / np.sqrt(5), 3 / np.sqrt(2.5), 1, 1, 1])
    for row in (first, second):
        assert row["p"] == pytest.approx((1 + (draws >= row["ratio"]).sum()) / 7)
    assert first["p"] == pytest.approx(2 / 7) and second["p"] == pytest.approx(6 / 7)
    assert first["q"] == pytest.approx(4 / 7) and second["q"] == pytest.approx(6 / 7)
    assert table["heads_as_large"].tolist() == [0.0, 1.0]


def test_what_is_detectable_is_what_q_needs_or_half_the_interval_and_the_power_beside():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (2 * 21, 1)) + rng.normal(0, np.repeat([0.1, 30.0], 21)[:, None], (42, 12))
    table = effect_table({"m": values}, described(2, 20), draws=200, seed=0)
    null = values.mean(1).reshape(2, 21)[:, 1:]
    size = np.sqrt((null**2).mean(1))
    pool = [abs(own[j]) / np.sqrt((np.delete(own, j) ** 2).mean()) for own in null for j in range(20)]
    width = (table["high"] - table["low"]).to_numpy()
    needed = least_found(np.array(pool), 2) * size
    assert needed[0] > width[0] and needed[1] < width[1], "one of either kind"
    wanted = np.maximum(needed, width / 2) + norm.ppf(0.8) * width / (2 * norm.ppf(0.975))
    assert table["detectable"].to_numpy() == pytest.approx(wanted)


def test_intervals_of_the_table_hold_the_effect_and_follow_the_groups():
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(10), 6)
    values = rng.standard_normal(10)[donor] + 0.1 * rng.standard_normal(60)
    cells = effect_table({"m": values[None]}, described(1, 0), draws=300, seed=0).iloc[0]
    donors = effect_table({"m": values[None]}, described(1, 0), draws=300, seed=0, groups=donor).iloc[0]
    for row, groups in ((cells, None), (donors, donor)):
        assert row["low"] < row["effect"] < row["high"]
        assert (row["low"], row["high"]) == interval(values, bootstrap_weights(60, 300, 0, groups))
    assert donors["high"] - donors["low"] > 1.5 * (cells["high"] - cells["low"])


def test_cells_without_a_value_are_left_out():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 20))
    values[:, [3, 7]] = np.nan
    values[1, 5] = np.nan
    table = effect_table({"m": values}, described(2, 2), draws=50, seed=0)
    assert table["n_cells"].tolist() == [18, 18]
    assert table["effect"].to_numpy() == pytest.approx(np.nanmean(values[[0, 3]], axis=1))
    assert table.loc[0, "null_low"] == pytest.approx(np.nanmean(values[1:3], axis=1).min())
    nothing = effect_table({"m": np.full((6, 20), np.nan)}, described(2, 2), draws=50, seed=0)
    assert nothing["n_cells"].tolist() == [0, 0]
    for column in ("effect", "low", "high", "sd", "ratio", "p", "q", "heads_as_large"):
        assert nothing[column].isna().all(), column


def test_without_null_draws_there_is_no_p():
    table = effect_table({"m": with_mean([3.0, -1.0])}, described(2, 0), draws=50, seed=0)
    assert table["n_null"].tolist() == [0, 0] and table["effect"].tolist() == pytest.approx([3, -1])
    assert table[["null_mean", "null_low", "null_high", "ratio", "p", "q"]].isna().all(axis=None)
    assert table["heads_as_large"].tolist() == [0, 1]


def test_a_head_that_does_nothing_at_all_has_no_p():
    table = effect_table({"m": np.zeros((6, 4))}, described(2, 2), draws=50, seed=0)
    assert table["ratio"].isna().all() and table["p"].isna().all() and (table["effect"] == 0).all()


def test_metrics_and_ways_of_ablating_are_tables_of_their_own():
    rng = np.random.default_rng(0)
    info = pd.concat([described(4, 3, "mean"), described(4, 3, "zero")], ignore_index=True)
    order = rng.permutation(len(info))
    values = {m: rng.standard_normal((32, 10)) for m in ("a", "b")}
    every = effect_table(
        {m: v[order] for m, v in values.items()}, info.iloc[order].reset_index(drop=True), draws=50, seed=0
    )
    assert len(every) == 16
    for metric in ("a", "b"):
        for at, how in ((slice(0, 16), "mean"), (slice(16, 32), "zero")):
            one = effect_table({metric: values[metric][at]}, described(4, 3, how), draws=50, seed=0)
            part = every[(every["metric"] == metric) & (every["how"] == how)]
            together = part.sort_values("head").reset_index(drop=True)
            pd.testing.assert_frame_equal(together, one)
            assert one["q"].to_numpy() == pytest.approx(false_discovery_control(one["p"]))


def test_other_places_are_beside_the_heads_and_not_among_them():
    info = pd.concat([described(3, 2), described(1, 0).assign(places="L0.mlp", kind="mlp", head=-1)], ignore_index=True)
    rng = np.random.default_rng(0)
    means = rng.standard_normal(10)
    means[[0, 3, 6, 9]] = [1, -3, 2, 2.5]
    table = effect_table({"m": with_mean(means)}, info, draws=50, seed=0).set_index("ablation")
    heads = effect_table({"m": with_mean(means[:9])}, described(3, 2), draws=50, seed=0).set_index("ablation")
    assert np.isnan(table.loc["L0.mlp", ["ratio", "p", "q"]].astype(float)).all()
    assert table.loc[heads.index, "q"].tolist() == heads["q"].tolist()
    assert table["heads_as_large"].to_dict() == {"L0H0": 1, "L0H1": 0, "L0H2": 0.5, "L0.mlp": pytest.approx(1 / 3)}
    assert "L0.mlp" not in top_heads(table.reset_index(), "m", 9)


# p under the null


def null_p(draw, n_heads: int, n_null: int, repeats: int, seed: int = 0) -> np.ndarray:
    """p values, (repeat, head), where a head's effect and its null draws come from one distribution.

    Scales differ from head to head by orders of magnitude.
    """
    rng = np.random.default_rng(seed)
    info, found = described(n_heads, n_null), []
    for _ in range(repeats):
        means = draw(rng, (n_heads, n_null + 1)) * np.exp(rng.normal(0, 1.5, (n_heads, 1)))
        table = effect_table({"m": np.repeat(means.reshape(-1, 1), 2, axis=1)}, info, draws=1, seed=0)
        found.append(table["p"].to_numpy())
    return np.array(found)


DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(3, shape),
    "one sign": lambda rng, shape: 1 + 0.2 * rng.standard_normal(shape),
    "skewed": lambda rng, shape: rng.lognormal(0, 1, shape),
}


def check_p(p: np.ndarray) -> None:
    """No smaller than uniform, but for three standard errors (heads of one repeat share their null)."""
    for level in (0.02, 0.05, 0.1, 0.25, 0.5):
        share = (p <= level).mean(1)
        assert share.mean() < level + 3 * share.std() / np.sqrt(len(p)), level
        if level >= 0.1:
            assert share.mean() > 0.75 * level, f"not far too careful either at {level}"


@pytest.mark.parametrize("name", ["normal", "one sign"])
def test_p_values_hold_where_heads_are_like_their_null(name):
    p = null_p(DISTRIBUTIONS[name], 16, 8, 150)
    assert (p <= 0.05).mean() < 0.06
    check_p(p)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("n_heads,n_null", [(16, 8), (16, 20), (48, 4)])
def test_p_values_hold_for_many_distributions(name, n_heads, n_null):
    p = null_p(DISTRIBUTIONS[name], n_heads, n_null, 600 * 16 // n_heads)
    assert (p <= 0.05).mean() < 0.06
    if n_null >= 8:
        check_p(p)


def test_a_head_far_beyond_its_draws_is_beyond_every_number():
    rng = np.random.default_rng(0)
    means = rng.standard_normal((16, 9))
    means[5, 0] = 40
    table = effect_table({"m": with_mean(means.ravel())}, described(16, 8), draws=20, seed=0)
    assert table.loc[5, "p"] == pytest.approx(1 / 129) and table.loc[5, "heads_as_large"] == 0
    assert table["p"].idxmin() == 5


# Ranking and pairs


def ranked(effects: dict[str, float], worse: int, n: int = 9) -> list[str]:
    rows = [{"metric": "m", "ablation": k, "kind": "head", "effect": v, "worse": worse} for k, v in effects.items()]
    other = {"metric": "m", "ablation": "L0.mlp", "kind": "mlp", "effect": 99, "worse": worse}
    elsewhere = {"metric": "other", "ablation": "L9H9", "kind": "head", "effect": 99, "worse": worse}
    return top_heads(pd.DataFrame([other, *rows, elsewhere]), "m", n)


def test_top_heads_do_harm_where_there_is_harm_and_are_large_where_there_is_none():
    effects = {"a": 0.1, "b": -3.0, "c": 2.0, "d": np.nan, "e": -0.5}
    assert ranked(effects, 1) == ["c", "a", "e", "b", "d"]
    assert ranked(effects, -1) == ["b", "e", "a", "c", "d"]
    assert ranked(effects, 0) == ["b", "c", "e", "a", "d"]
    assert ranked(effects, 1, 2) == ["c", "a"]


def test_effects_that_add_up_have_no_interaction():
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 50)) + np.array([[1.0], [2.0], [-1.0]])
    pairs = {("A", "B"): a + b, ("A", "C"): a + c - 2, ("B", "C"): b + c + 3}
    table = interactions({"A": a, "B": b, "C": c}, pairs, draws=200, seed=0)
    assert list(zip(table["first"], table["second"], strict=True)) == [("A", "B"), ("A", "C"), ("B", "C")]
    assert table["interaction"].to_numpy() == pytest.approx([0, -2, 3], abs=1e-12)
    assert np.abs(table.loc[0, ["low", "high"]].astype(float)).max() < 1e-12
    assert table.loc[0, "effect_both"] == pytest.approx(a.mean() + b.mean())
    assert table["effect_first"].tolist() == pytest.approx([a.mean(), a.mean(), b.mean()])
    assert table["effect_second"].tolist() == pytest.approx([b.mean(), c.mean(), c.mean()])
    # One head does what the other does: both together do no more than either.
    same = interactions({"A": a, "B": a}, {("A", "B"): a}, draws=200, seed=0).iloc[0]
    assert same["interaction"] == pytest.approx(-a.mean()) and same["low"] < same["interaction"] < same["high"] < 0


def test_interactions_leave_out_cells_without_a_value_and_keep_donors_whole():
    rng = np.random.default_rng(0)
    donor = np.repeat(np.arange(12), 5)
    a, b = rng.standard_normal((2, 60))
    both = a + b + rng.standard_normal(12)[donor]
    both[[1, 8]] = np.nan
    cells = interactions({"A": a, "B": b}, {("A", "B"): both}, draws=300, seed=0).iloc[0]
    donors = interactions({"A": a, "B": b}, {("A", "B"): both}, draws=300, seed=0, groups=donor).iloc[0]
    assert cells["n_cells"] == 58 and cells["interaction"] == pytest.approx(np.nanmean(both - a - b))
    assert donors["interaction"] == cells["interaction"]
    assert donors["high"] - donors["low"] > 1.5 * (cells["high"] - cells["low"])


def test_pairs_drawn_at_random_are_the_null_of_the_others():
    heads = [f"L0H{i}" for i in range(5)]
    drawn = {("L0H0", "L0H1"): -0.5, ("L0H0", "L0H2"): 2.0, ("L0H1", "L0H2"): 1.0}
    asked = {("L0H0", "L0H3"): -1.5, ("L0H1", "L0H3"): 9.0, ("L0H3", "L0H4"): 0.1}
    singles = {h: np.tile([3.0, -3.0], 10) if h == "L0H4" else np.tile([1.0, -1.0], 10) for h in heads}
    pairs = {(a, b): singles[a] + singles[b] + extra for (a, b), extra in {**asked, **drawn}.items()}
    table = interactions(singles, pairs, list(drawn), draws=50, seed=0)
    assert table["random"].tolist() == [False] * 3 + [True] * 3
    assert table["size"].tolist() == pytest.approx([1, 1, np.sqrt(3), 1, 1, 1])
    assert table["relative"].tolist() == pytest.approx([1.5, 9, 0.1 / np.sqrt(3), 0.5, 2, 1])
    assert table["p"].tolist()[:3] == pytest.approx([2 / 4, 1 / 4, 1]) and table["p"][3:].isna().all()
    assert table["q"].tolist()[:3] == pytest.approx([3 / 4, 3 / 4, 1]) and table["q"][3:].isna().all()
    assert np.isinf(table["detectable"][:3]).all(), "three draws allow no p below 1/4"
    # A control has its p against the same null, and is none of the tests that q is over.
    third = interactions(singles, pairs, list(drawn), [("L0H1", "L0H3")], draws=50, seed=0)
    assert third["same_layer"].tolist() == [False, True, False, False, False, False]
    assert third["p"].tolist()[:3] == pytest.approx([2 / 4, 1 / 4, 1])
    assert third["q"].tolist()[:3] == pytest.approx([1, np.nan, 1], nan_ok=True) and np.isnan(third["detectable"][1])
    assert interactions(singles, pairs, draws=50, seed=0)["p"].isna().all(), "no null, no p"


@pytest.mark.parametrize("n_heads", [2, 3, 5, 6])
def test_with_enough_random_pairs_one_of_the_others_alone_is_significant(n_heads):
    top = list(combinations([f"L0H{i}" for i in range(n_heads)], 2))
    drawn = [(f"L1H{i}", "L2H0") for i in range(enough_draws(len(top)))]
    rng = np.random.default_rng(0)
    singles = {head: np.ones(20) for pair in [*top, *drawn] for head in pair}
    effects = {pair: (rng.uniform(-1, 1) if pair in drawn else 0.1) + np.zeros(20) for pair in [*top, *drawn]}
    effects[top[-1]] += 5
    table = interactions(singles, effects, drawn, draws=20, seed=0).set_index(["first", "second"])
    assert table.loc[top[-1], "q"] <= 0.05 and (table["q"] <= 0.05).sum() == 1
    assert interactions(singles, effects, drawn[: len(top)], draws=20, seed=0)["q"].min() > 0.05


def test_heads_that_do_nothing_alone_and_something_together_are_beyond_every_number():
    one, rng = np.ones(8), np.random.default_rng(0)
    singles = {"a": 0 * one, "b": 0 * one, "c": one, "d": one}
    drawn = {("c", f"{i}"): 2 * one + rng.normal() for i in range(40)}
    singles |= {f"{i}": one for i in range(40)}
    pairs = {("a", "b"): one, ("a", "c"): one, ("c", "d"): 2.0 * one, **drawn}
    table = interactions(singles, pairs, list(drawn), draws=20, seed=0)
    assert np.isinf(table["relative"][0]) and table["p"][0] == pytest.approx(1 / 41)
    assert np.isnan(table["p"][1]) and table["p"][2] == 1, "of nothing and nothing more there is nothing to say"


def additive_world(rng, extra: float = 0.0, layers: int = 5, heads: int = 3, n_cells: int = 10):
    """p and q of pairs of the three heads with most effect, and the first of them, in a world whose effects add up but for chance.

    Heads differ in size by orders of magnitude, and chance goes with their size. `extra` is the interaction of one
    pair, in its own ``detectable`` sizes.
    """
    names = [f"L{layer}H{h}" for layer in range(layers) for h in range(heads)]
    size = np.exp(rng.normal(0, 1, len(names)))
    singles = {n: s * rng.normal(1, 1, n_cells) for n, s in zip(names, size, strict=True)}
    top = sorted(names, key=lambda n: -singles[n].mean())[:3]
    across = [(a, b) for a, b in combinations(names, 2) if a[:2] != b[:2]]
    tested = [pair for pair in across if set(pair) <= set(top)]
    null = [pair for pair in across if pair not in tested]

    rms = {n: np.sqrt((singles[n] ** 2).mean()) for n in names}

    def both(a, b, more):
        return singles[a] + singles[b] + more + np.sqrt(rms[a] * rms[b]) * 0.3 * rng.standard_normal(n_cells)

    pairs = {(a, b): both(a, b, np.sqrt(rms[a] * rms[b]) * 0.3 * rng.standard_normal()) for a, b in [*tested, *null]}
    table = interactions(singles, pairs, null, draws=20, seed=0).iloc[: len(tested)]
    if extra and tested:
        pairs[tested[0]] = both(*tested[0], extra * table["detectable"][0])
        table = interactions(singles, pairs, null, draws=20, seed=0).iloc[: len(tested)]
    return table


def test_pairs_hold_their_level_where_effects_add_up_and_find_what_does_not():
    rng = np.random.default_rng(0)
    worlds = [additive_world(rng) for _ in range(200)]
    p = pd.concat([world["p"] for world in worlds])
    assert 0.03 < (p <= 0.05).mean() < 0.07
    assert np.mean([world["beyond"].any() for world in worlds]) < 0.09
    planted = [additive_world(rng, extra=1.0) for _ in range(60)]
    found = np.mean([world["beyond"][0] for world in planted if len(world)])
    assert 0.68 < found < 0.92


def test_what_is_said_to_be_needed_is_what_q_needs():
    rng = np.random.default_rng(0)
    for draws, tests in ((480, 24), (200, 10), (399, 10), (1000, 7)):
        null = np.abs(rng.standard_normal(draws))
        needed = least_found(null, tests)
        p = [(1 + (null >= x).sum()) / (1 + draws) for x in (needed + 1e-9, needed)]
        assert p[0] * tests <= 0.05 < p[1] * tests
    assert least_found(np.abs(rng.standard_normal(198)), 10) == np.inf == least_found(np.array([np.nan]), 1)


def test_an_effect_of_the_size_that_is_said_is_found_about_four_times_in_five():
    """Null draws of one size, cells that scatter: what `detectable` says is what happens."""
    rng = np.random.default_rng(0)
    info, n_cells, found, at_nothing = described(12, 20), 25, [], []
    for _ in range(100):
        values = rng.normal(0, 1, (12 * 21, 1)) + rng.normal(0, 2, (12 * 21, n_cells))
        before = effect_table({"m": values}, info, draws=100, seed=0)
        at_nothing.append(before["beyond"].any())
        values[0] = before["detectable"][0] + rng.normal(0, 2, n_cells)
        found.append(effect_table({"m": values}, info, draws=100, seed=0)["beyond"][0])
    assert 0.7 < np.mean(found) < 0.9 and np.mean(at_nothing) < 0.09
    assert np.isinf(effect_table({"m": values[:42]}, described(2, 1 + 19), draws=9, seed=0)["detectable"]).sum() == 0
    assert np.isinf(effect_table({"m": values[:12]}, described(2, 5), draws=9, seed=0)["detectable"]).all()
    assert effect_table({"m": values[:2]}, described(2, 0), draws=9, seed=0)["detectable"].isna().all()


def test_a_head_that_scatters_over_cells_is_not_beyond_the_null_by_that_alone():
    """Means are 0 everywhere, and the effect of each head scatters three times as much over cells as random changes do."""
    rng, info, q, beyond = np.random.default_rng(0), described(12, 20), [], []
    scale = np.where(info["null"] < 0, 3.0, 1.0)[:, None]
    for _ in range(60):
        table = effect_table({"m": scale * rng.standard_normal((len(info), 40))}, info, draws=200, seed=0)
        q.append((table["q"] <= 0.05).mean())
        beyond.append(table["beyond"].mean())
        assert (table["beyond"] <= (table["q"] <= 0.05)).all() and (
            table["detectable"] > table["high"] - table["effect"]
        ).all()
    assert np.mean(q) > 0.15 and np.mean(beyond) < 0.08


def test_draws_of_cells_are_disjoint_even_and_go_by_name():
    names = [f"cell {i}" for i in range(31)]
    number = split_cells(names, 4, seed=1)
    assert sorted(np.bincount(number)) == [7, 8, 8, 8]
    turned = split_cells(names[::-1], 4, seed=1)
    assert turned[::-1].tolist() == number.tolist() != split_cells(names, 4, seed=2).tolist()


def test_over_draws_by_hand():
    rng = np.random.default_rng(0)
    info = pd.concat(
        [described(2, 20), described(1, 0).assign(places="L0.mlp", kind="mlp", head=-1)], ignore_index=True
    )
    tables = []
    for shift in (0.0, 9.0, 10.0):
        values = rng.normal(0, 1, (43, 1)) + np.zeros((43, 6))
        values[0] = shift
        values[:, 5] = np.nan
        tables.append(effect_table({"m": values, "n": np.full((43, 6), np.nan)}, info, draws=20, seed=0))
    table = over_draws(tables).set_index(["metric", "ablation"])
    assert table.index.tolist() == [("m", "L0H0"), ("m", "L0H1"), ("n", "L0H0"), ("n", "L0H1")]
    row = table.loc["m", "L0H0"]
    assert row[["effect_1", "effect_2", "effect_3", "mean"]].tolist() == pytest.approx([0, 9, 10, 19 / 3])
    assert row["sd"] == pytest.approx(np.std([0, 9, 10], ddof=1)) and row["n_draws"] == 3 and row["n_cells"] == 5
    assert row["n_found"] == 2 and table.loc[("m", "L0H1"), "n_found"] == sum(t["beyond"][1] for t in tables)
    assert row["detectable"] == pytest.approx(np.median([t["detectable"][0] for t in tables]))
    nothing = table.loc["n", "L0H0"]
    assert nothing["n_draws"] == 0 and nothing[["mean", "sd", "n_found", "detectable"]].isna().all()


def test_reliability_is_one_for_steady_effects_and_near_zero_for_noise():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((24, 200))
    assert reliability(np.arange(24)[:, None] + 0.01 * noise, 0) > 0.999
    assert abs(reliability(noise, 0)) < 0.3
    with_gaps = noise + np.arange(24)[:, None]
    with_gaps[:, :50] = np.nan
    assert reliability(with_gaps, 0) == reliability(with_gaps[:, 50:], 0)
    assert np.isnan(reliability(noise[:, :3], 0))


def test_an_effect_where_random_changes_do_nothing_is_beyond_every_number():
    heads = pd.DataFrame(
        [
            {"key": f"{h} {d}", "places": h, "how": "mean", "kind": "head", "layer": 0, "head": i, "null": d}
            for i, h in enumerate(("L0H0", "L0H1"))
            for d in (-1, 0, 1, 2)
        ]
    )
    values = np.zeros((8, 10))
    values[0] = 1.0
    table = effect_table({"m": values}, heads, draws=20, seed=0).set_index("ablation")
    assert np.isinf(table.loc["L0H0", "ratio"]) and np.isnan(table.loc["L0H1", "ratio"])
    assert np.isnan(table.loc["L0H1", "p"])
