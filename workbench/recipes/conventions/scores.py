"""The stages of ``workbench conventions``: a pass for each input, and one that scores every head under each convention."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from workbench.cells.anchors import Anchors, make_anchors
from workbench.cells.expression import expression_on
from workbench.engine.stages import Result, Results
from workbench.evidence.holdout import holdout_correlation, random_splits
from workbench.operators.capturing import Reading, clear_state, read_operators
from workbench.operators.controls import CODETECTION, IDENTITY, RANDOM, control
from workbench.operators.convention import KEY_QUERY, PAPER, SUM, Convention
from workbench.operators.operator import head_name
from workbench.operators.store import StoredOperators
from workbench.recipes.conventions.context import CONVENTIONS, OURS, VARIABLE, ConventionsContext
from workbench.seeds import generator
from workbench.stats import spearman

TABLES, BEST = ("conventions", "convention_heads"), 5


def pass_stage(context: ConventionsContext, name: str, folder: Path, _: Results) -> Result:
    """Read the operators of every head in a pass of its own.

    Parameters
    ----------
    context
        Command whose cells are read.
    name
        Name of the pass, one of `PASSES`.
    folder
        Folder of the stage; an interrupted capture in it goes on.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        As `read_operators` gives it, and ``n_genes``.
    """
    genes, of = context.genes_of(name), Convention(PAPER) if name == PAPER else Convention()
    found = read_operators(
        folder, Reading(context.model, context.fed_by(name), genes, **{**context.reading, "convention": of})
    )
    clear_state(folder)
    return {**found, "n_genes": len(genes)}


def scores_stage(context: ConventionsContext, _: Path, results: Results) -> Result:
    """Score every head under each convention, and controls, through the same adaptor on the same held-out anchors.

    Parameters
    ----------
    context
        Command whose passes lie on the disk.
    _
        Folder of the stage, of which nothing is needed.
    results
        Results of the passes, by the name of each.

    Returns
    -------
    dict
        ``n_anchors``, ``n_splits``, ``n_heads`` and ``n_cells``.
    """
    settings, anchors = (
        context.config.evaluation,
        {name: _anchors(context, name) for name in (OURS, VARIABLE) if name in results},
    )
    splits = list(random_splits(len(anchors[OURS]), settings.holdouts, context.config.seed))
    score = partial(_score, context, anchors[OURS], splits)
    known = {name: (of, how) for name, (of, how) in CONVENTIONS.items() if of in results}
    shape = context.model.config.n_layers, context.model.config.n_heads
    rows: list[dict[str, Any]] = []
    progress = {"unit": "head", "desc": "heads", "disable": not context.backend.progress}
    for name, at in tqdm([(name, at) for name in known for at in np.ndindex(*shape)], **progress):
        of, how = known[name]
        x = anchors.get(of, anchors[OURS]).centroids
        matrix = head_under(StoredOperators(context.folder(of)), how, *at)
        rows.append({"name": name, "head": head_name(*at), **score(x @ matrix)})
    heads = pd.DataFrame(rows)
    by_head = heads.pivot(index="head", columns="name", values="spearman").loc[heads["head"].unique(), list(known)]
    table = pd.DataFrame([_compared(context, heads, by_head, name) for name in known])
    like = head_under(
        StoredOperators(context.folder(OURS)), Convention(), *divmod(int(by_head[OURS].argmax()), shape[1])
    )
    controls = pd.DataFrame(
        [_control(context, name, like, score, anchors[OURS]) for name in (CODETECTION, IDENTITY, *RANDOM)]
    )
    context.write({"conventions": pd.concat([table, controls], ignore_index=True), "convention_heads": heads})
    n = {
        "n_anchors": len(anchors[OURS]),
        "n_splits": len(splits),
        "n_heads": len(by_head),
        "n_cells": len(context.adata),
    }
    return {**n, "unplaced": context.places[1]}


def head_under(source: StoredOperators, how: Convention, layer: int, head: int) -> Float[np.ndarray, "gene gene"]:
    """Operator of a head from the sums of a pass, pooled over cells and turned as a convention says.

    Parameters
    ----------
    source
        Operators of one group of cells, in rows of queries.
    how
        Convention, whose input is that of the pass.
    layer, head
        Place of the head, both counted from 0.
    """
    sums, counts = source.of_group(0, layer, head)
    matrix = sums if how.over_cells == SUM else sums / np.maximum(counts, 1)
    return matrix.T if how.orientation == KEY_QUERY else matrix


def _anchors(context: ConventionsContext, name: str) -> Anchors:
    genes = context.genes_of(name)
    expression = expression_on(context.adata, context.tokenizer.match, genes)[0]
    given = context.config.anchors.model_dump()
    return make_anchors(expression, context.places[0], **given, seed=context.config.seed)


def _score(context: ConventionsContext, anchors: Anchors, splits: list, features: np.ndarray) -> dict[str, Any]:
    ruler, seed = context.ruler.distances, context.config.seed
    more = {"refits": 0, "seed": seed, "weights": anchors.weights}
    row = holdout_correlation(features, anchors.stage, ruler, lambda _: splits, context.adaptor(), **more)[0]
    return {name: row[name] for name in ("spearman", "sd", "n_splits", "n_unconverged")}


def _compared(context: ConventionsContext, heads: pd.DataFrame, by_head: pd.DataFrame, name: str) -> dict[str, Any]:
    """A convention beside scGPT's own: how alike heads rank, with an interval over draws of heads, and which are best."""
    ours, own = by_head[OURS].to_numpy(), by_head[name].to_numpy()
    rng, n = generator(context.config.seed, "bootstrap of heads", name), len(ours)
    drawn = [spearman(ours[rows], own[rows]) for rows in rng.integers(0, n, (context.config.evaluation.bootstrap, n))]
    best, of = ([by_head.index[i] for i in np.argsort(-scores, kind="stable")[:BEST]] for scores in (own, ours))
    row = heads[(heads["name"] == name) & (heads["head"] == best[0])].iloc[0]
    low, high = (np.nan, np.nan) if name == OURS else np.nanquantile(drawn, (0.025, 0.975))
    return {
        "kind": "convention",
        "name": name,
        "rank_correlation": spearman(ours, own),
        "low": low,
        "high": high,
        "n_heads": n,
        "shared": len(set(best) & set(of)),
        "best": ", ".join(best),
        "median": float(np.median(own)),
        "score": row["spearman"],
        "sd": row["sd"],
        "n": row["n_splits"],
        "of": "splits",
    }


def _control(context: ConventionsContext, name: str, like: np.ndarray, score: Any, anchors: Anchors) -> dict[str, Any]:
    """Score of a control: over splits where it has no random number, else over its draws."""
    expression = expression_on(context.adata, context.tokenizer.match, context.panel)[0]
    draws = range(context.config.evaluation.control_draws if name in RANDOM else 1)
    made = (control(name, like, expression, context.config.seed, draw) for draw in draws)
    found = pd.DataFrame([score(anchors.centroids @ matrix) for matrix in made])
    about = {"kind": "control", "name": name, "score": float(found["spearman"].mean())}
    if len(found) == 1:
        return {**about, "sd": found["sd"].iloc[0], "n": found["n_splits"].iloc[0], "of": "splits"}
    return {**about, "sd": float(found["spearman"].std(ddof=1)), "n": len(found), "of": "draws"}
