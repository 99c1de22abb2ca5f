"""Cells on the disk: the drawn ones alone are read and checked, with the values that the whole would give them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from fixtures_benchmark import synthetic_cells

from workbench.cells.datasets import load
from workbench.cells.genes import match_genes
from workbench.cells.matrix import row_block
from workbench.errors import CellsError
from workbench.models.vocabulary import Vocabulary
from workbench.recipes.benchmark import pools as module
from workbench.recipes.benchmark.pools import read_pool, write_pool

ROWS = np.array([3, 4, 90])


def written(folder, cells, rows=ROWS):
    cells.obs["stage"], cells.obs["unit"] = 0, 0
    names = cells.var_names.to_numpy(dtype=str)
    write_pool(folder, cells, match_genes(names, Vocabulary.of_genes(names)), rows, exclude=["G00"])
    return read_pool(folder, "cells")


def test_drawn_cells_have_the_values_that_all_cells_would_give_them(cells, tmp_path):
    part = written(tmp_path / "part", cells.copy())
    whole = written(tmp_path / "whole", cells.copy(), np.arange(len(cells)))
    counts = cells.X.toarray()
    assert (part.counts.toarray() == counts[ROWS, 1:]).all() and part.names.tolist() == cells.obs_names[ROWS].tolist()
    logged = np.log1p(counts[ROWS] / counts[ROWS].sum(1, keepdims=True) * 1e4)[:, 1:]
    np.testing.assert_allclose(part.expression.toarray(), logged, rtol=1e-5)
    assert (part.expression != whole.expression[ROWS]).nnz == 0


def test_what_the_values_are_is_decided_on_all_cells(cells, tmp_path):
    values = np.full(cells.shape, 1.5, dtype=np.float32)
    values[0, 0] = 50
    cells = cells.copy()
    cells.X = sp.csr_matrix(values)
    pool = written(tmp_path, cells)
    assert pool.counts is None and pool.expression.toarray() == pytest.approx(np.log1p(1.5))


def test_a_cell_without_expression_stops_a_campaign_only_if_it_is_drawn(tmp_path):
    cells = synthetic_cells()
    cells.X = sp.csr_matrix(np.where(np.arange(len(cells))[:, None] == 7, 0, cells.X.toarray()))
    assert len(written(tmp_path / "without", cells).obs) == 3
    with pytest.raises(CellsError, match="1 cells express no gene that is used"):
        written(tmp_path / "with", cells, np.array([3, 7]))


@pytest.mark.parametrize("dense", [False, True])
def test_a_backed_atlas_is_read_block_by_block(tmp_path, monkeypatch, dense):
    cells = synthetic_cells(per_group=250)
    expected = written(tmp_path / "memory", cells.copy(), np.array([5, 4100]))
    if dense:
        cells.X = cells.X.toarray()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    read = []

    def counted(matrix, start, stop):
        read.append((start, stop))
        return row_block(matrix, start, stop)

    monkeypatch.setattr(module, "row_block", counted)
    pool = written(tmp_path / "backed", load(tmp_path / "cells.h5ad", backed=True), np.array([5, 4100]))
    assert (pool.expression != expected.expression).nnz == 0 and (pool.counts != expected.counts).nnz == 0
    # The block of which no cell was drawn is left where it is.
    assert read == [(0, 2048), (4096, 5000)]
