"""``workbench run`` from cells to report, on real cells of a few genes and a tiny random checkpoint."""

from __future__ import annotations

import html
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from damage import assert_undamaged
from fixtures_run import HEADS, LAYERS, N_GENES, write

from workbench.capture import capture
from workbench.cli import main
from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner
from workbench.engine.sweep import Backend
from workbench.engine.tables import read_table, table_path
from workbench.errors import CheckpointError, EvaluationError, ShapeError, WorkbenchError
from workbench.files import read_arrays, read_json, write_json
from workbench.models import load_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.operators import capturing
from workbench.operators.algorithm import Algorithm
from workbench.operators.saved_operator import Operator
from workbench.operators.store import StoredOperators
from workbench.recipes.run import readouts as readouts_module
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.recipe import run, stages

STAGES = ["panel", "cells", "operators", "untrained", "drift", "heads", "readouts", "writing", "algorithm", "explorer"]
CAPTURED = STAGES[:5]  # beside them what heads write is judged without the adaptor
TABLES = ["cells", "latent", "heads", "holdouts", "readouts", "added", "calibration", "distances"]
FIGURES = ["latent", "latent_3d", "drift", "runtime", "heads", "holdouts", "distances", "readouts", "added"]


@pytest.fixture(scope="module")
def first(cells, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    path = write(folder, checkpoint, cells)
    assert main(["run", str(path), "--out", str(folder / "out")]) == 0
    return SimpleNamespace(path=path, out=folder / "out", metrics=read_json(folder / "out" / "metrics.json"))


@pytest.fixture
def again(first, tmp_path):
    """A copy of the finished run, to go on from: returns which stages were kept."""
    out = tmp_path / "out"
    shutil.copytree(first.out, out)

    def go(*overrides, path=first.path):
        run(read_config(path, RunConfig, overrides), out)
        stages = read_json(out / "manifest.json")["stages"]
        assert list(stages) == STAGES
        return [name for name in STAGES if stages[name]["kept"]]

    go.out = out
    return go


def begin(config, out, names=("panel", "cells", "operators"), backend=None):
    """Do some stages of a run, and nothing else."""
    context, runner = RunContext(config, out, backend), StageRunner(out)
    for stage in stages(context):
        if stage.name in names:
            runner.run(stage)
    return context


@pytest.mark.slow
def test_damage_to_any_file_of_a_finished_run_is_found(first, tmp_path):
    assert_undamaged(first.out, tmp_path / "out", lambda out: main(["run", str(first.path), "--out", str(out)]))


def table(out, name):
    return pd.read_csv(out / "tables" / f"{name}.csv", keep_default_na=False, dtype=str)


def numbers(out, name):
    return read_table(table_path(out, name))


# What a run leaves


def test_every_promised_file_is_there(first):
    found = {str(p.relative_to(first.out)) for p in first.out.rglob("*") if p.is_file()}
    assert {
        "manifest.json",
        "metrics.json",
        "report.html",
        "algorithm/config.json",
        "algorithm/weights.safetensors",
    } <= found
    assert {f"tables/{name}.csv" for name in TABLES} <= found
    assert {f"figures/{name}.{kind}" for name in FIGURES for kind in ("html", "json")} <= found
    assert not [name for name in found if name.endswith(".part") or "capture" in name], "nothing half-made is left"


def test_json_files_are_json(first):
    for path in first.out.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=lambda name, path=path: pytest.fail(f"{path} holds {name}"))
    for name in FIGURES:
        figure = read_json(first.out / "figures" / f"{name}.json")
        assert figure["data"] and figure["layout"]


def test_the_manifest_says_what_made_the_run(first, checkpoint):
    manifest = read_json(first.out / "manifest.json")
    assert list(manifest["stages"]) == STAGES and not any(stage["kept"] for stage in manifest["stages"].values())
    assert all(stage["seconds"] > 0 for stage in manifest["stages"].values())
    assert manifest["config"]["adaptor"]["k"] == 3 and manifest["seed"] == 0
    assert set(manifest["checkpoint"]["sha256"]) == {"best_model.pt", "vocab.json", "args.json"}
    assert manifest["packages"]["torch"] == torch.__version__.split("+")[0] or "+" in manifest["packages"]["torch"]
    assert len(manifest["cells"]) == len(manifest["code"]) == 32 and manifest["peak_bytes"] > 1e7


