"""What stands beside the model's operator in every table: feature maps that hold less of the model, or nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int, Shaped

from workbench.seeds import generator, key
from workbench.stats import benjamini_hochberg, corrected_difference

IDENTITY = "x itself"
GAUSSIAN = "a random matrix"
SPECTRUM = "random, same singular values"
NORMS = "random, same row norms"
PERMUTED = "genes permuted within expression levels"
COEXPRESSION = "the cells' own gene correlation"
CODETECTION = "co-detection of genes"
# Controls that are drawn: one draw is one accident, so that each is judged over many.
RANDOM = (GAUSSIAN, SPECTRUM, NORMS, PERMUTED)
CONTROLS = (IDENTITY, *RANDOM, COEXPRESSION, CODETECTION)
CODE = "a random code per label"
LEVELS, _CODE = 10, 50
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
    name: str, like: Float[np.ndarray, "gene feature"], expression: sp.csr_matrix, seed: int, draw: int = 0
) -> Float[np.ndarray, "gene width"]:
    """Matrix of a control.

    Parameters
    ----------
    name
        Name of the control, one of `CONTROLS`.
    like
        Feature map of the model, which random controls imitate.
    expression
        Expression of the cells that may be looked at, cell by gene; read by `COEXPRESSION`, `CODETECTION` and `PERMUTED`.
    seed
        Seed of the controls of `RANDOM`; the others have no random number.
    draw
        Number of the draw, from 0; without effect on controls that have no random number.
    """
    if name == IDENTITY:
        return np.eye(len(like))
    if name == COEXPRESSION:
        return coexpression(expression)
    if name == CODETECTION:
        return codetection(expression)
    drawn = key(seed, "draw of a control", str(draw))
    if name == PERMUTED:
        return gene_permuted(like, np.asarray(expression.mean(0)).ravel(), drawn)
    return {GAUSSIAN: gaussian, SPECTRUM: spectrum_matched, NORMS: norm_matched}[name](like, drawn)


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
    x = np.asarray(like if like.shape[0] >= like.shape[1] else like.T, dtype=np.float64)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(x.T @ x)[::-1], 0))
    read, write = _frames(seed, like.shape)
    return (read * values) @ write.T


# A draw is asked for again for the operator of every fold.
@lru_cache(maxsize=2)
def _frames(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal columns in random directions, for either side."""
    rng = generator(seed, "spectrum control")
    read, write = (np.linalg.qr(rng.standard_normal((n, min(shape))))[0] for n in shape)
    return read, write


def norm_matched(like: Float[np.ndarray, "gene feature"], seed: int) -> Float[np.ndarray, "gene feature"]:
    """Each gene's row points in a random direction and keeps its length: how much genes count, not which belong together.

    Parameters
    ----------
    like
        Feature map to imitate, in shape and in the norm of each row.
    seed
        Seed of the directions, independent of those of other controls.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.controls import norm_matched
    >>> np.linalg.norm(norm_matched(np.diag([3.0, 4.0]), seed=0), axis=1).round(6).tolist()
    [3.0, 4.0]
    """
    noise = generator(seed, "norm control").standard_normal(like.shape)
    lengths = np.linalg.norm(np.asarray(like, dtype=np.float64), axis=1)
    return noise * (lengths / np.linalg.norm(noise, axis=1))[:, None]


def gene_permuted(
    like: Float[np.ndarray, "gene feature"], mean: Float[np.ndarray, " gene"], seed: int
) -> Float[np.ndarray, "gene feature"]:
    """Rows of the feature map, each given to another gene of about the same expression.

    Over all genes, rows that are long because the model knows a gene well would go to genes that are hardly expressed.
    So genes change places within tenths of mean expression.

    Parameters
    ----------
    like
        Feature map whose rows are dealt out anew.
    mean
        Mean expression of each gene; genes of equal means are in the order of their columns.
    seed
        Seed of the order of the rows, independent of those of other controls.
    """
    rng, order = generator(seed, "gene permuted control"), np.argsort(mean, kind="stable")
    source = np.arange(len(like))
    for level in np.array_split(order, min(LEVELS, max(1, len(order) // 2))):
        source[level] = rng.permutation(level)
    return like[source]


def codetection(expression: sp.csr_matrix) -> Float[np.ndarray, "gene gene"]:
    """Share of cells in which both genes are seen: a gene x gene operator of nothing but which counts are zero.

    Parameters
    ----------
    expression
        Cell by gene, none negative.
    """
    seen = (expression > 0).astype(np.float64)
    return np.asarray((seen.T @ seen).todense()) / max(1, expression.shape[0])


def label_code(
    labels: Shaped[np.ndarray, " anchor"], n_cells: Int[np.ndarray, " anchor"], seed: int, draw: int = 0
) -> Float[np.ndarray, "anchor feature"]:
    """Random numbers for each label, with noise: features that know which anchors are of one kind and nothing else.

    Parameters
    ----------
    labels
        Cell type of each anchor; where it has none, its stage.
    n_cells
        Cells of each anchor: the noise is that of a mean over them, of sd 1 for a cell.
    seed, draw
        Seed, and number of the draw from 0.
    """
    names, number = np.unique(labels, return_inverse=True)
    rng = generator(seed, "code of labels", str(draw))
    noise = rng.standard_normal((len(labels), _CODE)) / np.sqrt(n_cells)[:, None]
    return rng.standard_normal((len(names), _CODE))[number] + noise


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
