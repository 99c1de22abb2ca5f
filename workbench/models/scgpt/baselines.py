"""What a masked value can be predicted from without a transformer: the yardsticks of a pretrained model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.sparse import csr_array

# Most training cells on which the penalty of the regression on other genes is chosen: it solves a system for each and each penalty.
_MOST_INNER = 500
# Query cells whose neighbours are looked up together: each takes k x genes numbers.
_AT_ONCE = 16


def gene_mean(train: Float[np.ndarray, "cell gene"]) -> Float[np.ndarray, " gene"]:
    """Mean bin of each gene over the training cells that express it; the overall mean where none does.

    Parameters
    ----------
    train
        Bins, 0 where a gene is not expressed.
    """
    n = (train > 0).sum(0)
    overall = train[train > 0].mean()
    return np.where(n > 0, train.sum(0) / np.maximum(n, 1), overall)


def nearest_cells(
    train: Float[np.ndarray, "cell gene"],
    visible: Float[np.ndarray, "query gene"],
    k: int = 20,
) -> Float[np.ndarray, "query gene"]:
    """Mean bin among the k training cells nearest in cosine over all visible genes, shrunk to the gene mean.

    A gene that n of the k neighbours express is predicted as (sum of their bins + mean) / (n + 1).

    Parameters
    ----------
    train
        Bins of training cells, 0 where not expressed.
    visible
        Bins of query cells, 0 where not expressed or masked.
    k
        Number of neighbours that are averaged.
    """
    mean = gene_mean(train)
    a = visible / np.maximum(np.linalg.norm(visible, axis=1, keepdims=True), 1e-12)
    b = train / np.maximum(np.linalg.norm(train, axis=1, keepdims=True), 1e-12)
    out = np.empty(visible.shape)
    for start in range(0, len(visible), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        neighbours = train[np.argsort(-(a[part] @ b.T), axis=1, kind="stable")[:, :k]]
        out[part] = (neighbours.sum(1) + mean) / ((neighbours > 0).sum(1) + 1)
    return out


def linear_regression(
    train: Float[np.ndarray, "cell gene"],
    visible: Float[np.ndarray, "query gene"],
    masked: Bool[np.ndarray, "query gene"],
    ridge: float,
) -> Float[np.ndarray, "query gene"]:
    """Ridge regression of every masked gene on the visible genes of the same cell.

    The least-squares predictor of masked values m from visible values v is mu_m + S_mv (S_vv + ridge I)^-1 (v - mu_v),
    with mean and covariance of the training cells; a gene that a cell does not express counts as its mean.

    Parameters
    ----------
    train
        Bins of training cells, 0 where not expressed.
    visible
        Bins of query cells, 0 where not expressed or masked.
    masked
        True where a value is to be predicted.
    ridge
        Penalty on the coefficients, in squared bins.

    Returns
    -------
    ndarray, shape (query, gene)
        Filled where `masked`, else 0.
    """
    return _on_the_others(*_moments(train), visible, masked, (ridge,))[0]


def _moments(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of genes, where one that a cell does not express counts as its mean."""
    mean = gene_mean(train)
    centred = np.where(train > 0, train - mean, 0.0)
    return mean, centred.T @ centred / len(train)


def _on_the_others(
    mean: np.ndarray, covariance: np.ndarray, visible: np.ndarray, masked: np.ndarray, ridges: tuple[float, ...]
) -> np.ndarray:
    """Prediction of every masked value with each penalty, (penalty, query, gene)."""
    out = np.zeros((len(ridges), *visible.shape))
    for i in range(len(visible)):
        v, m = np.flatnonzero(visible[i] > 0), np.flatnonzero(masked[i])
        among, across, off = covariance[np.ix_(v, v)], covariance[np.ix_(m, v)], visible[i, v] - mean[v]
        for j, ridge in enumerate(ridges):
            weights = cho_solve(cho_factor(among + ridge * np.eye(len(v))), off) if len(v) else off
            out[j, i, m] = mean[m] + across @ weights
    return out


def choose_ridge(
    train: Float[np.ndarray, "cell gene"], masked: Bool[np.ndarray, "cell gene"], grid: tuple[float, ...]
) -> float:
    """Ridge penalty with the least error on every fifth training cell, 500 at most, fitted on the others.

    Parameters
    ----------
    train
        Bins of the training cells, which are split into two parts here.
    masked
        Mask of the same cells.
    grid
        Penalties to try, of which the one with the smallest error is returned.
    """
    inner = np.arange(len(train)) % 5 == 0
    chosen = np.flatnonzero(inner)[:_MOST_INNER]
    query, mask = train[chosen], masked[chosen] & (train[chosen] > 0)
    predicted = _on_the_others(*_moments(train[~inner]), np.where(mask, 0, query), mask, grid)
    return grid[int(np.argmin([((one - query)[mask] ** 2).mean() for one in predicted]))]


