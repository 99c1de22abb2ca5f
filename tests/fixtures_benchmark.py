"""Cells with donors, a tiny random checkpoint and a small campaign that the tests of the benchmark share."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from helpers import randomise

from workbench.cli import main
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary

N_GENES, PER_GROUP = 30, 7
STAGES = ("CD4 T", "CD8 T", "monocyte", "dendritic", "B")
DONORS = ("01", "1", "NA", "d4")
METHODS = ("anchor head", "PCA-10", "raw log1p", "LET on x itself", "anchor head, labels permuted", "scGPT cls")


def synthetic_cells(donors=DONORS, per_group=PER_GROUP, seed=0, prefix="c"):
    """Counts of planted cell types in donors: each type has genes of its own, each donor a shift of its own."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(1.0, 2.0, N_GENES)
    profiles = np.tile(base, (len(STAGES), 1))
    for i in range(len(STAGES)):
        profiles[i, 5 * i : 5 * i + 5] += 12
    counts, label, donor = [], [], []
    for name in donors:
        shift = rng.gamma(20, 1 / 20, N_GENES)
        for i, stage in enumerate(STAGES):
            counts.append(rng.poisson(profiles[i] * shift, (per_group, N_GENES)))
            label += [stage] * per_group
            donor += [name] * per_group
    cells = ad.AnnData(sp.csr_matrix(np.concatenate(counts).astype(np.float32)))
    cells.obs = pd.DataFrame({"label": label, "donor": donor}, index=[f"{prefix}{i:04d}" for i in range(len(label))])
    cells.var_names = [f"G{i:02d}" for i in range(N_GENES)]
    cells.uns["workbench"] = {"values": "counts"}
    return cells


@pytest.fixture(scope="session")
def cells():
    return synthetic_cells()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    vocabulary = Vocabulary.of_genes([f"G{i:02d}" for i in range(N_GENES)])
    config = ModelConfig(n_tokens=len(vocabulary), d_model=8, n_layers=3, n_heads=2, d_mlp=8, max_tokens=40)
    model = randomise(HookedScGPT(config, vocabulary), seed=0)
    return save_checkpoint(model, tmp_path_factory.mktemp("model") / "tiny")


def write(folder, checkpoint, cells, **sections):
    """Files of a campaign; returns its configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(folder / "cells.h5ad")
    small = {
        "name": "tiny",
        "checkpoint": str(checkpoint),
        "data": {"name": "cells.h5ad", "cell_type": "label", "donor": "donor", **sections.pop("data", {})},
        "anchors": {"min_cells": 2, "parts": 2},
        "adaptor": {"k": 3, "steps": 30},
        "splits": {"n": 4},
        "panel": {"size": 24},
        "methods": list(METHODS),
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**small, **sections}))
    return path


@pytest.fixture(scope="session")
def campaign(cells, checkpoint, tmp_path_factory):
    """A finished campaign with a transfer to another dataset. Read only: copy it to go on from it."""
    folder = tmp_path_factory.mktemp("campaign")
    other = synthetic_cells(("x", "y"), seed=1, prefix="o")[:, 2:].copy()
    other.write_h5ad(folder / "other.h5ad")
    transfer = {"other": {"data": {"name": "other.h5ad", "cell_type": "label", "donor": "donor"}}}
    path = write(folder, checkpoint, cells, transfer=transfer)
    assert main(["benchmark", str(path), "--out", str(folder / "out")]) == 0
    return SimpleNamespace(path=path, out=folder / "out")
