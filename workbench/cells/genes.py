"""Matching the genes of a dataset to a vocabulary or a panel."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Int, Shaped

from workbench.errors import CellsError, GeneMatchError, near_matches

MIN_SHARE = 0.3
_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{6,}")
_GENOME = re.compile(r"^(GRCh3[78]|hg19|hg38)_+")
_MOUSE = re.compile(r"^[A-Z][a-z0-9]*[a-z][a-z0-9-]*$")
# Names that assemblies gave to clones, and Ensembl no longer gives.
_CLONE = re.compile(r"^(RP\d+|CT[ABCD]|XX[a-z]*|KB|LL\w*)-\S+\.\d+$|^[A-Z]{2}\d{6}\.\d+$")
# What tables write for a gene without a symbol; HGNC knows NA as a previous symbol of XK.
_NO_NAME = {"", "na", "nan", "<na>", "n/a", "none", "null"}
_SUFFIX = re.compile(r"^(.+?)[-.](\d{1,2})$")


@dataclass(frozen=True)
class GeneMatch:
    """Which columns of a matrix the vocabulary or panel knows.

    Attributes
    ----------
    genes
        The symbols that were found, each once, in the order of their first columns.
    place
        For each column of the matrix, the number of its gene in `genes`; -1 where it is not used. Columns of one gene
        have the same number: they are added up.
    missing
        Names that were not found.
    why
        The missing names by reason: ``renamed`` (the new name is measured beside, or several are renamed to it), ``several
        ids`` (known only as SYMBOL_ENSG..., and the cells name no id), ``other species``, ``retired``, ``unknown``.
    duplicated
        Names of genes that several columns carry; their values are added up.
    ambiguous
        Names that fit only after changing their case, and more than one way; not used.
    recased, renamed, by_id
        Names that matched by another case, by a newer or older approved symbol, or by symbol and id; with what they became.
    hints
        Sentences about names that look like something else.
    """

    genes: tuple[str, ...]
    place: Int[np.ndarray, " column"]
    missing: tuple[str, ...]
    why: Mapping[str, tuple[str, ...]]
    duplicated: tuple[str, ...]
    ambiguous: tuple[str, ...]
    recased: tuple[tuple[str, str], ...]
    renamed: tuple[tuple[str, str], ...]
    by_id: tuple[tuple[str, str], ...]
    hints: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the dataset's columns that matched."""
        return float((self.place >= 0).sum() / max(len(self.place), 1))

    @property
    def hint(self) -> str:
        """What the names look like, and what to do about it."""
        return "; ".join(self.hints) or "check that the names are human gene symbols"

    def onto(self, genes: Sequence[str]) -> Int[np.ndarray, " column"]:
        """For each column of the matrix, the number of its gene among others; -1 where it is none of them.

        Parameters
        ----------
        genes
            Gene symbols as in `genes`, each once.
        """
        number = {gene: i for i, gene in enumerate(genes)}
        moved = np.array([*(number.get(gene, -1) for gene in self.genes), -1], dtype=np.int64)
        return moved[self.place]

    def to_dict(self) -> dict[str, Any]:
        """Counts and the first names of each kind, for a report."""
        kinds = {"missing": self.missing, "duplicated": self.duplicated, "ambiguous": self.ambiguous}
        changed = {"recased": self.recased, "renamed": self.renamed, "by_id": self.by_id}
        return {
            "columns": len(self.place),
            "matched": len(self.genes),
            "share": round(self.share, 4),
            **{kind: {"n": len(names), "first": list(names[:10])} for kind, names in kinds.items()},
            **{
                kind: {"n": len(pairs), "first": [f"{a} is {b}" for a, b in pairs[:10]]}
                for kind, pairs in changed.items()
            },
            "why_missing": {why: {"n": len(names), "first": list(names[:10])} for why, names in self.why.items()},
            "hints": list(self.hints),
        }

    @property
    def changes(self) -> str:
        """How names became genes where they were not the same, by number; empty where all were."""
        kinds = {
            "of several columns, added up": self.duplicated,
            "matched by another case": self.recased,
            "by a renamed symbol": self.renamed,
            "by symbol and id": self.by_id,
        }
        return ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names)

    def __str__(self) -> str:
        lost = ", ".join(f"{len(names)} {why}" for why, names in self.why.items())
        ambiguous = f", {len(self.ambiguous)} ambiguous" if self.ambiguous else ""
        parts = [
            f"{len(self.genes)} genes in {(self.place >= 0).sum()} of {len(self.place)} columns matched{ambiguous}",
            self.changes,
            f"missing: {lost}" if lost else "",
            *self.hints,
        ]
        return "; ".join(part for part in parts if part)


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


