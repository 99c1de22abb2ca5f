"""The search in single precision: what it leaves out is as far as it says, and what it cannot tell is searched again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from workbench.geometry import neighbors, search
from workbench.geometry.neighbors import find_neighbors
from workbench.geometry.search import likely_nearest

RNG = np.random.default_rng(0)


def clustered():
    """Half of the points in a cluster so far from the others that single precision sees one point."""
    x = RNG.normal(size=(300, 20))
    x[:150] = 1e-5 * x[:150] + 40
    return x


CLOUDS = {
    "round": RNG.normal(size=(300, 12)),
    "heavy tails": RNG.standard_t(1.5, size=(300, 30)),
    "far from the origin": RNG.normal(size=(300, 12)) + 1e7,
    "huge": RNG.normal(size=(300, 12)) * 1e200,
    "tiny": RNG.normal(size=(300, 12)) * 1e-200,
    "on a line": RNG.normal(size=(300, 1)) @ RNG.normal(size=(1, 40)),
    "clustered": clustered(),
    "few wide axes": RNG.normal(size=(300, 32)) * np.arange(1, 33) ** -1.5,
    "flat": np.c_[RNG.normal(size=(300, 2)), np.zeros((300, 22))] @ np.linalg.qr(RNG.normal(size=(24, 24)))[0],
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(search, "_BLOCK", 70)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nothing_left_out_is_nearer_than_it_says(cloud):
    x = CLOUDS[cloud]
    scale = np.abs(x - x.mean(0)).max()
    candidates, beyond = likely_nearest(x, 15)
    distances = cdist(x / scale, x / scale)
    assert all(len(set(row)) == 15 and i not in row for i, row in enumerate(candidates.tolist()))
    distances[np.arange(len(x))[:, None], candidates] = np.inf
    np.fill_diagonal(distances, np.inf)
    assert (distances.min(1) >= beyond / scale * (1 - 1e-9)).all()


@pytest.mark.parametrize(
    "cloud", [name for name in CLOUDS if name not in ("huge", "tiny")]
)  # no room for their squares
def test_neighbours_are_those_of_all_distances(cloud):
    x = CLOUDS[cloud]
    distances = cdist(x, x)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(find_neighbors(x, 10, seed=0).distances, np.sort(distances, 1)[:, :10], rtol=1e-9)


def products_of(x, monkeypatch, n_found=5):
    """Products of pairs, in coordinates, over those that all coordinates of all pairs take."""
    n_products, take = [], search._take

    def counted(products, at, its_lower, pairs, points, *rest):
        done = take(products, at, its_lower, pairs, points, *rest)
        n_products.append(products.size * (x.shape[1] // search._LEADING if pairs else x.shape[1]))
        return done

    monkeypatch.setattr(search, "_take", counted)
    found, beyond = likely_nearest(x, n_found)
    monkeypatch.setattr(search, "_take", take)
    return found, beyond, sum(n_products) / (len(x) ** 2 / 2 * x.shape[1])


def test_few_wide_axes_rule_most_pairs_out(monkeypatch):
    x = np.random.default_rng(1).normal(size=(1_400, 64)) * np.arange(1, 65) ** -2.0
    found, beyond, share = products_of(x, monkeypatch)
    assert share < 0.4  # an eighth of the coordinates, and blocks of the diagonal
    monkeypatch.setattr(search, "_MANY", len(x))  # without leading coordinates
    other, its_beyond, whole = products_of(x, monkeypatch)
    assert whole > 1
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(other, 1))
    np.testing.assert_allclose(beyond, its_beyond, rtol=1e-4)


def test_leading_coordinates_are_given_up_where_they_rule_nothing_out(monkeypatch):
    x = np.random.default_rng(1).normal(size=(1_400, 64))
    assert 1 < products_of(x, monkeypatch)[2] < 1.2


def test_no_distance_along_leading_axes_is_longer_than_the_whole():
    points = (RNG.normal(size=(200, 40)) * np.arange(1, 41) ** -1.0).astype(np.float32)
    leading = search._leading(points, 5)
    assert leading.shape == (200, 5)
    whole, part = cdist(points, points), cdist(leading.astype(float), leading.astype(float))
    assert (part <= whole + 1e-6 * np.linalg.norm(points, axis=1).max()).all()
    # The axes are the widest: no other four leave less.
    total, kept = (points**2).sum(), (leading[:, :-1] ** 2).sum()
    assert kept == pytest.approx((np.linalg.svd(points, compute_uv=False)[:4] ** 2).sum(), rel=1e-5)
    assert (leading[:, -1] ** 2).sum() == pytest.approx(total - kept, rel=1e-5)


def test_only_what_single_precision_cannot_tell_is_searched_again(monkeypatch):
    again, exact = [], neighbors._exact
    monkeypatch.setattr(neighbors, "_exact", lambda x, rows, k: (again.append(rows), exact(x, rows, k))[1])
    find_neighbors(CLOUDS["round"], 10, seed=0)
    assert not again
    find_neighbors(CLOUDS["clustered"], 10, seed=0)
    assert np.array_equal(again[0], np.arange(150))
