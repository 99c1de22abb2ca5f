"""``workbench benchmark`` from cells to report: nothing is done twice, nothing stale is used, no label costs a pass."""

from __future__ import annotations

import json
import shutil
import sysconfig
import venv
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from damage import assert_undamaged
from fixtures_benchmark import METHODS, synthetic_cells, write
from helpers import leaves, randomise
from published import FIGURES, faults

from workbench.cli import main
from workbench.engine.code import reached
from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner
from workbench.engine.tables import read_table, table_path
from workbench.errors import CellsError, EvaluationError, ShapeError
from workbench.evidence.expected import read_expected
from workbench.evidence.methods import own_methods
from workbench.evidence.representations import compact
from workbench.files import digest, read_json
from workbench.models import load_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.operators import capturing
from workbench.recipes.benchmark import operators as module
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.context import BenchmarkContext
from workbench.recipes.benchmark.recipe import run_benchmark, stages
from workbench.recipes.benchmark.sections import cost_section
from workbench.recipes.benchmark.tasks import trial_of

JUDGED = {"audit", "campaign", "statistics"}
CELLS, READ = {"cells", *JUDGED}, {"operators", "untrained", *JUDGED}


def table(out, name):
    return read_table(table_path(out, name))


def staged(path, out, *overrides, until="untrained"):
    """A campaign after some of its stages, those before any method by default, and which of them were kept."""
    context, runner = BenchmarkContext(read_config(path, BenchmarkConfig, overrides), out), StageRunner(out)
    for stage in stages(context):
        runner.run(stage)
        if stage.name == until:
            return context, {name for name, kept in runner.reused.items() if kept}
    raise AssertionError(until)


@pytest.mark.slow
def test_damage_to_any_file_of_a_finished_campaign_is_found(campaign, tmp_path):
    assert_undamaged(
        campaign.out, tmp_path / "out", lambda out: main(["benchmark", str(campaign.path), "--out", str(out)])
    )


# What is found and written


def test_a_campaign_leaves_every_table_and_figure(campaign):
    out = campaign.out
    names = {
        "scores",
        "splits",
        "costs",
        "methods",
        "audit",
        "summary",
        "comparisons",
        "tally",
        "ranks",
        "campaign_costs",
    }
    assert names <= {path.stem for path in (out / "tables").glob("*.csv")}
    # Named by their files, wherever those lie.
    assert set(table(out, "splits")["data"]) == {"cells.h5ad", "other.h5ad"}
    figures = {path.stem for path in (out / "figures").glob("*.html")}
    kinds = ("", "_transfer")
    assert {f"benchmark_{what}{kind}" for what in ("endpoints", "differences", "tally") for kind in kinds} <= figures
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "wins / ties / loses" in page and "winner" not in page.lower()


def test_rows_are_tidy_and_each_stands_once(campaign):
    scores = table(campaign.out, "scores")
    assert not scores.duplicated(["method", "split", "scope", "endpoint", "metric"]).any()
    assert set(scores["method"]) == set(METHODS) and set(scores["kind"]) == {"donor holdout", "transfer"}
    assert scores.loc[scores["status"] == "ok", "value"].notna().all()
    assert scores.loc[scores["status"] != "ok", "value"].isna().all()
    held = table(campaign.out, "splits").set_index("split")["test_donors"]
    for name, own in scores[scores["scope"] != "all"].groupby("split"):
        assert set(own["scope"]) == set(str(held[name]).split("+"))


def test_planted_types_are_found_and_chance_is_not(campaign):
    means = table(campaign.out, "summary").query("kind == 'donor holdout' and endpoint == 'stage'")
    accuracy = means[means["metric"] == "balanced accuracy"].set_index("method")["value"]
    assert accuracy["raw log1p"] > 0.9 and accuracy["PCA-10"] > 0.9 and accuracy["anchor head, labels permuted"] < 0.5


