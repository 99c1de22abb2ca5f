"""Placed cells: taken apart, moved to other panels, saved and opened without a label changing."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from workbench.cells import expression as module
from workbench.cells.datasets import load
from workbench.cells.expression import expression_on
from workbench.cells.genes import match_genes
from workbench.cells.matrix import row_block
from workbench.cells.placed import PlacedCells
from workbench.errors import CellsError
from workbench.evidence.ruler import load_ruler

GENES = ("A", "B", "C", "D")


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    dense = rng.poisson(1.0, (6, 4)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "cell_type": ["NA", "", "None", "1e5", "nan", "B, naive"],
            "donor": ["01", "1", "NA", "1e5", "None", "d4"],
            "stage": [0, -1, 2, 3, 3, 3],
            "group": [0, 1, 2, 0, 1, 2],
            "fold": [0, 1, 1, 0, 1, 1],
        },
        index=["0001", "NA", "1e5", "None", "c5", "c6"],
    )
    return PlacedCells(
        "some cells", obs, GENES, sp.csr_matrix(np.log1p(dense)), load_ruler("hematopoiesis"), sp.csr_matrix(dense),
        {"cls": rng.normal(size=(6, 3)).astype(np.float32)}, {"odd": "nothing near"},
    )  # fmt: skip


def same(one: PlacedCells, other: PlacedCells) -> None:
    assert one.names.tolist() == other.names.tolist() and one.genes == other.genes and one.name == other.name
    pd.testing.assert_frame_equal(one.obs, other.obs, check_names=False, check_dtype=False)
    for a, b in ((one.expression, other.expression), (one.counts, other.counts)):
        assert (a is None) == (b is None)
        if a is not None:
            assert np.array_equal(a.toarray(), b.toarray()) and a.dtype == b.dtype == np.float32
    assert one.unplaced == other.unplaced


def test_saved_and_opened_it_is_the_same(cells, tmp_path):
    cells.save(tmp_path)
    same(PlacedCells.open(tmp_path, cells.ruler), cells)


def test_anchors_are_saved_with_it(cells, tmp_path):
    with_anchors = PlacedCells(
        **{**vars(cells), "anchors": cells.make_anchors(min_cells=1, parts=1, weights="equal", seed=0)}
    )
    with_anchors.save(tmp_path)
    found = PlacedCells.open(tmp_path, cells.ruler).anchors
    assert found is not None and np.array_equal(found.centroids, with_anchors.anchors.centroids)
    assert found.stage.tolist() == with_anchors.anchors.stage.tolist()
    assert found.table["donor"].tolist() == with_anchors.anchors.table["donor"].tolist()
    assert found.table["cell_type"].tolist() == with_anchors.anchors.table["cell_type"].tolist()
    assert np.array_equal(found.weights, with_anchors.anchors.weights)


def test_anchors_are_means_of_their_cells(cells):
    anchors = cells.make_anchors(min_cells=1, parts=1, weights="equal", seed=0)
    dense = cells.expression.toarray()
    assert len(anchors) == 5, "the cell without a place makes none"
    for row, name in zip(anchors.centroids, anchors.table["donor"], strict=True):
        assert np.allclose(row, dense[(cells.donor == name) & (cells.stage >= 0)].mean(0))
    some = cells.make_anchors(np.array([0, 2, 3]), min_cells=1, parts=1, weights="equal", seed=0)
    assert sorted(some.stage.tolist()) == [0, 2, 3]


def test_rows_and_genes_are_taken_by_number_and_name(cells):
    some = cells.take(np.array([4, 0]))
    assert some.names.tolist() == ["c5", "0001"]
    assert np.array_equal(some.expression.toarray(), cells.expression.toarray()[[4, 0]])
    assert np.array_equal(some.embeddings["cls"], cells.embeddings["cls"][[4, 0]])
    moved = cells.on_panel(("D", "unmeasured", "A"))
    wanted = np.column_stack([cells.expression.toarray()[:, 3], np.zeros(6), cells.expression.toarray()[:, 0]])
    assert np.array_equal(moved.expression.toarray(), wanted.astype(np.float32))
    assert np.array_equal(moved.counts.toarray()[:, 2], cells.counts.toarray()[:, 0])
    assert cells.on_panel(GENES) is cells


def test_without_labels_there_is_nothing_but_names(cells):
    bare = cells.without_labels()
    assert list(bare.obs.columns) == [] and bare.ruler is None and bare.donor is None
    assert bare.names.tolist() == cells.names.tolist()


def test_folds_name_their_groups(cells):
    assert cells.groups_in([0]) == {0} and cells.groups_in([1]) == {1, 2} and cells.groups_in(()) == frozenset()
    assert cells.outside([0]).tolist() == [False, True, True, False, True, True]


def test_stages_by_name(cells):
    ruler = cells.ruler
    found = cells.named(ruler.stages, "nowhere")
    assert found[1] == "nowhere" and found[0] == ruler.stages[0] and cells.placed.tolist() == [0, 2, 3, 4, 5]


def test_what_cannot_be_is_refused(cells):
    with pytest.raises(CellsError, match="does not fit 6 cells x 3 genes"):
        PlacedCells(**{**vars(cells), "genes": ("A", "B", "C")})
    twice = cells.obs.set_axis(["a", "a", "b", "c", "d", "e"])
    with pytest.raises(CellsError, match="'a' occurs more than once"):
        PlacedCells(**{**vars(cells), "obs": twice})


@pytest.mark.parametrize("dense", [False, True])
def test_matrices_of_a_backed_atlas_are_read_block_by_block(tmp_path, monkeypatch, dense):
    counts = np.random.default_rng(0).poisson(1.0, (5000, 4)).astype(np.float32) + 1
    names = [f"c{i}" for i in range(5000)]
    table = ad.AnnData(counts if dense else sp.csr_matrix(counts), pd.DataFrame(index=names), pd.DataFrame(index=GENES))
    table.uns["workbench"] = {"values": "counts"}
    table.write_h5ad(tmp_path / "cells.h5ad")
    read = []

    def counted(matrix, start, stop):
        read.append((start, stop))
        return row_block(matrix, start, stop)

    monkeypatch.setattr(module, "row_block", counted)
    rows = np.array([5, 4100])
    cells = load(tmp_path / "cells.h5ad", backed=True)
    expression, held = expression_on(cells, match_genes(GENES, GENES), ("C", "A"), rows)
    assert np.array_equal(held.toarray(), counts[rows][:, [2, 0]])
    logged = np.log1p(counts[rows] / counts[rows].sum(1, keepdims=True) * 1e4)[:, [2, 0]]
    np.testing.assert_allclose(expression.toarray(), logged, rtol=1e-5)
    # Of a block no more is read than lies between the cells that are wanted, and nothing of one without any.
    assert read == [(5, 6), (4100, 4101)]
