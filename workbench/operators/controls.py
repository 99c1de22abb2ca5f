"""What stands beside the model's operator in every table: feature maps that hold less of the model, or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float

from workbench.seeds import generator
from workbench.stats import benjamini_hochberg, corrected_difference

IDENTITY = "x itself"
GAUSSIAN = "a random matrix"
SPECTRUM = "random vectors, same singular values"
PERMUTED = "the operator with its genes permuted"
COEXPRESSION = "the cells' own gene correlation"
CONTROLS = (IDENTITY, GAUSSIAN, SPECTRUM, PERMUTED, COEXPRESSION)
_ADDED = [
    "endpoint",
    "metric",
    "control",
    "ours",
    "theirs",
    "difference",
    "n_folds",
    "low",
    "high",
    "p",
    "detectable",
    "q",
]


def control(
    name: str, like: Float[np.ndarray, "gene feature"], expression: sp.csr_matrix, seed: int
) -> Float[np.ndarray, "gene width"]:
    """Matrix of a control.

    Parameters
    ----------
    name
        Name of the control, one of `CONTROLS`.
    like
        Feature map of the model, which random controls imitate.
    expression
        Expression of the cells that may be looked at, cell by gene; `COEXPRESSION` alone reads it.
    seed
        Seed of the random controls; the others have no random number.
    """
    if name == IDENTITY:
        return np.eye(len(like))
    if name == COEXPRESSION:
        return coexpression(expression)
    made = {GAUSSIAN: gaussian, SPECTRUM: spectrum_matched, PERMUTED: gene_permuted}[name]
    return made(like, seed)


def gaussian(like: Float[np.ndarray, "gene feature"], seed: int) -> Float[np.ndarray, "gene feature"]:
    """Random matrix of the same shape and Frobenius norm: what a feature map is worth without the model.

    Parameters
    ----------
    like
        Feature map to imitate, in shape and length.
    seed
        Seed of the entries, independent of those of other controls.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.controls import gaussian
    >>> round(float(np.linalg.norm(gaussian(np.diag([3.0, 4.0]), seed=0))), 6)
    5.0
    """
    noise = generator(seed, "gaussian control").standard_normal(like.shape)
    return noise * (np.linalg.norm(like) / np.linalg.norm(noise))


def spectrum_matched(like: Float[np.ndarray, "gene feature"], seed: int) -> Float[np.ndarray, "gene feature"]:
    """Random singular vectors, the feature map's own singular values: what its rank and its decay are worth.

    Parameters
    ----------
    like
        Feature map to imitate, in shape and singular values.
    seed
        Seed of the singular vectors, independent of those of other controls.
    """
    values = np.linalg.svd(np.asarray(like, dtype=np.float64), compute_uv=False)
    rng = generator(seed, "spectrum control")
    read, write = (np.linalg.qr(rng.standard_normal((n, len(values))))[0] for n in like.shape)
    return (read * values) @ write.T


def gene_permuted(like: Float[np.ndarray, "gene feature"], seed: int) -> Float[np.ndarray, "gene feature"]:
    """Rows of the feature map in another order: its structure, read from the wrong genes.

    Parameters
    ----------
    like
        Feature map whose rows are dealt out anew.
    seed
        Seed of the order of the rows, independent of those of other controls.
    """
    return like[generator(seed, "gene permuted control").permutation(len(like))]


def coexpression(expression: sp.csr_matrix) -> Float[np.ndarray, "gene gene"]:
    """Pearson correlation of genes over cells: a gene x gene operator that needs no model.

    Parameters
    ----------
    expression
        Cell by gene; a gene that does not vary correlates with none.
    """
    x = expression.astype(np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    covariance = np.asarray((x.T @ x).todense()) / x.shape[0] - np.outer(mean, mean)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0))
    varies = spread > 1e-9 * max(spread.max(initial=0), 1e-300)
    scale = np.where(varies, 1 / np.where(varies, spread, 1), 0)
    return covariance * np.outer(scale, scale)


def added_value(folds: pd.DataFrame, ours: str, test_share: float) -> pd.DataFrame:
    """What one representation adds to each other, endpoint by endpoint, over the same folds.

    Parameters
    ----------
    folds
        One row per ``endpoint``, ``metric``, ``representation`` and ``fold``: ``value``.
    ours
        The representation that is compared with all others.
    test_share
        Share of the cells that a fold holds out.

    Returns
    -------
    DataFrame
        Empty where there is no fold. ``endpoint``, ``metric``, ``control``, ``ours``, ``theirs``, ``difference`` (mean over
        folds, above 0 where ours is better), ``n_folds``, ``low`` and ``high`` (95 %), ``p`` (two-sided), ``detectable`` (the true difference that is found at p <= 0.05 in
        about 80 % of such runs), ``q`` (Benjamini-Hochberg over the rows of a control). Folds share training cells, so the variance is corrected for that (Nadeau & Bengio, Machine Learning
        52:239, 2003); with fewer than three folds there is no interval.
    """
    if folds.empty:
        return pd.DataFrame(columns=_ADDED)
    wide = folds.pivot_table(index=["endpoint", "metric", "fold"], columns="representation", values="value", sort=False)
    rows: list[dict[str, Any]] = []
    for (endpoint, metric), part in wide.groupby(level=["endpoint", "metric"], sort=False):
        for name in wide.columns.drop(ours):
            one, other = part[[ours, name]].dropna().to_numpy().T
            row = {"endpoint": endpoint, "metric": metric, "control": name, "ours": one.mean(), "theirs": other.mean()}
            rows.append({**row, **corrected_difference(one - other, test_share)})
    table = pd.DataFrame(rows)
    table["q"] = table.groupby("control")["p"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
    return table
