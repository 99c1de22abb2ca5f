"""Mean cosines where units count several times, by a loop over pairs; other tests of cosines are beside those of spaces."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from workbench.geometry.cosines import directions


def test_a_point_and_its_own_copy_are_no_pair():
    x, weights = np.random.default_rng(0).standard_normal((7, 3)), np.array([2.0, 1.0, 3.0])
    group, unit = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 2, 2])
    copies = np.repeat(np.arange(7), weights[unit].astype(int))
    along = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [(i, j) for i, j in combinations(copies.tolist(), 2) if i != j]
    every = np.array([along[i] @ along[j] for i, j in pairs])
    same = np.array([group[i] == group[j] for i, j in pairs])
    found = directions(x, group, unit).cosines(weights)
    assert found == pytest.approx((every.mean(), every[same].mean(), every[~same].mean()))
