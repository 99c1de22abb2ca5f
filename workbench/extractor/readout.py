"""Linear readouts, and their cross-validated worth beside baselines and a null."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.errors import EvaluationError
from workbench.seeds import generator
from workbench.stats import permutation_p, spearman

Metric = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Endpoint:
    """Something to read from a latent.

    Attributes
    ----------
    name
        For tables.
    kind
        ``classes``, ``binary`` (scored by AUROC) or ``depth`` (regression, scored by the absolute rank correlation).
    target
        Class names, True/False, or numbers, per cell.
    cells
        Cells that have a target.
    """

    name: str
    kind: str
    target: np.ndarray
    cells: Int[np.ndarray, " cell"]


def endpoints(
    stage: Int[np.ndarray, " cell"], stages: tuple[str, ...], branches: tuple[str, ...], depths: Any
) -> list[Endpoint]:
    """The endpoints that stage labels allow; those without both classes are still listed, and reported as undefined.

    Parameters
    ----------
    stage
        Stage number per cell, negative where unknown.
    stages, branches, depths
        Of the ruler.
    """
    known = np.flatnonzero(stage >= 0)
    names = np.array(stages)[np.maximum(stage, 0)]
    branch = np.array(branches)[np.maximum(stage, 0)]
    found = [
        Endpoint("stage", "classes", names, known),
        Endpoint("branch", "classes", branch, known),
        Endpoint("depth", "depth", np.asarray(depths)[np.maximum(stage, 0)], known),
    ]
    cd4, cd8 = (np.isin(names, [s for s in stages if s.startswith(t)]) for t in ("CD4", "CD8"))
    cd4 |= names == "Treg"
    for name, yes, no in (
        ("CD4 against CD8", cd4, cd8),
        ("monocyte against dendritic", branch == "monocyte", branch == "dendritic"),
    ):
        cells = np.flatnonzero((yes | no) & (stage >= 0))
        found.append(Endpoint(name, "binary", yes, cells))
    return found


def probe(kind: str) -> Pipeline:
    """Untrained linear readout: standardise, then logistic (classes weighted equally) or ridge regression.

    Parameters
    ----------
    kind
        As in `Endpoint`.
    """
    if kind == "depth":
        return make_pipeline(StandardScaler(), Ridge(alpha=1.0))
    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))


def _metrics(kind: str) -> dict[str, Metric]:
    if kind == "classes":
        return {
            "balanced accuracy": lambda truth, said: float(balanced_accuracy_score(truth, said)),
            "macro-F1": lambda truth, said: float(f1_score(truth, said, average="macro", zero_division=0)),
        }
    if kind == "binary":
        return {"AUROC": lambda truth, said: float(roc_auc_score(truth, said))}
    return {"|Spearman|": lambda truth, said: abs(spearman(truth, said))}


def cross_validate(
    representations: Mapping[str, Callable[[int], Float[np.ndarray, "cell feature"]]],
    wanted: list[Endpoint],
    fold: Int[np.ndarray, " cell"],
    *,
    permutations: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Score linear readouts of several representations on cells that no part of the chain was fitted on.

    Parameters
    ----------
    representations
        By name: given the number of the held-out fold, the features of all cells, made without that fold's labels.
    wanted
        Endpoints.
    fold
        Fold of each cell.
    permutations
        Null draws: the truth is permuted inside each held-out fold against the fixed predictions.
    seed
        Seed of the null.

    Returns
    -------
    list of dict
        One row per endpoint, metric and representation: ``value`` (mean over folds), ``sd`` (over folds), ``n_folds``,
        ``n_cells``, ``n_features``, ``null_mean``, ``null_high`` (97.5 %), ``p``, ``status``, ``by_fold`` (value of each
        fold). A fold without both classes is undefined and not counted.
    """
    rows: list[dict[str, Any]] = []
    for name, features_of in representations.items():
        features = {k: features_of(k) for k in sorted(set(fold.tolist()))}
        for endpoint in wanted:
            rows += [
                {"endpoint": endpoint.name, "representation": name, **row}
                for row in _score(features, endpoint, fold, permutations, seed)
            ]
    return rows


def _score(
    features: Mapping[int, np.ndarray], endpoint: Endpoint, fold: np.ndarray, permutations: int, seed: int
) -> list[dict[str, Any]]:
    metrics = _metrics(endpoint.kind)
    values: dict[str, dict[int, float]] = {name: {} for name in metrics}
    null: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for k, x in features.items():
        train, test = (endpoint.cells[side] for side in (fold[endpoint.cells] != k, fold[endpoint.cells] == k))
        truth = endpoint.target[test]
        if len(set(endpoint.target[train].tolist())) < 2 or len(set(truth.tolist())) < 2:
            continue
        model = probe(endpoint.kind).fit(x[train], endpoint.target[train])
        said = model.predict_proba(x[test])[:, 1] if endpoint.kind == "binary" else model.predict(x[test])
        rng = generator(seed, "readout null", endpoint.name, str(k))
        shuffles = [rng.permutation(truth) for _ in range(permutations)]
        for name, metric in metrics.items():
            values[name][k] = metric(truth, said)
            null[name].append(np.array([metric(shuffled, said) for shuffled in shuffles]))
    n_features = next(iter(features.values())).shape[1]
    return [_row(name, values[name], null[name], len(endpoint.cells), n_features) for name in metrics]


def _row(
    metric: str, by_fold: dict[int, float], null: list[np.ndarray], n_cells: int, n_features: int
) -> dict[str, Any]:
    values = list(by_fold.values())
    row: dict[str, Any] = {"metric": metric, "n_cells": n_cells, "n_features": n_features, "n_folds": len(values)}
    row["by_fold"] = by_fold
    if not values:
        nothing = dict.fromkeys(("value", "sd", "null_mean", "null_high", "p"), float("nan"))
        return {**row, **nothing, "status": "undefined: no fold has both classes on both sides"}
    means = np.mean(null, axis=0)
    return {
        **row,
        "value": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        "null_mean": float(means.mean()),
        "null_high": float(np.quantile(means, 0.975)),
        "p": permutation_p(float(np.mean(values)), means),
        "status": "ok",
    }


def fit_probe(x: Float[np.ndarray, "cell feature"], endpoint: Endpoint) -> dict[str, Any]:
    """Readout on all cells of an endpoint, standardisation folded into its weights.

    Parameters
    ----------
    x
        Latent of all cells.
    endpoint
        What to read.

    Returns
    -------
    dict
        ``weights`` (feature, output), ``offset`` (output,), ``classes`` (names, or empty for a depth).

    Raises
    ------
    EvaluationError
        If the cells hold one class only.
    """
    target = endpoint.target[endpoint.cells]
    if len(set(target.tolist())) < 2:
        raise EvaluationError(
            f"Endpoint '{endpoint.name}' has {len(set(target.tolist()))} class among its cells; skip it."
        )
    scaler, linear = (step for _, step in probe(endpoint.kind).fit(x[endpoint.cells], target).steps)
    weights = np.atleast_2d(linear.coef_) / scaler.scale_
    offset = np.atleast_1d(linear.intercept_) - weights @ scaler.mean_
    classes = [] if endpoint.kind == "depth" else [str(c) for c in linear.classes_]
    return {"weights": weights.T, "offset": offset, "classes": classes}
