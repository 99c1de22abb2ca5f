"""What is left off the plane, and its null, by hand; other tests of shape are beside those of quality."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.geometry.shape import flatness, ripple
from workbench.seeds import generator


def test_the_null_of_a_ripple_is_of_permuted_residuals_that_are_freed_of_the_plane():
    flat = flatness(np.random.default_rng(4).standard_normal((40, 5)) * [9, 8, 1, 1, 1])
    apart = np.linalg.norm(flat.plane[:, None] - flat.plane, axis=2)
    near, plane = np.argsort(apart, axis=1)[:, 1:5], np.column_stack([np.ones(40), flat.plane])

    def moran(e):
        return float((e * e[near].mean(1)).sum() / (e**2).sum())

    null = []
    for i in range(30):
        moved = flat.residual[generator(5, "ripple", str(i)).permutation(40)]
        null.append(moran(moved - plane @ np.linalg.lstsq(plane, moved, rcond=None)[0]))
    found = ripple(flat, k=4, n_permutations=30, seed=5)
    assert found.moran == pytest.approx(moran(flat.residual))
    assert (found.null_mean, found.null_high) == pytest.approx((np.mean(null), np.quantile(null, 0.975)))
