"""Intrinsic dimension of points, by several estimators that share one neighbour search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numba import njit

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import Neighbors, Points, check_points, row_slices


@dataclass(frozen=True)
class Scales:
    """Neighbourhood sizes of the estimators.

    Attributes
    ----------
    k
        Neighbours of the maximum likelihood (3 or more) and of local PCA (2 or more).
    k1, k2
        The correlation integral's radii lie between the median distances of these neighbours.
    """

    k: int = 20
    k1: int = 10
    k2: int = 20

    @property
    def most(self) -> int:
        """Neighbours to search."""
        return max(self.k, self.k2, 2)


def participation_ratio(x: Points) -> float:
    """Number of axes that share the variance: (sum of covariance eigenvalues)^2 / sum of their squares.

    It sees no curvature: a circle has two, the surface of a ball three.

    Parameters
    ----------
    x
        Points, finite; their order means nothing.

    Raises
    ------
    EvaluationError
        If there are fewer than two points, or they are all the same.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.dimension import participation_ratio
    >>> angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    >>> round(participation_ratio(np.column_stack([np.cos(angle), np.sin(angle)])), 6)
    2.0
    """
    centred = check_points(x, 1) - np.mean(x, 0, dtype=np.float64)
    gram = centred.T @ centred if x.shape[1] <= len(x) else centred @ centred.T
    return float(np.trace(gram) ** 2 / (gram**2).sum())


def two_nn(neighbors: Neighbors, *, discard: float = 0.1) -> float:
    """TwoNN (Facco, d'Errico, Rodriguez & Laio 2017): slope of -log(1 - F(m)) over log m, m = r2 / r1, through 0.

    Parameters
    ----------
    neighbors
        Neighbours of distinct points, two or more of each; only the two nearest are used.
    discard
        Share of points with the largest ratios that the line leaves out, from 0 to below 1.

    Raises
    ------
    EvaluationError
        If points coincide, or every point's two neighbours are equally far.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.dimension import two_nn
    >>> from workbench.geometry.neighbors import find_neighbors
    >>> plane = np.random.default_rng(0).normal(size=(500, 2)) @ np.random.default_rng(1).normal(size=(2, 5))
    >>> round(two_nn(find_neighbors(plane, 2, seed=0)), 1)
    1.9
    """
    near = _checked(neighbors.first(2)).distances
    ratio = np.sort(np.log(near[:, 1] / near[:, 0]))
    n = len(ratio)
    # F of the largest ratio is 1, whose logarithm no line can go through.
    kept = min(int(n * (1 - discard)), n - 1)
    if kept < 2 or ratio[kept - 1] <= 0:
        raise EvaluationError(
            f"TwoNN has {kept} of {n} ratios of second to first neighbour distance to fit, the largest "
            f"exp({ratio[max(kept - 1, 0)]:g}). It needs two points or more that do not lie on a lattice."
        )
    height = -np.log1p(-np.arange(1, kept + 1) / n)
    return float(ratio[:kept] @ height / (ratio[:kept] @ ratio[:kept]))


def two_nn_likelihood(neighbors: Neighbors) -> float:
    """TwoNN by maximum likelihood: points / sum of log(r2 / r1), as in scFoundry 0.2.1.

    Points that coincide with another, or whose two neighbours are equally far, are left out instead of refused. `two_nn` is less moved
    by the largest ratios.

    Parameters
    ----------
    neighbors
        Two or more of each point; only the two nearest are used.

    Raises
    ------
    EvaluationError
        If no point is left.
    """
    ratio = log_ratios(neighbors)
    if not (ratio > 0).any():
        raise EvaluationError(
            "No point has two neighbours at different distances above 0; such points have no dimension."
        )
    return float(1 / ratio[ratio > 0].mean())


def log_ratios(neighbors: Neighbors) -> Float[np.ndarray, " point"]:
    """log(r2 / r1) of each point: 0 where its two nearest are equally far, or at distance 0.

    Parameters
    ----------
    neighbors
        As in `two_nn_likelihood`.
    """
    near = neighbors.first(2).distances
    known = near[:, 0] > 0
    return np.log(np.divide(near[:, 1], near[:, 0], out=np.ones(len(near)), where=known))


def likelihood_local(neighbors: Neighbors) -> Float[np.ndarray, " point"]:
    """Maximum likelihood dimension around each point (Levina & Bickel 2004).

    (k - 1) / sum_{j < k} log(T_k / T_j), with T_j the distance of the j-th neighbour; infinite where all k are equally
    far.

    Parameters
    ----------
    neighbors
        Neighbours of distinct points; all of them are used, three at least.

    Raises
    ------
    EvaluationError
        If points coincide or there are fewer than three neighbours.
    """
    if neighbors.k < 3:
        raise EvaluationError(f"The maximum likelihood needs three neighbours or more; found {neighbors.k}.")
    near = _checked(neighbors).distances
    total = np.log(near[:, -1:] / near[:, :-1]).sum(1)
    with np.errstate(divide="ignore"):
        return (near.shape[1] - 1) / total


def likelihood(neighbors: Neighbors) -> float:
    """Maximum likelihood dimension of all points: the inverse of the mean of local inverses (MacKay & Ghahramani 2005).

    Parameters
    ----------
    neighbors
        Neighbours of distinct points; all of them are used, three at least.

    Raises
    ------
    EvaluationError
        As in `likelihood_local`, or if all neighbours of all points are equally far.
    """
    mean = float((1 / likelihood_local(neighbors)).mean())
    if mean <= 0:
        raise EvaluationError("All neighbours of all points are equally far; such points have no likelihood dimension.")
    return 1 / mean


def pca_local(x: Points, neighbors: Neighbors, *, threshold: float = 0.05) -> Float[np.ndarray, " point"]:
    """Local PCA around each point (Fukunaga & Olsen 1971): covariance eigenvalues above a share of the largest.

    Of k neighbours at most k - 1 eigenvalues are not 0, and near that bound the answer is too low.

    Parameters
    ----------
    x
        Points of which `neighbors` are the neighbours, in the same order.
    neighbors
        All of them are used, without the point itself.
    threshold
        Share of the largest eigenvalue that an axis must exceed to count, from 0 to 1. Larger counts fewer axes.

    Raises
    ------
    EvaluationError
        If points and neighbours do not belong together, or there are fewer than two neighbours.
    """
    n, k = neighbors.indices.shape
    if len(x) != n:
        raise EvaluationError(f"There are {len(x)} points, but neighbours of {n}; find the neighbours of these points.")
    if k < 2:
        raise EvaluationError("Local PCA needs two neighbours or more; found 1.")
    x = np.asarray(x, dtype=np.float64)
    found = np.empty(n)
    for part in row_slices(n, 8 * k * x.shape[1]):
        local = x[neighbors.indices[part]]
        local = local - local.mean(1, keepdims=True)
        flipped = local.transpose(0, 2, 1)
        values = np.linalg.eigvalsh(local @ flipped if k <= x.shape[1] else flipped @ local)
        found[part] = (values > threshold * values[:, -1:]).sum(1)
    return found


def correlation_integral(x: Points, radii: Float[np.ndarray, " radius"]) -> Float[np.ndarray, " radius"]:
    """Share of all pairs closer than each radius (Grassberger & Procaccia 1983).

    Parameters
    ----------
    x
        Points, two or more; repeated ones count as pairs at distance 0.
    radii
        Ascending, in the units of the points; a pair counts where it is closer than the radius.

    Raises
    ------
    EvaluationError
        If points are unusable.
    """
    x = check_points(x, 1)
    x = x - x.mean(0)
    n, squares = len(x), np.einsum("nd,nd->n", x, x)
    counts = np.zeros(len(radii), dtype=np.int64)
    limits = np.asarray(radii, dtype=np.float64) ** 2
    for part in row_slices(n, 8 * n):
        # Pairs of which one point lies in the block and the other in it or after it.
        _count_pairs(x[part] @ x[part.start :].T, squares[part.start :], limits, counts)
    return counts / (n * (n - 1) / 2)


@njit(cache=True, nogil=True)
def _count_pairs(products, squares, limits, counts):
    """Add pairs (i < j) of a block whose squared distance is below each limit; limits ascend."""
    last = limits[-1]
    for i in range(len(products)):
        for j in range(i + 1, len(squares)):
            distance = squares[i] + squares[j] - 2 * products[i, j]
            if distance < last:
                for r in range(len(limits) - 1, -1, -1):
                    if distance >= limits[r]:
                        break
                    counts[r] += 1


def correlation_dimension(x: Points, neighbors: Neighbors, *, k1: int = 10, k2: int = 20, n_radii: int = 8) -> float:
    """Slope of log C(r) over log r, C the correlation integral (Grassberger & Procaccia 1983).

    The radii are evenly spaced in the logarithm between the median distances of the k1-th and the k2-th neighbour; the
    slope is that of least squares.

    Parameters
    ----------
    x
        Points; all their pairs are counted.
    neighbors
        Neighbours of these points, k2 of each at least.
    k1, k2
        Neighbours whose median distances are the smallest and the largest radius; 1 <= k1 < k2.
    n_radii
        Number of radii that the line is fitted to, 2 or more.

    Raises
    ------
    EvaluationError
        If the radii do not differ.
    """
    if not 1 <= k1 < k2 or n_radii < 2:
        raise EvaluationError(f"The slope needs k1 < k2 and two radii; found k1 = {k1}, k2 = {k2}, {n_radii} radii.")
    near = neighbors.first(k2).distances
    low, high = np.median(near[:, k1 - 1]), np.median(near[:, k2 - 1])
    if not 0 < low < high * (1 - 1e-9):
        raise EvaluationError(
            f"The median distances of neighbours {k1} and {k2} are {low:g} and {high:g}: there is no range of scales "
            "between them. Drop repeated points, or take k1 and k2 further apart."
        )
    radii = np.geomspace(low, high, n_radii)
    return float(np.polyfit(np.log(radii), np.log(correlation_integral(x, radii)), 1)[0])


def _checked(neighbors: Neighbors) -> Neighbors:
    """Neighbours, if no two points coincide."""
    zero = int((neighbors.distances[:, 0] <= 0).sum())
    if zero:
        raise EvaluationError(
            f"{zero} of {len(neighbors)} points coincide with another; keep one of each (`distinct`) and search again."
        )
    return neighbors
