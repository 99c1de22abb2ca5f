"""Geometry of genes: what the axes of their mean residual vectors go with, beyond expression level and family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.cells.genes import MIN_SHARE
from workbench.errors import EvaluationError
from workbench.factors.gene_sets import GeneSets
from workbench.geometry.gene_claims import COLUMNS, Placed, place, set_tests
from workbench.geometry.gene_covariates import GeneDesign, make_design, make_strata
from workbench.geometry.gene_edges import STUCK, clean_edges, edge_tests
from workbench.geometry.gene_vectors import GeneAxes, GeneVectors, singular_axes
from workbench.models import CellModel
from workbench.models.load import as_model
from workbench.stats import benjamini_hochberg, enough_draws
from workbench.threads import one_thread
from workbench.tools.common import as_cells
from workbench.tools.gene_inputs import (
    CHROMOSOME,
    FAMILY,
    GeneFacts,
    as_sets,
    gene_facts,
    measured_level,
    read_edges,
    rows_of_names,
    rows_of_sets,
)
from workbench.tools.gene_vectors import ALL, gene_vectors

MODEL, TABLE, RANDOM = SOURCES = ("model", "gene table", "random weights")
BEYOND, NOT_BEYOND = "beyond level", "not beyond level"
LEVEL_AXIS, FAMILY_AXIS = "expression level", "expression level and family"
_ALPHA, _FEWEST_DRAWS = 0.05, 1000


@dataclass(frozen=True)
class GeneGeometry:
    """What the axes of gene vectors go with.

    Attributes
    ----------
    vectors, untrained
        Mean vectors of the genes that were looked at, of the model and of the same model with random weights.
    groups
        The same by group of cells, where a column was named.
    covariates
        What was regressed out, one row per gene, with ``family`` and ``chromosome`` where they were given.
    spectrum
        One row per group, layer, source and axis: ``group``, ``layer`` (-1 in front of the first, NaN for the gene table), ``source``, ``axis``
        (from 1), ``singular_value``, ``share`` of the variance, ``participation_ratio`` (of the layer), ``n`` (genes), ``level_r2`` and ``r2``
        (adjusted share of the axis that the covariates explain, without and with family; NaN for groups), ``axis_is`` (``expression level`` where
        the former, ``expression level and family`` where the latter is as large as was stated, else empty).
    axes
        One row per layer, source, axis and set; axis 0 is the nearness of the set's genes over all axes. Columns of
        `workbench.geometry.gene_claims.set_tests`, and ``q`` (Benjamini-Hochberg over all rows of the table), ``q_shuffled`` (the same under a plain
        shuffle of genes, which is too weak a null), ``axis_is`` of the spectrum, ``called``: ``beyond level`` where q is at most 0.05,
        ``not beyond level`` where only the shuffle says so, else empty.
    edges
        The same of edge lists, beside rewired lists; ``called`` is ``the rewiring does not move`` where too few edges changed, and there is no p.
    terms
        What became of each set, see `on_panel`.
    edge_lists
        One row per edge list: edges ``given``, left out because they are ``unmeasured``, of a gene with its ``own`` self, ``repeated`` or of the
        ``same_family``; ``used``, and the share that rewiring ``changed``.
    notes
        What was left out, in sentences.
    """

    vectors: GeneVectors
    untrained: GeneVectors
    groups: Mapping[str, GeneVectors]
    covariates: pd.DataFrame
    spectrum: pd.DataFrame
    axes: pd.DataFrame
    edges: pd.DataFrame
    terms: pd.DataFrame
    edge_lists: pd.DataFrame
    notes: tuple[str, ...]


@one_thread()
def gene_geometry(
    adata: AnnData,
    model: CellModel | str | Path,
    *,
    sets: Mapping[str, Sequence[str]] | GeneSets | str | Path | None = None,
    edges: pd.DataFrame | Mapping[str, pd.DataFrame | str | Path] | str | Path | None = None,
    covariates: pd.DataFrame | None = None,
    groupby: str | None = None,
    layers: str | Sequence[int] = "all",
    n_axes: int = 10,
    draws: int | None = None,
    directed: bool = False,
    min_cells: int = 10,
    min_size: int = 5,
    max_size: int = 500,
    level_share: float = 0.5,
    min_changed: float = 0.5,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    progress: bool = True,
) -> GeneGeometry:
    """What gene sets and edge lists add to expression level, detection and family on the axes of gene vectors, layer by layer.

    The vector of a gene is its mean over the cells that express it. Beside the model stand the gene table alone, and the same model with
    random weights on the same cells; q is over all of them.

    Parameters
    ----------
    adata, model, batch_size, max_tokens, min_gene_share, progress
        As in `workbench.embed`.
    sets
        Name -> genes, sets that were loaded, a shipped name or the path of a GMT file.
    edges
        Edge list, or several by name: tables with the columns ``source`` and ``target`` or two columns in all, or paths of such tables.
    covariates
        One row per gene, named by its index as the vocabulary spells it. Numbers, such as length, are regressed out and matched for
        beside expression, detection and the number of cells in a mean, which are always. ``family`` (text) is regressed out as well, and is
        asked for by itself; ``chromosome`` (text) is asked for.
    groupby
        Column of ``obs``: vectors and spectrum within groups of cells as well.
    layers
        ``all``, or numbers of layers; the stream in front of the first comes with them, as layer -1.
    n_axes
        First singular axes of each layer that are looked at.
    draws
        Null draws of each set or list, at most; None for as many as let one single hit be found (`enough_draws`), 1,000 at least.
    directed
        Whether edges lead from ``source`` to ``target``, so that rewiring keeps both numbers of edges of a gene.
    min_cells
        Genes that are a token in fewer cells are left out.
    min_size, max_size
        Genes that a set has among those that are looked at.
    level_share
        Share of an axis that covariates explain from which on it is called by them, from 0 to 1.
    min_changed
        Share of the edges that rewiring must change for a p, from 0 to 1.
    seed
        Seed of random weights, of null draws, and of tokens where a cell has too many.

    Returns
    -------
    GeneGeometry
        Vectors, spectrum, and the tables of sets and edges.

    Raises
    ------
    EvaluationError
        If too few genes are left, no set is large enough, an edge list has no measured edge, or a table does not have its columns.

    Examples
    --------
    >>> found = workbench.gene_geometry(cells, "artifacts/scgpt-blood-mini", sets="hematopoiesis")  # doctest: +SKIP
    >>> found.axes.query("source == 'model' and q < 0.05")  # doctest: +SKIP
    """
    _check(n_axes, draws, min_cells, level_share, min_changed)
    model = as_model(model)
    options: dict[str, Any] = {"layers": layers, "batch_size": batch_size, "max_tokens": max_tokens, "seed": seed}
    options |= {"min_gene_share": min_gene_share, "progress": progress}
    tokenizer = model.tokenizer(adata, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share)
    match, genes = tokenizer.match, tokenizer.match.genes
    # What a user gave is read before any pass, so that it is refused at once.
    given = None if sets is None else as_sets(sets)
    if edges is not None:
        read_edges(edges, genes)
    level = measured_level(as_cells(adata), match, genes)
    before = gene_facts(genes, level, np.zeros(len(genes), dtype=int), covariates)
    # No more genes than these can be left, so that too few of them are refused before the passes.
    whole = np.isfinite(before.table.to_numpy()).all(1)
    make_design(before.table.to_numpy()[whole], None if before.family is None else before.family[whole])
    by_group = gene_vectors(adata, model, groupby=groupby, what=MODEL, **options)
    other = gene_vectors(adata, model.untrained(seed), what=RANDOM, **options)[ALL]
    vectors = by_group.pop(ALL)
    facts = gene_facts(genes, level, vectors.n, covariates)
    seen, valued = vectors.n >= min_cells, np.isfinite(facts.table.to_numpy()).all(1)
    kept = seen & valued
    if kept.sum() < 3:
        raise EvaluationError(
            f"{kept.sum()} of {len(genes)} genes are a token in {min_cells} cells or more and have all covariates; take more cells, or lower min_cells."
        )
    notes = _notes(len(genes), int((~seen).sum()), int((seen & ~valued).sum()), min_cells, given, genes)
    vectors, other = vectors.take(kept), other.take(kept)
    facts = GeneFacts(facts.table[kept], *(None if of is None else of[kept] for of in (facts.family, facts.chromosome)))
    table = facts.table.to_numpy()
    blocks = _blocks(vectors, other, n_axes)
    plain, design = make_design(table), make_design(table, facts.family)
    spectrum = _spectrum(blocks, plain, design, level_share)
    kinds, terms = _asked(facts, given, vectors.genes, min_size, max_size)
    strata, free = make_strata(table, facts.family), make_strata(table)
    placed = {"": place(blocks, design), FAMILY: place(blocks, plain)}
    n_tests = len(list(placed[""].rows())) * sum(len(one) for one in kinds.values())
    most = draws or max(enough_draws(n_tests), _FEWEST_DRAWS)
    parts = [
        set_tests(
            placed[FAMILY if kind == FAMILY else ""], asked, free if kind == FAMILY else strata,
            kind=kind, draws=most, seed=seed,
        )
        for kind, asked in kinds.items()
    ]  # fmt: skip
    axes = _judged(pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS)), spectrum)
    linked, lists = _edges(edges, vectors.genes, facts, placed[""], strata, draws, directed, min_changed, seed)
    groups, more = {}, []
    for name, found in by_group.items():
        groups[name] = found.take(kept & (found.n >= min_cells))
        if len(groups[name].genes) >= 3:
            more.append(_spectrum(_layers(groups[name], n_axes, MODEL), None, None, level_share).assign(group=name))
        else:
            notes = (*notes, f"Group '{name}' has {len(groups[name].genes)} genes with {min_cells} cells; no spectrum.")
    text = {name: of for name, of in ((FAMILY, facts.family), (CHROMOSOME, facts.chromosome)) if of is not None}
    spectrum = pd.concat([spectrum, *more], ignore_index=True)
    about = facts.table.assign(**text)
    return GeneGeometry(
        vectors, other, groups, about, spectrum, axes, _judged(linked, spectrum), terms, lists, tuple(notes)
    )


def _check(n_axes: int, draws: int | None, min_cells: int, level_share: float, min_changed: float) -> None:
    for name, value in (("n_axes", n_axes), ("min_cells", min_cells), ("draws", 1 if draws is None else draws)):
        if value < 1:
            raise EvaluationError(f"{name} is {value}; give 1 or more.")
    for name, share in (("level_share", level_share), ("min_changed", min_changed)):
        if not 0 <= share <= 1:
            raise EvaluationError(f"{name} is {share}; give a share from 0 to 1.")


def _notes(
    n: int, rare: int, without: int, min_cells: int, sets: GeneSets | None, genes: Sequence[str]
) -> tuple[str, ...]:
    said = []
    if rare:
        said.append(f"{rare} of {n} genes are a token in fewer than {min_cells} cells and were left out.")
    if without:
        said.append(f"{without} of {n} genes have no value of a covariate and were left out.")
    if sets is not None:
        named, known = {gene for one in sets.sets.values() for gene in one}, {gene.upper() for gene in genes}
        lost = sorted(gene for gene in named if gene.upper() not in known)
        if lost:
            said.append(
                f"{len(lost)} of the {len(named)} genes of the sets are not measured or not in the vocabulary ({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''})."
            )
    return tuple(said)


def _layers(vectors: GeneVectors, n_axes: int, source: str) -> list[tuple[float, str, GeneAxes]]:
    return [
        (float(layer), source, singular_axes(x, n_axes))
        for layer, x in zip(vectors.layers, vectors.vectors, strict=True)
    ]


def _blocks(vectors: GeneVectors, other: GeneVectors, n_axes: int) -> list[tuple[float, str, GeneAxes]]:
    table = (float("nan"), TABLE, singular_axes(vectors.table, n_axes))
    return [*_layers(vectors, n_axes, MODEL), table, *_layers(other, n_axes, RANDOM)]


def _spectrum(
    blocks: list[tuple[float, str, GeneAxes]], plain: GeneDesign | None, design: GeneDesign | None, level_share: float
) -> pd.DataFrame:
    rows = []
    for layer, source, axes in blocks:
        k = axes.coordinates.shape[1]
        level, whole = (
            np.full(k, np.nan) if one is None else one.explained(axes.coordinates) for one in (plain, design)
        )
        for i in range(k):
            said = LEVEL_AXIS if level[i] >= level_share else FAMILY_AXIS if whole[i] >= level_share else ""
            where = {"group": ALL, "layer": layer, "source": source, "axis": i + 1}
            size = {
                "singular_value": axes.values[i],
                "share": axes.shares[i],
                "participation_ratio": axes.participation,
            }
            more = {"n": len(axes.coordinates), "level_r2": level[i], "r2": whole[i], "axis_is": said}
            rows.append({**where, **size, **more})
    return pd.DataFrame(rows)


def _asked(
    facts: GeneFacts, sets: GeneSets | None, genes: Sequence[str], min_size: int, max_size: int
) -> tuple[dict[str, dict[str, np.ndarray]], pd.DataFrame]:
    kinds, terms = {}, []
    if sets is not None:
        kinds["set"], found = rows_of_sets(sets, genes, min_size, max_size)
        terms.append(found.assign(kind="set"))
    for kind, names in ((CHROMOSOME, facts.chromosome), (FAMILY, facts.family)):
        if names is not None:
            kinds[kind], said = rows_of_names(names, kind, min_size)
            terms.append(pd.DataFrame(said, columns=["term", "n_genes", "n_panel", "kept", "why"]).assign(kind=kind))
    empty = pd.DataFrame(columns=["term", "n_genes", "n_panel", "kept", "why", "kind"])
    return kinds, pd.concat(terms, ignore_index=True) if terms else empty


def _edges(
    edges: pd.DataFrame | Mapping[str, pd.DataFrame | str | Path] | str | Path | None,
    genes: Sequence[str],
    facts: GeneFacts,
    placed: Placed,
    strata: np.ndarray,
    draws: int | None,
    directed: bool,
    min_changed: float,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts, lists = [], []
    every = {} if edges is None else read_edges(edges, genes)
    most = draws or max(enough_draws(len(list(placed.rows())) * len(every)), _FEWEST_DRAWS)
    for name, rows in every.items():
        used, left_out = clean_edges(rows, facts.family)
        tests, changed = edge_tests(
            placed, name, used, strata, directed=directed, draws=most, min_changed=min_changed, seed=seed
        )
        parts.append(tests.assign(changed=changed, stuck=changed < min_changed))
        lists.append({"list": name, "given": len(rows), **left_out, "used": len(used), "changed": changed})
    columns = ["list", "given", "unmeasured", "own", "repeated", "same_family", "used", "changed"]
    tests = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*COLUMNS, "changed", "stuck"])
    return tests, pd.DataFrame(lists, columns=columns)


def _judged(tests: pd.DataFrame, spectrum: pd.DataFrame) -> pd.DataFrame:
    """Tests with q over all of them, what each axis is, and what is called of it."""
    q, shuffled = (benjamini_hochberg(tests[name].to_numpy(dtype=float)) for name in ("p", "p_shuffled"))
    kind = {(repr(r.layer), r.source, r.axis): r.axis_is for r in spectrum.itertuples() if r.group == ALL}
    axis_is = np.array([kind.get((repr(r.layer), r.source, r.axis), "") for r in tests.itertuples()], dtype=object)
    stuck = tests["stuck"].to_numpy(dtype=bool) if "stuck" in tests else np.zeros(len(tests), dtype=bool)
    called = np.where(stuck, STUCK, np.where(q <= _ALPHA, BEYOND, np.where(shuffled <= _ALPHA, NOT_BEYOND, "")))
    out = tests.drop(columns="stuck", errors="ignore")
    return out.assign(q=q, q_shuffled=shuffled, axis_is=axis_is, called=called.astype(object))
