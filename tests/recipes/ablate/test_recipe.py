"""``workbench ablate``: its stages and what invalidates them, its tables and its report, however the work is done."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from damage import assert_undamaged
from fixtures_ablation import BLOCK, HEADS, LAYERS, N_CELLS, QUIET, SEED, assert_close, of_metric
from helpers import leaves
from processes import kill_once

from workbench.cells.datasets import content_hash
from workbench.cli import main
from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner, run_all
from workbench.engine.sweep import Backend
from workbench.engine.tables import read_table
from workbench.errors import EvaluationError
from workbench.files import read_json
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.planted import planted_cells
from workbench.recipes.ablate.config import AblationConfig
from workbench.recipes.ablate.context import AblationContext
from workbench.recipes.ablate.recipe import stages
from workbench.recipes.ablate.tables import pairs_by
from workbench.stats import benjamini_hochberg, spearman

TABLES = ["agreement", "attribution", "draws", "effects", "interactions", "transfer"]
STAGES = ["sweep", "effects", "draws", "pairs", "interactions", "attribution", "transfer"]


def read(report):
    """The words of a page, whatever they are marked up with."""
    text = re.sub(r"<script.*?</script>", "", report, flags=re.DOTALL)
    return html.unescape(re.sub(r"(\s|<[a-z/][^>]*>)+", " ", text))


@pytest.fixture(scope="module")
def first(made):
    """The finished run of that configuration."""
    out = made.folder / "out"
    assert main(["ablate", str(made.path), "--out", str(out)]) == 0
    return SimpleNamespace(out=out, report=html.unescape((out / "report.html").read_text()))


@pytest.fixture
def config(made):
    """The configuration without what takes time, with some keys of another value."""

    def of(*overrides):
        less = ["sweep.pairs_of_top=0", "attribution=false", "contrasts=[]", "sweep.layers=false", "sweep.null_draws=2"]
        return read_config(made.path, AblationConfig, [*less, "study.per_label=false", *overrides])

    return of


@pytest.mark.slow
def test_damage_to_any_file_of_a_finished_ablation_is_found(made, first, tmp_path):
    assert_undamaged(first.out, tmp_path / "out", lambda out: main(["ablate", str(made.path), "--out", str(out)]))


def table(out, name):
    return read_table(out / "tables" / f"{name}.csv")


def effects_of(config, out, backend=QUIET):
    """Of the stages alone: drawing the report takes as long as they do."""
    run_all(StageRunner(out), stages(AblationContext(config, out, backend)))
    return table(out, "effects")


def test_a_checkpoint_without_a_cell_embedding_is_refused_before_any_work(made, tmp_path, capsys):
    shape = {"perturbation": True, "n_classes": 0, "mvc_style": None}
    vocabulary = made.model.vocabulary
    save_checkpoint(
        HookedScGPT(ModelConfig(len(vocabulary), 8, LAYERS, HEADS, 8, **shape), vocabulary), tmp_path / "model"
    )
    for dry in ([], ["--dry-run"]):
        given = [str(made.path), "--set", f"checkpoint={tmp_path / 'model'}", "--out", str(tmp_path / "out"), *dry]
        assert main(["ablate", *given]) == 2
        assert capsys.readouterr().err.count("has no cell embedding, which this work needs") == 1
    assert not (tmp_path / "out").exists()


# However the work is done


def test_neither_blocks_nor_batches_nor_threads_change_the_numbers(config, tmp_path, evaluations):
    whole = effects_of(config("sweep.block=100"), tmp_path / "whole")
    assert evaluations == [tuple(range(N_CELLS))]
    assert_close(effects_of(config("sweep.block=5", "study.batch_size=2"), tmp_path / "b"), whole)
    assert len(evaluations) == 1 + 5 and sorted(sum(evaluations[1:], ())) == list(range(N_CELLS))
    assert_close(effects_of(config("sweep.block=9"), tmp_path / "c", Backend("threading", 2, progress=False)), whole)


def test_the_order_of_the_cells_in_the_file_does_not_change_the_numbers(made, config, tmp_path):
    import anndata as ad

    cells = ad.read_h5ad(made.folder / "cells.h5ad")
    cells[np.random.default_rng(0).permutation(N_CELLS)].copy().write_h5ad(tmp_path / "turned.h5ad")
    both = [
        effects_of(config(*more), tmp_path / name)
        for name, more in {"a": [], "b": [f"data.name={tmp_path / 'turned.h5ad'}"]}.items()
    ]
    assert_close(*both)


def test_stages_say_how_far_they_are(config, tmp_path, capsys):
    asked = config("attribution=true", "study.metrics=[cell_shift,label_loss]")
    rows = len(effects_of(asked, tmp_path, Backend())) * asked.draws
    said = capsys.readouterr().err
    agreement = table(tmp_path, "agreement")
    assert f"{rows // asked.draws}/{rows // asked.draws} [" in said.split("effects: 100%")[1].split("\r")[0]
    assert f"{rows}/{rows} [" in said.split("draws: 100%")[1].split("\r")[0]
    cells = agreement["n_cells"].sum()
    assert f"{cells}/{cells} [" in said.split("attribution: 100%")[1] and "cell/s" in said.split("attribution: 100%")[1]


def test_cells_may_stay_on_the_disk(config, tmp_path):
    assert_close(effects_of(config("data.backed=true"), tmp_path / "a"), effects_of(config(), tmp_path / "b"))


@pytest.mark.slow
def test_other_processes_that_open_the_files_themselves_find_the_same(config, tmp_path):
    two = Backend("loky", 2, progress=False)
    assert_close(effects_of(config(), tmp_path / "a", two), effects_of(config(), tmp_path / "b"))


@pytest.mark.slow
def test_workers_do_not_go_on_with_cells_of_an_earlier_run(made, tmp_path):
    check_that_changed_files_are_read_again(made, tmp_path, Backend("loky", 2, progress=False))


def test_files_that_changed_are_read_again(made, tmp_path):
    check_that_changed_files_are_read_again(made, tmp_path, QUIET)


def check_that_changed_files_are_read_again(made, folder, backend):
    def go(cells):
        cells.write_h5ad(folder / "cells.h5ad")
        settings = {"study": {"metrics": ["cell_shift"]}, "sweep": {"null_draws": 0, "block": 16}, "attribution": False}
        config = AblationConfig(checkpoint=made.folder / "model", data={"name": str(folder / "cells.h5ad")}, **settings)
        return effects_of(config, folder / "out", backend)

    cells = planted_cells(made.planted, N_CELLS, SEED)
    before = go(cells)
    cells.X = cells.X[:, ::-1].copy()
    after = go(cells)
    assert_close(go(cells), after)
    assert not np.allclose(before["effect"], after["effect"], rtol=0.01)


# The command


def test_the_command_writes_report_tables_manifest_and_configuration(made, first):
    assert sorted(p.stem for p in (first.out / "tables").glob("*.csv")) == sorted([*TABLES, "runtime"])
    assert {"report.html", "manifest.json", "resolved.yaml", "metrics.json", "figures"} <= {
        p.name for p in first.out.iterdir()
    }
    assert len(list((first.out / "stages" / "sweep" / "rows").iterdir())) == N_CELLS // BLOCK
    manifest = read_json(first.out / "manifest.json")
    assert manifest["checkpoint"]["weights"] == made.model.fingerprint() and manifest["seed"] == SEED
    assert manifest["cells"] == content_hash(made.cells)
    assert list(manifest["stages"]) == STAGES
    written = yaml.safe_load((first.out / "resolved.yaml").read_text())
    assert written == manifest["config"]
    assert written["checkpoint"] == str(made.folder / "model") and written["data"]["name"].endswith("cells.h5ad")


def test_the_table_of_effects_is_of_every_metric_and_place(made, first):
    effects = table(first.out, "effects")
    kinds = {"head": LAYERS * HEADS, "attention": LAYERS, "mlp": LAYERS, "set": 1}
    for name in ("label_loss", "cell_shift", "label_error", "masked_error"):
        rows = of_metric(effects, name)
        assert rows["kind"].value_counts().to_dict() == kinds
        heads = rows[rows["kind"] == "head"]
        assert (heads["n_null"] == 6).all()
        # No draw makes the probe err at all, and then there is nothing to compare with.
        assert heads[["p", "q"]].notna().all(axis=None) == (name != "label_error")
        assert rows.drop(heads.index)["p"].isna().all()
    assert of_metric(effects, "label_loss").query("kind == 'head'")["effect"].idxmax() == made.name
    assert set(effects["metric"]) >= {"label_error: up", "label_error: down"}
    assert effects["fallback_share"].between(0, 1).all()


def test_draws_of_cells_are_of_the_same_sweep_and_beside_it(made, first):
    draws, effects = table(first.out, "draws"), table(first.out, "effects")
    for name in ("label_loss", "cell_shift"):
        rows, heads = of_metric(draws, name), of_metric(effects, name).query("kind == 'head'")
        assert (
            rows.index.tolist() == heads.index.tolist()
            and (rows["n_draws"] == 4).all()
            and (rows["n_cells"] == 6).all()
        )
        each = rows[[f"effect_{i + 1}" for i in range(4)]]
        # Four draws of six of the 24 cells: their mean is the effect over all of them.
        np.testing.assert_allclose(each.mean(axis=1), heads["effect"], atol=1e-6)
        np.testing.assert_allclose(each.std(axis=1), rows["sd"], atol=1e-6)
        assert rows["n_found"].between(0, 4).all()
    said = read(first.report)
    assert "Label loss, 4 disjoint draws of 6 cells or more: " in said and "sd of a head's effect over draws " in said
    assert "No p of a head is below 0.02 (48 null draws): one of 8 heads alone cannot reach q <= 0.05" in said
    assert "of 48 draws, q " in said and "by these draws no single one can reach q <= 0.05" in said


def test_too_few_cells_for_the_draws_are_said(made, tmp_path, capsys):
    less = ["study.cells=7", "study.metrics=[cell_shift]", "sweep.pairs_of_top=0", "contrasts=[]", "sweep.null_draws=2"]
    report = report_of(made, tmp_path, *less)
    assert "<strong>draws</strong>: 4 draws need two cells each, and the study has 7 cells; lower draws" in report
    assert not (tmp_path / "tables" / "draws.csv").exists()


def test_pairs_of_the_top_heads_across_layers_are_beside_random_pairs(made, first):
    pairs, effects = table(first.out, "interactions"), of_metric(table(first.out, "effects"), "label_loss")
    heads = effects[effects["kind"] == "head"]["effect"]
    top = sorted(heads.nlargest(3).index)
    here = pairs[pairs["metric"] == "label_loss"]
    across = here["first"].str[:2] != here["second"].str[:2]
    assert (here["same_layer"] == ~across).all() and not (here["same_layer"] & here["random"]).any()
    named = here[~here["random"] & across]
    wanted = [[a, b] for a, b in combinations(top, 2) if a[:2] != b[:2]]
    assert wanted and named[["first", "second"]].to_numpy().tolist() == wanted
    # Two layers of four heads have 16 pairs across them, and 12 within.
    assert here["random"].sum() == 16 - len(wanted) and here["same_layer"].sum() == 12
    assert named["p"].notna().all() and here[here["random"]]["p"].isna().all()
    assert here[here["same_layer"]]["q"].isna().all()
    np.testing.assert_allclose(named["q"], benjamini_hochberg(named["p"].to_numpy()))
    said = html.unescape(first.report)
    assert f"no p is below {1 / (1 + here['random'].sum()):.2g}: " in said
    assert "Control: of 12 pairs of one layer, which cannot react to each other, " in said
    np.testing.assert_allclose(here["effect_first"], heads[here["first"]], atol=1e-6)
    sums = here["effect_both"] - here["effect_first"] - here["effect_second"]
    np.testing.assert_allclose(here["interaction"], sums, atol=1e-6)


def test_where_the_top_heads_are_of_one_layer_no_pair_is_tested(made, first, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.recipes.ablate.tables.top_heads", lambda *_: ["L1H0", "L1H2"])
    report = report_of(made, tmp_path, "contrasts=[]", "study.metrics=[label_loss]", "sweep.null_draws=2")
    assert "the top heads are all of one layer and cannot react to each other, so that no pair was tested" in report
    assert table(tmp_path, "interactions")["same_layer"].all()


def test_pairs_in_a_model_of_one_layer_are_refused():
    shape, asked = SimpleNamespace(n_layers=1, n_heads=4), SimpleNamespace(pairs_of_top=3, pairs_by=None)
    context = SimpleNamespace(
        model=SimpleNamespace(config=shape), config=SimpleNamespace(sweep=asked), study=SimpleNamespace(names=("a",))
    )
    with pytest.raises(EvaluationError, match="heads of one layer cannot react to each other, and the model has one"):
        pairs_by(context)


def test_two_heads_of_the_pairs_are_the_set_of_the_grid(config, tmp_path):
    effects_of(config(f"sweep.pairs_of_top={LAYERS * HEADS}"), tmp_path)
    pairs = table(tmp_path, "interactions").set_index(["metric", "first", "second"])["effect_both"]
    assert len(pairs) == 4 * (LAYERS * HEADS) * (LAYERS * HEADS - 1) / 2
    both = table(tmp_path, "effects").set_index(["metric", "ablation"]).xs("L0H0+L1H1", level="ablation")["effect"]
    for name, value in both.items():
        assert pairs[name, "L0H0", "L1H1"] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_attribution_is_beside_the_exact_effects(first):
    found, agreement = table(first.out, "attribution"), table(first.out, "agreement")
    effects = table(first.out, "effects").query("kind == 'head'").set_index(["metric", "layer", "head"])["effect"]
    assert set(found["metric"]) == set(agreement["metric"]) == {"label_loss", "masked_error"}
    assert (agreement["n_heads"] == LAYERS * HEADS).all() and (agreement["n_cells"] == N_CELLS).all()
    for row in agreement.itertuples():
        part = found[(found["metric"] == row.metric) & (found["method"] == row.method)]
        exact = effects.loc[row.metric].loc[list(zip(part["layer"], part["head"], strict=True))]
        np.testing.assert_allclose(part["exact"], exact, atol=1e-7)
        rho = spearman(part["estimated"].to_numpy(), part["exact"].to_numpy())
        assert row.spearman == pytest.approx(rho) and row.agrees == (rho >= 0.9)
    # A second estimate only where the first one disagrees.
    plain = agreement[agreement["method"] == "gradient"].set_index("metric")["agrees"]
    more = agreement[agreement["method"] == "second order"]["metric"]
    assert set(more) == set(plain.index[~plain])


def test_the_contrast_finds_the_planted_head(made, first):
    transfer = table(first.out, "transfer").set_index("ablation")
    assert len(transfer) == LAYERS * HEADS and transfer["moved"].idxmax() == made.name
    assert transfer.loc[made.name, "moved"] == pytest.approx(1, abs=0.1) and transfer.loc[made.name, "q"] <= 0.05
    assert (transfer["target"] == "down").all() and (transfer["source"] == "up").all()
    assert (transfer["n_pairs"] == N_CELLS // 2).all()


def test_the_report_says_which_head_matters_and_against_what_null(made, first):
    for said in (
        f"Label loss (nats): {made.name} matters most, +",
        f"of {LAYERS * HEADS} heads are beyond the random-direction null",
        f"the draws of {made.name}: ",
        f"From down to up: {made.name} carries most, ",
        "rank correlation over heads: label loss, gradient: ",
        "The head named first was chosen by the same number that is reported",
        "p values are pooled over the null draws of all heads",
        "intervals are over cells, and say nothing of other donors",
        f"{N_CELLS} cells, ",
        "the null turns the head's change by a random orthogonal matrix",
        f"workbench ablate {first.out / 'resolved.yaml'} --out {first.out}",
    ):
        assert said in read(first.report), said
    text = re.sub(r"<script.*?</script>|<table.*?</table>", "", first.report, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", text)


def test_the_written_configuration_gives_the_same_tables_from_anywhere(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workbench.engine.recipe.write_results", lambda *_: ())  # stages write the tables
    assert main(["ablate", str(first.out / "resolved.yaml"), "--out", "again"]) == 0
    for name in TABLES:
        found, wanted = table(tmp_path / "again", name), table(first.out, name)
        if name == "agreement":
            found, wanted = (t.drop(columns="seconds") for t in (found, wanted))
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-6, atol=1e-9, obj=name)


def test_a_finished_run_is_not_done_again(made, first, evaluations, capsys):
    before = (first.out / "tables" / "effects.csv").read_bytes()
    assert main(["ablate", str(made.path), "--out", str(first.out), "--backend", "threading"]) == 0
    *opening, last = capsys.readouterr().out.splitlines()
    assert opening == read_json(first.out / "metrics.json")["opening"] and len(opening) == 5
    assert last == f"Report: {first.out / 'report.html'}"
    assert not evaluations and (first.out / "tables" / "effects.csv").read_bytes() == before


def test_an_interrupted_sweep_does_what_is_missing(config, evaluations, tmp_path):
    out = tmp_path / "out"
    whole = effects_of(config(), out)
    assert len(evaluations) == N_CELLS // BLOCK
    (out / "stages" / "sweep" / "done.json").unlink()
    next((out / "stages" / "sweep" / "rows").iterdir()).unlink()
    pd.testing.assert_frame_equal(effects_of(config(), out), whole)
    assert len(evaluations) == N_CELLS // BLOCK + 1


def test_what_is_asked_for_beside_does_not_do_the_sweep_again(config, evaluations, tmp_path):
    contrast = "contrasts=[{target: down, source: up}]"
    before = effects_of(config(), tmp_path)
    assert len(evaluations) == N_CELLS // BLOCK and not (tmp_path / "tables" / "transfer.csv").exists()
    for more in ([contrast], [contrast, "study.bootstrap=20"], [contrast, "attribution=true"]):
        after = effects_of(config(*more), tmp_path)
        assert (tmp_path / "tables" / "transfer.csv").exists() and len(evaluations) == N_CELLS // BLOCK
        spread = ["low", "high"]
        pd.testing.assert_frame_equal(after.drop(columns=spread), before.drop(columns=spread))
    # The pairs are a sweep of their own, and so is another seed.
    effects_of(config(contrast, "sweep.pairs_of_top=2"), tmp_path)
    assert len(evaluations) == 2 * N_CELLS // BLOCK
    effects_of(config("seed=8"), tmp_path)
    assert len(evaluations) == 3 * N_CELLS // BLOCK


SWEPT = {"sweep", "effects", "draws", "interactions", "attribution"}
EVERY_EFFECT = {*SWEPT, "pairs"}
# Which stages another value of a field makes anew; no other.
INVALIDATES = {
    "name=other": set(),
    "checkpoint=COPY/model": set(),
    "device=cpu": set(),
    "dtype=bfloat16": set(STAGES),
    "seed=8": set(STAGES),
    "data.name=COPY/cells.h5ad": set(),
    "data.backed=true": set(),
    "data.layer=X": set(),
    "data.values=counts": set(),
    "data.depth=deep": set(),
    "data.gene_column=symbol": set(),
    "data.cell_type=corrected": set(STAGES),
    "data.donor=subject": set(STAGES),
    "data.tissue=place": set(),
    "data.batch=slide": set(STAGES),  # the tokens carry it, whether the checkpoint reads it or not
    "data.min_gene_share=0.2": set(),
    "study.cells=20": set(STAGES),
    "study.reference=10": EVERY_EFFECT,
    "study.metrics=[label_loss]": EVERY_EFFECT,
    "study.per_label=false": EVERY_EFFECT,
    "study.ruler=elsewhere.yaml": set(),
    "study.stages={up: B cell}": set(),
    "study.neighbours=4": set(),
    "study.folds=3": EVERY_EFFECT,
    "study.mask_share=0.5": EVERY_EFFECT,
    "study.max_tokens=12": set(STAGES),
    "study.batch_size=3": set(),
    "study.bootstrap=41": {"effects", "draws", "interactions", "transfer"},
    "sweep.how=[zero]": EVERY_EFFECT,
    "sweep.heads=false": {"sweep", "effects"},
    "sweep.layers=false": SWEPT,
    "sweep.sites=[]": SWEPT,
    "sweep.null_draws=5": SWEPT,
    "sweep.pairs_of_top=4": {"pairs", "interactions"},
    "sweep.pairs_by=masked_error": {"pairs", "interactions"},
    "sweep.block=4": EVERY_EFFECT,
    "draws=3": {"draws"},
    "attribution=false": set(),
    "contrasts=[{target: up, source: down}]": {"transfer"},
}


@pytest.mark.parametrize("override", INVALIDATES)
def test_a_field_invalidates_the_stages_that_depend_on_it_and_no_other(made, first, tmp_path, override):
    if "COPY" in override:
        shutil.copytree(made.folder / "model", tmp_path / "model")
        shutil.copy(made.folder / "cells.h5ad", tmp_path)
    config = read_config(made.path, AblationConfig, [override.replace("COPY", str(tmp_path))])
    runner, listed = StageRunner(first.out), stages(AblationContext(config, first.out))
    assert {stage.name for stage in listed if runner.kept(stage) is None} == INVALIDATES[override]


def test_every_field_is_among_them():
    tried = {override.split("=")[0] for override in INVALIDATES}
    assert all(name in tried or name.startswith("contrasts.") for name in leaves(AblationConfig))
    assert tried - {"contrasts"} <= set(leaves(AblationConfig))


def test_another_ruler_does_the_sweep_again_where_a_metric_asks_for_it(made, tmp_path):
    text = "name: own\nstages:\n  root: {from: [], branch: r}\n  up: {from: {root: LENGTH}, branch: u}\n  down: {from: root, branch: d}\n"
    keys = []
    for length in ("1", "1", "2"):
        (tmp_path / "ruler.yaml").write_text(text.replace("LENGTH", length))
        more = ["study.metrics=[ruler]", "data.cell_type=three", f"study.ruler={tmp_path / 'ruler.yaml'}"]
        more += ["sweep.pairs_of_top=0"]
        context = AblationContext(read_config(made.path, AblationConfig, more), tmp_path / "out")
        keys.append(stages(context)[0].key({}))
    assert keys[0] == keys[1] != keys[2]


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(made, first, tmp_path, capsys, evaluations):
    out = tmp_path / "out"
    assert main(["ablate", str(made.path), "--out", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    n = LAYERS * HEADS
    assert f"{n * 7 + 2 * LAYERS + 1} ablations of {N_CELLS} cells, judged by label_loss, cell_shift, " in said
    rows = [line.split() for line in said.splitlines()]
    for row in (["head", "ablations", str(n)], ["head", "null", "draws", str(6 * n)], ["mlp", "ablations", "2"]):
        assert ["mean", *row] in rows
    assert ["set", "ablations", "1"] in [row[1:] for row in rows] and ["L0H0", "mean", "head"] in rows
    sweep = next(row for row in rows if row[:1] == ["sweep"])
    assert sweep[1:4] == ["to", "make", str(N_CELLS)] and sweep[5] == str(N_CELLS // BLOCK) and "MiB" in sweep
    assert " for sweep (a guess from one pass over a few cells)" in said
    assert "Time not known: effects, draws, pairs, interactions, attribution" in said
    assert (
        "Up to 3 pairs of the top heads across layers, with 13 others beside and 12 pairs of one layer as a control. "
        in said
    )
    assert "The model has 13 other pairs to compare with, so that no p is below 0.071" in said
    assert (
        "No p of a head is below 0.02 (48 null draws)" in said and "4 disjoint draws of the cells, of 6 cells" in said
    )
    assert not out.exists() and not evaluations
    assert main(["ablate", str(made.path), "--out", str(first.out), "--dry-run"]) == 0
    assert "All stages are kept; only the report is written again." in capsys.readouterr().out
    assert main(["ablate", str(made.path), "--out", str(first.out), "--dry-run", "--json", "--set", "seed=9"]) == 0
    stages = json.loads(capsys.readouterr().out)["dry_run"]["stages"]
    sweep = next(one for one in stages if one["name"] == "sweep")
    assert sweep["state"] == "to make" and sweep["why"].startswith("others than before: ") and "seed" in sweep["why"]
    assert sweep["seconds"] > 0 and sweep["basis"] == "when it was last made here"
    pairs = next(one for one in stages if one["name"] == "pairs")
    assert (pairs["state"], pairs["why"]) == ("depends", "depends on sweep, effects, draws")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.sites=[L0H7]", f"HookError: There is no L0H7 in this model: it has layers 0 to {LAYERS - 1} with heads 0"),
        ("sweep.sites=[H7]", "HookError: 'H7' is no place of the model. Write L2H1"),
        ("sweep.sites=[L0H1]", "EvaluationError: The grid names 'L0H1 mean' twice"),
        ("contrasts=[{target: down, source: upp}]", "EvaluationError: Contrast: Unknown cell type 'upp': did you mean 'up'"),
        ("contrasts=[{target: up, source: up}]", "EvaluationError: Contrast: target and source are both 'up'"),
        ("sweep.pairs_by=label_los", "EvaluationError: Unknown metric for sweep.pairs_by 'label_los': did you mean 'label_l"),
        ("sweep.pairs_of_top=1", "EvaluationError: A pair takes two heads"),
        ("study.metrics=[label_los]", "EvaluationError: Unknown metric 'label_los': did you mean 'label_loss'"),
        ("swep={}", "ConfigError: The configuration "),
        ("sweep.null_drows=3", "did you mean 'sweep.null_draws'"),
        ("data.cell_type=null", "EvaluationError: Unknown metric for sweep.pairs_by 'label_loss'"),
        ("study.metrics=[cell_shift]", "add the one that is meant to study.metrics, or choose pairs by the first"),
        ("data.cell_type=null", "The metrics of labels need data.cell_type."),
        ("checkpoint=nowhere", "CheckpointError: There is no checkpoint folder 'nowhere'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_before_any_work_is_done(made, tmp_path, capsys, evaluations, override, said):
    for more in ([], ["--dry-run"]):
        arguments = ["ablate", str(made.path), "--out", str(tmp_path / "out"), "--set", override, *more]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error and len([line for line in error.splitlines() if not line.startswith("[")]) == 1
    assert not evaluations and not (tmp_path / "out").exists()


def test_backends_that_are_none_are_said(made, tmp_path, capsys):
    start = ["ablate", str(made.path), "--out", str(tmp_path / "out")]
    for options, said in ((["--backend", "loki"], "did you mean 'loky'"), (["--jobs", "0"], "--jobs is 0")):
        assert main([*start, *options]) == 2
        progress, error = capsys.readouterr().err.splitlines()
        assert progress.startswith("[ablate] ") and error.startswith("ConfigError: ") and said in error
    assert not (tmp_path / "out").exists()


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ablate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and "Example: workbench ablate experiments/ablation_blood_mini.yaml" in said
    assert "--dry-run" in said and "--jobs" in said


# Data that lack something, and grids without heads


def report_of(made, out, *overrides):
    options = [part for override in overrides for part in ("--set", override)]
    assert main(["ablate", str(made.path), "--out", str(out), *options]) == 0
    return html.unescape((out / "report.html").read_text())


def test_without_cell_types_what_needs_them_is_listed_as_skipped(made, tmp_path, capsys):
    less = ["data.cell_type=null", "sweep.pairs_of_top=0"]
    report = report_of(made, tmp_path, *less, "contrasts=[]", "sweep.null_draws=1", "sweep.layers=false")
    for name in ("label_loss", "label_error"):
        assert f"<strong>{name}</strong>: the cells have no cell type column" in report
    effects = table(tmp_path, "effects")
    assert set(effects["metric"]) == {"cell_shift", "masked_error"}
    assert "Label loss" not in report and not (tmp_path / "tables" / "transfer.csv").exists()
    options = [part for override in less for part in ("--set", override)]
    assert main(["ablate", str(made.path), "--out", str(tmp_path / "b"), *options]) == 2
    assert "A contrast needs cell types, and the cells have none; set data.cell_type" in capsys.readouterr().err


def test_places_alone_have_a_report_too(made, tmp_path):
    report = report_of(
        made, tmp_path, "sweep.heads=false", "sweep.sites=[L0.gene.GENE002, [L0H0, L1H1]]", "contrasts=[]", "study.metrics=[cell_shift]"
    )  # fmt: skip
    effects = table(tmp_path, "effects").set_index("ablation")["effect"]
    gene = "L0.gene.GENE002"
    assert sorted(effects.index) == ["L0.attention", gene, "L0.mlp", "L0H0+L1H1", "L1.attention", "L1.mlp"]
    assert f"Cell shift (1 - cosine): of {len(effects)} places {effects.abs().idxmax()} changes it most" in report
    assert "no null was drawn" in report
    assert {path.stem for path in (tmp_path / "figures").glob("*.html")} == {"runtime"}
    for what in ("interactions", "attribution"):
        assert f"<strong>{what}</strong>: the sweep leaves out the heads" in report


def test_a_single_head_as_a_place_is_named_without_a_null(made, tmp_path):
    report = report_of(
        made, tmp_path, "sweep.heads=false", "sweep.layers=false", f"sweep.sites=[{made.name}]", "study.metrics=[cell_shift]"
    )  # fmt: skip
    assert f"{made.name} matters most" in report and "no null was drawn" in report
    assert f"From down to up: {made.name} carries most" in report


def test_with_donors_intervals_are_over_donors(made, tmp_path):
    report = report_of(
        made, tmp_path, "data.donor=subject", "study.metrics=[cell_shift]", "sweep.pairs_of_top=0", "sweep.null_draws=1"
    )
    assert "bars: 95 % bootstrap over donors" in report and "Intervals over donors" not in report


def test_with_one_donor_there_are_no_intervals_and_the_report_says_why(made, tmp_path):
    report = report_of(
        made,
        tmp_path,
        "data.donor=place",
        "study.metrics=[cell_shift]",
        "sweep.pairs_by=cell_shift",
        "sweep.null_draws=1",
    )
    for name in ("effects", "interactions", "transfer"):
        assert table(tmp_path, name)[["low", "high"]].isna().all(axis=None), name
    assert "There is no interval for any metric: its cells are all of one donor" in report
    assert "bars: no interval, because all cells are of one donor" in report
    assert "(no interval: a single donor or cell, n = 24)" in report
    assert "bootstrap over donors" not in report
    text = re.sub(r"<script.*?</script>|<table.*?</table>", "", report, flags=re.DOTALL)
    assert not re.search(r"\bnan\b", text)


def test_where_no_metric_is_differentiable_attribution_is_listed_as_skipped(made, tmp_path):
    report = report_of(
        made, tmp_path, "study.metrics=[cell_shift]", "sweep.pairs_of_top=0", "contrasts=[]", "sweep.null_draws=1"
    )
    assert "<strong>attribution</strong>: none of the metrics is differentiable" in report


# A kill


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_table(made, tmp_path, evaluations):
    less = ["study.metrics=[cell_shift, label_loss]", "sweep.pairs_of_top=0", "attribution=false", "contrasts=[]"]
    options = [part for key in (*less, "sweep.block=1", "sweep.null_draws=40") for part in ("--set", key)]
    command = ["ablate", str(made.path), *options, "--out"]
    code = "import sys; from workbench.cli import main; sys.exit(main())"
    rows = tmp_path / "killed" / "stages" / "sweep" / "rows"
    killed = [sys.executable, "-c", code, *command, str(tmp_path / "killed")]
    kill_once(lambda: len(list(rows.glob("*.parquet"))) >= 3, killed)
    done = len(list(rows.glob("*.parquet")))
    assert 3 <= done < N_CELLS and not (tmp_path / "killed" / "tables").exists()
    assert main([*command, str(tmp_path / "killed")]) == 0
    assert len(evaluations) == N_CELLS - done
    assert main([*command, str(tmp_path / "whole")]) == 0
    texts = [(tmp_path / name / "tables" / "effects.csv").read_bytes() for name in ("killed", "whole")]
    assert texts[0] == texts[1]
