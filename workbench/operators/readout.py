"""Readouts of a latent, linear or with one hidden layer, and their cross-validated worth beside baselines and a null."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from tqdm import tqdm

from workbench.evidence.ruler import Ruler
from workbench.seeds import generator, key
from workbench.stats import dealt_anew, null_of_folds, null_summary

# Cells that a readout is fitted on, at most: the paper's own number. And cells that are judged at a time, where features are sparse.
MOST_FITTED, _BLOCK = 100_000, 4096


@dataclass(frozen=True)
class Endpoint:
    """Something to read from a latent.

    Attributes
    ----------
    name
        Name in tables, each once among the endpoints of a run.
    kind
        ``classes``, ``binary`` (scored by AUROC) or ``depth`` (regression, scored by the absolute rank correlation).
    target
        Class names, True/False, or numbers, per cell.
    cells
        Cells that have a target.
    metrics
        Metrics that the benchmark gives beside those of the kind.
    """

    name: str
    kind: str
    target: np.ndarray
    cells: Int[np.ndarray, " cell"]
    metrics: tuple[str, ...] = ()


def endpoints(stage: Int[np.ndarray, " cell"], ruler: Ruler, present: Collection[int] = ()) -> list[Endpoint]:
    """Stage, branch, depth and the ruler's own binary endpoints, in the order of its file.

    Endpoints that have one class only in these cells are listed as well, and reported as undefined.

    Parameters
    ----------
    stage
        Stage number per cell, negative where unknown.
    ruler
        The ruler that the stage numbers are of.
    present
        Stage numbers that a whole campaign has cells of. An endpoint with ``only_if`` is asked only where one of its stages
        is among them, so by default it is not.
    """
    at, on = np.maximum(stage, 0), stage >= 0
    known = np.flatnonzero(on)
    found = [
        Endpoint("stage", "classes", np.array(ruler.stages)[at], known),
        Endpoint("branch", "classes", np.array(ruler.branches)[at], known),
        Endpoint("depth", "depth", np.asarray(ruler.depths)[at], known),
    ]
    there = {ruler.stages[number] for number in present}
    for one in ruler.endpoints:
        if not one.only_if or there & set(one.only_if):
            yes, no = (np.isin(ruler.stages, side)[at] & on for side in (one.yes, one.no))
            found.append(Endpoint(one.name, "binary", yes, np.flatnonzero(yes | no), one.metrics))
    return found


class BalancedMLP(MLPClassifier):
    """One hidden layer, classes weighted equally, as the linear readouts weigh them."""

    def fit(self, X: Any, y: Any) -> BalancedMLP:
        """Fit.

        Parameters
        ----------
        X
            Features, one row per cell.
        y
            Class of each cell, of any type.
        """
        return super().fit(X, y, sample_weight=compute_sample_weight("balanced", y))


class DoubleScaler(StandardScaler):
    """Standardisation in double precision, so that what is fitted after it is, whatever the features come in."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> DoubleScaler:
        """Fit.

        Parameters
        ----------
        X
            Features, one row per cell.
        y
            Without effect; there because pipelines hand it over.
        sample_weight
            Weight of each cell; all equal when None.
        """
        return super().fit(np.asarray(X, dtype=np.float64), y, sample_weight)

    def transform(self, X: Any, copy: bool | None = None) -> Any:
        """Standardised features, float64.

        Parameters
        ----------
        X
            Features, one row per cell.
        copy
            Whether features that are float64 already are copied, as in scikit-learn.
        """
        return super().transform(np.asarray(X, dtype=np.float64), copy)


def logistic() -> LogisticRegression:
    """Logistic regression, classes weighted equally, that runs to its optimum.

    With scikit-learn's own settings L-BFGS stops where decisions are off by tenths, and the last digits of an embedding
    decide which cells are on the right side. Newton's method takes a dozen steps to the optimum, in less time.
    """
    return LogisticRegression(class_weight="balanced", solver="newton-cg", tol=1e-8, max_iter=1000)


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
        made, state = MLPRegressor if kind == "depth" else BalancedMLP, key(seed, "readout", kind) % 2**32
        step = made(hidden_layer_sizes=(hidden,), solver="lbfgs", alpha=1e-3, max_iter=500, random_state=state)
    else:
        step = Ridge(alpha=1.0) if kind == "depth" else logistic()
    return make_pipeline(DoubleScaler(), step)


