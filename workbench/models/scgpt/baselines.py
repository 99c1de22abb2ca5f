"""What a masked value can be predicted from without a transformer: the yardsticks of a pretrained model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import eigh

# Most training cells on which the penalty of the regression on other genes is chosen: it solves one system for each.
_MOST_INNER = 500


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
    nearest = np.argsort(-(a @ b.T), axis=1, kind="stable")[:, :k]
    neighbours = train[nearest]
    return (neighbours.sum(1) + mean) / ((neighbours > 0).sum(1) + 1)


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
    mean = gene_mean(train)
    centred = np.where(train > 0, train - mean, 0.0)
    covariance = centred.T @ centred / len(train)
    out = np.zeros_like(visible, dtype=np.float64)
    for i in range(len(visible)):
        v, m = np.flatnonzero(visible[i] > 0), np.flatnonzero(masked[i])
        weights = np.linalg.solve(covariance[np.ix_(v, v)] + ridge * np.eye(len(v)), visible[i, v] - mean[v])
        out[i, m] = mean[m] + covariance[np.ix_(m, v)] @ weights
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
    errors = []
    for ridge in grid:
        predicted = linear_regression(train[~inner], np.where(mask, 0, query), mask, ridge)
        errors.append(((predicted - query)[mask] ** 2).mean())
    return grid[int(np.argmin(errors))]


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
    return _regressed(train, z, project(visible, masked), ridge)


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


def _regressed(train: np.ndarray, z: np.ndarray, asked: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge regression of each gene on scores, over the cells that express it."""
    mean = gene_mean(train)
    out = np.tile(mean, (len(asked), 1))
    for gene in range(train.shape[1]):
        cells = np.flatnonzero(train[:, gene] > 0)
        if not len(cells):
            continue
        own = z[cells]
        apart = own - own.mean(0)
        weights = np.linalg.solve(
            apart.T @ apart + ridge * np.eye(z.shape[1]), apart.T @ (train[cells, gene] - mean[gene])
        )
        out[:, gene] += (asked - own.mean(0)) @ weights
    return out


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
    for n in counts:
        for ridge in ridges:
            found = _regressed(train[~inner], z[:, :n], asked[:, :n], ridge)
            errors[n, ridge] = float(((found - query)[mask] ** 2).mean())
    return min(errors, key=lambda one: errors[one])
