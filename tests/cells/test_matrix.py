"""Row blocks and the check of values."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from helpers import tiny_cells

from workbench.cells.matrix import check_block, check_values, row_block, row_blocks
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


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("claimed", [False, True])
def test_entries_that_are_held_twice_add_up(tmp_path, backed, claimed):
    # Gene 2 of the first cell twice, in no order; of the second cell two entries that cancel each other.
    parts = np.array([3.0, 1.0, 4.0, 5.0, -5.0, 2.0]), np.array([2, 0, 2, 1, 1, 0]), np.array([0, 3, 6])
    matrix = sp.csr_matrix(parts, shape=(2, 3))
    if claimed:
        matrix.has_canonical_format = True  # whoever made it may have said so
    before = [part.copy() for part in (matrix.data, matrix.indices, matrix.indptr)]
    held = matrix
    if backed:
        ad.AnnData(matrix).write_h5ad(tmp_path / "twice.h5ad")
        held = ad.read_h5ad(tmp_path / "twice.h5ad", backed="r").X
    block = row_block(held, 0, 2)
    assert block.toarray().tolist() == [[1, 0, 7], [2, 0, 0]] and block.nnz == 3
    for part, was in zip((matrix.data, matrix.indices, matrix.indptr), before, strict=True):
        assert np.array_equal(part, was)


def test_order_within_a_row_means_nothing():
    parts = np.array([3.0, 1.0]), np.array([2, 0]), np.array([0, 2])
    assert row_block(sp.csr_matrix(parts, shape=(1, 3)), 0, 1).toarray().tolist() == [[1, 0, 3]]


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint16", "int64", "bool", "float64"])
def test_every_type_of_number_is_read(dtype):
    values = np.array([[1, 0, 1], [0, 1, 0]]).astype(dtype)
    for matrix in (values, *([] if dtype == "float16" else [sp.csr_matrix(values)])):
        block = row_block(matrix, 0, 2)
        assert block.dtype in (np.float32, np.float64) and np.array_equal(block.toarray(), values.astype(float))


def test_what_is_no_number_is_refused():
    with pytest.raises(CellsError, match="values of type complex128; numbers are needed"):
        row_block(np.array([[1j]]), 0, 1)


def test_only_possible_values_pass():
    good = sp.csr_matrix(np.array([[1.0, 0, 2], [0, 3, 0]], np.float32))
    check_block(good, ["a", "b"])
    for check in (check_block, check_values):
        with pytest.raises(CellsError, match="1 cells hold negative values .b."):
            check(sp.csr_matrix([[1.0, 0], [0, -1]]), ["a", "b"])
        with pytest.raises(CellsError, match="2 cells hold values that are NaN or infinite .a, b."):
            check(sp.csr_matrix([[np.nan, 0], [0, np.inf]]), ["a", "b"])
        with pytest.raises(CellsError, match="NaN"):
            check(sp.csr_matrix([[np.inf, -np.inf, 1.0]]), ["a"])
    bare = sp.csr_matrix([[1.0, 0], [0, 0]])
    check_values(bare, ["a", "b"])
    with pytest.raises(CellsError, match="1 cells express no gene that is used .b."):
        check_block(bare, ["a", "b"])


def test_large_float32_totals_are_no_infinity():
    check_block(sp.csr_matrix(np.full((1, 4), 3e38, np.float32)), ["a"])
