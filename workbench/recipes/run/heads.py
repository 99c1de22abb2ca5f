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
from workbench.evidence.technical import without_technical
from workbench.geometry.quality import trustworthiness
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.operator import head_name
from workbench.recipes.run.config import SensitivityConfig
from workbench.recipes.run.context import ANCHOR_CONTROLS, BIASED, DRAWN, RunContext
from workbench.seeds import generator, key
from workbench.stats import WITHOUT, benjamini_hochberg, permutation_p

TABLES, SENSITIVITY = ("heads", "holdouts"), "sensitivity"
_NEIGHBOURS = 5
Splits = Callable[[np.ndarray], Sequence[Split]]


def heads_stage(context: RunContext, _: Path, __: Results) -> Result:
    """Judge every head, random projections, the configured feature map and controls through the adaptor, on held-out anchors.

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
    maps, kinds = (adaptor.name, *ANCHOR_CONTROLS), _holdouts(context, random)
    twice = bool(without_technical(anchors.centroids, anchors.technical, anchors.column("donor"))[1])
    each = sum(len(splits(anchors.stage)) for _, splits in kinds if splits is not None)
    again = sum(len(context.draws(name)) if name in DRAWN else 1 + twice + settings.refits for name in maps)
    of_head, n_heads = len(random) * (1 + twice + settings.head_refits), math.prod(context.operators.shape)
    of_projections = n_heads * settings.control_draws * len(random)
    with tqdm(
        total=n_heads * of_head + of_projections + again * each,
        unit="fit",
        desc="heads",
        disable=not context.backend.progress,
    ) as bar:
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
        projections = np.array([_projected(context, random, n_heads, n, bar) for n in range(settings.control_draws)])
        ours: dict[str, float] = {}
        for name in maps:
            for kind, splits in kinds:
                if splits is None:
                    found: dict[str, Any] = {"status": "not applicable: no donors"}
                elif name == adaptor.name and adaptor.feature_map == "topk":
                    found = {"status": f"not applicable: {BIASED}"}
                elif name in DRAWN:
                    found = _drawn(context, name, splits, ours.get(kind, np.nan), bar)
                else:
                    features = context.anchor_features(name)
                    found = with_null(*_score(context, features, splits, context.adaptor(), settings.refits))
                    bar.update(len(splits(anchors.stage)) * (1 + twice + settings.refits))
                if name == adaptor.name:
                    ours[kind] = found.get("spearman", np.nan)
                holdouts.append({"operator": name, "holdout": kind, **found})
    pooled = np.concatenate(nulls)
    table = pd.DataFrame([with_null(row, pooled) for row in heads])
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    table["p_projection"] = [permutation_p(value, projections.ravel()) for value in table["spearman"]]
    context.write({"heads": table, "holdouts": pd.DataFrame(holdouts)})
    return {
        "n_anchors": len(anchors),
        "n_stages": len(set(anchors.stage.tolist())),
        "best_projections": beside_draws(float(table["spearman"].max()), projections.max(1)),
    }


def beside_draws(observed: float, drawn: np.ndarray) -> dict[str, Any]:
    """Where the draws of a random control lie, and how many do as well as what they stand beside.

    Parameters
    ----------
    observed
        The value that they stand beside; NaN where there is none.
    drawn
        Value of each draw; those without one are left out.

    Returns
    -------
    dict
        ``n_draws``, ``draws_mean``, ``draws_sd``, ``draws_low``, ``draws_high`` (the extremes), and ``p_draws``: share of
        the draws that are at least as high, the observed one counted, so never below 1 / (n_draws + 1).
    """
    drawn = drawn[np.isfinite(drawn)]
    mean, low, high = (drawn.mean(), drawn.min(), drawn.max()) if len(drawn) else (np.nan,) * 3
    return {
        "n_draws": len(drawn),
        "draws_mean": float(mean),
        "draws_sd": float(drawn.std(ddof=1)) if len(drawn) > 1 else float("nan"),
        "draws_low": float(low),
        "draws_high": float(high),
        "p_draws": permutation_p(observed, drawn),
    }


def _drawn(context: RunContext, name: str, splits: Splits, ours: float, bar: tqdm) -> dict[str, Any]:
    """A random control, the mean of its draws, and where ours lies among them; the draws are its null."""
    rows = []
    for draw in context.draws(name):
        rows.append(_score(context, context.anchor_features(name, draw), splits, context.adaptor(), 0)[0])
        bar.update(rows[-1]["n_splits"])
    table = pd.DataFrame(rows)
    found = beside_draws(ours, table["spearman"].to_numpy())
    means = {column: float(table[column].mean()) for column in ("sd", "n_pairs", "between")}
    first = {**rows[0], "n_iter": int(table["n_iter"].max()), "n_unconverged": int(table["n_unconverged"].sum())}
    return with_null({**first, **means, "spearman": found.pop("draws_mean"), **found}, np.zeros(0))


def _projected(context: RunContext, random: list[Split], n: int, draw: int, bar: tqdm) -> np.ndarray:
    """Random projections of expression, as many as heads and as narrow, through the same adaptor on the same splits."""
    anchors, found = context.anchors(), []
    for number in range(n):
        rng = generator(context.config.seed, "random projection", str(draw), str(number))
        features = anchors.centroids @ rng.standard_normal((anchors.centroids.shape[1], context.model.config.d_head))
        found.append(_score(context, features, lambda stage: random, context.adaptor(), 0)[0]["spearman"])
        bar.update(len(random))
    return np.array(found)


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
    for swept, changes in tqdm(grid, unit="setting", desc="sensitivity", disable=not context.backend.progress):
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
    """Correlation with the ruler on held-out anchors of the run, and its null draws; by the run's seed unless one is given.

    Where sequencing of the cells is known, the null is of features without what follows it, whose own correlation stands beside
    the plain one: relabelled stages follow no library size, so that a ruler that does would be above them without any program.
    """
    anchors, ruler = context.anchors(), context.ruler.distances
    drawn: dict[str, Any] = {"seed": context.config.seed if seed is None else seed}
    drawn |= {"weights": anchors.weights, "kinds": context.kinds}

    def correlated(of: np.ndarray, n: int) -> tuple[dict[str, Any], np.ndarray]:
        return holdout_correlation(of, anchors.stage, ruler, splits, adaptor, refits=n, **drawn)

    without, names = without_technical(features, anchors.technical, anchors.column("donor"))
    if not refits or not names:
        return correlated(features, refits)
    (row, _), (other, null) = correlated(features, 0), correlated(without, refits)
    row |= {name: other[name] for name in ("between_high", "between_p")}
    row |= {WITHOUT: other["spearman"], f"between_{WITHOUT}": other["between"]}
    row["n_iter"] = max(row["n_iter"], other["n_iter"])
    row["n_unconverged"] += other["n_unconverged"]
    return row, null


def _holdouts(context: RunContext, random: list[Split]) -> list[tuple[str, Splits | None]]:
    """Kind of holdout, and how it splits anchors by their stages; None: it cannot."""
    donor, branches = context.anchors().column("donor"), np.array(context.ruler.branches)
    donors = [] if donor is None else list(group_splits(donor))
    return [
        ("random", lambda stage: random),
        ("branch", lambda stage: list(group_splits(branches[stage], against_rest=True))),
        ("donor", (lambda stage: donors) if donors else None),
    ]
