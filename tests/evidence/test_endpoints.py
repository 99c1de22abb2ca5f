"""Predictions are judged by what is right, undefined where nothing can be, and never by 0.5."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from workbench.cells.placed import PlacedCells
from workbench.evidence.endpoints import ALL, judge, measures, unjudged
from workbench.evidence.protocol import PSEUDOTIME, Prediction, Predictions
from workbench.evidence.ruler import load_ruler
from workbench.operators.readout import endpoints

RULER = load_ruler("hematopoiesis")
NAMES = ("CD4 T", "CD8 T", "monocyte", "dendritic", "B")


def stages(names):
    return RULER.place(names)[0]


@dataclass(frozen=True)
class Truth:
    """Labelled cells, and what is asked about them."""

    cells: PlacedCells
    endpoints: tuple

    @property
    def stage(self):
        return self.cells.stage


def truth(labels, donors=None, present=()):
    stage = stages(labels)
    obs = pd.DataFrame({"stage": stage}, index=[f"c{i}" for i in range(len(labels))])
    obs = obs if donors is None else obs.assign(donor=donors)
    cells = PlacedCells("cells", obs, (), sp.csr_matrix((len(labels), 0)), RULER)
    return Truth(cells, tuple(endpoints(stage, RULER, present)))


def oracle(judged):
    """A method that knows the truth."""
    of = {}
    for one in judged.endpoints:
        if one.kind == "depth":
            of[one.name] = of[PSEUDOTIME] = Prediction((), one.target.astype(float).reshape(-1, 1))
        else:
            classes = ("False", "True") if one.kind == "binary" else tuple(sorted(set(one.target.tolist())))
            hit = one.target.astype(str)[:, None] == np.array(classes)
            of[one.name] = Prediction(classes, hit.astype(float))
    latent = np.eye(len(RULER.stages))[judged.stage] + np.random.default_rng(0).normal(
        0, 0.01, (len(judged.stage), len(RULER.stages))
    )
    return Predictions(of, latent)


def table(judged, predicted, trained=None):
    rows = judge(predicted, judged.cells, judged.endpoints, trained=trained or judged.endpoints, seed=0)
    return {(row["scope"], row["endpoint"], row["metric"]): row for row in rows}


def test_the_truth_scores_best_everywhere():
    judged = truth(list(NAMES) * 12, np.array(["a", "b"]).repeat(30))
    found = table(judged, oracle(judged))
    for (_, endpoint, metric), row in found.items():
        if endpoint != "donor":
            assert row["status"] == "ok", (endpoint, row["status"])
            assert row["value"] == pytest.approx(0.0 if row["better"] == "lower" else 1.0), (endpoint, metric)
    assert {scope for scope, _, _ in found} == {ALL, "a", "b"}


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(1)
    judged = truth(rng.choice(NAMES, 200).tolist())
    known = oracle(judged)
    noisy = {
        name: Prediction(one.classes, np.abs(one.values + rng.normal(0, 0.8, one.values.shape)))
        for name, one in known.of.items()
    }
    noisy["CD4 against CD8"] = Prediction(
        ("False", "True"), (v := noisy["CD4 against CD8"].values) / v.sum(1, keepdims=True)
    )
    found = table(judged, Predictions(noisy))
    stage = next(one for one in judged.endpoints if one.name == "stage")
    predicted = np.array(noisy["stage"].classes)[noisy["stage"].values.argmax(1)]
    assert found[ALL, "stage", "balanced accuracy"]["value"] == pytest.approx(
        recall_score(stage.target, predicted, average="macro"), abs=1e-12
    )
    assert found[ALL, "stage", "macro-F1"]["value"] == pytest.approx(
        f1_score(stage.target, predicted, average="macro"), abs=1e-12
    )
    binary = next(one for one in judged.endpoints if one.name == "CD4 against CD8")
    chance = noisy["CD4 against CD8"].values[binary.cells, 1]
    assert found[ALL, "CD4 against CD8", "AUROC"]["value"] == pytest.approx(
        roc_auc_score(binary.target[binary.cells], chance), abs=1e-12
    )
    right = recall_score(binary.target[binary.cells], chance > 0.5, average="macro")
    assert found[ALL, "CD4 against CD8", "balanced accuracy"]["value"] == right


def test_one_class_is_undefined_and_not_a_half():
    judged = truth(["CD4 T", "B", "B", "CD4 T"] * 6)
    trained = truth(list(NAMES)).endpoints
    row = table(judged, oracle(judged), trained)[ALL, "CD4 against CD8", "AUROC"]
    assert np.isnan(row["value"]) and row["status"] == "undefined: 12 test cells of one class only"


def test_a_donor_with_one_class_is_undefined_and_the_rest_is_not():
    labels = ["CD4 T", "CD8 T"] * 10 + ["CD4 T"] * 10
    judged = truth(labels, np.array(["a"] * 20 + ["b"] * 10))
    found = table(judged, oracle(judged))
    assert found["b", "CD4 against CD8", "AUROC"]["status"].startswith("undefined")
    assert found["a", "CD4 against CD8", "AUROC"]["value"] == found[ALL, "CD4 against CD8", "AUROC"]["value"] == 1


def test_what_the_training_side_cannot_teach_is_undefined_for_everybody():
    judged = truth(["CD4 T", "CD8 T", "B"] * 8)
    trained = tuple(endpoints(stages(["CD4 T", "B", "CD4 T"]), RULER))
    row = table(judged, oracle(judged), trained)[ALL, "CD4 against CD8", "AUROC"]
    assert row["status"] == "undefined: the training cells have one class only"


def test_a_class_that_was_never_shown_is_wrong_but_does_not_stop_the_rest():
    judged = truth(["CD4 T", "CD8 T", "B"] * 8)
    known = oracle(judged)
    seen = Prediction(known.of["stage"].classes[:2], known.of["stage"].values[:, :2])
    found = table(judged, Predictions({**known.of, "stage": seen}))
    assert found[ALL, "stage", "balanced accuracy"]["value"] == pytest.approx(2 / 3)
    assert np.isfinite(found[ALL, "stage", "calibration error"]["value"])


def test_silence_and_nonsense_are_said():
    judged = truth(list(NAMES) * 6)
    bad = Prediction((), np.full((len(judged.cells), 1), np.nan))
    found = table(judged, Predictions({"depth": bad}))
    assert found[ALL, "depth", "|Spearman|"]["status"] == "failed: a prediction is not finite"
    assert found[ALL, "stage", "macro-F1"]["status"] == found[ALL, "clusters", "ARI"]["status"] == "not predicted"


def test_what_was_not_run_has_a_row_for_everything_that_would_have_been_judged():
    judged = truth(list(NAMES) * 6)
    rows = unjudged(judged.endpoints, "not run: no such package")
    assert [(row["endpoint"], row["metric"], row["better"]) for row in rows] == list(measures(judged.endpoints))
    assert all(np.isnan(row["value"]) and row["status"] == "not run: no such package" for row in rows)


def test_a_pseudotime_counts_in_either_direction():
    judged = truth(["HSC", "CMP", "GMP", "monocyte"] * 5)
    depth = next(one for one in judged.endpoints if one.name == "depth").target
    found = table(judged, Predictions({"depth": Prediction((), -depth.astype(float).reshape(-1, 1))}))
    assert found[ALL, "depth", "|Spearman|"]["value"] == pytest.approx(1)


def test_macrophages_are_told_from_monocytes_only_where_there_are_any():
    alone = stages(["monocyte"])
    names = [name for name, _, _ in measures(tuple(endpoints(alone, RULER, set(alone.tolist()))))]
    assert "monocyte against macrophage" not in names
    judged = truth(["monocyte", "macrophage"] * 8, present=stages(["macrophage"]).tolist())
    assert table(judged, oracle(judged))[ALL, "monocyte against macrophage", "AUROC"]["value"] == 1


def test_metrics_are_those_of_the_kind_and_those_that_the_ruler_names():
    judged = truth(["monocyte", "macrophage"] * 8, present=stages(["macrophage"]).tolist())
    assert list(measures(judged.endpoints)) == [
        ("stage", "balanced accuracy", "higher"),
        ("stage", "macro-F1", "higher"),
        ("stage", "calibration error", "lower"),
        ("branch", "balanced accuracy", "higher"),
        ("branch", "macro-F1", "higher"),
        ("depth", "|Spearman|", "higher"),
        ("pseudotime", "|Spearman|", "higher"),
        ("CD4 against CD8", "AUROC", "higher"),
        ("CD4 against CD8", "balanced accuracy", "higher"),
        ("monocyte against dendritic", "AUROC", "higher"),
        ("monocyte against macrophage", "AUROC", "higher"),
        ("clusters", "ARI", "higher"),
        ("donor", "leakage", "lower"),
    ]


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, -0.2, 0.2), (5.0, 0.8, 1.0)])
def test_a_donor_is_found_where_it_is_planted_within_stages(shift, low, high):
    rng = np.random.default_rng(0)
    labels, donors = ["B", "monocyte"] * 60, np.array(["a", "b", "c", "d"]).repeat(30)
    judged = truth(labels, donors)
    latent = rng.normal(0, 1, (120, 4)) + 10 * (judged.stage[:, None] == judged.stage[0])
    latent[:, 0] += shift * np.searchsorted(np.unique(donors), donors)
    row = table(judged, Predictions({}, latent))[ALL, "donor", "leakage"]
    assert low <= row["value"] <= high and row["better"] == "lower"


def test_what_a_donor_is_made_of_does_not_give_it_away():
    # Both donors have the same cells within a stage, but not the same stages.
    rng = np.random.default_rng(0)
    labels = ["B"] * 45 + ["monocyte"] * 15 + ["B"] * 15 + ["monocyte"] * 45
    judged = truth(labels, np.array(["a"] * 60 + ["b"] * 60))
    latent = rng.normal(0, 1, (120, 3)) + 20 * (judged.stage[:, None] == judged.stage[0])
    assert abs(table(judged, Predictions({}, latent))[ALL, "donor", "leakage"]["value"]) < 0.3


def test_clusters_find_planted_stages_and_noise_finds_none():
    pytest.importorskip("igraph")
    rng = np.random.default_rng(0)
    judged = truth(list(NAMES) * 40)
    planted = rng.normal(0, 0.1, (200, 5)) + 5 * np.eye(5)[np.arange(200) % 5]
    assert table(judged, Predictions({}, planted))[ALL, "clusters", "ARI"]["value"] > 0.95
    assert abs(table(judged, Predictions({}, rng.normal(0, 1, (200, 5))))[ALL, "clusters", "ARI"]["value"]) < 0.1
