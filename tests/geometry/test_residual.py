"""The partial rank correlation beside SciPy, least squares, and a bootstrap that repeats rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from workbench.errors import EvaluationError
from workbench.geometry.residual import residualised_correlation
from workbench.seeds import generator
from workbench.stats import correlation_over_few


def symmetric(rng, n):
    x = rng.random((n, n))
    return np.triu(x, 1) + np.triu(x, 1).T


def case(seed=0, n=20, follow=1.0):
    rng = np.random.default_rng(seed)
    ruler = np.round(symmetric(rng, n), 1)
    donor, tissue = rng.integers(0, 4, n), rng.choice(["blood", "lung"], n)
    latent = follow * ruler + symmetric(rng, n) + 0.5 * (donor[:, None] == donor)
    return latent, ruler, {"donor": donor, "tissue": tissue}


def by_hand(latent, ruler, factors, pairs, weights=None):
    i, j = pairs
    columns = [np.ones(len(i)), *((v[i] == v[j]).astype(float) for v in factors.values())]
    root = np.sqrt(np.ones(len(i)) if weights is None else weights)
    design = np.column_stack(columns) * root[:, None]
    left = []
    for distances in (latent, ruler):
        y = stats.rankdata(distances[i, j]) * root
        left.append(y - design @ np.linalg.lstsq(design, y, rcond=None)[0])
    return left[0] @ left[1] / np.linalg.norm(left[0]) / np.linalg.norm(left[1])


def test_without_factors_it_is_spearman():
    latent, ruler, _ = case()
    found = residualised_correlation(latent, ruler, {}, seed=0, draws=0)
    upper = np.triu_indices(20, 1)
    assert found.residualised == pytest.approx(stats.spearmanr(latent[upper], ruler[upper]).statistic)
    assert found.spearman == pytest.approx(found.residualised) and found.factors == ()
    assert found.n_anchors == found.n_clusters == 20 and found.n_pairs == 190 and np.isnan(found.low)


def test_factors_are_regressed_out_as_least_squares_does():
    latent, ruler, factors = case()
    found = residualised_correlation(latent, ruler, factors, seed=0, draws=0)
    assert found.residualised == pytest.approx(by_hand(latent, ruler, factors, np.triu_indices(20, 1)))
    assert found.factors == ("donor", "tissue")


def test_covariates_are_regressed_out_with_their_second_degree():
    latent, ruler, factors = case()
    depth, upper = np.random.default_rng(3).normal(size=20), np.triu_indices(20, 1)
    found = residualised_correlation(latent, ruler, factors, covariates={"depth": depth}, seed=0, draws=0)
    total, apart = depth[upper[0]] + depth[upper[1]], np.abs(depth[upper[0]] - depth[upper[1]])
    columns = [factors[name][upper[0]] == factors[name][upper[1]] for name in factors]
    design = np.column_stack([np.ones(190), *columns, total, apart, total**2, apart**2, total * apart]).astype(float)
    left = [
        y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        for y in map(stats.rankdata, (latent[upper], ruler[upper]))
    ]
    assert found.residualised == pytest.approx(np.corrcoef(*left)[0, 1])
    assert found.factors == ("donor", "tissue", "depth")


def test_covariates_that_cannot_be_regressed_out_are_not_named():
    latent, ruler, factors = case()
    numbers = np.random.default_rng(3).normal(size=(4, 20))
    plain = residualised_correlation(latent, ruler, factors, seed=0, draws=0)
    unknown = {"one value": np.ones(20), "not all known": np.r_[np.nan, numbers[0, 1:]]}
    many = {str(i): row for i, row in enumerate(numbers)}  # 20 columns for 190 pairs
    for covariates in (unknown, many):
        found = residualised_correlation(latent, ruler, factors, covariates=covariates, seed=0, draws=0)
        assert (found.residualised, found.factors) == (plain.residualised, plain.factors)


def test_a_bootstrap_draw_is_what_weighted_pairs_give():
    latent, ruler, factors = case()
    donor = factors["donor"]
    one = residualised_correlation(latent, ruler, factors, clusters=donor, draws=1, seed=5)
    drawn = generator(5, "residualised").multinomial(4, np.full(4, 0.25), 1)[0]
    i, j = np.triu_indices(20, 1)
    weights = [drawn[a] if a == b else drawn[a] * drawn[b] * 4 / 3 for a, b in zip(donor[i], donor[j], strict=True)]
    expected = by_hand(latent, ruler, factors, (i, j), weights=np.array(weights, dtype=float))
    assert one.low == one.high == pytest.approx(correlation_over_few(one.residualised, np.array([expected]), 4)[0])


def test_draws_lie_around_the_value_though_donors_are_few():
    """Pairs inside a donor agree better here; draws that held too many of them would lie above."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        donor = np.repeat(np.arange(3), 12)
        ruler, noise = symmetric(rng, 36), symmetric(rng, 36)
        latent = ruler + np.where(donor[:, None] == donor, 0.2, 2.0) * noise
        found = residualised_correlation(latent, ruler, {"donor": donor}, clusters=donor, seed=seed)
        assert found.low < found.residualised < found.high


