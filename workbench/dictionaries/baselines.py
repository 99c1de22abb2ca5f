"""What a dictionary has to beat, each with as many numbers an activation: a gene's name, PCA, ICA, NMF, k-means, random directions."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import NMF, FastICA

from workbench.dictionaries.judging import gene_means, variance_explained
from workbench.seeds import generator, key
from workbench.threads import one_thread

ONE_HOT = "gene id alone"
# Rows that k-means and ICA learn from, at most: both are slow, and neither gains from more. NMF is slower still.
_LEARN, _LEARN_NMF = 20000, 4000


@one_thread()
def baselines(
    train: Float[np.ndarray, "row width"],
    train_genes: Int[np.ndarray, " row"],
    test: Float[np.ndarray, "other width"],
    test_genes: Int[np.ndarray, " other"],
    *,
    width: int,
    k: int,
    n_tokens: int,
    seed: int,
) -> pd.DataFrame:
    """Variance explained on held-out rows by codes that know nothing of features.

    - gene id alone: the training mean of the row's gene, one of a few hundred or thousand vectors. Any dictionary of activations of
      single genes can learn that much by heart.
    - PCA: the first k components, the same ones for every row. PCA, largest k: of all components those that are largest in the row.
    - ICA: of as many independent components as the activation is wide, the k that are largest in the row.
    - NMF: what lies above and below the mean of each number, side by side, makes rows that are nowhere negative. Of twice as many components as the
      activation is wide, or `width` where that is less, the k that are largest in the row; both halves are then taken from each other.
    - k-means: the nearest of `width` centroids, a code with one active feature.
    - random: of `width` random directions the k that the row has most of, by least squares.

    Parameters
    ----------
    train, train_genes
        Activations to learn from, and their token ids; -1 for hooks with a row per cell, of which no gene's mean is taken.
    test, test_genes
        Activations of held-out cells, and their token ids.
    width, k
        Features of the dictionary, and how many of them are active on average.
    n_tokens
        Number of token ids that the model has.
    seed
        Seed of starts, draws and directions.

    Returns
    -------
    DataFrame
        ``code``, ``l0``, ``variance_explained`` and ``within_genes``, the same around each gene's mean.
    """
    mean = train.mean(0)
    d, k = train.shape[1], max(1, min(round(k), train.shape[1]))
    rng = generator(seed, "baselines")
    learn = train[np.sort(rng.permutation(len(train))[:_LEARN])]
    genes = train_genes.min(initial=0) >= 0
    named = gene_means(train, train_genes, n_tokens)[test_genes] if genes else np.broadcast_to(mean, test.shape)
    found = {ONE_HOT: (1, named)} if genes else {}
    variances, vectors = np.linalg.eigh(np.cov(train.T.astype(np.float64)))
    # A LayerNorm takes a direction away, which has no independent component.
    rank = int((variances > 1e-6 * variances[-1]).sum())
    basis = vectors[:, ::-1].astype(np.float32)
    code = (test - mean) @ basis
    found["PCA"] = k, mean + code[:, :k] @ basis[:, :k].T
    found["PCA, largest k"] = k, mean + _largest(code, np.ones(d), k) @ basis.T
    start = key(seed, "baselines") % 2**31
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged: its best so far is a code like any other
        ica = FastICA(rank, whiten="unit-variance", max_iter=200, tol=1e-3, random_state=start).fit(learn)
        parts_of = NMF(min(2 * d, width), tol=1e-3, max_iter=30, random_state=start).fit(
            _halves(learn[:_LEARN_NMF] - mean)
        )
        centres = MiniBatchKMeans(min(width, len(learn)), n_init=1, batch_size=2048, random_state=start).fit(learn)
        loads = parts_of.transform(_halves(test - mean))
    parts = ica.transform(test)
    kept = _largest(parts, np.linalg.norm(ica.mixing_, axis=0), min(k, rank))
    found["ICA, largest k"] = k, kept @ ica.mixing_.T + ica.mean_
    loads = _largest(loads, np.linalg.norm(parts_of.components_, axis=1), min(k, loads.shape[1]))
    above, below = np.split(loads @ parts_of.components_, 2, axis=1)
    found["NMF, largest k"] = k, mean + above - below
    found["k-means"] = 1, centres.cluster_centers_[centres.predict(np.ascontiguousarray(test, dtype=learn.dtype))]
    directions = rng.standard_normal((width, d)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found["random"] = k, mean + _least_squares(test - mean, directions, k)
    rows = [
        (name, l0, variance_explained(test, y, mean), variance_explained(test, y, named) if genes else np.nan)
        for name, (l0, y) in found.items()
    ]
    return pd.DataFrame(rows, columns=["code", "l0", "variance_explained", "within_genes"])


def _halves(x: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row twice"]:
    """What is above 0 and what is below, side by side."""
    return np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis=1)


def _largest(code: np.ndarray, lengths: np.ndarray, k: int) -> np.ndarray:
    """A code with all but the k entries that move the row most set to zero."""
    size = np.abs(code) * lengths
    at = np.argpartition(-size, k - 1, axis=1)[:, :k]
    out = np.zeros_like(code)
    np.put_along_axis(out, at, np.take_along_axis(code, at, 1), 1)
    return out


def _least_squares(x: np.ndarray, directions: np.ndarray, k: int) -> np.ndarray:
    """The best that the k directions with the largest inner product can do for each row."""
    out = np.empty_like(x)
    for start in range(0, len(x), 4096):
        part = x[start : start + 4096]
        at = np.argpartition(-(part @ directions.T), k - 1, axis=1)[:, :k]
        atoms = directions[at].astype(np.float64)  # row, k, width
        gram = atoms @ atoms.transpose(0, 2, 1) + 1e-9 * np.eye(k)
        weights = np.linalg.solve(gram, (atoms @ part[:, :, None].astype(np.float64)))
        out[start : start + 4096] = (weights.transpose(0, 2, 1) @ atoms)[:, 0]
    return out
