"""What is asked of every method, and how an answer is judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, recall_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.evidence.protocol import Answer, Said
from workbench.evidence.ruler import Ruler
from workbench.operators.calibration import calibration_error
from workbench.operators.readout import METRICS, Endpoint, endpoints, score
from workbench.seeds import key

ALL = "all"
HIGHER, LOWER = "higher", "lower"
CLUSTERS, LEAKAGE = "clusters", "donor"
MACROPHAGE = "macrophage"
_NEIGHBOURS, _RESOLUTION, _FOLDS = 15, 1.0, 3
_FEW = 10
NOT_SAID = "not said"


@dataclass(frozen=True)
class Judged:
    """The truth about some cells, which no method sees.

    Attributes
    ----------
    names, stage, donor
        Of the cells; no donor where the data name none.
    endpoints
        With the targets of these cells.
    """

    names: Shaped[np.ndarray, " cell"]
    stage: Int[np.ndarray, " cell"]
    donor: Shaped[np.ndarray, " cell"] | None
    endpoints: tuple[Endpoint, ...]


def asked(stage: Int[np.ndarray, " cell"], ruler: Ruler, *, macrophages: bool) -> tuple[Endpoint, ...]:
    """The endpoints of the method's benchmark for some cells.

    Parameters
    ----------
    stage
        Stage number of each, -1 without a place on the ruler.
    ruler
        The ruler.
    macrophages
        Whether the campaign has any, so that monocytes are read against them as well.
    """
    found = endpoints(stage, ruler.stages, ruler.branches, ruler.depths)
    if macrophages:
        name = np.array(ruler.stages)[np.maximum(stage, 0)]
        branch = np.array(ruler.branches)[np.maximum(stage, 0)]
        either = np.flatnonzero((stage >= 0) & ((branch == "monocyte") | (name == MACROPHAGE)))
        found.append(Endpoint("monocyte against macrophage", "binary", name != MACROPHAGE, either))
    return tuple(found)


def measures(wanted: tuple[Endpoint, ...]) -> Iterator[tuple[str, str, str]]:
    """Endpoint, metric, and whether higher or lower is better, of everything that is judged.

    Parameters
    ----------
    wanted
        The endpoints.
    """
    for one in wanted:
        for metric in METRICS[one.kind]:
            yield one.name, metric, HIGHER
        if one.name == "stage":
            yield one.name, "calibration error", LOWER
        if one.name == "CD4 against CD8":
            yield one.name, "balanced accuracy", HIGHER
    yield CLUSTERS, "ARI", HIGHER
    yield LEAKAGE, "leakage", LOWER


def judge(said: Said, truth: Judged, *, trained: tuple[Endpoint, ...], seed: int) -> list[dict[str, Any]]:
    """Score what a method said of the cells of a test side: all together, and the cells of each donor.

    Parameters
    ----------
    said, truth
        The answers, and what is right.
    trained
        Endpoints of the training side: one that has a single class there is undefined for everybody.
    seed
        Of the clusters and of the donor probe.

    Returns
    -------
    list of dict
        ``scope``, ``endpoint``, ``metric``, ``better``, ``value``, ``n_cells``, ``status``.
    """
    scopes = {ALL: np.ones(len(truth.names), dtype=bool)}
    if truth.donor is not None:
        scopes |= {str(donor): truth.donor == donor for donor in sorted(set(truth.donor.tolist()))}
    single = {one.name for one in trained if len(set(one.target[one.cells].tolist())) < 2}
    rows: list[dict[str, Any]] = []
    for scope, kept in scopes.items():
        for one in truth.endpoints:
            rows += [{"scope": scope, **row} for row in _endpoint(one, said, kept, one.name in single)]
    for name, metric, better, (value, n, status) in (
        (CLUSTERS, "ARI", HIGHER, _clusters(said.latent, truth.stage, seed)),
        (LEAKAGE, "leakage", LOWER, _leakage(said.latent, truth, seed)),
    ):
        found = {"endpoint": name, "metric": metric, "better": better, "value": value, "n_cells": n, "status": status}
        rows.append({"scope": ALL, **found})
    return rows


def _endpoint(one: Endpoint, said: Said, kept: np.ndarray, single: bool) -> list[dict[str, Any]]:
    cells = one.cells[kept[one.cells]]
    target, answer = one.target[cells], said.answers.get(one.name)
    own = [row for row in measures((one,)) if row[0] == one.name]
    found: dict[str, float] = {}
    if single:
        status = "undefined: the training cells have one class only"
    elif len(set(target.tolist())) < 2:
        classes = sorted(set(map(str, target.tolist())))
        status = f"undefined: {len(cells)} test cells of {'one class only' if classes else 'no class'}"
    elif answer is None:
        status = NOT_SAID
    elif not np.isfinite(answer.values[cells]).all():
        status = "failed: an answer is not finite"
    else:
        found, status = _values(one.kind, target, answer, cells), "ok"
    return [
        {
            "endpoint": name,
            "metric": metric,
            "better": better,
            "value": found.get(metric, np.nan),
            "n_cells": len(cells),
            "status": status,
        }
        for name, metric, better in own
    ]


def _values(kind: str, target: np.ndarray, answer: Answer, cells: np.ndarray) -> dict[str, float]:
    values = answer.values[cells]
    if kind == "depth":
        return score(kind, target, values[:, 0])
    names = np.array(answer.classes)
    if kind == "binary":
        yes = values[:, answer.classes.index("True")]
        right = recall_score(target, yes > 0.5, average="macro", zero_division=0)
        return {**score(kind, target, yes), "balanced accuracy": float(right)}
    found = score(kind, target, names[values.argmax(1)])
    # A class that the method was never shown has no probability that could be right.
    known = np.isin(target.astype(str), names)
    if known.any():
        place = {name: i for i, name in enumerate(answer.classes)}
        number = np.array([place[str(value)] for value in target[known].tolist()])
        found["calibration error"] = calibration_error(values[known], number)
    return found


def _clusters(latent: Float[np.ndarray, "cell width"] | None, stage: np.ndarray, seed: int) -> tuple[float, int, str]:
    """Adjusted Rand index of Leiden clusters of the latent, at resolution 1, against stages."""
    rows = np.flatnonzero(stage >= 0)
    if latent is None:
        return np.nan, len(rows), NOT_SAID
    if len(rows) <= _NEIGHBOURS or len(set(stage[rows].tolist())) < 2:
        return np.nan, len(rows), f"undefined: {len(rows)} test cells, or one stage only"
    try:
        import igraph  # noqa: F401
    except ImportError:
        return np.nan, len(rows), "not run: needs igraph, pip install 'scgpt-workbench[peers]'"
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(np.asarray(latent[rows], dtype=np.float32))
    state = key(seed, "benchmark clusters") % 2**31
    sc.pp.neighbors(cells, n_neighbors=_NEIGHBOURS, use_rep="X", random_state=state)
    sc.tl.leiden(cells, resolution=_RESOLUTION, flavor="igraph", n_iterations=2, directed=False, random_state=state)
    return float(adjusted_rand_score(stage[rows], cells.obs["leiden"])), len(rows), "ok"


def _leakage(latent: Float[np.ndarray, "cell width"] | None, truth: Judged, seed: int) -> tuple[float, int, str]:
    """How well a linear probe finds the donor once stage means are taken out: 0 by chance, 1 always.

    Cross-validated balanced accuracy a over d donors, as (a - 1/d) / (1 - 1/d); only stages that every donor has ten cells of
    count, so that what a donor is made of gives it away to nobody.
    """
    if latent is None:
        return np.nan, 0, NOT_SAID
    if truth.donor is None:
        return np.nan, 0, "undefined: the data name no donors"
    n_donors = len(set(truth.donor.tolist()))
    if n_donors < 2:
        return np.nan, 0, "undefined: one donor only"
    table = pd.crosstab(truth.stage, truth.donor)
    stages = [stage for stage in table.index[(table >= _FEW).all(axis=1)] if stage >= 0]
    rows = np.flatnonzero(np.isin(truth.stage, stages))
    if not len(rows):
        return np.nan, 0, f"undefined: no stage has {_FEW} cells of every donor"
    # By name, so that the order of the cells decides nothing.
    rows = rows[np.argsort(truth.names[rows], kind="stable")]
    x, stage, donor = np.asarray(latent[rows], dtype=np.float64), truth.stage[rows], truth.donor[rows]
    x = x - pd.DataFrame(x).groupby(stage).transform("mean").to_numpy()
    if x.shape[1] > 50:
        from sklearn.decomposition import PCA

        x = PCA(50, svd_solver="covariance_eigh").fit_transform(x)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=key(seed, "donor probe") % 2**32)
    right = []
    for fitted, held in folds.split(x, donor):
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        said = model.fit(x[fitted], donor[fitted]).predict(x[held])
        right.append(recall_score(donor[held], said, average="macro", zero_division=0))
    chance = 1 / n_donors
    return float((np.mean(right) - chance) / (1 - chance)), len(rows), "ok"
