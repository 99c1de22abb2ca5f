"""The stages that judge on held-out anchors: every head, every control, and the adaptor under other settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from tqdm import tqdm

from workbench.cells.splits import Split
from workbench.engine.stages import Result, Results
from workbench.evidence.holdout import group_splits, holdout_correlation, random_splits, with_null
from workbench.geometry.quality import trustworthiness
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.operator import head_name
from workbench.recipes.run.config import SensitivityConfig
from workbench.recipes.run.context import BIASED, CONTROL_NAMES, RunContext
from workbench.seeds import key
from workbench.stats import benjamini_hochberg

TABLES, SENSITIVITY = ("heads", "holdouts"), "sensitivity"
_NEIGHBOURS = 5
Splits = Callable[[np.ndarray], Sequence[Split]]


def heads_stage(context: RunContext, _: Path, __: Results) -> Result:
    """Judge every head, the configured feature map and the controls through the adaptor, on held-out anchors.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read, the untrained ones too.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``n_anchors``, ``n_stages``.
    """
    anchors, settings = context.anchors(), context.config.evaluation
    random = list(random_splits(len(anchors), settings.holdouts, context.config.seed))

    adaptor, heads, nulls, holdouts = context.config.adaptor, [], [], []
    maps, kinds = (adaptor.name, *CONTROL_NAMES), _holdouts(context, random)
    each = [len(splits(anchors.stage)) * (1 + settings.refits) for _, splits in kinds if splits is not None]
    of_head, n_heads = len(random) * (1 + settings.head_refits), math.prod(context.operators.shape)
    with tqdm(total=n_heads * of_head + len(maps) * sum(each), unit="fit", desc="heads") as bar:
        for layer, head in np.ndindex(*context.operators.shape):
            features = anchors.centroids @ context.operators.head(layer, head)
            # Relabellings of its own: with the same for all, the pooled null would be few draws, each seen by every head.
            own_draws = key(context.config.seed, "null of a head", head_name(layer, head))
            row, null = _score(
                context, features, lambda stage: random, context.adaptor(), settings.head_refits, own_draws
            )
            heads.append({"layer": layer, "head": head, "n_anchors": len(anchors), **row})
            nulls.append(null)
            bar.update(of_head)
        for name in maps:
            own = name == adaptor.name
            features = anchors.centroids @ (context.feature_map() if own else context.control(name))
            for kind, splits in kinds:
                if splits is None:
                    found: dict[str, Any] = {"status": "not applicable: no donors"}
                elif own and adaptor.feature_map == "topk":
                    found = {"status": f"not applicable: {BIASED}"}
                else:
                    found = with_null(*_score(context, features, splits, context.adaptor(), settings.refits))
                    bar.update(len(splits(anchors.stage)) * (1 + settings.refits))
                holdouts.append({"operator": name, "holdout": kind, **found})
    pooled = np.concatenate(nulls)
    table = pd.DataFrame([with_null(row, pooled) for row in heads])
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    context.write({"heads": table, "holdouts": pd.DataFrame(holdouts)})
    return {"n_anchors": len(anchors), "n_stages": len(set(anchors.stage.tolist()))}


def sensitivity_stage(context: RunContext, settings: SensitivityConfig, _: Path, __: Results) -> Result:
    """Repeat the holdouts, fit and neighbourhoods of the configured feature map over widths, and over both weights.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read.
    settings
        Values of the adaptor's parameters that are tried.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``n_settings``.
    """
    anchors, own = context.anchors(), context.config.adaptor
    features, between = anchors.centroids @ context.feature_map(), context.cells.distances(anchors)
    random = list(random_splits(len(anchors), context.config.evaluation.holdouts, context.config.seed))
    grid: list[tuple[str, dict[str, float]]] = [("k", {"k": k}) for k in settings.ks]
    grid += [("alpha x beta", {"alpha": a, "beta": b}) for a in settings.alphas for b in settings.betas]
    rows = []
    for swept, changes in tqdm(grid, unit="setting", desc="sensitivity"):
        adaptor = context.adaptor(**changes)
        fitted = clone(adaptor).fit(features, between, anchors.weights)
        kept = trustworthiness(features, fitted.transform(features), min(_NEIGHBOURS, (len(anchors) - 1) // 2))
        about = {
            "swept": swept,
            **{name: changes.get(name, getattr(own, name)) for name in ("k", "alpha", "beta")},
            "stress": fitted.stress_,
            "trustworthiness": float(kept.mean()),
            "n_anchors": len(anchors),
        }
        for kind, splits in _holdouts(context, random):
            if splits is None:
                continue
            found = _score(context, features, splits, adaptor, 0)[0]
            rows.append({**about, "holdout": kind, **{name: found[name] for name in ("spearman", "n_splits", "sd")}})
    context.write({SENSITIVITY: pd.DataFrame(rows)})
    return {"n_settings": len(grid)}


def _score(
    context: RunContext, features: np.ndarray, splits: Splits, adaptor: LETAdaptor, refits: int, seed: int | None = None
) -> tuple[dict[str, Any], np.ndarray]:
    """Correlation with the ruler on held-out anchors of the run, and its null draws; by the run's seed unless one is given."""
    anchors, ruler = context.anchors(), context.ruler.distances
    drawn = context.config.seed if seed is None else seed
    return holdout_correlation(
        features, anchors.stage, ruler, splits, adaptor, refits=refits, seed=drawn, weights=anchors.weights
    )


def _holdouts(context: RunContext, random: list[Split]) -> list[tuple[str, Splits | None]]:
    """Kind of holdout, and how it splits anchors by their stages; None: it cannot."""
    donor, branches = context.anchors().column("donor"), np.array(context.ruler.branches)
    donors = [] if donor is None else list(group_splits(donor))
    return [
        ("random", lambda stage: random),
        ("branch", lambda stage: list(group_splits(branches[stage], against_rest=True))),
        ("donor", (lambda stage: donors) if donors else None),
    ]
