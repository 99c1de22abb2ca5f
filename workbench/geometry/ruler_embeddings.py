"""Points in a few dimensions without any ruler: principal components, geodesic MDS, Isomap."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from sklearn.manifold import Isomap, smacof

from workbench.errors import EvaluationError
from workbench.geometry.neighbors import find_neighbors
from workbench.geometry.shape import geodesics
from workbench.seeds import generator

MDS, ISOMAP, COMPONENTS = "geodesic MDS", "Isomap", "two principal components"
AXES = 2


def reduced(x: Float[np.ndarray, "point feature"], most: int) -> Float[np.ndarray, "point axis"]:
    """Points in the space of their first principal components, at true distances.

    Parameters
    ----------
    x
        One row per point, finite.
    most
        Components that are kept, at most.

    Raises
    ------
    EvaluationError
        If a value is not finite, or all points are the same.
    """
    if not np.isfinite(x).all():
        raise EvaluationError("A representation has values that are not finite; leave such points out.")
    centred = np.asarray(x - x.mean(0), dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    if s[0] <= 1e-12 * max(np.abs(x).max(), 1e-300) * np.sqrt(x.size):
        raise EvaluationError("All points have the same representation, so that there is nothing to measure.")
    n = min(most, int((s > 1e-9 * s[0]).sum()))
    far = np.abs(u[:, :n]).argmax(0)
    return u[:, :n] * np.sign(u[far, np.arange(n)]) * s[:n]


def embedded(x: Float[np.ndarray, "point axis"], method: str, k: int, seed: int) -> Float[np.ndarray, "point two"]:
    """Points in two dimensions, without the ruler.

    Parameters
    ----------
    x
        Representation of the points, one row each.
    method
        ``geodesic MDS`` (metric MDS of shortest paths over the neighbour graph, from a random start), ``Isomap`` (the same paths,
        classical scaling) or ``two principal components``.
    k
        Neighbours of each point in the graph; of no meaning for principal components.
    seed
        Seed of the start of MDS; nothing else is random.

    Raises
    ------
    EvaluationError
        If the neighbour graph falls into parts, or there are no more points than neighbours.
    """
    if method == COMPONENTS:
        return reduced(x, AXES)
    paths = geodesics(find_neighbors(x, k, approximate=False, seed=seed)).distances
    if method == ISOMAP:
        return Isomap(
            n_neighbors=len(x) - 1, n_components=AXES, metric="precomputed", eigen_solver="dense"
        ).fit_transform(paths)
    start = generator(seed, "MDS", str(k)).standard_normal((len(x), AXES)) * paths.std()
    return smacof(paths, n_components=AXES, init=start, n_init=1, normalized_stress=False)[0]


def spread_of(points: Float[np.ndarray, "point axis"]) -> Float[np.ndarray, "point point"]:
    """Euclidean distance between every two points.

    Parameters
    ----------
    points
        Coordinates, one row per point.
    """
    squares = (points**2).sum(1)
    return np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
