"""Measures of a space: closed forms, what each is invariant to, and what it is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ortho_group

from workbench.errors import EvaluationError
from workbench.geometry.cosines import cosine_anisotropy, cosine_of_pairs, directions
from workbench.geometry.dimension import participation_ratio
from workbench.geometry.effects import effects, partial_eta_squared
from workbench.geometry.likeness import cka, principal_angle
from workbench.geometry.spaces import (
    numbered,
    participation_ratio_unit_variance,
    shared_axes,
    spectral_anisotropy,
    spread,
    unit_variance,
)

RNG = np.random.default_rng(7)
N, D = 300, 12
TYPE = RNG.integers(0, 4, N)
BATCH = RNG.integers(0, 3, N)
X = (
    RNG.normal(size=(N, D)) * np.geomspace(4, 0.5, D)
    + RNG.normal(size=(4, D))[TYPE]
    + RNG.normal(size=(3, D))[BATCH]
    + 1
)
OTHER = X[:, :5] @ RNG.normal(size=(5, 8)) + RNG.normal(size=(N, 8))
TURN = ortho_group.rvs(D, random_state=3)
STRETCH = np.geomspace(0.2, 5, D)
ORDER = RNG.permutation(N)

MEASURES = {
    "participation ratio": lambda x, t, b, y: participation_ratio(x),
    "participation ratio, unit variance": lambda x, t, b, y: participation_ratio_unit_variance(x),
    "spectral anisotropy": lambda x, t, b, y: spectral_anisotropy(x),
    "spectral anisotropy, origin": lambda x, t, b, y: spectral_anisotropy(x, centred=False),
    "cosine": lambda x, t, b, y: cosine_anisotropy(x, t),
    "cosine, balanced": lambda x, t, b, y: cosine_anisotropy(x, t, balanced=True),
    "eta squared, coordinates": lambda x, t, b, y: partial_eta_squared(x, t, b)[:, 0],
    "eta squared, space": lambda x, t, b, y: partial_eta_squared(x, t, b)[:, 1],
    "plain CKA": lambda x, t, b, y: cka(x, y, debiased=False),
    "debiased CKA": lambda x, t, b, y: cka(x, y),
    "principal angle": lambda x, t, b, y: principal_angle(x, y, 4),
}
CHANGES = {
    "turned": lambda: (X @ TURN, TYPE, BATCH, OTHER),
    "shifted": lambda: (X + 3 * np.arange(D), TYPE, BATCH, OTHER),
    "scaled": lambda: (X * 7, TYPE, BATCH, OTHER),
    "stretched": lambda: (X * STRETCH, TYPE, BATCH, OTHER),
    "in another order": lambda: (X[ORDER], TYPE[ORDER], BATCH[ORDER], OTHER[ORDER]),
    "repeated": lambda: (np.tile(X, (2, 1)), np.tile(TYPE, 2), np.tile(BATCH, 2), np.tile(OTHER, (2, 1))),
}
MOVED_BY = {
    "participation ratio": {"stretched"},
    "participation ratio, unit variance": {"turned"},
    "spectral anisotropy": {"stretched"},
    "spectral anisotropy, origin": {"shifted", "stretched"},
    "cosine": {"shifted", "stretched", "repeated"},
    "cosine, balanced": {"shifted", "stretched", "repeated"},
    "eta squared, coordinates": {"turned"},
    "eta squared, space": {"stretched"},
    "plain CKA": {"stretched"},
    "debiased CKA": {"stretched", "repeated"},
    "principal angle": {"stretched"},
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", MEASURES)
def test_each_measure_changes_by_what_it_says_and_nothing_else(name, change):
    before = np.atleast_1d(MEASURES[name](X, TYPE, BATCH, OTHER))
    after = np.atleast_1d(MEASURES[name](*CHANGES[change]()))
    if change in MOVED_BY[name]:
        assert np.abs(after - before).max() > 1e-4
    else:
        np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-10)


def test_a_round_cloud_has_as_many_axes_as_coordinates():
    x = np.random.default_rng(0).normal(size=(20_000, 10))
    # E[PR] is about d / (1 + d / n).
    assert participation_ratio(x) == pytest.approx(10, rel=2e-3)
    assert participation_ratio_unit_variance(x) == pytest.approx(10, rel=2e-3)
    assert spectral_anisotropy(x) == pytest.approx(0.1, abs=0.004)
    assert cosine_anisotropy(x)[0] == pytest.approx(0, abs=1e-3)


def test_of_principal_components_unit_variance_counts_the_components():
    x = np.random.default_rng(1).normal(size=(500, 30)) * np.geomspace(100, 0.1, 30)
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    assert participation_ratio_unit_variance(u * s) == pytest.approx(30)
    assert participation_ratio(u * s) < 6


@pytest.mark.parametrize("balanced", [False, True])
def test_cosines_are_those_of_all_pairs(balanced):
    n = 40
    x, group = X[:n], TYPE[:n]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    off = ~np.eye(n, dtype=bool)
    same = group[:, None] == group
    if balanced:
        within = np.mean([cosine[off & (group[:, None] == g) & (group == g)].mean() for g in set(group)])
        pairs = [(g, h) for g in set(group) for h in set(group) if g != h]
        between = np.mean([cosine[(group[:, None] == g) & (group == h)].mean() for g, h in pairs])
    else:
        within, between = cosine[off & same].mean(), cosine[~same].mean()
    found = cosine_anisotropy(x, group, balanced=balanced)
    np.testing.assert_allclose(found, [cosine[off].mean(), within, between], rtol=1e-12)
    i, j = np.nonzero(off)
    assert cosine_of_pairs(x, np.column_stack([i, j])) == pytest.approx(cosine[off].mean(), rel=1e-12)


def test_points_at_the_origin_and_without_a_group_are_left_out_of_cosines():
    x = np.array([[1.0, 0], [0, 0], [2, 0], [0, 1], [0, 3], [5, 5]])
    group = np.array([0, 0, 0, 1, 1, -1])
    found = cosine_anisotropy(x, group)
    assert found[1:] == (pytest.approx(1), pytest.approx(0))
    assert found[0] == pytest.approx((2 + 4 * np.sqrt(0.5)) / 10)
    assert np.isnan(cosine_anisotropy(x, np.arange(6))[1]) and np.isnan(cosine_anisotropy(x)[2])
    assert cosine_of_pairs(x, np.array([[0, 1], [0, 2]])) == pytest.approx(1)


def test_eta_squared_is_that_of_least_squares():
    def left(*designs):
        design = np.column_stack([np.ones(N), *designs])
        return ((X - design @ np.linalg.lstsq(design, X, rcond=None)[0]) ** 2).sum(0)

    of_type, of_batch = (np.eye(n)[labels] for n, labels in ((4, TYPE), (3, BATCH)))
    whole = left(of_type, of_batch)
    for row, other in enumerate((of_batch, of_type)):
        gain = left(other) - whole
        wanted = (gain / (gain + whole)).mean(), gain.sum() / (gain + whole).sum()
        np.testing.assert_allclose(partial_eta_squared(X, TYPE, BATCH)[row], wanted, rtol=1e-10)


def test_planted_shares_are_found_in_19_of_20_seeds():
    hits = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        group, batch = np.arange(3000) % 3, np.arange(3000) // 1000
        # Means whose variance over cells is 3 in all, noise of variance 1 in each of 6 coordinates: 3 / (3 + 6).
        means = np.linalg.qr(np.column_stack([np.ones(3), rng.normal(size=(3, 2))]))[0][:, 1:] * np.sqrt(3 * 1.5)
        x = rng.normal(size=(3000, 6))
        x[:, :2] += means[group]
        shares = partial_eta_squared(x @ ortho_group.rvs(6, random_state=seed), group, batch)
        hits += abs(shares[0, 1] - 1 / 3) < 0.02 and shares[1, 1] < 0.003
    assert hits >= 19


def test_effects_that_cannot_be_told_apart_have_no_share():
    found = partial_eta_squared(X, TYPE, TYPE)
    assert np.isnan(found).all()
    assert np.isnan(partial_eta_squared(X, TYPE)[1]).all() and np.isfinite(partial_eta_squared(X, TYPE)[0]).all()


def test_constant_coordinates_count_in_no_share_and_no_ratio():
    more = np.column_stack([X, np.full(N, 3.0)])
    np.testing.assert_allclose(partial_eta_squared(more, TYPE, BATCH), partial_eta_squared(X, TYPE, BATCH), rtol=1e-10)
    assert participation_ratio_unit_variance(more) == pytest.approx(participation_ratio_unit_variance(X))
    assert unit_variance(more)[1].tolist() == [False] * D + [True]
    with pytest.raises(EvaluationError, match="None of the 2 coordinates varies"):
        unit_variance(np.array([[1.0, 2], [1, 2 + 1e-12]]))


def test_weights_of_units_are_repeats_of_their_points():
    unit, weights = RNG.integers(0, 3, N), np.array([2.0, 0, 1])
    again = np.concatenate([np.flatnonzero(unit == 0)] * 2 + [np.flatnonzero(unit == 2)])
    found = spread(X, unit).covariance(weights)
    np.testing.assert_allclose(found, np.cov(X[again].T, bias=True), rtol=1e-9, atol=1e-12)
    origin = spread(X, unit).covariance(weights, centred=False)
    np.testing.assert_allclose(origin, X[again].T @ X[again] / len(again), rtol=1e-9)
    np.testing.assert_allclose(
        effects(X, TYPE, BATCH, unit).partial(weights),
        partial_eta_squared(X[again], TYPE[again], BATCH[again]),
        rtol=1e-9,
    )
    # A copy of a point is no pair with it.
    v = X / np.linalg.norm(X, axis=1, keepdims=True)
    w = weights[unit]
    cosine = (v @ v.T) * (1 - np.eye(N))
    wanted = w @ cosine @ w / (w.sum() ** 2 - (w**2).sum())
    assert directions(X, TYPE, unit).cosines(weights)[0] == pytest.approx(wanted, rel=1e-9)
    assert shared_axes(np.eye(5)) == 5


def test_cka_is_that_of_kernels():
    def unbiased(k, m):
        n = len(k)
        k, m = (a - np.diag(np.diag(a)) for a in (k, m))
        one = np.ones(n)
        total = (
            np.trace(k @ m)
            + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)
        )
        return total / (n * (n - 3))

    k, m = X @ X.T, OTHER @ OTHER.T
    wanted = unbiased(k, m) / np.sqrt(unbiased(k, k) * unbiased(m, m))
    assert cka(X, OTHER) == pytest.approx(wanted, rel=1e-9)
    h = np.eye(N) - 1 / N
    k, m = h @ k @ h, h @ m @ h
    assert cka(X, OTHER, debiased=False) == pytest.approx(
        (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()), rel=1e-9
    )
    wide = RNG.normal(size=(20, 100))
    narrow = wide @ RNG.normal(size=(100, 80))
    k, m = wide @ wide.T, narrow @ narrow.T
    assert cka(wide, narrow) == pytest.approx(unbiased(k, m) / np.sqrt(unbiased(k, k) * unbiased(m, m)), rel=1e-9)


def test_cka_of_nothing_in_common_is_zero_only_when_debiased():
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, 15, 512)) for _ in range(40)]
    assert np.mean([cka(x, y) for x, y in pairs]) == pytest.approx(0, abs=0.02)
    # 1 - 1.06 (k - 1) / (d + k)
    assert np.mean([cka(x, y, debiased=False) for x, y in pairs]) == pytest.approx(0.972, abs=0.01)


def test_principal_angles_of_planted_spans():
    basis = np.linalg.qr(RNG.normal(size=(50, 6)) - 0)[0]
    basis -= basis.mean(0)
    basis = np.linalg.qr(basis)[0]
    lean = np.radians(30)
    one = basis[:, :2] * [3, 2]
    other = (basis[:, :2] * np.cos(lean) + basis[:, 2:4] * np.sin(lean)) * [5, 1]
    assert principal_angle(one, other, 2) == pytest.approx(30, abs=1e-6)
    assert principal_angle(one, basis[:, 4:], 2) == pytest.approx(90, abs=1e-6)
    rng = np.random.default_rng(5)
    cosines = [np.cos(np.radians(principal_angle(*rng.normal(size=(2, 400, 8)), axes=8))) ** 2 for _ in range(10)]
    assert np.mean(cosines) < 2 * 8 / 399  # chance: 8 / 399


def test_two_spaces_are_of_the_same_points(without_shape_checks):
    with pytest.raises(EvaluationError, match="One space has 300 points, the other 299"):
        cka(X, OTHER[1:])
    with pytest.raises(EvaluationError, match="3 neighbours need at least 4 points"):
        cka(X[:3], OTHER[:3])
    bad = X.copy()
    bad[5, 2] = np.nan
    with pytest.raises(EvaluationError, match=r"1 of 300 points hold NaN or infinite values \(first: row 5\)"):
        spectral_anisotropy(bad)


def test_labels_are_numbered_by_name():
    numbers, names = numbered(np.array(["b", "", "a", None, "b"], dtype=object))
    assert numbers.tolist() == [1, -1, 0, -1, 1] and names == ("a", "b")
