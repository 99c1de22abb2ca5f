"""Neighbourhood preservation against scikit-learn and by hand; geodesics; flatness; ripples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.sparse.csgraph import shortest_path
from scipy.spatial.distance import cdist
from sklearn.manifold import trustworthiness as peer

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import find_neighbors
from workbench.geometry.quality import (
    embedding_quality,
    ranks_of,
    trustworthiness,
)
from workbench.geometry.shape import (
    flatness,
    geodesics,
    ripple,
    ruler_agreement,
)


def points(n=150, d=10, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


EMBEDDINGS = {
    "the same": lambda x: x * 3.0,
    "some axes": lambda x: x[:, :3] * 1.0,
    "one axis": lambda x: x[:, :1] * 1.0,
    "noise": lambda x: points(len(x), 2, seed=9),
}


def all_ranks(x):
    """Rank of each point among the others by distance from each, from 1."""
    distances = cdist(x, x)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(np.argsort(distances, axis=1), axis=1) + 1


# Trustworthiness and its kin


@pytest.mark.parametrize("embed", EMBEDDINGS.values(), ids=EMBEDDINGS)
@pytest.mark.parametrize("d", [2, 10, 200])
def test_trustworthiness_is_that_of_scikit_learn_at_every_k(embed, d):
    x = points(d=d)
    y, ks = embed(x), (1, 5, 15, 74)
    found = embedding_quality(x, y, ks)
    for i, k in enumerate(ks):
        assert found.trustworthiness[i].mean() == pytest.approx(peer(x, y, n_neighbors=k), abs=1e-10)
        assert found.continuity[i].mean() == pytest.approx(peer(y, x, n_neighbors=k), abs=1e-10)
        assert np.array_equal(trustworthiness(x, y, k), found.trustworthiness[i])


def test_blocks_do_not_show(monkeypatch):
    from workbench.geometry import neighbors

    x = points()
    whole = embedding_quality(x, x[:, :2] * 1.0, (4, 9))
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 8 * 150 * 7)
    parts = embedding_quality(x, x[:, :2] * 1.0, (4, 9))
    for name in ("trustworthiness", "continuity", "rank_error_embedding", "rank_error_original"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))


def test_terms_of_a_point_by_hand():
    x, y, k, n = points(60, 4), points(60, 2, seed=1), 6, 60
    in_x, in_y = all_ranks(x), all_ranks(y)
    found = embedding_quality(x, y, [k])
    worst = sum(abs(n - 2 * j) / j for j in range(1, k + 1))
    for i in (0, 17, 59):
        near_x, near_y = (np.flatnonzero(r[i] <= k) for r in (in_x, in_y))
        scale = 2 / (k * (2 * n - 3 * k - 1))
        assert found.trustworthiness[0, i] == pytest.approx(1 - scale * np.maximum(in_x[i, near_y] - k, 0).sum())
        assert found.continuity[0, i] == pytest.approx(1 - scale * np.maximum(in_y[i, near_x] - k, 0).sum())
        difference = np.abs(in_x[i] - in_y[i])
        assert found.rank_error_embedding[0, i] == pytest.approx((difference / in_y[i])[near_y].sum() / worst)
        assert found.rank_error_original[0, i] == pytest.approx((difference / in_x[i])[near_x].sum() / worst)


def test_the_same_space_is_perfect_even_with_repeats_and_ties():
    lattice = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), -1).reshape(-1, 3)
    repeated = np.concatenate([points(60), points(60)[:20]])
    for x in (points(), repeated, lattice, points() * 1e-3 + 1e3 * (np.arange(150) % 2)[:, None]):
        table = embedding_quality(x, x.copy(), (1, 7, 20)).table()
        assert (table[["trustworthiness", "continuity"]] == 1).all(axis=None)
        assert (table[["rank_error_embedding", "rank_error_original"]] == 0).all(axis=None)
        assert table.k.tolist() == [1, 7, 20]


def test_an_intruder_lowers_trust_and_a_loss_continuity():
    line = np.arange(40.0)[:, None]
    folded = np.minimum(line, 39 - line)  # both halves on top of each other: nothing is lost, much intrudes
    shifted = folded + np.where(line < 20, 0, 0.25)
    found = embedding_quality(line, shifted, [3]).table().iloc[0]
    assert found.trustworthiness < 0.7 and found.continuity > 0.9
    assert found.rank_error_embedding > found.rank_error_original


def test_unrelated_spaces_have_trust_one_half():
    # Ranks are uniform on 1 to n - 1: the mean excess is about n / 2 of the n - 3k / 2 that the scale allows.
    assert trustworthiness(points(400), points(400, 3, seed=5), 5).mean() == pytest.approx(0.5, abs=0.03)


def test_ranks_where_products_cancel():
    x = points(100, 20) * 1e-4
    x[50:] += 1e4
    others = np.tile(np.arange(45, 55), (100, 1))
    expected = np.take_along_axis(1 + (cdist(x, x)[:, None, :] < cdist(x, x)[:, :, None]).sum(2) - 1, others, 1)
    own = others == np.arange(100)[:, None]
    assert np.array_equal(ranks_of(x, others)[~own], expected[~own])


def test_the_order_of_points_means_nothing():
    x, y, order = points(), points(150, 2, seed=3), np.random.default_rng(1).permutation(150)
    a, b = embedding_quality(x, y, (3, 12)), embedding_quality(x[order], y[order], (3, 12))
    np.testing.assert_allclose(b.trustworthiness, a.trustworthiness[:, order], atol=1e-12)
    np.testing.assert_allclose(b.rank_error_original, a.rank_error_original[:, order], atol=1e-12)


@pytest.mark.parametrize("repeated", ["embedding", "both", "original"])
def test_the_order_of_points_means_nothing_where_many_are_equally_far(repeated):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 4)), rng.integers(0, 3, (80, 2)).astype(float)
    if repeated == "both":
        x[:40] = x[40:]
    if repeated == "original":
        x, y = y, x
    whole = embedding_quality(x, y, (3, 10, 20))
    order = rng.permutation(80)
    again = embedding_quality(x[order], y[order], (3, 10, 20))
    for name in ("trustworthiness", "continuity", "rank_error_embedding", "rank_error_original"):
        np.testing.assert_allclose(getattr(again, name), getattr(whole, name)[:, order], rtol=1e-9, atol=1e-12)


def test_of_equally_far_points_each_counts_by_the_share_that_has_a_place():
    """The mean over random ways to part the ties, each of them by a shift that is too small to change anything else."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(40, 3)), rng.integers(0, 3, (40, 2)).astype(float)
    found = trustworthiness(x, y, 6).mean()
    parted = [trustworthiness(x, y + 1e-7 * rng.normal(size=y.shape), 6).mean() for _ in range(400)]
    assert found == pytest.approx(np.mean(parted), abs=4 * np.std(parted) / 20)
    assert np.std(parted) > 1e-3, "else there was nothing to part"


