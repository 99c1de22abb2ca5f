"""Rows of an expression matrix, sparse, block by block; also from a backed h5ad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from workbench.errors import CellsError


def row_block(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    """Rows ``start:stop`` as a CSR matrix in memory: float32 or wider, one entry a gene, zeros dropped.

    Entries that a sparse matrix holds more than once are added up, which is what they mean.

    Parameters
    ----------
    matrix
        Cells by genes: a dense array, a scipy sparse matrix, or anndata's backed matrix (stored by rows).
    start, stop
        First row, and the one after the last, both within the matrix.
    """
    if getattr(matrix, "format", None) == "csc" and not sp.issparse(matrix):
        raise CellsError(
            "The file stores its matrix by columns (csc), so that rows cannot be read one after the other. Open it with "
            "workbench.load(path, backed=True), which turns it once, or write it again with X as a csr_matrix."
        )
    block = _stored(matrix, start, stop)
    block = block if sp.issparse(block) else np.asarray(block)
    if block.dtype.kind not in "fiub":
        raise CellsError(f"The matrix holds values of type {block.dtype}; numbers are needed.")
    if block.dtype not in (np.float32, np.float64):
        # Half precision and small whole numbers fit; SciPy has no sparse matrices of the former.
        block = block.astype(np.float32 if block.dtype.itemsize <= 2 else np.float64)
    held = sp.csr_matrix(block)
    # A matrix of its own, without what the caller's says of its order; what is mended is copied first.
    block = sp.csr_matrix((held.data, held.indices, held.indptr), shape=held.shape)
    if not block.has_canonical_format:
        ordered = block.copy()
        ordered.sum_duplicates()
        # Rows that are merely out of order stay so: sums over a cell's genes are then those of the file, to the last digit.
        block = ordered if ordered.nnz < block.nnz else block
    if block.nnz and block.data.min() <= 0 and not block.data.all():
        block = block.copy()
        block.eliminate_zeros()
    return block


def _stored(matrix: Any, start: int, stop: int) -> Any:
    """Rows as they are stored; of a file by rows without what anndata does around reading, which takes longer than reading."""
    if getattr(matrix, "format", None) != "csr" or sp.issparse(matrix):
        return matrix[start:stop]
    if matrix not in _ENTRIES:
        _ENTRIES[matrix] = tuple(matrix.group[name] for name in ("indptr", "data", "indices"))
    indptr, data, indices = _ENTRIES[matrix]
    ends = indptr[start : stop + 1]
    entries = slice(int(ends[0]), int(ends[-1]))
    return sp.csr_matrix((data[entries], indices[entries], ends - ends[0]), shape=(len(ends) - 1, matrix.shape[1]))


# Parts of matrices on the disk, which are looked up once: opened anew, they have lost their cache.
_ENTRIES: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def row_blocks(matrix: Any, size: int = 2048) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Consecutive row blocks, each with the number of its first row.

    Parameters
    ----------
    matrix
        Matrix as in `row_block`; a backed one is read block by block.
    size
        Rows per block, 1 or more: memory grows with it. The last block may be smaller.
    """
    for start in range(0, matrix.shape[0], size):
        yield start, row_block(matrix, start, min(start + size, matrix.shape[0]))


def check_values(block: sp.csr_matrix, cell_ids: Any) -> None:
    """Refuse values that no expression matrix can hold, naming the cells.

    Parameters
    ----------
    block
        Rows of expression, zeros dropped, as `row_block` gives them.
    cell_ids
        Names of these rows, for the error; the first three are shown.

    Raises
    ------
    CellsError
        For NaN, infinite or negative values.
    """
    # The least of values among which one is not a number is none either.
    if not block.nnz or (block.data.min() > 0 and block.data.max() < np.inf):
        return
    for what, bad, mend in (
        ("values that are NaN or infinite", ~np.isfinite(block.data), "remove or mend these cells"),
        ("negative values", block.data < 0, "pass counts or log-normalised values, not scaled ones (often in .raw)"),
    ):
        if bad.any():
            rows = np.unique(np.searchsorted(block.indptr, np.flatnonzero(bad), side="right") - 1)
            raise CellsError(f"{len(rows)} cells hold {what} ({named(cell_ids, rows)}); {mend}.")


def check_block(block: sp.csr_matrix, cell_ids: Any) -> None:
    """As `check_values`, and refuse cells without any expression.

    Parameters
    ----------
    block, cell_ids
        As in `check_values`.

    Raises
    ------
    CellsError
        Also for cells of which no gene is expressed.
    """
    check_values(block, cell_ids)
    empty = np.flatnonzero(np.diff(block.indptr) == 0)
    if len(empty):
        raise CellsError(
            f"{len(empty)} cells express no gene that is used ({named(cell_ids, empty)}); filter them out first."
        )


def named(cell_ids: Any, rows: np.ndarray) -> str:
    """The first three of some cells by name, as part of a sentence.

    Parameters
    ----------
    cell_ids
        Names of all cells of a block.
    rows
        Numbers of the cells to name.
    """
    shown = ", ".join(str(cell_ids[i]) for i in rows[:3])
    return f"{shown}, ..." if len(rows) > 3 else shown
