"""The head screen: every head alone through operator and adaptor, judged on a panel that it was not fitted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from workbench.cells.anchors import Anchors
from workbench.errors import EvaluationError
from workbench.evidence.anchor_pool import Pool
from workbench.evidence.gate_spec import SPEC, GateSpec
from workbench.evidence.gates import first_five
from workbench.evidence.holdout import relabelled
from workbench.evidence.ruler import Ruler
from workbench.geometry.quality import trustworthiness
from workbench.geometry.residual import residualised_correlation
from workbench.operators.adaptor import LETAdaptor, angles
from workbench.operators.algorithm import fold
from workbench.operators.readout import endpoints, probe
from workbench.stats import benjamini_hochberg, permutation_p


@dataclass(frozen=True)
class Side:
    """One of the two panels of a screen.

    Attributes
    ----------
    anchors
        Its anchors.
    expression
        Its cells, dense or sparse, cell x gene; rows may be a sample.
    stage
        Stage number of each of these cells, negative where unknown.
    """

    anchors: Anchors
    expression: Any
    stage: Int[np.ndarray, " cell"]


def score_head(
    matrix: Float[np.ndarray, "gene feature"],
    fitted: Side,
    judged: Side,
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    refits: int,
    seed: int,
    spec: GateSpec = SPEC,
) -> tuple[dict[str, Any], Float[np.ndarray, " draw"]]:
    """One feature map: the adaptor is fitted on one panel, frozen, and scored on the other.

    Parameters
    ----------
    matrix
        Linear feature map f(x) = x F.
    fitted, judged
        The internal and the external panel.
    ruler, adaptor
        As in `gates.evaluate`.
    refits
        Null draws: stages relabelled in both panels alike, the adaptor fitted again.
    seed
        The one seed.
    spec
        For the neighbours of trustworthiness.

    Returns
    -------
    row, null
        ``residualised`` (rank correlation of latent angles with ruler distances over pairs of external anchors, donor
        and tissue regressed out) with ``low`` and ``high`` (95 %, donors resampled), ``spearman`` (the plain one),
        ``trustworthiness`` (of the frozen latent against the features), AUROC of a linear probe from internal to external
        cells for each pair of subtypes; and null draws of ``residualised``.
    """
    a, b = fitted.anchors, judged.anchors
    pool = Pool.frozen((a.centroids @ matrix, a), (b.centroids @ matrix, b))
    z, model = _latent(pool, pool.stage, ruler, adaptor)
    factors = {name: column for name in ("donor", "tissue") if (column := b.column(name)) is not None}

    def score(latent: np.ndarray, stage: np.ndarray, draws: int) -> Any:
        distances = ruler.distances[np.ix_(stage, stage)]
        return residualised_correlation(
            angles(latent), distances, factors, clusters=factors.get("donor"), draws=draws, seed=seed
        )

    found = score(z, b.stage, 1000)
    null = []
    for draw in range(refits):
        stage = relabelled(pool.stage, seed, draw)
        null.append(score(_latent(pool, stage, ruler, adaptor)[0], stage[pool.test], 0).residualised)
    try:
        trust = float(trustworthiness(pool.features[pool.test], z, spec.neighbours).mean())
    except EvaluationError:
        trust = float("nan")
    row = {
        "residualised": found.residualised,
        "low": found.low,
        "high": found.high,
        "spearman": found.spearman,
        "trustworthiness": trust,
        **_subtypes(matrix, model, fitted, judged, ruler),
        "n_anchors": found.n_anchors,
        "n_donors": found.n_clusters if "donor" in factors else 0,
    }
    return row, np.array(null)


def gate_columns(
    matrix: Float[np.ndarray, "gene feature"],
    judged: Side,
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    seed: int,
    spec: GateSpec = SPEC,
) -> dict[str, str]:
    """Gates 1 to 5 of the external panel by itself under a head's feature map.

    Parameters
    ----------
    matrix, judged, ruler, adaptor, seed, spec
        As in `score_head`.

    Returns
    -------
    dict
        ``gates``: how many pass of those that can be computed; and the status of each.
    """
    pool = Pool.of_panel(judged.anchors.centroids @ matrix, judged.anchors)
    gates = first_five(pool, ruler, adaptor, seed=seed, spec=spec)
    done = [gate for gate in gates if gate.status != "not applicable"]
    passed = sum(gate.status == "pass" for gate in done)
    return {
        "gates": f"{passed} of {len(done)}",
        **{gate.gate.replace(" ", "_") + "_gate": gate.status for gate in gates},
    }


@threadpool_limits.wrap(limits=1)
def _latent(
    pool: Pool, stage: np.ndarray, ruler: Ruler, adaptor: LETAdaptor
) -> tuple[Float[np.ndarray, "anchor k"], LETAdaptor]:
    train = pool.train
    between = ruler.distances[np.ix_(stage[train], stage[train])]
    model = LETAdaptor(**adaptor.get_params()).fit(pool.features[train], between, pool.weights[train])
    return model.transform(pool.features[pool.test]), model


@threadpool_limits.wrap(limits=1)
def _subtypes(matrix: np.ndarray, model: LETAdaptor, fitted: Side, judged: Side, ruler: Ruler) -> dict[str, float]:
    """AUROC per pair of subtypes, from internal to external cells; NaN where either side lacks one of the two."""
    encode, offset = fold(matrix, model.encoder_, model.bias_)
    latent = [np.asarray(side.expression @ encode) + offset for side in (fitted, judged)]
    wanted = [endpoints(side.stage, ruler.stages, ruler.branches, ruler.depths) for side in (fitted, judged)]
    found = {}
    for one, other in zip(*wanted, strict=True):
        if one.kind != "binary":
            continue
        truth, known = other.target[other.cells], one.target[one.cells]
        name = one.name.replace(" ", "_") + "_auroc"
        if len(set(known.tolist())) < 2 or len(set(truth.tolist())) < 2:
            found[name] = float("nan")
            continue
        fit = probe("binary").fit(latent[0][one.cells], known)
        found[name] = float(roc_auc_score(truth, fit.decision_function(latent[1][other.cells])))
    return found


def rank_heads(rows: pd.DataFrame, nulls: Float[np.ndarray, " draw"]) -> pd.DataFrame:
    """Heads in the order of their residualised correlation, with p and q.

    Parameters
    ----------
    rows
        One row per head: ``layer``, ``head`` and what `score_head` returns.
    nulls
        Null draws, pooled over heads.

    Returns
    -------
    DataFrame
        ``rank`` first; ``null_mean``, ``null_high`` (97.5 %), ``n_null``, ``p`` (one-sided, the pooled null), ``q``
        (Benjamini-Hochberg over heads).
    """
    null = nulls[np.isfinite(nulls)]
    table = rows.sort_values(["residualised", "layer", "head"], ascending=[False, True, True], kind="stable")
    table = table.reset_index(drop=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    table["null_mean"] = null.mean() if len(null) else np.nan
    table["null_high"] = np.quantile(null, 0.975) if len(null) else np.nan
    table["n_null"] = len(null)
    table["p"] = [permutation_p(value, null) for value in table["residualised"]]
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    return table
