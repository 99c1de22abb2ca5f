"""What a user says of genes, brought to the genes of a model: gene sets, edge lists, and a table of covariates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int

from workbench.cells.expression import expression_blocks
from workbench.cells.genes import GeneMatch
from workbench.errors import EvaluationError
from workbench.factors.gene_sets import GeneSets, load_gene_sets, usable_terms

EXPRESSION, DETECTION, TOKENS = LEVEL = ("expression", "detection", "tokens")
FAMILY, CHROMOSOME = CATEGORIES = ("family", "chromosome")
_ENDS = ("source", "target")


@dataclass(frozen=True)
class GeneFacts:
    """What is known of genes beforehand.

    Attributes
    ----------
    table
        Numbers that are regressed out, one column each, one row per gene; those of the cells first. NaN where a gene has none.
    family, chromosome
        Name of each gene's, empty where it has none; None where the table has no such column.
    """

    table: pd.DataFrame
    family: np.ndarray | None
    chromosome: np.ndarray | None


def measured_level(adata: AnnData, match: GeneMatch, genes: Sequence[str]) -> Float[np.ndarray, "gene 2"]:
    """Mean log-normalised expression of each gene over all cells, and the share of cells that express it.

    Parameters
    ----------
    adata
        Cells as `workbench.load` gives them; read block by block.
    match
        Match of their genes to the vocabulary.
    genes
        Genes in the vocabulary's spelling.
    """
    total, seen = np.zeros(len(genes)), np.zeros(len(genes))
    for _, block, _ in expression_blocks(adata, match, genes):
        total += np.asarray(block.sum(0, dtype=np.float64)).ravel()
        seen += np.asarray((block > 0).sum(0)).ravel()
    return np.column_stack([total, seen]) / len(adata)


def gene_facts(
    genes: Sequence[str],
    level: Float[np.ndarray, "gene 2"],
    n: Int[np.ndarray, " gene"],
    covariates: pd.DataFrame | None,
) -> GeneFacts:
    """Covariates of genes: those of the cells, and those of a user's table.

    Parameters
    ----------
    genes
        Genes in the vocabulary's spelling, each once.
    level
        What `measured_level` gives for them.
    n
        Cells in which each is a token.
    covariates
        One row per gene, named by its index. Columns of numbers, such as length, are regressed out; ``family`` and ``chromosome`` are text.
        None for those of the cells alone.

    Raises
    ------
    EvaluationError
        If the index names a gene twice or none of the genes, a column of text is called otherwise, or a column has a value for fewer
        than half of the genes.
    """
    found = pd.DataFrame({EXPRESSION: level[:, 0], DETECTION: level[:, 1], TOKENS: n.astype(float)}, index=list(genes))
    if covariates is None:
        return GeneFacts(found, None, None)
    given = covariates.rename(index=str)
    if given.index.has_duplicates:
        twice = given.index[given.index.duplicated()][0]
        raise EvaluationError(f"The table of covariates has two rows for gene '{twice}'; give one row per gene.")
    if not (known := given.index.isin(genes)).any():
        raise EvaluationError(
            f"None of the {len(given)} rows of the table of covariates ({', '.join(given.index[:3])}, ...) is one of the {len(found)} genes "
            f"({', '.join(list(genes)[:3])}, ...). Give it an index that names genes as the model's vocabulary does."
        )
    names: dict[str, np.ndarray] = {}
    for name, values in given[known].reindex(found.index).items():
        if name in LEVEL:
            raise EvaluationError(f"The column '{name}' of the covariates is counted from the cells; leave it out.")
        if name in CATEGORIES:
            text = values.astype(object).where(values.notna(), "").astype(str).str.strip()
            names[str(name)] = text.to_numpy(dtype=object)
        elif pd.api.types.is_numeric_dtype(values):
            finite = np.isfinite(values.to_numpy(dtype=float))
            if finite.mean() < 0.5:
                raise EvaluationError(
                    f"The covariate '{name}' has a value for {finite.sum()} of {len(found)} genes; genes without one are left out, which "
                    "would be most. Give it for more genes, or leave the column out."
                )
            found[str(name)] = np.where(finite, values.to_numpy(dtype=float), np.nan)
        else:
            raise EvaluationError(
                f"The column '{name}' of the covariates is text; numbers can be regressed out, and text only as 'family' or 'chromosome'. "
                "Rename it, turn it into numbers, or leave it out."
            )
    return GeneFacts(found, names.get(FAMILY), names.get(CHROMOSOME))


def as_sets(sets: Mapping[str, Sequence[str]] | GeneSets | str | Path) -> GeneSets:
    """Gene sets in whatever form they were given.

    Parameters
    ----------
    sets
        Name -> genes, sets that were loaded, a shipped name or the path of a GMT file.
    """
    if isinstance(sets, GeneSets):
        return sets
    if isinstance(sets, str | Path):
        return load_gene_sets(sets)
    for name, genes in sets.items():
        if isinstance(genes, str):
            raise EvaluationError(f"The gene set '{name}' is the text '{genes}'; give a list of genes.")
    return GeneSets("sets", {n: tuple(dict.fromkeys(g)) for n, g in sets.items()}, dict.fromkeys(sets, ""))


def rows_of_sets(
    sets: GeneSets, genes: Sequence[str], min_size: int, max_size: int
) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Rows of the genes of each set, and what became of the sets, see `on_panel`.

    Parameters
    ----------
    sets
        Gene sets, not yet cut to the genes.
    genes
        Genes that have a vector, in the order of the rows.
    min_size, max_size
        Genes of a set among these, ends included.
    """
    kept, terms = usable_terms(sets, genes, min_size, max_size)
    place = {gene: i for i, gene in enumerate(genes)}
    return {name: np.array([place[gene] for gene in inside]) for name, inside in kept.sets.items()}, terms