def gene_ids(adata: AnnData) -> Shaped[np.ndarray, " column"] | None:
    """Ensembl ids of the genes of cells, without versions; None if ``var`` holds none.

    Parameters
    ----------
    adata
        Cells, of which only ``var`` is read.
    """
    return find_ids(adata.var)


def find_ids(var: pd.DataFrame) -> Shaped[np.ndarray, " column"] | None:
    """Ensembl ids, without versions, from the column or index of a table of genes that holds such ids; None if none does.

    Parameters
    ----------
    var
        Table of genes; the column ``gene_id`` is looked at first, the index last.
    """
    texts = [
        var[name] for name in ("gene_id", *var.columns) if name in var and not pd.api.types.is_numeric_dtype(var[name])
    ]
    for column in (*texts, var.index.to_series()):
        ids = column.astype(str)
        if ids.str.match(_ENSEMBL).mean() > 0.5:
            return ids.str.partition(".")[0].to_numpy(dtype=object)
    return None


def match_cells(cells: AnnData, known: Iterable[str], min_gene_share: float = MIN_SHARE) -> GeneMatch:
    """Match the genes of cells to a vocabulary, by their names and, where ``var`` holds such, their ids.

    Parameters
    ----------
    cells
        Cells, of which only ``var`` is read.
    known, min_gene_share
        As in `match_genes`.
    """
    return match_genes(cells.var_names.to_numpy(dtype=str), known, min_gene_share, gene_ids(cells))


@cache
def _symbols() -> tuple[dict[str, str], dict[str, list[str]], set[str]]:
    """HGNC's replaced symbols and their successors, the same by successor, and what HGNC has withdrawn."""
    table = json.loads(resources.files("workbench.cells").joinpath("hgnc_symbols.json").read_text(encoding="utf-8"))
    before: dict[str, list[str]] = {}
    for old, new in table["renamed"].items():
        before.setdefault(new, []).append(old)
    return table["renamed"], before, {*table["retired"], *table["several"]}


def match_genes(
    names: Any, known: Iterable[str], min_gene_share: float = MIN_SHARE, ids: Sequence[str] | np.ndarray | None = None
) -> GeneMatch:
    """Match gene names to a vocabulary, see `find_genes`, and refuse too few.

    Parameters
    ----------
    names
        Gene name of each column, in matrix order; taken as text.
    known
        Gene symbols of the vocabulary, as `Vocabulary.genes` gives them.
    min_gene_share
        Smallest share of columns that must match, from 0 to 1.
    ids
        Ensembl id of each column, without version; None where they are not known.

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
    >>> match = match_genes(["cd4", "IGJ", "CD4", "ENSG1"], ["CD4", "CD8A", "JCHAIN"])
    >>> match.genes, match.place.tolist(), match.missing, match.renamed
    (('JCHAIN', 'CD4'), [-1, 0, 1, -1], ('cd4', 'ENSG1'), (('IGJ', 'JCHAIN'),))
    """
    match = find_genes(names, known, ids)
    if not match.genes or match.share < min_gene_share:
        shown = ", ".join(str(name) for name in list(names)[:3])
        raise GeneMatchError(
            f"Only {match.share:.1%} of {len(match.place)} genes are in the vocabulary, under the stated {min_gene_share:.0%} "
            f"(first names: {shown}). To mend it, {match.hint}, or name the var column that holds gene symbols (data.gene_column). If few "
            "genes are expected to match, lower min_gene_share: data.min_gene_share in a configuration, or in Python with min_gene_share=0.01, also of model.to_tokens."
        )
    return match


