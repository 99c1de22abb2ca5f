"""Genes that are filled in against the conditional mean of a Gaussian, and against cells whose genes are known."""

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.operators.expression_model import ExpressionModel


def planted(n=3000, genes=30, rank=3, seed=0):
    rng = np.random.default_rng(seed)
    loadings, noise = rng.standard_normal((genes, rank)), rng.uniform(0.2, 1.0, genes)
    mean = rng.uniform(3, 6, genes)
    x = mean + rng.standard_normal((n, rank)) @ loadings.T + np.sqrt(noise) * rng.standard_normal((n, genes))
    return x, mean, loadings, noise


def test_what_is_filled_in_is_the_conditional_mean():
    rng = np.random.default_rng(1)
    _, mean, loadings, noise = planted()
    known, measured = ExpressionModel(mean, loadings, noise), rng.random(30) < 0.6
    matrix, offset = rng.standard_normal((30, 4)), rng.standard_normal(4)
    folded, moved = known.folded(matrix, offset, measured)
    x = rng.uniform(0, 8, (5, 30))
    covariance = loadings @ loadings.T + np.diag(noise)
    gain = covariance[np.ix_(~measured, measured)] @ np.linalg.inv(covariance[np.ix_(measured, measured)])
    full = x.copy()
    full[:, ~measured] = mean[~measured] + (x[:, measured] - mean[measured]) @ gain.T
    np.testing.assert_allclose((x * measured) @ folded + moved, full @ matrix + offset, rtol=1e-9)
    assert not folded[~measured].any()


def test_all_genes_change_nothing_and_none_gives_the_mean():
    _, mean, loadings, noise = planted()
    known, matrix = ExpressionModel(mean, loadings, noise), np.eye(30)
    assert known.folded(matrix, np.zeros(30), np.ones(30, dtype=bool))[0] is matrix
    folded, offset = known.folded(matrix, np.zeros(30), np.zeros(30, dtype=bool))
    assert not folded.any()
    np.testing.assert_allclose(offset, mean)


def test_planted_components_are_found_and_the_missing_half_is_told_from_the_other():
    x, mean, loadings, noise = planted()
    known = ExpressionModel.fit(sp.csr_matrix(x), rank=3)
    np.testing.assert_allclose(known.mean, x.mean(0), rtol=1e-9)
    found, truth = known.loadings @ known.loadings.T, loadings @ loadings.T
    assert np.abs(found - truth).max() < 0.35 * np.abs(truth).max()
    new, *_ = planted(seed=5)
    new = mean + np.random.default_rng(9).standard_normal((500, 3)) @ loadings.T
    measured = np.arange(30) % 2 == 0
    folded, offset = known.folded(np.eye(30), np.zeros(30), measured)
    filled = (new * measured) @ folded + offset
    left = ((filled - new)[:, ~measured] ** 2).sum() / ((new - mean)[:, ~measured] ** 2).sum()
    assert left < 0.1  # with the mean alone, 1


@pytest.mark.parametrize("rank", [1, 50])
def test_few_cells_and_constant_genes_have_a_model(rank):
    x = np.random.default_rng(0).poisson(1.0, (6, 9)).astype(float)
    x[:, 3] = 0
    known = ExpressionModel.fit(sp.csr_matrix(x), rank=rank)
    assert (known.noise > 0).all() and known.loadings.shape[1] <= 5 and np.isfinite(known.loadings).all()


def test_the_order_of_cells_and_genes_changes_nothing():
    x, *_ = planted(n=200)
    rng = np.random.default_rng(2)
    cells, genes = rng.permutation(200), rng.permutation(30)
    measured = rng.random(30) < 0.5
    one = ExpressionModel.fit(sp.csr_matrix(x)).folded(np.eye(30), np.zeros(30), measured)
    other = ExpressionModel.fit(sp.csr_matrix(x[cells][:, genes])).folded(np.eye(30), np.zeros(30), measured[genes])
    back = np.argsort(genes)
    np.testing.assert_allclose(other[0][back][:, back], one[0], atol=1e-9)
    np.testing.assert_allclose(other[1][back], one[1], atol=1e-9)
