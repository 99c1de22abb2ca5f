"""Neighbours: against all distances written out, with repeats, far offsets and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import among, distinct, find_neighbors


def points(n=120, d=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def by_hand(x, k):
    all_pairs = cdist(x.astype(np.float64), x.astype(np.float64))
    np.fill_diagonal(all_pairs, np.inf)
    order = np.argsort(all_pairs, axis=1)[:, :k]
    return order, np.take_along_axis(all_pairs, order, 1)


@pytest.mark.parametrize("d", [1, 3, 8, 9, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_neighbours_are_those_of_all_distances(d, dtype):
    x = points(d=d).astype(dtype)
    near = find_neighbors(x, 7, seed=0)
    indices, distances = by_hand(x, 7)
    assert np.array_equal(near.indices, indices)
    np.testing.assert_allclose(near.distances, distances, rtol=1e-12)
    assert near.exact and near.recall == 1 and near.n_duplicates == 0 and near.k == 7 and len(near) == 120


def test_fewer_are_the_first_of_more():
    x = points()
    many, few = find_neighbors(x, 20, seed=0), find_neighbors(x, 6, seed=0)
    assert np.array_equal(many.first(6).indices, few.indices)
    assert np.array_equal(many.first(6).distances, few.distances)
    for k in (0, 21):
        with pytest.raises(EvaluationError, match=f"^{k} neighbours were asked for, but 20 were found; search again"):
            many.first(k)


def test_all_other_points_may_be_asked_for():
    near = find_neighbors(points(9), 8, seed=0)
    assert [sorted([i, *row]) for i, row in enumerate(near.indices.tolist())] == [list(range(9))] * 9


@pytest.mark.parametrize("d", [3, 12])
def test_the_order_of_points_means_nothing(d):
    x, order = points(d=d), np.random.default_rng(1).permutation(120)
    near, shuffled = find_neighbors(x, 9, seed=0), find_neighbors(x[order], 9, seed=0)
    assert np.array_equal(order[shuffled.indices], near.indices[order])
    np.testing.assert_allclose(shuffled.distances, near.distances[order], rtol=1e-13)


@pytest.mark.parametrize("d", [3, 12])
def test_repeats_are_allowed_and_counted(d):
    x = points(d=d)
    x[50:60] = x[3]
    x[70] = x[71]
    near = find_neighbors(x, 5, seed=0)
    assert near.n_duplicates == 11
    assert (near.distances[[3, *range(50, 60)]] == 0).all() and (near.indices != np.arange(120)[:, None]).all()
    assert near.indices[70, 0] == 71 and near.indices[71, 0] == 70 and near.distances[70, 0] == 0
    np.testing.assert_allclose(near.distances, by_hand(x, 5)[1], atol=1e-7, rtol=1e-12)


def test_distances_survive_an_offset_and_clusters_far_apart():
    x = points() * 1e-3
    expected = by_hand(x[:60], 5)[0]
    shifted = x + 1e4
    shifted[60:] -= 2e4
    near = find_neighbors(shifted, 5, seed=0)
    assert (near.indices[:60] == expected).mean() > 0.99, "only the rounding of the input itself is left"
    exact = np.sort(np.linalg.norm(shifted[:60, None] - shifted[None, :60], axis=2), axis=1)[:, 1:6]
    np.testing.assert_allclose(near.distances[:60], exact, rtol=1e-12)


def test_distinct_keeps_the_first_of_each():
    x = np.array([[0.0, 1], [2, 3], [-0.0, 1], [2, 3], [4, 5]])
    kept, rows = distinct(x)
    assert rows.tolist() == [0, 1, 4] and np.array_equal(kept, x[[0, 1, 4]])


@pytest.mark.parametrize("spare", [0, 10, 60])
def test_neighbours_in_a_subset_are_those_of_a_new_search(spare):
    x, rows = points(), np.sort(np.random.default_rng(2).permutation(120)[:60])
    read_off = among(find_neighbors(x, 6 + spare, seed=0), x, rows, 6)
    again = find_neighbors(x[rows], 6, seed=0)
    assert np.array_equal(read_off.indices, again.indices)
    np.testing.assert_allclose(read_off.distances, again.distances, rtol=1e-12)
    fewer = among(find_neighbors(x, 3, seed=0), x, rows, 6)
    assert np.array_equal(fewer.indices, again.indices), "from fewer neighbours than are wanted"


# What is refused


def broken(value):
    x = points()
    x[[4, 9], 2] = value
    return x


@pytest.mark.parametrize(
    ("x", "k", "said"),
    [
        (points(5), 5, "5 neighbours need at least 6 points; found 5. Ask for fewer"),
        (points(0), 1, "need at least 2 points; found 0"),
        (points(), 0, "0 neighbours were asked for; ask for one at least"),
        (broken(np.nan), 5, "2 of 120 points hold NaN or infinite values .first: row 4.; leave them out"),
        (broken(-np.inf), 5, "2 of 120 points hold NaN or infinite values"),
        (np.ones((30, 4)), 5, "All 30 points are the same"),
    ],
    ids=["few", "none", "no neighbours", "NaN", "inf", "constant"],
)
def test_unusable_points_are_an_error(x, k, said):
    with pytest.raises(EvaluationError, match=said):
        find_neighbors(x, k, seed=0)


# Approximate search; numba compiles it for half a minute.


@pytest.mark.slow
def test_an_approximate_search_measures_its_recall():
    x = points(3000, 15)
    near, exact = find_neighbors(x, 10, approximate=True, seed=4), find_neighbors(x, 10, seed=4)
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near.indices, exact.indices, strict=True)])
    assert not near.exact and 0.7 < near.recall <= 1
    # 500 of 3000 points, 10 neighbours each.
    assert near.recall == pytest.approx(found, abs=0.02)
    again = find_neighbors(x, 10, approximate=True, seed=4)
    assert np.array_equal(near.indices, again.indices) and near.recall == again.recall
    rows = np.arange(3000)[:, None]
    assert (near.indices != rows).all() and (np.diff(near.distances, axis=1) >= 0).all()
    np.testing.assert_allclose(near.distances, np.linalg.norm(x[near.indices] - x[rows], axis=2), rtol=1e-12)


def test_many_points_are_searched_approximately_unless_told_otherwise(monkeypatch):
    from workbench.geometry import neighbors

    def coarse(x, k, seed):
        found = by_hand(x, k + 1)
        return found[0][:, 1:], found[1][:, 1:]  # the nearest one is missed

    monkeypatch.setattr(neighbors, "APPROXIMATE_ABOVE", 100)
    monkeypatch.setattr(neighbors, "_approximate", coarse)
    near = find_neighbors(points(), 5, seed=0)
    assert not near.exact and near.recall == pytest.approx(0.8) and near.first(3).recall == near.recall
    assert find_neighbors(points(), 5, approximate=False, seed=0).exact
    assert find_neighbors(points(100), 5, seed=0).exact
