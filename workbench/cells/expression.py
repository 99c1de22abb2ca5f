"""Cells on a panel of genes: columns of one gene added up, every cell brought to log1p of counts per 10,000."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Int
from numba import njit

from workbench.cells.genes import GeneMatch, find_genes, gene_ids
from workbench.cells.matrix import check_block, check_values, row_block
from workbench.cells.scale import SCALES, Scale, find_scale, parse_values
from workbench.cells.values import BINARY, MIXED, TRANSFORMS, UNKNOWN, ValuesReport
from workbench.errors import CellsError, GeneMatchError
from workbench.files import digest
from workbench.threads import ahead


def scale_of(cells: AnnData) -> Scale:
    """What the values of cells are, as `load` was told or as their values show.

    Parameters
    ----------
    cells
        Cells as `load` gives them, or an `AnnData` with values in ``X``, whose scale is then found.

    Raises
    ------
    CellsError
        If it cannot be known; the message says how to say it.
    """
    about = cells.uns.get("workbench", {})
    depth = cells.obs["depth"].to_numpy(dtype=float) if about.get("depth") else None
    return find_scale(cells.X, cells.obs_names, about.get("values"), depth)


def expression_hash(cells: AnnData, values: str) -> str:
    """Hash of the log-normalised expression of cells: of their values, their scale, and their depths where these count.

    Parameters
    ----------
    cells
        Cells as in `scale_of`, of which the scale is found and depths are read.
    values
        What `datasets.values_hash` gives for them.
    """
    scale = scale_of(cells)
    return digest(values, scale.key, cells.obs["depth"].tolist() if scale.by_depth else None)


def adding_scale(cells: AnnData, report: ValuesReport, match: GeneMatch) -> Scale | None:
    """Scale on which columns of one gene are added up, for tokens, whose bins need no more than the order of values.

    Parameters
    ----------
    cells
        Cells as in `scale_of`, of which only what is said of the values is read.
    report
        What their values look like.
    match
        Match of their genes; None comes back where no gene has several columns.

    Raises
    ------
    CellsError
        If all values are 1, or columns have to be added up and it cannot be known what was done to the values.
    """
    declared = cells.uns.get("workbench", {}).get("values")
    if report.kind == BINARY and declared is None:
        raise CellsError(
            f"The values are {report}: presence ranks no gene above another. Name a layer with counts (data.layer), or say that "
            "these are counts (data.values: counts)."
        )
    if not match.duplicated:
        return None
    if declared is None and report.kind in (MIXED, UNKNOWN):
        raise CellsError(
            f"{len(match.duplicated)} genes have several columns (first: {match.duplicated[0]}), which cannot be added up: the values "
            f"are {report}. Say what they are by data.values: {SCALES}."
        )
    kind = report.kind if declared is None else parse_values(declared)[0]
    return Scale(kind if kind in TRANSFORMS else "linear", None, False, False, str(report))


def on_genes(
    block: sp.csr_matrix, place: Int[np.ndarray, " column"], n_genes: int, scale: Scale | None = None
) -> sp.csr_matrix:
    """Some columns in a new order; columns that share a place are added up.

    Parameters
    ----------
    block
        Rows over all genes of the data.
    place
        For each column, its new number from 0, or -1 to leave it out.
    n_genes
        Number of new columns; those that no column goes to are empty.
    scale
        Scale of the values: sums are made before the transform. None where no place is taken twice.

    Returns
    -------
    csr_matrix, shape (cell, gene)
        On the scale of `block`; columns of a row are in order where there is something to add up, else in any.

    Raises
    ------
    CellsError
        If the block has values in columns that there are no genes for.
    """
    if block.nnz and not 0 <= block.indices.min() <= block.indices.max() < len(place):
        raise CellsError(
            f"The matrix has values in columns up to {block.indices.max() + 1}, and {len(place)} genes: the file is damaged; write it again."
        )
    data, indices, indptr = _placed(block.indptr, block.indices, block.data, place.astype(np.int32, copy=False))
    part = sp.csr_matrix((data, indices, indptr), shape=(block.shape[0], n_genes))
    return part if scale is None else scale.merged(part)


@njit(cache=True, nogil=True)
def _placed(indptr, indices, data, place):
    """Entries whose column has a place, under its number. Unsigned numbers spare a look at each for counting from the end."""
    n, kept = len(indptr) - 1, np.uintp(0)
    ends = np.zeros(n + 1, indptr.dtype)
    values, to = np.empty(len(data) + 1, data.dtype), np.empty(len(data) + 1, place.dtype)
    for row in range(n):
        # An entry without a place is written, too, and the next one over it: a branch for each would cost more.
        for at in range(np.uintp(indptr[row]), np.uintp(indptr[row + 1])):
            found = place[np.uintp(indices[at])]
            values[kept] = data[at]
            to[kept] = found
            kept += np.uintp(found >= 0)
        ends[row + 1] = kept
    # Copies, which hold no room that is left over.
    return values[:kept].copy(), to[:kept].copy(), ends


def expression_blocks(
    cells: AnnData,
    match: GeneMatch,
    genes: Sequence[str],
    rows: Int[np.ndarray, " row"] | None = None,
    size: int = 2048,
    scale: Scale | None = None,
) -> Iterator[tuple[int, sp.csr_matrix, sp.csr_matrix | None]]:
    """Log-normalised expression on a panel, some cells at a time; the next block is read while one is worked on.

    Parameters
    ----------
    cells
        Cells as in `scale_of`; read row by row.
    match
        Match of the genes of these cells.
    genes
        Panel, each gene once; one that is not measured is 0.
    rows
        Numbers of the cells wanted, ascending; all when None.
    size
        Cells per block, 1 or more: memory grows with it.
    scale
        What `scale_of` gives for these cells, where it is known already; found when None.

    Yields
    ------
    first, expression, counts
        Number of the first cell among those wanted; cell by gene in float32; and counts, None where the data hold none.

    Raises
    ------
    CellsError
        If values are negative, NaN or infinite, or cells are on different scales.
    """
    logged = Logged(cells, match, genes, scale)
    starts = np.arange(0, cells.shape[0], size)
    wanted = (np.arange(start, min(start + size, cells.shape[0])) for start in starts)
    if rows is not None:
        wanted = (rows[(rows >= start) & (rows < start + size)] for start in starts)
    first = 0
    stored: Iterator[tuple[np.ndarray, sp.csr_matrix]] = ((mine, logged.stored(mine)) for mine in wanted if len(mine))
    for mine, block in ahead(stored):
        yield first, *logged.parts(mine, block)
        first += len(mine)


class Logged:
    """Log-normalised expression of any rows of cells on a panel, whose scale is found once.

    Parameters
    ----------
    cells, match, genes, scale
        As in `expression_blocks`.
    """

    def __init__(self, cells: AnnData, match: GeneMatch, genes: Sequence[str], scale: Scale | None = None) -> None:
        self.cells, self.scale, self.place, self.n = cells, scale or scale_of(cells), match.onto(genes), len(genes)
        held = self.place[self.place >= 0]
        self._adds = self.scale if len(np.unique(held)) < len(held) else None

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Expression of consecutive cells, float32, columns of a row in any order.

        Parameters
        ----------
        start, stop
            Row range, the second not included.
        """
        rows = np.arange(start, stop)
        return self.parts(rows, self.stored(rows))[0]

    def stored(self, rows: Int[np.ndarray, " row"]) -> sp.csr_matrix:
        """Values of cells over all genes, as they are stored.

        Parameters
        ----------
        rows
            Numbers of the cells, ascending and close to each other: what lies between them is read as well.
        """
        start, stop = int(rows[0]), int(rows[-1]) + 1
        block = row_block(self.cells.X, start, stop)
        return block if len(rows) == stop - start else block[rows - start]

    def parts(self, rows: Int[np.ndarray, " row"], block: sp.csr_matrix) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
        """Expression of cells, and their counts where there are any, on the panel.

        Parameters
        ----------
        rows, block
            Numbers of the cells, and what `stored` gives for them.
        """
        names = self.cells.obs_names[rows]
        check_values(block, names)
        depth = self.cells.obs["depth"].to_numpy(dtype=float)[rows] if self.scale.by_depth else None
        totals = self.scale.totals(block, names, depth)
        part = on_genes(block, self.place, self.n, self._adds)
        return self.scale.expression(part, totals), part if self.scale.counts else None


