"""Pairs: what two ablations do beyond their sum, against random pairs of that size and scatter."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from workbench.ablation.pairs import interactions
from workbench.stats import enough_draws


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


@pytest.mark.parametrize("grows,wide", [(1.0, 1.0), (0.0, 4.0)])
def test_pairs_of_large_heads_or_of_scattering_ones_are_not_beyond_by_that_alone(grows, wide):
    """Interactions grow with the heads, and the largest are tested; or those tested scatter more over cells."""
    rng, p, some, power = np.random.default_rng(0), [], [], []
    for _ in range(30):
        size = np.exp(0.7 * rng.standard_normal(128))
        if grows:
            size = np.sort(size)[::-1]
        own = 0.3 * rng.standard_normal(128) * size**grows
        names = [(f"A{i}", f"B{i}") for i in range(128)]
        singles = {name: np.full(40, s) for pair, s in zip(names, size, strict=True) for name in pair}
        noise = np.where(np.arange(128) < 8, wide, 1.0)[:, None] * rng.standard_normal((128, 40))
        pairs = {pair: 2 * s + s * (o + e) for pair, s, o, e in zip(names, size, own, noise, strict=True)}
        table = interactions(singles, pairs, names[8:], draws=100, seed=0)
        p.append((table["p"][:8] <= 0.05).mean())
        some.append(table["beyond"].any())
        power.append(table["growth"][0])
    assert np.mean(p) < 0.1 and np.mean(some) < 0.17
    assert np.mean(power) == pytest.approx(grows, abs=0.15)
