"""The stages of ``workbench manifold``: what is read of the model, genes on the ruler, groups of cells on the ruler of signals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from workbench.cells.anchors import Anchors, make_anchors
from workbench.cells.expression import expression_on
from workbench.engine.stages import Result, Results
from workbench.evidence.gene_ruler import degrees, gene_paths
from workbench.evidence.holdout import group_splits, holdout_correlation, random_splits, with_null
from workbench.evidence.null_rulers import bounded, rewired_links
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.factors.gene_sets import load_gene_sets
from workbench.files import read_arrays, write_arrays
from workbench.geometry.gene_covariates import make_design
from workbench.geometry.gene_vectors import ENTRY
from workbench.geometry.ruler_axis import axis_rows
from workbench.geometry.ruler_embeddings import reduced
from workbench.geometry.ruler_fit import LET, follow_rows, lay_out
from workbench.operators.capturing import Reading, clear_state, read_operators
from workbench.recipes.manifold.context import ManifoldContext
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg
from workbench.tools.gene_inputs import measured_level
from workbench.tools.gene_vectors import ALL, gene_vectors

GENE_TABLES, CELL_TABLES = ("manifold_genes",), ("manifold_cells", "manifold_axis")
MODEL, CONTROL = "model", "control"
CODE, LEVEL, EXPRESSION, UNTRAINED = (
    "a random code",
    "expression level and degree",
    "expression over cells",
    "untrained: ",
)
_FILE = "vectors.safetensors"


def operators_stage(context: ManifoldContext, trained: bool, folder: Path, _: Results) -> Result:
    """Read the operators of every head, of the model or of one of its shape that was never trained.

    Parameters
    ----------
    context
        Command whose cells are read.
    trained
        False for the untrained model.
    folder
        Folder of the stage; an interrupted capture in it goes on.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        As `read_operators` gives it.
    """
    model = context.model if trained else context.model.untrained(context.config.seed)
    found = read_operators(folder, Reading(model, context.fed_cells, context.panel, **context.reading))
    clear_state(folder)
    return found


def vectors_stage(context: ManifoldContext, folder: Path, _: Results) -> Result:
    """Mean residual vectors of the genes of the ruler, of the model and of the untrained one, with the gene table.

    Parameters
    ----------
    context
        Command whose cells are read.
    folder
        Folder of the stage, for the vectors.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``layers`` that were kept: in front of the first, the middle one, the last.
    """
    n, capture = context.model.config.n_layers, context.config.capture
    layers = sorted({(n - 1) // 2, n - 1})
    options: dict[str, Any] = {"layers": layers, "batch_size": capture.batch_size, "max_tokens": capture.max_tokens}
    options |= {"seed": context.config.seed, "min_gene_share": context.config.data.min_gene_share}
    options |= {"progress": context.backend.progress}
    arrays: dict[str, np.ndarray] = {}
    for name, model in (("model", context.model), ("untrained", context.model.untrained(context.config.seed))):
        found = gene_vectors(context.adata, model, what=f"gene vectors, {name}", **options)[ALL]
        place = {gene: i for i, gene in enumerate(found.genes)}
        rows = [place[context.panel[i]] for i in context.on_ruler[1]]
        arrays[f"{name}/table"], arrays["n"] = found.table[rows], found.n[rows]
        arrays |= {f"{name}/{layer}": found.vectors[i][rows] for i, layer in enumerate(found.layers)}
    write_arrays(folder / _FILE, arrays)
    return {"layers": [ENTRY, *layers]}


def genes_stage(context: ManifoldContext, _: Path, results: Results) -> Result:
    """Measure how the genes of the ruler follow it in each representation, beside controls.

    Expression level, detection and degree on the graph are regressed out of every representation first, and families are matched for them.

    Parameters
    ----------
    context
        Command whose operators and vectors lie on the disk.
    _
        Folder of the stage, of which nothing is needed.
    results
        Results of the stages before.

    Returns
    -------
    dict
        ``n_genes``, ``n_groups``, ``n_strata`` and ``notes``.
    """
    settings, ruler, seed = context.config.fits, context.ruler, context.config.seed
    nodes, places = context.on_ruler
    arrays = read_arrays(context.folder("vectors") / _FILE)[0]
    level = measured_level(context.adata, context.tokenizer.match, [context.panel[i] for i in places])
    seen = arrays["n"] > 0
    nodes, places, level = nodes[seen], places[seen], level[seen]
    notes = [] if seen.all() else [f"{int((~seen).sum())} genes of the ruler are a token in no cell and were left out."]
    # A gene with many edges is near to all on a graph, and is often one that is much studied, or much expressed.
    known = np.column_stack([level, np.log(degrees(ruler)[nodes])])
    groups, design = np.array(ruler.branches)[nodes], make_design(known)
    layout = lay_out(ruler.distances[np.ix_(nodes, nodes)], groups, known, folds=settings.folds, seed=seed)
    rewired = rewired_distances(ruler, nodes, seed)
    found = representations(context, arrays, seen, places, known, results["vectors"]["layers"])
    rows: list[dict[str, Any]] = []
    for name, kind, x in tqdm(found, unit="representation", desc="genes", disable=not context.backend.progress):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            own = follow_rows(
                x if name == LEVEL else design.residuals(reduced(x, settings.components)),
                layout,
                context.adaptor(),
                neighbours=settings.neighbours,
                seeds=settings.starts,
                draws=settings.draws,
                seed=seed,
                rewired=rewired,
                rewirings=settings.rewirings,
            )
        rows += [{"ruler": ruler.name, "representation": name, "kind": kind, **row} for row in own]
    table = pd.DataFrame(rows)
    tested = (table["kind"] == MODEL) & (table["method"] == LET)
    worse = np.where(tested, np.fmax(table["p"].to_numpy(), table["rewired_p"].to_numpy()), np.nan)
    table["q"] = benjamini_hochberg(worse)
    context.write({"manifold_genes": table})
    n = {"n_genes": len(nodes), "n_groups": layout.n_groups, "n_strata": int(layout.stratum.max()) + 1}
    return {**n, "notes": notes, "largest_group": int(np.bincount(layout.group).max())}


def representations(
    context: ManifoldContext,
    arrays: dict[str, np.ndarray],
    seen: np.ndarray,
    places: np.ndarray,
    known: np.ndarray,
    layers: list[int],
) -> list[tuple[str, str, Float[np.ndarray, "gene feature"]]]:
    """What genes of the ruler are represented by: name, whether it is the model's or a control, and a row per gene.

    Parameters
    ----------
    context
        Command whose operators lie on the disk.
    arrays
        Vectors by name, as `vectors_stage` left them.
    seen
        Genes of the ruler that are a token in some cell.
    places
        Their places on the panel.
    known
        Expression level, detection and logarithm of the degree of each.
    layers
        Layers of the vectors, -1 in front of the first.
    """
    matrix, spec = context.feature_map()[places], context.config.adaptor.name
    other = context.feature_map(trained=False)[places]
    cells = expression_on(context.adata, context.tokenizer.match, context.panel)[0]
    out = [(f"operator rows ({spec})", MODEL, matrix), (f"operator columns ({spec})", MODEL, _columns(context, places))]
    out.append(("gene table", MODEL, arrays["model/table"][seen]))
    out += [(f"residual stream, {_layer(i)}", MODEL, arrays[f"model/{i}"][seen]) for i in layers]
    out.append((f"{UNTRAINED}operator rows ({spec})", CONTROL, other))
    out.append((f"{UNTRAINED}residual stream, {_layer(layers[-1])}", CONTROL, arrays[f"untrained/{layers[-1]}"][seen]))
    out.append((EXPRESSION, CONTROL, np.asarray(cells[:, places].todense(), dtype=np.float64).T))
    out.append((LEVEL, CONTROL, (known - known.mean(0)) / np.maximum(known.std(0), 1e-12)))
    out.append(
        (CODE, CONTROL, generator(context.config.seed, "random code of genes").standard_normal((len(places), 64)))
    )
    return out


def rewired_distances(ruler: Ruler, nodes: np.ndarray, seed: int) -> Callable[[int], np.ndarray]:
    """Distances between some genes on rewired graphs, by the number of the draw, each made once.

    Parameters
    ----------
    ruler
        Ruler over genes, which is rewired.
    nodes
        Numbers of the genes that distances are wanted of.
    seed
        Seed of the swaps, with the number of the draw.
    """

    @cache
    def made(draw: int) -> np.ndarray:
        paths = bounded(gene_paths(rewired_links(ruler, seed, draw), len(ruler.stages), nodes)[:, nodes])
        return paths / paths.max()

    return made


def cells_stage(context: ManifoldContext, _: Path, __: Results) -> Result:
    """Measure how groups of cells follow who can signal to whom, and what the first axis of the latent goes with.

    Parameters
    ----------
    context
        Command whose operators lie on the disk.
    _, __
        Folder and results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``n_anchors``, ``n_groups``, ``n_pairs`` and ``programs``, of each the genes that are measured.
    """
    ruler, obs, n_pairs = context.cell_ruler
    settings, seed = context.config.fits, context.config.seed
    given: dict[str, Any] = {**context.config.anchors.model_dump(), "seed": seed}
    genes = context.tokenizer.match.genes
    whole = make_anchors(expression_on(context.adata, context.tokenizer.match, genes)[0], obs, **given)
    place = {gene: i for i, gene in enumerate(genes)}
    anchors = Anchors(whole.centroids[:, [place[gene] for gene in context.panel]], whole.stage, whole.table)
    maps = {
        f"operators ({context.config.adaptor.name})": (MODEL, context.feature_map()),
        f"{UNTRAINED}operators": (CONTROL, context.feature_map(trained=False)),
        "expression": (CONTROL, np.eye(len(context.panel))),
        "a random matrix": (CONTROL, generator(seed, "random map").standard_normal((len(context.panel), 64))),
    }
    kind, branch = anchors.column("cell_type"), _broad(context, anchors)
    assert kind is not None
    folds = {"random": lambda _: list(random_splits(len(anchors), settings.holdouts, seed))}
    folds["whole cell types"] = lambda _: list(group_splits(kind, against_rest=True))
    if (donor := anchors.column("donor")) is not None and len(set(donor)) > 1:
        folds["whole donors"] = lambda _: list(group_splits(donor, against_rest=True))
    programs, sizes = _programs(context, whole, place)
    rows, axes = [], []
    for name, (what, matrix) in maps.items():
        x = reduced(anchors.centroids @ matrix, settings.components)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for holdout, splits in folds.items():
                more: dict[str, Any] = {"refits": settings.cell_refits, "seed": seed, "weights": anchors.weights}
                row = with_null(
                    *holdout_correlation(x, anchors.stage, ruler.distances, splits, context.adaptor(), **more)
                )
                rows.append({"ruler": ruler.name, "representation": name, "kind": what, "holdout": holdout, **row})
            distances = ruler.distances[np.ix_(anchors.stage, anchors.stage)]
            latent = context.adaptor().fit(x, distances, anchors.weights).transform(x)
        found = axis_rows(latent, anchors.stage, branch, programs, draws=settings.draws, seed=seed)
        axes += [{"representation": name, "kind": what, **row} for row in found]
    context.write({"manifold_cells": pd.DataFrame(rows), "manifold_axis": pd.DataFrame(axes)})
    return {"n_anchors": len(anchors), "n_groups": len(ruler.stages), "n_pairs": n_pairs, "programs": sizes}


def _broad(context: ManifoldContext, anchors: Anchors) -> np.ndarray:
    """Broad class of each anchor: its branch in hematopoiesis where all types are known there, else its type."""
    kinds, blood = anchors.column("cell_type"), load_ruler("hematopoiesis")
    assert kinds is not None
    at, unknown = blood.place(kinds)
    return kinds if unknown else np.array(blood.branches)[at]


def _programs(
    context: ManifoldContext, whole: Anchors, place: dict[str, int]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    if context.config.fits.programs is None:
        return {}, {}
    sets = load_gene_sets(context.config.fits.programs).sets
    rows = {name: [place[gene] for gene in genes if gene in place] for name, genes in sets.items()}
    scores = {name: whole.centroids[:, own].mean(1) for name, own in rows.items() if own}
    return scores, {name: len(own) for name, own in rows.items()}


def _columns(context: ManifoldContext, places: np.ndarray) -> np.ndarray:
    """Columns of the feature map's operators, one row per gene of the ruler; blocks of a drift side by side."""
    matrix = context.feature_map()
    n = len(context.panel)
    blocks = [matrix[:, start : start + n] for start in range(0, matrix.shape[1], n)]
    return np.hstack([block[:, places].T for block in blocks])


def _layer(number: int) -> str:
    return "in front of layer 0" if number == ENTRY else f"behind layer {number}"