def test_the_metrics_are_those_of_the_tables(first, cells):
    metrics = first.metrics
    assert len(metrics["heads"]) == LAYERS * HEADS and len(metrics["holdouts"]) == 30
    assert {row["representation"] for row in metrics["readouts"]} == {
        "latent (LET on drift)",
        "latent (LET on x itself)",
        "latent (LET on a random matrix)",
        "latent (LET on random, same singular values)",
        "latent (LET on random, same row norms)",
        "latent (LET on genes permuted within expression levels)",
        "latent (LET on the cells' own gene correlation)",
        "latent (LET on co-detection of genes)",
        "latent (LET on the same model before training)",
        "PCA-3 of x",
        "raw x (log-normalised panel)",
        "scGPT cls embedding",
    }
    assert {row["endpoint"] for row in metrics["readouts"]} == {
        "stage",
        "branch",
        "depth",
        "CD4 against CD8",
        "monocyte against dendritic",
    }
    counted, panel = metrics["stages"]["cells"], metrics["stages"]["panel"]
    assert counted["n_cells"] == cells.n_obs and counted["n_placed"] == cells.n_obs - 2
    assert panel["genes"]["matched"] == panel["n_panel"] == N_GENES - 2 and panel["genes"]["recased"]["n"] == 1
    assert (panel["n_groups"], panel["groups"]) == (10, "cells by a hash of their names")
    assert list(counted["unplaced_labels"]) == ["NA"]
    for row in metrics["heads"]:
        assert -1 <= row["spearman"] <= 1 and 0 < row["p"] <= row["q"] <= 1 and row["n_splits"] == 2


def test_cells_are_listed_as_they_are(first, cells):
    listed = table(first.out, "cells")
    assert listed["cell_id"].tolist() == cells.obs_names.tolist()
    assert listed["cell_type"].tolist() == cells.obs["label"].tolist()
    assert (listed["stage"] == "-1").tolist() == (cells.obs["label"] == "NA").tolist()


def test_the_algorithm_from_the_file_makes_the_latent_table(first, cells):
    algorithm = Algorithm.from_pretrained(first.out / "algorithm")
    latent = numbers(first.out, "latent")
    expected = latent[["z_1", "z_2", "z_3"]].to_numpy()
    found = algorithm.transform(cells)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert first.metrics["stages"]["algorithm"]["relative_difference_from_file"] < 1e-5
    assert set(algorithm.readouts) == {"stage", "branch", "depth", "CD4 against CD8", "monocyte against dendritic"}
    said = algorithm.readouts["branch"].predict(found)
    assert set(said) <= {"progenitor", "monocyte", "dendritic", "B", "NK", "T"} and len(set(said)) > 1
    assert algorithm.card["n_cells"] == cells.n_obs and "best_model.pt" in algorithm.card["checkpoint"]["sha256"]


def test_the_operators_are_means_over_folds(first, cells):
    stored = StoredOperators(first.out / "stages" / "operators")
    assert stored.shape == (LAYERS, HEADS) and stored.head(0, 0).shape == (N_GENES - 2, N_GENES - 2)
    listed = numbers(first.out, "cells")
    assert stored.n_groups == 10 and listed.groupby("group")["fold"].nunique().max() == 1
    without = [stored.leaving(set(listed.loc[listed["fold"] == k, "group"])) for k in (0, 1)]
    whole, parts = stored.counts, [one.counts for one in without]
    assert np.array_equal(whole, sum(parts))
    sums = [one.head(1, 1) * part for one, part in zip(without, parts, strict=True)]
    np.testing.assert_allclose(stored.head(1, 1) * whole, sum(sums), atol=1e-5)
    panel = (first.out / "stages" / "panel" / "panel.txt").read_text().splitlines()
    expressed = (cells.X[:, [i for i, g in enumerate(cells.var_names) if g.upper() in panel]] > 0).toarray()
    assert np.array_equal(np.sort(np.diag(whole)), np.sort(expressed.sum(0)))
    assert panel == sorted(panel) and "NOT MEASURED" not in panel


