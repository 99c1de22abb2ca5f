"""What sequencing makes of a cell: how many molecules were counted, the genes detected in it, and its share of mitochondrial counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE, MITOCHONDRIAL, TECHNICAL
from workbench.cells.expression import scale_of
from workbench.cells.genes import GeneMatch
from workbench.cells.matrix import check_values, row_blocks
from workbench.cells.values import linear_totals

_PREFIX = "MT-"


def technical_covariates(cells: AnnData, match: GeneMatch, size: int = 2048) -> pd.DataFrame:
    """Library size, detected genes and mitochondrial share of each cell, as far as the data hold them.

    Parameters
    ----------
    cells
        Cells as `datasets.load` gives them; read row by row.
    match
        Match of their genes, by which mitochondrial genes are found where columns are not called by symbols.
    size
        Cells per block, 1 or more: memory grows with it.

    Returns
    -------
    DataFrame
        Index: cell names. ``log1p_total_counts``: log of 1 + counts, absent where totals were made equal
        and no depth is named.
        ``log1p_n_genes_by_counts``: log of 1 + columns above zero. ``pct_counts_mt``: percent of the cell's total in genes
        that begin with ``MT-``; absent where none is measured.

    Raises
    ------
    CellsError
        If the scale of the values cannot be known, or values are negative, NaN or infinite.
    """
    scale = scale_of(cells)
    called = [gene for gene in match.genes if gene.upper().startswith(_PREFIX)]
    own = cells.var_names.str.upper().str.startswith(_PREFIX) | (match.onto(called) >= 0)
    named = cells.obs["depth"].to_numpy(dtype=float) if cells.uns.get("workbench", {}).get("depth") else None
    depth = named if scale.by_depth else None
    parts = []
    for start, block in row_blocks(cells.X, size):
        rows = slice(start, start + block.shape[0])
        names = cells.obs_names[rows]
        check_values(block, names)
        totals = scale.totals(block, names, None if depth is None else depth[rows])
        found = {DETECTED: np.log1p(np.diff(block.indptr))}
        # Totals that were made equal say nothing of how many molecules were counted.
        if named is not None or (scale.target is None and scale.shared is None):
            found[LIBRARY_SIZE] = np.log1p(totals if named is None else named[rows])
        if own.any():
            part = linear_totals(sp.csr_matrix(block[:, np.flatnonzero(own)]), scale.transform)
            found[MITOCHONDRIAL] = 100 * part / np.maximum(totals, 1e-12)
        parts.append(pd.DataFrame(found, index=names))
    return pd.concat(parts)[[name for name in TECHNICAL if name in parts[0]]]
