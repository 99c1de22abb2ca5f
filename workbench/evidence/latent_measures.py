"""What a latent of cells is like: neighbours kept, spread within stages, how alike its axes are, subtypes on fewer axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Shaped

from workbench.cells.anchors import make_anchors
from workbench.errors import EvaluationError
from workbench.evidence.ruler import Ruler
from workbench.geometry.quality import trustworthiness
from workbench.geometry.residual import residualised_correlation
from workbench.operators.adaptor import angles
from workbench.operators.readout import Endpoint, probe, said, score, sides
from workbench.seeds import order_of

TRUST, SPREAD, AXES, SILHOUETTE = (
    "trustworthiness",
    "spread within stages",
    "mean |r| of axes",
    "silhouette of branches",
)
PLAIN, RESIDUAL, SCORE = "correlation", "residualised correlation", "selection score"
ALL, THREE, ONE, TWO_LAYERS = "all axes", "three axes", "best single axis", "two layers less linear"
NEIGHBOURS, HIDDEN, SHOWN, MOST_TRAINING = 10, 64, 3, 5000
# Of the paper's choice among hybrid heads: weights of the AUROC of both pairs of subtypes, of the silhouette and of the spread.
WEIGHTS = {"auroc": 0.25, SILHOUETTE: 0.40, SPREAD: -0.20}
NAN = float("nan")


@dataclass(frozen=True)
class HeldOut:
    """Cells that a latent is judged on, and what is known of all cells.

    Attributes
    ----------
    obs
        Standard columns of all cells, with ``stage`` (negative where unknown); the index holds their names.
    test
        Whether each cell is held out; nothing that is judged was fitted on it.
    ruler
        Ruler that the stages are of.
    endpoints
        What is read from the latent; only binary ones count here.
    """

    obs: pd.DataFrame
    test: Bool[np.ndarray, " cell"]
    ruler: Ruler
    endpoints: Sequence[Endpoint]


def latent_measures(
    z: Float[np.ndarray, "cell k"],
    features: Float[np.ndarray, "row feature"],
    rows: Int[np.ndarray, " row"],
    held: HeldOut,
    *,
    min_cells: int,
    seed: int,
) -> dict[str, float]:
    """Measures of a latent on cells that it was not fitted on; NaN where the cells do not allow one.

    Parameters
    ----------
    z
        Latent of all cells; probes and axes are chosen on those that are not held out.
    features
        Features f(x) of some held-out cells, which the latent was made of.
    rows
        Numbers of these cells: neighbours, spread, axes and silhouette are theirs.
    held
        Which cells are held out, with their stages.
    min_cells
        Fewest cells of an anchor of held-out cells, over which the correlations with the ruler are taken.
    seed
        Seed of the readout with one hidden layer.

    Returns
    -------
    dict
        By name of the measure: trustworthiness of the latent against the features (10 neighbours); mean distance to the centroid
        of the own stage over that to the centroid of all; mean absolute correlation of two axes; silhouette of branches;
        rank correlation of latent angles of anchors with ruler distances, plain and with donor and tissue regressed out; for
        each binary endpoint its AUROC on all axes, on the three leading principal axes and on the best single axis, and what a
        hidden layer of 64 adds; and the paper's score for the choice among hybrid heads.
    """
    stage, judged = held.obs["stage"].to_numpy()[rows], z[rows]
    found = {
        TRUST: _trust(features, judged),
        SPREAD: spread(judged, stage),
        AXES: axis_correlation(judged),
        SILHOUETTE: _silhouette(judged, stage, held.ruler),
        **_correlations(z, held, min_cells),
    }
    aurocs = []
    for endpoint in held.endpoints:
        if endpoint.kind != "binary":
            continue
        own = subtype_auroc(z, endpoint, held.test, seed, held.obs.index.to_numpy(dtype=str))
        aurocs.append(own[ALL])
        found |= {f"{endpoint.name}, {name}": value for name, value in own.items()}
    added = WEIGHTS["auroc"] * float(np.sum(aurocs[:2])) if len(aurocs) >= 2 else NAN
    weighted = (WEIGHTS[name] * found[name] for name in (SILHOUETTE, SPREAD))
    return {**found, SCORE: found[RESIDUAL] + added + sum(weighted)}


def spread(z: Float[np.ndarray, "cell k"], stage: Int[np.ndarray, " cell"]) -> float:
    """Mean distance of cells to the centroid of their stage over that to the centroid of all; 0 where stages are points.

    Parameters
    ----------
    z
        Latent of cells, one row each.
    stage
        Stage number of each; negative ones are left out.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.evidence.latent_measures import spread
    >>> round(spread(np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])), 3)  # 1 of 5
    0.2
    """
    z, stage = z[stage >= 0], stage[stage >= 0]
    if not len(z):
        return NAN
    centres = pd.DataFrame(z).groupby(stage).transform("mean").to_numpy()
    whole = float(np.linalg.norm(z - z.mean(0), axis=1).mean())
    return float(np.linalg.norm(z - centres, axis=1).mean()) / whole if whole else NAN


def axis_correlation(z: Float[np.ndarray, "cell k"]) -> float:
    """Mean absolute correlation of two axes over cells; NaN with one axis.

    Parameters
    ----------
    z
        Latent of cells; axes without variance are left out.
    """
    z = z[:, z.std(0) > 0]
    if z.shape[1] < 2 or len(z) < 3:
        return NAN
    return float(np.abs(np.corrcoef(z.T)[np.triu_indices(z.shape[1], 1)]).mean())


def subtype_auroc(
    z: Float[np.ndarray, "cell k"],
    endpoint: Endpoint,
    test: Shaped[np.ndarray, " cell"],
    seed: int,
    names: Shaped[np.ndarray, " cell"] | None = None,
) -> dict[str, float]:
    """AUROC of two subtypes on held-out cells from all axes, three and one, and what a hidden layer adds.

    Parameters
    ----------
    z
        Latent of all cells, held out or not.
    endpoint
        The two subtypes, and which cells are one of them.
    test
        Whether each cell is held out. Probes, principal axes, the best axis and its sign are of the other cells.
    seed
        Seed of the hidden layer.
    names
        Names of the cells. What a hidden layer adds is asked on 5,000 training cells at most, drawn by name; by place without names.
    """
    if (parts := sides(endpoint, test)) is None:
        return dict.fromkeys((ALL, THREE, ONE, TWO_LAYERS), NAN)
    train, judged = parts
    truth, known = endpoint.target[judged], endpoint.target[train]

    def auroc(x: np.ndarray, rows: np.ndarray = train, hidden: int = 0) -> float:
        fitted = probe("binary", hidden, seed).fit(x[rows], endpoint.target[rows])
        return score("binary", truth, said(fitted, "binary", x[judged]))["AUROC"]

    centred = z - z[~test].mean(0)
    axes = np.linalg.svd(centred[~test], full_matrices=False)[2][:SHOWN]
    single = np.array([score("binary", known, column)["AUROC"] for column in z[train].T])
    best = int(np.abs(single - 0.5).argmax())
    sign = 1 if single[best] >= 0.5 else -1
    named = np.arange(len(z)).astype(str) if names is None else names
    few = train[order_of(seed, named[train], "two layers")[:MOST_TRAINING]]
    if len(set(endpoint.target[few].tolist())) < 2:
        few = train
    return {
        ALL: auroc(z),
        THREE: auroc(centred @ axes.T),
        ONE: score("binary", truth, sign * z[judged, best])["AUROC"],
        TWO_LAYERS: auroc(z, few, HIDDEN) - auroc(z, few),
    }


def _trust(features: np.ndarray, z: np.ndarray) -> float:
    try:
        return float(trustworthiness(features, z, NEIGHBOURS).mean())
    except EvaluationError:
        return NAN


def _silhouette(z: np.ndarray, stage: np.ndarray, ruler: Ruler) -> float:
    from sklearn.metrics import silhouette_score

    branch = np.array(ruler.branches)[np.maximum(stage, 0)][stage >= 0]
    if not 1 < len(set(branch.tolist())) < len(branch):
        return NAN
    return float(silhouette_score(z[stage >= 0], branch))


def _correlations(z: np.ndarray, held: HeldOut, min_cells: int) -> dict[str, float]:
    """Over anchors of the held-out cells: a mean of latents is the latent of the mean."""
    try:
        anchors = make_anchors(sp.csr_matrix(z[held.test]), held.obs[held.test], min_cells=min_cells)
        factors = {name: column for name in ("donor", "tissue") if (column := anchors.column(name)) is not None}
        between = held.ruler.distances[np.ix_(anchors.stage, anchors.stage)]
        found = residualised_correlation(angles(anchors.centroids), between, factors, draws=0, seed=0)
    except EvaluationError:
        return {PLAIN: NAN, RESIDUAL: NAN}
    return {PLAIN: found.spearman, RESIDUAL: found.residualised}
