"""Real cells of sixty genes, a tiny random model and a graph of its genes, which tests of rulers over genes share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from fixtures_run import by_label
from helpers import randomise

from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary

FITS = {"folds": 4, "neighbours": [10], "starts": [0], "draws": 19, "rewirings": 5, "cell_refits": 2, "holdouts": 2}


def gene_world(pbmc68k, folder):
    """Files in a folder; returns settings that name them."""
    mean = np.asarray(pbmc68k.X.mean(0)).ravel()
    genes = np.sort(np.argsort(-mean, kind="stable")[:60])
    rows = np.concatenate([np.flatnonzero(group)[:8] for _, group in by_label(pbmc68k)])
    cells = pbmc68k[rows, genes].copy()
    cells.uns = {}
    cells.obs = pd.DataFrame(
        {"label": cells.obs["cell_type"].astype(str).to_numpy()}, index=[f"c{i}" for i in range(len(rows))]
    )
    cells.write_h5ad(folder / "cells.h5ad")
    names = list(cells.var_names)
    vocabulary = Vocabulary.of_genes(names)
    shape = ModelConfig(n_tokens=len(vocabulary), d_model=8, n_layers=3, n_heads=2, d_mlp=8, max_tokens=70)
    model = save_checkpoint(randomise(HookedScGPT(shape, vocabulary), seed=0), folder / "tiny")
    rng = np.random.default_rng(0)
    links = [(names[i], names[i - 1 - int(rng.integers(min(i, 4)))]) for i in range(1, 56)]
    links += [(names[a], names[b]) for a, b in rng.integers(0, 56, (40, 2)) if a != b]
    pd.DataFrame(links, columns=["source", "target"]).to_csv(folder / "edges.csv", index=False)
    data = {"name": str(folder / "cells.h5ad"), "cell_type": "label", "values": "log1p:10000"}
    ruler, anchors = str(folder / "edges.csv"), {"min_cells": 2, "parts": 2}
    return {"checkpoint": model, "data": data, "ruler": ruler, "anchors": anchors}
