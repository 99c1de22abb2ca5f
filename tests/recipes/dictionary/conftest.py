"""A run on a tiny checkpoint and few cells, and the settings that it is made of."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import genes, require_sae_lens, tiny_cells, tiny_model

from workbench.engine.config import make_config
from workbench.engine.recipe import execute
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.recipes.dictionary.config import DictionaryRunConfig
from workbench.recipes.dictionary.recipe import RECIPE


@pytest.fixture(scope="package")
def sae_lens():
    """SAELens, which trains; a skip with its reason, or a failure in CI, where it is not installed."""
    return require_sae_lens()


@pytest.fixture(scope="package")
def tiny(tmp_path_factory, sae_lens):
    """Settings of a run: sixty cells of six donors, two hooks, gene sets of a file."""
    folder = tmp_path_factory.mktemp("dictionary")
    cells = tiny_cells(60)
    cells.obs["person"] = np.array([f"donor{i}" for i in range(6)])[np.arange(60) % 6]
    cells.obs["kind"] = cells.obs["cell_type"]
    cells.write_h5ad(folder / "cells.h5ad")
    save_checkpoint(tiny_model(seed=2), folder / "model")
    sets = {"first": genes()[:8], "</script><b>second": genes()[8:16]}
    (folder / "sets.gmt").write_text("".join("\t".join([name, "made up", *of]) + "\n" for name, of in sets.items()))
    return {
        "checkpoint": folder / "model",
        "data": {"name": str(folder / "cells.h5ad"), "values": "counts", "cell_type": "kind", "donor": "person"},
        "hooks": ["blocks.[12].hook_resid_post"],
        "dictionary": {"width": 32, "k": 4, "rows": 64, "buffer": 400, "epochs": 3, "cells_at_once": 8},
        "judge": {"n_cells": 40, "bootstrap": 20},
        "names": {"sets": str(folder / "sets.gmt"), "draws": 40, "n_top": 8},
        "sweep": {
            **{"features": 2, "alike": 4, "n_cells": 30, "check": 3, "targets": 3, "mixtures": 3},
            "steering": [{"target": "B", "source": "T", "doses": [2], "draws": 3}],
        },
        "device": "cpu",
    }


@pytest.fixture(scope="package")
def made(tiny, tmp_path_factory):
    """The run, executed. Read only."""
    return execute(RECIPE, make_config(DictionaryRunConfig, **tiny), tmp_path_factory.mktemp("made") / "out")
