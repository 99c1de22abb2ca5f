"""The stages of ``workbench manifold``: what is read of the model, genes on the ruler, groups of cells on the ruler of signals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
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
from workbench.files import read_arrays
from workbench.geometry.gene_covariates import GeneDesign, make_design
from workbench.geometry.gene_vectors import ENTRY
from workbench.geometry.ruler_axis import axis_rows
from workbench.geometry.ruler_embeddings import reduced
from workbench.geometry.ruler_fit import LET, Layout, follow_rows, lay_out
from workbench.operators.capturing import clear_state
from workbench.recipes.manifold.context import ManifoldContext
from workbench.recipes.run.operators import VECTORS, read, trained_reading, untrained_reading
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg
from workbench.tools.gene_inputs import measured_level

GENE_TABLES, SIGNAL_TABLES = ("manifold_genes",), ("manifold_cells", "manifold_axis")
MODEL, CONTROL = "model", "control"
CODE, LEVEL, EXPRESSION, UNTRAINED = (
    "a random code",
    "expression level and degree",
    "expression over cells",
    "untrained: ",
)


def operators_stage(context: ManifoldContext, trained: bool, folder: Path, _: Results) -> Result:
    """Read operators of every head and mean vectors of genes, of the model or of one of its shape that was never trained.

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
    found = read(context, folder, trained_reading if trained else untrained_reading)
    clear_state(folder)
    return found


def genes_stage(context: ManifoldContext, _: Path, __: Results) -> Result:
    """Measure how the genes of the ruler follow it in each representation, beside controls.

    Expression level, detection and degree on the graph are regressed out of every representation first, and families are matched for them.

    Parameters
    ----------
    context
        Command whose operators and vectors lie on the disk.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``n_genes``, ``n_groups``, ``n_strata`` and ``notes``.
    """
    settings, ruler, seed = context.config.fits, context.ruler, context.config.seed
    laid = laid_genes(context)
    layout, design, notes = laid.layout, laid.design, list(laid.notes)
    rewired = rewired_distances(ruler, laid.nodes, seed)
    found = representations(context, laid.places, laid.known)
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
    n = {"n_genes": len(laid.nodes), "n_groups": layout.n_groups, "n_strata": int(layout.stratum.max()) + 1}
    return {**n, "notes": notes, "largest_group": int(np.bincount(layout.group).max())}


@dataclass(frozen=True)
class LaidGenes:
    """Genes of the panel on a ruler, with what is held out, matched and regressed out.

    Attributes
    ----------
    nodes, places
        Numbers of the genes on the ruler, and their places on the panel.
    known
        Expression level, detection and logarithm of the degree of each.
    design
        Regression of anything per gene on these.
    layout
        Distances, groups, folds and strata.
    notes
        What was left out, in sentences.
    """

    nodes: np.ndarray
    places: np.ndarray
    known: np.ndarray
    design: GeneDesign
    layout: Layout
    notes: tuple[str, ...]


def laid_genes(context: ManifoldContext) -> LaidGenes:
    """Genes of the ruler that the cells measure.

    Parameters
    ----------
    context
        Command whose operators and vectors lie on the disk.
    """
    ruler, notes = context.ruler, tuple[str, ...]()
    nodes, places = context.on_ruler
    level = measured_level(context.adata, context.tokenizer.match, [context.panel[i] for i in places])
    if context.gene_layers:
        seen = read_arrays(context.folder("operators") / VECTORS, ["n"])[0]["n"][places] > 0
        nodes, places, level = nodes[seen], places[seen], level[seen]
        if not seen.all():
            notes = (f"{int((~seen).sum())} genes of the ruler are a token in no cell and were left out.",)
    else:
        notes = ("The convention 'paper' is for operators only, so gene table and residual streams are not measured.",)
    # A gene with many edges is near to all on a graph, and is often one that is much studied, or much expressed.
    known = np.column_stack([level, np.log(degrees(ruler)[nodes])])
    between, groups = ruler.distances[np.ix_(nodes, nodes)], np.array(ruler.branches)[nodes]
    layout = lay_out(between, groups, known, folds=context.config.fits.folds, seed=context.config.seed)
    return LaidGenes(nodes, places, known, make_design(known), layout, notes)


def representations(
    context: ManifoldContext, places: np.ndarray, known: np.ndarray
) -> list[tuple[str, str, Float[np.ndarray, "gene feature"]]]:
    """What genes of the ruler are represented by: name, whether it is the model's or a control, and a row per gene.

    Parameters
    ----------
    context
        Command whose operators lie on the disk.
    places
        Places of the genes on the panel.
    known
        Expression level, detection and logarithm of the degree of each.
    """
    matrix, spec = context.feature_map()[places], context.config.adaptor.name
    other = context.feature_map(trained=False)[places]
    cells = expression_on(context.adata, context.tokenizer.match, context.panel)[0]
    out = [(f"operator rows ({spec})", MODEL, matrix), (f"operator columns ({spec})", MODEL, _columns(context, places))]
    layers = context.gene_layers
    if layers:
        arrays = read_arrays(context.folder("operators") / VECTORS)[0]
        out.append(("gene table", MODEL, arrays["table"][places]))
        out += [(f"residual stream, {_layer(i)}", MODEL, arrays[str(i)][places]) for i in layers]
    out.append((f"{UNTRAINED}operator rows ({spec})", CONTROL, other))
    if layers:
        last = read_arrays(context.folder("untrained") / VECTORS, [str(layers[-1])])[0][str(layers[-1])]
        out.append((f"{UNTRAINED}residual stream, {_layer(layers[-1])}", CONTROL, last[places]))
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


def signals_stage(context: ManifoldContext, _: Path, __: Results) -> Result:
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