def test_the_report_says_what_was_skipped_and_why(first):
    page = (first.out / "report.html").read_text()
    skipped = {item["what"]: item["why"] for item in first.metrics["skipped"]}
    assert "the data name no donors" in skipped["Donor holdout"]
    assert "name no tissue" in skipped["Tissue as a grouping of anchors"]
    assert "the ruler does not know the label" in skipped["Cells labelled 'NA'"]
    for what, why in skipped.items():
        for text in (what, why):
            assert text.replace("'", "&#x27;") in page
    assert "Parts of a group are no replicates" in page or "parts of a group are no replicates" in page
    donors = table(first.out, "holdouts").query("holdout == 'donor'")
    assert (donors["status"] == "not applicable: no donors").all() and (donors["spearman"] == "").all()


def test_the_summary_of_a_run_fits_one_screen(first, browser_page):
    shown = browser_page(first.out / "report.html", viewport={"width": 1280, "height": 900})
    box = shown.page.locator("#summary").bounding_box()
    assert box["y"] + box["height"] <= 900 and shown.errors == []


# What is run again


def test_an_unchanged_run_is_kept_whole(first, again, capsys):
    written = [p for p in (again.out / "tables").iterdir() if not p.name.startswith("runtime.")]
    before = {p: p.stat().st_mtime_ns for p in written}
    assert again() == STAGES
    assert read_json(again.out / "metrics.json") == first.metrics
    assert {p: p.stat().st_mtime_ns for p in written} == before
    assert capsys.readouterr().err.count("unchanged, kept") == len(STAGES)


