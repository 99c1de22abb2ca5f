"""Readouts of a latent, linear or with one hidden layer, and their cross-validated worth beside baselines and a null."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, recall_score, roc_auc_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from workbench.seeds import generator, key
from workbench.stats import permutation_p, spearman


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


class BalancedMLP(MLPClassifier):
    """One hidden layer, classes weighted equally, as the linear readouts weigh them."""

    def fit(self, X: Any, y: Any) -> BalancedMLP:
        """Fit.

        Parameters
        ----------
        X, y
            Features and classes.
        """
        return super().fit(X, y, sample_weight=compute_sample_weight("balanced", y))


def probe(kind: str, hidden: int = 0, seed: int = 0) -> Pipeline:
    """Untrained readout: standardise, then logistic (classes weighted equally) or ridge regression.

    Parameters
    ----------
    kind
        As in `Endpoint`.
    hidden
        Width of one hidden layer of ReLUs (the method's MLP2 has 64); 0 for a linear readout.
    seed
        Of the hidden layer's first weights.
    """
    step: BaseEstimator
    if hidden:
        settings = {
            "hidden_layer_sizes": (hidden,),
            "solver": "lbfgs",
            "alpha": 1e-3,
            "max_iter": 500,
            "random_state": key(seed, "readout", kind) % 2**32,
        }
        step = (MLPRegressor if kind == "depth" else BalancedMLP)(**settings)
    else:
        step = Ridge(alpha=1.0) if kind == "depth" else LogisticRegression(class_weight="balanced", max_iter=2000)
    return make_pipeline(StandardScaler(), step)


def said(model: Pipeline, kind: str, x: Float[np.ndarray, "cell feature"]) -> np.ndarray:
    """What a readout says of cells: class names, the probability of yes, or a number.

    Parameters
    ----------
    model
        Fitted `probe`.
    kind
        As in `Endpoint`.
    x
        Features.
    """
    return model.predict_proba(x)[:, 1] if kind == "binary" else model.predict(x)


def score(kind: str, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Metrics of an endpoint, all larger where the readout is better.

    Parameters
    ----------
    kind
        As in `Endpoint`.
    truth, predicted
        Of the judged cells, which hold two classes at least; `predicted` as `said` gives it.

    Returns
    -------
    dict
        ``balanced accuracy`` and ``macro-F1`` (0 to 1), ``AUROC`` (0 to 1), or ``|Spearman|`` (0 to 1).
    """
    if kind == "classes":
        # Mean recall of the classes that are there; scikit-learn's balanced accuracy warns of any other that is predicted.
        recall = recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
        return {
            "balanced accuracy": float(recall),
            "macro-F1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        }
    if kind == "binary":
        return {"AUROC": float(roc_auc_score(truth, predicted))}
    return {"|Spearman|": abs(spearman(truth, predicted))}


METRICS: Mapping[str, tuple[str, ...]] = {
    "classes": ("balanced accuracy", "macro-F1"),
    "binary": ("AUROC",),
    "depth": ("|Spearman|",),
}


def sides(endpoint: Endpoint, test: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Cells of an endpoint to fit on and to judge on; None where either side holds one class only.

    Parameters
    ----------
    endpoint
        What is read.
    test
        Whether each cell is held out.
    """
    held = test[endpoint.cells]
    train, judged = endpoint.cells[~held], endpoint.cells[held]
    enough = all(len(set(endpoint.target[side].tolist())) > 1 for side in (train, judged))
    return (train, judged) if enough else None


def cross_validate(
    representations: Mapping[str, Callable[[int], Float[np.ndarray, "cell feature"]]],
    wanted: list[Endpoint],
    fold: Int[np.ndarray, " cell"],
    *,
    permutations: int,
    seed: int,
    hidden: int = 0,
    names: Shaped[np.ndarray, " cell"] | None = None,
) -> list[dict[str, Any]]:
    """Score readouts of several representations on cells that no part of the chain was fitted on.

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
        Seed of the null, and of hidden layers.
    hidden
        Width of the readouts' hidden layer, as in `probe`.
    names
        Of the cells: with them the null does not depend on their order.

    Returns
    -------
    list of dict
        One row per endpoint, metric and representation: ``value`` (mean over folds), ``sd`` (over folds), ``n_folds``,
        ``n_cells``, ``n_features``, ``null_mean``, ``null_high`` (97.5 %), ``p``, ``status``, ``by_fold`` (value of each
        fold). A fold without both classes is undefined and not counted.
    """
    rows: list[dict[str, Any]] = []
    place = np.arange(len(fold)) if names is None else np.argsort(np.argsort(names, kind="stable"), kind="stable")
    for name, features_of in representations.items():
        features = {k: features_of(k) for k in sorted(set(fold.tolist()))}
        for endpoint in wanted:
            rows += [
                {"endpoint": endpoint.name, "representation": name, **row}
                for row in _score(features, endpoint, fold, place, permutations, hidden, seed)
            ]
    return rows


def _score(
    features: Mapping[int, np.ndarray],
    endpoint: Endpoint,
    fold: np.ndarray,
    place: np.ndarray,
    permutations: int,
    hidden: int,
    seed: int,
) -> list[dict[str, Any]]:
    metrics = METRICS[endpoint.kind]
    values: dict[str, dict[int, float]] = {name: {} for name in metrics}
    null: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    for k, x in features.items():
        if (found := sides(endpoint, fold == k)) is None:
            continue
        train, test = found
        test = test[np.argsort(place[test])]
        truth = endpoint.target[test]
        model = probe(endpoint.kind, hidden, seed).fit(x[train], endpoint.target[train])
        predicted = said(model, endpoint.kind, x[test])
        rng = generator(seed, "readout null", endpoint.name, str(k))
        shuffles = [score(endpoint.kind, rng.permutation(truth), predicted) for _ in range(permutations)]
        for name, value in score(endpoint.kind, truth, predicted).items():
            values[name][k] = value
            null[name].append(np.array([draw[name] for draw in shuffles]))
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
