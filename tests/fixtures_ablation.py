"""A small planted checkpoint for ablations, and what tests of them share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml

from workbench.ablation import sweeping
from workbench.cells.datasets import CellMapping, load
from workbench.engine.sweep import Backend
from workbench.models import load_model
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.planted import LABEL, plant_head, planted_cells

SEED, N_CELLS, LAYERS, HEADS, BLOCK = 5, 24, 2, 4, 8
QUIET = Backend(progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A planted checkpoint and its cells on the disk, and a configuration that asks for everything."""
    folder = tmp_path_factory.mktemp("planted")
    planted = plant_head(SEED, n_layers=LAYERS, n_heads=HEADS, n_genes=30, d_model=16)
    cells = planted_cells(planted, N_CELLS, SEED)
    cells.obs["subject"] = [f"d{i % 4}" for i in range(N_CELLS)]
    cells.obs["place"], cells.obs["deep"] = "d0", 500.0
    cells.obs["three"] = [("root", "up", "down")[i % 3] for i in range(N_CELLS)]
    cells.obs["slide"] = np.arange(N_CELLS) % 2
    labels = cells.obs[LABEL].to_numpy(dtype=str)
    cells.obs["corrected"] = np.where(np.arange(N_CELLS) == 3, np.where(labels == "up", "down", "up"), labels)
    cells.var["symbol"] = cells.var_names
    cells.write_h5ad(folder / "cells.h5ad")
    save_checkpoint(planted.model, folder / "model")
    config = {
        "name": "planted",
        "checkpoint": "model",
        "seed": SEED,
        "data": {"name": "cells.h5ad", "cell_type": LABEL},
        "study": {
            "metrics": ["label_loss", "cell_shift", "label_error", "masked_error"],
            "folds": 2,
            "bootstrap": 40,
            "batch_size": 16,
        },
        "sweep": {
            "layers": True,
            "sites": [["L0H0", "L1H1"]],
            "null_draws": 6,
            "pairs_of_top": 3,
            "pairs_by": "label_loss",
            "block": BLOCK,
        },
        "contrasts": [{"target": "down", "source": "up"}],
    }
    path = folder / "planted.yaml"
    path.write_text(yaml.safe_dump(config))
    return SimpleNamespace(
        folder=folder,
        path=path,
        planted=planted,
        name=f"L{planted.layer}H{planted.head}",
        model=load_model(folder / "model"),
        cells=load(folder / "cells.h5ad", CellMapping(cell_type=LABEL)),
    )


@pytest.fixture
def evaluations(monkeypatch):
    """Row numbers of every block of cells that is evaluated."""
    evaluate, found = sweeping.evaluate, []

    def counted(study, grid, rows):
        found.append(tuple(rows))
        return evaluate(study, grid, rows)

    monkeypatch.setattr(sweeping, "evaluate", counted)
    return found


def assert_close(a, b, but=()):
    """Equal up to the rounding of single precision."""
    a, b = (t.drop(columns=list(but)) for t in (a, b))
    # Counts of null draws or heads that are as large may differ by one where two sizes are equal but for rounding.
    counted = ["p", "q", "heads_as_large"]
    np.testing.assert_allclose(a[counted], b[counted], atol=0.15)
    assert ((a[counted] - b[counted]).abs().max(axis=1) > 1e-9).mean() < 0.2
    # A ratio of numbers that are rounding alone is anything.
    small = (a["effect"].abs() < 1e-6) & (b["effect"].abs() < 1e-6)
    np.testing.assert_allclose(a["ratio"].where(~small), b["ratio"].where(~small), rtol=5e-3)
    rest = [column for column in a if column not in (*counted, "ratio")]
    pd.testing.assert_frame_equal(a[rest], b[rest], rtol=1e-3, atol=2e-6)


def of_metric(effects, name):
    return effects[effects["metric"] == name].set_index("ablation")
