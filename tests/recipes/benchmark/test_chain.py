"""Stages of a campaign that were interrupted or whose files changed: nothing is done twice, and nothing stale is used."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from fixtures_benchmark import synthetic_cells, write
from helpers import randomise

from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner
from workbench.engine.sweep import Backend
from workbench.errors import CellsError
from workbench.evidence import embeddings
from workbench.evidence.representations import compact
from workbench.files import read_json
from workbench.models import load_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.recipes.benchmark import chain as module
from workbench.recipes.benchmark.bench import Bench, sides_of
from workbench.recipes.benchmark.chain import BenchmarkChain
from workbench.recipes.benchmark.config import BenchmarkConfig


def staged(path, out):
    """A campaign after the stages that come before any method."""
    chain, runner = BenchmarkChain(read_config(path, BenchmarkConfig), out, Backend()), StageRunner(out)
    cells = runner.run("cells", chain.inputs(), chain.cells_stage)
    model = runner.run("operators", [cells["key"], chain.model.fingerprint()], chain.model_stage)
    runner.run("untrained", [model["key"]], chain.untrained_stage)
    return chain


def test_an_interruption_after_the_passes_over_the_cells_costs_none_of_them(cells, checkpoint, tmp_path, monkeypatch):
    synthetic_cells(("x", "y"), seed=1, prefix="o").write_h5ad(tmp_path / "other.h5ad")
    transfer = {"other": {"data": {"name": "other.h5ad", "cell_type": "label", "donor": "donor"}}}
    path, out = write(tmp_path, checkpoint, cells, transfer=transfer), tmp_path / "out"
    reports, capture = [], embeddings.capture

    def kept(*given, **options):
        reports.append(capture(*given, **options))
        return reports[-1]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(embeddings, "capture", kept)
    with monkeypatch.context() as first:
        first.setattr(module, "forward_seconds", killed)
        with pytest.raises(KeyboardInterrupt):
            staged(path, out)
    took = reports[0].seconds
    staged(path, out)
    # Both panels as they were; the untrained model is another stage.
    assert [(one.resumed_at, one.n_cells) for one in reports[2:4]] == [(140, 140), (70, 70)]
    assert read_json(out / "stages" / "operators" / "done.json")["result"]["seconds"] >= took
    assert not list((out / "stages" / "operators").rglob("capture"))


def test_files_that_changed_are_seen_by_a_process_that_knew_the_first(cells, checkpoint, tmp_path):
    place = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, place)
    path, out = write(tmp_path, place, cells, splits={"n": 1}), tmp_path / "out"
    config = read_config(path, BenchmarkConfig)

    def sides():
        asked = staged(path, out)._place
        (split,) = Bench(config, out).splits
        return sides_of(*asked, split), Bench(config, out).sides(Bench(config, out).splits[split])

    first, _ = sides()
    synthetic_cells(seed=3).write_h5ad(tmp_path / "cells.h5ad")
    second, fresh = sides()
    assert (second.train.cells.expression != fresh.train.cells.expression).nnz == 0
    assert (second.train.cells.expression != first.train.cells.expression).nnz
    assert compact(config, "single head", second.train).remembered_seconds == 0
    assert compact(config, "single head", second.train).remembered_seconds > 0
    save_checkpoint(randomise(load_model(place), seed=5), place)
    third, fresh = sides()
    seen, made, known = (one.train.cells.embeddings["cls"] for one in (third, fresh, second))
    assert np.array_equal(seen, made) and not np.array_equal(seen, known)
    # Heads are screened anew, though cells and configuration are the same.
    assert compact(config, "single head", third.train).remembered_seconds == 0


def test_repeated_cell_names_end_in_a_sentence(cells, checkpoint, tmp_path):
    twice = cells.copy()
    twice.obs_names = ["same", "same", *cells.obs_names[2:]]
    chain = BenchmarkChain(
        read_config(write(tmp_path, checkpoint, twice), BenchmarkConfig), tmp_path / "out", Backend()
    )
    with pytest.raises(CellsError, match=r"'same' occurs more than once\. Call adata\.obs_names_make_unique"):
        chain.inputs()