def component_regression(
    train: Float[np.ndarray, "cell gene"],
    train_masked: Bool[np.ndarray, "cell gene"],
    visible: Float[np.ndarray, "query gene"],
    masked: Bool[np.ndarray, "query gene"],
    n_components: int,
    ridge: float,
) -> Float[np.ndarray, "query gene"]:
    """Ridge regression of each gene on principal components of what the model sees: which genes are expressed, and the visible bins.

    A masked gene is a token like any other, so that the model knows that a cell expresses it; a regression on bins alone does not.

    Parameters
    ----------
    train
        Bins of training cells, 0 where not expressed.
    train_masked
        Mask of the training cells: components are fitted on what it leaves visible, at the same share as in the query.
    visible
        Bins of query cells, 0 where not expressed or masked.
    masked
        True where a value is to be predicted.
    n_components
        Number of components that are regressed on, of both kinds of features together.
    ridge
        Penalty on the coefficients, in cells.

    Returns
    -------
    ndarray, shape (query, gene)
        Prediction of every gene for every query cell.
    """
    z, project = _components(train, train_masked, n_components)
    asked = project(visible, masked)
    return _regressed(_products(train, z), asked, z.shape[1], ridge)


def _components(
    train: np.ndarray, train_masked: np.ndarray, n_components: int
) -> tuple[np.ndarray, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """Scores of training cells on the widest components, of unit variance, and what gives those of others."""
    mean = gene_mean(train)
    spread = max(float(train[train > 0].std()), 1e-12)

    def seen(bins: np.ndarray, present: np.ndarray) -> np.ndarray:
        return np.hstack([present, np.where(bins > 0, (bins - mean) / spread, 0.0)])

    inside = seen(np.where(train_masked, 0, train), (train > 0).astype(float))
    middle = inside.mean(0)
    inside -= middle
    # Eigenvectors of the smaller product: thousands of cells by thousands of genes in seconds.
    wide = inside.shape[0] <= inside.shape[1]
    product = inside @ inside.T if wide else inside.T @ inside
    n = min(n_components, len(product))
    squares, axes = eigh(product, subset_by_index=(len(product) - n, len(product) - 1))
    kept = np.flatnonzero(squares > 1e-10 * squares[-1])[::-1]
    axes = axes[:, kept]
    if wide:
        axes = inside.T @ axes / np.sqrt(squares[kept])
    z = inside @ axes
    scale = np.maximum(z.std(0), 1e-12)

    def project(visible: np.ndarray, masked: np.ndarray) -> np.ndarray:
        return (seen(visible, ((visible > 0) | masked).astype(float)) - middle) @ axes / scale

    return z / scale, project


def _products(train: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of each gene, over the cells that express it: mean bin, mean scores, and products of scores with each other and with the bins."""
    expressed, n = csr_array(train > 0, dtype=np.float64), z.shape[1]
    cells = np.maximum((train > 0).sum(0), 1)[:, None]
    mean, middle = gene_mean(train), expressed.T @ z / cells
    squares = expressed.T @ (z[:, :, None] * z[:, None]).reshape(len(z), n * n)
    squares = squares.reshape(-1, n, n) - cells[:, :, None] * middle[:, :, None] * middle[:, None]
    # Scores are taken from their mean, so that the bins need not be.
    return mean, middle, squares, csr_array(train).T @ z - train.sum(0)[:, None] * middle


def _regressed(products: tuple[np.ndarray, ...], asked: np.ndarray, n: int, ridge: float) -> np.ndarray:
    """Ridge regression of each gene on the first scores, over the cells that express it."""
    mean, middle, squares, with_bins = products
    weights = np.linalg.solve(squares[:, :n, :n] + ridge * np.eye(n), with_bins[:, :n, None])[:, :, 0]
    return mean - (middle[:, :n] * weights).sum(1) + asked[:, :n] @ weights.T


def choose_components(
    train: Float[np.ndarray, "cell gene"],
    masked: Bool[np.ndarray, "cell gene"],
    counts: tuple[int, ...],
    ridges: tuple[float, ...],
) -> tuple[int, float]:
    """Number of components and penalty with the least error on every fifth training cell, fitted on the others.

    Parameters
    ----------
    train, masked
        As in `choose_ridge`.
    counts, ridges
        Numbers of components and penalties to try, each with every one of the others.
    """
    inner = np.arange(len(train)) % 5 == 0
    query, mask = train[inner], masked[inner] & (train[inner] > 0)
    z, project = _components(train[~inner], masked[~inner], max(counts))
    asked, errors = project(np.where(mask, 0, query), mask), {}
    products = _products(train[~inner], z)
    for n in counts:
        for ridge in ridges:
            found = _regressed(products, asked, min(n, z.shape[1]), ridge)
            errors[n, ridge] = float(((found - query)[mask] ** 2).mean())
    return min(errors, key=lambda one: errors[one])
