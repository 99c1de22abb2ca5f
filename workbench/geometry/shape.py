"""The shape of a point cloud: geodesic distances, how flat it is, and whether what is left off the plane is noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from workbench.errors import EvaluationError
from workbench.evidence.ruler import Ruler
from workbench.geometry.neighbors import Neighbors, Points, check_points, find_neighbors, row_slices
from workbench.seeds import generator
from workbench.stats import permutation_p, spearman


@dataclass(frozen=True)
class Geodesics:
    """Shortest paths along the neighbour graph.

    Attributes
    ----------
    rows
        Points between which distances are given, as numbers of all points.
    distances
        Between them, along edges whose length is the Euclidean distance; in the units of the points.
    n_components
        Connected components of the graph.
    n_left_out
        Points asked for that lie outside the largest component, and are not among `rows`.
    """

    rows: Int[np.ndarray, " row"]
    distances: Float[np.ndarray, "row row"]
    n_components: int
    n_left_out: int


def geodesics(
    neighbors: Neighbors, rows: Int[np.ndarray, " asked"] | None = None, *, component: Literal["all", "largest"] = "all"
) -> Geodesics:
    """Geodesic distances by shortest paths on the neighbour graph (Tenenbaum, de Silva & Langford 2000).

    An edge joins two points when either is a neighbour of the other; paths go through all points.

    Parameters
    ----------
    neighbors
        Neighbours of all points, which are the edges of the graph.
    rows
        Points between which distances are wanted; None for all (then n x n numbers are kept).
    component
        ``"all"``: a disconnected graph is an error. ``"largest"``: only points of its largest component are kept.

    Raises
    ------
    EvaluationError
        If the graph is not connected and ``"all"`` is asked for, or fewer than two points are left.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.neighbors import find_neighbors
    >>> from workbench.geometry.shape import geodesics
    >>> corner = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.1]])
    >>> geodesics(find_neighbors(corner, 1, seed=0)).distances[0].tolist()  # around the corner, not across
    [0.0, 1.0, 2.0, 3.1]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, dijkstra

    n, k = neighbors.indices.shape
    rows = np.arange(n) if rows is None else np.asarray(rows)
    # Built by parts: edges of length zero, between repeated points, stay edges.
    edges = neighbors.distances.ravel(), neighbors.indices.ravel(), np.arange(0, n * k + 1, k)
    graph = csr_array(edges, shape=(n, n))
    n_components, label = connected_components(graph, directed=False)
    sizes = np.bincount(label)
    if n_components > 1 and component == "all":
        raise EvaluationError(
            f"The graph of {k} neighbours falls into {n_components} components (the largest has {sizes.max()} of {n} "
            'points): there is no way between them. Take more neighbours, or ask for component="largest".'
        )
    kept = rows[label[rows] == sizes.argmax()]
    if len(kept) < 2:
        raise EvaluationError(
            f"{len(kept)} of the {len(rows)} points asked for lie in the largest component of the neighbour graph; "
            "take more neighbours."
        )
    found = np.empty((len(kept), len(kept)))
    for part in row_slices(len(kept), 8 * n):
        found[part] = dijkstra(graph, directed=False, indices=kept[part])[:, kept]
    return Geodesics(kept, found, int(n_components), len(rows) - len(kept))


def stage_distances(
    latent: Float[np.ndarray, "anchor anchor"], stage: Int[np.ndarray, " anchor"], ruler: Ruler
) -> pd.DataFrame:
    """Latent distance of every two stages beside their distance on the ruler.

    Parameters
    ----------
    latent
        Distances between anchors, symmetric, in any unit.
    stage
        Number of each anchor's stage on the ruler.
    ruler
        Ruler that the stage numbers belong to.

    Returns
    -------
    DataFrame
        One row per pair of stages (or stage with itself): ``stage_a``, ``stage_b``, ``ruler_distance``, ``latent`` (mean
        over pairs of anchors), ``latent_sd``, ``n_pairs``.
    """
    i, j = np.triu_indices(len(stage), 1)
    a, b = np.sort([stage[i], stage[j]], axis=0)
    names, keys = np.array(ruler.stages), ["stage_a", "stage_b", "ruler_distance"]
    pairs = dict(zip(keys, (names[a], names[b], ruler.distances[a, b]), strict=True))
    grouped = pd.DataFrame({**pairs, "latent": latent[i, j]}).groupby(keys, as_index=False)["latent"]
    return grouped.agg(["mean", "std", "size"]).set_axis([*keys, "latent", "latent_sd", "n_pairs"], axis=1)