def said(model: Pipeline, kind: str, x: Float[np.ndarray, "cell feature"]) -> np.ndarray:
    """What a readout says of cells: class names, the probability of yes, or a number.

    Parameters
    ----------
    model
        Fitted pipeline, as `probe` makes it.
    kind
        Kind of its endpoint, as in `Endpoint`.
    x
        Features of the cells that are asked for.
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
        truth, predicted = _numbered(truth, predicted)
    return {name: float(value[0]) for name, value in score_many(kind, truth, predicted[None]).items()}


def score_many(
    kind: str, truth: Shaped[np.ndarray, "... cell"], predicted: Shaped[np.ndarray, "... cell"]
) -> dict[str, Float[np.ndarray, " draw"]]:
    """`score` of many draws at once, which is where the time of nulls would go.

    Parameters
    ----------
    kind
        As in `Endpoint`.
    truth, predicted
        Targets and predictions, see `score`, with one row per draw on one side at least; of ``classes`` both as numbers from
        0. AUROC is NaN where a row of targets has one class alone.

    Returns
    -------
    dict
        By name of the metric, its value for each draw.
    """
    truth, predicted = np.broadcast_arrays(truth, predicted)
    n, cells = predicted.shape
    if kind == "classes":
        width = int(max(truth.max(), predicted.max())) + 1
        pairs = (np.arange(n)[:, None] * width + truth) * width + predicted
        table = np.bincount(pairs.ravel(), minlength=n * width**2).reshape(n, width, width)
        right, true, guessed = np.diagonal(table, axis1=1, axis2=2), table.sum(2), table.sum(1)
        recall, f1 = right / np.maximum(true, 1), 2 * right / np.maximum(true + guessed, 1)
        # Recall counts the classes that are there; F1 those that are there or were said to be.
        accuracy, macro = (v.sum(1) / (of > 0).sum(1) for v, of in ((recall, true), (f1, true + guessed)))
        return {"balanced accuracy": accuracy, "macro-F1": macro}
    ranks = rankdata(predicted, axis=1)
    if kind == "binary":
        yes = truth.astype(bool)
        n_yes = yes.sum(1)
        pairs = n_yes * (cells - n_yes)
        above = (ranks * yes).sum(1) - n_yes * (n_yes + 1) / 2
        return {"AUROC": np.where(pairs > 0, above / np.maximum(pairs, 1), np.nan)}
    own, other = (side - (cells + 1) / 2 for side in (rankdata(truth, axis=1), ranks))
    scale = np.sqrt((own**2).sum(1) * (other**2).sum(1))
    known = (scale > 0) & (cells > 2)
    return {"|Spearman|": np.where(known, np.abs((own * other).sum(1)) / np.where(known, scale, 1), np.nan)}


def _numbered(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes as numbers, from 0, the same on both sides."""
    numbers = np.unique(np.concatenate([truth, predicted]), return_inverse=True)[1]
    return numbers[: len(truth)], numbers[len(truth) :]


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
        Endpoint whose cells are dealt to the two sides.
    test
        Whether each cell is held out.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.readout import Endpoint, sides
    >>> endpoint = Endpoint("stage", "classes", np.array(["a", "b", "a", "b", "a"]), np.arange(4))
    >>> sides(endpoint, np.array([True, True, False, False, True]))
    (array([2, 3]), array([0, 1]))
    """
    held = test[endpoint.cells]
    train, judged = endpoint.cells[~held], endpoint.cells[held]
    enough = all(len(set(endpoint.target[side].tolist())) > 1 for side in (train, judged))
    return (train, judged) if enough else None


def sampled(
    target: Shaped[np.ndarray, " cell"],
    rows: Int[np.ndarray, " row"],
    place: Int[np.ndarray, " cell"],
    seed: int,
    most: int = MOST_FITTED,
) -> Int[np.ndarray, " drawn"]:
    """Cells that a readout is fitted on: all, or as many as `most`, drawn in the shares of their classes.

    Parameters
    ----------
    target
        Target of every cell; each value of it is a class.
    rows
        Numbers of the cells that may be fitted on, ascending.
    place
        Rank of each cell's name among all, so that the draw does not depend on the order of the cells.
    seed
        Seed of the draw, the same for all endpoints.
    most
        Largest number that is drawn. Of each class one cell at least is taken.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.readout import sampled
    >>> target = np.repeat(["many", "few"], [90, 10])
    >>> found = sampled(target, np.arange(100), np.arange(100), seed=0, most=20)
    >>> np.unique(target[found], return_counts=True)[1].tolist()  # few, many
    [2, 18]
    """
    if len(rows) <= most:
        return rows
    drawn = generator(seed, "readout sample").permutation(len(place))[place[rows]]
    number, counts = np.unique(target[rows], return_inverse=True, return_counts=True)[1:]
    # Place of each cell in its class, by the draw.
    order = np.lexsort((drawn, number))
    within = np.empty(len(rows), np.int64)
    within[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.maximum(1, counts * most // len(rows))
    largest = np.argsort(-counts, kind="stable")
    if (left := most - int(wanted.sum())) > 0:  # fewer than there are classes: each was rounded down
        wanted[largest[:left]] += 1
    wanted[largest[0]] += min(left, 0)
    return rows[within < wanted[number]]


def _dense(x: Any) -> np.ndarray:
    return x.toarray().astype(np.float64) if sp.issparse(x) else x


def said_of_rows(model: Pipeline, kind: str, x: Any, rows: Int[np.ndarray, " row"]) -> np.ndarray:
    """`said` of some cells, a few thousand at a time where their features are sparse.

    Parameters
    ----------
    model, kind
        As in `said`.
    x
        Features of all cells, dense or sparse by rows.
    rows
        Numbers of the cells that are asked for.
    """
    if not sp.issparse(x):
        return said(model, kind, x[rows])
    parts = (rows[start : start + _BLOCK] for start in range(0, max(len(rows), 1), _BLOCK))
    return np.concatenate([said(model, kind, _dense(x[part])) for part in parts])


def cross_validate(
    representations: Mapping[str, Callable[[int], Float[np.ndarray, "cell feature"]]],
    wanted: list[Endpoint],
    fold: Int[np.ndarray, " cell"],
    *,
    permutations: int,
    seed: int,
    hidden: int = 0,
    names: Shaped[np.ndarray, " cell"] | None = None,
    donors: Shaped[np.ndarray, " cell"] | None = None,
    bar: tqdm | None = None,
) -> list[dict[str, Any]]:
    """Score readouts of several representations on cells that no part of the chain was fitted on.

    Parameters
    ----------
    representations
        By name: given the number of the held-out fold, the features of all cells, made without that fold's labels. Sparse ones
        are made dense a few cells at a time, and of those that are fitted on, which are `MOST_FITTED` at most.
    wanted
        Endpoints to read, each scored on its own cells.
    fold
        Number of the fold that each cell is held out in.
    permutations
        Null draws: the truth is dealt anew inside each held-out fold against the fixed predictions, and the mean over folds taken wider, see
        `workbench.stats.null_of_folds`.
    seed
        Seed of the null, and of hidden layers.
    hidden
        Width of the readouts' hidden layer, as in `probe`.
    names
        Of the cells: with them the null does not depend on their order.
    donors
        Donor of each cell, inside whom the truth is dealt anew, because cells of a donor are alike; where no donor has two values, they
        exchange theirs as a whole. None: cells are dealt anew inside their fold.
    bar
        Progress bar that goes on by one for each representation; none by default.

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
                for row in _score(features, endpoint, fold, place, donors, permutations, hidden, seed)
            ]
        if bar is not None:
            bar.update()
    return rows


