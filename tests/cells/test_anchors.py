"""Anchors: means of whole groups, or of parts of them that share no cell."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from workbench.cells.anchors import make_anchors
from workbench.errors import EvaluationError


@pytest.fixture
def expression():
    rng = np.random.default_rng(0)
    return sp.csr_matrix((rng.random((60, 7)) * (rng.random((60, 7)) < 0.5)).astype(np.float32))


@pytest.fixture
def obs():
    """Sixty cells: three stages of 30, 20 and 6, and four that are on none."""
    stage = np.repeat([0, 1, 2, -1], [30, 20, 6, 4])
    names = np.array(["B", "T", "NK", "?"])[stage]
    return pd.DataFrame({"cell_type": names, "stage": stage}, index=[f"cell{i}" for i in range(60)])


def test_a_centroid_is_the_mean_of_its_cells(expression, obs):
    anchors = make_anchors(expression, obs)
    assert len(anchors) == 3 and anchors.stage.tolist() == anchors.table["stage"].tolist()
    for centroid, stage, n in zip(anchors.centroids, anchors.stage, anchors.table["n_cells"], strict=True):
        cells = np.flatnonzero(obs["stage"] == stage)
        assert n == len(cells)
        np.testing.assert_allclose(centroid, expression[cells].toarray().mean(0), rtol=1e-6)
    assert list(anchors.table.columns) == ["cell_type", "stage", "part", "n_cells", "weight"]
    assert anchors.centroids.dtype == np.float64


def test_groups_below_the_least_number_of_cells_make_no_anchor(expression, obs):
    obs.loc["cell0":"cell3", "stage"] = 3
    assert set(make_anchors(expression, obs, min_cells=4).stage) == {0, 1, 2, 3}
    assert set(make_anchors(expression, obs, min_cells=5).stage) == {0, 1, 2}


def test_donors_and_tissues_are_never_mixed(expression, obs):
    obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(60) % 3]
    obs["tissue"] = np.where(np.arange(60) % 2, "blood", "marrow")
    anchors = make_anchors(expression, obs, min_cells=2)
    for centroid, row in zip(anchors.centroids, anchors.table.itertuples(), strict=True):
        cells = (obs["donor"] == row.donor) & (obs["tissue"] == row.tissue) & (obs["stage"] == row.stage)
        assert row.n_cells == cells.sum() >= 2
        np.testing.assert_allclose(centroid, expression[np.flatnonzero(cells)].toarray().mean(0), rtol=1e-6)
    groups = obs[obs["stage"] >= 0].groupby(["donor", "tissue", "stage"]).size()
    assert len(anchors) == (groups >= 2).sum() > 10


def test_two_labels_of_one_stage_are_two_anchors(expression, obs):
    obs.loc["cell0":"cell9", "cell_type"] = "naive B"
    assert make_anchors(expression, obs).table["cell_type"].tolist() == ["B", "NK", "T", "naive B"]


@pytest.mark.parametrize(
    ("parts", "expected"), [(1, [30, 20, 6]), (3, [10, 10, 10, 7, 7, 6, 6]), (100, [5] * 10 + [6])]
)
def test_parts_are_about_equal_and_share_no_cell(obs, parts, expected):
    # A cell's own gene, so that a centroid says which cells are in it.
    anchors = make_anchors(sp.csr_matrix(np.eye(60, dtype=np.float32)), obs, parts=parts)
    assert sorted(anchors.table["n_cells"]) == sorted(expected)
    members = anchors.centroids > 0
    assert (members.sum(0) == (obs["stage"] >= 0)).all(), "every placed cell is in exactly one anchor"
    np.testing.assert_allclose(anchors.centroids.sum(1), 1)
    for own, row in zip(members, anchors.table.itertuples(), strict=True):
        assert set(obs["stage"][own]) == {row.stage} and own.sum() == row.n_cells
    for _, group in anchors.table.groupby("stage"):
        assert group["part"].tolist() == list(range(len(group)))
        assert group["n_cells"].max() - group["n_cells"].min() <= 1


def test_parts_are_dealt_by_name_and_seed(expression, obs):
    first, again, other = (make_anchors(expression, obs, parts=3, seed=s).centroids for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.allclose(first, other)


def test_the_order_of_the_cells_does_not_matter(expression, obs):
    order = np.random.default_rng(1).permutation(60)
    first = make_anchors(expression, obs, parts=3)
    second = make_anchors(expression[order], obs.iloc[order], parts=3)
    pd.testing.assert_frame_equal(first.table, second.table)
    np.testing.assert_allclose(first.centroids, second.centroids, rtol=1e-12)


def test_categories_without_cells_make_no_trouble(expression, obs):
    obs["cell_type"] = pd.Categorical(obs["cell_type"], categories=["B", "T", "NK", "?", "absent"])
    assert len(make_anchors(expression, obs)) == 3


def test_stages_alone_are_enough(expression, obs):
    assert len(make_anchors(expression, obs[["stage"]])) == 3


@pytest.mark.parametrize(
    ("stages", "min_cells", "said"),
    [
        ([0, 1, 2, -1], 31, "0 anchors of 0 stages remain with at least 31 cells"),
        ([0, 1, 2, -1], 7, "2 anchors of 2 stages"),
        ([0, 0, 0, 0], 1, "4 anchors of 1 stages"),
        ([-1, -1, -1, -1], 1, "0 anchors of 0 stages"),
    ],
)
def test_too_few_anchors_are_an_error(expression, obs, stages, min_cells, said):
    obs["stage"] = np.repeat(stages, [30, 20, 6, 4])
    with pytest.raises(EvaluationError, match=f"{said}.*Lower anchors.min_cells, or map more labels to stages"):
        make_anchors(expression, obs, min_cells=min_cells)


def test_the_caller_s_table_is_left_alone(expression, obs):
    before = obs.copy()
    make_anchors(expression, obs, parts=2)
    pd.testing.assert_frame_equal(obs, before)


def test_weights_are_one_on_average_and_follow_cells_or_stages(expression, obs):
    obs["donor"] = np.array(["d1", "d2", "d3"])[np.arange(60) % 3]
    made = {kind: make_anchors(expression, obs, min_cells=3, weights=kind) for kind in ("equal", "cells", "stage")}
    for anchors in made.values():
        assert anchors.weights.mean() == pytest.approx(1) and len(anchors.weights) == len(anchors)
        assert np.array_equal(anchors.centroids, made["equal"].centroids), "weights are for the adaptor alone"
    assert (made["equal"].weights == 1).all()
    cells = made["cells"].table["n_cells"].to_numpy()
    np.testing.assert_allclose(made["cells"].weights, cells / cells.mean())
    of_stage = made["stage"].table.groupby("stage")["weight"].sum()
    np.testing.assert_allclose(of_stage, of_stage.iloc[0])


def test_a_column_that_the_data_lack_is_none(expression, obs):
    anchors = make_anchors(expression, obs)
    assert anchors.column("donor") is None and anchors.column("cell_type").tolist() == ["B", "NK", "T"]
