"""The head screen: the planted head first, honest nulls, and subtypes from one cohort to the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

from workbench.cells.anchors import make_anchors
from workbench.cells.placed import PlacedCells
from workbench.evidence.screen import gate_columns, rank_heads, score_head
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.readout import probe
from workbench.stats import benjamini_hochberg


def test_the_planted_head_beats_a_random_one_and_plain_expression(operators, internal, external, world, adaptor):
    def score(matrix):
        return score_head(matrix, internal, external, world.ruler, adaptor, refits=3, seed=0)

    (planted, null), (other, _), (identity, _) = (
        score(m) for m in (operators[0, 1], operators[0, 0], np.eye(len(world.genes)))
    )
    assert planted["residualised"] > identity["residualised"] + 0.1 > other["residualised"] + 0.1
    assert planted["low"] < planted["residualised"] < planted["high"]
    assert len(null) == 3 and planted["residualised"] > null.max() + 0.2
    assert planted["n_anchors"] == len(external.anchors) and planted["n_donors"] == 3
    assert planted["trustworthiness"] > 0.9


def test_labels_of_the_judged_cohort_never_reach_the_adaptor(planted_matrix, internal, external, world, adaptor):
    """Labels of the external cohort exchanged: the latent stays as it was, only the score changes."""
    order = np.random.default_rng(0).permutation(len(external.anchors))
    stage = external.anchors.stage[order]
    table = external.anchors.table.assign(stage=stage)
    moved = replace(external, anchors=replace(external.anchors, stage=stage, table=table))
    one, other = (
        score_head(planted_matrix, internal, cells, world.ruler, adaptor, refits=0, seed=0)[0]
        for cells in (external, moved)
    )
    assert one["trustworthiness"] == other["trustworthiness"]
    assert abs(other["residualised"]) < 0.2 < one["residualised"]


def test_one_donor_or_no_donors_have_no_interval_over_donors(planted_matrix, internal, external, world, adaptor):
    table = external.anchors.table.drop(columns="donor")
    bare = replace(external, anchors=replace(external.anchors, table=table))
    row, _ = score_head(planted_matrix, internal, bare, world.ruler, adaptor, refits=0, seed=0)
    assert row["n_donors"] == 0 and np.isfinite(row["low"]), "anchors are resampled instead"


def test_subtypes_are_probed_from_internal_to_external_cells(world, adaptor):
    """CD4 against CD8, by hand: a probe on the latent of internal cells, AUROC on external ones."""
    names = world.ruler.stages
    labels = ["CD4", "CD8", "B", "monocyte", "NK", "erythroid"]

    def cohort(seed, donors):
        rng = np.random.default_rng(seed)
        stage = np.array([names.index(labels[i % 6]) for i in range(240)])
        x = rng.random((240, 12)) + 2.0 * np.eye(12)[np.arange(240) % 6] * rng.random((240, 1))
        obs = pd.DataFrame({"stage": stage, "donor": np.array(donors)[np.arange(240) // 6 % 2]})
        x, genes = sp.csr_matrix(x), tuple("ABCDEFGHIJKL")
        return PlacedCells("made up", obs, genes, x, anchors=make_anchors(x, obs, min_cells=3))

    one, other = cohort(0, ["a", "b"]), cohort(1, ["c", "d"])
    row, _ = score_head(np.eye(12), one, other, world.ruler, adaptor, refits=0, seed=0)
    assert 0.8 < row["CD4_against_CD8_auroc"] <= 1
    assert np.isnan(row["monocyte_against_dendritic_auroc"]), "no dendritic cell is there"
    picked = [np.isin(s.stage, [names.index("CD4"), names.index("CD8")]) for s in (one, other)]
    x = [s.expression[p].toarray() for s, p in zip((one, other), picked, strict=True)]
    y = [s.stage[p] == names.index("CD8") for s, p in zip((one, other), picked, strict=True)]
    stage = one.anchors.stage
    fitted = LETAdaptor(**adaptor.get_params()).fit(one.anchors.centroids, world.ruler.distances[np.ix_(stage, stage)])
    z = [fitted.transform(part) for part in x]
    by_hand = roc_auc_score(y[1], probe("binary").fit(z[0], y[0]).decision_function(z[1]))
    assert row["CD4_against_CD8_auroc"] == pytest.approx(by_hand, abs=1e-6)


def test_ranks_p_and_q():
    rows = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "residualised": [0.1, 0.5, np.nan, 0.5]})
    null = np.concatenate([np.linspace(0, 0.45, 18), [0.5, np.nan]])
    table = rank_heads(rows, null)
    assert table["rank"].tolist() == [1, 2, 3, 4]
    assert list(zip(table["layer"], table["head"], strict=True)) == [(0, 1), (1, 1), (0, 0), (1, 0)]
    assert table["p"].tolist()[:3] == pytest.approx([2 / 20, 2 / 20, (1 + (null >= 0.1).sum()) / 20])
    assert table["q"].tolist() == pytest.approx(list(benjamini_hochberg(table["p"].to_numpy())), nan_ok=True)
    assert (table["n_null"] == 19).all() and np.isnan(table["p"].iloc[3])


def test_gates_of_the_external_cohort_under_one_head(planted_matrix, external, world, adaptor):
    row = gate_columns(planted_matrix, external, world.ruler, adaptor, seed=0)
    assert row["gates"] == "5 of 5" and row["branch_holdout_gate"] == "pass"
    table = external.anchors.table.drop(columns="donor")
    bare = replace(external, anchors=replace(external.anchors, table=table))
    row = gate_columns(planted_matrix, bare, world.ruler, adaptor, seed=0)
    assert row["gates"] == "4 of 4" and row["donor_holdout_gate"] == "not applicable"
