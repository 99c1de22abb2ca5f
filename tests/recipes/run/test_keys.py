"""What makes which stage of a run anew: every field of the configuration, and that no label reaches a forward pass."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from fixtures_run import write
from helpers import leaves, randomise

from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner, run_all
from workbench.files import read_json
from workbench.models import load_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.recipes.run.config import GenesConfig, RunConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.recipe import run, stages

# The card of the algorithm repeats heads, readouts, gates and settings; the explorer shows the algorithm's latent.
CARD = {"algorithm", "explorer"}
JUDGED = {"heads", "readouts", "gates", "sensitivity", "compaction"}
ANCHORS = {*JUDGED, *CARD, "factors"}
PASSES = {"operators", "untrained", "drift"}
# What heads write is judged without ruler, anchors and adaptor.
READ = {*PASSES, "writing"}
EVERY = {"panel", "cells", *READ, *ANCHORS}
BY_FOLD = {"cells", "readouts", "writing", "compaction", "factors", *CARD}
SINGLE, TOPK, BLOCKS = "adaptor.feature_map=single", "adaptor.feature_map=topk", "adaptor.blocks=[[0],[1],[2]]"

# Field: what it is set to, what it makes anew, and what has to be set beside it for it to matter.
FIELDS = {
    "name": ("other", set(), ()),
    "checkpoint": ("OTHER_WEIGHTS", {"operators", "drift", "writing", *ANCHORS}, ()),
    "device": ("cpu", set(), ()),  # results agree but for rounding, so those of another device are kept
    "dtype": ("bfloat16", {*READ, *ANCHORS}, ()),
    "seed": (5, EVERY - {"panel"}, ()),
    "data.name": ("COPY", {"cells", "gates", *CARD}, ()),
    "data.backed": (True, set(), ()),
    "data.layer": ("scaled", EVERY, ()),
    "data.values": ("log1p:12000", {"cells", "writing", *ANCHORS}, ()),
    "data.depth": ("deep", {"cells", "gates", "writing", *CARD}, ()),
    "data.gene_column": ("symbol", EVERY, ()),
    "data.cell_type": ("coarse", {"cells", "writing", *ANCHORS}, ()),
    "data.donor": ("donor", EVERY, ()),
    "data.tissue": ("organ", {"cells", *ANCHORS}, ()),
    "data.batch": ("lane", {"cells", *READ, *ANCHORS}, ()),
    "data.min_gene_share": (0.2, set(), ()),
    "ruler": ("OWN_RULER", ANCHORS, ()),
    "stages": ("{NA: NK}", {"cells", *ANCHORS}, ()),
    "panel.size": (30, EVERY, ()),
    "panel.exclude": ("A_GENE", EVERY, ()),
    "panel.by": ("variable", EVERY, ("panel.size=30",)),
    "panel.file": ("GENES", EVERY, ()),
    "capture.convention": ("paper", {*READ, *ANCHORS}, ()),
    "capture.over_cells": ("sum", {*READ, *ANCHORS}, ()),
    "capture.orientation": ("key x query", {*READ, *ANCHORS}, ()),
    "capture.sums": ("float64", {*READ, *ANCHORS}, ()),
    "capture.batch_size": (8, {*READ, *ANCHORS}, ()),
    "capture.max_tokens": (20, {*READ, *ANCHORS}, ()),
    "capture.groups": (6, EVERY, ()),
    "anchors.min_cells": (3, ANCHORS, ()),
    "anchors.parts": (3, ANCHORS, ()),
    "anchors.weights": ("cells", ANCHORS, ()),
    "operator": ("qk", {*READ, *ANCHORS}, ()),
    "adaptor.k": (2, ANCHORS, ()),
    "adaptor.alpha": (0.2, ANCHORS, ()),
    "adaptor.beta": (0.5, ANCHORS, ()),
    "adaptor.steps": (40, ANCHORS, ()),
    "adaptor.tol": (1e-3, ANCHORS, ()),
    "adaptor.feature_map": ("single", {*JUDGED, *CARD}, ()),
    "adaptor.layer": (1, {*JUDGED, *CARD}, (SINGLE,)),
    "adaptor.head": (1, {*JUDGED, *CARD}, (SINGLE,)),
    "adaptor.top": (2, {*JUDGED, *CARD}, (TOPK,)),
    "adaptor.blocks": ("[[0],[1],[2]]", {"drift", *JUDGED, *CARD}, ()),
    "embedding": (False, {"operators", "drift", "writing", *ANCHORS}, ()),
    "readout.hidden": (4, {"readouts", "compaction", *CARD}, ()),
    "evaluation.folds": (3, BY_FOLD, ()),
    "evaluation.holdouts": (3, {"heads", "sensitivity", "compaction", "factors", *CARD}, ()),
    "evaluation.permutations": (6, {"readouts", *CARD}, ()),
    "evaluation.refits": (4, {"heads", *CARD}, ()),
    "evaluation.head_refits": (2, {"heads", *CARD}, ()),
    "evaluation.control_draws": (3, {"heads", "readouts", "writing", "gates", *CARD}, ()),
    "gates.refits": (2, {"gates", *CARD}, ()),
    **{
        f"cell_heads.{field}": (value, {"readouts", *CARD}, ())
        for field, value in {"epochs": 4, "batch_size": 50, "per_stage": 10, "hybrid": True}.items()
    },
    **{f"sensitivity.{field}": ("[4]", {"sensitivity"}, ()) for field in ("ks", "alphas", "betas")},
    **{
        f"compaction.{field}": (value, {"compaction"}, ())
        for field, value in {
            **{"splits": 4, "head": "L1H1", "ranks": "[4]", "n_factors": 4, "n_read": 5, "n_write": 5},
            "alternatives": False,
        }.items()
    },
    **{
        f"factors.{field}": (value, {"factors"}, ())
        for field, value in {
            **{"head": "L1H1", "n": 4, "top": 1, "n_genes": 7, "splits": 4, "null_draws": 4, "bootstraps": 5},
            "program_draws": 3,
        }.items()
    },
    "factors.gene_sets": ("OWN_SETS", {"factors", "explorer"}, ()),
    "expected": ("FIGURES", set(), ()),
    "transfer.data.name": ("COPY", set(), ()),
    **{
        f"transfer.data.{field}": (value, set(), ())
        for field, value in {"backed": True, "donor": "donor", "tissue": "organ", "batch": "lane"}.items()
    },
    "transfer.data.min_gene_share": (0.2, set(), ()),
    "transfer.data.layer": ("scaled", CARD, ()),
    "transfer.data.values": ("log1p:12000", CARD, ()),
    "transfer.data.depth": ("deep", set(), ()),
    "transfer.data.gene_column": ("symbol", CARD, ()),
    "transfer.data.cell_type": ("coarse", CARD, ()),
    "transfer.stages": ("{NA: NK}", CARD, ()),
}

# Of a run of several rulers: `test_several` says what they make anew.
OF_SEVERAL = {"rulers", *(f"genes.{name}" for name in leaves(GenesConfig))}


@pytest.fixture(scope="module")
def planned(cells, checkpoint, tmp_path_factory):
    """A configuration with every section, and files that may stand in the place of its own."""
    folder = tmp_path_factory.mktemp("keys")
    cells = cells.copy()
    cells.obs["coarse"] = cells.obs["label"].replace({"CD19+ B": "CD56+ NK"})
    cells.obs["lane"] = np.arange(cells.n_obs) % 2
    cells.var["symbol"] = [*cells.var_names[:-1], "renamed"]
    cells.layers["scaled"] = cells.X * 0.5
    cells.obs["deep"] = 5000.0
    path = write(
        folder,
        checkpoint,
        cells,
        gates={"refits": 1},
        cell_heads={"epochs": 3, "hybrid": False},
        sensitivity={"ks": [2, 3], "alphas": [0.1], "betas": [0.3]},
        compaction={"splits": 3, "ranks": [8, 3], "n_factors": 3, "n_read": 6, "n_write": 6},
        factors={
            **{"n": 3, "top": 2, "n_genes": 8, "splits": 2, "null_draws": 3, "bootstraps": 4},
            "program_draws": 2,
        },
        transfer={"other": {"data": {"name": "cells.h5ad", "cell_type": "label"}}},
    )
    ruler = resources.files("workbench.evidence") / "rulers" / "hematopoiesis.yaml"
    raw = yaml.safe_load(ruler.read_text("utf-8"))
    (folder / "renamed.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    raw["stages"]["NK"]["branch"] = "lymphoid"
    raw["colors"] = {name: color for name, color in raw.get("colors", {}).items() if name != "NK"}
    (folder / "own.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    (folder / "own.gmt").write_text("one\t\t" + "\t".join(cells.var_names[:5]) + "\n")
    (folder / "figures.yaml").write_text(yaml.safe_dump({"source": "a paper", "figures": []}))
    (folder / "genes.txt").write_text("\n".join(cells.var_names[7:27]) + "\n")
    (folder / "copy.h5ad").write_bytes((folder / "cells.h5ad").read_bytes())
    save_checkpoint(randomise(load_model(checkpoint), seed=9), folder / "other")
    files = {
        **{"OTHER_WEIGHTS": "other", "COPY": "copy.h5ad", "OWN_RULER": "own.yaml", "OWN_SETS": "own.gmt"},
        **{"GENES": "genes.txt", "FIGURES": "figures.yaml", "RENAMED_RULER": "renamed.yaml"},
    }
    values = {name: str(folder / file) for name, file in files.items()} | {"A_GENE": f"[{cells.var_names[0]}]"}
    return SimpleNamespace(path=path, values=values, known={})


def keys(planned, *overrides: str) -> dict[str, str]:
    """Key of every stage, without doing any."""
    if overrides not in planned.known:
        results: dict[str, dict] = {}
        for stage in stages(RunContext(read_config(planned.path, RunConfig, overrides), Path("nowhere"))):
            results[stage.name] = {"key": stage.key(results)}
        planned.known[overrides] = {name: result["key"] for name, result in results.items()}
    return planned.known[overrides]


def changed(planned, override: str, *beside: str) -> set[str]:
    """Stages that one setting makes anew."""
    before, after = keys(planned, *beside), keys(planned, *beside, override)
    assert list(before) == list(after)
    return {name for name in after if after[name] != before[name]}


def test_every_field_of_the_configuration_is_listed():
    assert {*FIELDS, *OF_SEVERAL} == set(leaves(RunConfig))
    assert not OF_SEVERAL & set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_makes_anew_what_depends_on_it_and_nothing_else(planned, field):
    value, expected, beside = FIELDS[field]
    of = field.replace("transfer.", "transfer.other.", 1) if field.startswith("transfer.") else field
    assert changed(planned, f"{of}={planned.values.get(value, value)}", *beside) == expected


@pytest.mark.parametrize(
    "override",
    [
        "stages={Dendritic: dendritic}",
        "ruler=RENAMED_RULER",
        "panel.size=4000",
        "capture.groups=10",
        "adaptor.layer=1",
        "adaptor.top=2",
    ],
)
def test_a_setting_that_changes_nothing_makes_at_most_the_card_anew(planned, override):
    field, value = override.split("=", 1)
    assert changed(planned, f"{field}={planned.values.get(value, value)}") <= CARD


@pytest.mark.parametrize(
    ("override", "beside", "expected"),
    [
        ("evaluation.holdouts=3", (TOPK,), ANCHORS),
        ("evaluation.holdouts=3", ("compaction.head=L0H0", "factors.head=L0H0"), {"heads", "sensitivity", *CARD}),
        ("adaptor.blocks=[[0],[1],[2]]", (SINGLE,), {"drift", *CARD}),
        ("capture.groups=6", ("operator=qk",), {"panel", *BY_FOLD}),
        ("gates=null", (), CARD),
    ],
)
def test_what_a_field_makes_anew_may_hang_on_another(planned, override, beside, expected):
    before, after = keys(planned, *beside), keys(planned, *beside, override)
    assert {name for name in after if after[name] != before[name]} == expected


def test_values_names_and_weights_reach_what_they_should(planned, cells, checkpoint, tmp_path):
    other = cells.copy()
    other.X.data[len(other.X.data) // 2] *= 1.5
    path = write(tmp_path, checkpoint, other)
    context = RunContext(read_config(path, RunConfig), tmp_path)
    same = RunContext(read_config(planned.path, RunConfig), tmp_path)
    assert context.values != same.values and context.content != same.content


# The forward passes themselves


# Whole runs, and as little of everything as makes a report.
LITTLE = (
    *("cell_heads=null", "sensitivity=null", "adaptor.steps=3", "evaluation.holdouts=1", "evaluation.refits=1"),
    *("compaction={splits: 1, ranks: [3], n_factors: 3, n_read: 6, n_write: 6, alternatives: false, head: L0H0}",),
    *("factors.head=L0H0", "factors.splits=1", "factors.program_draws=1", "evaluation.permutations=2"),
)


@pytest.fixture(scope="module")
def finished(planned, few_null_rulers, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    run(read_config(planned.path, RunConfig, [*LITTLE, f"factors.gene_sets={planned.values['OWN_SETS']}"]), out)
    return out


def test_no_label_fold_ruler_or_anchor_costs_a_forward_pass(planned, finished, few_null_rulers, monkeypatch):
    passes = []
    monkeypatch.setattr(HookedScGPT, "forward", lambda *args, **options: passes.append(1))
    relabelled = (
        *("stages={NA: NK}", "data.cell_type=coarse", "data.tissue=organ", "evaluation.folds=4"),
        *("anchors.parts=3", f"ruler={planned.values['OWN_RULER']}"),
    )
    same = ("stages={Dendritic: dendritic}", f"ruler={planned.values['RENAMED_RULER']}")
    little = [*LITTLE, f"factors.gene_sets={planned.values['OWN_SETS']}"]
    for overrides in (same, relabelled):
        run(read_config(planned.path, RunConfig, [*little, *overrides]), finished)
        kept = {name for name, stage in read_json(finished / "manifest.json")["stages"].items() if stage["kept"]}
        assert kept >= {"panel", *PASSES} and not passes
        page = (finished / "report.html").read_text()
        assert all(f'id="figure-{name}"' in page for name in ("gates", "factor_genes", "compaction", "readouts"))
    assert kept == {"panel", *PASSES}, "the others were made anew, from the sums that were there"


def test_the_operators_and_nothing_else_run_the_model(planned, tmp_path, few_null_rulers, monkeypatch):
    forward, passes = HookedScGPT.forward, []
    monkeypatch.setattr(HookedScGPT, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    context, runner = RunContext(read_config(planned.path, RunConfig), tmp_path), StageRunner(tmp_path)
    for stage in stages(context)[:5]:
        before = len(passes)
        run_all(runner, [stage])
        assert (len(passes) > before) == (stage.name in ("operators", "untrained")), stage.name
