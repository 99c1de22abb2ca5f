"""The stage that judges on held-out cells: readouts of every representation, what ours adds, and its calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.engine.stages import Result, Results
from workbench.files import read_arrays
from workbench.operators.algorithm import fold
from workbench.operators.calibration import calibration_table
from workbench.operators.cell_adaptor import fit_cell_head, hybrid_sweep
from workbench.operators.controls import RANDOM, added_value
from workbench.operators.cross_validation import cross_validate
from workbench.recipes.run.adaptor_heads import ADAPTOR_HEADS, MeasuredHeads
from workbench.recipes.run.context import CONTROL_NAMES, DRAWN, RunContext
from workbench.recipes.run.heads import beside_draws
from workbench.recipes.run.operators import EMBEDDING

TABLES = ("readouts", "added", "calibration", ADAPTOR_HEADS)
Features = Callable[..., np.ndarray]


def readouts_stage(context: RunContext, _: Path, __: Results) -> Result:
    """Cross-validate readouts of the latent, of controls and of baselines; say what ours adds, and how it is calibrated.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read, the untrained ones too.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``undefined``, the endpoints that no fold can judge.
    """
    config, cells, ours = context.config, context.cells, context.ours
    of_fold, every = cells.obs["fold"].to_numpy(), representations(context)
    # Ours is asked for again when its probabilities are calibrated.
    every[ours] = cache(every[ours])
    fixed: dict[str, Any] = {
        "seed": config.seed,
        "hidden": config.readout.hidden,
        "names": cells.names,
        "donors": cells.donor,
    }
    draws = config.evaluation.permutations
    n = len(every) + len(RANDOM) * len(context.draws(RANDOM[0]))
    with tqdm(total=n, unit="representation", desc="readouts", disable=not context.backend.progress) as bar:
        heads = MeasuredHeads(context)
        watched = {name: heads.watch(name, features) for name, features in every.items()}
        rows = cross_validate(watched, context.endpoints, of_fold, permutations=draws, bar=bar, **fixed)
        rows += _random_controls(context, rows, fixed | {"bar": bar})
    folds = [
        {**{name: row[name] for name in ("endpoint", "metric", "representation")}, "fold": k, "value": value}
        for row in rows
        for k, value in row.pop("by_fold").items()
    ]
    table = pd.DataFrame(rows)
    added = added_value(pd.DataFrame(folds), ours, 1 / len(set(of_fold.tolist())))
    calibrated = calibration_table(every[ours], context.endpoints, of_fold, hidden=fixed["hidden"], seed=config.seed)
    context.write({"readouts": table, "added": added, "calibration": calibrated, ADAPTOR_HEADS: heads.table()})
    return {"undefined": sorted(set(table.loc[table["status"] != "ok", "endpoint"]))}


def _random_controls(context: RunContext, rows: list[dict[str, Any]], fixed: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the random controls: means over their draws, in each fold too, and where ours lies among the draws."""
    of_fold, found = context.cells.obs["fold"].to_numpy(), []
    ours = {(row["endpoint"], row["metric"]): row["value"] for row in rows if row["representation"] == context.ours}
    for name in RANDOM:
        drawn: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for draw in context.draws(name):
            one = {f"latent (LET on {name})": latent_without(context, partial(context.control, name, draw=draw))}
            for row in cross_validate(one, context.endpoints, of_fold, permutations=0, **fixed):
                drawn.setdefault((row["endpoint"], row["metric"]), []).append(row)
        for what, many in drawn.items():
            beside = beside_draws(ours[what], np.array([row["value"] for row in many]))
            folds = {k: float(np.mean([row["by_fold"][k] for row in many])) for k in many[0]["by_fold"]}
            sd = float(np.std(list(folds.values()), ddof=1)) if len(folds) > 1 else float("nan")
            found.append({**many[0], "value": beside.pop("draws_mean"), "sd": sd, "by_fold": folds, **beside})
    return found


def representations(context: RunContext) -> dict[str, Features]:
    """Features of all cells by name, each made without the labels of the fold that is given.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read, the untrained ones too.
    """
    cells, config = context.cells, context.config
    found = {context.ours: latent_without(context, context.feature_map)}
    plain = [name for name in CONTROL_NAMES if name not in DRAWN]
    found |= {f"latent (LET on {name})": latent_without(context, partial(context.control, name)) for name in plain}
    if config.cell_heads is not None:
        hybrids = hybrid_sweep() if config.cell_heads.hybrid else []
        heads = {"cell head": {}, **{f"{one['name']} head": one["parameters"] for one in hybrids}}
        found |= {name: _cell_head(context, more) for name, more in heads.items()}
    width = min(10, config.adaptor.k)

    def principal(k: int) -> np.ndarray:
        from sklearn.decomposition import PCA

        # By the covariance of the genes: exact, and the order of the cells decides nothing.
        pca = PCA(width, svd_solver="covariance_eigh").fit(cells.expression[cells.outside((k,))].astype(np.float64))
        return pca.transform(cells.expression.astype(np.float64))

    found |= {f"PCA-{width} of x": principal, "raw x (log-normalised panel)": lambda k: cells.expression}
    if context.embeds:
        embedding = read_arrays(context.folder("operators") / EMBEDDING)[0]["cell"]
        found[f"scGPT {context.model.config.cell_style} embedding"] = lambda k: embedding
    return found


def latent_without(context: RunContext, make: Callable[[tuple[int, ...]], np.ndarray]) -> Features:
    """From numbers of folds to the latent of all cells, feature map and adaptor made without the cells of these folds.

    Parameters
    ----------
    context
        Run whose cells were placed.
    make
        From folds to the feature map without their cells.
    """

    def features(*folds: int) -> np.ndarray:
        matrix = make(folds)
        fitted = context.fitted(matrix, folds)
        encode, offset = fold(matrix, fitted.encoder_, fitted.bias_)
        return np.asarray(context.cells.expression @ encode) + offset

    return features


def _cell_head(context: RunContext, more: Mapping[str, Any]) -> Features:
    """Cell or hybrid head with the configured settings, and what sets this one apart."""

    def features(k: int) -> np.ndarray:
        inside = context.cells.take(np.flatnonzero(context.cells.outside((k,))))
        fitted = fit_cell_head(inside, context.feature_map((k,)), context.config, more)
        return fitted.transform(context.cells.expression)

    return features
