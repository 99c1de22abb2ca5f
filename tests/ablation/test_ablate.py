"""``ablate``: on a planted checkpoint the planted head comes first, and a folder keeps what is done."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from fixtures_ablation import HEADS, LAYERS, N_CELLS, QUIET, SEED, assert_close, of_metric
from helpers import tiny_cells, tiny_model

from workbench.ablation.ablate import ablate
from workbench.ablation.build import choose_rows
from workbench.ablation.edits import ablated
from workbench.ablation.metrics import Metric
from workbench.ablation.reference import build_reference
from workbench.ablation.sites import Ablation, site
from workbench.cells.datasets import content_hash
from workbench.errors import ConfigError, HookError, OutputError
from workbench.models.scgpt.planted import plant_head


def test_the_planted_head_comes_first(made):
    effects = ablate(made.model, made.cells, null_draws=12, folds=2, backend=QUIET)
    assert len(effects) == 2 * LAYERS * HEADS and (effects["n_cells"] == N_CELLS).all()
    assert dict(zip(effects["metric"], effects["unit"], strict=True)) == {
        "cell_shift": "1 - cosine",
        "label_loss": "nats",
    }
    for name in ("cell_shift", "label_loss"):
        heads = of_metric(effects, name)
        assert heads["effect"].abs().idxmax() == made.name and (heads["n_null"] == 12).all()
    loss = of_metric(effects, "label_loss")
    assert loss["ratio"].idxmax() == made.name and loss.loc[made.name, "q"] == loss["q"].min()
    one, rest = loss.loc[made.name], loss.drop(made.name)
    assert 0 < one["low"] < one["effect"] < one["high"] and rest["effect"].abs().max() < 0.05 * one["effect"]


@pytest.mark.parametrize("how", ["zero", "resample"])
def test_other_ways_of_ablating_find_it_too(made, how):
    effects = ablate(made.model, made.cells, how=how, metrics=["label_loss"], null_draws=2, folds=2, backend=QUIET)
    assert (effects["how"] == how).all() and effects.set_index("ablation")["effect"].idxmax() == made.name


def test_a_metric_of_one_s_own_and_places_by_label(made):
    direction = torch.as_tensor(made.planted.direction, dtype=torch.float32)
    along = Metric("along", "length", 0, lambda run: run.output() @ direction)
    places = [made.name, "L0.mlp", site("L1.attention"), f"L0.gene.{made.planted.genes[0]}"]
    effects = ablate(made.model, made.cells, places, metrics=[along, "cell_shift"], seed=SEED, backend=QUIET)
    assert set(effects["metric"]) == {"along", "cell_shift"} and len(effects) == 8
    assert (effects["n_null"] == 0).all() and effects[["p", "q", "ratio"]].isna().all(axis=None)
    found = of_metric(effects, "along")
    assert found.index.tolist() == [str(place) for place in places] and found["unit"].tolist() == ["length"] * 4
    tokens = made.model.tokenizer(made.cells, seed=SEED).tokens()
    ablations = [Ablation(place, "mean") for place in places]
    reference = build_reference(made.model, tokens, [one.sites[0].hook for one in ablations])
    for one in ablations:
        with ablated(made.model, one, reference):
            after = made.model(tokens).cell @ direction
        expected = float((after - made.model(tokens).cell @ direction).mean())
        assert found.loc[str(one), "effect"] == pytest.approx(expected, abs=1e-5)


def test_a_single_label_will_do(made):
    effects = ablate(made.model, made.cells, made.name, metrics=["cell_shift"], backend=QUIET)
    assert effects["ablation"].tolist() == [made.name]


def test_fewer_cells_are_drawn_by_name(made):
    effects = ablate(made.model, made.cells, ["L0H0"], metrics=["cell_shift"], n_cells=9, seed=SEED, backend=QUIET)
    turned = made.cells[::-1].copy()
    again = ablate(made.model, turned, ["L0H0"], metrics=["cell_shift"], n_cells=9, seed=SEED, backend=QUIET)
    assert effects["n_cells"].tolist() == again["n_cells"].tolist() == [9]
    assert effects["effect"].iloc[0] == pytest.approx(again["effect"].iloc[0], rel=1e-4)


def test_neither_the_model_nor_the_cells_are_changed_and_nothing_is_left_on_the_disk(made, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before, cells = made.model.fingerprint(), content_hash(made.cells)
    columns = made.cells.obs.columns.tolist()
    ablate(made.model, made.cells, ["L0H0"], metrics=["label_loss"], folds=2, backend=QUIET)
    assert made.model.fingerprint() == before and content_hash(made.cells) == cells
    assert made.cells.obs.columns.tolist() == columns and not list(tmp_path.iterdir())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())


def test_without_cell_types_label_metrics_are_left_out(made):
    bare = made.cells.copy()
    del bare.obs["cell_type"]
    effects = ablate(made.model, bare, ["L0H0"], backend=QUIET)
    assert effects["metric"].tolist() == ["cell_shift"]


def test_the_share_of_fallbacks_is_of_the_tokens_that_are_touched():
    model, cells = tiny_model(), tiny_cells(20, seed=2)
    rows = choose_rows(cells.obs_names.to_list(), 6, SEED)
    dense = cells.X.toarray()
    dense[rows, 3] = 0
    dense[[i for i in range(20) if i not in rows][:2], 3] = 5
    cells.X = sp.csr_matrix(dense)
    places = ["L0.gene.GENE3", "L0.gene.GENE5", "L1H0"]
    effects = ablate(model, cells, places, metrics=["cell_shift"], reference=6, seed=SEED, backend=QUIET)
    known, tokens = (dense[rows] > 0).any(0), dense > 0
    assert known[5] and not known[3]
    lost = tokens[:, ~known].sum() / (tokens.sum() + len(cells))  # every cell has <cls>, too
    assert effects.set_index("ablation")["fallback_share"][places].tolist() == pytest.approx([1, 0, lost])
    assert 0 < lost < 0.1


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"how": "maen"}, ConfigError, "Key 'how.0' is 'maen'"),
        ({"batchsize": 4}, ConfigError, "Unknown key 'batchsize': did you mean 'batch_size'"),
        ({"n_cells": 0}, ConfigError, "Key 'cells' is 0"),
        ({"null_draws": -1}, ConfigError, "Key 'null_draws' is -1"),
        ({"sites": ["L0H9"]}, HookError, "There is no L0H9 .* heads 0 to 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(made, settings, error, said):
    with pytest.raises(error, match=said) as stop:
        ablate(made.model, made.cells, **{"metrics": ["cell_shift"], "backend": QUIET, **settings})
    assert "\n" not in str(stop.value)


def test_a_folder_keeps_what_is_done(made, tmp_path, evaluations):
    def go(**more):
        settings = {"metrics": ["cell_shift"], "null_draws": 1, "backend": QUIET, "folder": tmp_path / "kept"}
        return ablate(made.model, made.cells, **{**settings, **more})

    effects = go()
    assert evaluations == [tuple(range(N_CELLS))]
    pd.testing.assert_frame_equal(go(), effects)
    pd.testing.assert_frame_equal(go(batch_size=3), effects)
    assert len(evaluations) == 1
    others = [
        ({"seed": 1}, "seed was 0 and is 1 now"),
        ({"metrics": ["cell_shift", "label_loss"], "folds": 2}, "metrics"),
        ({"how": "zero"}, "ablations"),
        ({"n_cells": 20}, "cells was"),
        ({"reference": 20}, "reference cells was"),
    ]
    for changed, said in others:
        with pytest.raises(OutputError, match=f"holds another sweep: .*{said}"):
            go(**changed)
    other = plant_head(SEED + 1, n_layers=LAYERS, n_heads=HEADS, n_genes=30, d_model=16).model
    with pytest.raises(OutputError, match="holds another sweep: checkpoint was .* and is .* now"):
        ablate(other, made.cells, metrics=["cell_shift"], null_draws=1, backend=QUIET, folder=tmp_path / "kept")
    assert len(evaluations) == 1


SENT = """
import sys
from workbench.ablation import Metric
from workbench.ablation.ablate import ablate
from workbench.engine.sweep import Backend
from workbench.cells.datasets import CellMapping, load
from workbench.models import load_model
folder, name = sys.argv[1:]
model, cells = load_model(f"{folder}/model"), load(f"{folder}/cells.h5ad", CellMapping(cell_type="planted_label"))
own = Metric("own", "length", 0, lambda run: run.output()[:, 0])
metrics = ["cell_shift", "masked_error", "gene:GENE003", "label_loss", "label_error", own]
effects = ablate(model, cells, metrics=metrics, folds=2, null_draws=1, backend=Backend(name, 2, progress=False))
effects.to_parquet(f"{folder}/{name}.parquet")
"""


@pytest.mark.slow
def test_other_processes_that_are_sent_the_study_find_the_same(made):
    # In a process of its own, as users run it: the shape checks of the tests cannot be sent to workers.
    names = ("loky", "sequential")
    for name in names:
        subprocess.run([sys.executable, "-c", SENT, str(made.folder), name], check=True)
    assert_close(*(pd.read_parquet(made.folder / f"{name}.parquet") for name in names))
