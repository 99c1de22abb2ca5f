"""Whether points lie one way from the origin: mean cosines of all pairs, exact, from sums of unit vectors by unit and group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from workbench.geometry.neighbors import Points, as_they_are, check_points

_BLOCK = 4096


@dataclass(frozen=True)
class Directions:
    """Sums of the directions of points by unit and group.

    Attributes
    ----------
    n
        Points that have a direction, by unit and group.
    total
        Sum of their unit vectors.
    """

    n: Int[np.ndarray, "unit group"]
    total: Float[np.ndarray, "unit group feature"]

    def cosines(
        self, weights: Float[np.ndarray, " unit"] | None = None, *, balanced: bool = False
    ) -> tuple[float, float, float]:
        """Mean cosine over all pairs, over those within and those between groups, as `cosine_anisotropy`.

        A point and its own copy, where a unit counts twice, are no pair.

        Parameters
        ----------
        weights
            How often each unit counts; once each when None.
        balanced
            Whether groups count alike instead of pairs.
        """
        weights = np.ones(len(self.n)) if weights is None else weights
        total = np.tensordot(weights, self.total, 1)
        n, copies = weights @ self.n, weights**2 @ self.n
        own, own_pairs = (total**2).sum(1) - copies, n**2 - copies
        everything = total.sum(0)
        whole, pairs = float(everything @ everything - copies.sum()), float(n.sum() ** 2 - copies.sum())
        every = _ratio(whole, pairs)
        if not balanced:
            across = whole - own.sum(), pairs - own_pairs.sum()
            return every, _ratio(own.sum(), own_pairs.sum()), _ratio(*across)
        held, paired = n > 0, own_pairs > 0
        means = total[held] / n[held, None]
        summed = means.sum(0)
        apart = float(summed @ summed - (means**2).sum())
        within = float((own[paired] / own_pairs[paired]).mean()) if paired.any() else float("nan")
        return every, within, _ratio(apart, float(held.sum() * (held.sum() - 1)))


def lengths(x: Points) -> Float[np.ndarray, " point"]:
    """Distance of each point from the origin.

    Parameters
    ----------
    x
        Points, finite, one row each, in any precision.
    """
    return np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))


def directions(
    x: Points, group: Int[np.ndarray, " point"] | None = None, unit: Int[np.ndarray, " point"] | None = None
) -> Directions:
    """Sums of directions by unit and group.

    Parameters
    ----------
    x
        Points, finite; those at the origin have no direction and are left out.
    group
        Number of each point's group from 0, -1 for a point of none, which is left out. One group when None.
    unit
        As in `spaces.spread`.

    Raises
    ------
    EvaluationError
        If points are unusable.
    """
    x = as_they_are(x, 1)
    length = lengths(x)
    group = np.zeros(len(x), dtype=int) if group is None else group
    unit = np.zeros(len(x), dtype=int) if unit is None else unit
    shape = int(unit.max()) + 1, max(int(group.max()), 0) + 1
    held = np.flatnonzero((length > 0) & (group >= 0))
    place = unit[held] * shape[1] + group[held]
    n, total = np.bincount(place, minlength=shape[0] * shape[1]), np.zeros((shape[0] * shape[1], x.shape[1]))
    # Some points at a time, so that no second copy of all is held.
    for rows, own in zip(*(np.array_split(a, len(held) // _BLOCK + 1) for a in (held, place)), strict=True):
        weights = sp.csr_array((1 / length[rows], (own, np.arange(len(rows)))), shape=(len(total), len(rows)))
        total += weights @ x[rows]
    return Directions(n.reshape(shape), total.reshape(*shape, x.shape[1]))


def cosine_anisotropy(
    x: Points, group: Int[np.ndarray, " point"] | None = None, *, balanced: bool = False
) -> tuple[float, float, float]:
    """Mean cosine of all pairs of points, of those within groups, and of those between: exact, from sums of unit vectors.

    0 where directions are even, 1 where all points lie one way from the origin. Unchanged by turning, by the scale of each
    point, and by their order; **not by shifts**, as angles are seen from the origin. Repeating all points adds pairs of a point with its
    copy, of cosine 1.

    Parameters
    ----------
    x
        Points, finite; those at the origin have no direction and are left out.
    group
        As in `directions`: the second and third figure need it.
    balanced
        Whether groups, and pairs of groups, count alike instead of pairs of points: what the pairs of scFoundry 0.2.1 are drawn for.

    Returns
    -------
    all, within, between
        NaN where there is no such pair.

    Raises
    ------
    EvaluationError
        If points are unusable.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.cosines import cosine_anisotropy
    >>> x = np.array([[1.0, 0], [2, 0], [0, 1], [0, 5]])
    >>> [round(value, 2) for value in cosine_anisotropy(x, np.array([0, 0, 1, 1]))]
    [0.33, 1.0, 0.0]
    """
    known = slice(None) if group is None else group >= 0
    every = directions(x).cosines()[0]
    if group is None or not group[known].size:
        return every, float("nan"), float("nan")
    return (every, *directions(x[known], group[known]).cosines(balanced=balanced)[1:])


def cosine_of_pairs(x: Points, pairs: Int[np.ndarray, "pair two"]) -> float:
    """Mean cosine of chosen pairs, such as those that another program has drawn.

    Parameters
    ----------
    x
        Points, finite; a pair with a point at the origin is left out.
    pairs
        Numbers of the two points of each pair.
    """
    x = check_points(x, 1)
    length = lengths(x)
    pairs = pairs[(length[pairs] > 0).all(1)]
    unit = x / np.where(length > 0, length, 1)[:, None]
    parts = np.array_split(pairs, max(1, len(pairs) // 20_000))
    return float(np.concatenate([np.einsum("pd,pd->p", unit[p[:, 0]], unit[p[:, 1]]) for p in parts]).mean())


def _ratio(total: float, pairs: float) -> float:
    return float(total / pairs) if pairs > 0 else float("nan")
