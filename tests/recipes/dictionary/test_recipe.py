"""``workbench dictionary`` on a tiny checkpoint: its tables, its pages, what is refused before any work, and its parts."""

from __future__ import annotations

import base64
import gzip
import html
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from damage import assert_undamaged
from processes import kill_once

from workbench.cells.splits import Split
from workbench.cli import main
from workbench.dictionaries import Dictionary, feature_attribution, feature_circuit, feature_effects
from workbench.dictionaries.judge import describe, donors_of, gather
from workbench.dictionaries.training import STATE, train_dictionaries
from workbench.engine.config import make_config
from workbench.engine.plan import plan_text
from workbench.engine.recipe import execute, plan
from workbench.engine.tables import read_table
from workbench.errors import CellsError, ConfigError, EvaluationError, HookError, ShapeError
from workbench.recipes.dictionary.config import DictionaryRunConfig
from workbench.recipes.dictionary.context import DictionaryContext
from workbench.recipes.dictionary.recipe import RECIPE
from workbench.recipes.dictionary.timing import seconds_of_steps

HOOKS = ["blocks.1.hook_resid_post", "blocks.2.hook_resid_post"]


def config(tiny, **more):
    return make_config(DictionaryRunConfig, **{**tiny, **more})


@pytest.mark.slow
def test_the_dictionaries_are_those_of_the_function(made):
    context = made.context
    assert set(context.train_cells.obs["donor"]).isdisjoint(context.held_cells.obs["donor"])
    own = train_dictionaries(
        context.model, context.train_cells, HOOKS, context.config.dictionary, seed=0, min_gene_share=0.3, progress=False
    )
    for hook, one in own.items():
        there = Dictionary.from_pretrained(made.out / "dictionaries" / hook)
        assert all(torch.equal(one.weights[name], value) for name, value in there.weights.items())
    assert not list(made.out.glob(f"stages/*/state/{STATE}"))


@pytest.mark.slow
@pytest.mark.slow
def test_damage_to_any_file_of_finished_dictionaries_is_found(made, tiny, tmp_path):
    def go(out):
        return int(execute(RECIPE, make_config(DictionaryRunConfig, **tiny), out).out != out)

    assert_undamaged(made.out, tmp_path / "out", go)


def test_the_tables_have_a_row_for_each_hook_source_and_seed(made):
    context = made.context
    summary = context.read("dictionary_summary")
    expected = {
        (hook, source, seed)
        for hook in HOOKS
        for source, seed in (("model", 0), ("model", 1), ("untrained", 0), ("shuffled", 0))
    }
    assert set(zip(summary["hook"], summary["source"], summary["seed"], strict=True)) == expected and len(summary) == 8
    row = summary.set_index(["hook", "source", "seed"]).loc[(HOOKS[0], "model", 0)]
    assert row["within_low"] < row["within_genes"] < row["within_high"] and row["layer"] == 1 and row["n_cells"] == 20
    dictionary = context.dictionary("train", HOOKS[0])
    rows, fitted = (
        gather(context.model, dictionary, cells, 0, 0.3) for cells in (context.held_cells, context.train_cells)
    )
    donors = donors_of(context.held_cells)
    own, _ = describe(dictionary, rows, fitted, context.model, donors=donors, draws=20)
    assert row["n_donors"] == len(set(context.held_cells.obs["donor"])) >= 2
    assert (row["within_low"], row["within_high"]) == pytest.approx((own["within_low"], own["within_high"]))
    over_cells, _ = describe(dictionary, rows, fitted, context.model, draws=20)
    assert over_cells["n_donors"] == 0 and over_cells["within_low"] != own["within_low"]
    assert row["variance_explained"] == pytest.approx(own["variance_explained"]) and row["l0"] == pytest.approx(4)
    codes = context.read("dictionary_codes").set_index(["hook", "code"])
    assert codes.loc[(HOOKS[0], "gene id alone"), "variance_explained"] == pytest.approx(row["gene_id"])


