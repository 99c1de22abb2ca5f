"""Rank correlation, permutation p and false discoveries beside SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats import t

from workbench.stats import (
    Error,
    benjamini_hochberg,
    correlation_over_few,
    dealt_anew,
    error_over_splits,
    null_of_folds,
    over_few,
    permutation_p,
    spearman,
    wilcoxon_p,
)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 10, 500])
def test_spearman_equals_scipy(n, ties):
    rng = np.random.default_rng(n)
    a = rng.integers(0, 4, n).astype(float) if ties else rng.standard_normal(n)
    b = a + rng.standard_normal(n)
    if len(set(a)) > 1:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
        assert spearman(a, np.exp(a)) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("a", "b"), [([1, 1, 1, 1], [1, 2, 3, 4]), ([1, 2, 3, 4], [2, 2, 2, 2]), ([1, 2], [2, 1]), ([], [])]
)
def test_spearman_of_constants_and_of_too_few_is_undefined(a, b):
    assert np.isnan(spearman(np.array(a, float), np.array(b, float)))


def test_permutation_p_is_the_formula():
    null = np.array([0.1, 0.5, 0.5, 0.9])
    for observed, at_least in ((0.0, 4), (0.1, 4), (0.5, 3), (0.6, 1), (0.9, 1), (1.0, 0)):
        assert permutation_p(observed, null) == (1 + at_least) / 5


def test_permutation_p_counts_ties_by_rounding_as_equal():
    assert permutation_p(0.1 + 0.2, np.array([0.3])) == 1 and permutation_p(0.3, np.array([0.1 + 0.2])) == 1


def test_permutation_p_without_values():
    nan = float("nan")
    assert permutation_p(0.5, np.array([nan, 0.1, nan, 0.9])) == 2 / 3
    for observed, null in ((nan, [0.1]), (0.5, [nan]), (0.5, [])):
        assert np.isnan(permutation_p(observed, np.array(null, float)))


def test_permutation_p_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    p = [permutation_p(rng.standard_normal(), rng.standard_normal(99)) for _ in range(500)]
    assert stats.kstest(p, "uniform").pvalue > 0.01 and min(p) >= 0.01


@pytest.mark.parametrize("n", [1, 2, 24, 300])
def test_benjamini_hochberg_equals_scipy(n):
    p = np.random.default_rng(n).random(n) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p), rtol=1e-12)
    tied = np.round(p, 1)
    np.testing.assert_allclose(benjamini_hochberg(tied), stats.false_discovery_control(tied), rtol=1e-12)


def test_benjamini_hochberg_leaves_undefined_tests_out():
    p = np.array([0.01, np.nan, 0.5, 0.02, np.nan])
    q = benjamini_hochberg(p)
    assert np.isnan(q[[1, 4]]).all()
    np.testing.assert_allclose(q[[0, 2, 3]], stats.false_discovery_control(p[[0, 2, 3]]))
    assert np.isnan(benjamini_hochberg(np.array([np.nan]))).all() and len(benjamini_hochberg(np.zeros(0))) == 0


@pytest.mark.parametrize("kind", ["no ties", "ties", "zeros", "a NaN"])
@pytest.mark.parametrize("n", [3, 6, 9, 14])
def test_wilcoxon_is_scipys_to_the_bit(n, kind):
    values = np.random.default_rng(n).normal(size=(2, n))
    if kind == "ties":
        values = np.sign(values) * np.ceil(np.abs(values))
    elif kind != "no ties":
        values[0, 1] = 0 if kind == "zeros" else np.nan
    found = wilcoxon_p(values)
    assert np.array_equal(found, stats.wilcoxon(values, axis=1).pvalue, equal_nan=True)
    assert np.isnan(found[0]) == (kind == "a NaN") and found[1] <= 1


@pytest.mark.parametrize("n", [5, 8, 20])
def test_an_interval_over_few_groups_holds_the_mean_as_often_as_it_says(n):
    rng = np.random.default_rng(0)
    draws = rng.multinomial(n, np.full(n, 1 / n), 1000) / n
    held = []
    for values in rng.standard_normal((2000, n)):
        low, high = over_few(values.mean(), draws @ values, n)
        held.append(low <= 0 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_intervals_of_correlations_stay_within_their_bounds_and_nothing_has_none():
    low, high = correlation_over_few(0.95, np.array([0.5, 0.9, 0.95, 0.99, 1.0]), 5)
    assert -1 <= low < 0.5 and 0.99 < high <= 1
    assert np.isnan(over_few(1.0, np.array([np.nan]), 5)).all() and np.isnan(over_few(1.0, np.ones(3), 1)).all()
    assert np.isnan(over_few(np.nan, np.ones(3), 5)).all()


def test_the_null_of_folds_is_wider_about_its_mean_and_one_fold_stays_as_it_is():
    scores = np.array([[0.2, 0.6, np.nan], [0.4, np.nan, np.nan]])
    # Means of the draws are .3 and .6; the last has none.
    np.testing.assert_allclose(null_of_folds(scores), [0.45 - 0.15 * np.sqrt(2), 0.45 + 0.15 * np.sqrt(2), np.nan])
    np.testing.assert_allclose(null_of_folds(scores[:1]), scores[0])


def test_labels_are_dealt_inside_blocks_or_blocks_exchange_theirs():
    labels, blocks = np.array(list("aabbccab")), np.array([0, 0, 1, 1, 2, 2, 2, 2])
    rows = np.array([0, 1, 4, 5, 7])

    def rng_of(name):
        return np.random.default_rng(len(name))

    inside = dealt_anew(labels, blocks, rows, 200, rng_of, whole=False)
    assert (inside[:, :2] == "a").all() and (np.sort(inside[:, 2:], axis=1) == ["b", "c", "c"]).all()
    assert len(np.unique(inside, axis=0)) == 3
    whole = dealt_anew(np.array(list("aabb")), blocks[:4], np.arange(4), 200, rng_of, whole=True)
    assert {"".join(draw) for draw in whole} == {"aabb", "bbaa"}


def test_the_error_over_splits_is_that_of_nadeau_and_bengio():
    # Squares around the mean of 3.5 add up to 21; a fifth is held out.
    found = error_over_splits(np.array([1.0, 2.0, 4.0, 7.0]), 0.2)
    assert (found.error, found.df) == (pytest.approx(np.sqrt(21 / 3 * (1 / 4 + 0.2 / 0.8))), 3)


def test_what_could_have_been_found_is_so_in_four_of_five():
    judged, reach = Error(2.0, 7.0).judged(3.0), 2.0 * t.ppf(0.975, 7)
    assert (judged["low"], judged["high"]) == pytest.approx((3 - reach, 3 + reach))
    assert judged["detectable"] == pytest.approx(reach + 2.0 * t.ppf(0.8, 7))
    assert judged["p"] == pytest.approx(2 * t.sf(1.5, 7))