def expression_on(
    cells: AnnData, match: GeneMatch, genes: Sequence[str], rows: Int[np.ndarray, " row"] | None = None
) -> tuple[sp.csr_matrix, sp.csr_matrix | None]:
    """Log-normalised expression of some cells on a panel, and their counts where the data hold counts.

    Parameters
    ----------
    cells, match, genes, rows
        As in `expression_blocks`.

    Returns
    -------
    expression, counts
        Cell by gene, float32, columns of a row in order. Counts are None where there are none.

    Raises
    ------
    CellsError
        As `expression_blocks`, and for cells without any expression.
    """
    expression, counts = [], []
    for first, block, held in expression_blocks(cells, match, genes, rows):
        if (np.diff(block.indptr) == 0).any():  # none of the panel is no error; nothing at all is
            mine = np.arange(first, first + block.shape[0]) if rows is None else rows[first : first + block.shape[0]]
            bare = mine[np.diff(block.indptr) == 0]
            check_block(sp.vstack([row_block(cells.X, int(r), int(r) + 1) for r in bare]), cells.obs_names[bare])
        expression.append(block)
        counts.append(held)
    stacked = sp.vstack(expression, format="csr")
    stacked.sort_indices()
    if any(held is None for held in counts):
        return stacked, None
    return stacked, sp.vstack(counts, format="csr", dtype=np.float32)


