"""Readouts: their endpoints, their metrics, and a cross-validation that neither leaks nor flatters."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, recall_score, roc_auc_score

from workbench.cells.groups import make_folds, make_groups
from workbench.evidence.ruler import build_ruler, load_ruler
from workbench.operators.readout import (
    METRICS,
    Endpoint,
    cross_validate,
    endpoints,
    probe,
    said,
    sampled,
    score,
    score_many,
    sides,
)

N = 120


@pytest.fixture
def latent():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, 6)) * [1, 2, 5, 0.1, 1, 1] + 3


def endpoint(kind, target, cells=None):
    return Endpoint("it", kind, np.asarray(target), np.arange(len(target)) if cells is None else cells)


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


# Cross-validation


@pytest.fixture
def fold():
    return np.arange(N) % 4


def scores(representation, wanted, fold, permutations=39, seed=0):
    rows = cross_validate({"it": representation}, [wanted], fold, permutations=permutations, seed=seed)
    return {row["metric"]: row for row in rows}


def test_scores_by_hand(latent, fold):
    rng = np.random.default_rng(3)
    target = np.where(latent[:, 0] + rng.standard_normal(N) > 3, "a", "b")
    cells = np.flatnonzero(rng.random(N) < 0.8)
    row = scores(lambda k: latent + k, endpoint("classes", target, cells), fold)["balanced accuracy"]
    values = []
    for k in range(4):
        train, test = cells[fold[cells] != k], cells[fold[cells] == k]
        said = probe("classes").fit(latent[train], target[train]).predict(latent[test])
        values.append(balanced_accuracy_score(target[test], said))
    assert row["value"] == pytest.approx(np.mean(values)) and row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert (row["n_folds"], row["n_cells"], row["n_features"], row["status"]) == (4, len(cells), 6, "ok")


def test_auroc_by_hand(latent, fold):
    target = latent[:, 0] + np.random.default_rng(3).standard_normal(N) > 3
    row = scores(lambda k: latent, endpoint("binary", target), fold)["AUROC"]
    values = [
        roc_auc_score(target[fold == k], probe("binary").fit(latent[fold != k], target[fold != k]).decision_function(latent[fold == k]))
        for k in range(4)
    ]  # fmt: skip
    assert row["value"] == pytest.approx(np.mean(values)) and 0.5 < row["value"] < 1


def test_depth_is_scored_by_the_absolute_rank_correlation(latent, fold):
    target = np.exp(latent[:, 0])
    row = scores(lambda k: latent, endpoint("depth", target), fold)["|Spearman|"]
    values = [
        abs(stats.spearmanr(probe("depth").fit(latent[fold != k], target[fold != k]).predict(latent[fold == k]), target[fold == k])[0])
        for k in range(4)
    ]  # fmt: skip
    assert row["value"] == pytest.approx(np.mean(values)) and row["value"] > 0.8


def test_a_representation_is_asked_once_per_held_out_fold_and_tested_on_that_fold_alone(latent, fold):
    asked = []

    def features(k):
        asked.append(k)
        # Features that hold the labels on all cells but those of the held-out fold.
        held = fold == k
        return np.where(held[:, None], 0.0, np.column_stack([target == "a", latent[:, 1]]))

    target = np.where(np.random.default_rng(0).random(N) < 0.5, "a", "b")
    row = scores(features, endpoint("classes", target), fold)["balanced accuracy"]
    assert asked == [0, 1, 2, 3]
    assert row["value"] == pytest.approx(0.5), "only features of the held-out cells count"


def test_features_that_hold_the_labels_are_seen(fold):
    target = np.array(["a", "b", "c"])[np.random.default_rng(0).integers(0, 3, N)]
    one_hot = (target[:, None] == ["a", "b", "c"]).astype(float)
    found = scores(lambda k: one_hot, endpoint("classes", target), fold)
    for metric in ("balanced accuracy", "macro-F1"):
        row = found[metric]
        assert row["value"] > 0.99 and row["p"] == 1 / 40 and row["null_high"] < 0.6
    depth = scores(lambda k: one_hot, endpoint("depth", one_hot @ [1, 2, 4]), fold)["|Spearman|"]
    assert depth["value"] > 0.99 and depth["p"] == 1 / 40


def test_noise_stays_inside_the_null(fold):
    p = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        target, x = rng.random(N) < 0.5, rng.standard_normal((N, 5))
        row = scores(lambda k, x=x: x, endpoint("binary", target), fold % 2, permutations=19, seed=seed)["AUROC"]
        p.append(row["p"])
        assert abs(row["null_mean"] - 0.5) < 0.1
    assert stats.kstest(p, "uniform").pvalue > 0.001
    assert np.mean(np.array(p) <= 0.05) <= 0.2


def test_labels_are_dealt_inside_donors_or_go_with_them(fold):
    """A donor's cells are alike: a label that goes by donor has as many relabellings as donors can exchange."""
    rng, donor = np.random.default_rng(0), np.repeat(np.arange(8), N // 8 + 1)[:N]
    x, by_donor = rng.standard_normal((8, 3))[donor], rng.permutation(np.arange(8) % 2 == 0)[donor]
    given = {"permutations": 99, "seed": 0}

    def p(target, kind, donors):
        rows = cross_validate({"it": lambda k: x}, [endpoint(kind, target)], donor % 4, donors=donors, **given)
        return rows[0]["p"]

    # Readouts say the same of every cell of a donor: among cells that is told by chance, among donors it is not.
    assert p(by_donor, "binary", donor) > 0.05
    inside = rng.random(N) < 0.5
    assert p(inside, "binary", donor) == 1, "what does not differ inside donors says nothing of their cells"


def test_the_null_depends_on_the_seed_alone(latent, fold):
    wanted = endpoint("binary", latent[:, 0] > 3)
    first, again, other = (scores(lambda k: latent, wanted, fold, seed=s)["AUROC"] for s in (0, 0, 1))
    assert first == again and first["null_mean"] != other["null_mean"] and first["value"] == other["value"]


def test_folds_without_both_classes_do_not_count(latent, fold):
    target = (np.arange(N) % 8 == 1) | (np.arange(N) % 8 == 2)  # in folds 1 and 2 alone
    row = scores(lambda k: latent, endpoint("binary", target), fold)["AUROC"]
    assert row["n_folds"] == 2 and row["status"] == "ok" and np.isfinite(row["value"])


@pytest.mark.parametrize(
    ("target", "cells"),
    [
        (np.zeros(N, dtype=bool), np.arange(N)),
        (np.arange(N) % 4 == 0, np.arange(N)),
        (np.arange(N) % 3 == 0, np.array([], dtype=int)),
        (np.arange(N) % 3 == 0, np.array([5])),
    ],
    ids=["one class", "one class per fold", "no cell", "one cell"],
)
def test_an_endpoint_without_both_classes_is_undefined(latent, fold, target, cells):
    row = scores(lambda k: latent, endpoint("binary", target, cells), fold)["AUROC"]
    assert row["n_folds"] == 0 and row["status"].startswith("undefined: no fold has both classes on both sides")
    assert all(np.isnan(row[name]) for name in ("value", "sd", "null_mean", "null_high", "p"))


def test_one_row_per_endpoint_metric_and_representation(latent, fold):
    wanted = [
        endpoint("classes", np.where(latent[:, 0] > 3, "a", "b")),
        Endpoint("yes", "binary", latent[:, 0] > 3, np.arange(N)),
        Endpoint("deep", "depth", latent[:, 0], np.arange(N)),
    ]
    rows = cross_validate({"x": lambda k: latent, "y": lambda k: latent[:, :2]}, wanted, fold, permutations=3, seed=0)
    assert [(r["representation"], r["endpoint"], r["metric"]) for r in rows] == [
        (name, *pair)
        for name in "xy"
        for pair in (("it", "balanced accuracy"), ("it", "macro-F1"), ("yes", "AUROC"), ("deep", "|Spearman|"))
    ]
    assert {r["n_features"] for r in rows if r["representation"] == "y"} == {2}


def test_the_order_of_the_cells_does_not_matter(pbmc68k):
    obs = pbmc68k.obs.iloc[:150]
    x = pbmc68k.X[:150, :20].toarray()
    order = np.random.default_rng(0).permutation(150)
    found = []
    for at in (np.arange(150), order):
        some = obs.iloc[at]
        fold = make_folds(make_groups(some.index.to_numpy(), None, None), some["cell_type"].to_numpy(), 3)
        wanted = Endpoint("it", "classes", obs["cell_type"].to_numpy()[at], np.arange(150))
        found.append(scores(lambda k, at=at: x[at], wanted, fold, permutations=3)["balanced accuracy"]["value"])
    assert found[0] == pytest.approx(found[1], abs=0.02)


def test_with_names_the_order_of_the_cells_changes_nothing(latent, fold):
    rng = np.random.default_rng(3)
    target, names = (
        np.where(latent[:, 0] + rng.standard_normal(N) > 3, "a", "b"),
        np.array([f"c{i:03d}" for i in range(N)]),
    )
    order, found = rng.permutation(N), []
    for rows in (np.arange(N), order):
        made = cross_validate(
            {"it": lambda k, rows=rows: latent[rows]},
            [endpoint("classes", target[rows])],
            fold[rows],
            permutations=19,
            seed=0,
            names=names[rows],
        )
        found.append([{key: row[key] for key in ("value", "null_mean", "null_high", "p")} for row in made])
    assert found[0] == [pytest.approx(row, abs=1e-9) for row in found[1]]


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


def test_sparse_features_are_read_as_dense_ones_are(monkeypatch):
    monkeypatch.setattr("workbench.operators.readout._BLOCK", 7)
    rng = np.random.default_rng(1)
    x = rng.poisson(1.0, (60, 5)).astype(np.float32)
    wanted = [
        Endpoint("half", "binary", x[:, 0] > 1, np.arange(60)),
        Endpoint("depth", "depth", x[:, 1], np.arange(60)),
    ]
    both = {"dense": lambda k: x.astype(np.float64), "sparse": lambda k: sp.csr_matrix(x)}
    rows = cross_validate(both, wanted, np.arange(60) % 3, permutations=5, seed=0)
    seen = {name: [row["by_fold"] for row in rows if row["representation"] == name] for name in both}
    assert seen["dense"] == seen["sparse"] and len(seen["dense"]) == 2
