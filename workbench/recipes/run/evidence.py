"""The stages that judge: every head and every control on held-out anchors, every representation on held-out cells."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from tqdm import tqdm

from workbench.errors import EvaluationError
from workbench.evidence.holdout import (
    FEWEST_ANCHORS,
    Split,
    group_splits,
    holdout_correlation,
    holdout_values,
    random_splits,
    with_null,
)
from workbench.files import read_arrays
from workbench.geometry.quality import trustworthiness
from workbench.operators.algorithm import fold
from workbench.operators.calibration import calibration_table
from workbench.operators.controls import added_value
from workbench.operators.readout import cross_validate
from workbench.recipes.run.chain import CONTROL_NAMES, Chain
from workbench.seeds import key
from workbench.settings import SensitivityConfig
from workbench.stats import benjamini_hochberg

BIASED = "the heads of topk were chosen by these anchors"
_NEIGHBOURS = 5


def ours_of(chain: Chain) -> str:
    """Name of the representation that the run is about: the anchor head on the configured feature map.

    Parameters
    ----------
    chain
        The run.
    """
    return f"latent (LET on {chain.config.adaptor.name})"


def heads_stage(chain: Chain, folder: Path) -> dict[str, Any]:
    """Every head, the configured feature map and the controls through the adaptor, on held-out anchors.

    Parameters
    ----------
    chain
        The run.
    folder
        Of the stage.
    """
    anchors, settings = chain.anchors(), chain.config.evaluation
    if len(anchors) < FEWEST_ANCHORS:
        raise EvaluationError(
            f"{len(anchors)} anchors are too few for a holdout, which fits on three at least and compares three others "
            f"({FEWEST_ANCHORS} are needed); raise anchors.parts, lower anchors.min_cells, or map more labels to stages."
        )
    random = list(random_splits(len(anchors), settings.holdouts, chain.config.seed))

    def score(matrix: np.ndarray, splits: Any, refits: int) -> Any:
        return holdout_correlation(
            anchors.centroids @ matrix,
            anchors.stage,
            chain.ruler.distances,
            splits,
            chain.adaptor(),
            refits=refits,
            seed=chain.config.seed,
            weights=anchors.weights,
        )

    heads, nulls = [], []
    for layer, head in tqdm(list(np.ndindex(*chain.operators.shape)), unit="head", desc="heads"):
        row, null = score(chain.operators.head(layer, head), lambda stage: random, settings.head_refits)
        heads.append({"layer": layer, "head": head, "n_anchors": len(anchors), **row})
        nulls.append(null)
    pooled = np.concatenate(nulls)
    table = pd.DataFrame([with_null(row, pooled) for row in heads])
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    table.to_csv(chain.tables / "heads.csv", index=False)
    chosen = chain.config.adaptor.feature_map == "topk"
    holdouts = []
    for name in (chain.config.adaptor.name, *CONTROL_NAMES):
        own = name == chain.config.adaptor.name
        matrix = chain.feature_map() if own else chain.control(name)
        for kind, splits in _holdouts(chain, random):
            found: dict[str, Any] = {"status": "not applicable: no donors"}
            if splits is not None:
                found = (
                    {"status": f"not applicable: {BIASED}"}
                    if chosen and own
                    else with_null(*score(matrix, splits, settings.refits))
                )
            holdouts.append({"operator": name, "holdout": kind, **found})
    pd.DataFrame(holdouts).to_csv(chain.tables / "holdouts.csv", index=False)
    return {"n_anchors": len(anchors), "n_stages": len(set(anchors.stage.tolist()))}


def _holdouts(chain: Chain, random: list[Split]) -> list[tuple[str, Any]]:
    """Kind of holdout, and how it splits anchors by their stages; None: it cannot."""
    table, branches = chain.anchors().table, np.array(chain.ruler.branches)
    donors = list(group_splits(table["donor"].to_numpy())) if "donor" in table else []
    return [
        ("random", lambda stage: random),
        ("branch", lambda stage: list(group_splits(branches[stage], against_rest=True))),
        ("donor", (lambda stage: donors) if donors else None),
    ]


def representations(chain: Chain) -> dict[str, Callable[[int], np.ndarray]]:
    """Features of all cells by name, each made without the labels of the fold that is given.

    Parameters
    ----------
    chain
        The run.
    """
    found = {ours_of(chain): _latent(chain, chain.feature_map)}
    found |= {f"latent (LET on {name})": _latent(chain, partial(chain.control, name)) for name in CONTROL_NAMES}
    found |= {name: _cell_head(chain, more) for name, more in _cell_heads(chain).items()}
    dense = np.asarray(chain.expression.todense(), dtype=np.float64)
    embedding = read_arrays(chain.out / "stages" / "operators" / "cells.safetensors")[0]["cell"]
    width = min(10, chain.config.adaptor.k)

    def principal(k: int) -> np.ndarray:
        from sklearn.decomposition import PCA

        pca = PCA(width, random_state=key(chain.config.seed, "pca") % 2**32).fit(dense[chain.fold != k])
        return pca.transform(dense)

    return {
        **found,
        f"PCA-{width} of x": principal,
        "raw x (log-normalised panel)": lambda k: dense,
        f"scGPT {chain.model.config.cell_style} embedding": lambda k: embedding,
    }


def _latent(chain: Chain, make: Callable[[tuple[int, ...]], np.ndarray]) -> Callable[[int], np.ndarray]:
    def features(k: int) -> np.ndarray:
        matrix = make((k,))
        fitted = chain.fitted(matrix, (k,))
        encode, offset = fold(matrix, fitted.encoder_, fitted.bias_)
        return np.asarray(chain.expression @ encode) + offset

    return features


def _cell_heads(chain: Chain) -> dict[str, dict[str, Any]]:
    """Cell and hybrid heads that are asked for, with what sets them apart."""
    settings = chain.config.cell_heads
    if settings is None:
        return {}
    from workbench.operators.cell_adaptor import hybrid_sweep

    hybrids = hybrid_sweep() if settings.hybrid else []
    return {"cell head": {}, **{f"{hybrid['name']} head": hybrid["parameters"] for hybrid in hybrids}}


def _cell_head(chain: Chain, more: dict[str, Any]) -> Callable[[int], np.ndarray]:
    def features(k: int) -> np.ndarray:
        stage = chain.obs["stage"].to_numpy()
        rows = np.flatnonzero(chain.outside((k,)) & (stage >= 0))
        # A stage of which there is one cell only has no pair within it.
        rows = rows[np.bincount(stage[rows])[stage[rows]] > 1]
        fitted = cell_adaptor(chain, more).fit(
            chain.expression[rows],
            stage[rows],
            chain.ruler.distances,
            operator=chain.feature_map((k,)),
            groups=None if chain.donors is None else chain.donors[rows],
            names=chain.obs.index.to_numpy(dtype=str)[rows],
        )
        return fitted.transform(chain.expression)

    return features


def cell_adaptor(chain: Chain, more: dict[str, Any]) -> Any:
    """Untrained cell or hybrid head with the configured settings.

    Parameters
    ----------
    chain
        The run.
    more
        What sets this one apart.
    """
    from workbench.operators.cell_adaptor import CellAdaptor

    settings, width = chain.config.cell_heads, chain.config.adaptor
    if settings is None:
        raise EvaluationError("The configuration has no section 'cell_heads', so no cell head can be fitted; add one.")
    chosen = settings.model_dump(exclude={"hybrid"})
    return CellAdaptor(k=width.k, beta=width.beta, seed=chain.config.seed, **chosen, **more)


def readouts_stage(chain: Chain, folder: Path) -> dict[str, Any]:
    """Cross-validated readouts of the latent, of controls and of baselines; what ours adds; calibration.

    Parameters
    ----------
    chain
        The run.
    folder
        Of the stage.
    """
    settings, hidden = chain.config.evaluation, chain.config.readout.hidden
    every = representations(chain)
    # Ours is asked for again when its probabilities are calibrated.
    every[ours_of(chain)] = cache(every[ours_of(chain)])
    rows = cross_validate(
        _with_bar(every),
        chain.endpoints,
        chain.fold,
        permutations=settings.permutations,
        seed=chain.config.seed,
        hidden=hidden,
        names=chain.obs.index.to_numpy(dtype=str),
    )
    folds = [
        {**{name: row[name] for name in ("endpoint", "metric", "representation")}, "fold": k, "value": value}
        for row in rows
        for k, value in row.pop("by_fold").items()
    ]
    table = pd.DataFrame(rows)
    table.to_csv(chain.tables / "readouts.csv", index=False)
    added = added_value(pd.DataFrame(folds), ours_of(chain), 1 / len(set(chain.fold.tolist())))
    added.to_csv(chain.tables / "added.csv", index=False)
    calibrated = calibration_table(
        every[ours_of(chain)],
        chain.endpoints,
        chain.fold,
        hidden=hidden,
        groups=chain.donors,
        names=chain.obs.index.to_numpy(dtype=str),
        seed=chain.config.seed,
    )
    calibrated.to_csv(chain.tables / "calibration.csv", index=False)
    return {"undefined": sorted(set(table.loc[table["status"] != "ok", "endpoint"]))}


def _with_bar(every: dict[str, Callable[[int], np.ndarray]]) -> dict[str, Callable[[int], np.ndarray]]:
    """The same representations, with a bar that moves when the first features of one are asked for."""
    bar, begun = tqdm(total=len(every), unit="representation", desc="readouts"), set[str]()

    def told(name: str, k: int) -> np.ndarray:
        if name not in begun:
            begun.add(name)
            bar.update()
        return every[name](k)

    return {name: partial(told, name) for name in every}


def sensitivity_stage(chain: Chain, settings: SensitivityConfig, folder: Path) -> dict[str, Any]:
    """Holdouts, fit and neighbourhoods of the configured feature map over widths, and over both weights.

    Parameters
    ----------
    chain
        The run.
    settings
        What to sweep.
    folder
        Of the stage.
    """
    anchors = chain.anchors()
    features, between = anchors.centroids @ chain.feature_map(), chain.between(anchors)
    random = list(random_splits(len(anchors), chain.config.evaluation.holdouts, chain.config.seed))
    own = chain.config.adaptor
    grid: list[tuple[str, dict[str, float]]] = [("k", {"k": k}) for k in settings.ks]
    grid += [("alpha x beta", {"alpha": a, "beta": b}) for a in settings.alphas for b in settings.betas]
    rows = []
    for swept, changes in tqdm(grid, unit="setting", desc="sensitivity"):
        adaptor = chain.adaptor(**changes)
        fitted = clone(adaptor).fit(features, between, anchors.weights)
        kept = trustworthiness(features, fitted.transform(features), min(_NEIGHBOURS, (len(anchors) - 1) // 2))
        about = {
            "swept": swept,
            **{name: changes.get(name, getattr(own, name)) for name in ("k", "alpha", "beta")},
            "stress": fitted.stress_,
            "trustworthiness": float(kept.mean()),
            "n_anchors": len(anchors),
        }
        for kind, splits in _holdouts(chain, random):
            if splits is None:
                continue
            values, _ = holdout_values(
                features, anchors.stage, chain.ruler.distances, splits(anchors.stage), adaptor, anchors.weights
            )
            spread = {"spearman": values.mean() if len(values) else np.nan, "n_splits": len(values)}
            rows.append({**about, "holdout": kind, **spread, "sd": values.std(ddof=1) if len(values) > 1 else np.nan})
    pd.DataFrame(rows).to_csv(chain.tables / "sensitivity.csv", index=False)
    return {"n_settings": len(grid)}
