"""Matching the genes of a dataset to a vocabulary, and the gene panel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.matrix import row_blocks
from workbench.errors import CellsError, GeneMatchError, near_matches

if TYPE_CHECKING:  # `workbench apply` reads cells without torch
    from workbench.models.vocabulary import Vocabulary

MIN_SHARE = 0.3


@dataclass(frozen=True)
class GeneMatch:
    """Which columns of a matrix the vocabulary knows.

    Attributes
    ----------
    columns
        Column numbers that are used, ascending.
    genes
        The vocabulary's symbol of each used column, each once.
    missing
        Names that the vocabulary does not hold.
    duplicated
        Names that several columns carry, or further spellings of a symbol; only the first of them is used.
    ambiguous
        Names that fit the vocabulary only after changing their case, and more than one way; not used.
    recased
        Names matched after changing their case, with the symbol they got.
    n_columns
        Number of names that were looked up, matched or not.
    """

    columns: np.ndarray
    genes: tuple[str, ...]
    missing: tuple[str, ...]
    duplicated: tuple[str, ...]
    ambiguous: tuple[str, ...]
    recased: tuple[tuple[str, str], ...]
    n_columns: int

    @property
    def share(self) -> float:
        """Share of the dataset's genes that matched."""
        return len(self.columns) / max(self.n_columns, 1)

    def to_dict(self) -> dict[str, Any]:
        """Counts and the first names of each kind, for a report."""
        kinds = {"missing": self.missing, "duplicated": self.duplicated, "ambiguous": self.ambiguous}
        return {
            "columns": self.n_columns,
            "matched": len(self.columns),
            "share": round(self.share, 4),
            "recased": len(self.recased),
            **{kind: {"n": len(names), "first": list(names[:10])} for kind, names in kinds.items()},
        }

    def __str__(self) -> str:
        return (
            f"{len(self.columns)} of {self.n_columns} genes matched ({len(self.missing)} missing, {len(self.duplicated)} "
            f"duplicated, {len(self.ambiguous)} ambiguous, {len(self.recased)} matched by another case)"
        )


def gene_names(adata: AnnData, column: str | None = None) -> np.ndarray:
    """Gene names of a dataset.

    Parameters
    ----------
    adata
        Cells, of which only ``var`` is read.
    column
        Column of ``adata.var`` that holds them; None for the index.
    """
    if column is None:
        return adata.var_names.to_numpy(dtype=str)
    if column not in adata.var:
        raise CellsError(
            f"The cells have no gene column '{column}' in var ({near_matches(column, adata.var.columns)} it holds: "
            f"{', '.join(map(str, adata.var.columns)) or 'no column'}); name one of these, or none for the index."
        )
    return adata.var[column].astype(str).to_numpy()


def match_genes(names: Any, vocabulary: Vocabulary, min_share: float = MIN_SHARE) -> GeneMatch:
    """Match gene names to a vocabulary by exact symbol, then by symbol without regard to case.

    Parameters
    ----------
    names
        Gene name of each column, in matrix order; taken as text.
    vocabulary
        Vocabulary of the model; its special tokens match nothing.
    min_share
        Smallest share of names that must match, from 0 to 1.

    Returns
    -------
    GeneMatch

    Raises
    ------
    GeneMatchError
        If fewer match; the message says what the names look like and what to pass.

    Examples
    --------
    >>> from workbench.cells.genes import match_genes
    >>> from workbench.models.vocabulary import Vocabulary
    >>> match = match_genes(["cd4", "GATA1", "ENSG1"], Vocabulary.of_genes(["CD4", "CD8A", "GATA1"]))
    >>> match.genes, match.missing
    (('CD4', 'GATA1'), ('ENSG1',))
    """
    names = [str(name) for name in names]
    by_upper: dict[str, list[str]] = {}
    for gene in vocabulary.genes:
        by_upper.setdefault(gene.upper(), []).append(gene)
    known: Container[str] = set(vocabulary.genes)
    exact = {name for name in names if name in known}
    used: dict[str, int] = {}
    missing, ambiguous, recased, respelled = list[str](), list[str](), list[tuple[str, str]](), list[str]()
    for i, name in enumerate(names):
        options = [name] if name in known else [g for g in by_upper.get(name.upper(), []) if g not in exact]
        if len(options) != 1:
            (ambiguous if options else missing).append(name)
            continue
        symbol = options[0]
        if symbol not in used:
            used[symbol] = i
            recased += [(name, symbol)] if symbol != name else []
        elif symbol != name:
            respelled.append(name)
    match = GeneMatch(
        columns=np.array(list(used.values()), dtype=np.int64),
        genes=tuple(used),
        missing=tuple(missing),
        duplicated=tuple(dict.fromkeys([*(name for name, n in Counter(names).items() if n > 1), *respelled])),
        ambiguous=tuple(ambiguous),
        recased=tuple(recased),
        n_columns=len(names),
    )
    if not len(match.columns) or match.share < min_share:
        shown = ", ".join(names[:3])
        hint = (
            "they look like Ensembl ids: name the var column that holds symbols (gene column, for example 'gene_name')"
            if sum(name.startswith("ENS") for name in names) > len(names) / 2
            else "name the var column that holds gene symbols, or lower min_share (data.min_gene_share in a configuration) if few genes are expected to match"
        )
        raise GeneMatchError(
            f"Only {match.share:.1%} of {len(names)} genes are in the vocabulary, under the stated {min_share:.0%} "
            f"(first names: {shown}); {hint}."
        )
    return match


def with_matched_names(adata: AnnData, match: GeneMatch) -> AnnData:
    """The same values under the vocabulary's spelling of the matched genes; the caller's object is not changed.

    Parameters
    ----------
    adata
        Cells whose genes were matched; their ``obs`` is not carried over.
    match
        Match of these cells' genes, which may have changed a name's case.
    """
    names = adata.var_names.to_numpy(dtype=object).copy()
    names[match.columns] = match.genes
    return AnnData(X=adata.X, var=pd.DataFrame(index=names.astype(str)))


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
        Genes to leave out, such as those that labels were made from: keeping these would be circular.

    Returns
    -------
    tuple of str
        The ordered panel.

    Raises
    ------
    GeneMatchError
        If no gene is left.
    """
    left_out = set(exclude)
    kept = np.array([gene not in left_out for gene in match.genes], dtype=bool)
    genes, columns = np.array(match.genes, dtype=object)[kept], np.asarray(match.columns)[kept]
    if not len(genes):
        raise GeneMatchError(f"All {len(match.genes)} matched genes are left out of the panel; exclude fewer.")
    if size is None or size >= len(genes):
        return tuple(sorted(genes))
    seen = np.zeros(adata.shape[1])
    for _, block in row_blocks(adata.X):
        seen += np.bincount(block.indices, minlength=adata.shape[1])
    frame = pd.DataFrame({"gene": genes, "cells": seen[columns]})
    frame = frame.sort_values(["cells", "gene"], ascending=[False, True], kind="stable")
    return tuple(sorted(frame["gene"].head(size)))
