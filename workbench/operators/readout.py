"""Readouts of a latent, linear or with one hidden layer: what is asked of them, and how they are scored."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from workbench.evidence.ruler import Ruler
from workbench.seeds import generator, key

MOST_FITTED = 100_000  # cells that a readout is fitted on, at most: the paper's own number


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