@pytest.mark.slow
def test_a_fresh_run_gives_the_same_numbers(first, tmp_path):
    run(read_config(first.path, RunConfig), tmp_path)
    assert read_json(tmp_path / "metrics.json") == first.metrics
    for name in TABLES:
        pd.testing.assert_frame_equal(table(tmp_path, name), table(first.out, name))
    weights = [(out / "algorithm" / "weights.safetensors").read_bytes() for out in (tmp_path, first.out)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_another_width_reruns_what_depends_on_it(first, again):
    assert again("adaptor.k=2") == [*CAPTURED, "writing"]
    latent = numbers(again.out, "latent")
    assert [c for c in latent if c.startswith("z_")] == ["z_1", "z_2"]
    assert Algorithm.from_pretrained(again.out / "algorithm").matrix.shape == (N_GENES - 2, 2)
    assert read_json(again.out / "metrics.json")["readouts"] != first.metrics["readouts"]
    assert again("adaptor.k=2") == STAGES


@pytest.mark.slow
def test_another_feature_map_is_really_used(again):
    kept = again("adaptor.feature_map=single", "adaptor.layer=2", "adaptor.head=1")
    assert kept == [*CAPTURED, "writing"]
    operators = StoredOperators(again.out / "stages" / "operators")
    saved = Operator.load(again.out / "operator")
    np.testing.assert_array_equal(saved.matrix, operators.head(2, 1))
    assert (saved.feature_map, saved.kind) == ("L2H1", "attention") and saved.genes == operators.genes
    heads = table(again.out, "heads").query("layer == '2' and head == '1'")
    configured = table(again.out, "holdouts").query("operator == 'L2H1' and holdout == 'random'")
    assert float(heads["spearman"].iloc[0]) == pytest.approx(float(configured["spearman"].iloc[0]), abs=1e-3)


# Interruptions


class Stop(BaseException):
    """As a KeyboardInterrupt would come."""


OPERATORS = (*(f"operators-{group}" for group in range(10)), "embedding")


def arrays_of(out, name):
    return read_arrays(out / "stages" / "operators" / f"{name}.safetensors")[0]


def interrupted_capture(monkeypatch, config, out, after):
    """A run whose capture saves every 16 cells and is interrupted in one of its batches."""
    update, calls = capturing.GenePairSink.update, []

    def breaks(self, *args):
        calls.append(1)
        if len(calls) == after:
            raise Stop
        return update(self, *args)

    monkeypatch.setattr(capturing, "capture", lambda *a, **k: capture(*a, **{**k, "save_every": 16, "progress": False}))
    monkeypatch.setattr(capturing.GenePairSink, "update", breaks)
    with pytest.raises(Stop):
        run(config, out)
    monkeypatch.setattr(capturing.GenePairSink, "update", update)
    assert (out / "stages" / "operators" / "capture").is_dir()


def test_an_interrupted_run_goes_on_to_the_same_numbers(first, tmp_path, monkeypatch):
    config = read_config(first.path, RunConfig, ["capture.batch_size=8"])
    interrupted_capture(monkeypatch, config, tmp_path, after=3 * 4 + 2)
    done = []
    monkeypatch.setattr(
        capturing, "capture", lambda *a, **k: done.append(capture(*a, **{**k, "save_every": 16})) or done[0]
    )
    begin(config, tmp_path)
    assert done[0].resumed_at == 32
    for name in OPERATORS:
        a, b = arrays_of(tmp_path, name), arrays_of(first.out, name)
        assert set(a) == set(b)
        for key, value in b.items():
            np.testing.assert_allclose(a[key], value, atol=1e-4)
    assert not (tmp_path / "stages" / "operators" / "capture").exists()


@pytest.mark.slow
def test_more_than_one_worker_divides_the_pass_to_the_same_numbers(first, tmp_path, capfd):
    config = read_config(first.path, RunConfig)
    names = ("panel", "cells", "operators", "untrained")
    begin(config, tmp_path, names, Backend("loky", 2, progress=False))
    for name in OPERATORS:
        a, b = arrays_of(tmp_path, name), arrays_of(first.out, name)
        for key, value in b.items():
            np.testing.assert_allclose(a[key], value, atol=1e-4)
    untrained = StoredOperators(tmp_path / "stages" / "untrained"), StoredOperators(first.out / "stages" / "untrained")
    np.testing.assert_allclose(untrained[0].head(1, 1), untrained[1].head(1, 1), atol=1e-5)
    assert not list(tmp_path.glob("stages/*/capture"))


@pytest.mark.parametrize("override", ["panel.size=20", "capture.groups=4", "seed=5"])
def test_an_interrupted_run_with_another_configuration_starts_that_stage_afresh(first, tmp_path, monkeypatch, override):
    interrupted_capture(monkeypatch, read_config(first.path, RunConfig), tmp_path / "a", after=14)
    config = read_config(first.path, RunConfig, [override])
    for out in ("a", "b"):
        begin(config, tmp_path / out)
    for name in ("operators-0", "operators-1"):
        a, b = (arrays_of(tmp_path / out, name) for out in "ab")
        for key, value in b.items():
            np.testing.assert_allclose(a[key], value, atol=1e-4)


def test_an_interrupted_run_with_other_labels_and_folds_goes_on(first, tmp_path, monkeypatch):
    interrupted_capture(monkeypatch, read_config(first.path, RunConfig, ["capture.batch_size=8"]), tmp_path, after=14)
    done = []
    monkeypatch.setattr(
        capturing, "capture", lambda *a, **k: done.append(capture(*a, **{**k, "save_every": 16})) or done[0]
    )
    others = ["capture.batch_size=8", "evaluation.folds=3", "stages={NA: NK}"]
    begin(read_config(first.path, RunConfig, others), tmp_path)
    assert done[0].resumed_at == 32


# Donors, and data that lack something


@pytest.fixture(scope="module")
def with_donors(cells, checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("donors")
    path = write(folder, checkpoint, cells, data={"donor": "donor", "tissue": "organ"}, anchors={"min_cells": 2})
    run(read_config(path, RunConfig), folder / "out")
    return SimpleNamespace(path=path, out=folder / "out", metrics=read_json(folder / "out" / "metrics.json"))


def test_donors_stay_whole_and_are_held_out(with_donors, cells):
    listed = table(with_donors.out, "cells")
    assert listed["donor"].tolist() == cells.obs["donor"].tolist()
    assert (listed.groupby("donor")["fold"].nunique() == 1).all() and set(listed["fold"]) == {"0", "1"}
    assert with_donors.metrics["stages"]["panel"]["groups"] == "donors"
    donors = [row for row in with_donors.metrics["holdouts"] if row["holdout"] == "donor"]
    assert [row["n_splits"] for row in donors] == [4] * 10 and all(row["status"] == "ok" for row in donors)
    assert "Donor holdout" not in {item["what"] for item in with_donors.metrics["skipped"]}
    assert "Whole donors are held out" in (with_donors.out / "report.html").read_text()


def test_anchors_are_one_per_donor_tissue_and_label(with_donors, cells):
    anchors = RunContext(read_config(with_donors.path, RunConfig), with_donors.out).anchors()
    groups = cells.obs[cells.obs["label"] != "NA"].groupby(["donor", "label"]).size()
    assert len(anchors) == (groups >= 2).sum() and set(anchors.table["donor"]) == {"01", "1", "NA", "d4"}
    assert set(anchors.table["tissue"]) == {"blood"}


def features_without_the_first_fold(monkeypatch, config, out):
    """What each representation gives when fold 0 is held out."""
    found = {}

    def record(representations, wanted, fold, **options):
        found.update({name: make(0) for name, make in representations.items()}, fold=fold)
        row = {"endpoint": "e", "metric": "m", "status": "ok", "value": 0.5}
        return [{**row, "representation": name, "by_fold": {0: 0.5, 1: 0.5}} for name in representations]

    context = begin(config, out, ("panel", "cells", "operators", "untrained"))
    monkeypatch.setattr(readouts_module, "cross_validate", record)
    readouts_module.readouts_stage(context, out, {})
    return found


def test_neither_labels_nor_values_of_held_out_cells_reach_what_is_tested_on_them(
    with_donors, cells, checkpoint, tmp_path, monkeypatch
):
    before = features_without_the_first_fold(monkeypatch, read_config(with_donors.path, RunConfig), tmp_path / "before")
    held = before["fold"] == 0
    changed = cells.copy()
    labels = changed.obs["label"].to_numpy().copy()
    labels[held] = np.random.default_rng(0).permutation(labels[held])
    changed.obs["label"] = labels
    dense = changed.X.toarray()
    dense[held] = dense[held][:, ::-1]
    changed.X = sp.csr_matrix(dense)
    path = write(
        tmp_path / "changed", checkpoint, changed, data={"donor": "donor", "tissue": "organ"}, anchors={"min_cells": 2}
    )
    after = features_without_the_first_fold(monkeypatch, read_config(path, RunConfig), tmp_path / "after")
    assert np.array_equal(after["fold"], before["fold"])
    names = [name for name in before if name != "fold"]
    assert len(names) == 12
    for name in names:
        found, wanted = (of[name].toarray() if sp.issparse(of[name]) else of[name] for of in (after, before))
        np.testing.assert_allclose(found[~held], wanted[~held], atol=1e-5, err_msg=name)
        assert not np.allclose(found[held], wanted[held]), name


def test_cells_without_a_label_column_are_an_error(cells, checkpoint, tmp_path, capsys):
    path = write(tmp_path, checkpoint, cells)
    path.write_text(path.read_text().replace("  cell_type: label\n", ""))
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said.startswith("EvaluationError: The cells of")
        and "no cell type column" in said
        and "set data.cell_type" in said
    )


def test_more_folds_than_donors_are_an_error(with_donors, tmp_path):
    with pytest.raises(EvaluationError, match="4 donors cannot fill 5 folds"):
        run(read_config(with_donors.path, RunConfig, ["evaluation.folds=5"]), tmp_path)


def test_more_folds_than_groups_are_an_error_that_names_both_keys(with_donors, tmp_path):
    with pytest.raises(EvaluationError, match="3 folds cannot be made of 2 groups.*capture.groups to 3"):
        run(read_config(with_donors.path, RunConfig, ["evaluation.folds=3", "capture.groups=2"]), tmp_path)


def test_labels_that_no_ruler_knows_are_an_error_that_says_what_to_do(cells, checkpoint, tmp_path):
    strange = cells.copy()
    strange.obs["label"] = [f"cluster {i % 4}" for i in range(strange.n_obs)]
    with pytest.raises(EvaluationError, match="0 anchors of 0 stages.*map more labels to stages"):
        run(read_config(write(tmp_path, checkpoint, strange), RunConfig), tmp_path / "out")


def test_too_few_anchors_to_hold_any_out_are_an_error_not_a_crash(cells, checkpoint, tmp_path):
    few = cells[cells.obs["label"].isin(["CD19+ B", "CD56+ NK", "CD34+", "Dendritic"])].copy()
    path = write(tmp_path, checkpoint, few, anchors={"min_cells": 2, "parts": 1})
    with pytest.raises(EvaluationError, match="4 anchors are too few for a holdout.*Raise anchors.parts"):
        run(read_config(path, RunConfig), tmp_path / "out")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("adaptor.blocks=[[0],[9]]", "blocks of layers that exist; found layer 9 of a model with layers 0 to 2"),
        ("adaptor.blocks=[[0],[]]", "blocks of layers that exist"),
        ("adaptor={feature_map: single, layer: 1, head: 7}", "There is no head 7 in layer 1"),
    ],
)
def test_a_feature_map_that_the_model_cannot_have_is_refused_before_the_capture(
    first, tmp_path, monkeypatch, override, said
):
    monkeypatch.setattr(capturing, "capture", None)
    with pytest.raises(ShapeError, match=said):
        run(read_config(first.path, RunConfig, [override]), tmp_path)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["factors.program_draws=0"], "'factors.program_draws' is 0: input should be greater than 0"),
        (["factors.gene_sets=other.gmt"], "Gene set file '.*other.gmt' does not exist"),
        (["factors.gene_sets=FOLDER/broken.gmt"], "is no GMT file: line 1"),
        (["factors.gene_sets=FOLDER/none.gmt"], "names no gene for any of its 1 terms"),
        (["factors.gene_sets=FOLDER/few.gmt"], "No term of 'few' has 3 to 500 genes on the panel"),
        (["factors.gene_sets=FOLDER/others.gmt"], "None of the 3 genes of 'others'"),
        (["factors.n=300"], "300 factors cannot be made on a panel of"),
        (["operator=qk", "factors.n=5"], "5 factors cannot be made on qk operators.*set factors.n to 4 or fewer"),
        (["operator=ov", "factors.n=5"], "5 factors cannot be made on ov operators"),
        (["factors.head=L9H9"], "Unknown head 'L9H9'"),
        (
            ["anchors={min_cells: 8, parts: 1}"],
            "Without fold 0: . anchors of . stages remain with at least 8 cells each",
        ),
        (
            ["evaluation.folds=4", "anchors={min_cells: 8, parts: 1}"],
            r"Without folds \d\+\d: .* anchors",
        ),
        (["cell_heads={}", "adaptor.k=40"], "A latent of width 40 cannot be made of"),
        (["expected=FOLDER/figures.yaml"], "cannot be read"),
        (["panel.exclude=[cd8]"], "'cd8'.* did you mean"),
    ],
)
def test_what_can_be_known_is_refused_before_any_stage(cells, checkpoint, tmp_path, monkeypatch, overrides, said):
    measured = cells.var_names[:2].tolist()
    (tmp_path / "broken.gmt").write_text("A,x,CD3D\n")
    (tmp_path / "none.gmt").write_text("A\tx\n")
    (tmp_path / "few.gmt").write_text("\t".join(["A", "x", *measured]) + "\n")
    (tmp_path / "others.gmt").write_text("A\tx\tONE\tTWO\tTHREE\n")
    path = write(tmp_path, checkpoint, cells, factors={"n": 3}, capture={"groups": 4})
    given = [one.replace("FOLDER", str(tmp_path)) for one in overrides]
    monkeypatch.setattr(StageRunner, "run", None)
    monkeypatch.setattr(capturing, "capture", None)
    with pytest.raises(WorkbenchError, match=said):
        run(read_config(path, RunConfig, given), tmp_path / "out")