def _score(
    features: Mapping[int, Any],
    endpoint: Endpoint,
    fold: np.ndarray,
    place: np.ndarray,
    donors: np.ndarray | None,
    permutations: int,
    hidden: int,
    seed: int,
) -> list[dict[str, Any]]:
    metrics = METRICS[endpoint.kind]
    values: dict[str, dict[int, float]] = {name: {} for name in metrics}
    null: dict[str, list[np.ndarray]] = {name: [] for name in metrics}
    among = np.sort(endpoint.cells)
    known, blocks = endpoint.target[among], (fold if donors is None else donors)[among]
    _, first, of_block = np.unique(blocks, return_index=True, return_inverse=True)
    whole = donors is not None and bool((known == known[first][of_block]).all())
    if endpoint.kind == "classes":
        classes, known = np.unique(known, return_inverse=True)
    rng_of = partial(generator, seed, "readout null", endpoint.name)
    for k, x in features.items():
        if (found := sides(endpoint, fold == k)) is None:
            continue
        train, test = found
        test = test[np.argsort(place[test])]
        train = sampled(endpoint.target, train, place, seed)
        model = probe(endpoint.kind, hidden, seed).fit(_dense(x[train]), endpoint.target[train])
        predicted = said_of_rows(model, endpoint.kind, x, test)
        if endpoint.kind == "classes":
            predicted = np.searchsorted(classes, predicted)
        at = np.searchsorted(among, test)
        drawn = np.concatenate([known[None, at], dealt_anew(known, blocks, at, permutations, rng_of, whole=whole)])
        for name, scored in score_many(endpoint.kind, drawn, predicted).items():
            values[name][k] = float(scored[0])
            null[name].append(scored[1:])
    n_features = next(iter(features.values())).shape[1]
    return [_row(name, values[name], null[name], len(endpoint.cells), n_features) for name in metrics]


def _row(
    metric: str, by_fold: dict[int, float], null: list[np.ndarray], n_cells: int, n_features: int
) -> dict[str, Any]:
    n_folds = len(by_fold)
    # Where no fold is left, nothing is known.
    values = list(by_fold.values()) or [np.nan]
    known = null_summary(float(np.mean(values)), null_of_folds(np.array(null)) if n_folds else np.zeros(0))
    return {
        **{"metric": metric, "n_cells": n_cells, "n_features": n_features, "n_folds": n_folds, "by_fold": by_fold},
        "value": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)) if n_folds > 1 else float("nan"),
        **{name: known[name] for name in ("null_mean", "null_high", "p")},
        "status": "ok" if n_folds else "undefined: no fold has both classes on both sides",
    }