def rows_of_names(names: np.ndarray, kind: str, min_size: int) -> tuple[dict[str, np.ndarray], list[dict[str, object]]]:
    """Rows of the genes of each family or chromosome with enough of them, and what became of each.

    Parameters
    ----------
    names
        Name of each gene's, empty where it has none.
    kind
        What sort of name it is, for the table.
    min_size
        Genes of a set, at least; all genes make no set.
    """
    out, said = {}, []
    for name in sorted(set(names) - {""}):
        rows = np.flatnonzero(names == name)
        short = f"{len(rows)} of its genes on the panel, fewer than {min_size}" if len(rows) < min_size else ""
        why = short or ("its genes are the whole panel" if len(rows) == len(names) else "")
        term = f"{kind} {name}"
        said.append({"term": term, "n_genes": len(rows), "n_panel": len(rows), "kept": not why, "why": why})
        if not why:
            out[term] = rows
    return out, said


def read_edges(
    edges: pd.DataFrame | Mapping[str, pd.DataFrame | str | Path] | str | Path, genes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Rows of both genes of each edge, -1 where a gene has no vector, by name of the list.

    Parameters
    ----------
    edges
        One edge list or several by name: tables with the columns ``source`` and ``target``, or with two columns; or paths of such
        tables, with commas, or with tabs where the name ends in .tsv or .txt.
    genes
        Genes that have a vector, in the order of the rows.

    Raises
    ------
    EvaluationError
        If a table has not the columns, or none of its edges is between two of the genes.
    """
    every = edges if isinstance(edges, Mapping) else {"edges": edges}
    place = {gene: i for i, gene in enumerate(genes)}
    out = {}
    for name, given in every.items():
        table = given if isinstance(given, pd.DataFrame) else _read(Path(given))
        if not set(_ENDS) <= set(table.columns) and table.shape[1] != 2:
            raise EvaluationError(
                f"The edge list '{name}' has the columns {', '.join(map(str, table.columns)) or 'none'}; it needs 'source' and 'target', or "
                "two columns in all: rename those that name the two genes."
            )
        ends = table[list(_ENDS)] if set(_ENDS) <= set(table.columns) else table
        rows = np.column_stack([[place.get(str(gene), -1) for gene in ends.iloc[:, side]] for side in (0, 1)])
        if not len(table) or not (rows >= 0).all(1).any():
            first = ", ".join(map(str, ends.iloc[0])) if len(table) else "it is empty"
            raise EvaluationError(
                f"None of the {len(table)} edges of '{name}' ({first}) is between two of the {len(genes)} genes that have a vector "
                f"({', '.join(list(genes)[:3])}, ...): check that both name genes alike."
            )
        out[str(name)] = rows.astype(np.int64)
    return out


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise EvaluationError(
            f"The edge list '{path}' does not exist; give the path of a table with two columns of genes."
        )
    tabs = {".tsv", ".txt"} & {suffix.lower() for suffix in path.suffixes}
    return pd.read_csv(path, sep="\t" if tabs else ",", dtype=str, keep_default_na=False)
