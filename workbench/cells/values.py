"""What the values of a matrix are, found by looking at them.

Three signs tell the scale of a cell's values, each of which undoes a transform f and looks at f(values):

- whole numbers, or whole multiples of the cell's smallest value: counts that were divided by the cell's depth;
- sums that all cells share: cells were normalised to that total, over the genes that the matrix holds;
- a value above 20: no logarithm of what fits in a cell is that large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Shaped
from numba import njit

from workbench.cells.matrix import row_block
from workbench.errors import CellsError

# Above this no value is the logarithm of anything: log2(1 + 1e6) is 19.9.
_MOST_LOGGED = 20.0
TOLERANCE = 0.01  # of sums: float16 and filtered genes move them by less
SHARE = 0.95  # of cells that have to agree
MULTIPLES = 5  # values of 2 to 8 times the smallest that a cell needs to be told by

# By the name of a transform: what undoes it, what does it, and the largest value that can be undone.
_Map = Callable[[np.ndarray], np.ndarray]
TRANSFORMS: dict[str, tuple[_Map, _Map, float]] = {
    "linear": (lambda v: v, lambda v: v, np.inf),
    "log1p": (np.expm1, np.log1p, _MOST_LOGGED),
    "log2": (lambda v: np.expm1(v * np.log(2.0)), lambda v: np.log1p(v) / np.log(2.0), _MOST_LOGGED),
    "log10": (lambda v: np.expm1(v * np.log(10.0)), lambda v: np.log1p(v) / np.log(10.0), _MOST_LOGGED / 2),
    "sqrt": (np.square, np.sqrt, 1e4),
}
COUNTS, BINARY, DECIMALS, MIXED, UNKNOWN = "counts", "0/1", "counts with decimals", "mixed", "unknown"
WORDS = {
    "linear": "normalised",
    "log1p": "log1p",
    "log2": "log2(1 + x)",
    "log10": "log10(1 + x)",
    "sqrt": "square roots",
}


@dataclass(frozen=True)
class ValuesReport:
    """What the values of a matrix look like.

    Attributes
    ----------
    kind
        ``counts``, ``counts with decimals`` (unequal sums, such as after removal of ambient RNA), ``linear`` (normalised, not
        logged), ``log1p``, ``log2``, ``log10`` or ``sqrt`` (of normalised values), ``0/1``, ``mixed`` or ``unknown``.
    total
        Sum of every cell's values before the transform, as far as cells share one; None where they do not.
    n_cells, n_genes
        Cells that were looked at, and genes of the matrix.
    maximum
        Largest value among these cells.
    median_total, median_genes
        Medians over cells of the sum of a cell's values, and of the number of its genes above zero.
    example
        For ``mixed``: what was found, and in how many of these cells. Empty otherwise.
    """

    kind: str
    total: float | None
    n_cells: int
    n_genes: int
    maximum: float
    median_total: float
    median_genes: float
    example: str = ""

    def __str__(self) -> str:
        kind = WORDS.get(self.kind, self.kind)
        of = f" of cells normalised to {self.total:,.0f}" if self.total is not None and self.kind != "linear" else ""
        to = f" to {self.total:,.0f}" if self.total is not None and self.kind == "linear" else ""
        return (
            f"{kind}{of}{to}{f' ({self.example})' if self.example else ''} (maximum {self.maximum:g}, median "
            f"{self.median_genes:g} genes and total {self.median_total:g} per cell, {self.n_cells} cells looked at)"
        )


def describe_values(matrix: Any, n_cells: int = 2000) -> ValuesReport:
    """Say what the values look like, from rows spread evenly over the matrix.

    Parameters
    ----------
    matrix
        Cells by genes, as in `row_block`.
    n_cells
        At most about this many cells are looked at.

    Returns
    -------
    ValuesReport

    Raises
    ------
    CellsError
        If the matrix holds no value above zero.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.cells.values import describe_values
    >>> print(describe_values(np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 2.0]])))
    counts (maximum 3, median 2 genes and total 4 per cell, 2 cells looked at)
    """
    return described(sample_block(matrix, n_cells)[1], matrix.shape[1])


def sample_block(matrix: Any, n_cells: int = 2000) -> tuple[Int[np.ndarray, " row"], sp.csr_matrix]:
    """Rows spread evenly over a matrix, in blocks of 200, those without any value left out; all where there are no more.

    Parameters
    ----------
    matrix
        Cells by genes, as in `row_block`.
    n_cells
        About how many rows at most.

    Returns
    -------
    rows, block
        Numbers of the rows, ascending, and the rows.
    """
    if 0 in matrix.shape:
        raise CellsError(f"The matrix of {matrix.shape[0]} cells x {matrix.shape[1]} genes holds no value above zero.")
    total = matrix.shape[0]
    size = min(total, 200) if total > n_cells else total
    starts = sorted({int(s) for s in np.linspace(0, total - size, max(1, n_cells // max(size, 1)))})
    rows = np.unique(np.concatenate([np.arange(s, s + size) for s in starts]))
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    block = sp.vstack([row_block(matrix, int(run[0]), int(run[-1]) + 1) for run in runs], format="csr")
    held = np.diff(block.indptr) > 0
    if not held.any():
        raise CellsError(f"The matrix of {matrix.shape[0]} cells x {matrix.shape[1]} genes holds no value above zero.")
    return rows[held], block[held]


def described(block: sp.csr_matrix, n_genes: int) -> ValuesReport:
    """Say what the values of some cells look like.

    Parameters
    ----------
    block
        Rows over all genes of the data, each with a value above zero.
    n_genes
        Number of genes of the data.
    """
    data, totals, n = block.data, np.asarray(block.sum(1, dtype=np.float64)).ravel(), block.shape[0]
    maximum = float(data.max())

    def report(kind: str, total: float | None = None, example: str = "") -> ValuesReport:
        medians = float(np.median(totals)), float(np.median(np.diff(block.indptr)))
        return ValuesReport(kind, total, n, n_genes, maximum, *medians, example)

    if not np.isfinite(maximum) or data.min() < 0:
        return report(UNKNOWN)  # refused with the names of the cells where rows are read
    whole, _ = row_facts(block)
    if whole.all():
        return report(BINARY if maximum == 1 and block.nnz > block.shape[0] else COUNTS)
    found = np.where(whole & (np.diff(block.indptr) >= MULTIPLES), "linear", signs(block))
    kinds = {name: int((found == name).sum()) for name in TRANSFORMS}
    several = {
        WORDS[name].replace("normalised", COUNTS): n for name, n in kinds.items() if n > max(1, 0.02 * block.shape[0])
    }
    if len(several) > 1:
        return report(MIXED, example=", ".join(f"{n} cells {word}" for word, n in several.items()))
    shared = {name: total for name in TRANSFORMS if (total := _shared_total(block, name)) is not None}
    told = max(kinds, key=lambda name: kinds[name])
    if kinds[told] < 0.5 * n:
        # Values that were corrected or averaged are no multiples; one cell alone shares its sum with itself.
        told = next((name for name in shared if n > 2 or _usual(shared[name])), "")
    if told:
        return report(told, shared.get(told))
    return report(DECIMALS if maximum > _MOST_LOGGED else UNKNOWN)


def _usual(total: float) -> bool:
    return any(abs(total / usual - 1) < TOLERANCE for usual in (1e3, 1e4, 1e5, 1e6))


def row_facts(block: sp.csr_matrix) -> tuple[Bool[np.ndarray, " cell"], Float[np.ndarray, " cell"]]:
    """Whether all values of each cell are whole numbers, and their sum, in one look at the values.

    Parameters
    ----------
    block
        Rows as `row_block` gives them.
    """
    return _row_facts(block.indptr, block.data)


# Sums of whole numbers are the same in any order, and those of others to rounding: several are added up at a time.
@njit(cache=True, nogil=True, fastmath={"reassoc"})
def _row_facts(indptr, data):
    n = len(indptr) - 1
    whole, sums = np.empty(n, np.bool_), np.empty(n)
    for row in range(n):
        broken, total = 0, 0.0
        for value in data[indptr[row] : indptr[row + 1]]:
            broken += np.floor(value) != value
            total += value
        whole[row], sums[row] = broken == 0, total
    return whole, sums


def signs(block: sp.csr_matrix) -> Shaped[np.ndarray, " cell"]:
    """By cell: the transform after whose undoing its values are nearest to whole multiples of the smallest; empty for none.

    Parameters
    ----------
    block
        Rows as `row_block` gives them; a cell needs 5 values of 2 to 8 times its smallest, 3 of them different.
    """
    told, best = np.full(block.shape[0], "", dtype=object), np.full(block.shape[0], 0.03)
    cell = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    for name, (undo, _, most) in TRANSFORMS.items():
        values = undo(np.minimum(block.data, most).astype(np.float64))
        smallest = np.full(block.shape[0], np.inf)
        np.minimum.at(smallest, cell, values)
        ratio = values / smallest[cell]
        use = (ratio > 1.5) & (ratio <= 8.5) & (block.data <= most)
        near, at = np.round(ratio[use]), cell[use]
        n = np.bincount(at, minlength=len(told))
        # Values of a cell are tied, so that different multiples say more than many.
        different = np.bincount(np.unique(at * 9 + near.astype(np.int64)) // 9, minlength=len(told))
        off = np.bincount(at, weights=np.abs(ratio[use] - near), minlength=len(told)) / np.maximum(n, 1)
        fits = (n >= MULTIPLES) & (different >= 3) & (off < best)
        told[fits], best[fits] = name, off[fits]
    return told


def _shared_total(block: sp.csr_matrix, transform: str) -> float | None:
    """The sum that nearly all cells share once a transform is undone; None if they do not."""
    if block.data.max() > TRANSFORMS[transform][2]:
        return None
    sums = linear_totals(block, transform)
    middle = float(np.median(sums))
    return middle if (np.abs(sums / middle - 1) < TOLERANCE).mean() >= SHARE else None


def linear_totals(block: sp.csr_matrix, transform: str) -> Float[np.ndarray, " cell"]:
    """Sum of each cell's values, once a transform is undone.

    Parameters
    ----------
    block
        Rows as `row_block` gives them.
    transform
        Which transform is undone first, a name of `TRANSFORMS`.
    """
    undo, _, most = TRANSFORMS[transform]
    if transform == "linear":
        return np.asarray(block.sum(1, dtype=np.float64)).ravel()
    linear = undo(np.minimum(block.data, most).astype(np.float64))
    return np.asarray(sp.csr_matrix((linear, block.indices, block.indptr), shape=block.shape).sum(1)).ravel()
