"""A run folder of planted operators and synthetic tables, and a session of a tiny random model."""

from __future__ import annotations

import numpy as np
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


@pytest.fixture(scope="package")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("planted") / "run", label=EVIL)


@pytest.fixture(scope="package")
def effects_folder(tmp_path_factory):
    return write_effects(tmp_path_factory.mktemp("planted") / "ablation")


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
