"""Atlases as they come from CELLxGENE: symbols in a column, counts in ``raw``, and what real files have beside."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from workbench.cells.expression import panel_expression
from workbench.cells.genes import match_genes
from workbench.cells.matrix import row_block
from workbench.engine.config import load_cells, read_config
from workbench.errors import CellsError
from workbench.models.vocabulary import Vocabulary
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.run.config import RunConfig
from workbench.settings import DataConfig

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
N, GENES = 30, [f"GENE{i}" for i in range(400)]


def counts(seed=0):
    rng = np.random.default_rng(seed)
    return sp.csr_matrix((rng.poisson(3, (N, len(GENES))) * (rng.random((N, len(GENES))) < 0.5)).astype(np.float32))


def var(n_genes=400):
    ids = [f"ENSG{i:011d}" for i in range(n_genes)]
    return pd.DataFrame({"feature_name": pd.Categorical(GENES[:n_genes])}, index=ids)


@pytest.fixture
def atlas():
    """The schema of Tabula Sapiens on CELLxGENE; ``raw`` has genes that ``X`` has not."""
    raw = counts()
    shown = raw[:, :300]
    total = np.asarray(raw.sum(1))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([("B cell", "T cell", None)[i % 3] for i in range(N)]),
            "donor_id": pd.Categorical([f"TSP{i % 4}" for i in range(N)]),
            "tissue": pd.Categorical([("blood", "spleen")[i % 2] for i in range(N)]),
            "assay": pd.Categorical(["10x 3' v3"] * N),
        },
        index=[f"cell{i}" for i in range(N)],
    )
    made = ad.AnnData(sp.csr_matrix(shown.multiply(1e4 / total).log1p()).astype(np.float32), obs=obs, var=var(300))
    made.raw = ad.AnnData(raw, obs=obs[[]], var=var())
    return made


@pytest.mark.parametrize("name, kind", [("paper", RunConfig), ("benchmark_paper", BenchmarkConfig)])
def test_the_papers_configuration_reads_the_real_schema(name, kind, atlas, tmp_path):
    atlas.write_h5ad(tmp_path / "atlas.h5ad")
    config = read_config(EXPERIMENTS / f"{name}.yaml", kind, [f"data.name={tmp_path / 'atlas.h5ad'}"])
    cells = load_cells(config.data)
    assert cells.var_names.tolist() == GENES and (cells.X[:] != counts()).nnz == 0
    assert list(match_genes(cells.var_names, Vocabulary.of_genes(GENES).genes).genes) == GENES
    assert (cells.obs["cell_type"] == "").sum() == N // 3
    assert set(cells.obs["donor"]) == {f"TSP{i}" for i in range(4)} and set(cells.obs["tissue"]) == {"blood", "spleen"}


@pytest.mark.parametrize("backed", [False, True])
def test_indices_of_eight_bytes_are_read_alike(atlas, tmp_path, backed):
    wide = counts()
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    ad.AnnData(wide, obs=atlas.obs, var=var()).write_h5ad(tmp_path / "wide.h5ad")
    cells = load_cells(DataConfig(name=str(tmp_path / "wide.h5ad"), backed=backed, gene_column="feature_name"))
    assert (cells.X[:] != counts()).nnz == 0


def test_indices_of_two_widths_in_one_file_are_read_alike(atlas, tmp_path):
    ad.AnnData(counts(), obs=atlas.obs, var=var()).write_h5ad(tmp_path / "mixed.h5ad")
    with h5py.File(tmp_path / "mixed.h5ad", "r+") as file:
        ends = file["X/indptr"][:].astype(np.int64)
        del file["X/indptr"]
        file["X/indptr"] = ends
    for backed in (False, True):
        cells = load_cells(DataConfig(name=str(tmp_path / "mixed.h5ad"), backed=backed, gene_column="feature_name"))
        assert (row_block(cells.X, 0, N).tocoo() != counts()).nnz == 0
    assert (
        load_cells(DataConfig(name=str(tmp_path / "mixed.h5ad"), gene_column="feature_name")).X.tocsc() != counts()
    ).nnz == 0


def test_counts_with_fractions_are_no_counts_in_silence(atlas, tmp_path, capsys):
    """Ambient removal leaves decimals: they are counts only where this is said."""
    decimals = counts()
    decimals.data = decimals.data * np.random.default_rng(1).uniform(0.8, 1, decimals.nnz).astype(np.float32)
    ad.AnnData(decimals, obs=atlas.obs, var=var()).write_h5ad(tmp_path / "decimals.h5ad")
    said = {"name": str(tmp_path / "decimals.h5ad"), "gene_column": "feature_name"}
    cells = load_cells(DataConfig(**said))
    assert "values: unknown" in capsys.readouterr().err
    with pytest.raises(CellsError, match="values"):
        panel_expression(cells, GENES[:50])
    assert (load_cells(DataConfig(**said, values="counts")).X[:] != decimals).nnz == 0
