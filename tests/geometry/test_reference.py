"""The reference of a geometry: residuals for counts, logged values without them, and their components."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import workbench
from workbench.geometry.expression import Expression, expression_neighbors, technical_genes
from workbench.geometry.reference import LOGGED, make_reference

RNG = np.random.default_rng(0)
SIZES = {"a": 70, "b": 60, "few": 9}
BATCH = np.repeat(list(SIZES), list(SIZES.values()))


@pytest.fixture(scope="module")
def counted():
    share = RNG.dirichlet(np.ones(90), sum(SIZES.values()))
    counts = RNG.poisson(share * RNG.uniform(300, 900, (len(share), 1))).astype(np.float32)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(len(share))])
    var = pd.DataFrame(index=["MT-ND1", *(f"G{i}" for i in range(89))])
    return workbench.load(ad.AnnData(counts, obs=obs, var=var), values="counts")


def residuals(counts, genes):
    """By the formula, of one batch."""
    library = counts.sum(1, keepdims=True)
    mean = library * counts.sum(0)[genes] / counts.sum()
    limit = np.sqrt(len(counts))
    return np.clip((counts[:, genes] - mean) / np.sqrt(mean + mean**2 / 100), -limit, limit)


def test_counts_have_components_of_the_residuals_of_their_own_batch(counted):
    found = make_reference(counted, BATCH, k=10, seed=0)
    near = expression_neighbors(counted.X, BATCH, leave_out=technical_genes(counted.var_names), k=10, seed=0).neighbors
    assert isinstance(found.expression, Expression) and found.neighbors.left_out == {"few": 9}
    for one, other in zip(found.neighbors.near, near.near, strict=True):
        assert np.array_equal(one.indices, other.indices)
    counts = np.asarray(counted.X.todense() if hasattr(counted.X, "todense") else counted.X, dtype=float)
    wanted = np.vstack([residuals(counts[BATCH == name], found.genes) for name in SIZES])
    wanted -= wanted.mean(0)
    # All axes are there, so that distances are those of the residuals themselves.
    np.testing.assert_allclose(found.axes @ found.axes.T, wanted @ wanted.T, atol=2e-2)
    assert 0 not in found.genes and (np.diff(found.axes.std(0)) <= 0).all()
    spaces = found.baselines(7)
    assert list(spaces) == ["expression", "PCA, 7 components"]
    assert np.array_equal(spaces["PCA, 7 components"], found.axes[:, :7])


def test_without_counts_both_are_of_logged_values_and_say_so():
    cells = workbench.load("pbmc68k")[:120].copy()
    found = make_reference(cells, k=10, seed=0)
    assert not isinstance(found.expression, Expression) and found.neighbors.kind == LOGGED
    x = cells.X.toarray().astype(float)
    x -= x.mean(0)
    wanted = np.linalg.svd(x, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(found.axes, axis=0)[:50], wanted[:50], rtol=1e-4)


def test_components_do_not_depend_on_the_order_of_cells(counted):
    order = RNG.permutation(counted.n_obs)
    one, other = (
        make_reference(cells, batch, k=5, seed=0).axes[:, :5]
        for cells, batch in ((counted, BATCH), (counted[order].copy(), BATCH[order]))
    )
    np.testing.assert_allclose(other, one[order], atol=1e-3)
