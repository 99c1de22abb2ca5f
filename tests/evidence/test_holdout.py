"""Held-out rank correlation: near one where it is planted, inside its null where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from workbench.cells.splits import Split
from workbench.evidence.donor_interval import refitted_interval
from workbench.evidence.holdout import group_splits, holdout_correlation, random_splits, with_null
from workbench.evidence.ruler import load_ruler
from workbench.operators.adaptor import LETAdaptor, angles


@pytest.fixture(scope="module")
def ruler():
    """A ring: ten stages at equal angles, and what their angles imply."""
    steps = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
    return np.minimum(steps, 10 - steps) / 5


def on_the_ring(stage, d=12, noise=0.02, seed=0):
    rng = np.random.default_rng(seed)
    points = np.column_stack([np.cos(stage * np.pi / 5), np.sin(stage * np.pi / 5)])
    return points @ rng.standard_normal((2, d)) + noise * rng.standard_normal((len(stage), d)) + rng.standard_normal(d)


def go(features, stage, ruler, splits, **options):
    options = {"refits": 19, "seed": 0, "k": 3, "steps": 40, **options}
    adaptor = LETAdaptor(k=options.pop("k"), steps=options.pop("steps"))
    ask = splits if callable(splits) else lambda _: splits
    return with_null(*holdout_correlation(features, stage, ruler, ask, adaptor, **options))


def held(test, n, against_rest=False):
    rest = np.setdiff1d(np.arange(n), test)
    return Split(rest, np.asarray(test, dtype=int), rest if against_rest else None)


def against_rest(splits):
    return [Split(split.train, split.test, split.train) for split in splits]


# Splits


def test_random_splits_hold_out_three_tenths_anew_each_time():
    splits = list(random_splits(50, 40, seed=1))
    assert len(splits) == 40
    tests = [split.test for split in splits]
    for split in splits:
        test = split.test
        assert len(test) == 15 == len(set(test)) and (np.diff(test) > 0).all() and 0 <= test[0] and test[-1] < 50
        assert sorted([*split.train, *test]) == list(range(50)) and split.against is None
    assert len({tuple(test) for test in tests}) == 40
    seen = np.bincount(np.concatenate(tests), minlength=50)
    assert seen.min() > 2 and seen.max() < 26
    assert np.array_equal(tests[3], list(random_splits(50, 4, seed=1))[3].test)
    assert not np.array_equal(tests[0], next(random_splits(50, 1, seed=2)).test)
    assert len(next(random_splits(5, 1, seed=0)).test) == 3, "fewer than three anchors have no rank correlation"


def test_group_splits_hold_out_each_group_whole():
    groups = np.array(["b", "a", "b", "c", "a"])
    assert [s.test.tolist() for s in group_splits(groups)] == [[1, 4], [0, 2], [3]]
    first = next(group_splits(groups, against_rest=True))
    assert first.train.tolist() == first.against.tolist() == [0, 2, 3]
    assert [pair.tolist() for pair in first.pairs()] == [[1, 1, 1, 4, 4, 4], [0, 2, 3, 0, 2, 3]]
    assert [pair.tolist() for pair in next(group_splits(groups)).pairs()] == [[1], [4]]


# What is found


def test_planted_anchors_are_found(ruler):
    stage = np.arange(40) % 10
    splits = list(random_splits(40, 3, seed=0))
    for these in (splits, against_rest(splits)):
        row = go(on_the_ring(stage), stage, ruler, these)
        assert row["spearman"] > 0.9 and row["p"] == 1 / 20 and row["status"] == "ok"
        assert row["spearman"] > row["null_high"] > row["null_mean"] and row["n_null"] == 19
    assert row["n_splits"] == 3 and row["n_pairs"] == 12 * 28


def test_a_branch_that_was_held_out_is_found_where_it_is_planted(ruler):
    stage = np.arange(40) % 10
    row = go(on_the_ring(stage), stage, ruler, list(group_splits(stage // 2, against_rest=True)))
    assert row["spearman"] > 0.9 and row["n_splits"] == 5 and row["n_pairs"] == 8 * 32


def test_the_value_by_hand(ruler):
    stage = np.arange(20) % 10
    features = np.random.default_rng(0).standard_normal((20, 6))
    splits = list(random_splits(20, 2, seed=4))
    for within in (True, False):
        values = []
        for test in (split.test for split in splits):
            train = np.array(sorted(set(range(20)) - set(test)))
            fitted = LETAdaptor(k=3, steps=40).fit(features[train], ruler[np.ix_(stage[train], stage[train])])
            angle = angles(fitted.transform(features))
            pairs = [(i, j) for i in test for j in (test if within else train) if not within or i < j]
            values.append(stats.spearmanr([angle[p] for p in pairs], [ruler[stage[i], stage[j]] for i, j in pairs])[0])
        row = go(features, stage, ruler, splits if within else against_rest(splits))
        assert row["spearman"] == pytest.approx(np.mean(values)) and row["sd"] == pytest.approx(np.std(values, ddof=1))
        assert row["n_pairs"] == len(pairs)


def test_held_out_anchors_are_not_fitted_on(ruler):
    stage = np.arange(30) % 10
    split = next(random_splits(30, 1, seed=0))
    test = split.test
    features = on_the_ring(stage)
    spoiled = stage.copy()
    spoiled[test] = spoiled[test][::-1]
    fits = []

    class Spy(LETAdaptor):
        def fit(self, X, distances, sample_weight=None):
            fits.append((X.copy(), distances.copy()))
            return super().fit(X, distances, sample_weight)

    for labels in (stage, spoiled):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("workbench.operators.adaptor.LETAdaptor", Spy)
            go(features, labels, ruler, [split], refits=0)
    (x, d), (again, other) = fits
    assert len(x) == 21 and np.array_equal(x, again) and np.array_equal(d, other)
    assert not any((features[i] == x).all(1).any() for i in test)


@pytest.mark.slow
def test_random_features_stay_inside_the_null():
    """The null relabels and fits again, so that p is exact."""
    ruler = load_ruler("hematopoiesis").distances
    p, values = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        stage, features = rng.integers(0, len(ruler), 24), rng.standard_normal((24, 6))
        row = go(features, stage, ruler, list(random_splits(24, 1, seed)), seed=seed, steps=10)
        p.append(row["p"])
        values.append(row["spearman"])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert abs(np.mean(values)) < 0.08


@pytest.mark.slow
def test_recognising_a_group_is_no_evidence_for_the_ruler():
    """Parts of a group that look alike, groups at random: much correlation on held-out parts, and no small p."""
    ruler = load_ruler("hematopoiesis").distances
    p, values = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        groups = rng.permutation(len(ruler))[:8]
        stage, features = np.repeat(groups, 4), np.repeat(rng.standard_normal((8, 6)), 4, axis=0)
        features = features + 0.05 * rng.standard_normal(features.shape)
        row = go(features, stage, ruler, list(random_splits(32, 1, seed)), seed=seed, steps=15)
        p.append(row["p"])
        values.append(row["spearman"])
    assert np.mean(values) > 0.4
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.slow
def test_random_features_stay_inside_the_null_of_a_branch_holdout():
    ruler = load_ruler("hematopoiesis")
    branches, p = np.array(ruler.branches), []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        stage, features = rng.integers(0, len(branches), 24), rng.standard_normal((24, 6))

        def splits(labels):
            return list(group_splits(branches[labels], against_rest=True))

        p.append(go(features, stage, ruler.distances, splits, seed=seed, steps=15)["p"])
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_no_split_that_leaves_enough_anchors_is_undefined(ruler):
    stage = np.arange(5)
    features = np.random.default_rng(0).standard_normal((5, 4))
    for tests in ([range(3)], [], [[0]], [[0, 1]]):
        row = go(features, stage, ruler, [held(test, 5) for test in tests])
        assert row["n_splits"] == 0 and row["status"].startswith("undefined: no split leaves enough anchors")
        numbers = ("spearman", "sd", "n_pairs", "null_mean", "null_high", "p")
        assert all(np.isnan(row[name]) for name in numbers), "the same columns as elsewhere"


def test_splits_that_leave_nothing_are_left_out_and_the_others_count(ruler):
    stage = np.arange(30) % 10
    features = on_the_ring(stage)
    good = list(random_splits(30, 2, seed=0))
    one_stage_left = np.flatnonzero(stage != 3)
    row = go(features, stage, ruler, [*good, held([4], 30), held(one_stage_left, 30)])
    assert row["n_splits"] == 2 and row["spearman"] == pytest.approx(go(features, stage, ruler, good)["spearman"])
    single = go(features, stage, ruler, good[:1])
    assert single["n_splits"] == 1 and np.isnan(single["sd"]) and np.isfinite(single["p"])


def test_the_same_seed_gives_the_same_row(ruler):
    stage = np.arange(30) % 10
    features = on_the_ring(stage, noise=2)
    splits = list(random_splits(30, 2, seed=0))
    first, again, other = (go(features, stage, ruler, splits, seed=s) for s in (0, 0, 1))
    assert first == again and first["spearman"] == other["spearman"] and first["null_mean"] != other["null_mean"]


def test_the_adaptor_that_is_handed_over_stays_untrained(ruler):
    stage = np.arange(20) % 10
    adaptor = LETAdaptor(k=2)
    holdout_correlation(
        on_the_ring(stage),
        stage,
        ruler,
        lambda _: list(random_splits(20, 1, 0)),
        adaptor,
        refits=3,
        seed=0,
    )
    assert not hasattr(adaptor, "encoder_")


# Pairs of different cell types only


def test_what_only_recognises_a_type_gains_from_pairs_of_one_type_alone(ruler):
    stage = np.repeat(np.arange(10), 6)
    # Four whole types are held out at a time.
    drawn = [np.random.default_rng(i).permutation(10)[:4] for i in range(6)]
    splits = [held(np.flatnonzero(np.isin(stage, types)), 60) for types in drawn]
    # A random code of each type: anchors of one type lie together, types lie anywhere.
    rows = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        code = rng.standard_normal((10, 30))[stage] + 0.05 * rng.standard_normal((60, 30))
        rows.append(go(code, stage, ruler, splits, refits=0, kinds=stage))
    every, between = (np.mean([row[name] for row in rows]) for name in ("spearman", "between"))
    assert every > 0.4 and abs(between) < 0.15
    planted = go(on_the_ring(stage), stage, ruler, splits, kinds=stage)
    assert planted["between"] > 0.9 and planted["between_p"] == 1 / 20 and planted["between_high"] < 0.9


def test_pairs_of_different_types_are_those_that_are_compared(ruler):
    stage, kinds = np.arange(24) % 10, np.array(list("aabb") * 6)
    features, split = on_the_ring(stage), held(np.arange(9), 24)
    row = go(features, stage, ruler, [split], kinds=kinds, refits=0)
    fitted = LETAdaptor(k=3, steps=40)
    fitted.fit(features[split.train], ruler[np.ix_(stage[split.train], stage[split.train])])
    i, j = np.triu_indices(9, 1)
    apart = kinds[i] != kinds[j]
    wanted = stats.spearmanr(
        angles(fitted.transform(features))[i, j][apart], ruler[stage[i], stage[j]][apart]
    ).statistic
    assert row["between"] == pytest.approx(wanted, abs=1e-6)


def test_without_two_types_there_is_no_such_correlation(ruler):
    stage = np.arange(24) % 10
    row = go(on_the_ring(stage), stage, ruler, list(random_splits(24, 2, 0)), kinds=np.zeros(24, int), refits=3)
    assert np.isnan(row["between"]) and np.isnan(row["between_p"]) and row["spearman"] > 0.9


# Inside what is held out


def test_held_out_groups_are_also_compared_inside_plain_and_by_their_anchors(ruler):
    stage = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7, 8, 9, 9, 1])
    features, groups = on_the_ring(stage, noise=0.8), np.array(list("aaaaabbbbcccddde"))
    splits = list(group_splits(groups, against_rest=True))
    row = go(features, stage, ruler, splits, within=True)
    inside, outside, size = [], [], []
    for split in splits:
        fitted = LETAdaptor(k=3, steps=40)
        fitted.fit(features[split.train], ruler[np.ix_(stage[split.train], stage[split.train])])
        angle = angles(fitted.transform(features))
        i, j = split.pairs()
        outside.append(stats.spearmanr(angle[i, j], ruler[stage[i], stage[j]]).statistic)
        size.append(len(split.test))
        a, b = (split.test[one] for one in np.triu_indices(len(split.test), 1))
        distance = ruler[stage[a], stage[b]]
        inside.append(stats.spearmanr(angle[a, b], distance).statistic if len(set(distance)) > 1 else np.nan)
    known = np.isfinite(inside)
    inside, outside, size = map(np.array, (inside, outside, size))
    assert row["n_within"] == known.sum() == 4, "one anchor alone has no pair"
    assert row["within"] == pytest.approx(inside[known].mean(), abs=1e-6)
    assert row["within_weighted"] == pytest.approx(np.average(inside[known], weights=size[known]), abs=1e-6)
    assert row["weighted"] == pytest.approx(np.average(outside, weights=size), abs=1e-6)
    assert row["spearman"] == pytest.approx(outside.mean(), abs=1e-6) and 0 < row["within_p"] <= 1


def test_what_is_asked_beside_changes_no_value(ruler):
    stage = np.arange(30) % 10
    features, splits = on_the_ring(stage, noise=1), list(random_splits(30, 3, seed=0))
    plain = go(features, stage, ruler, splits)
    more = go(features, stage, ruler, splits, kinds=stage, donor=np.arange(30) // 5, within=True)
    assert {name: more[name] for name in plain} == plain
    assert more["n_donors"] == 6 and more["donor_low"] < more["spearman"] < more["donor_high"]
    without = []
    for name in range(6):  # the same without this donor's rows, all of it
        rows = np.flatnonzero(np.arange(30) // 5 != name)
        place = np.cumsum(np.isin(np.arange(30), rows)) - 1
        fewer = [Split(*(place[np.intersect1d(side, rows)] for side in (one.train, one.test))) for one in splits]
        without.append(go(features[rows], stage[rows], ruler, fewer, refits=1, within=True)["spearman"])
    wanted = refitted_interval(more["spearman"], np.array(without))
    assert (more["donor_low"], more["donor_high"]) == pytest.approx(wanted, abs=1e-4)
    none = go(features, stage, ruler, [], kinds=stage, donor=stage, within=True)
    assert set(none) == set(more) and none["n_donors"] == none["n_within"] == 0 and np.isnan(none["within"])
