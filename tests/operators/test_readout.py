"""Readouts: their endpoints and their metrics."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures_readout import endpoint
from scipy import stats
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from workbench.evidence.ruler import build_ruler, load_ruler
from workbench.operators.readout import (
    METRICS,
    endpoints,
    probe,
    said,
    sampled,
    score,
    score_many,
    sides,
)

# Endpoints


def test_endpoints_of_the_pbmc68k_labels(pbmc68k):
    ruler = load_ruler("hematopoiesis")
    labels = pbmc68k.obs["cell_type"].to_numpy()
    stage, unknown = ruler.place(labels)
    assert not unknown
    found = {e.name: e for e in endpoints(stage, ruler)}
    assert {name: e.kind for name, e in found.items()} == {
        "stage": "classes",
        "branch": "classes",
        "depth": "depth",
        "CD4 against CD8": "binary",
        "monocyte against dendritic": "binary",
    }
    assert len(found["stage"].cells) == 700 and len(set(found["stage"].target)) == 10
    assert set(found["branch"].target) == {"progenitor", "monocyte", "dendritic", "B", "NK", "T"}
    cells = found["CD4 against CD8"].cells
    assert set(labels[cells]) == {label for label in set(labels) if label.startswith(("CD4+", "CD8+"))}
    assert np.array_equal(found["CD4 against CD8"].target[cells], np.char.startswith(labels[cells].astype(str), "CD4+"))
    cells = found["monocyte against dendritic"].cells
    assert set(labels[cells]) == {"CD14+ Monocyte", "Dendritic"}
    assert np.array_equal(found["monocyte against dendritic"].target[cells], labels[cells] == "CD14+ Monocyte")
    by_label = {label: set(found["depth"].target[labels == label]) for label in set(labels)}
    assert by_label["CD34+"] == {1} and by_label["CD14+ Monocyte"] == {4} and by_label["CD19+ B"] == {3}


def test_cells_off_the_ruler_have_no_endpoint():
    ruler = load_ruler("hematopoiesis")
    stage = np.array([-1, 0, 1, -1, ruler.stages.index("Treg"), ruler.stages.index("CD8 naive")])
    found = {e.name: e.cells.tolist() for e in endpoints(stage, ruler)}
    assert found["stage"] == found["branch"] == found["depth"] == [1, 2, 4, 5]
    assert found["CD4 against CD8"] == [4, 5] and found["monocyte against dendritic"] == []


def test_the_endpoints_of_blood_are_what_they_were_when_they_stood_in_code():
    ruler = load_ruler("hematopoiesis")
    stage = np.arange(-1, len(ruler.stages))
    names, branch = np.array(ruler.stages)[np.maximum(stage, 0)], np.array(ruler.branches)[np.maximum(stage, 0)]
    cd4 = np.char.startswith(names, "CD4") | (names == "Treg")
    known = stage >= 0
    either = known & (branch == "monocyte")
    expected = {
        "CD4 against CD8": (cd4, known & (cd4 | np.char.startswith(names, "CD8"))),
        "monocyte against dendritic": (branch == "monocyte", known & np.isin(branch, ["monocyte", "dendritic"])),
        "monocyte against macrophage": (names != "macrophage", either),
    }
    found = endpoints(stage, ruler, {ruler.stages.index("macrophage")})
    assert [one.name for one in found] == ["stage", "branch", "depth", *expected]
    for one in found[3:]:
        target, cells = expected[one.name]
        assert one.kind == "binary" and np.array_equal(one.cells, np.flatnonzero(cells))
        assert np.array_equal(one.target[one.cells], target[one.cells])
    assert [one.metrics for one in found[3:]] == [("balanced accuracy",), (), ()]


OWN = {
    "G1": {"from": [], "branch": "G1"},
    "S": {"from": ["G1"], "branch": "S"},
    "early M": {"from": ["S"], "branch": "M"},
    "late M": {"from": ["early M"], "branch": "M"},
}


def test_a_ruler_without_endpoints_is_asked_for_stage_branch_and_depth_only():
    found = endpoints(np.array([0, 1, 2, 3, -1]), build_ruler("cycle", OWN, {}))
    assert [one.name for one in found] == ["stage", "branch", "depth"]


def test_endpoints_of_one_s_own_ruler_come_in_the_order_of_its_file():
    raw = {"S against M": {"yes": "S", "no": ["M"]}, "late": {"yes": ["late M"], "no": ["G1", "S"], "only_if": "M"}}
    ruler = build_ruler("cycle", OWN, {}, endpoints=raw)
    stage = np.array([3, 0, -1, 1, 2, 3])
    found = {one.name: one for one in endpoints(stage, ruler)}
    assert list(found) == ["stage", "branch", "depth", "S against M"]
    assert found["S against M"].cells.tolist() == [0, 3, 4, 5]
    assert found["S against M"].target.tolist() == [False, False, False, True, False, False]
    assert [one.name for one in endpoints(stage, ruler, {0, 1})] == list(found), "no cell of the campaign is in M"
    late = endpoints(stage, ruler, {2})[-1]
    assert late.name == "late" and late.cells.tolist() == [0, 1, 3, 5] and late.target[[0, 1]].tolist() == [True, False]


# Metrics and sides


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("hidden", [0, 4])
def test_every_metric_of_a_kind_is_there_and_one_for_what_is_perfect(latent, kind, hidden):
    target = {"classes": np.where(latent[:, 0] > 3, "a", "b"), "binary": latent[:, 0] > 3, "depth": latent[:, 0]}[kind]
    model = probe(kind, hidden, 1).fit(latent, target)
    found = score(kind, target, said(model, kind, latent))
    assert tuple(found) == METRICS[kind] and min(found.values()) > 0.85
    assert set(score(kind, target, target.astype(float) if kind == "binary" else target).values()) == {1.0}


def by_scikit_learn(kind, truth, predicted):
    if kind == "classes":
        recall = recall_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
        return {"balanced accuracy": recall, "macro-F1": f1_score(truth, predicted, average="macro", zero_division=0)}
    if kind == "binary":
        return {"AUROC": roc_auc_score(truth, predicted)}
    return {"|Spearman|": abs(stats.spearmanr(truth, predicted).statistic)}


@pytest.mark.filterwarnings("ignore::scipy.stats.ConstantInputWarning")
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize("kind", sorted(METRICS))
def test_draws_are_scored_together_as_scikit_learn_and_scipy_score_each(kind, permuted):
    rng = np.random.default_rng(0)
    # Class 3 is never true, class 2 seldom; predictions are tied.
    truth = {
        "classes": rng.choice(3, 40, p=[0.5, 0.45, 0.05]),
        "binary": rng.random(40) < 0.3,
        "depth": rng.poisson(2, 40),
    }[kind]
    predicted = rng.integers(0, 4, (30, 40))
    predicted[0], predicted[1, :20] = 1, 0
    predicted = predicted if kind == "classes" else predicted / 4
    # Either many predictions against one truth, or permuted truths against one prediction.
    sides = (np.stack([rng.permutation(truth) for _ in range(30)]), predicted[1]) if permuted else (truth, predicted)
    found = score_many(kind, *sides)
    rows = zip(*np.broadcast_arrays(*sides), strict=True)
    expected = [by_scikit_learn(kind, *row) for row in rows]
    assert set(found) == set(METRICS[kind])
    for metric, values in found.items():
        np.testing.assert_allclose(values, [row[metric] for row in expected], atol=1e-12, equal_nan=True)


def test_one_score_of_names_that_the_other_side_lacks():
    truth, predicted = np.array(["a", "b", "b", "c"]), np.array(["a", "b", "d", "a"])
    assert score("classes", truth, predicted) == pytest.approx(by_scikit_learn("classes", truth, predicted))


def test_a_side_without_both_classes_is_none():
    target = np.array(["a", "a", "b", "b", "b"])
    it = endpoint("classes", target, np.array([0, 1, 2, 3]))
    train, judged = sides(it, np.array([True, False, True, False, True]))
    assert train.tolist() == [1, 3] and judged.tolist() == [0, 2], "cells outside the endpoint are on neither side"
    assert sides(it, np.array([True, True, False, False, False])) is None


def test_many_cells_are_sampled_in_the_shares_of_their_classes_whatever_their_order():
    rng = np.random.default_rng(0)
    target = rng.choice(["a", "b", "c"], 1000, p=[0.7, 0.29, 0.01])
    names = np.array([f"cell{i}" for i in rng.permutation(1000)])
    place = np.argsort(np.argsort(names))
    rows = np.sort(rng.choice(1000, 800, replace=False))
    found = sampled(target, rows, place, 3, most=200)
    assert len(found) == 200 and set(found) <= set(rows) and len(set(found)) == 200
    for name in "abc":
        assert (
            abs((target[found] == name).mean() - (target[rows] == name).mean()) < 0.01 and (target[found] == name).any()
        )
    order = rng.permutation(1000)
    again = sampled(target[order], np.flatnonzero(np.isin(order, rows)), place[order], 3, most=200)
    assert set(names[order][again]) == set(names[found])
    assert np.array_equal(sampled(target, rows, place, 3, most=800), rows)
