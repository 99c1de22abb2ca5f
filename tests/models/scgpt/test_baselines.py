"""Baselines against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from workbench.models.scgpt.baselines import (
    choose_components,
    choose_ridge,
    component_regression,
    gene_mean,
    linear_regression,
    nearest_cells,
)


def linear_gaussian(n: int, seed: int):
    """Three latent factors and noise, shifted so that every value is positive; and the true mean and covariance."""
    loadings = np.random.default_rng(7).normal(size=(12, 3))
    mean = np.linspace(40, 60, 12)
    rng = np.random.default_rng(seed)
    values = mean + rng.normal(size=(n, 3)) @ loadings.T + 0.5 * rng.normal(size=(n, 12))
    assert values.min() > 0
    return values, mean, loadings @ loadings.T + 0.25 * np.eye(12)


def test_gene_mean_by_hand():
    train = np.array([[2.0, 0, 5, 0], [4, 6, 0, 0]])
    assert gene_mean(train).tolist() == [3, 6, 5, (2 + 5 + 4 + 6) / 4]


def test_linear_regression_is_ridge_regression_on_the_visible_genes():
    train, _, _ = linear_gaussian(200, 0)
    query, _, _ = linear_gaussian(6, 1)
    masked = np.random.default_rng(2).random(query.shape) < 0.4
    found = linear_regression(train, np.where(masked, 0, query), masked, ridge=3.0)
    for cell in range(6):
        seen, hidden = ~masked[cell], masked[cell]
        # scikit-learn penalises the sum of squares, ours the mean.
        oracle = Ridge(alpha=3.0 * len(train)).fit(train[:, seen], train[:, hidden])
        assert np.allclose(found[cell, hidden], oracle.predict(query[cell : cell + 1, seen])[0])
        assert (found[cell, seen] == 0).all()


def test_linear_regression_comes_near_the_best_possible_error():
    train, mean, covariance = linear_gaussian(3000, 0)
    query, _, _ = linear_gaussian(500, 1)
    masked = np.zeros(query.shape, dtype=bool)
    masked[:, :4] = True
    found = linear_regression(train, np.where(masked, 0, query), masked, ridge=1e-6)
    m, v = slice(0, 4), slice(4, 12)
    weights = covariance[m, v] @ np.linalg.inv(covariance[v, v])
    best = mean[m] + (query[:, v] - mean[v]) @ weights.T
    left_over = np.trace(covariance[m, m] - weights @ covariance[v, m]) / 4
    ours, optimum = (((p - query[:, m]) ** 2).mean() for p in (found[:, m], best))
    assert optimum == pytest.approx(left_over, rel=0.15)
    assert optimum <= ours < 1.03 * optimum
    assert ours < 0.5 * ((gene_mean(train)[m] - query[:, m]) ** 2).mean()


def test_an_endless_ridge_is_the_gene_mean():
    train, _, _ = linear_gaussian(50, 0)
    masked = np.zeros((2, 12), dtype=bool)
    masked[:, 3] = True
    found = linear_regression(train, np.where(masked, 0, train[:2]), masked, ridge=1e12)
    assert np.allclose(found[:, 3], gene_mean(train)[3])


def test_a_gene_without_expression_counts_as_its_mean():
    train, _, _ = linear_gaussian(60, 0)
    train[::3, 5] = 0
    masked = np.zeros((1, 12), dtype=bool)
    masked[0, 0] = True
    hidden = np.where(masked, 0, train[:1])
    at_mean = hidden.copy()
    at_mean[0, 5] = gene_mean(train)[5]
    # Seen at its mean, a gene moves the prediction through the other weights alone; both must stay finite and close.
    a, b = (linear_regression(train, cell, masked, 1.0)[0, 0] for cell in (hidden, at_mean))
    assert np.isfinite(a) and abs(a - b) < 1.0


def test_nearest_cells_by_hand():
    train = np.array([[10.0, 0, 4], [0, 10, 8], [9, 1, 0]])
    visible = np.array([[5.0, 0, 0], [0, 3, 0]])
    mean = gene_mean(train)
    found = nearest_cells(train, visible, k=1)
    assert np.allclose(found[0], [(9 + mean[0]) / 2, (1 + mean[1]) / 2, mean[2]]), "a gene no neighbour has is its mean"
    assert np.allclose(found[1], [mean[0], (10 + mean[1]) / 2, (8 + mean[2]) / 2])
    every = nearest_cells(train, visible, k=3)
    assert np.allclose(every, (train.sum(0) + mean) / ((train > 0).sum(0) + 1))


def test_nearest_cells_find_planted_clusters():
    rng = np.random.default_rng(0)
    profiles = rng.integers(1, 50, (3, 30)).astype(float)
    train = np.repeat(profiles, 20, axis=0) + rng.normal(size=(60, 30)).clip(-0.9)
    query = profiles[[2, 0, 1]]
    masked = rng.random(query.shape) < 0.5
    found = nearest_cells(train, np.where(masked, 0, query), k=20)
    assert ((found - query)[masked] ** 2).mean() < 0.05 * ((gene_mean(train) - query)[masked] ** 2).mean()


def test_the_ridge_with_the_least_error_is_chosen():
    train, _, _ = linear_gaussian(400, 3)
    masked = np.random.default_rng(4).random(train.shape) < 0.3
    assert choose_ridge(train, masked, (1e-3, 1e6)) == 1e-3
    noise = np.random.default_rng(5).uniform(10, 20, (15, 12))
    masked = np.random.default_rng(6).random(noise.shape) < 0.3
    assert choose_ridge(noise, masked, (1e-9, 1e6)) == 1e6, "nothing to learn from few cells of pure noise"


def by_presence(n, seed):
    """Bins whose level hangs on which of two programs a cell expresses, which visible bins alone hardly show."""
    rng = np.random.default_rng(seed)
    program = rng.random(n) < 0.5
    present = rng.random((n, 16)) < np.where(program[:, None], np.arange(16) < 8, np.arange(16) >= 8) * 0.6 + 0.3
    present[:, 15] = True
    bins = np.where(present, rng.uniform(5, 15, (n, 16)), 0.0)
    bins[:, 15] = np.where(program, 40, 10) + rng.normal(size=n)
    return bins


def test_component_regression_is_ridge_regression_on_principal_components_of_presence_and_bins():
    from sklearn.decomposition import PCA

    train, query = by_presence(300, 0), by_presence(20, 1)
    rng = np.random.default_rng(2)
    masks = [(rng.random(bins.shape) < 0.3) & (bins > 0) for bins in (train, query)]
    found = component_regression(train, masks[0], np.where(masks[1], 0, query), masks[1], 4, 7.0)
    mean, spread = gene_mean(train), train[train > 0].std()
    seen = [
        np.hstack([bins > 0, np.where((bins > 0) & ~mask, (bins - mean) / spread, 0)])
        for bins, mask in zip((train, query), masks, strict=True)
    ]
    pca = PCA(4, svd_solver="full").fit(seen[0])
    z = [pca.transform(one) for one in seen]
    scale = z[0].std(0)
    for gene in range(16):
        cells = train[:, gene] > 0
        oracle = Ridge(alpha=7.0).fit(z[0][cells] / scale, train[cells, gene])
        np.testing.assert_allclose(found[:, gene], oracle.predict(z[1] / scale), rtol=1e-6)


def test_what_presence_tells_is_used_and_is_not_told_by_bins_alone():
    train, query = by_presence(400, 3), by_presence(200, 4)
    mask = np.zeros(query.shape, dtype=bool)
    mask[:, 15] = True
    inside = np.zeros(train.shape, dtype=bool)
    inside[:, 15] = True
    visible = np.where(mask, 0, query)

    def error(predicted):
        return ((predicted - query)[mask] ** 2).mean()

    n, ridge = choose_components(train, inside, (1, 2, 4), (1.0, 10.0))
    components = error(component_regression(train, inside, visible, mask, n, ridge))
    assert components < 0.3 * error(np.broadcast_to(gene_mean(train), query.shape))
    assert components < 0.5 * error(linear_regression(train, visible, mask, 10.0))
