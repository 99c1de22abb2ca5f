"""The stage that judges on held-out cells: readouts of every representation, what ours adds, and its calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.files import read_arrays
from workbench.operators.algorithm import fold
from workbench.operators.calibration import calibration_table
from workbench.operators.cell_adaptor import CellAdaptor, hybrid_sweep
from workbench.operators.controls import added_value
from workbench.operators.readout import cross_validate
from workbench.recipes.run.context import CONTROL_NAMES, RunContext
from workbench.recipes.run.operators import EMBEDDING
from workbench.seeds import key
from workbench.settings import CellHeadsConfig

TABLES = ("readouts", "added", "calibration")
Features = Callable[[int], np.ndarray]


def readouts_stage(context: RunContext, _: Path, __: Mapping[str, Any]) -> dict[str, Any]:
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
    fixed: dict[str, Any] = {"seed": config.seed, "hidden": config.readout.hidden, "names": cells.names}
    permutations = config.evaluation.permutations
    rows = cross_validate(_with_bar(every), context.endpoints, of_fold, permutations=permutations, **fixed)
    folds = [
        {**{name: row[name] for name in ("endpoint", "metric", "representation")}, "fold": k, "value": value}
        for row in rows
        for k, value in row.pop("by_fold").items()
    ]
    table = pd.DataFrame(rows)
    added = added_value(pd.DataFrame(folds), ours, 1 / len(set(of_fold.tolist())))
    calibrated = calibration_table(every[ours], context.endpoints, of_fold, groups=cells.donor, **fixed)
    context.write({"readouts": table, "added": added, "calibration": calibrated})
    return {"undefined": sorted(set(table.loc[table["status"] != "ok", "endpoint"]))}


def representations(context: RunContext) -> dict[str, Features]:
    """Features of all cells by name, each made without the labels of the fold that is given.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read, the untrained ones too.
    """
    cells, config = context.cells, context.config
    found = {context.ours: _latent(context, context.feature_map)}
    found |= {f"latent (LET on {name})": _latent(context, partial(context.control, name)) for name in CONTROL_NAMES}
    if config.cell_heads is not None:
        hybrids = hybrid_sweep() if config.cell_heads.hybrid else []
        heads = {"cell head": {}, **{f"{one['name']} head": one["parameters"] for one in hybrids}}
        found |= {name: _cell_head(context, config.cell_heads, more) for name, more in heads.items()}
    dense = np.asarray(cells.expression.todense(), dtype=np.float64)
    embedding = read_arrays(context.folder("operators") / EMBEDDING)[0]["cell"]
    width = min(10, config.adaptor.k)

    def principal(k: int) -> np.ndarray:
        from sklearn.decomposition import PCA

        pca = PCA(width, random_state=key(config.seed, "pca") % 2**32).fit(dense[cells.outside((k,))])
        return pca.transform(dense)

    return {
        **found,
        f"PCA-{width} of x": principal,
        "raw x (log-normalised panel)": lambda k: dense,
        f"scGPT {context.model.config.cell_style} embedding": lambda k: embedding,
    }


def _latent(context: RunContext, make: Callable[[tuple[int, ...]], np.ndarray]) -> Features:
    def features(k: int) -> np.ndarray:
        matrix = make((k,))
        fitted = context.fitted(matrix, (k,))
        encode, offset = fold(matrix, fitted.encoder_, fitted.bias_)
        return np.asarray(context.cells.expression @ encode) + offset

    return features


def _cell_head(context: RunContext, settings: CellHeadsConfig, more: Mapping[str, Any]) -> Features:
    """Cell or hybrid head with the configured settings, and what sets this one apart."""
    cells, width = context.cells, context.config.adaptor
    chosen = settings.model_dump(exclude={"hybrid"})

    def features(k: int) -> np.ndarray:
        rows = np.flatnonzero(cells.outside((k,)) & (cells.stage >= 0))
        # A stage of which there is one cell only has no pair within it.
        rows = rows[np.bincount(cells.stage[rows])[cells.stage[rows]] > 1]
        fitted = CellAdaptor(k=width.k, beta=width.beta, seed=context.config.seed, **chosen, **more).fit(
            cells.expression[rows],
            cells.stage[rows],
            context.ruler.distances,
            operator=context.feature_map((k,)),
            groups=None if cells.donor is None else cells.donor[rows],
            names=cells.names[rows],
        )
        return fitted.transform(cells.expression)

    return features


def _with_bar(every: Mapping[str, Features]) -> dict[str, Features]:
    """The same representations, with a bar that moves when the first features of one are asked for."""
    bar, begun = tqdm(total=len(every), unit="representation", desc="readouts"), set[str]()

    def told(name: str, k: int) -> np.ndarray:
        if name not in begun:
            begun.add(name)
            bar.update()
        return every[name](k)

    return {name: partial(told, name) for name in every}
