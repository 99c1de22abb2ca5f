"""Shape of a space that cells lie in: axes that share its variance, and anisotropy.

Every measure is made of sums over units (donors, or one unit for all), so that units can be weighted anew without a second
look at the points. Each says what it is invariant to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Shaped
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import Points, check_points

# A standard deviation at most this is that of a constant coordinate, as in scFoundry 0.2.1.
CONSTANT = 1e-8
# Points at a time, so that no second copy of all is held.
_BLOCK = 4096
# Up to this many coordinates all eigenvalues come sooner than the first alone.
_FEW = 16


def unit_variance(x: Points) -> tuple[Points, Bool[np.ndarray, " feature"]]:
    """Points with each coordinate at mean 0 and variance 1.

    What is measured of them no longer changes when a coordinate is shifted or scaled, but does when the points are turned:
    principal components, for one, all count alike.

    Parameters
    ----------
    x
        Points, finite, one row each.

    Returns
    -------
    scaled, constant
        The points, 0 in constant coordinates; and which coordinates are constant (standard deviation up to 1e-8).

    Raises
    ------
    EvaluationError
        If points are unusable, or no coordinate varies.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.spaces import unit_variance
    >>> scaled, constant = unit_variance(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scaled.tolist(), constant.tolist()
    ([[-1.0, 0.0], [1.0, 0.0]], [False, True])
    """
    x = check_points(x, 1)
    x = x - x.mean(0)
    deviation = np.sqrt(np.einsum("nd,nd->d", x, x) / len(x))
    constant = ~(deviation > CONSTANT)
    if constant.all():
        raise EvaluationError(
            f"None of the {x.shape[1]} coordinates varies by more than {CONSTANT:g}; scale the points up."
        )
    x /= np.where(constant, np.inf, deviation)
    return x, constant


@dataclass(frozen=True)
class Spread:
    """Sums of points and of their products, by unit: any weighting of units has its covariance.

    Attributes
    ----------
    n
        Number of points of each unit.
    total
        Sum of the points of each unit, less `centre`.
    products
        Sum of outer products of the points of each unit, less `centre`.
    centre
        Mean of all points, taken away first so that no digits are lost.
    """

    n: Int[np.ndarray, " unit"]
    total: Float[np.ndarray, "unit feature"]
    products: Float[np.ndarray, "unit feature feature"]
    centre: Float[np.ndarray, " feature"]

    def covariance(
        self, weights: Float[np.ndarray, " unit"] | None = None, *, centred: bool = True
    ) -> Float[np.ndarray, "feature feature"]:
        """Covariance of the points, divided by their number.

        Parameters
        ----------
        weights
            How often each unit counts; once each when None.
        centred
            False: the mean product about the origin instead.
        """
        weights = np.ones(len(self.n)) if weights is None else weights
        n = weights @ self.n
        mean = weights @ self.total / n
        found = np.tensordot(weights, self.products, 1) / n
        if centred:
            return found - np.outer(mean, mean)
        return found + np.outer(self.centre, mean) + np.outer(mean, self.centre) + np.outer(self.centre, self.centre)


def spread(x: Points, unit: Int[np.ndarray, " point"] | None = None) -> Spread:
    """Sums of points and products by unit.

    Parameters
    ----------
    x
        Points, finite, one row each.
    unit
        Number of each point's unit from 0, such as its donor; one unit when None.

    Raises
    ------
    EvaluationError
        If points are unusable.
    """
    x = check_points(x, 1)
    centre = x.mean(0)
    unit = np.zeros(len(x), dtype=int) if unit is None else unit
    n = np.bincount(unit)
    total, products = np.zeros((len(n), x.shape[1])), np.zeros((len(n), x.shape[1], x.shape[1]))
    for u in range(len(n)):
        rows = np.flatnonzero(unit == u)
        for some in np.array_split(rows, len(rows) // _BLOCK + 1):
            part = x[some] - centre
            total[u] += part.sum(0)
            products[u] += part.T @ part
    return Spread(n, total, products, centre)


def shared_axes(covariance: Float[np.ndarray, "feature feature"]) -> float:
    """Participation ratio of a covariance: (sum of eigenvalues)^2 / sum of their squares; see `dimension.participation_ratio`.

    Parameters
    ----------
    covariance
        Covariance, for example of `Spread`.
    """
    return float(np.trace(covariance) ** 2 / (covariance**2).sum())


def first_share(covariance: Float[np.ndarray, "feature feature"]) -> float:
    """Share of the first eigenvalue in the sum of all.

    Parameters
    ----------
    covariance
        Covariance, or mean product about the origin, for example of `Spread`.
    """
    d = len(covariance)
    if d <= _FEW:
        first = float(eigh(covariance, eigvals_only=True, subset_by_index=[d - 1, d - 1])[0])
    else:
        start = covariance @ np.diag(covariance)  # no random number decides where the search begins
        first = float(eigsh(covariance, 1, v0=start, return_eigenvectors=False)[0])
    return first / float(np.trace(covariance))


def participation_ratio_unit_variance(x: Points) -> float:
    """Participation ratio of coordinates at unit variance, which scFoundry 0.2.1 calls effective dimension.

    Unchanged by shifts and by scaling single coordinates, by the order of points and by repeating all of them; **not by
    turning the points**: of principal components it is their number, whatever the data. `dimension.participation_ratio` is that
    of the covariance itself.

    Parameters
    ----------
    x
        Points, finite, one row each; constant coordinates count as 0.

    Raises
    ------
    EvaluationError
        As `unit_variance`.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.spaces import participation_ratio_unit_variance
    >>> x = np.random.default_rng(0).normal(size=(4000, 3)) * [100, 1, 1]
    >>> round(participation_ratio_unit_variance(x), 1)
    3.0
    """
    return shared_axes(spread(unit_variance(x)[0]).covariance())


def spectral_anisotropy(x: Points, *, centred: bool = True) -> float:
    """Share of the first eigenvalue of the covariance: 1 / d where all d directions are alike, 1 on a line.

    Unchanged by turning, by one scale for all, by the order of points and by repeating all of them; by shifts as well where
    `centred`.

    Parameters
    ----------
    x
        Points, finite, one row each.
    centred
        False: about the origin, so that a mean far from 0 makes it large; scFoundry 0.2.1 does so.

    Raises
    ------
    EvaluationError
        If points are unusable.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.spaces import spectral_anisotropy
    >>> cross = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    >>> spectral_anisotropy(cross), round(spectral_anisotropy(cross + [7, 0], centred=False), 2)
    (0.5, 0.99)
    """
    return first_share(spread(x).covariance(centred=centred))


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


def directions(
    x: Points, group: Int[np.ndarray, " point"] | None = None, unit: Int[np.ndarray, " point"] | None = None
) -> Directions:
    """Sums of directions by unit and group.

    Parameters
    ----------
    x
        Points, finite; those at the origin have no direction and are left out.
    group
        Number of each point's group from 0, -1 for a point of none, which then counts among all pairs only. One group when None.
    unit
        As in `spread`.

    Raises
    ------
    EvaluationError
        If points are unusable.
    """
    x = check_points(x, 1)
    length = np.linalg.norm(x, axis=1)
    group = np.zeros(len(x), dtype=int) if group is None else group
    unit = np.zeros(len(x), dtype=int) if unit is None else unit
    shape = int(unit.max()) + 1, max(int(group.max()), 0) + 1
    held = np.flatnonzero((length > 0) & (group >= 0))
    place = unit[held] * shape[1] + group[held]
    # A product with a sparse matrix, so that no second copy of the points is held.
    weights = sp.csr_array((1 / length[held], (place, held)), shape=(shape[0] * shape[1], len(x)))
    n = np.bincount(place, minlength=len(weights.indptr) - 1)
    return Directions(n.reshape(shape), (weights @ x).reshape(*shape, x.shape[1]))


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
    >>> from workbench.geometry.spaces import cosine_anisotropy
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
    length = np.linalg.norm(x, axis=1)
    pairs = pairs[(length[pairs] > 0).all(1)]
    unit = x / np.where(length > 0, length, 1)[:, None]
    parts = np.array_split(pairs, max(1, len(pairs) // 20_000))
    return float(np.concatenate([np.einsum("pd,pd->p", unit[p[:, 0]], unit[p[:, 1]]) for p in parts]).mean())


def numbered(labels: Shaped[np.ndarray, " point"]) -> tuple[Int[np.ndarray, " point"], tuple[str, ...]]:
    """Labels as numbers from 0, in the order of their names; -1 where there is none.

    Parameters
    ----------
    labels
        Text, empty or missing where a point has no label.

    Returns
    -------
    numbers, names
        Number of each point's label, and the labels by number.
    """
    text = np.array(["" if value is None or value != value else str(value) for value in labels], dtype=object)
    names = sorted(set(text.tolist()) - {""})
    place = {name: i for i, name in enumerate(names)} | {"": -1}
    return np.array([place[value] for value in text], dtype=int), tuple(names)


def _ratio(total: float, pairs: float) -> float:
    return float(total / pairs) if pairs > 0 else float("nan")
