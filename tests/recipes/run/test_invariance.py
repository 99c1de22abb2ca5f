"""The same result whatever the size of a batch, the order of the cells in their file and the number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures_run import write
from threadpoolctl import threadpool_limits

from workbench.engine.config import read_config
from workbench.engine.stages import StageRunner
from workbench.engine.tables import read_table, table_path
from workbench.recipes.run.config import RunConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.recipe import stages

# What the explorer and the drift draw is made of these.
DONE = ("panel", "cells", "operators", "untrained", "heads", "readouts", "algorithm")
ADAPTOR = {"k": 3, "steps": 20_000}
VARIANTS = {
    "batches of 7, two threads, shuffled": (7, 2, "shuffled"),
    "batches of 1, backwards": (1, 1, "backwards"),
}


@pytest.fixture(scope="module")
def result(cells, checkpoint, tmp_path_factory):
    """Tables of a run of so large a batch, so many threads and cells in this order; cells by their names."""
    rng = np.random.default_rng(0)
    orders = {"as it is": np.arange(len(cells)), "backwards": np.arange(len(cells))[::-1]}
    orders["shuffled"] = rng.permutation(len(cells))

    def of(batch, threads, order):
        folder, before = tmp_path_factory.mktemp("invariance"), torch.get_num_threads()
        path = write(folder, checkpoint, cells[orders[order]].copy(), adaptor=ADAPTOR)
        context = RunContext(read_config(path, RunConfig, [f"capture.batch_size={batch}"]), folder / "out")
        runner = StageRunner(folder / "out")
        torch.set_num_threads(threads)
        try:
            with threadpool_limits(threads):
                for stage in stages(context):
                    if stage.name in DONE:
                        runner.run(stage)
        finally:
            torch.set_num_threads(before)
        tables = {
            name: read_table(table_path(folder / "out", name)) for name in ("latent", "heads", "holdouts", "readouts")
        }
        return tables | {"latent": tables["latent"].sort_values("cell_id").reset_index(drop=True)}

    return of


@pytest.fixture(scope="module")
def first(result):
    return result(32, 1, "as it is")


def test_every_fit_of_the_adaptor_runs_to_its_optimum(first):
    assert (first["heads"]["n_unconverged"] == 0).all()
    judged = first["holdouts"].query("status == 'ok'")
    assert len(judged) and (judged["n_unconverged"] == 0).all() and (judged["n_iter"] > 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_latent_heads_and_readouts_are_the_same(first, result, variant):
    found = result(*VARIANTS[variant])
    assert found["latent"]["cell_id"].tolist() == first["latent"]["cell_id"].tolist()
    z = [name for name in first["latent"] if name.startswith("z_")]
    assert len(z) == 3
    largest = np.abs(first["latent"][z].to_numpy()).max()
    np.testing.assert_allclose(found["latent"][z], first["latent"][z], atol=1e-4 * largest)
    for name, columns in {
        "heads": ["spearman", "sd", "null_mean", "null_high", "p", "q"],
        "holdouts": ["spearman", "sd", "null_mean", "null_high", "p"],
        "readouts": ["value", "sd", "null_mean", "null_high", "p"],
    }.items():
        np.testing.assert_allclose(found[name][columns], first[name][columns], atol=1e-4, err_msg=name)
