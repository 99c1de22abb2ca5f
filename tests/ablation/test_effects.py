"""Effects: intervals cover, p values hold under the null, and tables follow from the numbers by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, norm
from scipy.stats import t as student

from workbench.ablation.effects import (
    bootstrap_weights,
    effect_table,
    interval,
    over_draws,
    reliability,
    split_cells,
    top_heads,
)
from workbench.ablation.nulls import excess, least_found


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


def test_an_interval_is_quantiles_of_means_over_drawn_cells_stretched_to_student():
    values = np.array([1.0, 4.0, np.nan, -2.0, 0.5])
    weights = bootstrap_weights(5, 200, seed=3)
    means = []
    for row in weights:
        drawn = [v for v, times in zip(values, row.astype(int), strict=True) for _ in range(times) if np.isfinite(v)]
        if drawn:
            means.append(np.mean(drawn))
    mean, stretch = np.nanmean(values), student.ppf(0.975, 3) / norm.ppf(0.975) * np.sqrt(4 / 3)
    wanted = mean + stretch * (np.quantile(means, [0.025, 0.975]) - mean)
    assert interval(values, weights) == pytest.approx(tuple(wanted))
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
    """How often intervals hold the true mean: cells alone, many and few; 25 donors of 4 cells, drawn whole, and cell by cell."""
    rng = np.random.default_rng(seed)
    hits = {"cells": [], "few cells": [], "donors": [], "cells of donors": []}
    for i in range(repeats):
        cells = rng.normal(2, 3, 80)
        donor = rng.permutation(np.repeat(np.arange(25), 4))
        grouped = 2 + rng.standard_normal(25)[donor] + 0.5 * rng.standard_normal(100)
        for name, values, groups in (
            ("cells", cells, None),
            ("few cells", cells[:8], None),
            ("donors", grouped, donor),
            ("cells of donors", grouped, None),
        ):
            low, high = interval(values, bootstrap_weights(len(values), draws, i, groups))
            hits[name].append(low <= 2 <= high)
    return {name: float(np.mean(found)) for name, found in hits.items()}


def test_intervals_cover_nineteen_times_in_twenty():
    repeats = 600
    found = coverage(repeats, draws=300)
    error = 3 * np.sqrt(0.95 * 0.05 / repeats)
    assert all(abs(found[name] - 0.95) < error for name in ("cells", "few cells", "donors")), found
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
    values = rng.normal(0, 1, (2 * 21, 1)) + rng.normal(
        0, np.repeat([1.0, 0.1, 20.0, 30.0], [1, 20, 1, 20])[:, None], (42, 12)
    )
    table = effect_table({"m": values}, described(2, 20), draws=200, seed=0)
    null = values.mean(1).reshape(2, 21)[:, 1:]
    size = np.sqrt((null**2).mean(1))
    pool = [own[j] / np.sqrt((np.delete(own, j) ** 2).mean()) for own in null for j in range(20)]
    width = (table["high"] - table["low"]).to_numpy()
    errors = values.std(1, ddof=1).reshape(2, 21) / np.sqrt(12)
    more = [excess(own[0], np.sqrt((own[1:] ** 2).mean())) for own in errors] / size
    assert more[0] > 0 == more[1]
    needed = np.array([least_found(np.array(pool), 2, m, 11) for m in more]) * size
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


# Ranking


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


@pytest.mark.parametrize("common,donors", [(0.0, 1), (1.0, 1), (1.0, 8)])
def test_a_head_that_scatters_over_cells_is_not_beyond_the_null_by_that_alone(common, donors):
    """Heads do what random changes do, and their effect scatters three times as much over cells, or over donors."""
    rng, info, p, some = np.random.default_rng(0), described(12, 20), [], []
    scale = np.where(info["null"] < 0, 3.0, 1.0)[:, None]
    groups = np.arange(40) % donors if donors > 1 else None
    for _ in range(40):
        values = rng.normal(common, 0.5 * common, (len(info), 1)) + scale * rng.standard_normal((len(info), 40))
        if groups is not None:
            values = values + scale * rng.standard_normal((len(info), donors))[:, groups]
        table = effect_table({"m": values}, info, draws=200, seed=0, groups=groups)
        assert (table["se"] > 1.5 * table["null_se"]).mean() > 0.8
        p.append((table["p"] <= 0.05).mean())
        some.append(table["beyond"].any())
        reach = (table["high"] - table["low"]) / 2
        assert (table["beyond"] <= (table["q"] <= 0.05)).all() and (table["detectable"] > reach).all()
    assert 0.005 < np.mean(p) < 0.08 and np.mean(some) < 0.1


def test_a_head_that_scatters_and_does_something_is_found():
    rng, info, found = np.random.default_rng(0), described(12, 20), []
    scale = np.where(info["null"] < 0, 3.0, 1.0)[:, None]
    for _ in range(15):
        values = rng.normal(1, 0.5, (len(info), 1)) + scale * rng.standard_normal((len(info), 40))
        values[0] += 2 * effect_table({"m": values}, info, draws=200, seed=0)["detectable"][0]
        found.append(effect_table({"m": values}, info, draws=200, seed=0)["beyond"][0])
    assert np.mean(found) > 0.9


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
