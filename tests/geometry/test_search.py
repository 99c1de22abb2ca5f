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


def test_only_what_single_precision_cannot_tell_is_searched_again(monkeypatch):
    again, exact = [], neighbors._exact
    monkeypatch.setattr(neighbors, "_exact", lambda x, rows, k: (again.append(rows), exact(x, rows, k))[1])
    find_neighbors(CLOUDS["round"], 10, seed=0)
    assert not again
    find_neighbors(CLOUDS["clustered"], 10, seed=0)
    assert np.array_equal(again[0], np.arange(150))
