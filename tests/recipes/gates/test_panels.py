"""Panels: what they select, that they never share a cell, and what they say of labels and genes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from helpers import genes, tiny_cells, vocabulary_ids

from workbench.errors import CellsError, EvaluationError
from workbench.evidence.ruler import load_ruler
from workbench.models.scgpt.vocabulary import Vocabulary
from workbench.recipes.gates.panels import check_panels, load_panel, measure, panel_table
from workbench.settings import AnchorConfig, CellPanelConfig, DataConfig

RULER = load_ruler("hematopoiesis")


@pytest.fixture
def data(tmp_path):
    cells = tiny_cells(120)
    labels = np.array(["CD4 T cell", "B cell", "CD14+ Monocyte", "monocites"])
    cells.obs["label"] = labels[np.arange(120) % 4]
    cells.obs["person"] = np.array(["01", "02", "03"])[np.arange(120) // 4 % 3]
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    return DataConfig(name=str(path), cell_type="label", donor="person")


def panel(data, name="a", role="internal", **settings):
    return load_panel(name, CellPanelConfig(role=role, **settings), data, RULER, {}, 0)


def test_a_panel_selects_by_standard_columns(data):
    chosen = panel(data, select={"donor": ["01", "03"], "cell_type": ["B cell"]})
    assert set(chosen.cells.obs["donor"]) == {"01", "03"} and set(chosen.cells.obs["cell_type"]) == {"B cell"}
    assert (chosen.cells.obs["stage"] == RULER.stages.index("B")).all()
    assert panel(data).cells.shape == (120, 40)


def test_parts_are_disjoint_complete_and_do_not_depend_on_order(data, tmp_path):
    parts = [set(panel(data, part=(i, 3)).cells.obs_names) for i in range(3)]
    assert sum(map(len, parts)) == 120 == len(set.union(*parts)) and min(map(len, parts)) > 20
    turned = ad.read_h5ad(data.name)[::-1].copy()
    turned.write_h5ad(tmp_path / "turned.h5ad")
    again = panel(data.model_copy(update={"name": str(tmp_path / "turned.h5ad")}), part=(1, 3))
    assert set(again.cells.obs_names) == parts[1]


def test_labels_that_the_ruler_does_not_know_are_listed_with_near_matches(data):
    found = panel(data)
    assert list(found.unplaced) == ["monocites"] and "monocyte" in found.unplaced["monocites"].lower()
    assert (found.cells.obs["stage"] < 0).sum() == 30
    told = panel(data, stages={"monocites": "monocyte"})
    assert not told.unplaced and (told.cells.obs["stage"] >= 0).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"select": {"sex": ["m"]}}, "selects by 'sex'"),
        ({"select": {"donor": ["04"]}}, "nknown donor '04'"),
        ({"part": (3, 3)}, "part 3 of 3; parts are numbered from 0 to 2"),
        ({"select": {"donor": []}}, "selects none of 120 cells"),
    ],
)
def test_what_cannot_be_selected_is_said(data, settings, said):
    with pytest.raises(CellsError, match=said):
        panel(data, **settings)


def test_without_cell_types_there_is_no_panel(data):
    with pytest.raises(EvaluationError, match="have no cell type column"):
        panel(data.model_copy(update={"cell_type": None}))


def test_overlap_of_panels_is_an_error(data):
    one, other = panel(data, part=(0, 2)), panel(data, "b", "external", part=(1, 2))
    check_panels([one, other])
    with pytest.raises(EvaluationError, match=r"'a' and 'c' share \d+ cells \(such as cell"):
        check_panels([one, panel(data, "c", "external")])


def test_one_panel_is_internal(data):
    with pytest.raises(EvaluationError, match="0 panels are internal"):
        check_panels([panel(data, role="external")])
    with pytest.raises(EvaluationError, match="2 panels are internal"):
        check_panels([panel(data, part=(0, 2)), panel(data, "b", part=(1, 2))])


def test_genes_follow_the_operator_and_absent_ones_are_not_expressed(data):
    wanted = (*genes(40)[::-1][:6], "GENE39000")
    vocabulary = Vocabulary({**vocabulary_ids(), "GENE39000": 99})
    found = measure(panel(data), wanted, vocabulary, AnchorConfig(min_cells=3), min_gene_share=0.5, seed=0)
    assert found.expression.shape == (120, 7) and found.coverage == pytest.approx(6 / 7)
    assert found.expression[:, 6].nnz == 0 and found.expression[:, 0].nnz > 0
    anchors = found.anchors
    assert len(anchors) == 9 and set(anchors.table["donor"]) == {"01", "02", "03"}, "unplaced cells are in no anchor"
    row = int(np.flatnonzero((anchors.table["donor"] == "02") & (anchors.stage == RULER.stages.index("B")))[0])
    obs = found.panel.cells.obs
    own = (obs["donor"] == "02") & (obs["cell_type"] == "B cell")
    np.testing.assert_allclose(
        anchors.centroids[row], np.asarray(found.expression[own.to_numpy()].mean(0)).ravel(), rtol=1e-5
    )
    table = panel_table([found], RULER).iloc[0]
    assert (table["cells"], table["placed"], table["anchors"], table["donors"], table["tissues"]) == (120, 90, 9, 3, 0)
    assert "monocites" in table["unplaced_labels"] and table["branches"] == 3
