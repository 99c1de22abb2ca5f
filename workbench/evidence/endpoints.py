"""What is asked of every method, and how its predictions are judged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.metrics import adjusted_rand_score, recall_score
from sklearn.model_selection import StratifiedKFold

from workbench.cells.placed import PlacedCells
from workbench.evidence.protocol import PSEUDOTIME, Prediction, Predictions
from workbench.operators.calibration import calibration_error
from workbench.operators.readout import METRICS, Endpoint, probe, score
from workbench.seeds import key

ALL = "all"
HIGHER, LOWER = "higher", "lower"
CLUSTERS, LEAKAGE = "clusters", "donor"
_OF_CLUSTERS, _OF_DONORS = (CLUSTERS, "ARI", HIGHER), (LEAKAGE, "leakage", LOWER)
_NEIGHBOURS, _RESOLUTION, _FOLDS = 15, 1.0, 3
_FEW = 10
NOT_PREDICTED = "not predicted"


def measures(wanted: tuple[Endpoint, ...]) -> Iterator[tuple[str, str, str]]:
    """Endpoint, metric, and whether higher or lower is better, of everything that is judged.

    Parameters
    ----------
    wanted
        Endpoints that are asked about; those without labels, clusters and donor, always come last.
    """
    for one in wanted:
        for metric in (*METRICS[one.kind], *one.metrics):
            yield one.name, metric, HIGHER
        if one.kind == "depth":
            yield PSEUDOTIME, METRICS[one.kind][0], HIGHER
        if one.name == "stage":
            yield one.name, "calibration error", LOWER
    yield from (_OF_CLUSTERS, _OF_DONORS)


def judge(
    predictions: Predictions,
    truth: PlacedCells,
    asked: tuple[Endpoint, ...],
    *,
    trained: tuple[Endpoint, ...],
    seed: int,
) -> list[dict[str, Any]]:
    """Score what a method predicted of the cells of a test side: all together, and the cells of each donor.

    Parameters
    ----------
    predictions
        What the method predicted of these cells, in their order.
    truth
        The cells with their labels, which no method sees.
    asked
        Endpoints with the targets of these cells.
    trained
        Endpoints of the training side: one that has a single class there is undefined for everybody.
    seed
        Seed of the clusters and of the donor probe.

    Returns
    -------
    list of dict
        ``scope``, ``endpoint``, ``metric``, ``better``, ``value``, ``n_cells``, ``status``.
    """
    scopes = {ALL: np.ones(len(truth), dtype=bool)}
    if truth.donor is not None:
        scopes |= {str(donor): truth.donor == donor for donor in sorted(set(truth.donor.tolist()))}
    single = {one.name for one in trained if len(set(one.target[one.cells].tolist())) < 2}
    rows: list[dict[str, Any]] = []
    for scope, kept in scopes.items():
        for one in asked:
            rows += _endpoint(scope, one, predictions, kept, one.name in single)
            if one.kind == "depth":
                rows += _endpoint(scope, one, predictions, kept, False, PSEUDOTIME)
    rows.append(_row(ALL, _OF_CLUSTERS, *_clusters(predictions.latent, truth.stage, seed)))
    rows.append(_row(ALL, _OF_DONORS, *_leakage(predictions.latent, truth, seed)))
    return rows


def unjudged(asked: tuple[Endpoint, ...], status: str) -> list[dict[str, Any]]:
    """Rows of a method that predicted nothing, as `judge` gives them.

    Parameters
    ----------
    asked
        Endpoints that it would have been asked about.
    status
        Why the method predicted nothing, in words.
    """
    return [_row(ALL, what, np.nan, 0, status) for what in measures(asked)]


def _row(scope: str, what: tuple[str, str, str], value: float, n: int, status: str) -> dict[str, Any]:
    names = dict(zip(("endpoint", "metric", "better"), what, strict=True))
    return {"scope": scope, **names, "value": value, "n_cells": n, "status": status}


def _endpoint(
    scope: str, one: Endpoint, predictions: Predictions, kept: np.ndarray, single: bool, name: str = ""
) -> list[dict[str, Any]]:
    name = name or one.name
    cells = one.cells[kept[one.cells]]
    target, prediction = one.target[cells], predictions.of.get(name)
    own = [row for row in measures((one,)) if row[0] == name]
    found: dict[str, float] = {}
    if single:
        status = "undefined: the training cells have one class only"
    elif len(set(target.tolist())) < 2:
        classes = sorted(set(map(str, target.tolist())))
        status = f"undefined: {len(cells)} test cells of {'one class only' if classes else 'no class'}"
    elif prediction is None:
        status = NOT_PREDICTED
    elif not np.isfinite(prediction.values[cells]).all():
        status = "failed: a prediction is not finite"
    else:
        found, status = _values(one.kind, target, prediction, cells), "ok"
    return [_row(scope, what, found.get(what[1], np.nan), len(cells), status) for what in own]


def _values(kind: str, target: np.ndarray, prediction: Prediction, cells: np.ndarray) -> dict[str, float]:
    values = prediction.values[cells]
    if kind == "depth":
        return score(kind, target, values[:, 0])
    names = np.array(prediction.classes)
    if kind == "binary":
        yes = values[:, prediction.classes.index("True")]
        right = recall_score(target, yes > 0.5, average="macro", zero_division=0)
        return {**score(kind, target, yes), "balanced accuracy": float(right)}
    found = score(kind, target, names[values.argmax(1)])
    # A class that the method was never shown has no probability that could be right.
    known = np.isin(target.astype(str), names)
    if known.any():
        place = {name: i for i, name in enumerate(prediction.classes)}
        number = np.array([place[str(value)] for value in target[known].tolist()])
        found["calibration error"] = calibration_error(values[known], number)
    return found


def _clusters(latent: Float[np.ndarray, "cell width"] | None, stage: np.ndarray, seed: int) -> tuple[float, int, str]:
    """Adjusted Rand index of Leiden clusters of the latent, at resolution 1, against stages."""
    rows = np.flatnonzero(stage >= 0)
    if latent is None:
        return np.nan, len(rows), NOT_PREDICTED
    if len(rows) <= _NEIGHBOURS or len(set(stage[rows].tolist())) < 2:
        return np.nan, len(rows), f"undefined: {len(rows)} test cells, or one stage only"
    try:
        import igraph  # noqa: F401
    except ImportError:
        return np.nan, len(rows), "not run: needs igraph, pip install 'scgpt-workbench[peers]'"
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(np.asarray(latent[rows], dtype=np.float32))
    state = key(seed, "benchmark clusters") % 2**31
    sc.pp.neighbors(cells, n_neighbors=_NEIGHBOURS, use_rep="X", random_state=state)
    sc.tl.leiden(cells, resolution=_RESOLUTION, flavor="igraph", n_iterations=2, directed=False, random_state=state)
    return float(adjusted_rand_score(stage[rows], cells.obs["leiden"])), len(rows), "ok"


def _leakage(latent: Float[np.ndarray, "cell width"] | None, truth: PlacedCells, seed: int) -> tuple[float, int, str]:
    """How well a linear probe finds the donor once stage means are taken out: 0 by chance, 1 always.

    Cross-validated balanced accuracy a over d donors, as (a - 1/d) / (1 - 1/d); only stages that every donor has ten cells of
    count, so that what a donor is made of gives it away to nobody.
    """
    if latent is None:
        return np.nan, 0, NOT_PREDICTED
    if truth.donor is None:
        return np.nan, 0, "undefined: the data name no donors"
    n_donors = len(set(truth.donor.tolist()))
    if n_donors < 2:
        return np.nan, 0, "undefined: one donor only"
    table = pd.crosstab(truth.stage, truth.donor)
    stages = [stage for stage in table.index[(table >= _FEW).all(axis=1)] if stage >= 0]
    rows = np.flatnonzero(np.isin(truth.stage, stages))
    if not len(rows):
        return np.nan, 0, f"undefined: no stage has {_FEW} cells of every donor"
    # By name, so that the order of the cells decides nothing.
    rows = rows[np.argsort(truth.names[rows], kind="stable")]
    x, stage, donor = np.asarray(latent[rows], dtype=np.float64), truth.stage[rows], truth.donor[rows]
    x = x - pd.DataFrame(x).groupby(stage).transform("mean").to_numpy()
    if x.shape[1] > 50:
        from sklearn.decomposition import PCA

        x = PCA(50, svd_solver="covariance_eigh").fit_transform(x)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=key(seed, "donor probe") % 2**32)
    right = []
    for fitted, held in folds.split(x, donor):
        model = probe("classes")
        said = model.fit(x[fitted], donor[fitted]).predict(x[held])
        right.append(recall_score(donor[held], said, average="macro", zero_division=0))
    chance = 1 / n_donors
    return float((np.mean(right) - chance) / (1 - chance)), len(rows), "ok"
