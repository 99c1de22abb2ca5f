"""Transfers on planted cells: what is right, what the yardsticks are fitted on, and what cannot be tried."""

import dataclasses

import numpy as np
import pytest
from transfer_world import PANEL, TYPES, exported, loaded, training, world

from workbench.cells.expression import panel_expression
from workbench.cells.placed import PlacedCells, place_cells
from workbench.errors import EvaluationError
from workbench.evidence.ruler import load_ruler
from workbench.evidence.transfers import (
    ALIGNED,
    COLUMNS,
    FILLED,
    LOGISTIC,
    OURS,
    PCA,
    RANKS,
    UNALIGNED,
    agreement,
    transfer,
)
from workbench.operators.algorithm import Algorithm

NAMES = {"B": "B", "NK": "NK", "T4": "CD4", "T8": "CD8", "mono": "monocyte"}
RULER = load_ruler("hematopoiesis")


@pytest.fixture(scope="module")
def made():
    """An algorithm with stages of the ruler, and its training cells on it."""
    cells, labels = training()
    named = [dataclasses.replace(cells.endpoints[0], target=np.array([NAMES[one] for one in labels]))]
    matrix, offset, readouts, reference = exported(dataclasses.replace(cells, endpoints=named), labels)
    file = loaded(world(400, 0))
    obs, _ = place_cells(file, RULER, NAMES)
    train = PlacedCells("planted", obs, PANEL, panel_expression(file, PANEL), RULER)
    return Algorithm(PANEL, matrix, offset, readouts, {}, reference), train


def study(seed=30, **options):
    cells = loaded(world(300, seed, **options))
    return cells, place_cells(cells, RULER, NAMES)[0]["stage"].to_numpy(dtype=int)


def test_labels_of_other_detail_agree_and_those_of_another_kind_do_not():
    right, at = agreement(RULER), RULER.stages.index
    assert (right == right.T).all() and right.diagonal().all()
    for one, other, same in (("CD4 naive", "Treg", True), ("CD4", "CD8 naive", False), ("T", "CD8", True), ("monocyte", "dendritic", False),
                             ("nonclassical monocyte", "monocyte", True), ("B", "plasma", True), ("NK", "ILC", False)):  # fmt: skip
        assert right[at(one), at(other)] == same, (one, other)


def test_every_method_is_right_on_cells_like_those_of_training(made):
    rows = {row["method"]: row for row in transfer(*made, *study(), "same")}
    assert set(rows) == {OURS, ALIGNED, UNALIGNED, LOGISTIC, PCA, RANKS, FILLED} and all(
        set(COLUMNS) == set(row) for row in rows.values()
    )
    assert all(row["accuracy"] > 0.8 for row in rows.values())
    ours = rows[OURS]
    assert ours["n_cells"] == 300 and ours["n_left_out"] == 0 and ours["fit"] and ours["coverage"] == 1
    assert (
        ours["assigned_accuracy"] > ours["accuracy"] - 0.01
        and ours["loss"] == rows[LOGISTIC]["accuracy"] - ours["accuracy"]
    )


def test_logistic_regression_is_that_of_scikit_learn_on_the_genes_of_both(made):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    algorithm, train = made
    cells, stage = study(31)
    fewer = cells[:, np.arange(0, len(PANEL), 2)].copy()
    row = next(
        row for row in transfer(algorithm, train, fewer, stage, "half", min_coverage=0.1) if row["method"] == LOGISTIC
    )
    genes = tuple(fewer.var_names)
    by_hand = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000, tol=1e-8))
    by_hand.fit(train.on_panel(genes).expression.toarray(), train.stage)
    said = by_hand.predict(panel_expression(fewer, genes).toarray())
    assert abs(row["accuracy"] - (said == stage).mean()) < 0.011 and row["coverage"] == 0.5


def test_filling_in_is_what_expression_itself_gains_by(made):
    algorithm, train = made
    gains = []
    for seed in range(5):
        cells, stage = study(60 + seed)
        fewer = cells[:, np.random.default_rng(seed).permutation(len(PANEL))[:72]].copy()
        rows = {row["method"]: row for row in transfer(algorithm, train, fewer, stage, "x", min_coverage=0.1)}
        zero = transfer(dataclasses.replace(algorithm, reference=None), train, fewer, stage, "x", min_coverage=0.1)
        assert FILLED not in {row["method"] for row in zero}
        gains.append(rows[FILLED]["accuracy"] - rows[LOGISTIC]["accuracy"])
    assert np.mean(gains) > -0.03, gains


def test_labels_of_the_study_do_nothing_but_judge(made):
    cells, stage = study(32)
    mixed = np.random.default_rng(0).permutation(stage)
    one, other = ({row["method"]: row for row in transfer(*made, cells, s, "x")} for s in (stage, mixed))
    assert (
        one[OURS]["unassigned"] == other[OURS]["unassigned"] and one[OURS]["probability"] == other[OURS]["probability"]
    )
    assert other[OURS]["accuracy"] < 0.4 and other[LOGISTIC]["accuracy"] < 0.4


def test_cells_of_kinds_that_training_lacks_are_left_out_and_counted(made):
    cells, stage = study(33)
    stage = stage.copy()
    stage[:40] = RULER.stages.index("erythrocyte")
    stage[40:50] = -1
    row = transfer(*made, cells, stage, "x")[0]
    assert (row["n_cells"], row["n_left_out"]) == (250, 40) and 0 <= row["unassigned_left_out"] <= 1


def test_what_cannot_be_tried_is_refused(made):
    algorithm, train = made
    cells, stage = study(34)
    with pytest.raises(EvaluationError, match="has no readout of stages"):
        transfer(dataclasses.replace(algorithm, readouts={}), train, cells, stage, "x")
    with pytest.raises(EvaluationError, match="No cell of 'x' has a label"):
        transfer(algorithm, train, cells, np.full(len(stage), -1), "x")
    assert len(TYPES) == 5
