"""Several rulers in one run: the passes once, every number that of a run of one ruler, and always said of which ruler it is."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fixtures_manifold import FITS, gene_world

from workbench.cli import main
from workbench.engine.config import make_config, read_config
from workbench.engine.recipe import execute, plan
from workbench.engine.tables import read_table, table_path
from workbench.errors import ConfigError, EvaluationError
from workbench.files import read_json
from workbench.geometry.agreement import ANGLE, CKA
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.operators.algorithm import Algorithm
from workbench.recipes.manifold.config import ManifoldConfig
from workbench.recipes.manifold.recipe import RECIPE as MANIFOLD
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.recipe import RECIPE, open_context, stages

ADAPTOR = {"k": 2, "steps": 50, "tol": 0.1}
LITTLE = {"folds": 2, "holdouts": 2, "permutations": 3, "refits": 3, "head_refits": 1, "control_draws": 2}


@pytest.fixture(scope="module")
def settings(pbmc68k, tmp_path_factory):
    """Settings without a ruler; beside the cells lie a graph of genes, and hematopoiesis under another name."""
    folder = tmp_path_factory.mktemp("several")
    world = gene_world(pbmc68k, folder)
    blood = (resources.files("workbench.evidence") / "rulers" / "hematopoiesis.yaml").read_text("utf-8")
    raw = yaml.safe_load(blood)
    (folder / "twin.yaml").write_text(yaml.safe_dump({**raw, "name": "twin"}, sort_keys=False))
    edges = world.pop("ruler")
    genes = {"k": 2, "steps": 50, "tol": 0.1, "fits": FITS}
    more = {"adaptor": ADAPTOR, "evaluation": LITTLE, "genes": genes}
    return {**world, **more}, ("hematopoiesis", edges, str(folder / "twin.yaml"))


@pytest.fixture(scope="module")
def passes():
    """Cells that went through a model, counted since the last look."""
    counted = []
    forward = HookedScGPT.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HookedScGPT, "forward", lambda *a, **k: counted.append(len(a[1])) or forward(*a, **k))
        yield counted


@pytest.fixture(scope="module")
def done(settings, passes, tmp_path_factory):
    config, rulers = settings
    out = tmp_path_factory.mktemp("out") / "several"
    made = execute(RECIPE, make_config(RunConfig, **config, rulers=rulers), out)
    return made, sum(passes)


@pytest.fixture(scope="module")
def alone(settings, passes, done, tmp_path_factory):
    """The same run with the first ruler alone, and its passes."""
    config, rulers = settings
    passes.clear()
    made = execute(RECIPE, make_config(RunConfig, **config, ruler=rulers[0]), tmp_path_factory.mktemp("one") / "out")
    return made, sum(passes)


def rows(made, table, ruler):
    found = read_table(table_path(made.out, table))
    return found[found["ruler"] == ruler].drop(columns="ruler").reset_index(drop=True)


@pytest.mark.slow  # whole runs
def test_three_rulers_take_the_passes_of_one(done, alone):
    assert done[1] == alone[1] > 0


@pytest.mark.slow  # whole runs
@pytest.mark.parametrize("table", ["cells", "heads", "holdouts", "readouts", "added", "latent", "distances"])
def test_a_ruler_in_a_run_of_several_has_the_numbers_of_a_run_of_its_own(done, alone, table):
    expected = alone[0].context.read(table).reset_index(drop=True)
    pd.testing.assert_frame_equal(rows(done[0], table, "hematopoiesis"), expected, check_exact=False, rtol=1e-9)
    assert set(read_table(table_path(done[0].out, table))["ruler"]) == {"hematopoiesis", "twin"}


@pytest.mark.slow  # whole runs
def test_a_ruler_over_genes_has_the_numbers_of_the_command_manifold(settings, done, tmp_path):
    config, rulers = settings
    own = {name: config[name] for name in ("checkpoint", "data", "anchors", "adaptor")}
    made = execute(MANIFOLD, make_config(ManifoldConfig, **own, ruler=rulers[1], fits=FITS), tmp_path / "out")
    expected, found = made.context.read("manifold_genes"), rows(done[0], "manifold_genes", "edges")
    held = expected["method"] == "LET, held-out groups"
    of = expected.loc[held, "representation"].str.contains("operator")
    assert found.loc[held, "representation"].tolist() == expected.loc[held, "representation"].tolist()
    both = [table[held][["spearman", "null_mean", "rewired_mean"]] for table in (found, expected)]
    np.testing.assert_allclose(both[0][~of], both[1][~of], atol=1e-6)
    # Sums over ten groups of cells in the place of one differ in the last digits, and fits that end early hang on these.
    np.testing.assert_allclose(both[0][of], both[1][of], atol=0.1)


@pytest.mark.slow  # whole runs
def test_the_same_ruler_under_another_name_has_the_same_latent(done):
    table = done[0].context.read("agreement")
    twins = table[(table["ruler"] == "hematopoiesis") & (table["other"] == "twin")]
    assert set(twins["points"]) == {"anchors", "cells", "genes"} and set(twins["n_null"]) == {3}
    np.testing.assert_allclose(twins.loc[twins["measure"] == CKA, "value"], 1, atol=1e-6)
    np.testing.assert_allclose(twins.loc[twins["measure"] == ANGLE, "value"], 0, atol=1e-3)
    assert (twins["p"] == 0.25).all(), "no draw of a ruler without meaning is as near"
    pairs = table[["ruler", "other"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [["hematopoiesis", "edges"], ["hematopoiesis", "twin"], ["edges", "twin"]]


@pytest.mark.slow  # whole runs
def test_report_metrics_and_card_say_of_which_ruler_they_speak(done):
    out = done[0].out
    metrics, page = read_json(out / "metrics.json"), (out / "report.html").read_text()
    assert {row["ruler"] for row in metrics["heads"]} == {"hematopoiesis", "twin"}
    assert {row["ruler"] for row in metrics["manifold_genes"]} == {"edges"}
    assert {"heads-hematopoiesis", "heads-twin", "genes-edges", "agreement"} <= set(metrics["stages"])
    for figure in (
        "agreement",
        "heads-hematopoiesis",
        "heads-twin",
        "manifold_genes-edges",
        "manifold_heads-edges",
        "latent-twin",
    ):
        assert f'id="figure-{figure}"' in page
    assert 'id="figure-heads"' not in page and "Ruler: twin." in page
    assert all("hematopoiesis: " in one["what"] or "twin: " in one["what"] or "edges: " in one["what"]
               for one in metrics["skipped"] if "olumn" not in one["what"])  # fmt: skip
    assert "Gates (twin)" in page and "hematopoiesis: ruler correlation, held out" in page
    for name in ("hematopoiesis", "twin"):
        assert Algorithm.from_pretrained(out / "rulers" / name / "algorithm").card["ruler"] == name
    assert f"rulers/{name}/algorithm/" in page


@pytest.mark.slow  # whole runs
def test_a_figure_is_drawn_again_from_the_rows_of_its_ruler(done):
    out = done[0].out
    before = read_json(out / "figures" / "heads-twin.json")
    (out / "figures" / "heads-twin.json").unlink()
    assert main(["figures", str(out), "--only", "heads-twin"]) == 0
    assert read_json(out / "figures" / "heads-twin.json") == before


@pytest.mark.slow  # whole runs
def test_nothing_is_done_twice_and_another_ruler_costs_no_pass(settings, done, passes):
    config, rulers = settings
    again = execute(RECIPE, make_config(RunConfig, **config, rulers=rulers), done[0].out)
    assert again.seconds == done[0].seconds
    passes.clear()
    states = plan(RECIPE, make_config(RunConfig, **config, rulers=(rulers[1], rulers[2])), done[0].out).stages
    kept = {one.state.name for one in states if one.state.state == "kept"}
    assert kept >= {"panel", "operators", "untrained", "drift", "heads-twin", "genes-edges"}


@pytest.mark.slow  # whole runs
def test_a_worker_opens_the_part_of_its_ruler(done):
    part = done[0].context.parts["twin"]
    opened = part.handle.open()
    assert (
        opened is part.handle.open() and opened.ruler.name == "twin" and opened.folder("heads") == part.folder("heads")
    )
    np.testing.assert_array_equal(opened.anchors().centroids, part.anchors().centroids)
    np.testing.assert_array_equal(opened.feature_map(), part.feature_map())


def keys(config, rulers, **more):
    context = open_context(make_config(RunConfig, **{**config, **more}, rulers=rulers), Path("nowhere"))
    results = {}
    for stage in stages(context):
        results[stage.name] = {"key": stage.key(results)}
    return {name: one["key"] for name, one in results.items()}


# Settings of rulers over genes, and whether the agreement of latents hangs on them.
OF_GENES = {"k": 3, "steps": 40, "tol": 0.2} | {
    f"fits.{name}": value
    for name, value in {
        **{"folds": 3, "components": 5, "neighbours": [12], "starts": [1], "draws": 9, "rewirings": 3},
        **{"cell_refits": 3, "holdouts": 3, "programs": None},
    }.items()
}


@pytest.mark.parametrize("field", OF_GENES)
def test_a_setting_of_rulers_over_genes_makes_nothing_else_anew(settings, field):
    config, rulers = settings
    genes = {**config["genes"], "fits": dict(config["genes"]["fits"])}
    (genes["fits"] if "." in field else genes)[field.rpartition(".")[2]] = OF_GENES[field]
    before, after = keys(config, rulers), keys(config, rulers, genes=genes)
    compared = {"agreement"} if field in ("k", "steps", "tol", "fits.components") else set()
    measured = {name for stage in ("genes", "criteria", "screen", "dimension") for name in (stage, f"{stage}-edges")}
    assert {name for name in after if after[name] != before[name]} == {*measured, *compared}


def test_another_ruler_leaves_passes_and_the_other_rulers(settings):
    config, rulers = settings
    before, after = keys(config, rulers), keys(config, (rulers[2], rulers[1]))
    same = {name for name in after if after[name] == before.get(name)}
    assert same == {"panel", "operators", "untrained", "drift"} | {
        *(f"{name}-twin" for name in ("cells", "heads", "readouts", "writing", "algorithm")),
        *(name for stage in ("genes", "criteria", "screen", "dimension") for name in (stage, f"{stage}-edges")),
    }
    assert set(keys(config, (rulers[0], rulers[2]))) & {"genes-edges", "genes", "screen"} == set()


def test_labels_count_for_the_rulers_that_have_the_stage(settings, tmp_path):
    config, rulers = settings
    made = make_config(RunConfig, **config, rulers=rulers[:2], stages={"CD56+ NK": "B cell"})
    with pytest.raises(EvaluationError, match="'B cell', which none of the rulers has \\(hematopoiesis, edges\\)"):
        plan(RECIPE, made, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rulers": ["hematopoiesis"]}, "rulers names one ruler"),
        ({"rulers": ["hematopoiesis", "hematopoiesis"]}, "rulers names 'hematopoiesis' twice"),
        ({"rulers": ["hematopoiesis", "cell_cycle"], "ruler": "cell_cycle"}, "give one of the two keys"),
    ],
)
def test_a_list_of_rulers_that_is_none_is_refused(settings, given, said):
    with pytest.raises(ConfigError, match=said):
        make_config(RunConfig, **settings[0], **given)


def refused(settings, tmp_path, error, said, *names, **more):
    config = make_config(RunConfig, **{**settings[0], **more}, rulers=("hematopoiesis", *map(str, names)))
    with pytest.raises(error, match=said):
        plan(RECIPE, config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_rulers_of_one_name_are_refused(settings, tmp_path):
    raw = {"name": "hematopoiesis", "stages": {"a": {"from": [], "branch": "x"}, "b": {"from": ["a"], "branch": "y"}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    said = "Two rulers are called 'hematopoiesis': 'hematopoiesis' and .*give one of them another name"
    refused(settings, tmp_path, EvaluationError, said, tmp_path / "mine.yaml")


def test_a_ruler_over_genes_without_a_gene_of_the_panel_is_refused(settings, tmp_path):
    (tmp_path / "mouse.csv").write_text("source,target\nCd4x,Cd8x\nCd8x,Cd3x\n")
    said = "0 of the 3 genes of the ruler 'mouse' .* among the 60 genes of the panel"
    refused(settings, tmp_path, EvaluationError, said, tmp_path / "mouse.csv")


def test_a_graph_in_parts_is_refused(settings, tmp_path):
    (tmp_path / "parts.csv").write_text("source,target\nA,B\nC,D\n")
    refused(settings, tmp_path, EvaluationError, "'parts' is not connected", tmp_path / "parts.csv")


def test_a_resource_that_is_not_installed_is_refused_with_how_to_get_it(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.evidence.interactions.find_spec", lambda name: None)
    refused(settings, tmp_path, ConfigError, "pip install", "communication")


def test_topk_is_refused_beside_a_ruler_over_genes(settings, tmp_path):
    more = {"adaptor": {**ADAPTOR, "feature_map": "topk"}}
    refused(settings, tmp_path, EvaluationError, "topk screens heads by a ruler over cells", settings[1][1], **more)


def test_paths_of_rulers_are_relative_to_the_configuration(settings, tmp_path):
    (tmp_path / "mine.csv").write_text("source,target\nA,B\n")
    config = {
        **{k: v for k, v in settings[0].items() if k != "checkpoint"},
        "checkpoint": str(settings[0]["checkpoint"]),
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**config, "rulers": ["hematopoiesis", "mine.csv"]}))
    read = read_config(tmp_path / "c.yaml", RunConfig)
    assert read.rulers == ("hematopoiesis", str(tmp_path / "mine.csv"))