def test_neighbours_that_are_there_already_are_used():
    x, y = points(), points(150, 2, seed=3)
    near_x, near_y = (find_neighbors(a, 30, seed=0) for a in (x, y))
    given = embedding_quality(x, y, (3, 12), near_x=near_x, near_y=near_y)
    assert given.table().equals(embedding_quality(x, y, (3, 12)).table())


@pytest.mark.parametrize("ks", [(), (0,), (5, 75)])
def test_a_k_that_does_not_suit_is_an_error(ks):
    with pytest.raises(EvaluationError, match="Neighbourhoods need 1 <= k < n / 2; found k = .* for n = 150 points"):
        embedding_quality(points(), points(d=2), ks)


def test_spaces_of_different_points_are_an_error(without_shape_checks):
    with pytest.raises(EvaluationError, match="original space has 150 points, the embedding 149"):
        embedding_quality(points(), points(149, 2), [5])


def test_trust_is_that_of_the_ablation_metric():
    torch = pytest.importorskip("torch")
    from workbench.ablation import metrics

    x, y = points(), points(150, 3, seed=3)

    class Run(metrics.Run):
        def __init__(self):
            pass

        def output(self):
            return torch.as_tensor(y)

    metric = metrics.trustworthiness(x, k=6)
    np.testing.assert_allclose(trustworthiness(x, y, 6), metric.function(Run()).numpy(), atol=1e-12)