def test_a_checkpoint_without_a_cell_embedding_is_refused_before_any_stage(cells, checkpoint, tmp_path):
    vocabulary, shape = load_model(checkpoint).vocabulary, {"perturbation": True, "n_classes": 0, "mvc_style": None}
    folder = save_checkpoint(
        HookedScGPT(ModelConfig(len(vocabulary), 8, 1, 1, 8, **shape), vocabulary), tmp_path / "it"
    )
    with pytest.raises(CheckpointError, match="has no cell embedding"):
        run(read_config(write(tmp_path, folder, cells), RunConfig), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sorted_populations_as_donors_end_with_a_report(cells, checkpoint, tmp_path):
    sorted_cells = cells[cells.obs["label"] != "NA"].copy()
    sorted_cells.obs["donor"] = sorted_cells.obs["label"]
    rare = np.flatnonzero(sorted_cells.obs["label"] == "Dendritic")[:-1]
    sorted_cells = sorted_cells[np.setdiff1d(np.arange(sorted_cells.n_obs), rare)].copy()
    path = write(
        tmp_path,
        checkpoint,
        sorted_cells,
        data={"donor": "donor"},
        evaluation={"folds": 10, "holdouts": 2, "permutations": 3, "refits": 2, "head_refits": 1, "control_draws": 2},
        anchors={"min_cells": 1},
        cell_heads={"epochs": 2, "hybrid": False},
    )
    out = run(read_config(path, RunConfig), tmp_path / "out")
    page = html.unescape((out / "report.html").read_text())
    assert "No readout could be judged" in page and "Figure 'added'" in page


def test_cells_of_other_content_are_read_again_by_the_splits(first, tmp_path):
    out, made = tmp_path / "out", []
    handle = RunContext(read_config(first.path, RunConfig), out).handle
    for key in ("a", "a", "b"):
        write_json(out / "stages" / "cells" / "done.json", {"key": key})
        made.append(handle.open())
    assert made[0] is made[1] and made[1] is not made[2]


def test_batches_that_the_checkpoint_does_not_read_are_said(cells, checkpoint, tmp_path, capsys):
    path = write(tmp_path, checkpoint, cells, data={"batch": "organ"})
    assert len(RunContext(read_config(path, RunConfig), tmp_path / "out").tokenizer) == cells.n_obs
    assert "the checkpoint has no batches: 'batch' changes nothing" in capsys.readouterr().err


def test_the_cells_may_stay_on_the_disk(first, tmp_path):
    backed = begin(read_config(first.path, RunConfig, ["data.backed=true"]), tmp_path)
    for name in OPERATORS:
        a, b = arrays_of(tmp_path, name), arrays_of(first.out, name)
        assert set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)
    assert (
        backed.cells.expression != RunContext(read_config(first.path, RunConfig), first.out).cells.expression
    ).nnz == 0


