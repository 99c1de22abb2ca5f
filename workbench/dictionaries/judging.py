"""What a dictionary is worth, as pure functions of activations, reconstructions and features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from workbench.seeds import generator
from workbench.stats import over_few

# A feature that fires at more than this share of activations tells little about any.
DENSE = 0.5


def variance_explained(
    x: Float[np.ndarray, "row width"], found: Float[np.ndarray, "row width"], around: Float[np.ndarray, "*row width"]
) -> float:
    """Share of the variance of activations that a reconstruction explains, 1 - |x - found|^2 / |x - around|^2; below 0 where it adds error.

    Parameters
    ----------
    x, found
        Activations, and what is put in their place.
    around
        What it has to beat: the mean activation, or one of each row, such as the mean of its gene.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.dictionaries.judging import variance_explained
    >>> variance_explained(np.array([[1.0], [-1.0]]), np.array([[0.5], [-0.5]]), np.zeros(1))
    0.75
    """
    left, total = ((x - found).astype(np.float64) ** 2).sum(), ((x - around).astype(np.float64) ** 2).sum()
    return float(1 - left / total) if total > 0 else float("nan")


def explained_interval(
    x: Float[np.ndarray, "row width"],
    found: Float[np.ndarray, "row width"],
    around: Float[np.ndarray, "*row width"],
    cells: Int[np.ndarray, " row"],
    *,
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """95 % interval of `variance_explained` over cells, or donors, which are drawn with replacement; as long as `stats.over_few` makes it.

    Parameters
    ----------
    x, found, around
        As in `variance_explained`.
    cells
        Number of each row's cell, or of its donor where whole donors are drawn.
    draws, seed
        Draws of as many as there are, and their seed.

    Returns
    -------
    tuple of float
        Both ends; NaN where there is one cell or donor, or nothing to explain.
    """
    _, at = np.unique(cells, return_inverse=True)
    n = int(at.max(initial=-1)) + 1
    left, total = (
        np.bincount(at, weights=((x - other).astype(np.float64) ** 2).sum(1), minlength=n) for other in (found, around)
    )
    if n < 2 or not total.sum() > 0:
        return float("nan"), float("nan")
    drawn = generator(seed, "cells of an interval").multinomial(n, np.full(n, 1 / n), size=draws)
    # What is left is a positive share of the total, which has no bounds as a logarithm.
    shares = [
        np.maximum(a / np.maximum(b, 1e-300), 1e-300)
        for a, b in ((left.sum(), total.sum()), (drawn @ left, drawn @ total))
    ]
    low, high = over_few(float(np.log(shares[0])), np.log(shares[1]), n)
    return 1 - float(np.exp(high)), 1 - float(np.exp(low))


def gene_means(
    x: Float[np.ndarray, "row width"], genes: Int[np.ndarray, " row"], n_tokens: int
) -> Float[np.ndarray, "token width"]:
    """Mean activation of each gene: what a one-hot code of the gene's name alone can say. Genes without a row get the mean of all.

    Parameters
    ----------
    x, genes
        Activations to learn from, and the token id of each row.
    n_tokens
        Number of token ids that the model has.
    """
    one_hot = sp.csr_matrix((np.ones(len(x)), (genes, np.arange(len(x)))), shape=(n_tokens, len(x)))
    sums, counts = one_hot @ x.astype(np.float64), np.asarray(one_hot.sum(1)).ravel()
    means = sums / np.maximum(counts, 1)[:, None]
    means[counts == 0] = x.mean(0)
    return means.astype(np.float32)


def by_gene(
    features: sp.csr_matrix, genes: Int[np.ndarray, " row"], n_tokens: int
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Sum of activation, and number of firings, of each feature on each gene.

    Parameters
    ----------
    features
        Features of each row, zeros left out.
    genes
        Token id of each row.
    n_tokens
        Number of token ids that the model has.

    Returns
    -------
    tuple
        Two sparse matrices (feature, token).
    """
    one_hot = sp.csr_matrix((np.ones(len(genes)), (np.arange(len(genes)), genes)), shape=(len(genes), n_tokens))
    fires = features.copy()
    fires.data = np.ones_like(fires.data)
    return sp.csr_matrix(features.T @ one_hot), sp.csr_matrix(fires.T @ one_hot)


