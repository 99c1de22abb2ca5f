"""Cross-validated worth of readouts beside a null: every cell is judged by a readout that it was not part of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Shaped
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from workbench.operators.readout import METRICS, MOST_FITTED, Endpoint, probe, said, sampled, score_many, sides
from workbench.seeds import generator
from workbench.stats import dealt_anew, null_of_folds, null_summary
from workbench.threads import threaded

_BLOCK = 4096  # cells that are judged at a time, where features are sparse
AT_ONCE = 2**30  # bytes of features that the folds of a readout may hold while they are fitted side by side


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

    def judged(k: int) -> dict[str, np.ndarray]:
        if (found := sides(endpoint, fold == k)) is None:
            return {}
        (train, test), x = found, features[k]
        test = test[np.argsort(place[test])]
        train = sampled(endpoint.target, train, place, seed)
        model = probe(endpoint.kind, hidden, seed).fit(_dense(x[train]), endpoint.target[train])
        predicted = said_of_rows(model, endpoint.kind, x, test)
        if endpoint.kind == "classes":
            predicted = np.searchsorted(classes, predicted)
        at = np.searchsorted(among, test)
        drawn = np.concatenate([known[None, at], dealt_anew(known, blocks, at, permutations, rng_of, whole=whole)])
        return score_many(endpoint.kind, drawn, predicted)

    n_features = next(iter(features.values())).shape[1]
    # A fit holds its cells twice, as they are and standardised, in double precision.
    most = max(1, AT_ONCE // (16 * min(max(len(among), 1), MOST_FITTED) * n_features))
    for k, scores in zip(features, threaded(judged, features, most), strict=True):
        for name, scored in scores.items():
            values[name][k] = float(scored[0])
            null[name].append(scored[1:])
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
