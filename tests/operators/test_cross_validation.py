"""A cross-validation of readouts that neither leaks nor flatters."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from fixtures_readout import N, endpoint
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from workbench.cells.groups import make_folds, make_groups
from workbench.operators.cross_validation import cross_validate
from workbench.operators.readout import (
    Endpoint,
    probe,
)


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


def test_sparse_features_are_read_as_dense_ones_are(monkeypatch):
    monkeypatch.setattr("workbench.operators.cross_validation._BLOCK", 7)
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