@pytest.mark.slow
def test_the_picture_is_umap_s(first, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "umap")
    flat = []
    for out in ("a", "b"):
        run(read_config(first.path, RunConfig), tmp_path / out)
        flat.append(numbers(tmp_path / out, "latent")[["umap_1", "umap_2"]].to_numpy())
    assert np.isfinite(flat[0]).all() and flat[0].std(0).min() > 0 and np.array_equal(*flat)


def test_a_table_that_is_gone_is_made_again(again):
    (again.out / "tables" / "drift_genes.csv").unlink()
    assert "drift" not in again() and (again.out / "tables" / "drift_genes.csv").is_file()


def test_a_dry_run_knows_what_a_run_will_leave_and_makes_nothing(first, tmp_path, capsys):
    for out, more in ((tmp_path / "new" / "out", []), (first.out, ["--set", "adaptor.k=2"])):
        before = sorted(out.rglob("*"))
        assert main(["run", str(first.path), "--out", str(out), "--dry-run", "--json", *more]) == 0
        found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["dry_run"]["stages"]}
        assert list(found) == STAGES and sorted(out.rglob("*")) == before
        # The sizes are those of the files that such a run leaves, but for their headers.
        size = sum(path.stat().st_size for path in (first.out / "stages" / "operators").glob("operators-*.safetensors"))
        assert found["operators"]["disk"] == pytest.approx(size, rel=0.2) and found["operators"]["passes"] == len(read_table(
            table_path(first.out, "cells")
        ))  # fmt: skip
    assert found["operators"]["state"] == "kept" and found["heads"]["why"] == "others than before: adaptor"
    assert not (tmp_path / "new").exists()