def match_panel(cells: AnnData, genes: Sequence[str], min_coverage: float = 0.0) -> GeneMatch:
    """Match the genes of cells to a panel.

    Parameters
    ----------
    cells
        Cells with gene symbols as ``var_names``.
    genes
        Panel of gene symbols, one or more, each once.
    min_coverage
        Smallest share of the panel that must be measured, from 0 to 1; one gene at least is needed at 0.

    Raises
    ------
    GeneMatchError
        If fewer panel genes are measured.
    """
    if not 0 <= min_coverage <= 1:
        raise CellsError(f"The smallest coverage is {min_coverage}; give a share of the genes from 0 to 1.")
    match = find_genes(cells.var_names.to_numpy(dtype=str), genes, gene_ids(cells))
    if len(match.genes) < max(1, min_coverage * len(genes)):
        absent = [gene for gene in genes if gene not in set(match.genes)]
        raise GeneMatchError(
            f"The cells measure {len(match.genes)} of the {len(genes)} panel genes, under the stated share of {min_coverage:.0%} "
            f"(absent: {', '.join(absent[:3])}, ...); {match.hint}. With fewer genes that are enough, lower --min-coverage; where "
            "symbols are in a column of var, name it by --gene-column."
        )
    return match


def panel_expression(cells: AnnData, genes: tuple[str, ...], min_coverage: float = 0.0) -> sp.csr_matrix:
    """Log-normalised expression on a panel, matched by name.

    Parameters
    ----------
    cells
        Cells as in `scale_of`; all of them end up in memory.
    genes, min_coverage
        Panel, and the smallest share of it that must be measured, as in `match_panel`.

    Returns
    -------
    csr_matrix, shape (cell, gene)
        float32, columns of a row in order.
    """
    return expression_on(cells, match_panel(cells, genes, min_coverage), genes)[0]
