"""Rows of an expression matrix, sparse, block by block; also from a backed h5ad."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from workbench.errors import CellsError

COUNTS, NORMALISED, LOGGED = "counts", "normalised", "log-normalised"


def row_block(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    """Rows ``start:stop`` as a CSR matrix in memory, zeros dropped.

    Parameters
    ----------
    matrix
        Cells by genes: a dense array, a scipy sparse matrix, or anndata's backed matrix (stored by rows).
    start, stop
        First row, and the one after the last, both within the matrix.
    """
    if getattr(matrix, "format", None) == "csc" and not sp.issparse(matrix):
        raise CellsError(
            "The backed matrix is stored by columns (csc), from which rows cannot be streamed; "
            "rewrite the file with X as a csr_matrix."
        )
    block = matrix[start:stop]
    block = sp.csr_matrix(block if sp.issparse(block) else np.asarray(block))
    if block.nnz and block.data.min() <= 0 and not block.data.all():
        block = block.copy()
        block.eliminate_zeros()
    return block


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


def check_block(block: sp.csr_matrix, cell_ids: Any) -> None:
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
        For NaN, infinite or negative values and for cells without any expression.
    """
    genes = np.diff(block.indptr)
    if genes.all() and block.data.min() > 0 and np.isfinite(block.data.sum(dtype=np.float64)):
        return
    for what, bad, mend in (
        ("values that are NaN or infinite", ~np.isfinite(block.data), "remove or mend these cells"),
        ("negative values", block.data < 0, "pass counts or log-normalised values, not scaled ones (often in .raw)"),
    ):
        if bad.any():
            rows = np.unique(np.searchsorted(block.indptr, np.flatnonzero(bad), side="right") - 1)
            raise CellsError(f"{len(rows)} cells hold {what} ({_names(cell_ids, rows)}); {mend}.")
    empty = np.flatnonzero(genes == 0)
    if len(empty):
        raise CellsError(
            f"{len(empty)} cells express no gene that is used ({_names(cell_ids, empty)}); filter them out first."
        )


def _names(cell_ids: Any, rows: np.ndarray) -> str:
    shown = ", ".join(str(cell_ids[i]) for i in rows[:3])
    return f"{shown}, ..." if len(rows) > 3 else shown


@dataclass(frozen=True)
class ValuesReport:
    """What the values of a matrix look like.

    Attributes
    ----------
    kind
        ``counts``, ``normalised`` (not logged) or ``log-normalised``.
    n_cells
        Cells that were looked at.
    maximum
        Largest value among these cells.
    integer
        Whether all values of these cells are whole numbers.
    median_total
        Median over cells of the sum of a cell's values.
    median_genes
        Median over cells of the number of genes above zero.
    """

    kind: str
    n_cells: int
    maximum: float
    integer: bool
    median_total: float
    median_genes: float

    def __str__(self) -> str:
        return (
            f"{self.kind} (maximum {self.maximum:g}, median {self.median_genes:g} genes and total {self.median_total:g} "
            f"per cell, {self.n_cells} cells looked at)"
        )


def describe_values(matrix: Any, n_cells: int = 2000) -> ValuesReport:
    """Say what the values look like, from rows spread evenly over the matrix.

    Whole numbers are counts. Otherwise a maximum of at most 20 means logged: e^20 transcripts do not fit in a cell,
    while normalised values of a highly expressed gene exceed 20 almost always.

    Parameters
    ----------
    matrix
        Cells by genes, as in `row_block`.
    n_cells
        At most about this many cells are looked at, in blocks of 200; all of them where there are no more.

    Returns
    -------
    ValuesReport

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.cells.matrix import describe_values
    >>> print(describe_values(np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 2.0]])))
    counts (maximum 3, median 2 genes and total 4 per cell, 2 cells looked at)
    """
    total = matrix.shape[0]
    size = min(total, 200) if total > n_cells else total
    starts = sorted({int(s) for s in np.linspace(0, total - size, max(1, n_cells // max(size, 1)))})
    blocks = [row_block(matrix, start, start + size) for start in starts]
    data = np.concatenate([block.data for block in blocks])
    if not len(data):
        raise CellsError(f"The matrix of {matrix.shape[0]} cells x {matrix.shape[1]} genes holds no value above zero.")
    integer = bool((data == np.round(data)).all())
    maximum = float(data.max())
    kind = COUNTS if integer else LOGGED if maximum <= 20 else NORMALISED
    totals = np.concatenate([np.asarray(b.sum(1)).ravel() for b in blocks])
    genes = np.concatenate([np.diff(b.indptr) for b in blocks])
    return ValuesReport(kind, len(totals), maximum, integer, float(np.median(totals)), float(np.median(genes)))


def log_normalise(
    block: sp.csr_matrix, kind: str, target: float = 1e4, totals: Float[np.ndarray, " cell"] | None = None
) -> sp.csr_matrix:
    """Log-normalised copy of rows: log(1 + counts per 10,000) from counts; logged values stay as they are.

    Parameters
    ----------
    block
        Rows over all measured genes, so that the total is the cell's own.
    kind
        What the values are: ``counts``, ``normalised`` or ``log-normalised``, see `ValuesReport`.
    target
        Total of each cell before the logarithm; has no effect unless `kind` is ``counts``.
    totals
        Counts per cell, where `block` holds only some of the genes; those of the block when None.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from workbench.cells.matrix import log_normalise
    >>> log_normalise(sp.csr_matrix([[3.0, 0.0, 1.0]]), "counts").toarray().round(2).tolist()  # log(1 + 7500), 0, log(1 + 2500)
    [[8.920000076293945, 0.0, 7.820000171661377]]
    """
    out = block.astype(np.float32, copy=True)
    if kind == LOGGED:
        return out
    if kind == COUNTS:
        totals = np.asarray(block.sum(1, dtype=np.float64)).ravel() if totals is None else totals
        out.data *= np.repeat((target / np.maximum(totals, 1e-12)).astype(np.float32), np.diff(out.indptr))
    np.log1p(out.data, out=out.data)
    return out
