"""The head screen: every head alone through operator and adaptor, judged on a cohort that it was not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from sklearn.metrics import roc_auc_score

from workbench.cells.anchors import TECHNICAL, Anchors
from workbench.cells.placed import PlacedCells
from workbench.errors import EvaluationError
from workbench.evidence.anchor_set import AnchorSet, anchors_of
from workbench.evidence.gate_spec import SPEC, GateSpec
from workbench.evidence.gates import first_five
from workbench.evidence.holdout import relabelled
from workbench.evidence.ruler import Ruler
from workbench.geometry.quality import trustworthiness
from workbench.geometry.residual import residualised_correlation
from workbench.operators.adaptor import LETAdaptor, angles, fit_to_ruler
from workbench.operators.algorithm import fold
from workbench.operators.readout import endpoints, probe
from workbench.stats import benjamini_hochberg, null_summary
from workbench.threads import one_thread


def score_head(
    matrix: Float[np.ndarray, "gene feature"],
    fitted: PlacedCells,
    judged: PlacedCells,
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    refits: int,
    seed: int,
    spec: GateSpec = SPEC,
) -> tuple[dict[str, Any], Float[np.ndarray, " draw"]]:
    """One feature map: the adaptor is fitted on one cohort, frozen, and scored on the other.

    Parameters
    ----------
    matrix
        Linear feature map f(x) = x F, from the panel's genes to features.
    fitted, judged
        Internal and external cohort on that panel, with their anchors; their cells may be samples.
    ruler
        Ruler that the stage numbers of both belong to.
    adaptor
        Settings of the adaptor; fresh copies are fitted and it is not changed.
    refits
        Null draws: stages relabelled in both cohorts alike, the adaptor fitted again.
    seed
        Seed of the null and of the bootstrap.
    spec
        Gives the number of neighbours of trustworthiness.

    Returns
    -------
    row, null
        ``residualised`` (rank correlation of latent angles with ruler distances over pairs of external anchors; donor,
        tissue, library size, detected genes and mitochondrial share regressed out of its ranks, as far as they are known:
        ``regressed``; and the latter three out of the features of either cohort before the adaptor is fitted) with
        ``low`` and ``high`` (95 %, donors resampled), and null draws of it. Of an adaptor that was fitted to the features as they
        are: ``residualised_labels`` (donor and tissue alone, which is the paper's), ``spearman`` (the plain one),
        ``trustworthiness`` (of the frozen latent against the features), and the AUROC of a linear probe from internal to external
        cells for each pair of subtypes.
    """
    a, b = anchors_of(fitted), anchors_of(judged)
    both = AnchorSet.frozen((a.centroids @ matrix, a), (b.centroids @ matrix, b))
    row, null, model = score_anchors(both, b, ruler, adaptor, refits=refits, seed=seed, spec=spec)
    return {**row, **_subtypes(matrix, model, fitted, judged, ruler)}, null


def score_anchors(
    both: AnchorSet,
    judged: Anchors,
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    refits: int,
    seed: int,
    spec: GateSpec = SPEC,
) -> tuple[dict[str, Any], Float[np.ndarray, " draw"], LETAdaptor]:
    """The same for features of anchors that may be no map of genes, so that no cell has any: subtypes are not asked.

    Parameters
    ----------
    both
        Anchors that the adaptor is fitted on and those that are judged, with their features.
    judged
        The latter as they were made, with their donors, tissues and technical covariates.
    ruler, adaptor, refits, seed, spec
        As `score_head` takes them; the adaptor is not changed.

    Returns
    -------
    row, null, adaptor
        As of `score_head`, and the adaptor that was fitted to the features as they are.
    """
    z, model = _latent(both, both.stage, ruler, adaptor)
    factors = {name: column for name in ("donor", "tissue") if (column := judged.column(name)) is not None}

    def score(latent: np.ndarray, stage: np.ndarray, draws: int, technical: Mapping[str, np.ndarray]) -> Any:
        between, distances, donor = angles(latent), ruler.distances[np.ix_(stage, stage)], factors.get("donor")
        fixed: Any = {"clusters": donor, "draws": draws, "seed": seed}
        return residualised_correlation(between, distances, factors, covariates=technical, **fixed)

    labels, without = score(z, judged.stage, 0, {}), both.without_technical()
    own = z if without is both else _latent(without, without.stage, ruler, adaptor)[0]
    found = score(own, judged.stage, 1000, judged.technical)
    null = []
    for draw in range(refits):
        stage = relabelled(both.stage, seed, draw)
        null.append(
            score(_latent(without, stage, ruler, adaptor)[0], stage[both.test], 0, judged.technical).residualised
        )
    try:
        trust = float(trustworthiness(both.features[both.test], z, spec.neighbours).mean())
    except EvaluationError:
        trust = float("nan")
    row = {
        "residualised": found.residualised,
        "low": found.low,
        "high": found.high,
        "residualised_labels": labels.residualised,
        "spearman": labels.spearman,
        "trustworthiness": trust,
        "n_anchors": found.n_anchors,
        "n_donors": found.n_clusters if "donor" in factors else 0,
        "regressed": ", ".join(TECHNICAL.get(name, name) for name in found.factors),
    }
    return row, np.array(null), model


def gate_columns(
    matrix: Float[np.ndarray, "gene feature"],
    judged: PlacedCells,
    ruler: Ruler,
    adaptor: LETAdaptor,
    *,
    seed: int,
    spec: GateSpec = SPEC,
) -> dict[str, str]:
    """Gates 1 to 5 of the external cohort by itself under a head's feature map.

    Parameters
    ----------
    matrix, judged, ruler, adaptor, seed, spec
        As `score_head` takes them; here all of `spec` counts.

    Returns
    -------
    dict
        ``gates``: how many pass of those that can be computed; and the status of each.
    """
    anchors = anchors_of(judged)
    own = AnchorSet.of_cohort(anchors.centroids @ matrix, anchors)
    gates = first_five(own, ruler, adaptor, seed=seed, spec=spec)
    done = [gate for gate in gates if gate.status != "not applicable"]
    passed = sum(gate.status == "pass" for gate in done)
    return {
        "gates": f"{passed} of {len(done)}",
        **{gate.gate.replace(" ", "_") + "_gate": gate.status for gate in gates},
    }


@one_thread()
def _latent(
    both: AnchorSet, stage: np.ndarray, ruler: Ruler, adaptor: LETAdaptor
) -> tuple[Float[np.ndarray, "anchor k"], LETAdaptor]:
    model = fit_to_ruler(adaptor, both.features, stage, ruler.distances, both.weights, both.train)
    return model.transform(both.features[both.test]), model


@one_thread()
def _subtypes(
    matrix: np.ndarray, model: LETAdaptor, fitted: PlacedCells, judged: PlacedCells, ruler: Ruler
) -> dict[str, float]:
    """AUROC per pair of subtypes, from internal to external cells; NaN where either side lacks one of the two."""
    encode, offset = fold(matrix, model.encoder_, model.bias_)
    latent = [np.asarray(cells.expression @ encode) + offset for cells in (fitted, judged)]
    wanted = [endpoints(cells.stage, ruler) for cells in (fitted, judged)]
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
        Null draws of all heads together; those that are not finite do not count.

    Returns
    -------
    DataFrame
        ``rank`` first; ``null_mean``, ``null_high`` (97.5 %), ``n_null``, ``p`` (one-sided, the pooled null), ``q``
        (Benjamini-Hochberg over heads).
    """
    table = rows.sort_values(["residualised", "layer", "head"], ascending=[False, True, True], kind="stable")
    table = table.reset_index(drop=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    null = pd.DataFrame([null_summary(value, nulls) for value in table["residualised"]])
    table[null.columns] = null
    table["q"] = benjamini_hochberg(table["p"].to_numpy())
    return table
