"""The shape of what a feature map encodes: dimension, neighbourhoods, geodesics, flatness, stage distances, lineages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.cells.placed import PlacedCells
from workbench.errors import EvaluationError
from workbench.evidence.anchor_set import anchors_of
from workbench.evidence.contrasts import read_lineages
from workbench.evidence.ruler import Ruler
from workbench.geometry.dimension_tables import dimension_table, let_elbow, subsample_curve
from workbench.geometry.neighbors import find_neighbors
from workbench.geometry.quality import embedding_quality
from workbench.geometry.shape import flatness, geodesics, ripple, ruler_agreement, stage_distances
from workbench.geometry.trajectories import trajectory_table
from workbench.operators.adaptor import LETAdaptor, angles, fit_to_ruler
from workbench.seeds import generator
from workbench.threads import one_thread

FEATURES, LATENT = "features of cells, f(x)", "latent of cells, z"
_KS = (5, 10, 15, 20, 30, 50)
_NEAR = 0.3  # ruler distances up to which a pair of anchors counts as near
_NULL_DRAWS = 20


@one_thread()
def geometry(
    placed: PlacedCells,
    matrix: Float[np.ndarray, "gene feature"],
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    branches: Sequence[str],
    seed: int,
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Tables on one cohort under one feature map; the adaptor is fitted on all of its anchors.

    Parameters
    ----------
    placed
        Cells of the cohort with their anchors; dimension is that of cells, all else is about anchors.
    matrix
        Linear feature map f(x) = x F, from panel genes to features.
    ruler
        Ruler that the stage numbers of `placed` belong to.
    adaptor
        Settings of the adaptor; fresh copies are fitted and it is not changed.
    branches
        Lineages to follow; the ruler's own where there are none.
    seed
        Seed of subsamples and nulls; the tables depend on no other random number.

    Returns
    -------
    tables
        ``dimension``, ``dimension_curve``, ``quality``, ``elbow``, ``shape``, ``distances``, ``trajectories``; as many as
        the cohort allows.
    skipped
        What it does not allow, and why.
    """
    anchors = anchors_of(placed)
    blocks = [column for name in ("donor", "tissue") if (column := anchors.column(name)) is not None]
    followed: dict[str, Any] = {
        "branches": read_lineages(branches, ruler.branches),
        "blocks": np.column_stack(blocks) if blocks else None,
        "weights": anchors.weights,
    }
    at = anchors.centroids @ matrix
    between = ruler.distances[np.ix_(anchors.stage, anchors.stage)]
    fitted = fit_to_ruler(adaptor, at, anchors.stage, ruler.distances, anchors.weights)
    z = fitted.transform(at)
    cells = np.asarray(placed.expression @ matrix, dtype=np.float64)
    spaces = {FEATURES: cells, LATENT: fitted.transform(cells)}
    wanted: dict[str, Callable[[], pd.DataFrame]] = {
        "dimension": lambda: _by_space(spaces, lambda x: dimension_table(x, seed=seed)),
        "dimension_curve": lambda: _by_space(spaces, lambda x: subsample_curve(x, seed=seed)),
        "quality": lambda: _quality(at, z, seed),
        "elbow": lambda: let_elbow(at, between, adaptor=adaptor, weights=anchors.weights).assign(n_anchors=len(at)),
        "shape": lambda: _shape(at, z, between, seed),
        "distances": lambda: stage_distances(angles(z), anchors.stage, ruler),
        "trajectories": lambda: trajectory_table(at, anchors.stage, ruler, adaptor, **followed, seed=seed),
    }
    tables, skipped = {}, {}
    for name, make in wanted.items():
        try:
            tables[name] = make()
        except EvaluationError as error:
            skipped[name] = str(error)
    return tables, skipped


def _by_space(spaces: dict[str, np.ndarray], make: Callable[[np.ndarray], pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([make(x).assign(space=name) for name, x in spaces.items()], ignore_index=True)


def _quality(at: np.ndarray, z: np.ndarray, seed: int) -> pd.DataFrame:
    """Trustworthiness and continuity over k, beside those of the latent with its rows permuted."""
    n = len(at)
    ks = [k for k in _KS if k < n / 2]
    table = embedding_quality(at, z, ks).table()
    orders = [generator(seed, "quality null", str(i)).permutation(n) for i in range(_NULL_DRAWS)]
    null = [embedding_quality(at, z[order], ks).table()["trustworthiness"] for order in orders]
    mean, high = np.mean(null, axis=0), np.quantile(null, 0.975, axis=0)
    return table.assign(null=mean, null_high=high, n=n, space="anchors: latent against f(x)")


def _shape(at: np.ndarray, z: np.ndarray, between: np.ndarray, seed: int) -> pd.DataFrame:
    """Geodesics against the ruler, near and far, in features and latent; flatness; and what is left off the plane."""
    n = len(at)
    k = min(10, n - 1)
    rows: list[dict[str, Any]] = []
    for name, x in (("f(x)", at), ("z", z)):
        paths = geodesics(find_neighbors(x, k, approximate=False, seed=seed), component="largest")
        kept = between[np.ix_(paths.rows, paths.rows)]
        for row in ruler_agreement(paths.distances, kept, (_NEAR,)).to_dict("records"):
            reach = "all pairs" if np.isinf(row["within"]) else f"pairs within {_NEAR:g} on the ruler"
            measure = f"geodesic against ruler, {reach} (Spearman)"
            note = f"{row['n_pairs']} pairs; {paths.n_components} components; the adaptor saw these anchors"
            rows.append({"space": name, "measure": measure, "value": row["spearman"], "n": len(kept), "note": note})
        flat = flatness(x)
        rows.append({"space": name, "measure": "share of variance in the best plane", "value": flat.share, "n": n})
        wave = ripple(flat, k=k, seed=seed)
        off = {"space": name, "measure": "structure off the plane (Moran's I)", "value": wave.moran, "n": n}
        null = {"null_mean": wave.null_mean, "null_high": wave.null_high, "p": wave.p}
        rows.append({**off, **null, "note": f"{wave.n_permutations} permutations"})
    return pd.DataFrame(rows)
