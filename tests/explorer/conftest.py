"""A run folder of planted operators and synthetic tables, and a session of a tiny random model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from browser import browser_page, chromium  # noqa: F401
from figures import synthetic
from helpers import tiny_cells, tiny_model

from workbench.engine.tables import table_path, write_table
from workbench.explorer.data import from_run
from workbench.explorer.live import open_session
from workbench.factors.gene_sets import load_gene_sets
from workbench.files import write_arrays, write_json

LAYERS, HEADS = 3, 2
READ, WRITTEN = "cytotoxic T cell", "B cell"
EVIL = "</script><script>document.title = 'owned'</script><!--"


def planted_genes():
    """Genes of two shipped programs and as many that are in none."""
    sets = load_gene_sets("hematopoiesis").sets
    return tuple(sorted({*sets[READ], *sets[WRITTEN], *(f"NOBODY{i}" for i in range(60))}))


def planted_operators(genes, seed=0):
    """Noise, and in layer 1 head 1 a factor that reads one program and writes the other. Not measured."""
    sets, rng = load_gene_sets("hematopoiesis").sets, np.random.default_rng(seed)
    matrices = rng.normal(0, 0.01, (LAYERS, HEADS, len(genes), len(genes)))
    matrices[1, 1] += np.outer(np.isin(genes, sets[READ]), np.isin(genes, sets[WRITTEN]))
    return matrices.astype(np.float32)


def write_run(folder, *, scores=True, latent=True, label=None, seed=0):
    """The files of a run that the explorer reads."""
    genes = planted_genes()
    matrices, rng = planted_operators(genes, seed), np.random.default_rng(seed)
    stage = folder / "stages" / "operators"
    counts = rng.integers(0, 40, (len(genes), len(genes))).astype(np.int32)
    arrays = {"counts": counts}
    for layer, head in np.ndindex(LAYERS, HEADS):
        arrays[f"L{layer}H{head}"] = matrices[layer, head] * np.maximum(counts, 1)
    write_arrays(stage / "operators-0.safetensors", arrays)
    index = {"kind": "attention", "shape": [LAYERS, HEADS], "groups": 1, "genes": list(genes)}
    write_json(stage / "operators.json", index)
    (folder / "resolved.yaml").write_text("name: planted\ncheckpoint: nowhere/tiny\n")
    write_json(folder / "manifest.json", {"checkpoint": {"weights": "a" * 32}})
    if scores:
        write_table(table_path(folder, "heads"), synthetic.heads(LAYERS, HEADS).assign(n_null=192))
    if latent:
        cells = synthetic.latent(k=3)
        if label is not None:
            cells["cell_type"] = cells["cell_type"].replace("NK (synthetic)", label)
        write_table(table_path(folder, "latent"), cells)
    return folder


def write_effects(folder, weights="a" * 32, layers=LAYERS):
    write_table(table_path(folder, "effects"), synthetic.effects(layers, HEADS))
    write_json(folder / "manifest.json", {"checkpoint": {"weights": weights}})
    return folder


def write_geometry(folder, weights="a" * 32, layers=LAYERS, n=40, hostile=EVIL):
    """The tables of a geometry: R_NX rises by .1 a layer from .2, its control stays at .1, PCA is at .65 without an interval."""
    rows = []
    for layer in range(-1, layers):
        for hook in ("resid_post cls", "resid_post mean"):
            value = 0.2 + 0.1 * (layer + 1) + 0.01 * (hook == "resid_post mean")
            rows.append(("model", layer, hook, "R_NX", "k = 15", value, value - 0.02, value + 0.02, n))
            rows.append(("untrained", layer, hook, "R_NX", "k = 15", 0.1, 0.05, 0.15, n))
            rows.append(("model", layer, hook, "TwoNN", "1/2 of the cells", 5.0, np.nan, np.nan, n // 2))
            rows.append(("model", layer, hook, "participation ratio", "covariance", np.nan, np.nan, np.nan, n))
    rows.append(("baseline", np.nan, "expression", "R_NX", "k = 15", 0.6, 0.55, 0.65, n))
    rows.append(("baseline", np.nan, hostile, "R_NX", "k = 15", 0.65, np.nan, np.nan, n))
    columns = ["source", "layer", "hook", "measure", "scope", "value", "low", "high", "n"]
    write_table(table_path(folder, "geometry"), pd.DataFrame(rows, columns=columns))
    rng, maps = np.random.default_rng(0), []
    for layer in range(-1, layers):
        maps.append(
            pd.DataFrame(
                {
                    "layer": float(layer),
                    "hook": "resid_post mean",
                    "cell_id": [f"cell{i}" for i in range(n)],
                    "cell_type": ["monocyte", "NA"] * (n // 2),
                    "umap_1": rng.normal(size=n),
                    "umap_2": rng.normal(size=n),
                    "k": 15,
                    "trustworthiness": 0.9,
                }
            )
        )
    write_table(table_path(folder, "maps"), pd.concat(maps, ignore_index=True))
    write_json(folder / "manifest.json", {"checkpoint": {"weights": weights}})
    return folder


@pytest.fixture(scope="package")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("planted") / "run", label=EVIL)


@pytest.fixture(scope="package")
def effects_folder(tmp_path_factory):
    return write_effects(tmp_path_factory.mktemp("planted") / "ablation")


@pytest.fixture(scope="package")
def geometry_folder(tmp_path_factory):
    return write_geometry(tmp_path_factory.mktemp("planted") / "geometry")


@pytest.fixture(scope="package")
def data(run_folder, effects_folder):
    return from_run(run_folder, ablation=effects_folder)


@pytest.fixture(scope="package")
def model():
    return tiny_model(seed=1)


@pytest.fixture(scope="package")
def cells():
    return tiny_cells(24)


@pytest.fixture(scope="package")
def session(model, cells):
    return open_session(model, cells, n_cells=20, max_cells=6, null_draws=4, batch_size=4, seed=3)
