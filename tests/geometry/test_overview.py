"""Tables of geometry, and what a cohort does not allow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workbench.cells.anchors import Anchors
from workbench.geometry.overview import FEATURES, LATENT, geometry

TABLES = {"dimension", "dimension_curve", "quality", "elbow", "shape", "distances", "trajectories"}


@pytest.fixture(scope="module")
def made(internal, planted_matrix, world, adaptor):
    return geometry(internal, planted_matrix, world.ruler, adaptor, branches=["erythroid", "B", "T", "NK"], seed=0)


def test_every_table_is_there_with_its_sizes(made, internal):
    tables, skipped = made
    assert set(tables) == TABLES and not skipped
    n = len(internal.anchors)
    assert set(tables["dimension"]["space"]) == {FEATURES, LATENT} and (tables["quality"]["n"] == n).all()
    assert (tables["dimension"]["n"] == internal.expression.shape[0]).all()
    assert (tables["elbow"]["n_anchors"] == n).all() and set(tables["shape"]["space"]) == {"f(x)", "z"}


def test_neighbourhoods_of_the_latent_beat_their_null(made):
    quality = made[0]["quality"]
    assert (quality["trustworthiness"] > quality["null_high"] + 0.2).all()


def test_planted_lineages_are_followed_and_absent_ones_said(made):
    known = made[0]["trajectories"].set_index("lineage")
    assert known.loc["NK", "status"].startswith("not applicable")
    done = known[known["status"] == "ok"]
    assert len(done) == 3 and (done["spearman"] > 0).all() and (done["p"] < 0.05).sum() >= 2


def test_planted_distances_follow_the_ruler(made):
    distances = made[0]["distances"]
    assert distances[["ruler_distance", "latent"]].corr("spearman").iloc[0, 1] > 0.6


def test_what_few_anchors_do_not_allow_is_said(internal, planted_matrix, world, adaptor):
    rows = np.unique(internal.anchors.stage, return_index=True)[1][:4]
    anchors = internal.anchors
    few = Anchors(anchors.centroids[rows], anchors.stage[rows], anchors.table.iloc[rows].reset_index(drop=True))
    tables, skipped = geometry(
        replace(internal, anchors=few), planted_matrix, world.ruler, adaptor, branches=["T"], seed=0
    )
    assert "dimension" in tables and skipped and all(len(why) > 20 for why in skipped.values())
    assert set(tables) | set(skipped) == TABLES