def ruler_agreement(
    distances: Float[np.ndarray, "row row"], ruler: Float[np.ndarray, "row row"], within: Sequence[float] = ()
) -> pd.DataFrame:
    """Spearman correlation of distances with ruler distances, over all pairs and over near ones.

    Parameters
    ----------
    distances
        Distances between points, for example geodesic; the unit means nothing to a rank correlation.
    ruler
        Between the same points, in ruler units; NaN where unknown, and such pairs are left out.
    within
        Ruler distances; for each, pairs at most that far apart on the ruler.

    Returns
    -------
    DataFrame
        ``within`` (infinite for all pairs), ``spearman`` (NaN where one side is constant), ``n_pairs``.

    Raises
    ------
    EvaluationError
        If the shapes differ.
    """
    if distances.shape != ruler.shape:
        raise EvaluationError(
            f"Distances are {distances.shape}, the ruler's {ruler.shape}; give both of the same points."
        )
    pairs = np.triu_indices(len(distances), 1)
    a, b = distances[pairs], ruler[pairs]
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    found = []
    for limit in (np.inf, *within):
        near = b <= limit
        found.append({"within": limit, "spearman": spearman(a[near], b[near]), "n_pairs": int(near.sum())})
    return pd.DataFrame(found)


@dataclass(frozen=True)
class Flatness:
    """The best plane through points, and what lies off it.

    Attributes
    ----------
    shares
        Share of the variance along each principal axis, largest first.
    plane
        Coordinates in the plane; the sign of an axis means nothing.
    residual
        Coordinates off the plane, along the remaining axes with variance.
    """

    shares: Float[np.ndarray, " axis"]
    plane: Float[np.ndarray, "point d"]
    residual: Float[np.ndarray, "point rest"]

    @property
    def share(self) -> float:
        """Share of the variance in the plane."""
        return float(self.shares[: self.plane.shape[1]].sum())


def flatness(x: Points, d: int = 2) -> Flatness:
    """Share of the variance that the best plane of d axes holds: principal components.

    Parameters
    ----------
    x
        Points, finite, at least d + 1 of them.
    d
        Axes of the plane, from 1 to the number of features.

    Raises
    ------
    EvaluationError
        If there are fewer than d + 1 points or d features, or points are unusable.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.geometry.shape import flatness
    >>> round(flatness(np.eye(4), d=2).share, 3)  # two of three equal axes
    0.667
    """
    x = check_points(x, d)
    if d > x.shape[1]:
        raise EvaluationError(f"A plane of {d} axes was asked for, but points have {x.shape[1]} coordinates.")
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    rank = max(d, int((s > s[0] * 1e-12).sum()))
    scores = u[:, :rank] * s[:rank]
    return Flatness(s**2 / (s**2).sum(), scores[:, :d], scores[:, d:])


@dataclass(frozen=True)
class Ripple:
    """Spatial autocorrelation of what lies off the plane.

    Attributes
    ----------
    moran
        Moran's I of the residual vectors over neighbours in the plane: 0 for none, 1 for a smooth surface.
    null_mean, null_high
        Mean and 97.5 % quantile with the residuals permuted over points.
    p
        One-sided, the observed value counted; NaN where nothing lies off the plane.
    k
        Neighbours of each point in the plane.
    n_permutations
        Permutations behind the null and p; 0 where nothing lies off the plane.
    """

    moran: float
    null_mean: float
    null_high: float
    p: float
    k: int
    n_permutations: int


def ripple(flat: Flatness, *, k: int = 10, n_permutations: int = 199, seed: int) -> Ripple:
    """Test whether the residual off the plane carries structure: whether points near each other in the plane share it.

    I = (1/k) sum_i sum_{j near i} e_i . e_j / sum_i |e_i|^2, with e the residual vectors and the k nearest in the plane
    (Moran 1950; the vector form as in Wartenberg 1985); residuals are permuted over points and freed of the plane's
    coordinates again (Freedman & Lane 1983), as the principal axes free the residuals themselves: without that the test
    would be far too cautious. Noise whose size, but not sign, changes over the plane is no ripple.

    Parameters
    ----------
    flat
        Plane and residual from `flatness`, of the points to test.
    k
        Neighbours of each point in the plane, fewer than the points. More look for longer waves.
    n_permutations
        Permutations of the null; the smallest p is 1 / (1 + n_permutations), and there is none at 0.
    seed
        Seed of the permutations; the observed value has no random number.

    Raises
    ------
    EvaluationError
        If there are too few points.
    """
    from scipy.sparse import csr_array

    e = flat.residual
    n, energy = len(e), float((e**2).sum())
    near = find_neighbors(flat.plane, k, approximate=False, seed=seed).indices
    if energy <= 1e-20 * float((flat.plane**2).sum()):
        nothing = float("nan")
        return Ripple(nothing, nothing, nothing, nothing, k, 0)
    weights = csr_array((np.full(n * k, 1 / k), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    basis = np.linalg.qr(np.column_stack([np.ones(n), flat.plane]))[0]

    def moran(field: np.ndarray) -> float:
        return float(np.vdot(weights @ field, field) / np.vdot(field, field))

    def freed(field: np.ndarray) -> np.ndarray:
        return field - basis @ (basis.T @ field)

    orders = (generator(seed, "ripple", str(i)).permutation(n) for i in range(n_permutations))
    observed, null = moran(e), np.array([moran(freed(e[order])) for order in orders] or [np.nan])
    high = float(np.quantile(null, 0.975))
    return Ripple(observed, float(null.mean()), high, permutation_p(observed, null), k, n_permutations)