def describe_features(
    features: sp.csr_matrix, genes: Int[np.ndarray, " row"], levels: Float[np.ndarray, " row"], n_tokens: int
) -> pd.DataFrame:
    """How often each feature fires, how strongly, and how much of it is one gene or the level of expression.

    Parameters
    ----------
    features, genes, n_tokens
        Features, token ids and their number, as in `by_gene`.
    levels
        Value of each row's gene, as the model reads it.

    Returns
    -------
    DataFrame
        A row per feature: ``feature``, ``density`` (share of rows where it fires), ``mean`` (activation where it fires), ``top_gene``
        (token id of the gene with the most of its activation, -1 where it is silent), ``top_share`` (that gene's share of it),
        ``n_genes`` (exponential of the entropy over genes: as if it were spread evenly over so many), ``level_r`` (Pearson correlation of
        activation with the value, where it fires; NaN under three firings or without spread).
    """
    n, width = features.shape
    columns = features.tocsc()
    count = np.diff(columns.indptr)
    total = np.asarray(features.sum(0)).ravel()
    sums, _ = by_gene(features, genes, n_tokens)
    top, top_share, spread, level_r = (
        np.full(width, -1),
        np.full(width, np.nan),
        np.full(width, np.nan),
        np.full(width, np.nan),
    )
    for i in range(width):
        own = slice(sums.indptr[i], sums.indptr[i + 1])
        weights = sums.data[own]
        if not len(weights) or weights.sum() <= 0:
            continue
        share = weights / weights.sum()
        top[i], top_share[i] = sums.indices[own][share.argmax()], share.max()
        spread[i] = np.exp(-(share * np.log(np.maximum(share, 1e-300))).sum())
        rows = columns.indices[columns.indptr[i] : columns.indptr[i + 1]]
        values, level = columns.data[columns.indptr[i] : columns.indptr[i + 1]], levels[rows]
        if len(rows) >= 3 and values.std() > 0 and level.std() > 0:
            level_r[i] = np.corrcoef(values, level)[0, 1]
    return pd.DataFrame(
        {
            "feature": np.arange(width),
            "density": count / n,
            "mean": total / np.maximum(count, 1),
            "top_gene": top,
            "top_share": top_share,
            "n_genes": spread,
            "level_r": level_r,
        }
    )


def summarise(features: pd.DataFrame, explained: float, within: float) -> dict[str, Any]:
    """One line about a dictionary.

    Parameters
    ----------
    features
        Table of features that `describe_features` made.
    explained, within
        Variance explained around the mean, and around each gene's mean.

    Returns
    -------
    dict
        ``variance_explained``, ``within_genes``, ``l0`` (features that fire at a row), ``dead`` and ``dense`` (shares of features),
        ``top_share`` (mean of the living) and ``one_gene`` (share of the living with more than half of their activation on one gene).
    """
    alive = features[features["density"] > 0]
    return {
        "variance_explained": explained,
        "within_genes": within,
        "l0": float(features["density"].sum()),
        "dead": float((features["density"] == 0).mean()),
        "dense": float((features["density"] > DENSE).mean()),
        "top_share": float(alive["top_share"].mean()),
        "one_gene": float((alive["top_share"] > 0.5).mean()),
    }


def match_features(
    one: Float[np.ndarray, "feature width"], other: Float[np.ndarray, "other width"]
) -> tuple[Int[np.ndarray, " matched"], Int[np.ndarray, " matched"], Float[np.ndarray, " matched"]]:
    """Features of two dictionaries paired so that the sum of cosines of their directions is largest, each in one pair at most.

    Parameters
    ----------
    one, other
        Directions of features; those of length 0 have cosine 0 with all.

    Returns
    -------
    tuple
        Number of the feature in each, as many as the smaller has, and the cosine.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.dictionaries.judging import match_features
    >>> match_features(np.eye(2), np.array([[0.0, 3.0], [2.0, 0.0]]))[1]
    array([1, 0])
    """

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    cosine = unit(np.asarray(one, dtype=np.float64)) @ unit(np.asarray(other, dtype=np.float64)).T
    rows, columns = linear_sum_assignment(-cosine)
    return rows, columns, cosine[rows, columns]


def random_matches(
    one: Float[np.ndarray, "feature width"], other: Float[np.ndarray, "other width"], seed: int
) -> Float[np.ndarray, " matched"]:
    """Cosines of `match_features` where both dictionaries are drawn at random, each with the second moments of its own directions.

    Parameters
    ----------
    one, other
        Directions of features, from which the moments are taken.
    seed
        Seed of the directions that are drawn.
    """
    drawn = []
    for name, x in (("one", one), ("other", other)):
        values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64)) if len(x) > 1 else np.eye(x.shape[1]))
        noise = generator(seed, "random directions", name).standard_normal(x.shape)
        drawn.append(noise * np.sqrt(np.maximum(values, 0)) @ vectors.T + x.mean(0))
    return match_features(*drawn)[2]


def recovered(intact: float, replaced: float, ablated: float) -> float:
    """Share of a loss that a reconstruction gives back: 1 where it is as good as the intact activation, 0 where as bad as the ablated.

    Parameters
    ----------
    intact, replaced, ablated
        Loss of the model as it is, with the reconstruction, and without the activation.
    """
    return (ablated - replaced) / (ablated - intact) if ablated != intact else float("nan")
