"""Shape of a space that cells lie in: axes that share its variance, and anisotropy.

Every measure is made of sums over units (donors, or one unit for all), so that units can be weighted anew without a second
look at the points. Each says what it is invariant to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.linalg import eigh
from scipy.sparse.linalg import eigsh

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import Points, as_they_are

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
    x = as_they_are(x, 1)
    deviation = deviations(x)
    constant = ~(deviation > CONSTANT)
    if constant.all():
        raise EvaluationError(
            f"None of the {x.shape[1]} coordinates varies by more than {CONSTANT:g}; scale the points up."
        )
    x = x - x.mean(0, dtype=np.float64)
    x /= np.where(constant, np.inf, deviation)
    return x, constant


def deviations(x: Points) -> Float[np.ndarray, " feature"]:
    """Standard deviation of each coordinate, over all points.

    Parameters
    ----------
    x
        Points, finite; no second copy of them is held.
    """
    mean, squares = x.mean(0, dtype=np.float64), np.zeros(x.shape[1])
    for start in range(0, len(x), _BLOCK):
        part = x[start : start + _BLOCK] - mean
        squares += np.einsum("nd,nd->d", part, part)
    return np.sqrt(squares / len(x))


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
    x = as_they_are(x, 1)
    centre = x.mean(0, dtype=np.float64)
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
