"""What a masked value can be predicted from without a transformer: the yardsticks of a pretrained model."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


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
    """Ridge penalty with the least error on every fifth training cell, fitted on the others.

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
    query, mask = train[inner], masked[inner] & (train[inner] > 0)
    errors = []
    for ridge in grid:
        predicted = linear_regression(train[~inner], np.where(mask, 0, query), mask, ridge)
        errors.append(((predicted - query)[mask] ** 2).mean())
    return grid[int(np.argmin(errors))]