@pytest.mark.slow
def test_what_is_known_of_a_feature_stands_in_one_row(made):
    context = made.context
    table = context.read("dictionary_features")
    assert len(table) == 64 and not table.duplicated(["hook", "feature"]).any()
    assert {
        "genes",
        "cell_type",
        "donor",
        "one_donor",
        "program",
        "q",
        "named",
        "density",
        "found_again",
        "top_gene",
    } <= set(table)
    genes = context.read("dictionary_genes").query("hook == @HOOKS[1] and rank == 1").set_index("feature")
    row = table[table["hook"] == HOOKS[1]].set_index("feature").loc[genes.index[0]]
    assert row["genes"].startswith(f"{genes['gene'].iloc[0]} (")
    matches = context.read("dictionary_matches").set_index(["hook", "feature"])["cosine"]
    assert row["found_again"] == pytest.approx(matches[HOOKS[1], genes.index[0]])
    types = context.read("dictionary_types").query("hook == @HOOKS[0]")
    assert set(types["label"]) == {"B", "T"} and len(types) == 64


@pytest.mark.slow
def test_the_report_asks_about_gene_identity_and_links_the_pages(made):
    assert "a gene's name alone?" in made.opening[0] and "held-out cells" in made.opening[2]
    page = (made.out / "report.html").read_text()
    for hook in HOOKS:
        assert (
            f'href="dictionaries/{hook}/index.html"' in page
            and (made.out / "dictionaries" / hook / "index.html").is_file()
        )
    for name in (
        "gene id alone",
        "random weights",
        "activations dealt anew within genes",
        "another seed",
        "random directions of the cells",
    ):
        assert f"<b>{name}</b>" in page
    assert all(
        (made.out / "figures" / f"dictionary_{name}.html").is_file()
        for name in ("variance", "losses", "density", "stability", "naming")
    )


@pytest.mark.slow
def test_causes_are_those_of_the_functions(made):
    context, (low, high) = made.context, HOOKS
    cells, dictionary = context.held_cells, context.dictionary("train", low)
    table = context.read("feature_effects").query("hook == @low")
    tested = sorted(set(table["feature"]))
    assert len(tested) == 2 and set(table["metric"]) == {"cell_shift"}
    shared = {"n_cells": 30, "seed": 0, "min_gene_share": 0.3}
    own = feature_effects(context.model, cells, dictionary, tested, null_draws=4, **shared)
    assert np.allclose(table["effect"], own["effect"], rtol=1e-4) and np.allclose(table["p"], own["p"], equal_nan=True)
    screen = feature_attribution(context.model, cells, dictionary, check=3, **shared)
    estimates = context.read("feature_attribution").query("hook == @low")
    assert np.allclose(estimates["estimated"], screen.table["estimated"], atol=1e-6)
    assert estimates["exact"].notna().sum() == 3 * estimates["metric"].nunique()
    edges, summary = context.read("feature_edges"), context.read("feature_circuits")
    targets = sorted(set(edges["target"]))
    later = context.dictionary("train", high)
    circuit = feature_circuit(context.model, cells, dictionary, later, targets, check=3, null_draws=3, **shared)
    assert np.allclose(edges["strength"], circuit.edges["strength"], atol=1e-6) and len(summary) == 1
    assert summary["pairs"].iloc[0] == len(edges) and set(edges["source_hook"]) == {low}


def test_a_dictionary_of_which_hardly_a_feature_fires_ends_with_a_report_that_says_so(
    made, tiny, tmp_path, monkeypatch
):
    out = shutil.copytree(made.out, tmp_path / "out")

    def few(*_, **__):
        raise EvaluationError("1 upstream features fire.")

    monkeypatch.setattr("workbench.recipes.dictionary.sweep.feature_circuit", few)
    done = execute(RECIPE, config(tiny, sweep={**tiny["sweep"], "targets": 2}), out)
    assert done.context.read("feature_edges").empty and done.context.read("feature_circuits").empty
    page = html.unescape((out / "report.html").read_text())
    assert f"From {HOOKS[0]} to {HOOKS[1]}: 1 upstream features fire." in page and "Figure 'feature_graph'" not in page


