"""Cohorts as the stage keeps them: placed on ruler and panel, with anchors of all cells, whatever they are called."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import genes, tiny_cells

from workbench.errors import EvaluationError
from workbench.recipes.gates import cohorts as module
from workbench.recipes.gates.cohorts import cohort_folder, cohorts_stage
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.gates.context import GatesContext

NAME = "any: name / at all"


@pytest.fixture
def path(tmp_path):
    cells = tiny_cells(120)
    labels = np.array(["CD4 T cell", "B cell", "CD14+ Monocyte", "monocites"])
    cells.obs["label"] = labels[np.arange(120) % 4]
    cells.obs["person"] = np.array(["01", "NA", "1e5"])[np.arange(120) // 4 % 3]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def make(path, tiny_checkpoint, tmp_path):
    def made(out="out", data=path, columns=("label", "person"), **cohort):
        cells = dict(zip(("cell_type", "donor"), columns, strict=False))
        given = {NAME: {"role": "internal", **cohort}}
        config = GatesConfig(
            checkpoint=tiny_checkpoint, data={"name": str(data), **cells}, anchors={"min_cells": 3}, cohorts=given
        )
        return GatesContext(config, tmp_path / out)

    return made


def kept(context):
    cohorts_stage(context, context.folder("cohorts"), {})
    return context.cohorts[NAME]


def test_labels_that_the_ruler_does_not_know_are_listed_with_near_matches(make):
    obs, unplaced = make().places[NAME]
    assert list(unplaced) == ["monocites"] and "monocyte" in unplaced["monocites"].lower()
    assert (obs["stage"] < 0).sum() == 30
    obs, unplaced = make(stages={"monocites": "monocyte"}).places[NAME]
    assert not unplaced and (obs["stage"] >= 0).all()


def test_without_cell_types_there_is_no_cohort(make):
    with pytest.raises(EvaluationError, match="have no cell type column"):
        _ = make(columns=()).places


def test_genes_follow_the_operator_and_absent_ones_are_not_expressed(make):
    context = make()
    context.genes = (*genes(40)[::-1][:6], "GENE39000")
    cells = kept(context)
    assert cells.genes == context.genes and cells.expression.shape == (120, 7)
    assert cells.expression[:, 6].nnz == 0 and cells.expression[:, 0].nnz > 0
    anchors, stages = cells.anchors, context.ruler.stages
    assert len(anchors) == 9 and set(anchors.table["donor"]) == {"01", "NA", "1e5"}, "unplaced cells are in no anchor"
    row = int(np.flatnonzero((anchors.table["donor"] == "NA") & (anchors.stage == stages.index("B")))[0])
    own = (cells.obs["donor"] == "NA") & (cells.obs["cell_type"] == "B cell")
    by_hand = np.asarray(cells.expression[own.to_numpy()].mean(0)).ravel()
    np.testing.assert_allclose(anchors.centroids[row], by_hand, rtol=1e-5)
    table = context.read("cohorts").iloc[0]
    assert table["cohort"] == NAME and table["gene_coverage"] == pytest.approx(6 / 7)
    assert (table["cells"], table["placed"], table["anchors"], table["donors"], table["tissues"]) == (120, 90, 9, 3, 0)
    assert "monocites" in table["unplaced_labels"] and table["branches"] == 3


def test_of_many_cells_a_sample_is_kept_that_goes_by_name(make, path, tmp_path, monkeypatch):
    whole = kept(make())
    monkeypatch.setattr(module, "MOST_CELLS", 10)
    ad.read_h5ad(path)[np.random.default_rng(1).permutation(120)].copy().write_h5ad(tmp_path / "turned.h5ad")
    one, other = kept(make("a")), kept(make("b", tmp_path / "turned.h5ad"))
    assert one.expression.shape == (10, 40) == other.expression.shape and len(whole) == 120
    # In the order of their names, whatever that of the file: draws go by place.
    assert list(one.names) == sorted(one.names) == list(other.names)
    assert (one.expression != other.expression).nnz == 0 and np.array_equal(one.stage, other.stage)
    np.testing.assert_array_equal(one.anchors.centroids, whole.anchors.centroids)
    pd.testing.assert_frame_equal(one.anchors.table, whole.anchors.table)


def test_folders_of_cohorts_are_apart_and_hold_for_any_name(tmp_path):
    folders = {cohort_folder(tmp_path, name) for name in ("NA", "na", "None", "1e5", "a/b", "..", "")}
    assert len(folders) == 7 and {folder.parent for folder in folders} == {tmp_path}


def test_too_few_cells_for_anchors_name_the_cohort(make):
    with pytest.raises(EvaluationError, match=f"Cohort '{NAME}': 0 anchors of 0 stages remain"):
        kept(make(anchors={"min_cells": 5000}))
