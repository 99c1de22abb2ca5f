"""p among null draws: closed forms, edges, and what is needed for q."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from workbench.ablation.nulls import detectable_size, excess, least_found, p_among, standard_error, usual_size
from workbench.stats import permutation_p


def test_a_standard_error_is_of_cells_or_of_whole_donors():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((3, 12))
    values[1, 4] = np.nan
    by_hand = [row[np.isfinite(row)].std(ddof=1) / np.sqrt(np.isfinite(row).sum()) for row in values]
    assert standard_error(values) == pytest.approx(by_hand)
    # Of donors with as many cells each it is that of their means.
    donor = np.repeat([7, 3, 5, 9], 3)
    means = values[[0, 2]].reshape(2, 4, 3).mean(2)
    assert standard_error(values, donor)[[0, 2]] == pytest.approx(means.std(1, ddof=1) / 2)
    alone = np.where(np.arange(12) < 1, values[:1], np.nan)
    assert np.isnan(standard_error(alone)).all() and np.isnan(standard_error(values, np.zeros(12, int))).all()
    assert np.isnan(standard_error(np.full((1, 12), np.nan))).all()


def test_what_scatters_no_more_has_no_excess():
    assert excess(3.0, 2.0) == pytest.approx(np.sqrt(5)) and excess(2.0, 2.0) == 0 == excess(1.0, 2.0)
    assert excess(2.0 * (1 + 1e-13), 2.0) == 0 == excess(float("nan"), 2.0), "rounding, and what is not known"


def test_p_is_the_expected_share_of_moved_draws():
    rng = np.random.default_rng(0)
    null, degrees = rng.standard_normal(30), 7
    assert p_among(-1.3, null, 0.0, degrees) == permutation_p(1.3, np.abs(null))
    moved = np.abs(null[:, None] + 0.8 * rng.standard_t(degrees, (30, 40_000)))
    wanted = (1 + (moved >= 1.3).mean(1).sum()) / 31
    for observed in (1.3, -1.3):
        assert p_among(observed, null, 0.8, degrees) == pytest.approx(wanted, abs=0.003)
    # Draws that all do nothing: the p of Student's t, but for the one that is counted.
    assert p_among(2.0, np.zeros(10_000), 1.0, 5) == pytest.approx(2 * student.sf(2, 5), abs=2e-4)
    assert np.isnan(p_among(float("nan"), null, 0.8, degrees)) and np.isnan(p_among(1.0, null[:0], 0.8, degrees))
    with_nan = np.append(null, np.nan)
    assert p_among(1.3, with_nan, 0.8, degrees) == p_among(1.3, null, 0.8, degrees)
    assert p_among(float("inf"), null, 0.8, degrees) == pytest.approx(1 / 31)
    assert p_among(1.3, np.append(null, np.inf), 0.8, degrees) > p_among(1.3, null, 0.8, degrees)


def test_p_is_uniform_where_the_observed_one_scatters_more():
    rng, found = np.random.default_rng(0), []
    for _ in range(1500):
        null = rng.standard_normal(60)
        found.append(p_among(rng.standard_normal() + 3 * rng.standard_t(20), null, 3.0, 20))
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / 1500))


@pytest.mark.parametrize("more", [0.0, 0.5, 4.0])
def test_what_is_said_to_be_needed_is_what_q_needs(more):
    rng = np.random.default_rng(0)
    for draws, tests in ((480, 24), (200, 10), (399, 10), (1000, 7)):
        null = rng.standard_normal(draws)
        needed = least_found(null, tests, more, 9)
        p = [p_among(needed + 1e-6, null, more, 9), p_among(needed - 1e-6, null, more, 9)]
        assert p[0] * tests <= 0.05 < p[1] * tests
    assert least_found(rng.standard_normal(198), 10, more) == np.inf == least_found(np.array([np.nan]), 1, more)
    assert least_found(np.full(480, np.inf), 24, more) == np.inf


def test_the_usual_size_of_ratios_is_found_beside_their_error():
    rng = np.random.default_rng(0)
    size = np.exp(0.7 * rng.standard_normal(4000))
    error = 0.1 + 0.3 * rng.random(4000)
    own = 0.5 * (size / np.exp(np.log(size).mean())) ** 0.8
    ratio = np.abs(own * rng.standard_normal(4000) + error * rng.standard_normal(4000))
    typical, power, middle = usual_size(ratio, size, error)
    assert typical == pytest.approx(0.5, abs=0.03) and power == pytest.approx(0.8, abs=0.06)
    assert middle == pytest.approx(np.exp(np.log(size).mean()))
    # Nothing but error is no size of its own, and what cannot be told is 0.
    assert usual_size(np.abs(error * rng.standard_normal(4000)), size, error)[0] < 0.08
    assert usual_size(ratio[:5], np.ones(5), error[:5])[1] == pytest.approx(0, abs=1e-6)
    assert usual_size(np.zeros(5), size[:5], np.zeros(5))[:2] == (0, 0)
    assert np.isnan(usual_size(ratio[:0], size[:0], error[:0])[0])
    rms = np.sqrt((ratio[:5] ** 2).mean())
    assert usual_size(ratio[:5], np.ones(5), np.full(5, np.nan))[0] == pytest.approx(rms, rel=1e-6)


def test_a_size_is_detectable_by_q_or_by_the_interval_and_power_beside():
    table = pd.DataFrame({"low": [0.0, 0.0, np.nan], "high": [2.0, 2.0, np.nan]})
    found = detectable_size(np.array([1.0, 8.0, 3.0]), np.full(3, 0.5), table)
    beside = norm.ppf(0.8) / norm.ppf(0.975)
    assert found[:2].tolist() == pytest.approx([1 + beside, 4 + beside]) and np.isnan(found[2])
    assert np.isnan(detectable_size(np.array([np.inf]), np.zeros(1), table[:1])).all(), "of nothing, infinitely much"
