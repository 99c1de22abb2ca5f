"""Axes of a latent that follow sequencing are told from axes that follow stages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE, MITOCHONDRIAL
from workbench.evidence.technical import COLUMNS, technical_axes


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