@pytest.mark.slow
def test_pages_show_the_effects_that_were_measured(made):
    table = made.context.read("feature_effects")
    for hook in HOOKS:
        page = (made.out / "dictionaries" / hook / "index.html").read_text()
        packed = page.split('id="data">')[1].split("<")[0]
        data = json.loads(gzip.decompress(base64.b64decode(packed)))
        tested = sorted(set(table.loc[table["hook"] == hook, "feature"]))
        assert [i for i, one in enumerate(data["flags"]["tested"]) if one] == tested and data["effects"]["metrics"] == [
            "cell shift"
        ]


@pytest.mark.slow
def test_steering_goes_along_the_tested_features_and_the_difference_of_means(made):
    table = made.context.read("feature_steering")
    tested = made.context.read("feature_effects").groupby("hook")["feature"].agg(set)
    for hook in HOOKS:
        along = set(table.loc[table["hook"] == hook, "along"])
        assert "difference of means" in along <= {"difference of means", *(f"F{k}" for k in tested[hook])}
    assert set(table["dose"]) == {0, 2} and table.loc[table["along"] == "difference of means", "q"].isna().all()
    moved = table.query("measure == 'moved' and dose == 2 and along != 'difference of means'")
    assert (moved["q"] >= moved["p"]).all()
    page = (made.out / "report.html").read_text()
    assert all(f"<b>{name}</b>" in page for name in ("features that are alike", "random directions"))
    drawn = {path.stem for path in (made.out / "figures").glob("*.html")}
    assert {"feature_estimates", "feature_graph"} <= drawn
    assert sum(name.startswith("feature_effects_") for name in drawn) == 2
    assert any(name.startswith("feature_doses_") for name in drawn)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_effects(tiny, tmp_path):
    path = tmp_path / "tiny.yaml"
    sweep = {**tiny["sweep"], "features": 8, "alike": 12, "steering": []}
    path.write_text(
        yaml.safe_dump({**tiny, "controls": [], "trainings": 1, "sweep": sweep, "checkpoint": str(tiny["checkpoint"])})
    )
    command = ["dictionary", "sweep", str(path), "--out"]
    killed, begun = tmp_path / "killed", "stages/feature_effects/begun.json"
    kill_once((killed / begun).is_file, [sys.executable, "-m", "workbench.cli", *command, str(killed)])
    assert main([*command, str(killed)]) == 0 and main([*command, str(tmp_path / "whole")]) == 0
    for name in ("feature_effects", "feature_attribution", "feature_edges"):
        one, other = (tmp_path / run / "tables" / f"{name}.csv" for run in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes()
    assert {one.name for one in (killed / "stages").iterdir()} == {
        "train", "feature_effects", "feature_attribution", "feature_circuits",
    }  # fmt: skip


@pytest.mark.slow
def test_nothing_is_done_twice_and_no_batch_of_cells_changes_it(made, tiny):
    other = {**tiny["dictionary"], "cells_at_once": 5}
    again = plan(RECIPE, config(tiny, dictionary=other), made.out)
    assert {one.state.state for one in again.stages} == {"kept"}


@pytest.mark.slow
def test_a_part_does_what_comes_before_it_and_no_more(tiny, tmp_path):
    path, out = tmp_path / "tiny.yaml", tmp_path / "out"
    path.write_text(
        yaml.safe_dump(
            {**tiny, "checkpoint": str(tiny["checkpoint"]), "hooks": HOOKS[:1], "controls": [], "trainings": 1}
        )
    )
    command = ["dictionary", "train", str(path), "--out", str(out)]
    assert main(command) == 0
    assert {one.name for one in (out / "stages").iterdir()} == {"train"}
    assert main(["dictionary", "judge", *command[2:]]) == 0
    assert {one.name for one in (out / "stages").iterdir()} == {"train", "judge"}
    report = (out / "report.html").read_text()
    assert "Part &#x27;name&#x27;" in report and "it needs trainings: 2 or more" in report
    assert main(["dictionary", *command[2:], "--set", "names=null"]) == 0
    assert (out / "dictionaries" / HOOKS[0] / "index.html").is_file()
    assert "program" not in read_table(out / "tables" / "dictionary_features.csv")


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_dictionaries(tiny, tmp_path):
    path = tmp_path / "tiny.yaml"
    more = {"controls": [], "trainings": 1, "dictionary": {**tiny["dictionary"], "epochs": 12}}
    path.write_text(yaml.safe_dump({**tiny, **more, "checkpoint": str(tiny["checkpoint"])}))
    command = ["dictionary", "train", str(path), "--out"]
    killed = tmp_path / "killed"
    begun = killed / "stages" / "train" / "begun.json"
    kill_once(begun.is_file, [sys.executable, "-m", "workbench.cli", *command, str(killed)])
    assert main([*command, str(killed)]) == 0 and main([*command, str(tmp_path / "whole")]) == 0
    for hook in HOOKS:
        one, other = (tmp_path / run / "dictionaries" / hook / "sae_weights.safetensors" for run in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_rows_of_cells_have_dictionaries_without_names(tiny, tmp_path):
    more = {"hooks": ["hook_cell"], "names": None, "sweep": None, "trainings": 1, "controls": ["shuffled"]}
    few = {**tiny["dictionary"], "width": 16, "rows": 8, "epochs": 20}
    done = execute(RECIPE, config(tiny, **more, dictionary=few), tmp_path / "out")
    assert "whole cells, which have no gene" in done.opening[1]
    assert pd.isna(done.context.read("dictionary_summary")["within_genes"]).all()


def test_the_plan_says_tasks_and_steps(tiny, tmp_path, monkeypatch):
    measured = []

    def a_second(*about):
        measured.append(seconds_of_steps(*about))
        return 1.0  # whatever this machine does meanwhile

    monkeypatch.setattr("workbench.recipes.dictionary.recipe.seconds_of_steps", a_second)
    found = plan(RECIPE, config(tiny), tmp_path / "out")
    loads = {one.state.name: one.load for one in found.stages}
    assert loads["judge"].tasks == 8 and loads["stability"].tasks == 2 and loads["name"].tasks == 4
    assert loads["train"].passes == 3 * loads["train"].cells and "steps of each of 4 x 2 dictionaries" in plan_text(
        found
    )
    assert "a step of all 2 takes about" in plan_text(found) and "one step of each size" in loads["train"].basis
    more = {**tiny["dictionary"], "epochs": 300}
    longer = plan(RECIPE, config(tiny, dictionary=more), tmp_path / "out")
    seconds = [one.load.seconds for one in (found.stages[0], longer.stages[0])]
    assert seconds[1] > 20 * seconds[0] > 0 and min(measured) > 0 and len(measured) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"hooks": ["hook_cell"]}, HookError, "have no gene to name a feature by; set names to null"),
        ({"hooks": ["blocks.9.hook_resid_post"]}, HookError, "blocks.9"),
        ({"targets": {"blocks.0.hook_resid_mid": "blocks.0.hook_mlp_out"}}, HookError, "is not among the hooks"),
        ({"targets": {HOOKS[0]: "blocks.1.hook_mlp_out"}}, ConfigError, "A transcoder is trained as batchtopk"),
        ({"dictionary": {"width": 8, "k": 2}}, ShapeError, "8 features are fewer than the 16 numbers"),
        ({"names": {"sets": "nowhere.gmt"}}, ConfigError, "nowhere.gmt"),
        ({"hooks": ["hook_cell"], "names": None}, HookError, "in no block of the model.*set sweep to null"),
        ({"sweep": {"hooks": ["blocks.0.hook_resid_post"]}}, HookError, "not among the hooks"),
        (
            {"sweep": {"features": {HOOKS[0]: [3]}}},
            HookError,
            "names features of blocks.1.hook_resid_post, and those of",
        ),
        ({"sweep": {"hooks": [HOOKS[0]], "features": {HOOKS[0]: [32]}}}, HookError, "features 0 to 31, but 32"),
        ({"sweep": {"how": "clamp"}}, ConfigError, "give an amount with clamp"),
        ({"sweep": {"steering": [{"target": "B", "source": "B"}]}}, ConfigError, "to themselves"),
        ({"sweep": {"steering": [{"target": "B", "source": "NK"}]}}, CellsError, "'NK'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tiny, tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        execute(RECIPE, config(tiny, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_split_that_leaves_nothing_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(DictionaryContext, "split", Split(np.arange(60), np.arange(0), name="cells"))
    with pytest.raises(CellsError, match="0 of 60 cells are left to judge on"):
        execute(RECIPE, config(tiny), tmp_path / "out")
