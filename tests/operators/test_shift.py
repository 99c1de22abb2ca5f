"""Displacements that were planted, with other shares of classes, and none where there is none."""

import numpy as np
import pytest

from workbench.operators.shift import LatentClasses, find_shift

SEEDS = range(20)


def classes(seed=0, n=600, k=3):
    rng = np.random.default_rng(seed)
    means = 5 * np.stack([np.zeros(k), *np.eye(k)])
    labels = rng.integers(0, k + 1, n)
    return means, LatentClasses.fit(means[labels] + rng.standard_normal((n, k)), labels.astype(str))


def drawn(means, n, shares, seed, scatter=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(means), n, p=shares)
    return means[labels] + scatter * rng.standard_normal((n, means.shape[1])), labels


def test_means_and_scatter_are_those_that_were_planted():
    means, known = classes(n=20000)
    np.testing.assert_allclose(known.means, means, atol=0.1)
    np.testing.assert_allclose(known.within, np.eye(3), atol=0.05)
    assert known.names == ("0", "1", "2", "3")
    z = np.array([[0.0, 0, 0], [9.0, 0, 0]])
    np.testing.assert_allclose(known.distances(z), [0, 4], atol=0.1)


def test_a_displacement_is_found_whatever_the_shares():
    hits = 0
    for seed in SEEDS:
        means, known = classes(seed)
        z, _ = drawn(means, 400, [0.7, 0.1, 0.15, 0.05], 100 + seed)
        planted = np.array([1.2, -0.8, 0.5])
        found = find_shift(z + planted, known)
        hits += bool(np.abs(found.offset - planted).max() < 0.35)
        # The mean of the file against that of training is off by the shares, and would be taken for displacement.
        assert np.abs((z + planted).mean(0) - known.means.mean(0) - planted).max() > 0.5
    assert hits >= 19


@pytest.mark.parametrize("shares", [[0.25] * 4, [0.97, 0.01, 0.01, 0.01], [0, 0, 0, 1]])
def test_none_is_found_where_there_is_none(shares):
    sizes = []
    for seed in SEEDS:
        means, known = classes(seed)
        sizes.append(find_shift(drawn(means, 400, shares, 200 + seed)[0], known).size)
    assert np.median(sizes) < 0.4 and max(sizes) < 0.8


def test_few_cells_move_little():
    means, known = classes()
    z = drawn(means, 4, [0.25] * 4, 3)[0] + 2.0
    assert find_shift(z, known).size < 0.4 * find_shift(np.repeat(z, 100, axis=0), known).size
    empty = find_shift(np.zeros((0, 3)), known)
    assert empty.size == 0 and empty.n_cells == 0 and not empty.offset.any()


def test_order_units_and_rotation_change_nothing():
    means, known = classes()
    z, labels = drawn(means, 500, [0.4, 0.3, 0.2, 0.1], 4)
    z = z + 0.9
    found = find_shift(z, known)
    order = np.random.default_rng(0).permutation(500)
    np.testing.assert_allclose(find_shift(z[order], known).offset, found.offset, atol=1e-6)
    turn = 3.7 * np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    train = drawn(means, 600, [0.25] * 4, 8)
    plain, turned = (LatentClasses.fit(train[0] @ by, train[1].astype(str)) for by in (np.eye(3), turn))
    np.testing.assert_allclose(find_shift(z @ turn, turned).size, find_shift(z, plain).size, rtol=1e-3)


def test_a_coordinate_that_does_not_vary_does_no_harm():
    means, _ = classes()
    z, labels = drawn(means, 200, [0.25] * 4, 0)
    z[:, 2] = 1.0
    known = LatentClasses.fit(z, labels.astype(str))
    assert np.isfinite(known.distances(z)).all() and np.isfinite(find_shift(z, known).offset).all()


def test_distances_are_those_of_each_cell_by_itself():
    _, known = classes()
    z = 4 * np.random.default_rng(1).standard_normal((2500, 3))
    apart = z[:, None] - known.means
    expected = np.sqrt(np.einsum("nci,ij,ncj->nc", apart, np.linalg.inv(known.within), apart).min(1))
    assert np.allclose(known.distances(z), expected, rtol=1e-8)
