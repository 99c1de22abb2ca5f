"""Cells, a checkpoint and configurations that the tests of runs share: real cells of a few genes, a tiny random model."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import randomise

from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary
from workbench.operators import exporting

N_GENES, PER_LABEL, LAYERS, HEADS = 36, 13, 3, 2


class FlatUMAP:
    """Two principal axes in the place of UMAP, whose import alone takes many seconds."""

    def __init__(self, **options):
        assert isinstance(options["random_state"], int)

    def fit_transform(self, z):
        u, s, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
        return u[:, :2] * s[:2]


@pytest.fixture(scope="package", autouse=True)
def no_umap():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FlatUMAP))
        yield


@pytest.fixture(scope="package", autouse=True)
def few_levels():
    """How far readouts hold on fewer genes and counts is judged in tests/operators/test_exporting.py; here at a few levels, of one draw each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"GENE_SHARES": (1.0, 0.5), "COUNT_SHARES": (0.25,), "DRAWS": 1, "PERMUTED": 1}.items():
            patch.setattr(exporting, name, value)
        yield


@pytest.fixture(scope="session")
def cells(pbmc68k):
    """Thirteen cells of each label and some that no ruler knows; names that a careless reader of tables would change."""
    mean = np.asarray(pbmc68k.X.mean(0)).ravel()
    genes = np.sort(np.argsort(-mean, kind="stable")[:N_GENES])
    rows = np.concatenate([np.flatnonzero(group)[:PER_LABEL] for _, group in by_label(pbmc68k)])
    cells = ad.AnnData(
        pbmc68k.X[rows][:, genes].tocsr(), obs=pd.DataFrame({"label": pbmc68k.obs["cell_type"].iloc[rows]})
    )
    cells.obs_names = [f"{i:04d}" for i in range(len(rows))]
    cells.var_names = [*pbmc68k.var_names[genes][:5], "a gene of four words", *pbmc68k.var_names[genes][6:]]
    unknown = np.flatnonzero(cells.obs["label"] == "Dendritic")[-2:]
    labels = cells.obs["label"].astype(str).to_numpy().copy()
    labels[unknown] = "NA"
    cells.obs["label"] = labels
    cells.obs["donor"] = np.array(["01", "1", "NA", "d4"])[np.arange(len(rows)) % 4]
    cells.obs["organ"] = "blood"
    # So few genes do not show what they add up to.
    cells.uns["workbench"] = {"values": "log1p:10000"}
    return cells


def by_label(adata):
    labels = adata.obs["cell_type"].to_numpy()
    return [(label, labels == label) for label in sorted(set(labels))]


@pytest.fixture(scope="session")
def checkpoint(cells, tmp_path_factory):
    names = [name.upper() for name in cells.var_names]
    vocabulary = Vocabulary.of_genes([*names[:10], "NOT MEASURED", *names[10:-2]])
    config = ModelConfig(n_tokens=len(vocabulary), d_model=8, n_layers=LAYERS, n_heads=HEADS, d_mlp=8, max_tokens=40)
    model = randomise(HookedScGPT(config, vocabulary), seed=0)
    return save_checkpoint(model, tmp_path_factory.mktemp("model") / "tiny")


def write(folder, checkpoint, cells, **sections):
    """Files of a run; returns its configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(folder / "cells.h5ad")
    small = {
        "name": "tiny",
        "checkpoint": str(checkpoint),
        "data": {"name": "cells.h5ad", "cell_type": "label", **sections.pop("data", {})},
        "anchors": {"min_cells": 2, "parts": 4},
        "adaptor": {"k": 3, "steps": 30},
        "evaluation": {"folds": 2, "holdouts": 2, "permutations": 5, "refits": 3, "head_refits": 1, "control_draws": 2},
    }
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**small, **sections}))
    return path
