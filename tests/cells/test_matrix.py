"""Row blocks, value checks and log-normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from helpers import tiny_cells

from workbench.cells.matrix import check_block, describe_values, log_normalise, row_block, row_blocks
from workbench.errors import CellsError


@pytest.mark.parametrize("make", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.asarray])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_blocks_put_together_are_the_matrix(make, size):
    dense = tiny_cells(20).X.toarray()
    blocks = list(row_blocks(make(dense), size))
    assert [start for start, _ in blocks] == list(range(0, 20, size))
    assert np.array_equal(sp.vstack([block for _, block in blocks]).toarray(), dense)
    assert all(isinstance(block, sp.csr_matrix) for _, block in blocks)


def test_stored_zeros_are_dropped_from_a_copy():
    matrix = sp.csr_matrix(([0.0, 2.0, 0.0], ([0, 0, 1], [0, 1, 2])), shape=(2, 3))
    assert row_block(matrix, 0, 2).nnz == 1
    assert matrix.nnz == 3


def test_only_possible_values_pass():
    good = sp.csr_matrix(np.array([[1.0, 0, 2], [0, 3, 0]], np.float32))
    check_block(good, ["a", "b"])
    with pytest.raises(CellsError, match="1 cells hold negative values .b."):
        check_block(sp.csr_matrix([[1.0, 0], [0, -1]]), ["a", "b"])
    with pytest.raises(CellsError, match="2 cells hold values that are NaN or infinite .a, b."):
        check_block(sp.csr_matrix([[np.nan, 0], [0, np.inf]]), ["a", "b"])
    with pytest.raises(CellsError, match="NaN"):
        check_block(sp.csr_matrix([[np.inf, -np.inf, 1.0]]), ["a"])
    with pytest.raises(CellsError, match="1 cells express no gene that is used .b."):
        check_block(sp.csr_matrix([[1.0, 0], [0, 0]]), ["a", "b"])


def test_large_float32_totals_are_no_infinity():
    check_block(sp.csr_matrix(np.full((1, 4), 3e38, np.float32)), ["a"])


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        ([[1, 2], [40, 0]], "counts"),
        ([[1.5, 2], [40, 0]], "normalised"),
        ([[1.5, 2], [19.9, 0]], "log-normalised"),
        ([[20.5, 2]], "normalised"),
    ],
)
def test_kinds_by_whole_numbers_and_the_maximum(matrix, kind):
    report = describe_values(sp.csr_matrix(np.array(matrix, np.float32)))
    assert report.kind == kind and report.maximum == np.float32(np.max(matrix)) and report.n_cells == len(matrix)


def test_a_large_matrix_is_looked_at_in_part_and_evenly():
    dense = np.ones((3000, 2))
    dense[2990] = 7.5
    report = describe_values(sp.csr_matrix(dense), n_cells=1000)
    assert 900 <= report.n_cells <= 1100
    assert report.maximum == 7.5, "the last rows are among those looked at"


def test_a_matrix_without_values_is_refused():
    for empty in (sp.csr_matrix((4, 3)), np.zeros((4, 3)), sp.csr_matrix((0, 3))):
        with pytest.raises(CellsError, match=rf"matrix of {empty.shape[0]} cells x 3 genes holds no value above zero"):
            describe_values(empty)


def test_cells_without_values_at_the_start_do_not_hide_the_others():
    dense = np.zeros((300, 3))
    dense[250:] = 2
    assert describe_values(sp.csr_matrix(dense)).maximum == 2


def test_log_normalisation_in_closed_form():
    counts = np.array([[1, 0, 3], [0, 10, 0]], np.float32)
    expected = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    matrix = sp.csr_matrix(counts)
    assert np.allclose(log_normalise(matrix, "counts").toarray(), expected)
    assert np.allclose(log_normalise(sp.csr_matrix(np.expm1(expected)), "normalised").toarray(), expected, rtol=1e-5)
    assert np.allclose(log_normalise(sp.csr_matrix(expected), "log-normalised").toarray(), expected)
    assert np.array_equal(matrix.toarray(), counts), "the caller's matrix is left as it is"
    assert np.allclose(
        log_normalise(matrix, "counts", 10).toarray(), np.log1p(counts / counts.sum(1, keepdims=True) * 10)
    )
