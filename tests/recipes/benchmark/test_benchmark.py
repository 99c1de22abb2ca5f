"""``Benchmark(...)``: a user's cells, embeddings and objects through the stages, files and report of the command line."""

from __future__ import annotations

import gc
import shutil
import threading

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from fixtures_benchmark import synthetic_cells, write
from helpers import randomise

import workbench
from workbench.cells.datasets import load
from workbench.engine.config import read_config
from workbench.engine.sweep import Backend
from workbench.engine.tables import read_table, table_path
from workbench.errors import CellsError, ConfigError, EvaluationError, OutputError
from workbench.files import read_json
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.recipe import run_benchmark

# As little of everything as makes a report.
SMALL = {"methods": ["PCA-10"], "ours": "PCA-10", "anchors": {"min_cells": 2, "parts": 2}, "panel": {"size": 24}}
OF_CELLS = {"cell_type": "label", "donor": "donor"}


class NearestMean:
    """A classifier as a user writes one."""

    def __init__(self, power=2):
        self.power = power

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means = np.stack([np.asarray(X[y == one].mean(0)).ravel() for one in self.classes_])

    def predict(self, X):
        apart = np.abs(X.toarray()[:, None] - self.means) ** self.power
        return self.classes_[apart.sum(-1).argmin(1)]


class Centred:
    """Subtracts the mean of whatever it is asked about, the held-out cells among it."""

    def fit(self, X, y):
        return self

    def transform(self, X):
        return X.toarray() - X.toarray().mean(0)


