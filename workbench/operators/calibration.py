"""Readouts for export, with probabilities that mean what they say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from scipy.optimize import minimize_scalar
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_sample_weight

from workbench.errors import EvaluationError
from workbench.operators.readout import Endpoint, probe, sides
from workbench.operators.readout_weights import Readout, cooled, softmax
from workbench.seeds import key

INNER = 5
_LEAST = 1e-12
_WORTH = ["endpoint", "calibrated", "log_loss", "calibration_error", "temperature", "n_inner", "n_cells"]

Features: TypeAlias = Float[np.ndarray, "cell feature"]
Chances: TypeAlias = Float[np.ndarray, "cell class"]
Numbers: TypeAlias = Int[np.ndarray, " cell"]
# Latents of all cells, each made without the cells that are marked beside it.
Inner: TypeAlias = Sequence[tuple[Features, Bool[np.ndarray, " cell"]]]


def fit_readout(x: Features, endpoint: Endpoint, inner: Inner = (), *, hidden: int = 0, seed: int = 0) -> Readout:
    """Readout on all cells of an endpoint: standardisation folded into its weights, probabilities calibrated.

    Classes weigh equally, so a probability is that of a world in which all classes are as frequent. It is calibrated by
    one temperature (Guo et al., ICML 2017), found on cells that neither latent nor readout was fitted on, and folded into the
    weights: no further parameter, and the most probable class stays the same.

    Parameters
    ----------
    x
        Latent of all cells, shape (cell, feature), whether the endpoint has them or not.
    endpoint
        Target to read, and the cells that have one; its kind decides what is fitted.
    inner
        Latents that were made without some cells, as `temperature` takes them; none by default, and no calibration.
    hidden
        Width of a hidden layer, as in `probe`.
    seed
        Seed of the hidden layers of readouts.

    Raises
    ------
    EvaluationError
        If the cells hold one class only.
    """
    target = endpoint.target[endpoint.cells]
    if (n_classes := len(set(target.tolist()))) < 2:
        raise EvaluationError(f"Endpoint '{endpoint.name}' has {n_classes} class among its cells; skip it.")
    fitted = exported(probe(endpoint.kind, hidden, seed).fit(x[endpoint.cells], target), endpoint.kind)
    if endpoint.kind == "depth":
        return fitted
    return cooled(fitted, temperature(endpoint, inner, hidden=hidden, seed=seed)[0])


def exported(model: Pipeline, kind: str) -> Readout:
    """A fitted `probe` as plain arrays, standardisation folded in.

    Parameters
    ----------
    model
        Fitted pipeline, as `probe` makes it.
    kind
        Kind of its endpoint, as in `Endpoint`.
    """
    scaler, last = (step for _, step in model.steps)
    classes = () if kind == "depth" else tuple(str(name) for name in last.classes_)
    linear = not hasattr(last, "coefs_")
    first = np.atleast_2d(last.coef_).T if linear else last.coefs_[0]
    offset = np.atleast_1d(last.intercept_ if linear else last.intercepts_[0])
    # ((x - mean) / scale) first + offset = x (first / scale) + (offset - mean (first / scale)).
    weights = first / scaler.scale_[:, None]
    offset = offset - scaler.mean_ @ weights
    if linear:
        return Readout(weights, offset, classes)
    return Readout(last.coefs_[1], last.intercepts_[1], classes, weights, offset)


def temperature(endpoint: Endpoint, inner: Inner, *, hidden: int = 0, seed: int = 0) -> tuple[float, int]:
    """Temperature that minimises the log loss, classes weighted equally, of cells that nothing inside was fitted on.

    Parameters
    ----------
    endpoint
        Target to read, and the cells that have one.
    inner
        Latents of all cells, shape (cell, feature), each with the cells that it was made without; on these it is judged, the
        readout fitted on the endpoint's other cells. A latent that has seen the labels of the judged cells is surer of them
        than of any others, and its temperature is too low.
    hidden, seed
        Arguments of the same names, as in `fit_readout`.

    Returns
    -------
    temperature, n_inner
        1 where no latent has all classes on both sides; and the number of latents that were judged.
    """
    logits, truth = [], []
    for x, held in inner:
        if (split := sides(endpoint, held)) is None:
            continue
        train, test = split
        model = probe(endpoint.kind, hidden, seed).fit(x[train], endpoint.target[train])
        readout = exported(model, endpoint.kind)
        if set(readout.classes) != {str(c) for c in endpoint.target[endpoint.cells].tolist()}:
            continue
        logits.append(readout.output(x[test]))
        truth.append(_numbers(endpoint.target[test], readout.classes))
    if not logits:
        return 1.0, 0
    return fitted_temperature(np.concatenate(logits), np.concatenate(truth)), len(logits)


def fitted_temperature(logits: Float[np.ndarray, "cell output"], truth: Numbers) -> float:
    """Temperature that minimises the log loss of cells, classes weighted equally.

    Parameters
    ----------
    logits, truth
        What a readout says of cells that it was not fitted on, as `Readout.output` gives it, and the number of each cell's true class.
    """
    weights = compute_sample_weight("balanced", truth)

    def loss(log_temperature: float) -> float:
        # By its logarithm, along which twice and half as sure are equally far.
        return _loss(softmax(logits / np.exp(log_temperature)), truth, weights)

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(50)), method="bounded").x))


def inner_latents(make: Callable[[Bool[np.ndarray, " cell"]], Features], fold: Numbers) -> Inner:
    """Latents that were each made without the cells of one fold.

    Parameters
    ----------
    make
        Makes the latent of all cells without those that are marked; one that cannot be made raises EvaluationError and is
        left out.
    fold
        Inner fold of each cell; -1 for cells that no latent may be made of.
    """
    found = []
    for one in sorted(set(fold[fold >= 0].tolist())):
        try:
            found.append((make((fold == one) | (fold < 0)), fold == one))
        except EvaluationError:  # too few anchors without them
            continue
    return found


def log_loss(chance: Chances, truth: Numbers) -> float:
    """Mean negative log probability of the true class, in nats, classes weighted equally.

    Parameters
    ----------
    chance, truth
        Probabilities, shape (cell, class), each row with sum 1, and the number of each cell's true class.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.calibration import log_loss
    >>> round(log_loss(np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1])), 3)  # ln 2
    0.693
    """
    return _loss(chance, truth, compute_sample_weight("balanced", truth))


def _loss(chance: Chances, truth: Numbers, weights: Float[np.ndarray, " cell"]) -> float:
    right = np.maximum(chance[np.arange(len(truth)), truth], _LEAST)
    return float(-(weights @ np.log(right)) / weights.sum())


def calibration_error(chance: Chances, truth: Numbers, bins: int = 10) -> float:
    """Expected calibration error of the most probable class, classes weighted equally: 0 is best, 1 worst.

    Weighted mean over bins of equal width of |accuracy - mean probability| (Naeini et al., AAAI 2015).

    Parameters
    ----------
    chance, truth
        Probabilities, and the number of the true class, as in `log_loss`.
    bins
        Number of bins between 0 and 1, all of one width.
    """
    weights = compute_sample_weight("balanced", truth)
    top, right = chance.max(1), chance.argmax(1) == truth
    bin_of = np.minimum((top * bins).astype(int), bins - 1)
    gap = np.bincount(bin_of, weights * (right - top), bins)
    return float(np.abs(gap).sum() / weights.sum())


def calibration_table(
    features_of: Callable[..., Features], wanted: list[Endpoint], fold: Numbers, *, hidden: int = 0, seed: int = 0
) -> pd.DataFrame:
    """How well probabilities hold on cells of held-out folds, before and after calibration inside the training folds.

    Parameters
    ----------
    features_of
        From numbers of folds to the features of all cells, made without any label of these folds; it is asked for one fold, and
        for each two.
    wanted, fold, hidden, seed
        As in `cross_validate`; endpoints without classes are left out.

    Returns
    -------
    DataFrame
        ``endpoint``, ``calibrated``, ``log_loss`` and ``calibration_error`` (mean over folds), ``log_loss_sd``,
        ``calibration_error_sd``, ``temperature`` (mean), ``n_inner`` (mean number of training folds that it was found on; 0:
        none, and no calibration), ``n_folds``, ``n_cells``.
    """
    rows: list[tuple[Any, ...]] = []
    folds, pairs = sorted(set(fold.tolist())), dict[tuple[int, ...], Features]()
    for k in folds:
        x = features_of(k)

        def without(held: np.ndarray, k: int = k) -> Features:
            pair = tuple(sorted(set(fold[held].tolist())))
            if pair not in pairs:
                pairs[pair] = features_of(*pair)
            return pairs[pair]

        inner = inner_latents(without, np.where(fold == k, -1, fold)) if len(folds) > 2 else []
        for endpoint in wanted:
            split = None if endpoint.kind == "depth" else sides(endpoint, fold == k)
            if split is None:
                continue
            train, test = split
            plain = exported(probe(endpoint.kind, hidden, seed).fit(x[train], endpoint.target[train]), endpoint.kind)
            # A class that the training side lacks has no probability that could be right.
            test = test[np.isin(endpoint.target[test].astype(str), plain.classes)]
            if not len(test):
                continue
            truth = _numbers(endpoint.target[test], plain.classes)
            heat, n_inner = temperature(replace(endpoint, cells=train), inner, hidden=hidden, seed=seed)
            for calibrated, readout in ((False, plain), (True, cooled(plain, heat))):
                chance = readout.probabilities(x[test])
                worth = log_loss(chance, truth), calibration_error(chance, truth)
                used = (heat, n_inner) if calibrated else (1.0, 0)
                rows.append((endpoint.name, calibrated, *worth, *used, len(endpoint.cells)))
    if not rows:
        return pd.DataFrame(columns=[*_WORTH[:-1], "n_folds"])
    grouped = pd.DataFrame(rows, columns=_WORTH).groupby(["endpoint", "calibrated"], sort=False)
    table = grouped.mean()
    for name in ("log_loss", "calibration_error"):
        table[f"{name}_sd"] = grouped[name].std()
    table["n_folds"] = grouped.size()
    return table.reset_index()


def _numbers(target: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    return np.array([classes.index(str(value)) for value in target.tolist()], dtype=int)


def inner_folds(
    target: Shaped[np.ndarray, " cell"],
    groups: Shaped[np.ndarray, " cell"] | None,
    names: Shaped[np.ndarray, " cell"],
    seed: int,
) -> Numbers:
    """Inner fold of each cell: donors in turn where there are two or more, else cells of a class in turn.

    Parameters
    ----------
    target
        Class of each cell, dealt in turn where no donors are known.
    groups
        Donor of each cell, whose cells stay together; None where nobody knows.
    names
        Names of the cells, by whose hash they are dealt, so that their order changes nothing.
    seed
        Seed of the hashes that cells and donors are dealt by.
    """
    if groups is not None and len(present := set(groups.tolist())) > 1:
        order = sorted(present, key=lambda group: key(seed, "inner fold", str(group)))
        place = {group: i % INNER for i, group in enumerate(order)}
        return np.array([place[group] for group in groups.tolist()])
    fold, dealt = np.full(len(names), -1), 0
    hashes = np.array([key(seed, "inner fold", str(name)) for name in names], dtype=np.uint64)
    for value in np.unique(target):
        own = np.flatnonzero(target == value)
        own = own[np.argsort(hashes[own], kind="stable")]
        fold[own] = (dealt + np.arange(len(own))) % INNER
        dealt += len(own)
    return fold