def test_a_cleaned_run_still_draws_applies_and_goes_on(again, cells, tmp_path, capsys):
    out = again.out
    capsys.readouterr()
    assert main(["clean", str(out), "--stages"]) == 0 and "Removed: " in capsys.readouterr().out
    assert not list(out.glob("stages/**/*.safetensors"))
    assert main(["figures", str(out), "--only", "heads"]) == 0
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert main(["apply", str(out / "algorithm"), str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "x.h5ad")]) == 0
    kept = again()
    assert not {"operators", "untrained", "cells"} & set(kept) and {"heads", "readouts", "algorithm"} <= set(kept)


@pytest.mark.slow
def test_other_studies_are_tried_and_listed(cells, checkpoint, tmp_path):
    (tmp_path / "other").mkdir()
    cells.write_h5ad(tmp_path / "other.h5ad")
    study = {"data": {"name": str(tmp_path / "other.h5ad"), "cell_type": "label"}}
    path = write(tmp_path / "run", checkpoint, cells, transfer={"the other": study})
    out = run(read_config(path, RunConfig), tmp_path / "out")
    rows = numbers(out, "transfers")
    assert set(rows["study"]) == {"the other"} and "logistic regression" in set(rows["method"])
    ours = rows[rows["method"] == "algorithm"].iloc[0]
    assert ours["n_cells"] == (placed := int((numbers(out, "cells")["stage"] >= 0).sum())) and placed > 0
    assert "the other" in (out / "algorithm" / "README.md").read_text()
    said = (out / "report.html").read_text()
    assert f"{len(cells)} cells of the study &#x27;the other&#x27; have the names of cells" in said
    assert "On cells of other studies" in said and (out / "figures" / "transfers.html").exists()
    # Named labels that no ruler knows are refused before any stage.
    strange = cells.copy()
    strange.obs["label"] = "XYZ"
    strange.write_h5ad(tmp_path / "strange.h5ad")
    wrong = {"data": {"name": str(tmp_path / "strange.h5ad"), "cell_type": "label"}}
    path = write(tmp_path / "no", checkpoint, cells, transfer={"strange": wrong})
    with pytest.raises(EvaluationError, match="No cell of 'strange' has a label that the ruler knows"):
        run(read_config(path, RunConfig), tmp_path / "never")


def test_too_few_cells_for_heads_that_are_trained_on_cells_are_refused_before_the_pass(cells, checkpoint, tmp_path):
    few = cells[:: cells.n_obs // 24].copy()
    given = {"anchors": {"min_cells": 1, "parts": 6}, "evaluation": {"folds": 2}}
    path, out = write(tmp_path, checkpoint, few, cell_heads={}, adaptor={"k": 20}, **given), tmp_path / "out"
    with pytest.raises(
        EvaluationError, match="Without fold 0, heads that are trained on cells: 0 of 8 cells can be held out"
    ):
        run(read_config(path, RunConfig), out)
    assert not (out / "stages" / "operators").exists()