def embedded(cells, seed=0, width=5):
    """Cells with an embedding in which their label is planted, and with one of noise."""
    rng, code = np.random.default_rng(seed), pd.factorize(cells.obs["label"], sort=True)[0]
    cells.obsm["X_label"] = np.eye(width)[code] + rng.normal(0, 0.02, (len(cells), width))
    cells.obsm["X_noise"] = rng.normal(size=(len(cells), 4))
    return cells


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Cells that are transferred to, of which only one of both embeddings is named."""
    path = tmp_path_factory.mktemp("other") / "other.h5ad"
    embedded(synthetic_cells(("x", "y"), seed=1, prefix="o"), 1).write_h5ad(path)
    return {"other": {"data": {"name": str(path), **OF_CELLS, "embeddings": ["X_label"]}}}


@pytest.fixture(scope="module")
def judged(checkpoint, other, tmp_path_factory):
    made = workbench.Benchmark(
        embedded(synthetic_cells()),
        checkpoint,
        **OF_CELLS,
        embeddings=["X_label", "X_noise"],
        own={"nearest mean": NearestMean(), "centred": Centred()},
        splits=3,
        out=tmp_path_factory.mktemp("judged") / "out",
        transfer=other,
        **SMALL,
    )
    return made.run(progress=False)


def test_a_planted_embedding_is_best_and_noise_is_at_chance(judged):
    table = judged.table().query("kind == 'donor holdout' and endpoint == 'stage' and metric == 'balanced accuracy'")
    value = table.set_index("method")["value"]
    assert value["X_label"] == 1 == value.max() and abs(value["X_noise"] - 0.2) < 0.15 and value["nearest mean"] > 0.9
    assert table.set_index("method")["group"].to_dict() == {
        **{"PCA-10": "baseline", "X_label": "own", "X_noise": "own", "nearest mean": "own", "centred": "own"}
    }


def test_the_table_is_tidy_and_compares_with_ours(judged):
    table = judged.table()
    where = ["method", "kind", "data", "endpoint", "metric"]
    assert not table.duplicated(where).any()
    compared = read_table(table_path(judged.out, "comparisons")).set_index(where)["difference"]
    found = table[table["method"] != "PCA-10"].set_index(where)["difference"]
    assert (
        compared.equals(found.reindex(compared.index))
        and table.loc[table["method"] == "PCA-10", "difference"].isna().all()
    )
    assert {"group", "value", "sd", "n_splits", "low", "high", "p", "q", "detectable", "outcome"} <= set(table)


def test_an_object_that_looks_at_the_company_of_a_cell_is_audited_and_not_judged(judged):
    audited = read_table(table_path(judged.out, "audit")).set_index("method")["status"]
    assert audited.to_dict() == {**dict.fromkeys(audited.index, "ok"), "centred": "leaks"}
    table = judged.table()
    assert table.loc[table["method"] == "centred", "value"].isna().all()


def test_a_cohort_that_names_no_such_embedding_is_not_judged_by_it_and_says_so(judged):
    table = judged.table().query("kind == 'transfer' and endpoint == 'stage' and metric == 'balanced accuracy'")
    table = table.set_index("method")
    assert table.loc["X_label", "value"] == 1 and np.isnan(table.loc["X_noise", "value"])
    assert "the data of this cohort name no embedding 'obsm/X_noise'" in table.loc["X_noise", "status"]


def test_the_report_says_what_the_audit_cannot_see(judged):
    page = judged.report.read_text(encoding="utf-8")
    assert "X_label, X_noise: made by the user, may have seen the held-out cells; the audit cannot see that." in page
    assert "nearest mean, centred: made by the user, copied and fitted for each split" in page


def test_the_cells_are_written_with_what_is_used_alone_and_stay_as_they_were(judged, checkpoint):
    cells = ad.read_h5ad(judged.out / "cells.h5ad")
    assert set(cells.obs) == {"cell_type", "donor"} and set(cells.obsm) == {"X_label", "X_noise"} and cells.raw is None
    assert (cells.X != synthetic_cells().X).nnz == 0


def again(judged, checkpoint, other, folder, **changes):
    """The same benchmark in a copy of its folder: what of it is kept."""
    out = folder / "out"
    shutil.copytree(judged.out, out)
    given = {
        **{"own": {"nearest mean": NearestMean(), "centred": Centred()}, "splits": 3, "transfer": other},
        **{"embeddings": ["X_label", "X_noise"], **OF_CELLS, **SMALL, **changes},
    }
    workbench.Benchmark(embedded(synthetic_cells()), checkpoint, out=out, **given).run(progress=False)
    return {name for name, stage in read_json(out / "manifest.json")["stages"].items() if stage["kept"]}


MADE = {"cells", "operators", "transfer", "untrained"}


def test_the_same_objects_are_not_judged_again(judged, checkpoint, other, tmp_path):
    assert again(judged, checkpoint, other, tmp_path) == {*MADE, "audit", "campaign", "statistics"}


def test_another_setting_of_an_object_is_judged_and_costs_no_forward_pass(judged, checkpoint, other, tmp_path):
    own = {"nearest mean": NearestMean(1), "centred": Centred()}
    assert again(judged, checkpoint, other, tmp_path, own=own) == MADE


def test_the_command_line_judges_embeddings_as_the_object_does(judged, checkpoint, tmp_path):
    cells = embedded(synthetic_cells())
    path = write(tmp_path, checkpoint, cells, **SMALL, splits={"n": 3}, data={"embeddings": ["X_label", "X_noise"]})
    out = run_benchmark(read_config(path, BenchmarkConfig), tmp_path / "out")
    keys = ["method", "split", "scope", "endpoint", "metric"]
    one, two = (
        read_table(table_path(folder, "scores"))
        .query("kind == 'donor holdout' and method in ['PCA-10', 'X_label', 'X_noise']")
        .set_index(keys)["value"]
        for folder in (out, judged.out)
    )
    pd.testing.assert_series_equal(one, two)


def hundred(backend):
    """The folder of a benchmark on real cells without donors, which nobody holds any more."""
    cells = load("pbmc68k")[::7].copy()
    names = list(cells.var_names)
    shape = ModelConfig(n_tokens=len(names) + 3, d_model=8, n_layers=3, n_heads=2, d_mlp=8, max_tokens=40)
    model = randomise(HookedScGPT(shape, Vocabulary.of_genes(names)), seed=0)
    small = {**SMALL, "panel": {"size": 50}, "audit": False, "capture": {"max_tokens": 30}}
    made = workbench.Benchmark(cells, model, own={"nearest mean": NearestMean()}, splits=2, **small)
    folder = made.run(backend, progress=False).out
    table = made.table().query("endpoint == 'stage' and metric == 'balanced accuracy'").set_index("method")["value"]
    assert set(table.index) == {"PCA-10", "nearest mean"} and table["nearest mean"] > 0.4
    assert made.report.is_file() and made.report.parent == folder
    return folder


@pytest.mark.parametrize("backend", [None, pytest.param(Backend("loky", 2), marks=pytest.mark.slow)])
def test_cells_and_a_model_in_memory_are_judged_and_the_folder_goes_with_the_benchmark(backend):
    folder = hundred(backend)
    gc.collect()
    assert not folder.exists()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(checkpoint, tmp_path):
    methods = {**SMALL, "methods": ["PCA-10", "anchor head", "raw log1p"], "ours": "anchor head", "splits": {"n": 3}}
    path, found = write(tmp_path, checkpoint, synthetic_cells(), **methods), []
    for name, backend in (("one", None), ("two", Backend("loky", 2, progress=False))):
        out = run_benchmark(read_config(path, BenchmarkConfig), tmp_path / name, backend)
        found.append([read_table(table_path(out, table)) for table in ("scores", "summary")])
    for one, two in zip(*found, strict=True):
        pd.testing.assert_frame_equal(two, one, rtol=1e-4)


# Refused before any work


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"embeddings": ["X_lable"]}, CellsError, "no obsm 'X_lable'; did you mean 'X_label'"),
        ({"embeddings": "X_label"}, ConfigError, r"give a list of names, such as \['X_label'\]"),
        ({"methods": "PCA-10"}, ConfigError, "give a list of names"),
        ({"own": {"mine": NearestMean}}, EvaluationError, "is the class NearestMean"),
        ({"own": {"PCA-10": NearestMean()}}, EvaluationError, "has the name of a method or group of methods, 'PCA-10'"),
        ({"own": {"own": NearestMean()}}, EvaluationError, "has the name of a method or group of methods, 'own'"),
        ({"own": {"X_label": NearestMean()}, "embeddings": ["X_label"]}, EvaluationError, "has the name of a method"),
        ({"ours": "mine"}, EvaluationError, "Unknown method or group of methods 'mine'"),
        ({"split": 3}, ConfigError, "Unknown key 'split'"),
        ({"cell_type": "lable"}, CellsError, "did you mean 'label'"),
    ],
)
def test_what_is_refused_says_why_and_leaves_no_folder(checkpoint, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        workbench.Benchmark(
            embedded(synthetic_cells()), checkpoint, out=tmp_path / "out", **{**OF_CELLS, **SMALL, **changes}
        ).run(progress=False)
    assert not (tmp_path / "out").exists()


def test_an_object_that_no_process_can_be_sent_is_refused(checkpoint, tmp_path):
    class Locked(NearestMean):
        def __init__(self):
            self.lock = threading.Lock()

        def __deepcopy__(self, memo):
            return self

    made = workbench.Benchmark(synthetic_cells(), checkpoint, own={"mine": Locked()}, out=tmp_path / "out", **OF_CELLS)
    with pytest.raises(ConfigError, match="'mine' cannot be sent to another process"):
        made.run(Backend("loky", 1))
    assert not (tmp_path / "out").exists()


def test_nothing_is_shown_before_a_run(checkpoint):
    made = workbench.Benchmark(synthetic_cells(), checkpoint, **OF_CELLS)
    with pytest.raises(EvaluationError, match="call run"):
        made.table()
    with pytest.raises(EvaluationError, match="call run"):
        _ = made.report


def test_cells_of_the_users_own_are_not_written_over(checkpoint, tmp_path):
    synthetic_cells().write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    with pytest.raises(OutputError, match="is there already, and is of other origin"):
        workbench.Benchmark(synthetic_cells(), checkpoint, out=tmp_path, **OF_CELLS, **SMALL).run()
    assert (tmp_path / "cells.h5ad").read_bytes() == before


@pytest.mark.parametrize(
    ("embeddings", "here", "said"),
    [
        (
            ["X_label"],
            {"width": 6},
            "names the embedding 'X_label' of 6 columns, and the internal data's has 5 columns",
        ),
        (["X_noise"], {}, "names the embedding 'X_noise' of 4 columns, and the internal data's does not name it"),
        (["X_lable"], {}, "no obsm 'X_lable'"),
    ],
)
def test_another_embedding_of_a_cohort_is_refused(cells, checkpoint, tmp_path, embeddings, here, said):
    embedded(synthetic_cells(("x", "y"), prefix="o"), **here).write_h5ad(tmp_path / "other.h5ad")
    transfer = {"other": {"data": {"name": str(tmp_path / "other.h5ad"), **OF_CELLS, "embeddings": embeddings}}}
    with pytest.raises((CellsError, EvaluationError), match=said):
        workbench.Benchmark(
            *(embedded(synthetic_cells()), checkpoint),
            **{**OF_CELLS, **SMALL, "embeddings": ["X_label"], "transfer": transfer, "out": tmp_path / "out"},
        ).run()
    assert not (tmp_path / "out").exists()


def test_depth_and_values_that_were_found_or_said_stay_the_same_in_the_written_file(checkpoint, tmp_path):
    cells = synthetic_cells()
    cells.layers["scaled"], cells.obs["n_counts"] = sp.csr_matrix(cells.X * 1.0), 1000.0 + np.arange(len(cells))
    del cells.uns["workbench"]
    data = {"layer": "scaled", "values": "counts"}
    made = workbench.Benchmark(cells, checkpoint, data=data, out=tmp_path / "out", **OF_CELLS)
    made._write()
    found = load(made.config.data.name, cell_type="cell_type", depth=made.config.data.depth)
    expected = load(cells, cell_type="label", **data)
    assert found.obs["depth"].tolist() == expected.obs["depth"].tolist() == cells.obs["n_counts"].tolist()
    assert found.uns["workbench"]["values"] == "counts" and found.obs_names.equals(expected.obs_names)