def find_genes(names: Any, known: Iterable[str], ids: Sequence[str] | np.ndarray | None = None) -> GeneMatch:
    """Match gene names to known symbols: exactly, by case, by symbol and id, by the approved symbol that replaced a name.

    Blanks around names and prefixes of a human genome (``GRCh38_``) are no part of them. A name is taken for another symbol
    by HGNC's previous symbols, in either direction, only where one gene alone had it, where it is no approved symbol itself,
    and where the other name is not measured. Symbols that fit by their case alone and are written as in mouse (``Cd4``) are
    not matched, if most are.

    Parameters
    ----------
    names, ids
        As in `match_genes`.
    known
        Known gene symbols, each once.
    """
    known = set(known)
    raw = [str(name) for name in names]
    names = [_GENOME.sub("", name.strip()) for name in raw]
    by_upper: dict[str, list[str]] = {}
    for gene in known:
        by_upper.setdefault(gene.upper(), []).append(gene)
    exact = {name for name in names if name in known}
    found: list[str | None] = [name if name in known else None for name in names]
    recased, by_id, renamed, ambiguous = dict[int, str](), dict[int, str](), dict[int, str](), list[str]()
    for i, name in enumerate(names):
        if found[i] is None and (options := [g for g in by_upper.get(name.upper(), []) if g not in exact]):
            if len(options) > 1:
                ambiguous.append(name)
            else:
                recased[i] = options[0]
    foreign = {i for i in recased if _MOUSE.match(names[i])}
    foreign = foreign if len(foreign) > len(exact) + len(recased) - len(foreign) else set()
    for i in foreign:
        del recased[i]
    numbered = {gene.partition("_ENS")[0] for gene in known if "_ENS" in gene}
    for i, name in enumerate(names):
        if found[i] is None and i not in recased and ids is not None and f"{name}_{ids[i]}" in known:
            by_id[i] = f"{name}_{ids[i]}"
    measured = exact | {*recased.values(), *by_id.values()}
    successor, before, retired = _symbols()
    twice: dict[str, list[int]] = {}
    why: dict[str, list[str]] = {}
    for i, name in enumerate(names):
        if found[i] is not None or i in recased or i in by_id or name in ambiguous:
            continue
        nameless = name.lower() in _NO_NAME
        options = [new for new in [successor.get(name), *before.get(name, [])] if new in known and not nameless]
        if i not in foreign and len(options) == 1 and options[0] not in measured:
            twice.setdefault(options[0], []).append(i)
            continue
        reason = (
            "other species" if i in foreign
            else "renamed" if options
            else "several ids" if name in numbered
            else "retired" if name in retired or _CLONE.match(name)
            else "unknown"
        )  # fmt: skip
        why.setdefault(reason, []).append(name)
    for new, columns in twice.items():
        if len({names[i] for i in columns}) == 1:
            renamed |= dict.fromkeys(columns, new)
        else:
            why.setdefault("renamed", []).extend(names[i] for i in columns)
    for changed in (recased, by_id, renamed):
        for i, gene in changed.items():
            found[i] = gene
    genes = tuple(dict.fromkeys(gene for gene in found if gene is not None))
    number = {gene: i for i, gene in enumerate(genes)}
    lost = {name for some in why.values() for name in some}
    pairs = [tuple((names[i], gene) for i, gene in sorted(some.items())) for some in (recased, renamed, by_id)]
    return GeneMatch(
        genes=genes,
        place=np.array([-1 if gene is None else number[gene] for gene in found], dtype=np.int64),
        missing=tuple(name for name in names if name in lost),
        why={reason: tuple(some) for reason, some in sorted(why.items())},
        duplicated=tuple(gene for gene, n in Counter(gene for gene in found if gene is not None).items() if n > 1),
        ambiguous=tuple(ambiguous),
        recased=pairs[0],
        renamed=pairs[1],
        by_id=pairs[2],
        hints=tuple(_hints(names, raw, known, why, ids is not None)),
    )


def _hints(names: list[str], raw: list[str], known: set[str], why: dict[str, list[str]], ids: bool) -> Iterator[str]:
    """What missing names look like, where there are more than a few of a kind."""
    lost = {name for some in why.values() for name in some}
    enough = max(1, 0.01 * len(names))
    there = set(names)
    if (cleaned := sum(a != b for a, b in zip(names, raw, strict=True))) >= 1:
        yield f"{cleaned} names were read without the blanks or the genome's prefix around them"
    if sum(bool(_ENSEMBL.match(name)) for name in lost) > len(names) / 2:
        yield "the names look like Ensembl ids: name the var column that holds symbols (gene column, for example 'gene_name')"
    if "other species" in why:
        yield f"{len(why['other species'])} names are written as mouse symbols are: map them to human orthologs first"
    if "several ids" in why and not ids:
        yield (
            f"{len(why['several ids'])} symbols stand for several Ensembl ids, and are known as SYMBOL_ENSG... only: a column of "
            "var with Ensembl ids tells which"
        )
    if (r := sum(name.replace(".", "-") in known for name in lost if "." in name)) >= enough:
        yield f"{r} names look as R writes them (HLA.DRA is HLA-DRA): read them from the file that R was given"
    bases = [match[1] for name in lost if (match := _SUFFIX.match(name))]
    suffixed = sum(base in there or base in known for base in bases)
    if suffixed >= 1:
        yield (
            f"{suffixed} names end in a number that make.unique adds to repeated symbols (GENE-1 beside GENE): without it their "
            "columns would be added up"
        )
