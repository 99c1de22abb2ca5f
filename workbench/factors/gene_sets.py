"""Gene sets: read from a GMT file, shipped or the user's, and cut to the panel that the model saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import pandas as pd

from workbench.errors import ConfigError, EvaluationError, unknown_name


@dataclass(frozen=True)
class GeneSets:
    """Named sets of genes.

    Attributes
    ----------
    name
        The shipped name, or the file's name without its ending.
    sets
        Term -> its genes, each once, in the order of the file.
    sources
        Term -> the description column of the file; of the shipped sets the literature in short.
    empty
        Terms that the file names no gene of, which are left out.
    """

    name: str
    sets: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str]
    empty: tuple[str, ...] = ()


def load_gene_sets(name_or_path: str | Path) -> GeneSets:
    """Gene sets of a shipped name or of a GMT file.

    A line of a GMT file is a term, a description (may be empty) and the genes, separated by tabs. Weights as in downloads
    from Enrichr (``GENE,1.0``) are taken off; empty fields, repeated genes of a set and terms without genes are left out.

    Parameters
    ----------
    name_or_path
        ``hematopoiesis`` (programs of human blood, with their literature in ``gmt/hematopoiesis.yaml``), or the path of a
        file that ends in ``.gmt``.

    Raises
    ------
    ConfigError
        If the name is unknown, the file is missing, without genes or no text, or a line has no tab or a term that another
        line has.

    Examples
    --------
    >>> from workbench.factors.gene_sets import load_gene_sets
    >>> load_gene_sets("hematopoiesis").sets["T cell"][:3]
    ('CD3D', 'CD3E', 'CD3G')
    """
    text = str(name_or_path)
    shipped = _shipped()
    if text in shipped:
        return _parse(shipped[text].read_bytes(), text, f"Gene sets '{text}'")
    path = Path(name_or_path)
    if path.is_file():
        return _parse(path.read_bytes(), path.stem, f"Gene set file '{path}'")
    if path.suffix.lower() == ".gmt" or len(path.parts) > 1:
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(
            f"Gene set file '{path}' {found}; give the path of a GMT file, or a shipped name: {', '.join(shipped)}."
        )
    raise ConfigError(f"{unknown_name('gene sets', text, shipped)} A file of your own is named with its ending, .gmt.")


def on_panel(
    sets: GeneSets, panel: Sequence[str], min_size: int = 3, max_size: int = 500
) -> tuple[GeneSets, pd.DataFrame]:
    """Cut every set to the genes of a panel.

    A symbol matches the panel's gene of the same spelling, else the one gene that is the same when both are upper-cased.

    Parameters
    ----------
    sets
        Gene sets of any source, shipped or the user's; not changed.
    panel
        The genes that the model saw, each once.
    min_size, max_size
        A term is kept with this many genes on the panel, ends included, and never when it is the whole panel: there
        would be nothing to compare it with.

    Returns
    -------
    tuple
        The sets that are kept, in the panel's spelling and order; and one row per term, kept or not: ``term``,
        ``n_genes`` (in the set), ``n_panel`` (of these on the panel), ``kept``, ``why`` (empty where it is kept).

    Raises
    ------
    EvaluationError
        If the panel names a gene twice, the sizes are the wrong way round, or no gene of any set is on the panel.

    Examples
    --------
    >>> from workbench.factors.gene_sets import GeneSets, on_panel
    >>> mine = GeneSets("mine", {"TCR": ("CD3D", "CD3E", "CD3G"), "few": ("CD4",)}, {"TCR": "", "few": ""})
    >>> kept, table = on_panel(mine, ["cd3d", "CD3E", "CD3G", "GATA1"])
    >>> kept.sets
    {'TCR': ('cd3d', 'CD3E', 'CD3G')}
    >>> table["why"].tolist()
    ['', '0 of its genes on the panel, fewer than 3']
    """
    twice = [gene for gene, n in Counter(panel).items() if n > 1]
    if twice or not panel:
        raise EvaluationError(
            f"A panel has to name genes, each once; found {twice[0] + ' twice' if twice else 'none'}."
        )
    if not 1 <= min_size <= max_size:
        raise EvaluationError(
            f"Sizes of gene sets from {min_size} to {max_size} leave none; give 1 <= min_size <= max_size."
        )
    place = {gene: i for i, gene in enumerate(panel)}
    folds = Counter(gene.upper() for gene in panel)
    folded = {gene.upper(): gene for gene in panel if folds[gene.upper()] == 1}
    kept, rows = {}, []
    for term, genes in sets.sets.items():
        matched = {gene if gene in place else folded.get(gene.upper()) for gene in genes} - {None}
        n = len(matched)
        why = ""
        if n < min_size:
            why = f"{n} of its genes on the panel, fewer than {min_size}"
        elif n > max_size:
            why = f"{n} of its genes on the panel, more than {max_size}"
        elif n == len(panel):
            why = "its genes are the whole panel"
        else:
            kept[term] = tuple(gene for gene in panel if gene in matched)
        rows.append({"term": term, "n_genes": len(genes), "n_panel": n, "kept": not why, "why": why})
    table = pd.DataFrame(rows, columns=["term", "n_genes", "n_panel", "kept", "why"])
    if not table["n_panel"].sum():
        wanted = sorted({gene for genes in sets.sets.values() for gene in genes})
        raise EvaluationError(
            f"None of the {len(wanted)} genes of '{sets.name}' ({', '.join(wanted[:3])}, ...) is among the {len(panel)} genes "
            f"of the panel ({', '.join(list(panel)[:3])}, ...): check that both are gene symbols."
        )
    return GeneSets(sets.name, kept, {term: sets.sources[term] for term in kept}), table


def usable_terms(
    sets: GeneSets, panel: Sequence[str], min_size: int = 3, max_size: int = 500
) -> tuple[GeneSets, pd.DataFrame]:
    """What `on_panel` gives, with a set or more that is kept.

    Parameters
    ----------
    sets, panel, min_size, max_size
        As in `on_panel`.

    Raises
    ------
    EvaluationError
        As `on_panel`, and if no set is kept.
    """
    kept, terms = on_panel(sets, panel, min_size, max_size)
    if not kept.sets:
        raise EvaluationError(
            f"No term of '{sets.name}' has {min_size} to {max_size} genes on the panel of {len(panel)}, the most has "
            f"{terms['n_panel'].max()}. Take a wider panel, other gene sets or other sizes."
        )
    return kept, terms


def _shipped() -> dict[str, Traversable]:
    folder = resources.files("workbench.factors") / "gmt"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".gmt")), key=lambda f: f.name)
    return {f.name.removesuffix(".gmt"): f for f in files}


def _parse(content: bytes, name: str, what: str) -> GeneSets:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(f"{what} is not text; give a GMT file, unpacked, in UTF-8.")
    sets: dict[str, tuple[str, ...]] = {}
    sources: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        term, *rest = (field.strip() for field in line.split("\t"))
        if not term or not rest:
            raise ConfigError(
                f"{what} is no GMT file: line {number} ('{line.strip()[:40]}') is not a term, a description and genes, "
                "separated by tabs."
            )
        genes = tuple(dict.fromkeys(gene for gene in map(_symbol, rest[1:]) if gene))
        if term in sets:
            raise ConfigError(f"{what} has the term '{term}' twice (again in line {number}); rename one or join them.")
        sets[term], sources[term] = genes, rest[0]
    empty = tuple(term for term, genes in sets.items() if not genes)
    if len(empty) == len(sets):
        found = f"names no gene for any of its {len(empty)} terms" if empty else "is empty"
        raise ConfigError(
            f"{what} {found}; a GMT file has one line per term: term, description, genes, separated by tabs."
        )
    for term in empty:
        del sets[term], sources[term]
    return GeneSets(name, sets, sources, empty)


def _symbol(field: str) -> str:
    gene, comma, weight = field.rpartition(",")
    try:
        float(weight)
    except ValueError:
        return field
    return gene.strip() if comma else field