def test_a_second_run_does_nothing_again(campaign, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(campaign.out, out)
    before = (out / "tables" / "scores.csv").read_bytes()
    run_benchmark(read_config(campaign.path, BenchmarkConfig), out)
    stages = read_json(out / "manifest.json")["stages"]
    assert all(stage["kept"] for stage in stages.values())
    assert (out / "tables" / "scores.csv").read_bytes() == before


@pytest.mark.slow
def test_a_peer_that_was_not_there_is_tried_again_once_something_is_installed(cells, checkpoint, tmp_path):
    # An environment with all that the worker needs but Palantir.
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "more.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "palantir.py").write_text("raise ImportError('No module named palantir')\n")
    python = tmp_path / "env" / "bin" / "python"
    small = {"methods": ["Palantir"], "ours": "PCA-10", "audit": False, "splits": {"n": 1}}
    path = write(tmp_path, checkpoint, cells, peers={"python": str(python)}, **small)
    config, out = read_config(path, BenchmarkConfig), tmp_path / "out"

    def status():
        run_benchmark(config, out)
        return table(out, "methods").set_index("method")["status"]["Palantir"]

    assert status().startswith("not run: No module named palantir")
    # Another version is there, which fails otherwise; the campaign was killed after its tasks, or had ended.
    for version, killed in (("1.0", False), ("2.0", True)):
        if killed:
            (out / "stages" / "campaign" / "done.json").unlink()
        (site / "palantir.dist-info").mkdir(exist_ok=True)
        (site / "palantir.dist-info" / "METADATA").write_text(f"Name: palantir\nVersion: {version}\n")
        (site / "palantir.py").write_text(f"raise ValueError('this is {version}')\n")
        assert status() == f"failed: RuntimeError: ValueError: this is {version}"


@pytest.mark.slow
def test_another_method_of_ours_is_compared_without_running_anything_again(campaign, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(campaign.out, out)
    run_benchmark(read_config(campaign.path, BenchmarkConfig, ["ours=PCA-10"]), out)
    kept = {name for name, stage in read_json(out / "manifest.json")["stages"].items() if stage["kept"]}
    assert kept == {"cells", "operators", "transfer", "untrained", "audit", "campaign"}
    assert set(table(out, "comparisons")["ours"]) == {"PCA-10"}


def test_cells_in_another_order_give_the_same_scores(campaign, cells, checkpoint, tmp_path):
    mixed = cells[np.random.default_rng(5).permutation(len(cells))].copy()
    path = write(tmp_path, checkpoint, mixed, audit=False)
    out = run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")
    keys = ["method", "split", "scope", "endpoint", "metric"]
    one, other = (
        table(o, "scores").query("kind == 'donor holdout'").set_index(keys)["value"] for o in (campaign.out, out)
    )
    # With permuted labels the latent hardly differs between cells, and ranks amplify the rounding of operators summed in another order.
    flat = one.index.get_level_values("method").str.contains("permuted")
    np.testing.assert_allclose(other.loc[one.index[~flat]], one[~flat], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.loc[one.index[flat]], one[flat], atol=0.05)


def test_without_donors_splits_are_stratified_and_the_report_says_so(cells, checkpoint, tmp_path, capsys):
    plain = cells.copy()
    del plain.obs["donor"]
    said = {
        "claim": "a",
        "published": 0.5,
        "command": "benchmark",
        "table": "summary",
        "where": {"endpoint": "depth"},
        "column": "value",
    }
    figures = [said, {**said, "claim": "b", "table": "audit"}]
    (tmp_path / "figures.yaml").write_text(yaml.safe_dump({"source": "a paper", "figures": figures}))
    more = {"methods": ["PCA-10"], "audit": False, "expected": "figures.yaml"}
    path = write(tmp_path, checkpoint, plain, data={"donor": None}, **more)
    assert main(["benchmark", str(path), "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in told["tally"]} == {"stratified"} and told["ours"] == "anchor head"
    assert set(table(tmp_path / "out", "scores")["scope"]) == {"all"}
    assert "easier test" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    expected = table(tmp_path / "out", "expected").set_index("claim")
    assert np.isfinite(expected.loc["a", "found"]) and expected.loc["b", "from"] == (
        "not made in this run: audit.csv of workbench benchmark"
    )


def test_every_figure_of_the_paper_is_looked_up_where_a_campaign_writes_it(campaign):
    assert faults("benchmark", campaign.out) == []
    known = own_methods(read_config(campaign.path, BenchmarkConfig), 6)
    figures = [one for one in read_expected(FIGURES)[1] if one["command"] == "benchmark"]
    asked = {one["where"]["method"] for one in figures if "method" in one.get("where", {})}
    assert asked and asked <= set(known), asked - set(known)


def test_a_shared_cell_ends_a_transfer_in_a_sentence(cells, checkpoint, tmp_path):
    cells[:40].copy().write_h5ad(tmp_path / "other.h5ad")
    transfer = {"other": {"data": {"name": str(tmp_path / "other.h5ad"), "cell_type": "label"}}}
    path = write(tmp_path / "run", checkpoint, cells, transfer=transfer)
    with pytest.raises(EvaluationError, match="Cohort 'other' shares 40 cells with the internal data"):
        run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")


def test_labels_that_the_ruler_does_not_know_are_left_out_and_listed(checkpoint, tmp_path):
    cells = synthetic_cells()
    label = cells.obs["label"].to_numpy().copy()
    label[:4] = "soup"
    cells.obs["label"] = label
    path = write(tmp_path, checkpoint, cells, methods=["raw log1p"], audit=False)
    out = run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")
    assert "soup" in (out / "report.html").read_text(encoding="utf-8")
    splits = table(out, "splits")
    assert splits.loc[splits["disjoint"], "n_test"].sum() == len(cells) - 4


def test_no_known_label_at_all_is_an_error(checkpoint, tmp_path):
    cells = synthetic_cells()
    cells.obs["label"] = "soup"
    path = write(tmp_path, checkpoint, cells)
    with pytest.raises(EvaluationError, match="knows none of the labels"):
        run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")


def test_a_head_that_the_model_has_not_is_refused_before_any_stage(campaign, tmp_path):
    config = read_config(campaign.path, BenchmarkConfig, ["adaptor={feature_map: single, layer: 9}"])
    with pytest.raises(ShapeError, match="There is no head 0 in layer 9"):
        run_benchmark(config, tmp_path / "out")
    assert not (tmp_path / "out" / "stages").exists()


def test_an_unknown_method_is_named_with_its_neighbour(campaign, tmp_path):
    with pytest.raises(EvaluationError, match="PCA-1.*did you mean 'PCA-10'"):
        run_benchmark(read_config(campaign.path, BenchmarkConfig, ["methods=[PCA-1]"]), tmp_path / "out")


# What depends on what


@pytest.fixture(scope="module")
def keys(campaign, other_files):
    """Keys of the stages of the small campaign with other settings, as if every stage but the first had been done."""
    known, rich = read_json(campaign.out / "metrics.json")["stages"], other_files / "rich"
    same = (
        f"data.name={rich / 'cells.h5ad'}",
        f"transfer.other.data.name={rich / 'other.h5ad'}",
        "data.embeddings=[X_a]",
    )

    def made(*overrides):
        out = other_files / "keys" / digest(overrides)
        context = BenchmarkContext(read_config(campaign.path, BenchmarkConfig, [*same, *overrides]), out)
        results = {}
        for stage in stages(context):
            found = stage.work(out / "stages" / "cells", {}) if stage.name == "cells" else known[stage.name]
            results[stage.name] = {**found, "key": stage.key(results)}
        return {name: result["key"] for name, result in results.items()}

    return made


@pytest.fixture(scope="module")
def plain(keys):
    return keys()


@pytest.fixture(scope="module")
def other_files(campaign, checkpoint, tmp_path_factory):
    """What a setting may name: the cells with more than one kind of everything, another ruler, another checkpoint."""
    from importlib import resources

    folder = tmp_path_factory.mktemp("others")
    text = (resources.files("workbench.evidence") / "rulers" / "hematopoiesis.yaml").read_text()
    (folder / "renamed.yaml").write_text(text.replace("name: hematopoiesis", "name: renamed"))
    save_checkpoint(randomise(load_model(checkpoint), seed=5), folder / "other checkpoint")
    (folder / "figures.yaml").write_text("source: x\nfigures: []\n")
    for kind in ("rich", "embedded otherwise"):
        (folder / kind).mkdir()
    for name in ("cells.h5ad", "other.h5ad"):
        cells = ad.read_h5ad(campaign.path.parent / name)
        cells.layers["more"], cells.obs["deep"] = cells.X * 2, 1000.0
        cells.var["symbol"] = cells.var_names[::-1]
        cells.obs["coarse"] = cells.obs["label"].astype(str).replace({"CD8 T": "CD4 T"})
        cells.obsm["X_a"], cells.obsm["X_b"] = np.arange(len(cells) * 2.0).reshape(-1, 2), np.ones((len(cells), 3))
        cells.obs["organ"], cells.obs["lane"] = "blood", np.array(["0", "1"])[np.arange(len(cells)) % 2]
        cells.write_h5ad(folder / "rich" / name)
        cells.write_h5ad(folder / f"copy of {name}")
        cells.obsm["X_b"][0], cells.obsm["X_a"][0] = 2, 7
        cells.write_h5ad(folder / "embedded otherwise" / name)
    return folder


def of_data(section, file, values, labels):
    """What the fields of a section of cells make anew: their values, their labels, and what only reading them asks for."""
    known = {"name": ("{folder}/copy of " + file, CELLS), "backed": ("true", set()), "layer": ("more", values)}
    # The depth takes part in expression, and in no token.
    known |= {"values": ("counts", set()), "depth": ("deep", CELLS)}
    known |= {"gene_column": ("symbol", values), "cell_type": ("coarse", CELLS), "donor": ("null", labels)}
    known |= {"tissue": ("organ", CELLS), "batch": ("lane", values), "min_gene_share": ("0.1", set())}
    known |= {"embeddings": ("[X_a, X_b]" if section == "data" else "[X_a]", CELLS)}
    return {f"{section}.{field}={value}": stages for field, (value, stages) in known.items()}


EFFECTS = {
    "name=other": set(),
    "checkpoint={folder}/other checkpoint": {*READ, "transfer"},
    "device=cpu": set(),
    "dtype=bfloat16": {*READ, "transfer"},
    "seed=1": {*CELLS, *READ, "transfer"},
    **of_data("data", "cells.h5ad", {*CELLS, *READ}, {*CELLS, *READ}),
    "ruler={folder}/renamed.yaml": CELLS,
    "stages.CD4 T=CD4": set(),
    "stages.CD4 T=CD8": CELLS,
    "panel.size=20": {*CELLS, *READ},
    "panel.exclude=[G00]": {*CELLS, *READ},
    "panel.by=cells": set(),  # another value is refused
    "panel.file=null": set(),
    "capture.convention=scgpt": set(),
    "capture.over_cells=sum": READ,
    "capture.orientation=key x query": READ,
    "capture.sums=float64": READ,
    "capture.batch_size=3": {*READ, "transfer"},
    "capture.max_tokens=20": {*READ, "transfer"},
    "capture.groups=3": {*CELLS, *READ},
    "anchors.min_cells=3": JUDGED,
    "anchors.parts=3": JUDGED,
    "anchors.weights=cells": JUDGED,
    "operator=qk": READ,
    "adaptor.k=2": JUDGED,
    "adaptor.alpha=0.2": JUDGED,
    "adaptor.beta=0.5": JUDGED,
    "adaptor.steps=20": JUDGED,
    "adaptor.tol=0.001": JUDGED,
    "adaptor.feature_map=single": JUDGED,
    "adaptor.layer=1": JUDGED,
    "adaptor.head=1": JUDGED,
    "adaptor.top=2": JUDGED,
    "adaptor.blocks=[[0], [1], [2]]": JUDGED,
    "cell_heads.epochs=2": JUDGED,
    "cell_heads.batch_size=50": JUDGED,
    "cell_heads.per_stage=10": JUDGED,
    "cell_heads.hybrid=false": JUDGED,
    "cells_per_donor=20": {*CELLS, *READ, "transfer"},
    "splits.n=3": CELLS,
    "splits.test_share=0.5": CELLS,
    "splits.units=3": set(),
    "splits.per_stage=3": JUDGED,
    **of_data("transfer.other.data", "other.h5ad", {*CELLS, "transfer"}, CELLS),
    "transfer.other.stages.soup=B": set(),
    "transfer.other.stages.B=plasma": CELLS,
    "methods=[PCA-10]": JUDGED,
    "ours=PCA-10": {"statistics"},
    "peers.python={folder}/python": set(),
    "peers.seconds=5": set(),
    "peers.options.Palantir.neighbours=5": set(),
    "audit=false": set(),
    "expected={folder}/figures.yaml": set(),
}


@pytest.mark.parametrize("setting", EFFECTS)
def test_a_setting_invalidates_what_uses_it_and_nothing_else(keys, plain, other_files, setting):
    found = keys(setting.format(folder=other_files))
    # Held-out units are others with other splits, and with them the genes of the panels; without a panel size they are all.
    narrow = {"splits.n=3", "splits.test_share=0.5"}
    allowed = EFFECTS[setting] | (READ if setting in narrow else set())
    changed = {name for name, key in found.items() if key != plain[name]}
    assert EFFECTS[setting] <= changed <= allowed


def test_values_of_an_embedding_make_anew_what_judges_it_and_no_forward_pass(keys, plain, other_files):
    otherwise = other_files / "embedded otherwise"
    found = [keys(f"data.name={otherwise}/cells.h5ad"), keys(f"transfer.other.data.name={otherwise}/other.h5ad")]
    # Of the other cohort no embedding is named, so that none is read.
    changed = [{name for name in one if one[name] != plain[name]} for one in found]
    assert changed == [CELLS, set()]


def test_every_setting_has_its_effect_said():
    tried = [setting.partition("=")[0].replace("transfer.other.", "transfer.") for setting in EFFECTS]
    assert {one for one in leaves(BenchmarkConfig) if not any(f"{t}.".startswith(f"{one}.") for t in tried)} == set()


def test_the_stages_of_the_model_reach_no_evidence_and_no_figure():
    rooms = {name.split(".")[1] for name in reached([module.__name__])}
    assert not rooms & {"evidence", "figures", "explorer", "ablation", "geometry", "factors"}


def test_a_transfer_that_is_left_out_leaves_the_operators_as_they_are(keys):
    # With a panel size the genes that a transfer may use are among those of the operators.
    whole, found = keys("panel.size=null"), keys("panel.size=null", "transfer={}")
    assert "transfer" not in found and {name for name in found if found[name] != whole[name]} == CELLS


def test_labels_rulers_and_splits_make_no_forward_pass(cells, checkpoint, tmp_path, other_files, monkeypatch):
    calls, forward = [], HookedScGPT.forward

    def counted(model, *given, **options):
        calls.append(model)
        return forward(model, *given, **options)

    monkeypatch.setattr(HookedScGPT, "forward", counted)
    small = {"methods": ["raw log1p"], "ours": "PCA-10", "audit": False, "panel": {}}
    path, out = write(tmp_path, checkpoint, cells, **small), tmp_path / "out"
    settings = ("stages.B=plasma", f"ruler={other_files}/renamed.yaml", "splits.n=3", "splits.test_share=0.5")
    staged(path, out, until="campaign")
    assert calls
    for one in settings:
        calls.clear()
        before = table(out, "scores")
        _, kept = staged(path, out, one, until="campaign")
        assert not calls and kept == {"operators", "untrained"}, one
        assert one.startswith("ruler") or not table(out, "scores").equals(before)


# Going on


def test_an_interruption_after_the_pass_over_the_cells_costs_none_of_it(cells, checkpoint, tmp_path, monkeypatch):
    synthetic_cells(("x", "y"), seed=1, prefix="o").write_h5ad(tmp_path / "other.h5ad")
    transfer = {"other": {"data": {"name": "other.h5ad", "cell_type": "label", "donor": "donor"}}}
    path, out = write(tmp_path, checkpoint, cells, transfer=transfer), tmp_path / "out"
    reports, capture = [], capturing.capture

    def kept(*given, **options):
        reports.append(capture(*given, **options))
        return reports[-1]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(capturing, "capture", kept)
    with monkeypatch.context() as first:
        first.setattr(module, "_forward_seconds", killed)
        with pytest.raises(KeyboardInterrupt):
            staged(path, out)
    took = reports[0].seconds
    staged(path, out)
    # The internal cells as they were, then the other cohort, and the untrained model on the internal cells.
    assert [(one.resumed_at, one.n_cells) for one in reports[1:]] == [(140, 140), (0, 70), (0, 140)]
    assert read_json(out / "stages" / "operators" / "done.json")["result"]["seconds"] >= took
    assert not list((out / "stages").rglob("capture"))


def test_files_that_changed_are_seen_by_a_process_that_knew_the_first(cells, checkpoint, tmp_path):
    place = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, place)
    path, out = write(tmp_path, place, cells, splits={"n": 1}), tmp_path / "out"
    config = read_config(path, BenchmarkConfig)

    def trials():
        """As a task has it, in a context that may be remembered, and in a fresh one."""
        context, _ = staged(path, out)
        return [trial_of(one, context.holdouts[0]) for one in (context.handle.open(), context)]

    first, _ = trials()
    synthetic_cells(seed=3).write_h5ad(tmp_path / "cells.h5ad")
    second, fresh = trials()
    assert (second.train.cells.expression != fresh.train.cells.expression).nnz == 0
    assert (second.train.cells.expression != first.train.cells.expression).nnz
    assert compact(config, "single head", second.train).remembered_seconds == 0
    assert compact(config, "single head", second.train).remembered_seconds > 0
    save_checkpoint(randomise(load_model(place), seed=5), place)
    third, fresh = trials()
    seen, made, known = (one.train.cells.embeddings["cls"] for one in (third, fresh, second))
    assert np.array_equal(seen, made) and not np.array_equal(seen, known)
    # Heads are screened anew, though cells and configuration are the same.
    assert compact(config, "single head", third.train).remembered_seconds == 0


# Bad input, refused before any work


def refused(path, out, *overrides):
    with pytest.raises((CellsError, EvaluationError)) as error:
        run_benchmark(read_config(path, BenchmarkConfig, overrides), out)
    assert not out.exists()
    return str(error.value)


def test_repeated_cell_names_end_in_a_sentence(cells, checkpoint, tmp_path):
    twice = cells.copy()
    twice.obs_names = ["same", "same", *cells.obs_names[2:]]
    said = refused(write(tmp_path, checkpoint, twice), tmp_path / "out")
    assert "'same' occurs more than once. Call adata.obs_names_make_unique" in said


def test_a_split_without_a_placed_cell_on_one_side_is_refused(cells, checkpoint, tmp_path):
    label = np.where(cells.obs["donor"] == "d4", "soup", cells.obs["label"])
    path = write(tmp_path, checkpoint, cells[:].copy(), splits={"n": 4, "test_share": 0.25})
    odd = cells.copy()
    odd.obs["label"] = label
    odd.write_h5ad(tmp_path / "cells.h5ad")
    assert "Split 'd4' has no cell with a place on the ruler on its test side" in refused(path, tmp_path / "out")


def test_a_cohort_may_not_be_called_as_the_internal_cells_are(campaign, tmp_path):
    raw = yaml.safe_load(campaign.path.read_text())
    raw["transfer"] = {"internal": raw["transfer"]["other"]}
    path = campaign.path.parent / "twice.yaml"
    path.write_text(yaml.safe_dump(raw))
    assert "give it another name" in refused(path, tmp_path / "out")


def test_a_cohort_that_measures_none_of_the_genes_is_refused(cells, checkpoint, tmp_path):
    synthetic_cells(("x",), prefix="o")[:, :3].copy().write_h5ad(tmp_path / "other.h5ad")
    transfer = {"other": {"data": {"name": "other.h5ad", "cell_type": "label"}}}
    path = write(tmp_path, checkpoint, cells[:, 3:].copy(), transfer=transfer)
    assert "Cohort 'other' measures none of the genes" in refused(path, tmp_path / "out")


def test_a_dry_run_counts_methods_and_splits_and_makes_nothing(campaign, tmp_path, capsys):
    found = []
    for out in (tmp_path / "out", campaign.out):
        assert main(["benchmark", str(campaign.path), "--out", str(out), "--dry-run", "--json"]) == 0
        found.append({one["name"]: one for one in json.loads(capsys.readouterr().out)["dry_run"]["stages"]})
    new, kept = found
    splits = len(table(campaign.out, "splits"))
    assert new["campaign"]["tasks"] == splits * len(METHODS) and new["audit"]["tasks"] == len(METHODS)
    assert new["operators"]["disk"] is None and new["operators"]["why"] == "depends on cells"
    assert {one["state"] for one in kept.values()} == {"kept"} and kept["operators"]["disk"] > 0
    assert not (tmp_path / "out").exists()


def test_costs_where_no_method_could_be_run_are_an_empty_table_and_no_answer():
    tables = {"campaign_costs": pd.DataFrame({"method": np.empty(0)}), "splits": pd.DataFrame()}
    made = cost_section(SimpleNamespace(config=SimpleNamespace(ours="anchor head")), tables)
    assert made.answers == [] and len(made.figures) == 1
