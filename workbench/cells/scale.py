"""How values become log1p of counts per 10,000: as they are declared, or as they are found to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from numba import njit

from workbench.cells.matrix import check_values, named
from workbench.cells.values import (
    BINARY,
    COUNTS,
    DECIMALS,
    MIXED,
    MULTIPLES,
    SHARE,
    TOLERANCE,
    TRANSFORMS,
    UNKNOWN,
    WORDS,
    ValuesReport,
    described,
    linear_totals,
    row_facts,
    sample_block,
    signs,
)
from workbench.errors import CellsError

TARGET = 1e4
# Fewer genes than any assay of the whole transcriptome measures, more than people keep as highly variable ones.
FEW_GENES = 6000
# Genes that were filtered out after normalising take less than this share of a cell's total.
LOST = 0.1
SCALES = "counts, cp10k, cpm, cp:TOTAL, log1p:TOTAL, log2:TOTAL, log10:TOTAL or sqrt:TOTAL"


@dataclass(frozen=True)
class Scale:
    """How values become log1p of counts per 10,000.

    Attributes
    ----------
    transform
        What was done to them: a name of `TRANSFORMS`.
    target
        Total that cells had before the transform; None: each cell's own sum over all genes of the matrix, or its depth.
    counts
        Whether the values are counts as they were measured, whole numbers.
    by_depth
        Whether totals are those of a column of the cells.
    said
        What was found and what is done about it, in one sentence.
    shared
        Total that nearly all cells were found to share before the transform; None where none was looked for.
    """

    transform: str
    target: float | None
    counts: bool
    by_depth: bool
    said: str
    shared: float | None = None

    @property
    def key(self) -> list[Any]:
        """What decides the expression, as JSON."""
        return [self.transform, self.target, self.by_depth]

    def totals(
        self, block: sp.csr_matrix, names: Any, depth: Float[np.ndarray, " cell"] | None = None
    ) -> Float[np.ndarray, " cell"]:
        """Total of each cell before the transform; cells that are on another scale are refused.

        Parameters
        ----------
        block
            Rows over all genes of the matrix.
        names
            Names of these cells, for the error.
        depth
            Counts of each cell over everything that was measured, where `by_depth`.

        Raises
        ------
        CellsError
            For cells whose values cannot be on this scale.
        """
        n, (whole, sums) = np.diff(block.indptr), row_facts(block)
        wrong, why = np.zeros(len(n), dtype=bool), "are on another scale than the rest"
        if self.counts:
            wrong, why = ~whole, "hold values with decimals, where the others hold counts"
        elif self.transform != "linear":
            wrong, why = whole & (n >= MULTIPLES), "hold whole numbers, as counts do, where the others are logged"
        elif self.target is None:
            found = signs(block)
            wrong, why = ~np.isin(found, ("", "linear")), "look logged, where the others do not"
        sums = sums if self.transform == "linear" else linear_totals(block, self.transform)
        if not wrong.any() and self.target is not None:
            wrong = (sums > self.target * (1 + 2 * TOLERANCE)) | ((n > 0) & ~np.isfinite(sums))
            why = f"add up to more than the total of {self.target:,.0f} once '{self.transform}' is undone"
        if not wrong.any() and self.shared is not None:
            wrong = (n > 0) & (sums < (1 - LOST) * self.shared)
            if self.transform == "linear":  # counts among normalised cells are brought to their sums all the same
                wrong &= found != "linear"
            why = f"add up to less than the total of {self.shared:,.0f} that the others share"
        if not wrong.any() and depth is not None:
            wrong, why = sums > depth * (1 + 2 * TOLERANCE), "hold more counts than the column of depths says"
        if wrong.any():
            raise CellsError(
                f"{wrong.sum()} of {len(n)} cells ({named(names, np.flatnonzero(wrong))}) {why}; the values were taken for "
                f"{self.said}. Bring all cells to one scale, or say what the values are with --values (data.values)."
            )
        return depth if depth is not None else sums if self.target is None else np.full(len(n), self.target)

    def expression(self, block: sp.csr_matrix, totals: Float[np.ndarray, " cell"]) -> sp.csr_matrix:
        """Log1p of counts per 10,000, in float32; values that are that already stay as they are. Columns may be those of `block` itself.

        Parameters
        ----------
        block
            Rows over any genes, on this scale.
        totals
            What `totals` gave for them.
        """
        if self.transform == "log1p" and self.target == TARGET:
            return block.astype(np.float32, copy=True)
        data = block.data.astype(np.float32, copy=False)
        if self.transform != "linear":
            data = TRANSFORMS[self.transform][0](data.astype(np.float64)).astype(np.float32)
        data = _scaled(block.indptr, data, (TARGET / np.maximum(totals, 1e-12)).astype(np.float32))
        return sp.csr_matrix((np.log1p(data, out=data), block.indices, block.indptr), shape=block.shape)

    def merged(self, block: sp.csr_matrix) -> sp.csr_matrix:
        """Rows in which several entries of one gene are added up, before the transform.

        Parameters
        ----------
        block
            Rows on this scale, which may name a gene more than once.
        """
        undo, do, _ = TRANSFORMS[self.transform]
        data = block.data if self.transform == "linear" else undo(block.data.astype(np.float64))
        out = sp.csr_matrix((data, block.indices, block.indptr), shape=block.shape)
        out.sum_duplicates()
        if self.transform != "linear":
            out.data = do(out.data).astype(np.float32)
        return out


@njit(cache=True, nogil=True)
def _scaled(indptr, data, factor):
    """Values of each row times its factor."""
    out = np.empty_like(data)
    for row in range(len(factor)):
        for at in range(indptr[row], indptr[row + 1]):
            out[at] = data[at] * factor[row]
    return out


def find_scale(
    matrix: Any, names: Any, values: str | None = None, depth: Float[np.ndarray, " cell"] | None = None
) -> Scale:
    """Scale of a matrix: as declared, or as it is found by looking.

    Parameters
    ----------
    matrix
        Cells by genes, as in `row_block`.
    names
        Names of the cells, for errors.
    values
        What the values are, see `parse_values`; None to find it.
    depth
        Counts of each cell over everything that was measured, for data that hold only some of the genes.

    Raises
    ------
    CellsError
        If the scale cannot be known, or is not what was declared. The message says what to declare.
    """
    rows, block = sample_block(matrix)
    check_values(block, np.asarray(names)[rows])
    report, few = described(block, matrix.shape[1]), matrix.shape[1] < FEW_GENES
    if values is not None:
        return _declared(report, *parse_values(values), depth, few)
    told, transform = f"The values are {report}", "linear" if report.kind in (COUNTS, DECIMALS) else report.kind
    answer = f"say what they are with --values (data.values): {SCALES}"
    if report.kind in (MIXED, BINARY, UNKNOWN):
        what = {
            MIXED: "bring all cells to one scale before they are joined",
            BINARY: f"presence is no expression; if they are counts all the same, {answer}",
            UNKNOWN: f"neither whole numbers nor equal sums tell what was done to them; {answer}",
        }[report.kind]
        raise CellsError(f"{told}; {what}.")
    counted = report.kind in (COUNTS, DECIMALS)
    if depth is not None and counted:
        return Scale("linear", None, report.kind == COUNTS, True, f"{report}, normalised by the column of depths")
    if depth is not None and (few or report.total is None):
        if (total := _total_by_depth(block, transform, depth[rows])) is not None:
            return Scale(
                transform, total, False, False, f"{report}{_done(transform, total)}, as the column of depths shows"
            )
        raise CellsError(
            f"{told} on {matrix.shape[1]:,} genes and do not fit the column of depths, as if they were normalised after genes were "
            f"cut out. Name where the counts lie by --layer (data.layer), or {answer}."
        )
    if few:
        raise CellsError(
            f"{told} on {matrix.shape[1]:,} genes, which does not show what a cell adds up to over the whole transcriptome. Name "
            f"the column of obs with each cell's counts over all genes by --depth (data.depth), or {answer} (counts: nothing "
            "but these genes was measured)."
        )
    if transform != "linear" and report.total is None:
        raise CellsError(
            f"{told}, but once that is undone cells do not add up to one total, as if genes had been left out; {answer}."
        )
    total = report.total if transform != "linear" else None
    total = TARGET if total is not None and abs(total / TARGET - 1) < TOLERANCE else total
    return Scale(transform, total, report.kind == COUNTS, False, f"{report}{_done(transform, total)}", report.total)


def parse_values(values: str) -> tuple[str, float | None]:
    """Transform and total of a declaration.

    Parameters
    ----------
    values
        ``counts``, ``cp10k``, ``cpm``, ``cp:TOTAL`` (normalised, not logged), ``log1p:TOTAL``, ``log2:TOTAL``, ``log10:TOTAL`` or
        ``sqrt:TOTAL``. TOTAL is what every cell added up to before; without it, as in ``log2``, each cell's own sum counts.

    Examples
    --------
    >>> from workbench.cells.scale import parse_values
    >>> parse_values("counts"), parse_values("cpm"), parse_values("log2:1e6")
    (('linear', None), ('linear', 1000000.0), ('log2', 1000000.0))
    """
    short = {"counts": "linear", "cp10k": "cp:1e4", "cpm": "cp:1e6"}
    name, colon, total = short.get(values, values).partition(":")
    try:
        number = float(total) if colon else None
    except ValueError:
        number = np.nan
    known = name in TRANSFORMS and (name != "linear" or values == "counts") or (name == "cp" and colon)
    if not known or (number is not None and not 0 < number < np.inf):
        raise CellsError(
            f"Values '{values}' are unknown; say {SCALES}, such as log1p:10000. Where the matrix lies is said by --layer "
            "(data.layer)."
        )
    return ("linear" if name == "cp" else name), number


def _declared(report: ValuesReport, transform: str, total: float | None, depth: np.ndarray | None, few: bool) -> Scale:
    looks = {"linear", COUNTS, DECIMALS} if transform == "linear" else {transform}
    word = WORDS[transform].replace("normalised", "counts or normalised")
    if (
        report.kind not in looks | {UNKNOWN, BINARY}
        or report.maximum > TRANSFORMS[transform][2]
        or (total and report.total and not few and abs(report.total / total - 1) > 2 * TOLERANCE)
    ):
        said = f"{word}{f' with a total of {total:,.0f}' if total else ''}"
        raise CellsError(
            f"The values are said to be {said}, but look like {report}; mend --values (data.values), or leave it out."
        )
    if few and total is None and transform != "linear":
        raise CellsError(
            f"On few genes ({report.n_genes:,}) the values '{transform}' need the total that cells had before; say it, as in "
            f"{transform}:10000."
        )
    by_depth = total is None and depth is not None
    total = TARGET if total is not None and abs(total / TARGET - 1) < 1e-9 else total
    done = ", normalised by the column of depths" if by_depth else _done(transform, total)
    return Scale(
        transform,
        total,
        total is None and report.kind in (COUNTS, BINARY),
        by_depth,
        f"{report}, said to be {word}{done}",
    )


def _done(transform: str, total: float | None) -> str:
    if transform == "log1p" and total == TARGET:
        return ", taken as they are"
    return (
        ", normalised by each cell's sum"
        if total is None
        else f", brought from a total of {total:,.0f} to log1p of 10,000"
    )


def _total_by_depth(block: sp.csr_matrix, transform: str, depth: np.ndarray) -> float | None:
    """Total that normalised cells had: their smallest value is one count, of which the depth holds so many."""
    values = TRANSFORMS[transform][0](block.data.astype(np.float64))
    found = np.minimum.reduceat(values, block.indptr[:-1]) * depth
    middle = float(np.median(found))
    if (np.abs(found / middle - 1) < TOLERANCE).mean() < SHARE:
        return None
    return TARGET if abs(middle / TARGET - 1) < TOLERANCE else middle