def test_a_confounder_that_was_planted_is_taken_out():
    rng = np.random.default_rng(1)
    donor = np.repeat(np.arange(4), 15)
    same = (donor[:, None] == donor).astype(float)
    ruler, latent = 1 - same + 0.2 * symmetric(rng, 60), 1 - same + 0.2 * symmetric(rng, 60)
    found = residualised_correlation(latent, ruler, {"donor": donor}, clusters=donor, seed=0)
    assert found.spearman > 0.3 and abs(found.residualised) < 0.08


def test_the_interval_covers():
    """Anchors are the units, each with an effect of its own on all of its pairs."""
    rng, inside = np.random.default_rng(0), 0
    for seed in range(60):
        u, v = rng.standard_normal((2, 30))
        ruler = u[:, None] + u
        latent = 0.6 * ruler + v[:, None] + v
        large_u, large_v = rng.standard_normal((2, 2000))
        i, j = rng.integers(0, 2000, (2, 20000))
        big = large_u[i] + large_u[j]
        truth = stats.spearmanr(0.6 * big + large_v[i] + large_v[j], big).statistic
        found = residualised_correlation(latent, ruler, {}, draws=200, seed=seed)
        inside += found.low <= truth <= found.high
    assert inside >= 48, "nominal: 57 of 60"


def test_what_cannot_be_regressed_out_is_left_out():
    latent, ruler, factors = case()
    more = {"one": np.zeros(20), "all": np.arange(20), **factors}
    found = residualised_correlation(latent, ruler, more, draws=0, seed=0)
    assert found.factors == ("donor", "tissue")
    constant = residualised_correlation(np.ones((20, 20)), ruler, factors, clusters=factors["donor"], seed=0)
    assert all(np.isnan(v) for v in (constant.spearman, constant.residualised, constant.low, constant.high))
    single = residualised_correlation(latent, ruler, {}, clusters=np.zeros(20), seed=0)
    assert np.isnan(single.low) and single.n_clusters == 1 and np.isfinite(single.residualised)


def test_pairs_without_a_distance_are_left_out():
    latent, ruler, factors = case()
    holes = latent.copy()
    holes[3], holes[:, 3] = np.nan, np.nan
    kept = np.arange(20) != 3
    found = residualised_correlation(holes, ruler, factors, draws=0, seed=0)
    without = {name: levels[kept] for name, levels in factors.items()}
    again = residualised_correlation(latent[np.ix_(kept, kept)], ruler[np.ix_(kept, kept)], without, draws=0, seed=0)
    assert found.residualised == pytest.approx(again.residualised) and found.n_pairs == 171


def test_the_order_of_anchors_does_not_matter():
    latent, ruler, factors = case()
    order = np.random.default_rng(0).permutation(20)
    at = np.ix_(order, order)
    one = residualised_correlation(latent, ruler, factors, clusters=factors["donor"], seed=2)
    other_factors = {name: levels[order] for name, levels in factors.items()}
    other = residualised_correlation(latent[at], ruler[at], other_factors, clusters=other_factors["donor"], seed=2)
    assert (other.residualised, other.low, other.high) == pytest.approx((one.residualised, one.low, one.high))


@pytest.mark.usefixtures("without_shape_checks")
def test_shapes_and_too_few_pairs_are_refused():
    latent, ruler, factors = case()
    with pytest.raises(EvaluationError, match="all of the same anchors"):
        residualised_correlation(latent, ruler, {"donor": np.zeros(3)}, seed=0)
    with pytest.raises(EvaluationError, match="0 pairs of 20 anchors"):
        residualised_correlation(np.full((20, 20), np.nan), ruler, factors, seed=0)