# Geodesics


def test_geodesics_on_a_circle_are_arcs():
    angle = (np.arange(400) + np.random.default_rng(0).uniform(0, 0.9, 400)) * np.pi / 200
    x = np.column_stack([np.cos(angle), np.sin(angle)])
    found = geodesics(find_neighbors(x, 8, seed=0))
    arc = np.abs(angle[:, None] - angle)
    np.testing.assert_allclose(found.distances, np.minimum(arc, 2 * np.pi - arc), atol=0.01)
    assert found.n_components == 1 and found.n_left_out == 0 and np.array_equal(found.rows, np.arange(400))


def test_geodesics_of_some_points_go_through_all():
    x = points(80, 3)
    near, rows = find_neighbors(x, 6, seed=0), np.array([70, 3, 41])
    dense = np.full((80, 80), np.inf)
    np.put_along_axis(dense, near.indices, near.distances, 1)
    whole = shortest_path(np.minimum(dense, dense.T), directed=False)
    found = geodesics(near, rows)
    np.testing.assert_allclose(found.distances, whole[np.ix_(rows, rows)])
    assert np.array_equal(found.rows, rows)


def test_repeated_points_are_joined():
    x = np.repeat(points(40, 2), 2, axis=0)
    found = geodesics(find_neighbors(x, 8, seed=0))
    assert (found.distances[::2, 1::2].diagonal() == 0).all()


def test_a_disconnected_graph_is_an_error_or_its_largest_part():
    x = np.concatenate([points(50, 3), points(20, 3) + 100])
    near = find_neighbors(x, 5, seed=0)
    with pytest.raises(EvaluationError, match="falls into 2 components .the largest has 50 of 70 points.*more neighbo"):
        geodesics(near)
    found = geodesics(near, component="largest")
    assert found.n_components == 2 and found.n_left_out == 20 and np.array_equal(found.rows, np.arange(50))
    assert np.isfinite(found.distances).all()
    with pytest.raises(EvaluationError, match="0 of the 10 points asked for lie in the largest component"):
        geodesics(near, np.arange(60, 70), component="largest")


def test_a_swiss_roll_agrees_with_its_own_ruler_by_geodesics_only():
    rng = np.random.default_rng(0)
    t = 1.5 * np.pi * (1 + 2 * rng.random(600))
    x = np.column_stack([t * np.cos(t), 5 * rng.random(600), t * np.sin(t)])
    length = (t * np.sqrt(1 + t**2) + np.arcsinh(t)) / 2  # along the spiral
    ruler = np.abs(length[:, None] - length)
    ruler /= ruler.max()
    by_graph = ruler_agreement(geodesics(find_neighbors(x, 8, seed=0)).distances, ruler, (0.25,))
    straight = ruler_agreement(cdist(x, x), ruler, (0.25,))
    assert by_graph.spearman[0] > 0.98 > 0.6 > straight.spearman[0]
    assert by_graph.within.tolist() == [np.inf, 0.25] and by_graph.spearman[1] > 0.9


