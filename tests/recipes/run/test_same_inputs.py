"""The same cells in files of several kinds, backed and in memory: apply, run, ablate and Python find the same."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import yaml
from fixtures_run import write

from workbench.cells.datasets import load
from workbench.cli import main
from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner
from workbench.engine.tables import read_table, table_path
from workbench.files import read_arrays
from workbench.operators.algorithm import Algorithm
from workbench.operators.apply import LATENT
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.recipe import stages


def twice(matrix):
    """Rows whose entries are held twice each, in any order, at half their value: they add up."""
    held, rng = matrix.tocoo(), np.random.default_rng(0)
    row, column, half = np.tile(held.row, 2), np.tile(held.col, 2), np.tile(held.data / 2, 2)
    order = np.lexsort((rng.random(len(row)), row))
    ends = np.cumsum(np.bincount(row, minlength=held.shape[0]))
    return sp.csr_matrix((half[order], column[order], np.concatenate([[0], ends])), shape=held.shape)


def repeated_entries(cells):
    cells.X = twice(cells.X)
    return cells


def layer_of_columns(cells):
    cells.layers["raw"], cells.X = twice(cells.X.T.tocsr()).T, sp.csr_matrix(cells.shape, dtype=np.float32)
    return cells


def log2_of_cpm(cells):
    cells.X.data = np.log2(1 + 100 * np.expm1(cells.X.data.astype(np.float64)))
    cells.uns["workbench"] = {"values": "log2:1e6"}
    return cells


def gene_in_two_columns(cells):
    """Dense, the genes in another order, and of one a quarter in a column of its own: added up before the logarithm."""
    turned = cells[:, ::-1].copy()
    linear = np.expm1(turned.X.toarray().astype(np.float64))
    linear = np.column_stack([linear, 0.25 * linear[:, 0]])
    linear[:, 0] *= 0.75
    split = ad.AnnData(np.log1p(linear), obs=turned.obs, uns=turned.uns)
    split.var_names = [*turned.var_names, turned.var_names[0]]
    return split


def plain(cells):
    return cells


def answers(folder, cells, checkpoint, backed):
    """What each way of using the cells gives, by name."""
    data = {"backed": backed, "layer": "raw" if "raw" in cells.layers else "X"}
    path = write(folder, checkpoint, cells, data=data)
    file, layer = str(folder / "cells.h5ad"), data["layer"]

    genes = tuple(sorted(set(cells.var_names))[:20])
    rng = np.random.default_rng(0)
    algorithm = Algorithm(genes, rng.standard_normal((20, 4)), rng.standard_normal(4), {}, {})
    kept = str(algorithm.save_pretrained(folder / "algorithm"))
    assert main(["apply", kept, file, "--layer", layer, "--out", str(folder / "new.h5ad")]) == 0
    found = {
        "apply": ad.read_h5ad(folder / "new.h5ad").obsm[LATENT],
        "Python": algorithm.transform(load(file, backed=backed, layer=layer)),
    }

    context, runner = RunContext(read_config(path, RunConfig), folder / "run"), StageRunner(folder / "run")
    for stage in stages(context)[:3]:
        runner.run(stage)
    order = np.argsort(context.panel)
    for name in ("operators-0", "operators-7"):
        for part, array in read_arrays(folder / "run" / "stages" / "operators" / f"{name}.safetensors")[0].items():
            found[f"run: {name}, {part}"] = array[..., order, :][..., order] if array.ndim > 1 else array
    config = yaml.safe_load(path.read_text())
    small = {key: config[key] for key in ("name", "checkpoint", "data")} | {
        "study": {"metrics": ["cell_shift"], "cells": 12, "bootstrap": 20},
        "sweep": {"null_draws": 1, "layers": False, "pairs_of_top": 0},
    }
    path.write_text(yaml.safe_dump(small | {"attribution": False, "contrasts": []}))
    assert main(["ablate", str(path), "--out", str(folder / "ablate")]) == 0
    found["ablate"] = read_table(table_path(folder / "ablate", "effects"), "ablation")["effect"].to_numpy()
    return found


@pytest.fixture(scope="module")
def expected(cells, checkpoint, tmp_path_factory):
    return answers(tmp_path_factory.mktemp("plain"), cells, checkpoint, False)


@pytest.mark.parametrize(
    ("form", "backed"),
    [
        (plain, True),
        (repeated_entries, False),
        (layer_of_columns, True),
        (log2_of_cpm, False),
        (gene_in_two_columns, True),
    ],
)
def test_the_same_cells_give_the_same_everywhere(cells, checkpoint, expected, tmp_path, form, backed):
    found = answers(tmp_path, form(cells.copy()), checkpoint, backed)
    assert set(found) == set(expected) and len(found) > 4
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
