"""Whose variance it is: shares of cell type and batch in the variance of a space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from workbench.geometry.neighbors import Points, as_they_are


@dataclass(frozen=True)
class Effects:
    """Sums of points by unit, group and batch, of which any weighting of units has its partial eta squared.

    Attributes
    ----------
    unit, group, batch
        Of each sum; the units, groups and batches are numbered from 0.
    n, total, squares
        Points, their sum, and the sum of their squares by coordinate, all less their common mean.
    """

    unit: Int[np.ndarray, " sum"]
    group: Int[np.ndarray, " sum"]
    batch: Int[np.ndarray, " sum"]
    n: Int[np.ndarray, " sum"]
    total: Float[np.ndarray, "sum feature"]
    squares: Float[np.ndarray, "sum feature"]

    def partial(self, weights: Float[np.ndarray, " unit"] | None = None) -> Float[np.ndarray, "effect form"]:
        """Partial eta squared of group and batch (rows), per coordinate and over the whole space (columns).

        Parameters
        ----------
        weights
            How often each unit counts; once each when None.
        """
        of_sum = np.ones(len(self.n)) if weights is None else weights[self.unit]
        kept = of_sum > 0
        n, total = (of_sum * self.n)[kept], of_sum[kept, None] * self.total[kept]
        group, batch = (np.unique(ids[kept], return_inverse=True)[1] for ids in (self.group, self.batch))
        every = of_sum[kept] @ self.squares[kept]
        n_groups, n_batches = int(group.max()) + 1, int(batch.max()) + 1
        design = np.zeros((len(n), n_groups + n_batches))
        design[np.arange(len(n)), group] = 1
        design[np.arange(len(n)), n_groups + batch] = 1
        both, rank = _explained(design, n, total)
        by_group, rank_group = _explained(design[:, :n_groups], n, total)
        by_batch, rank_batch = _explained(design[:, n_groups:], n, total)
        error = np.maximum(every - both, 0)
        spread_ = every - total.sum(0) ** 2 / n.sum()
        varies = spread_ > 1e-12 * max(float(spread_.max()), 1e-300)
        found = np.full((2, 2), np.nan)
        for row, (other, free) in enumerate([(by_batch, rank - rank_batch), (by_group, rank - rank_group)]):
            effect = np.maximum(both - other, 0)
            if free > 0 and n.sum() > rank and (effect + error)[varies].sum() > 0:
                parts = effect[varies] / np.where((effect + error)[varies] > 0, (effect + error)[varies], np.nan)
                found[row] = np.nanmean(parts), effect.sum() / (effect + error).sum()
        return found


def effects(
    x: Points,
    group: Int[np.ndarray, " point"],
    batch: Int[np.ndarray, " point"] | None = None,
    unit: Int[np.ndarray, " point"] | None = None,
) -> Effects:
    """Sums by unit, group and batch.

    Parameters
    ----------
    x
        Points, finite, one row each.
    group, batch
        Number of each point's group, such as its cell type, and of its batch, both from 0; one batch when None.
    unit
        As in `spread`.

    Raises
    ------
    EvaluationError
        If points are unusable.
    """
    x = as_they_are(x, 1)
    mean = x.mean(0, dtype=np.float64)
    one = np.zeros(len(x), dtype=int)
    ids = np.column_stack([one if unit is None else unit, group, one if batch is None else batch])
    cells, inverse = np.unique(ids, axis=0, return_inverse=True)
    n = np.bincount(inverse)
    parts = np.split(np.argsort(inverse, kind="stable"), np.cumsum(n)[:-1])
    total, squares = (np.empty((len(n), x.shape[1])) for _ in range(2))
    # One group at a time, so that no second copy of the points is held.
    for at, rows in enumerate(parts):
        part = x[rows] - mean
        total[at], squares[at] = part.sum(0), np.einsum("nd,nd->d", part, part)
    return Effects(cells[:, 0], cells[:, 1], cells[:, 2], n, total, squares)


def partial_eta_squared(
    x: Points, group: Int[np.ndarray, " point"], batch: Int[np.ndarray, " point"] | None = None
) -> Float[np.ndarray, "effect form"]:
    """Share of the variance that goes with group and with batch, each beside what the other leaves.

    Of the additive model x ~ 1 + group + batch: SS / (SS + SSE), with SS what the model gains by the effect once the other is in
    it, and SSE what the whole model leaves. Per coordinate it is the mean over coordinates, as in scFoundry 0.2.1: unchanged by shifts and
    scaling of single coordinates, **not by turning the points**. Over the whole space it is the ratio of traces: unchanged by
    turning, shifts and one scale for all, not by scaling single coordinates. Neither changes with the order of points, with the names of
    groups, or when all points are repeated.

    Parameters
    ----------
    x, group, batch
        As in `effects`.

    Returns
    -------
    ndarray
        Rows group and batch, columns per coordinate and whole space; NaN where an effect cannot be told from the other, or there is one
        group or batch only. Constant coordinates count in neither.

    Raises
    ------
    EvaluationError
        If points are unusable.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.effects import partial_eta_squared
    >>> x = np.array([[0.0, 0], [0, 2], [4, 0], [4, 2]])
    >>> partial_eta_squared(x, np.array([0, 0, 1, 1]))[0].round(6).tolist()  # all of one coordinate, nothing of the other
    [0.5, 0.8]
    """
    return effects(x, group, batch).partial()


def _explained(design: np.ndarray, n: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, int]:
    """Sum of squares by coordinate that a design explains, from the sums of its cells; and its rank."""
    values, vectors = np.linalg.eigh(design.T @ (n[:, None] * design))
    kept = values > 1e-10 * values.max()
    projected = (vectors[:, kept] / np.sqrt(values[kept])).T @ (design.T @ total)
    return (projected**2).sum(0), int(kept.sum())