def test_agreement_counts_each_known_pair_once():
    distances, ruler = cdist(points(30), points(30)), cdist(points(30, 2, seed=1), points(30, 2, seed=1))
    ruler[4] = ruler[:, 4] = np.nan
    table = ruler_agreement(distances, ruler, (1.0, 0.0))
    pairs = [(i, j) for i in range(30) for j in range(i) if 4 not in (i, j)]
    a, b = (np.array([m[p] for p in pairs]) for m in (distances, ruler))
    assert table.n_pairs.tolist() == [29 * 28 // 2, (b <= 1).sum(), 0]
    assert table.spearman[0] == pytest.approx(stats.spearmanr(a, b)[0])
    assert table.spearman[1] == pytest.approx(stats.spearmanr(a[b <= 1], b[b <= 1])[0])
    assert np.isnan(table.spearman[2])


def test_agreement_of_different_points_is_an_error(without_shape_checks):
    with pytest.raises(EvaluationError, match=r"Distances are \(3, 3\), the ruler's \(4, 4\)"):
        ruler_agreement(np.zeros((3, 3)), np.zeros((4, 4)))


# Flatness and ripples


def test_shares_are_those_of_the_covariance():
    x = points() * np.linspace(3, 1, 10)
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    for d in (1, 2, 5, 10):
        flat = flatness(x, d)
        assert flat.share == pytest.approx(values[:d].sum() / values.sum())
        assert flat.plane.shape == (150, d) and flat.residual.shape == (150, 10 - d)
        np.testing.assert_allclose(
            cdist(np.hstack([flat.plane, flat.residual]), np.zeros((1, 10))), cdist(x, x.mean(0)[None])
        )


def test_a_plane_is_flat_and_has_no_ripple():
    x = points(100, 2) @ points(2, 12, seed=1) + 5
    flat = flatness(x)
    assert flat.share == pytest.approx(1, abs=1e-12) and flat.residual.shape == (100, 0)
    found = ripple(flat, seed=0)
    assert np.isnan(found.p) and np.isnan(found.moran) and found.n_permutations == 0


def test_a_wave_is_a_ripple_and_its_size_is_right():
    rng = np.random.default_rng(0)
    uv = rng.uniform(-1, 1, (500, 2))
    wave, noise = np.sin(5 * uv[:, 0]), rng.standard_normal(500)
    smooth = ripple(flatness(np.column_stack([uv * 20, wave])), seed=0)
    assert smooth.moran > 0.85 and smooth.p == 1 / 200 and smooth.null_high < 0.1
    # Half of the residual's variance is noise, which adds nothing to the numerator: about half of I is left.
    mixed = ripple(flatness(np.column_stack([uv * 20, wave, noise * wave.std()])), seed=0)
    assert mixed.moran == pytest.approx(smooth.moran / 2, abs=0.1) and mixed.p == 1 / 200


def test_noise_whose_size_changes_over_the_plane_is_no_ripple():
    p = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        uv = rng.uniform(-1, 1, (150, 2))
        p.append(ripple(flatness(np.column_stack([uv * 20, rng.standard_normal(150) * (1.1 + uv[:, 0])])), seed=0, n_permutations=99).p)  # fmt: skip
    assert np.median(p) > 0.2 and np.mean(np.array(p) <= 0.05) <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize(("size", "n"), [(3.0, 200), (1.2, 80)])
def test_p_of_plain_noise_is_uniform(size, n):
    p = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = np.column_stack([size * rng.standard_normal((n, 2)), rng.standard_normal((n, 4))])
        p.append(ripple(flatness(x), n_permutations=99, seed=seed).p)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_the_order_of_points_means_nothing_to_flatness():
    x, order = points(100, 5) * [4, 3, 1, 1, 1], np.random.default_rng(1).permutation(100)
    assert flatness(x[order]).share == pytest.approx(flatness(x).share, rel=1e-12)
    assert ripple(flatness(x[order]), seed=0).moran == pytest.approx(ripple(flatness(x), seed=0).moran, rel=1e-9)


@pytest.mark.parametrize(
    ("x", "d", "said"),
    [
        (points(10, 3), 4, "A plane of 4 axes was asked for, but points have 3 coordinates"),
        (points(2, 3), 2, "need at least 3 points"),
        (np.zeros((9, 3)), 2, "All 9 points are the same"),
        (np.full((9, 3), np.nan), 2, "9 of 9 points hold NaN"),
    ],
)
def test_points_without_a_plane_are_an_error(x, d, said):
    with pytest.raises(EvaluationError, match=said):
        flatness(x, d)
