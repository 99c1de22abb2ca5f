"""Intrinsic dimension: closed forms, scikit-dimension, shapes of known dimension, and what breaks estimators."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist

from workbench.errors import EvaluationError
from workbench.geometry.dimension import (
    Scales,
    correlation_dimension,
    correlation_integral,
    likelihood,
    likelihood_local,
    participation_ratio,
    pca_local,
    two_nn,
)
from workbench.geometry.dimension_tables import (
    ESTIMATORS,
    agreement,
    dimension_table,
    let_elbow,
    subsample_curve,
)
from workbench.geometry.neighbors import Neighbors, find_neighbors
from workbench.operators.adaptor import LETAdaptor

SEES_CURVATURE = [name for name in ESTIMATORS if name != "participation ratio"]


def sphere(d):
    def draw(n, rng):
        z = rng.standard_normal((n, d + 1))
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    return draw


def torus(n, rng):
    a, b = rng.uniform(0, 2 * np.pi, (2, n))
    return np.column_stack([np.cos(a), np.sin(a), np.cos(b), np.sin(b)])


def swiss_roll(n, rng):
    # Evenly over its area, and 2 turns.
    t = 1.5 * np.pi * np.sqrt(1 + 8 * rng.random(n))
    return np.column_stack([t * np.cos(t), 40 * rng.random(n), t * np.sin(t)])


def cube(d, ambient=None):
    def draw(n, rng):
        turn = np.linalg.qr(rng.standard_normal((ambient or d, d)))[0]
        return rng.random((n, d)) @ turn.T

    return draw


def near_of(distances):
    """Neighbours by their distances alone."""
    distances = np.asarray(distances, dtype=float)
    return Neighbors(np.zeros(distances.shape, dtype=np.int64), distances, True, 1.0, 0)


# Closed forms


def test_participation_ratio_by_hand():
    corners = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0]])
    assert participation_ratio(corners) == pytest.approx((1 + 4) ** 2 / (1 + 16))
    assert participation_ratio(corners @ np.ones((3, 50)) + 7) == pytest.approx(1), "fewer points than coordinates"
    x = np.random.default_rng(0).standard_normal((6, 40))
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert participation_ratio(x) == pytest.approx(values.sum() ** 2 / (values**2).sum())


def test_two_nn_fits_its_line_through_the_origin():
    # Ratios at the quantiles of Pareto(d) lie on the line exactly.
    n, d = 50, 7.3
    ratios = (1 - np.arange(1, n + 1) / n)[:-1] ** (-1 / d)
    near = near_of(np.column_stack([np.full(n, 2.0), 2 * np.append(ratios, 1e9)]))
    assert two_nn(near) == pytest.approx(d) and two_nn(near, discard=0.4) == pytest.approx(d)
    assert two_nn(near, discard=0) == pytest.approx(d), "the largest ratio is never in the line"
    assert two_nn(near_of(near.distances[::-1])) == pytest.approx(d)


def test_likelihood_by_hand():
    near = near_of([[1, 2, 4], [3, 3, 3], [1, 1, np.e]])
    first = 2 / (np.log(4) + np.log(2))
    np.testing.assert_allclose(likelihood_local(near), [first, np.inf, 1])
    assert likelihood(near) == pytest.approx(3 / (1 / first + 0 + 1))


def test_local_pca_by_hand():
    # A cross with arms 1 and 0.5 around each point: eigenvalues 1 : 0.25.
    arms = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 0.5, 0], [0, -0.5, 0]])
    near = find_neighbors(arms, 4, seed=0)
    assert pca_local(arms, near)[0] == 2
    assert pca_local(arms, near, threshold=0.25)[0] == 1 and pca_local(arms, near, threshold=0.24)[0] == 2
    assert np.array_equal(pca_local(arms @ np.eye(3, 90), near), pca_local(arms, near)), "more coordinates than points"


def test_the_correlation_integral_counts_pairs(monkeypatch):
    from workbench.geometry import neighbors

    x = np.random.default_rng(0).standard_normal((101, 6)) + 30
    pairs = cdist(x, x)[np.triu_indices(101, 1)]
    radii = np.quantile(pairs, [0.001, 0.1, 0.5, 0.99]) * (1 + 1e-9)
    expected = [(pairs < r).mean() for r in radii]
    np.testing.assert_allclose(correlation_integral(x, radii), expected)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 8 * 101 * 13)
    np.testing.assert_allclose(correlation_integral(x, radii), expected)


# scikit-dimension


@pytest.fixture(scope="module")
def oracle_points():
    rng = np.random.default_rng(3)
    z = rng.standard_normal((400, 4))
    return np.hstack([z, np.sin(2 * z), z**2]) @ rng.standard_normal((12, 30))


def test_estimators_are_those_of_scikit_dimension(oracle_points):
    peer = pytest.importorskip("skdim").id
    x = oracle_points
    near = find_neighbors(x, 20, seed=0)
    assert two_nn(near) == pytest.approx(peer.TwoNN().fit(x).dimension_, rel=1e-10)
    by_peer = peer.MLE().fit(x, n_neighbors=20)
    assert likelihood(near) == pytest.approx(by_peer.dimension_, rel=1e-10)
    np.testing.assert_allclose(likelihood_local(near), by_peer.dimension_pw_, rtol=1e-9)
    assert np.array_equal(pca_local(x, near), peer.lPCA().fit_pw(x, n_neighbors=20).dimension_pw_)
    integral = correlation_dimension(x, near, n_radii=2)
    assert integral == pytest.approx(peer.CorrInt().fit(x).dimension_, rel=1e-9)
    ratio = peer.lPCA(ver="participation_ratio").fit(x).dimension_
    assert participation_ratio(x) == pytest.approx(ratio, rel=1e-10)


# Known dimensions. Tolerances: TwoNN's relative standard error is about 1 / sqrt(n), the likelihood's 1 / sqrt(n k) times
# the overlap of neighbourhoods; boundaries and curvature at the scale of k neighbours add some per cent below d = 5.

SHAPES = {
    "circle": (sphere(1), 1),
    "sphere": (sphere(2), 2),
    "torus": (torus, 2),
    "swiss roll": (swiss_roll, 2),
    "plane in 10": (cube(2, 10), 2),
    "3-cube in 20": (cube(3, 20), 3),
    "4-sphere": (sphere(4), 4),
}


@pytest.mark.parametrize(("draw", "d"), SHAPES.values(), ids=SHAPES)
def test_known_dimensions_are_found(draw, d):
    table = dimension_table(draw(2000, np.random.default_rng(0)), seed=0, n_subsamples=0, estimators=SEES_CURVATURE)
    np.testing.assert_allclose(table.dimension, d, rtol=0.1)
    found = agreement(table)
    assert found["median"] == pytest.approx(d, rel=0.06) and found["n_estimators"] == 4
    assert found["low"] == table.dimension.min() and found["high"] == table.dimension.max()


@pytest.mark.parametrize(("draw", "d"), [(sphere(10), 10), (cube(20), 20)], ids=["10-sphere", "20-cube"])
def test_high_dimensions_come_out_too_low(draw, d):
    """Known bias: neighbours are never near enough, and in a cube most of them lie at a face."""
    x = draw(2000, np.random.default_rng(0))
    found = dimension_table(x, seed=0, n_subsamples=0, estimators=SEES_CURVATURE).dimension
    assert (found < d).all() and (found > 0.6 * d).all()


def test_participation_ratio_sees_no_curvature():
    rng = np.random.default_rng(0)
    assert participation_ratio(sphere(1)(2000, rng)) == pytest.approx(2, rel=0.01)
    assert participation_ratio(sphere(4)(2000, rng)) == pytest.approx(5, rel=0.01)
    assert participation_ratio(rng.standard_normal((4000, 10))) == pytest.approx(10, rel=0.01)
    assert participation_ratio(cube(3, 20)(2000, rng)) == pytest.approx(3, rel=0.01)


def test_noise_at_the_smallest_scale_shows_in_the_curve():
    """A plane with noise as large as the gaps: more points see more of the noise."""
    rng = np.random.default_rng(0)
    x = cube(2, 10)(1600, rng) + 0.01 * rng.standard_normal((1600, 10))
    curve = subsample_curve(x, sizes=[100, 400, 1600], repeats=3, estimators=["TwoNN", "maximum likelihood"], seed=0)
    for _, part in curve.groupby("estimator"):
        assert (np.diff(part.dimension) > 0).all() and (np.diff(part["scale"]) < 0).all()
        assert part.dimension.iloc[-1] > 1.5 * part.dimension.iloc[0]


def test_a_curve_is_level_where_there_is_no_noise():
    curve = subsample_curve(torus(1200, np.random.default_rng(0)), seed=0, estimators=SEES_CURVATURE)
    assert curve.n.unique().tolist() == [150, 300, 600, 1200]
    # With fewer points 20 neighbours reach so far round the torus that local PCA sees a third axis.
    level = curve[curve.n >= 600]
    np.testing.assert_allclose(level.dimension, 2, rtol=0.15)
    assert level.sd[level.n < 1200].between(0, 0.4).all() and level.sd[level.n == 1200].isna().all()


# Tables


def test_a_table_says_what_it_did():
    x = torus(300, np.random.default_rng(0))
    table = dimension_table(np.concatenate([x, x[:7]]), seed=0, n_subsamples=5)
    assert list(table) == ["estimator", "dimension", "low", "high", "n", "k", "note"]
    assert table.estimator.tolist() == list(ESTIMATORS) and (table.n == 300).all()
    assert table.k.tolist() == [0, 20, 2, 20, 20] and table.note.str.endswith("7 repeated points dropped").all()
    assert (table.low < table.dimension).all() and (table.dimension < table.high).all()
    without = dimension_table(x, seed=0, n_subsamples=0)
    np.testing.assert_allclose(without.dimension, table.dimension, rtol=1e-12)
    assert without[["low", "high"]].isna().all(axis=None) and (without.note.str.contains("repeated") == False).all()  # noqa: E712
    near = find_neighbors(x, 20, seed=0)
    expected = [participation_ratio(x), pca_local(x, near).mean(), two_nn(near), likelihood(near), correlation_dimension(x, near)]  # fmt: skip
    np.testing.assert_allclose(table.dimension, expected, rtol=1e-12)


def test_the_order_of_points_means_nothing():
    x, order = torus(200, np.random.default_rng(0)), np.random.default_rng(1).permutation(200)
    a, b = (dimension_table(p, seed=0, n_subsamples=0) for p in (x, x[order]))
    np.testing.assert_allclose(a.dimension, b.dimension, rtol=1e-9)


def test_dimension_has_no_units():
    x = sphere(3)(300, np.random.default_rng(0))
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((4, 4)))[0]
    a, b = (dimension_table(p, seed=0, n_subsamples=0) for p in (x, 1e-3 * x @ turn + 1))
    np.testing.assert_allclose(a.dimension, b.dimension, rtol=1e-6)


def test_one_seed_one_table():
    x = torus(150, np.random.default_rng(0))
    a, b, c = (dimension_table(x, seed=s, n_subsamples=4) for s in (3, 3, 4))
    pd.testing.assert_frame_equal(a, b)
    assert (a.low != c.low).all() and (a.dimension == c.dimension).all()


@pytest.mark.slow
def test_intervals_cover_what_other_samples_give():
    """Of 40 samples, each interval should hold the mean estimate of all 95 times in 100; halves make it a little wide."""
    tables = [dimension_table(torus(500, np.random.default_rng(r)), seed=0) for r in range(40)]
    mean = np.mean([t.dimension for t in tables], axis=0)
    covered = np.mean([(t.low <= mean) & (mean <= t.high) for t in tables], axis=0)
    assert (covered >= 0.85).all()
    spread = np.std([t.dimension for t in tables], axis=0, ddof=1)
    width = np.mean([(t.high - t.low) / 2 for t in tables], axis=0)
    by_neighbours = [list(ESTIMATORS).index(name) for name in ("TwoNN", "maximum likelihood", "correlation integral")]
    assert (width[by_neighbours] < 2 * 2.1 * spread[by_neighbours]).all()


def test_an_interval_covers_the_truth_where_there_is_no_bias():
    for seed in range(3):
        table = dimension_table(torus(400, np.random.default_rng(seed)), seed=0, estimators=["TwoNN"]).iloc[0]
        assert table.low < 2 < table.high and table.high - table.low < 1.2


# What is refused


def test_points_that_coincide_are_an_error_for_a_single_estimator():
    x = torus(60, np.random.default_rng(0))
    x[5] = x[9]
    near = find_neighbors(x, 20, seed=0)
    for estimate in (two_nn, likelihood):
        with pytest.raises(EvaluationError, match="2 of 60 points coincide with another; keep one of each"):
            estimate(near)


def test_a_lattice_is_an_error_where_it_has_no_dimension():
    lattice = np.stack(np.meshgrid(*[np.arange(12.0)] * 2), -1).reshape(-1, 2)
    near = find_neighbors(lattice, 4, seed=0)
    with pytest.raises(EvaluationError, match="TwoNN has 129 of 144 ratios .* do not lie on a lattice"):
        two_nn(near)
    with pytest.raises(EvaluationError, match="median distances of neighbours 3 and 4 are 1 and 1"):
        correlation_dimension(lattice, near, k1=3, k2=4)
    simplex = np.eye(30)
    with pytest.raises(EvaluationError, match="All neighbours of all points are equally far"):
        likelihood(near_of(np.ones((30, 5))))
    assert participation_ratio(simplex) == pytest.approx(29)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torus(41, np.random.default_rng(0)), "41 distinct points of 41 are too few for 20 neighbours in every half"),
        (np.repeat(torus(30, np.random.default_rng(0)), 9, 0), "30 distinct points of 270 are too few"),
        (np.ones((100, 3)), "All 100 points are the same"),
        (np.full((100, 3), np.nan), "100 of 100 points hold NaN or infinite"),
    ],
    ids=["few", "few but repeated", "constant", "NaN"],
)
def test_unusable_points_are_an_error(x, said):
    with pytest.raises(EvaluationError, match=said):
        dimension_table(x, seed=0)


def test_other_mistakes_are_errors():
    x = torus(100, np.random.default_rng(0))
    near = find_neighbors(x, 20, seed=0)
    with pytest.raises(EvaluationError, match="Unknown estimator 'Twonn': did you mean 'TwoNN'"):
        dimension_table(x, seed=0, estimators=["Twonn"])
    with pytest.raises(
        EvaluationError, match="Subsets of 10 were asked for; 100 distinct points and 20 neighbours allow"
    ):
        subsample_curve(x, sizes=[10], seed=0)
    with pytest.raises(EvaluationError, match="needs three neighbours or more; found 2"):
        likelihood(near.first(2))
    with pytest.raises(EvaluationError, match="needs two neighbours or more; found 1"):
        pca_local(x, near.first(1))
    with pytest.raises(EvaluationError, match="There are 99 points, but neighbours of 100"):
        pca_local(x[1:], near)
    with pytest.raises(EvaluationError, match="needs k1 < k2 and two radii; found k1 = 5, k2 = 5, 8 radii"):
        correlation_dimension(x, near, k1=5, k2=5)
    with pytest.raises(EvaluationError, match="20 neighbours were asked for, but 7 were found"):
        correlation_dimension(x, near.first(7))


def test_fewer_neighbours_let_fewer_points_do():
    table = dimension_table(torus(30, np.random.default_rng(0)), seed=0, n_subsamples=3, scales=Scales(k=5, k1=3, k2=6))
    assert table.k.tolist() == [0, 5, 2, 5, 6] and np.isfinite(table.dimension).all()


# The elbow of the adaptor


def test_the_elbow_is_where_the_planted_ruler_ends():
    """Ten stages on a ring: two latent coordinates can hold it, one cannot."""
    stage = np.arange(40) % 10
    rng = np.random.default_rng(0)
    ring = np.column_stack([np.cos(stage * np.pi / 5), np.sin(stage * np.pi / 5)])
    features = ring @ rng.standard_normal((2, 15)) + 0.02 * rng.standard_normal((40, 15))
    steps = np.abs(stage[:, None] - stage)
    table = let_elbow(features, np.minimum(steps, 10 - steps) / 5, ks=range(1, 6), adaptor=LETAdaptor(steps=80))
    assert list(table) == ["k", "stress", "reconstruction", "trustworthiness"] and table.k.tolist() == [1, 2, 3, 4, 5]
    assert table.stress[0] > 0.02 > 0.002 > table.stress[1:].max()
    assert table.trustworthiness[0] < 0.9 < table.trustworthiness[1:].min()
    fitted = LETAdaptor(k=3, steps=80).fit(features, np.minimum(steps, 10 - steps) / 5)
    assert table.stress[2] == fitted.stress_ and table.reconstruction[2] == fitted.reconstruction_


def test_an_elbow_of_too_few_anchors_is_an_error():
    with pytest.raises(EvaluationError, match="k = 5 for n = 8 points"):
        let_elbow(np.random.default_rng(0).standard_normal((8, 4)), np.ones((8, 8)) - np.eye(8), ks=[2])


def test_an_elbow_weighs_its_anchors():
    rng = np.random.default_rng(0)
    features, distances = rng.standard_normal((14, 4)), np.ones((14, 14)) - np.eye(14)
    plain, same, other = (
        let_elbow(features, distances, ks=[2], n_neighbors=4, adaptor=LETAdaptor(steps=20), weights=weights)
        for weights in (None, np.ones(14), np.linspace(0.1, 5, 14))
    )
    assert plain.equals(same) and not plain.equals(other)
