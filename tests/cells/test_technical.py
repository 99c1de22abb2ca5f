"""Depth, detected genes and mitochondrial share beside scanpy's quality control."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE, MITOCHONDRIAL, TECHNICAL, make_anchors
from workbench.cells.datasets import load
from workbench.cells.genes import find_genes
from workbench.cells.technical import technical_covariates

GENES = [*(f"G{i}" for i in range(60)), "MT-CO1", "MT-ND1", "MTOR"]


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(0.6, 3, len(GENES)) * rng.uniform(0.2, 3, (40, 1))) + (rng.random((40, 63)) < 0.1)
    cells = AnnData(sp.csr_matrix(x.astype(np.float32)))
    cells.var_names, cells.obs_names = GENES, [f"c{i}" for i in range(40)]
    cells.obs["kind"] = ["a", "b", "c", "d"] * 10
    return cells


def covariates(cells, size=2048):
    return technical_covariates(cells, find_genes(cells.var_names.to_numpy(dtype=str), GENES), size)


def scanpy(cells):
    cells = cells.copy()
    cells.var["mt"] = cells.var_names.str.startswith("MT-")
    sc.pp.calculate_qc_metrics(cells, qc_vars=["mt"], percent_top=None, log1p=True, inplace=True)
    return cells.obs[list(TECHNICAL)]


@pytest.mark.parametrize("size", [7, 2048])
def test_counts_give_what_scanpy_gives(counts, size):
    found, expected = covariates(load(counts, cell_type="kind", values="counts"), size), scanpy(counts)
    assert list(found.columns) == [LIBRARY_SIZE, DETECTED, MITOCHONDRIAL] and found.index.equals(expected.index)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_of_logged_cells_depth_is_unknown_and_the_share_is_that_of_the_counts(counts):
    logged = counts.copy()
    sc.pp.normalize_total(logged, target_sum=1e4)
    sc.pp.log1p(logged)
    found, expected = covariates(load(logged, cell_type="kind", values="log1p:10000")), scanpy(counts)
    assert list(found.columns) == [DETECTED, MITOCHONDRIAL]
    np.testing.assert_allclose(found, expected[[DETECTED, MITOCHONDRIAL]], rtol=1e-4)
    logged.obs["all"] = np.asarray(counts.X.sum(1)).ravel()
    told = covariates(load(logged, cell_type="kind", values="log1p:10000", depth="all"))
    np.testing.assert_allclose(told, expected, rtol=1e-4)


def test_a_column_of_depths_counts_and_genes_that_were_left_out_take_their_part_of_the_share(counts):
    few = counts[:, 10:].copy()
    few.obs["all"] = np.asarray(counts.X.sum(1)).ravel()
    found, expected = covariates(load(few, cell_type="kind", depth="all")), scanpy(counts)
    np.testing.assert_allclose(found[[LIBRARY_SIZE, MITOCHONDRIAL]], expected[[LIBRARY_SIZE, MITOCHONDRIAL]], rtol=1e-5)


def test_without_mitochondrial_genes_there_is_no_share(counts):
    found = covariates(load(counts[:, :60].copy(), cell_type="kind", values="counts"))
    assert list(found.columns) == [LIBRARY_SIZE, DETECTED]


def test_anchors_hold_means_over_their_cells(counts):
    found = covariates(load(counts, cell_type="kind", values="counts"))
    obs = found.assign(stage=np.arange(40) % 4)
    anchors = make_anchors(counts.X, obs, min_cells=5)
    expected = found.groupby(np.arange(40) % 4).mean()
    assert list(anchors.technical) == list(TECHNICAL)
    np.testing.assert_allclose(np.stack(list(anchors.technical.values())), expected.to_numpy().T)
    assert not make_anchors(counts.X, obs[["stage"]], min_cells=5).technical
