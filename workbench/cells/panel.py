"""The gene panel: which of the matched genes are taken, and which are left out."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.genes import GeneMatch
from workbench.cells.matrix import row_blocks
from workbench.errors import GeneMatchError, unknown_name


def genes_left_out(exclude: Iterable[str], matches: Iterable[GeneMatch]) -> set[str]:
    """Genes of the vocabulary that names stand for which are to be left out.

    Parameters
    ----------
    exclude
        Names as the cells or the vocabulary spell them.
    matches
        Matches of the cells' genes; a name has to be known to one of them.

    Raises
    ------
    GeneMatchError
        If a name is none of the genes': what was meant would stay in.
    """
    matches = list(matches)
    known = {gene: gene for match in matches for gene in match.genes}
    for match in matches:
        known |= {name: gene for pairs in (match.recased, match.renamed, match.by_id) for name, gene in pairs}
    lost = {name for match in matches for name in (*match.missing, *match.ambiguous)}
    if unknown := [name for name in exclude if name not in known and name not in lost]:
        raise GeneMatchError(
            f"{unknown_name('gene', unknown[0], known)} {len(unknown)} of the genes to leave out are none of the cells' (the spelling "
            "counts, and ids are no symbols), so they would stay in the panel. Mend panel.exclude."
        )
    return {known[name] for name in exclude if name in known}


def choose_panel(
    adata: AnnData, match: GeneMatch, size: int | None = None, exclude: Iterable[str] = ()
) -> tuple[str, ...]:
    """Gene panel: the matched genes seen in most cells, in alphabetical order.

    No label is looked at, so choosing the panel cannot leak one.

    Parameters
    ----------
    adata
        Cells, of which only the matrix is read, block by block.
    match
        Match of the genes of these cells, from `match_genes`.
    size
        Number of genes; None, or more than there are, for all. Ties go by name.
    exclude
        Genes to leave out, such as those that labels were made from: keeping these would be circular. Names as the cells or
        the vocabulary spell them.

    Returns
    -------
    tuple of str
        The ordered panel.

    Raises
    ------
    GeneMatchError
        If no gene is left, or a name to leave out is none of the genes'.
    """
    left_out = genes_left_out(exclude, [match])
    genes = tuple(gene for gene in match.genes if gene not in left_out)
    if not genes:
        raise GeneMatchError(f"All {len(match.genes)} matched genes are left out of the panel; exclude fewer.")
    if size is None or size >= len(genes):
        return tuple(sorted(genes))
    seen, place = np.zeros(len(genes)), match.onto(genes)
    for _, block in row_blocks(adata.X):
        numbers = place[block.indices]
        cells = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))[numbers >= 0]
        # A cell counts once for a gene of several columns.
        seen += np.bincount(np.unique(cells * len(genes) + numbers[numbers >= 0]) % len(genes), minlength=len(genes))
    frame = pd.DataFrame({"gene": genes, "cells": seen})
    frame = frame.sort_values(["cells", "gene"], ascending=[False, True], kind="stable")
    return tuple(sorted(frame["gene"].head(size)))
