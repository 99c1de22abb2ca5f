"""What is measured of genes beside the fits: every head alone, criteria that were fixed before, and the dimension of the latent."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from tqdm import tqdm

from workbench.engine.stages import Result, Results
from workbench.errors import EvaluationError
from workbench.geometry.dimension import Scales
from workbench.geometry.dimension_tables import ESTIMATORS, dimension_table
from workbench.geometry.ruler_embeddings import reduced
from workbench.geometry.ruler_fit import LET, follow_rows
from workbench.operators.operator import head_name
from workbench.recipes.manifold.context import ManifoldContext
from workbench.recipes.manifold.stages import (
    CONTROL,
    EXPRESSION,
    LEVEL,
    MODEL,
    UNTRAINED,
    laid_genes,
    representations,
    rewired_distances,
)
from workbench.stats import benjamini_hochberg

SCREEN, GATES, DIMENSION = "manifold_heads", "manifold_gates", "manifold_dimension"
# Fixed before any run: p of each null, and q over the representations of the model.
P, Q = 0.01, 0.05


def screen_stage(context: ManifoldContext, _: Path, __: Results) -> Result:
    """Measure how the rows of each head's operator follow the ruler, on held-out families, beside both nulls.

    Parameters
    ----------
    context
        Command whose operators lie on the disk.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``n_heads``, and ``found`` with the names of those that stand out.
    """
    settings, laid, seed = context.config.fits, laid_genes(context), context.config.seed
    rewired, rows = rewired_distances(context.ruler, laid.nodes, seed), []
    heads = list(np.ndindex(*context.operators.shape))
    for layer, head in tqdm(heads, unit="head", desc="heads", disable=not context.backend.progress):
        x = laid.design.residuals(reduced(context.operators.head(layer, head)[laid.places], settings.components))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            more: dict[str, Any] = {"rewired": rewired, "rewirings": settings.rewirings}
            own = follow_rows(x, laid.layout, context.adaptor(), neighbours=(), draws=settings.draws, seed=seed, **more)
        row = next(one for one in own if one["method"] == LET)
        about = {"layer": layer, "head": head, "sd": np.nan, "n_splits": settings.folds, "n_anchors": row["n_points"]}
        rows.append({"ruler": context.ruler.name, **about, **row})
    table = pd.DataFrame(rows)
    table["q"] = benjamini_hochberg(np.fmax(table["p"].to_numpy(), table["rewired_p"].to_numpy()))
    context.write({SCREEN: table})
    out = table[(table["p"] <= P) & (table["rewired_p"] <= P) & (table["q"] <= Q)]
    return {
        "n_heads": len(table),
        "found": [head_name(int(at[0]), int(at[1])) for at in out[["layer", "head"]].to_numpy()],
    }


def gates_stage(context: ManifoldContext, _: Path, __: Results) -> Result:
    """Put each representation of the model through criteria that were fixed before, from the table of fits.

    They take the place of the gates of rulers over cells: whole families are held out where those hold out branches and donors.

    Parameters
    ----------
    context
        Command whose table ``manifold_genes`` is read.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``passed``, how many criteria each representation meets.
    """
    table = context.read("manifold_genes")
    held = table[(table["method"] == LET) & (table["status"] == "ok")]
    beside = held[held["kind"] == CONTROL].set_index("representation")["spearman"]
    blind = beside.index.str.startswith(UNTRAINED)
    limits = {
        "above the same network before training": beside[blind].max(),
        "above expression over cells": beside.get(EXPRESSION, np.nan),
        "above level and degree": beside.get(LEVEL, np.nan),
    }
    rows = []
    for own in held[held["kind"] == MODEL].to_dict("records"):
        asked = [
            ("beyond families of like expression and degree", own["p"], P, own["p"] <= P),
            ("beyond rewired graphs", own["rewired_p"], P, own["rewired_p"] <= P),
            ("q over the model's representations", own["q"], Q, own["q"] <= Q),
            *((name, own["spearman"], limit, own["spearman"] > limit) for name, limit in limits.items()),
        ]
        about = {"ruler": context.ruler.name, "representation": own["representation"], "n_pairs": own["n_pairs"]}
        rows += [
            {**about, "gate": gate, "value": value, "threshold": limit, "status": "pass" if met else "fail"}
            for gate, value, limit, met in asked
        ]
    gates = pd.DataFrame(rows)
    context.write({GATES: gates})
    passed = gates[gates["status"] == "pass"].groupby("representation", sort=False).size()
    return {"passed": {str(name): int(n) for name, n in passed.items()}, "of": gates["gate"].nunique()}


def dimension_stage(context: ManifoldContext, _: Path, __: Results) -> Result:
    """Estimate the dimension of the latent of genes, of each representation, by every estimator.

    Parameters
    ----------
    context
        Command whose operators and vectors lie on the disk.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``undefined``, why by representation.
    """
    laid, settings = laid_genes(context), context.config.fits
    # Half of the genes are looked at for the interval.
    k = max(3, min(Scales().k, len(laid.nodes) // 2 - 2))
    scales, parts, undefined = Scales(k, max(2, k // 2), k), [], {}
    for name, kind, x in representations(context, laid.places, laid.known):
        own = x if name == LEVEL else laid.design.residuals(reduced(x, settings.components))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            latent = context.adaptor().fit(own, laid.layout.distances).transform(own)
        try:
            found = dimension_table(latent, estimators=ESTIMATORS, scales=scales, seed=context.config.seed)
        except EvaluationError as error:
            undefined[name] = str(error)
            continue
        # What the figure has room for.
        shown = kind == MODEL and "columns" not in name and "in front" not in name
        parts.append(found.assign(ruler=context.ruler.name, space=name, kind=kind, shown=shown))
    columns = ["estimator", "dimension", "low", "high", "n", "k", "note", "ruler", "space", "kind", "shown"]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    context.write({DIMENSION: table})
    return {"undefined": undefined, "width": context.config.adaptor.k}
