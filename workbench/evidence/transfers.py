"""An exported algorithm on labelled cells of another study, beside plain methods on the same genes and training cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from jaxtyping import Bool, Int

from workbench.cells.expression import expression_on, match_panel
from workbench.cells.placed import PlacedCells
from workbench.errors import EvaluationError
from workbench.evidence import representations as rep
from workbench.evidence.protocol import Method, NotRunError, Training
from workbench.evidence.readouts import Represented
from workbench.evidence.ruler import Ruler
from workbench.operators.algorithm import Algorithm
from workbench.operators.readout import endpoints

STAGE = "stage"
LOGISTIC, PCA, RANKS = "logistic regression", f"PCA-{rep.WIDTH}", f"rank ANOVA PCA-{rep.RANK_WIDTH}"
OURS, ALIGNED, UNALIGNED = "algorithm", "algorithm, aligned", "algorithm, not aligned"
# What filling in is worth without any operator.
FILLED = "logistic regression, filled in"
YARDSTICKS: Mapping[str, Method] = {
    LOGISTIC: Represented(rep.raw),
    PCA: Represented(rep.principal),
    RANKS: Represented(rep.ranked),
}
# Loss against logistic regression above which an algorithm should have said that it is not fit.
MOST_LOSS = 0.05
COLUMNS = (
    "study", "method", "accuracy", "balanced_accuracy", "n_cells", "n_left_out", "coverage", "loss", "unassigned", "assigned_accuracy",
    "unassigned_left_out", "probability", "agreement", "fit", "reasons",
)  # fmt: skip


def agreement(ruler: Ruler) -> Bool[np.ndarray, "stage stage"]:
    """Whether a cell of one stage (row) is rightly said to be of another (column), for labels of different detail.

    It is where both are of one branch, and no binary endpoint of the ruler has them on different sides: a naive CD4 T cell may be said to
    be a CD4 or T cell, and not a CD8 T cell.

    Parameters
    ----------
    ruler
        Stages, their branches and endpoints.

    Examples
    --------
    >>> from workbench.evidence.ruler import load_ruler
    >>> from workbench.evidence.transfers import agreement
    >>> ruler = load_ruler("hematopoiesis")
    >>> at = ruler.stages.index
    >>> right = agreement(ruler)
    >>> [bool(right[at("CD4 naive"), at(said)]) for said in ("CD4", "T", "CD8", "B")]
    [True, True, False, False]
    """
    branch = np.array(ruler.branches)
    right = branch[:, None] == branch[None, :]
    for one in ruler.endpoints:
        if one.only_if:
            continue
        yes, no = (np.isin(ruler.stages, side) for side in (one.yes, one.no))
        right &= ~(yes[:, None] & no[None, :]) & ~(no[:, None] & yes[None, :])
    return right


def transfer(
    algorithm: Algorithm,
    train: PlacedCells,
    cells: AnnData,
    stage: Int[np.ndarray, " cell"],
    study: str,
    *,
    yardsticks: Mapping[str, Method] = YARDSTICKS,
    min_coverage: float | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How an algorithm and other methods do on labelled cells of another study; no label of these is used but to judge.

    The other methods are fitted on the training cells that the algorithm is of, on the genes that both studies measure.

    Parameters
    ----------
    algorithm
        Algorithm with a readout of stages.
    train
        Its training cells, on its panel and a ruler.
    cells
        Cells of the other study, as `workbench.load` gives them.
    stage
        Stage number of each, on the same ruler; -1 without one.
    study
        Name of the study, for the table.
    yardsticks
        Other methods by name; logistic regression on expression is among them.
    min_coverage
        As in `Algorithm.predict`.
    seed
        Seed of the other methods.

    Returns
    -------
    list of dict
        One row per method with `COLUMNS`: ``accuracy`` (share of cells whose most probable stage agrees with their own, see `agreement`),
        ``balanced_accuracy`` (mean of it over stages), ``n_cells`` that are judged and ``n_left_out`` of stages that no training cell agrees
        with, ``loss`` of the algorithm against logistic regression; of the algorithm the share ``unassigned``, the accuracy of
        the others, the share unassigned of the cells left out, the mean ``probability``, its ``agreement`` with its own control, and whether it says that it is ``fit`` and why not.

    Raises
    ------
    EvaluationError
        If the algorithm reads no stages, or no cell can be judged.
    GeneMatchError
        If too few genes are measured.
    """
    ruler = train.ruler
    assert ruler is not None
    if STAGE not in algorithm.readouts:
        raise EvaluationError("The algorithm has no readout of stages, so no label can be compared; give one of a run.")
    right: Any = agreement(ruler)
    present = np.unique(train.stage[train.stage >= 0])
    known = right[:, present].any(1)
    placed = stage >= 0
    judged = np.flatnonzero(placed & known[np.maximum(stage, 0)])
    absent = np.flatnonzero(placed & ~known[np.maximum(stage, 0)])
    if not len(judged):
        raise EvaluationError(
            f"No cell of '{study}' has a label that any training cell has; nothing can be judged on it."
        )
    rows: list[dict[str, Any]] = []
    plain: Mapping[str, Any] = {}
    for name, align in ((OURS, None), (ALIGNED, True), (UNALIGNED, False)):
        found = algorithm.predict(cells, min_coverage, align=align)
        plain = found.plain
        best = np.nan_to_num(found.probabilities[STAGE], nan=-1.0).argmax(1)
        given = found.labels(STAGE) >= 0
        rows.append(
            {"method": name, **_scored(right, stage, _stages(ruler, found.classes[STAGE])[best], judged, given)}
        )
        rows[-1] |= {
            "unassigned": float(1 - given[judged].mean()),
            "unassigned_left_out": float(1 - given[absent].mean()) if len(absent) else np.nan,
            "probability": found.fitness.probability,
            "agreement": found.fitness.agreement,
            "fit": found.fitness.fit,
            "reasons": " ".join(found.fitness.reasons),
        }
    match = match_panel(cells, algorithm.genes)
    both = tuple(gene for gene in algorithm.genes if gene in set(match.genes))
    side = train.take(train.placed).on_panel(both)
    training = Training(side, tuple(endpoints(side.stage, ruler)), seed)
    x, counts = expression_on(cells, match, both)
    asked = PlacedCells(study, cells.obs[[]].copy(), both, x, None, counts)
    for name, method in yardsticks.items():
        try:
            fitted = method.fit(training)
            prediction = fitted.predict(asked).of[STAGE]
        except NotRunError as error:
            rows.append({"method": name, "reasons": str(error)})
            continue
        said = _stages(ruler, prediction.classes)[prediction.values.argmax(1)]
        rows.append({"method": name, **_scored(right, stage, said, judged)})
    if STAGE in plain:  # cells that express nothing count as the first class, as above
        said = _stages(ruler, algorithm.readouts[STAGE].classes)[np.maximum(plain[STAGE], 0)]
        rows.append({"method": FILLED, **_scored(right, stage, said, judged)})
    yardstick = next((row["accuracy"] for row in rows if row["method"] == LOGISTIC), np.nan)
    shared = {
        "study": study,
        "n_cells": len(judged),
        "n_left_out": len(absent),
        "coverage": len(both) / len(algorithm.genes),
    }
    return [
        {**dict.fromkeys(COLUMNS), **row, **shared, "loss": yardstick - row.get("accuracy", np.nan)} for row in rows
    ]


def _stages(ruler: Ruler, names: Sequence[str]) -> Int[np.ndarray, " class"]:
    return np.array([ruler.stages.index(name) for name in names], dtype=int)


def _scored(
    right: np.ndarray, stage: np.ndarray, said: np.ndarray, judged: np.ndarray, given: np.ndarray | None = None
) -> dict[str, float]:
    hit, truth = right[stage[judged], said[judged]], stage[judged]
    found = {
        "accuracy": float(hit.mean()),
        "balanced_accuracy": float(np.mean([hit[truth == one].mean() for one in np.unique(truth)])),
    }
    if given is not None:
        found["assigned_accuracy"] = float(hit[given[judged]].mean()) if given[judged].any() else np.nan
    return found
