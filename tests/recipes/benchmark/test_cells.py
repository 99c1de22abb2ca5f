"""Cells on the disk: the drawn ones alone are read and checked, with the values that the whole would give them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from fixtures_benchmark import synthetic_cells, write

from workbench.cells.placed import PlacedCells
from workbench.engine.config import read_config
from workbench.errors import CellsError
from workbench.recipes.benchmark.cells import cells_stage
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.context import BenchmarkContext


def written(folder, checkpoint, cells, per_donor=None, **sections):
    path = write(folder, checkpoint, cells, cells_per_donor=per_donor, panel={"exclude": ["G00"]}, **sections)
    context = BenchmarkContext(read_config(path, BenchmarkConfig), folder / "out")
    cells_stage(context, context.folder("cells"), {})
    return PlacedCells.open(context.cohort_folder("internal"))


def test_drawn_cells_have_the_values_that_all_cells_would_give_them(cells, checkpoint, tmp_path):
    part, whole = (written(tmp_path / str(n), checkpoint, cells, n) for n in (3, None))
    rows = cells.obs_names.get_indexer(part.names)
    assert len(part) == 3 * 4 and len(whole) == len(cells) and (np.diff(rows) > 0).all()
    counts = cells.X.toarray()
    assert part.genes == tuple(cells.var_names[1:]) and (part.counts.toarray() == counts[rows, 1:]).all()
    logged = np.log1p(counts[rows] / counts[rows].sum(1, keepdims=True) * 1e4)[:, 1:]
    np.testing.assert_allclose(part.expression.toarray(), logged, rtol=1e-5)
    assert (part.expression != whole.expression[rows]).nnz == 0
    assert part.obs["cell_type"].tolist() == cells.obs["label"].iloc[rows].tolist()
    assert part.donor.tolist() == cells.obs["donor"].iloc[rows].tolist()


def test_what_the_values_are_is_decided_on_all_cells(cells, checkpoint, tmp_path):
    values = np.full(cells.shape, 1.5, dtype=np.float32)
    values[0, 0] = 50
    cells = cells.copy()
    cells.X = sp.csr_matrix(values)
    pool = written(tmp_path, checkpoint, cells, 3)
    assert pool.counts is None
    assert pool.expression.toarray()[cells.obs_names[0] != pool.names] == pytest.approx(np.log1p(1e4 / cells.n_vars))


def test_a_cell_without_expression_stops_a_campaign_only_if_it_is_drawn(checkpoint, tmp_path):
    drawn = set(written(tmp_path / "first", checkpoint, synthetic_cells(), 3).names)
    names = synthetic_cells().obs_names
    without, with_it = (
        next(i for i, name in enumerate(names) if (name in drawn) == wanted) for wanted in (False, True)
    )

    def silent(row):
        cells = synthetic_cells()
        cells.X = sp.csr_matrix(np.where(np.arange(len(cells))[:, None] == row, 0, cells.X.toarray()))
        return cells

    assert set(written(tmp_path / "without", checkpoint, silent(without), 3).names) == drawn
    with pytest.raises(CellsError, match="1 cells express no gene that is used"):
        written(tmp_path / "with", checkpoint, silent(with_it), 3)
