"""Axes of a latent that follow sequencing are told from axes that follow stages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE, MITOCHONDRIAL
from workbench.evidence.technical import COLUMNS, technical_axes, without_technical


@pytest.fixture
def cells():
    rng = np.random.default_rng(1)
    stage, donor = rng.integers(0, 6, 600), rng.choice(["x", "y", "z"], 600)
    depth = 8 - 0.5 * stage + rng.normal(0, 0.3, 600)
    obs = pd.DataFrame(
        {"stage": stage, "donor": donor, LIBRARY_SIZE: depth, DETECTED: rng.normal(size=600), MITOCHONDRIAL: 1.0}
    )
    z = np.column_stack([stage + rng.normal(0, 0.3, 600), depth + rng.normal(0, 0.1, 600), rng.normal(size=600)])
    return z, obs


def test_an_axis_of_stages_follows_depth_over_all_cells_and_not_inside_stages(cells):
    z, obs = cells
    found = technical_axes(z, obs)
    assert list(found.columns) == list(COLUMNS) and set(found["covariate"]) == {"library size", "detected genes"}
    of_depth = found[found["covariate"] == "library size"].set_index("axis")
    np.testing.assert_allclose(
        of_depth["spearman"], [spearmanr(z[:, i], obs[LIBRARY_SIZE]).statistic for i in range(3)]
    )
    assert (of_depth["spearman"].abs() > 0.8).tolist() == [True, True, False]
    assert (of_depth["within"].abs() > of_depth["null_high"]).tolist() == [False, True, False]
    assert of_depth["within"]["z_2"] > 0.8 and (of_depth["n_donors"] == 3).all() and (of_depth["within_sd"] < 0.2).all()
    assert found["variance_share"].groupby(found["covariate"]).sum().to_numpy() == pytest.approx(1)


def test_the_bound_is_passed_by_one_in_twenty_axes_of_noise(cells):
    z = np.random.default_rng(2).normal(size=(600, 400))
    found = technical_axes(z, cells[1].drop(columns="donor"))
    assert 0.03 < (found["within"].abs() > found["null_high"]).mean() < 0.07
    assert found["within_sd"].isna().all() and (found["n_donors"] == 0).all()


def test_cells_without_a_place_and_covariates_that_nobody_measured_are_left_out(cells):
    z, obs = cells
    assert technical_axes(z, obs[["stage", "donor"]]).empty
    found = technical_axes(z, obs.assign(stage=np.where(np.arange(600) < 100, -1, obs["stage"])))
    assert (found["n_cells"] == 500).all()


def test_what_features_follow_of_sequencing_is_taken_off_and_what_donors_do_stays():
    """Oracle: ordinary least squares with a column for each donor."""
    rng = np.random.default_rng(0)
    donor = np.repeat(["a", "b", "c"], 12)
    size, share, constant = rng.normal(8, 1, 36), rng.normal(5, 2, 36), np.ones(36)
    own = rng.normal(size=(36, 4)) + 3 * rng.normal(size=(3, 4))[np.repeat([0, 1, 2], 12)]
    features = own + np.outer(size**2, [1, -2, 0, 3]) + np.outer(size * share, [0, 1, 2, 3])
    given = {LIBRARY_SIZE: size, DETECTED: constant, MITOCHONDRIAL: share}
    found, names = without_technical(features, given, donor)
    assert names == (LIBRARY_SIZE, MITOCHONDRIAL), "what is the same everywhere cannot be regressed out"
    columns = np.column_stack([size, share, size**2, size * share, share**2])
    dummies = (donor[:, None] == np.unique(donor)) * 1.0
    fit = np.linalg.lstsq(np.hstack([dummies, columns]), features, rcond=None)[0]
    shift = (features - columns @ fit[3:]) - found
    np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-8)
    np.testing.assert_allclose(found.mean(0), features.mean(0) - 0, atol=1e-8)
    # Nothing is left to follow, inside donors.
    left, inside = (v - dummies @ (dummies.T @ v / 12) for v in (found, columns))
    np.testing.assert_allclose(inside.T @ left, 0, atol=1e-6)


def test_with_few_anchors_the_polynomial_is_straight_and_with_fewer_nothing_is_regressed_out():
    rng = np.random.default_rng(1)
    given = {LIBRARY_SIZE: np.arange(12.0), DETECTED: rng.normal(size=12), MITOCHONDRIAL: np.r_[np.nan, np.zeros(11)]}
    features = np.outer(np.arange(12.0) ** 2, [1.0, 2.0])
    found, names = without_technical(features, given)
    assert names == (LIBRARY_SIZE, DETECTED) and np.ptp(found[:, 0]) > 10, "a square is not seen by a straight line"
    few = {name: of[:8] for name, of in given.items()}
    same, none = without_technical(features[:8], few)
    assert none == () and same is not None and np.array_equal(same, features[:8])
    assert without_technical(features, {})[1] == ()
