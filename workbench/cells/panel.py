"""The gene panel: which of the matched genes are taken, and which are left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.expression import expression_on
from workbench.cells.genes import GeneMatch
from workbench.cells.matrix import row_blocks
from workbench.errors import ConfigError, GeneMatchError, unknown_name


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
    adata: AnnData,
    match: GeneMatch,
    size: int | None = None,
    exclude: Iterable[str] = (),
    *,
    by: Literal["cells", "variable"] = "cells",
    file: str | Path | None = None,
    others: Iterable[GeneMatch] = (),
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
    by
        ``cells``: those seen in most cells. ``variable``: the highly variable genes of scanpy (flavor ``seurat``, its default), on log1p
        of counts per 10,000; all matched genes are then held in memory.
    file
        Text file with one gene symbol a line, which are the panel in their order, less `exclude`; None: they are chosen.
    others
        Matches of further cells that the panel is for: a gene to leave out may be one that these alone have.

    Returns
    -------
    tuple of str
        The ordered panel.

    Raises
    ------
    GeneMatchError
        If no gene is left, a name to leave out is none of the genes', or a gene of the file is not measured, not in the
        vocabulary or given twice.
    ConfigError
        If the file cannot be read.
    """
    left_out = genes_left_out(exclude, [match, *others])
    if file is not None:
        return _from_file(Path(file), match, left_out)
    genes = tuple(gene for gene in match.genes if gene not in left_out)
    if not genes:
        raise GeneMatchError(f"All {len(match.genes)} matched genes are left out of the panel; exclude fewer.")
    if size is None or size >= len(genes):
        return tuple(sorted(genes))
    if by == "variable":
        return _variable(adata, match, genes, size)
    frame = pd.DataFrame({"gene": genes, "cells": _seen(adata, match.onto(genes), len(genes))})
    frame = frame.sort_values(["cells", "gene"], ascending=[False, True], kind="stable")
    return tuple(sorted(frame["gene"].head(size)))


def _seen(adata: AnnData, place: np.ndarray, n: int) -> np.ndarray:
    """In how many cells each of n genes is seen, given the gene of each column, below zero where it has none."""
    seen, several = np.zeros(n), np.bincount(place[place >= 0], minlength=n) > 1
    for _, block in row_blocks(adata.X):
        gene = place[block.indices]
        kept = gene >= 0
        # A cell counts once for a gene of several columns; only of these entries have to be told apart.
        twice = kept & several[gene]
        seen += np.bincount(gene[kept & ~twice], minlength=n)
        if twice.any():
            cell = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))[twice]
            seen += np.bincount(np.unique(cell * n + gene[twice]) % n, minlength=n)
    return seen


def _variable(adata: AnnData, match: GeneMatch, genes: tuple[str, ...], size: int) -> tuple[str, ...]:
    """Highly variable genes, in alphabetical order."""
    import scanpy as sc

    logged = AnnData(expression_on(adata, match, genes)[0], var=pd.DataFrame(index=list(genes)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas and of bins that hold one gene
        found = sc.pp.highly_variable_genes(logged, n_top_genes=size, flavor="seurat", inplace=False)
    # In ties scanpy may mark more genes than it was asked for; then names decide.
    frame = pd.DataFrame({"gene": genes, "spread": found["dispersions_norm"].to_numpy(dtype=float)})
    frame["spread"] = frame["spread"].fillna(-np.inf)
    frame = frame.sort_values(["spread", "gene"], ascending=[False, True], kind="stable")
    return tuple(sorted(frame["gene"].head(size)))


def _from_file(file: Path, match: GeneMatch, left_out: set[str]) -> tuple[str, ...]:
    """Genes that a file names, as the vocabulary spells them."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The panel '{file}' cannot be read as text ({error}); give a file with one gene a line."
        ) from error
    names = [name for line in lines if (name := line.strip())]
    known = {gene: gene for gene in match.genes}
    known |= {
        name: gene for pairs in (match.recased, match.renamed, match.by_id) for name, gene in pairs if gene in known
    }
    if absent := [name for name in names if name not in known]:
        raise GeneMatchError(
            f"{len(absent)} of the {len(names)} genes of the panel '{file}' are not measured or not in the vocabulary (first: "
            f"{', '.join(absent[:3])}); take them out of the file."
        )
    genes = [known[name] for name in names]
    if len(set(genes)) < len(genes):
        twice = next(gene for i, gene in enumerate(genes) if gene in genes[:i])
        raise GeneMatchError(f"The panel '{file}' names '{twice}' more than once; leave one of them out.")
    if not (kept := tuple(gene for gene in genes if gene not in left_out)):
        raise GeneMatchError(f"No gene of the panel '{file}' is left; name genes, and exclude fewer.")
    return kept
