"""Linear probes of labels: held-out scores by fold, and the null of labels dealt anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.special import gammaln
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline

from workbench.cells.groups import make_folds, make_groups
from workbench.errors import EvaluationError
from workbench.operators.readout import DoubleScaler, score, score_many
from workbench.operators.readout import probe as untrained_readout
from workbench.seeds import generator
from workbench.stats import corrected_difference, dealt_anew, null_of_folds, null_summary

_DRAWS = 1000
# Logarithm of the largest float.
_LARGEST = 709.0


@dataclass(frozen=True)
class ProbeTarget:
    """What is read from the cells that have it.

    Attributes
    ----------
    name
        Name of the label that is read, as tables have it.
    kind
        ``classes``, ``depth`` (a number) or ``expression`` (several numbers).
    values, fold, rows
        Value and fold of each cell that has one, and its row among all cells.
    donor
        Donor of each of these cells; None where there are none.
    """

    name: str
    kind: str
    values: np.ndarray
    fold: Int[np.ndarray, " cell"]
    rows: Int[np.ndarray, " cell"]
    donor: np.ndarray | None = None

    @property
    def whole(self) -> bool:
        """Whether no donor has two values, so that only whole donors can be relabelled."""
        return self.donor is not None and not (pd.Series(self.values).groupby(self.donor).nunique() > 1).any()

    @property
    def blocks(self) -> np.ndarray:
        """Block of each cell, inside which cells are relabelled."""
        return self.fold if self.donor is None else self.donor

    def relabellings(self) -> float:
        """Number of different relabellings, at most the largest float."""
        units = pd.DataFrame({"block": self.blocks, "value": self.values})
        if self.whole:
            units = units.drop_duplicates().assign(block=0)
        # All orders of a block, but for those of equal values among themselves.
        orders, same = (gammaln(units.value_counts(list(by)) + 1).sum() for by in (["block"], ["block", "value"]))
        return float(np.exp(min(orders - same, _LARGEST)).round())


def label_target(
    values: np.ndarray, labels: str, names: np.ndarray, donors: np.ndarray | None, folds: int, seed: int
) -> ProbeTarget:
    """What a probe reads, and its folds: whole donors where they are named, else cells.

    Parameters
    ----------
    values
        Label of each cell: text, empty where there is none, or numbers, NaN where there is none.
    labels
        Name of the label, for tables and errors.
    names
        Name of each cell. Folds and draws go by names, so that the order of the cells decides nothing.
    donors
        Donor of each cell; None where there are none.
    folds, seed
        Number of folds, and the seed that deals them.

    Raises
    ------
    EvaluationError
        If fewer than two classes have cells enough, or there are fewer donors than folds.
    """
    number = values.dtype.kind in "fiu"
    known = np.isfinite(values) if number else values != ""
    if not number:
        classes, counts = np.unique(values[known], return_counts=True)
        kept = classes[counts >= 2 * folds]
        if len(kept) < 2:
            raise EvaluationError(
                f"{len(kept)} of {len(classes)} values of '{labels}' have {2 * folds} cells or more, two a fold; a probe needs two such classes. "
                "Take more cells, fewer folds, or a coarser column."
            )
        known &= np.isin(values, kept)
    # By name: the order of the cells decides no draw.
    rows = np.flatnonzero(known)[np.argsort(names[known], kind="stable")]
    if len(rows) < 2 * folds:
        raise EvaluationError(f"{len(rows)} cells have a value of '{labels}'; {folds} folds need {2 * folds} at least.")
    own = None if donors is None else donors[rows]
    groups = make_groups(names[rows], own, None, seed)
    if donors is not None and len(groups) < folds:
        raise EvaluationError(
            f"Folds hold out whole donors, and the cells are of {len(groups)}. Give cells of more donors"
            f"{f', folds={len(groups)},' if len(groups) > 1 else ','} or drop the column 'donor' to hold out cells."
        )
    fold = make_folds(groups, np.zeros(len(rows)) if number else values[rows], folds, seed)
    found = values[rows]
    for k in np.unique(fold):
        if not number and len(only := np.unique(found[fold != k])) < 2:
            raise EvaluationError(
                f"Outside one of the {folds} folds every cell has the {labels} '{only[0]}', so that a probe would learn nothing there. Take "
                "more folds, or more donors."
            )
    return ProbeTarget(labels, "depth" if number else "classes", found, fold, rows, own)


def probe_scores(
    features: Float[np.ndarray, "cell feature"], target: ProbeTarget, components: int | None, seed: int
) -> dict[str, Any]:
    """Held-out scores of a linear probe by fold, and what it said of each cell.

    Parameters
    ----------
    features
        Points of all cells; those of the target are read.
    target
        What is read, and the folds.
    components
        Principal components of the training cells that are read; the features themselves when None.
    seed
        Seed that the probe is fitted with.

    Returns
    -------
    dict
        ``metric`` (its name), ``values`` by fold, and ``said``.
    """
    x, values = features[target.rows], []
    said = np.empty(target.values.shape, target.values.dtype)
    for k in np.unique(target.fold):
        train, test = target.fold != k, target.fold == k
        fit, judged = x[train], x[test]
        if components is not None:
            pca = PCA(min(components, *fit.shape), svd_solver="covariance_eigh").fit(fit)
            fit, judged = pca.transform(fit), pca.transform(judged)
        if target.kind == "expression":
            readout = make_pipeline(DoubleScaler(), RidgeCV(np.logspace(-2, 4, 7)))
        else:
            readout = untrained_readout(target.kind, seed=seed)
        said[test] = readout.fit(fit, target.values[train]).predict(judged)
        truth = target.values[test]
        if target.kind == "expression":
            around = ((truth - target.values[train].mean(0)) ** 2).sum()
            values.append({"variance explained": 1 - ((truth - said[test]) ** 2).sum() / around})
        else:
            values.append(score(target.kind, truth, said[test]))
    metric = next(iter(values[0]))
    return {"metric": metric, "values": np.array([one[metric] for one in values]), "said": said}


def describe_probe(
    found: dict[str, Any], base: dict[str, Any] | None, target: ProbeTarget, folds: int
) -> dict[str, Any]:
    """Row of a table: mean over folds, the null of labels dealt anew, and the difference from another probe.

    Parameters
    ----------
    found, base
        What `probe_scores` gave of these features, and of those that they are laid beside; None for none.
    target
        What was read, with folds and donors.
    folds
        Number of folds, which sets how much training cells overlap.

    Returns
    -------
    dict
        The columns of `workbench.probe` from ``metric`` on.
    """
    # A fold of one value alone has no rank correlation.
    values = found["values"][known := np.isfinite(found["values"])]
    row = {"metric": found["metric"], "value": values.mean() if len(values) else np.nan}
    row["sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
    null = dict.fromkeys(("null_mean", "null_high", "p", "p_least", "n_relabellings"), float("nan"))
    relabelled = ""
    if target.kind != "expression":
        drawn, n = null_summary(row["value"], _null(found["said"], target)), target.relabellings()
        null = {name: drawn[name] for name in ("null_mean", "null_high")}
        # Draws may miss the labels as they are, which are one of so many relabellings.
        least = 1 / min(1 + _DRAWS, n)
        null |= {"p": np.maximum(drawn["p"], least), "p_least": least, "n_relabellings": n}
        relabelled = "donors" if target.whole else f"cells in {'folds' if target.donor is None else 'donors'}"
    names = ("difference", "low", "high", "p")
    apart = dict.fromkeys(names, float("nan"))
    if base is not None:
        lead = values - base["values"][known]
        apart |= {k: v for k, v in corrected_difference(lead[np.isfinite(lead)], 1 / folds).items() if k in names}
    difference = {("p_difference" if name == "p" else name): apart[name] for name in names}
    sizes = {"n_cells": len(target.rows), "n_folds": len(values)}
    return {**row, **null, **difference, **sizes, "relabelled": relabelled}


def _null(said: np.ndarray, target: ProbeTarget) -> Float[np.ndarray, " draw"]:
    """Mean score over folds where the labels of judged cells, or of their donors, are dealt anew; see the notes of `probe`."""
    names, truth = np.unique(target.values, return_inverse=True)
    if target.kind == "classes":
        # A readout says no other class than these.
        said = np.searchsorted(names, said)
    rng_of, scores = partial(generator, 0, "probe null"), []
    for k in np.unique(target.fold):
        test = np.flatnonzero(target.fold == k)
        draws = dealt_anew(truth, target.blocks, test, _DRAWS, rng_of, whole=target.whole)
        of = draws if target.kind == "classes" else names[draws]
        scores.append(next(iter(score_many(target.kind, of, said[None, test]).values())))
    return null_of_folds(np.array(scores))
