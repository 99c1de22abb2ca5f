"""An interval over donors, against the same thing done pair by pair, and where there are too few."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata
from scipy.stats import t as student

from workbench.cells.splits import Split
from workbench.evidence.donor_interval import Pairs, donor_interval, refitted_interval, without_donor
from workbench.seeds import generator
from workbench.stats import correlation_over_few, spearman

N = 42
DONOR = np.array([f"D{i % 7}" for i in range(N)])


def pairs(rows, noise=0.3, seed=0):
    at = np.random.default_rng(seed).random(N)
    seen = at + noise * np.random.default_rng(seed + 1).standard_normal(N)
    i, j = (rows[one] for one in np.triu_indices(len(rows), 1))
    return Pairs(i, j, np.abs(seen[i] - seen[j]), np.abs(at[i] - at[j]))


def draws(seed, n):
    return generator(seed, "donor interval").multinomial(n, np.full(n, 1 / n), 1000)


def test_of_whole_donors_it_is_that_of_a_mean_over_donors():
    splits = [pairs(np.flatnonzero(DONOR == name)) for name in np.unique(DONOR)]
    values = np.array([spearman(one.angle, one.distance) for one in splits])
    low, high, n = donor_interval(splits, DONOR, seed=3)
    wanted = correlation_over_few(values.mean(), draws(3, 7) @ values / 7, 7)
    assert n == 7 and (low, high) == pytest.approx(tuple(wanted), abs=1e-9) and low < values.mean() < high


def test_pairs_of_two_donors_count_as_often_as_both_were_drawn():
    one = pairs(np.arange(N))
    low, high, _ = donor_interval([one], DONOR, seed=5)
    names, found = np.unique(DONOR).tolist(), []
    x, y = rankdata(one.angle), rankdata(one.distance)
    for drawn in draws(5, 7):
        times = dict(zip(names, drawn.tolist(), strict=True))
        weight = np.array(
            [
                times[a] if a == b else times[a] * times[b] * 7 / 6
                for a, b in zip(DONOR[one.i], DONOR[one.j], strict=True)
            ]
        )
        cov = np.cov(x, y, aweights=weight)
        found.append(cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
    wanted = correlation_over_few(spearman(one.angle, one.distance), np.array(found), 7)
    assert (low, high) == pytest.approx(wanted, abs=1e-9)
    assert low < spearman(one.angle, one.distance) < high


def test_one_donor_that_goes_the_other_way_widens_it():
    one = pairs(np.arange(N), noise=0.05)
    odd = (DONOR[one.i] == "D0") | (DONOR[one.j] == "D0")
    other = Pairs(one.i, one.j, np.where(odd, 1 - one.angle, one.angle), one.distance)
    width = [high - low for low, high, _ in (donor_interval([p], DONOR, seed=0) for p in (one, other))]
    assert width[1] > 2 * width[0]


def test_fewer_than_five_donors_have_none():
    four = np.array([f"D{i % 4}" for i in range(N)])
    low, high, n = donor_interval([pairs(np.arange(N))], four, seed=0)
    assert np.isnan(low) and np.isnan(high) and n == 4
    assert donor_interval([], four, seed=0)[2] == 0
    only = donor_interval([pairs(np.flatnonzero(np.isin(DONOR, ["D1", "D2"])))], DONOR, seed=0)
    assert only[2] == 2, "donors that no pair is of are not counted"


def test_a_split_that_a_draw_has_no_pair_of_does_not_count_in_it():
    whole, of_one = pairs(np.arange(N)), pairs(np.flatnonzero(DONOR == "D0"))
    low, high, n = donor_interval([whole, of_one], DONOR, seed=0)
    assert n == 7 and np.isfinite([low, high]).all()


def test_leaving_donors_out_of_a_mean_gives_the_interval_of_student():
    z = np.array([0.4, 0.9, 0.1, 0.7, 0.5, 0.6])
    without = np.tanh([np.delete(z, i).mean() for i in range(6)])
    half = student.ppf(0.975, 5) * z.std(ddof=1) / np.sqrt(6)
    wanted = np.tanh([z.mean() - half, z.mean() + half])
    assert refitted_interval(np.tanh(z.mean()), without) == pytest.approx(tuple(wanted))
    assert np.isnan(refitted_interval(0.5, without[:4])).all() and np.isnan(refitted_interval(np.nan, without)).all()
    with_one_gone = refitted_interval(np.tanh(z.mean()), np.append(without, np.nan))
    assert with_one_gone == pytest.approx(tuple(wanted)), "a donor without whom nothing is left tells nothing"


def test_a_donor_that_is_left_out_is_on_no_side():
    split = Split(np.arange(0, 20), np.arange(20, 30), np.arange(0, 20))
    fewer = without_donor(split, DONOR, "D3")
    for rows, kept in ((split.train, fewer.train), (split.test, fewer.test), (split.against, fewer.against)):
        assert kept.tolist() == [row for row in rows if DONOR[row] != "D3"]
    assert without_donor(Split(split.train, split.test), DONOR, "D3").against is None
