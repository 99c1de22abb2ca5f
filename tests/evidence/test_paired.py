"""The error of a difference over splits that share donors, against closed forms, a dense likelihood and simulated nulls."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import ttest_1samp

from workbench.evidence.paired import FEWEST_DONORS, error_over_donors, held_out_once
from workbench.stats import error_over_splits


def design(n_donors, n_splits, n_held, rng):
    """Splits that hold out so many donors each, no two the same: which, and a value of each held-out donor's to fill in."""
    every = list(combinations(range(n_donors), n_held))
    held = np.array([np.isin(np.arange(n_donors), every[i]) for i in rng.permutation(len(every))[:n_splits]])
    split, donor = np.nonzero(held)
    return held, donor, split


def drawn(held, donor, split, rng, tested=1.0, trained=1.0, rest=0.5):
    """Differences of two methods that differ by nothing but what donors make of them."""
    a, g = tested * rng.normal(size=held.shape[1]), trained * rng.normal(size=held.shape[1])
    return a[donor] + (~held @ g / (~held).sum(1))[split] + rest * rng.normal(size=len(donor))


def test_one_split_is_a_t_test_over_donors():
    values = np.random.default_rng(0).normal(size=9)
    found = error_over_donors(values, np.arange(9), np.zeros(9, int), np.ones((1, 9), bool))
    judged = found.judged(values.mean())
    wanted = ttest_1samp(values, 0)
    assert judged["p"] == pytest.approx(wanted.pvalue, rel=1e-5) and found.df == 8
    assert (judged["low"], judged["high"]) == pytest.approx(wanted.confidence_interval(0.95), rel=1e-5)


def test_donors_held_out_once_have_the_error_of_their_mean_and_a_quarter_of_its_variance_more():
    values, each = np.random.default_rng(0).normal(size=8), np.arange(8)
    for split in (each, each // 2):
        held = np.equal.outer(np.unique(split), split)
        found = error_over_donors(values, each, split, ~held)
        assert found.error == pytest.approx(np.sqrt(1.25 / 8) * values.std(ddof=1)) and found.df == 7
        assert held_out_once(each, ~held) and not held_out_once(np.r_[each, 0], ~held)


def test_donors_tested_equally_often_by_the_same_fit_are_a_balanced_analysis_of_variance():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(7, 1)) + 0.3 * rng.normal(size=(7, 4))
    donor, split = np.repeat(np.arange(7), 4), np.tile(np.arange(4), 7)
    found = error_over_donors(values.ravel(), donor, split, np.ones((4, 7), bool))
    assert found.error == pytest.approx(values.mean(1).std(ddof=1) / np.sqrt(7), rel=1e-4)


def test_the_fit_is_that_of_the_dense_likelihood():
    rng = np.random.default_rng(2)
    held, donor, split = design(8, 12, 2, rng)
    values = drawn(held, donor, split, rng)
    tested, share = np.eye(8)[donor], (~held / (~held).sum(1, keepdims=True))[split]

    def parts(logs):
        v = (
            np.exp(logs[0]) * tested @ tested.T
            + np.exp(logs[1]) * share @ share.T
            + np.exp(logs[2]) * np.eye(len(values))
        )
        ones = np.linalg.solve(v, np.ones(len(values)))
        mean = ones @ values / ones.sum()
        left = values - mean
        return np.linalg.slogdet(v)[1] + np.log(ones.sum()) + left @ np.linalg.solve(v, left), 1 / np.sqrt(ones.sum())

    best = min(
        (
            minimize(lambda x: parts(x)[0], at, method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-6})
            for at in np.eye(3)
        ),
        key=lambda one: one.fun,
    )
    found = error_over_donors(values, donor, split, ~held)
    assert found.error == pytest.approx(parts(best.x)[1], rel=1e-3)


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (100.0, 1.0), (0.0, 1e-6)])
def test_neither_the_mean_nor_the_unit_changes_the_relative_error(shift, scale):
    rng = np.random.default_rng(3)
    held, donor, split = design(8, 12, 2, rng)
    values = drawn(held, donor, split, rng)
    first = error_over_donors(values, donor, split, ~held).error
    assert error_over_donors(shift + scale * values, donor, split, ~held).error == pytest.approx(
        scale * first, rel=1e-3
    )


def test_the_order_of_values_and_the_numbers_of_donors_do_not_matter():
    rng = np.random.default_rng(4)
    held, donor, split = design(8, 12, 2, rng)
    values = drawn(held, donor, split, rng)
    first, order, names = (
        error_over_donors(values, donor, split, ~held).error,
        rng.permutation(len(values)),
        rng.permutation(8),
    )
    mixed = error_over_donors(values[order], names[donor][order], split[order], ~held[:, np.argsort(names)])
    assert mixed.error == pytest.approx(first, rel=1e-4)


def test_what_does_not_vary_has_no_error_and_few_donors_have_none_to_tell():
    held, donor, split = design(6, 10, 2, np.random.default_rng(5))
    same = error_over_donors(np.full(len(donor), 0.1), donor, split, ~held)
    assert same.error == 0 and same.judged(0.1)["p"] == 0 and same.judged(0.0)["p"] == 1
    few = donor < FEWEST_DONORS - 1
    assert np.isnan(error_over_donors(donor[few] * 1.0, donor[few], split[few], ~held).error)
    assert np.isnan(list(error_over_splits(np.array([0.1, 0.2]), 0.2, disjoint=True).judged(0.15).values())).all()


@pytest.mark.parametrize("trained", [0.0, 0.5])
def test_true_nulls_are_called_as_often_as_the_level_says(trained):
    """docs/calibration.md has it of fitted methods, of more designs and with more draws."""
    rng, p = np.random.default_rng(6), []
    for _ in range(250):
        held, donor, split = design(8, 12, 2, rng)
        values = drawn(held, donor, split, rng, trained=trained)
        over_splits = np.bincount(split, values) / np.bincount(split)
        p.append(error_over_donors(values, donor, split, ~held).judged(over_splits.mean())["p"])
    # Of a level of 0.05, 250 draws leave out less than 0.015 and more than 0.085 once in a hundred times each.
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.09


def test_a_difference_of_the_size_said_is_found_in_four_of_five():
    rng, found = np.random.default_rng(7), []
    held, donor, split = design(10, 15, 2, rng)
    sizes = [
        error_over_donors(drawn(held, donor, split, rng), donor, split, ~held).judged(0.0)["detectable"]
        for _ in range(40)
    ]
    for _ in range(150):
        values = np.mean(sizes) + drawn(held, donor, split, rng)
        over_splits = np.bincount(split, values) / np.bincount(split)
        found.append(error_over_donors(values, donor, split, ~held).judged(over_splits.mean())["p"] <= 0.05)
    assert 0.7 <= np.mean(found) <= 0.95
