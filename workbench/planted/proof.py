"""Do the instruments find what was planted, and nothing where nothing is: one task per world, for the sweep engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.cells.anchors import make_anchors
from workbench.cells.expression import panel_expression
from workbench.cells.placed import PlacedCells, place_cells
from workbench.evidence.anchor_set import AnchorSet, anchors_of
from workbench.evidence.gate_spec import SPEC
from workbench.evidence.gates import evaluate, expected_to_fail, first_five, verdict
from workbench.evidence.null_rulers import rewired, shuffled
from workbench.evidence.ruler import Ruler
from workbench.evidence.screen import rank_heads, score_head
from workbench.geometry.dimension_tables import agreement, dimension_table
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.operator import head_name
from workbench.operators.weight_operators import KINDS, weight_operators
from workbench.planted.cells import GRAPH, OFF_GRAPH, REMOVED, World, make_world, planted_cells
from workbench.planted.checkpoint import PlantedModel, plant_world

OPERATORS = ("attention", *KINDS)
NULLS = ("shuffled ruler", "rewired ruler", "signal removed")
INTERNAL, EXTERNAL, TO_FAIL = ("D1", "D2", "D3"), ("D4", "D5", "D6"), ("E1", "E2", "E3")


def operators_of(planted: PlantedModel, cells: AnnData, kind: str) -> Float[np.ndarray, "layer head gene gene"]:
    """Operators of all heads of a planted model.

    Parameters
    ----------
    planted
        Planted checkpoint; the genes of its world are the panel.
    cells
        Cells whose patterns are averaged, every third of them; not used for ``qk`` and ``ov``.
    kind
        Kind of operator: ``attention``, ``qk`` or ``ov``.
    """
    genes = planted.world.genes
    if kind != "attention":
        return weight_operators(planted.model, genes, kind).dense()
    pairs = GenePairSink(genes, planted.model.vocabulary)
    # A mean over a third of the cells is as good, and the passes are most of the work.
    tokenizer = planted.model.tokenizer(cells[::3].copy(), seed=planted.world.seed)
    capture(planted.model, tokenizer, [PATTERNS], [pairs], progress=False)
    return pairs.result().mean()


def overlap(operator: Float[np.ndarray, "gene gene"], read: Float[np.ndarray, "gene d"]) -> float:
    """How much of a subspace is among what an operator reads most.

    Parameters
    ----------
    operator
        Rows are centred first: what all genes share does not tell which gene it is.
    read
        Orthonormal basis of the subspace that is looked for.

    Returns
    -------
    float
        Mean squared cosine of the principal angles between `read` and the d leading left singular vectors: 1 for the
        same subspace, d / genes by chance.
    """
    left = np.linalg.svd(operator - operator.mean(0))[0][:, : read.shape[1]]
    return float((np.linalg.svd(left.T @ read)[1] ** 2).mean())


def placed_cells(world: World, cells: AnnData) -> PlacedCells:
    """Planted cells on the genes and the ruler of their world, with their anchors.

    Parameters
    ----------
    world
        World whose genes are the panel and whose ruler places the labels.
    cells
        Cells of that world, as `planted_cells` makes them.
    """
    expression, (obs, _) = panel_expression(cells, world.genes), place_cells(cells, world.ruler, {})
    name, anchors = cells.uns["workbench"]["name"], make_anchors(expression, obs)
    return PlacedCells(name, obs, world.genes, expression, world.ruler, anchors=anchors)


def recovery(seed: int, kind: str) -> pd.DataFrame:
    """One world with everything planted: which head comes first, its dimension and subspace, and its gates.

    Parameters
    ----------
    seed
        Seed of both the world and the checkpoint.
    kind
        Kind of operator: ``attention``, ``qk`` or ``ov``.

    Returns
    -------
    DataFrame
        One row; everything is about the head that the screen puts first, be it the planted one or not.
    """
    world = make_world(seed)
    planted, adaptor = plant_world(world, seed), LETAdaptor()
    fitted = planted_cells(world, INTERNAL)
    operators = operators_of(planted, fitted, kind)
    internal, external = placed_cells(world, fitted), placed_cells(world, planted_cells(world, EXTERNAL))
    rows = []
    for layer, head in np.ndindex(*operators.shape[:2]):
        row, _ = score_head(operators[layer, head], internal, external, world.ruler, adaptor, refits=0, seed=seed)
        rows.append({"layer": layer, "head": head, **row})
    table = rank_heads(pd.DataFrame(rows), np.zeros(0))
    is_planted = (table["layer"] == planted.layer) & (table["head"] == planted.head)
    best = table.iloc[0]
    matrix = operators[int(best["layer"]), int(best["head"])]
    anchors = anchors_of(internal)
    between = world.ruler.distances[np.ix_(anchors.stage, anchors.stage)]
    extracted = matrix @ adaptor.fit(anchors.centroids @ matrix, between).encoder_.T
    found = dimension_table(np.asarray(internal.expression @ matrix, dtype=np.float64), n_subsamples=0, seed=seed)
    doomed = placed_cells(world, planted_cells(world, TO_FAIL, ("lung",), signal=OFF_GRAPH))
    gates = _gates(internal, doomed, matrix, world.ruler, adaptor, seed)
    control = score_head(np.eye(len(world.genes)), internal, external, world.ruler, adaptor, refits=0, seed=seed)[0]
    others = [overlap(operators[at], planted.read) for at in np.ndindex(*operators.shape[:2])]
    others.pop(planted.layer * operators.shape[1] + planted.head)
    agreed, failed = agreement(found), [gate.gate for gate in gates if gate.status != "pass"]
    row = {"seed": seed, "operator": kind, "planted": head_name(planted.layer, planted.head)}
    row |= {"planted_rank": int(table.loc[is_planted, "rank"].iloc[0]), "n_heads": len(table)}
    row |= {"residualised": best["residualised"], "best_other": table.loc[~is_planted, "residualised"].max()}
    row |= {"identity": control["residualised"], "dimension": agreed["median"], "dimension_low": agreed["low"]}
    row |= {"dimension_high": agreed["high"], "truth": len(world.tips), "overlap": overlap(matrix, planted.read)}
    row |= {"overlap_extracted": overlap(extracted, planted.read), "overlap_of_others": float(np.median(others))}
    row |= {"gates_passed": len(gates) - len(failed), "gates_total": len(gates), "failed": ", ".join(failed)}
    counts = {"n_anchors": len(anchors), "n_cells": len(internal), "spec": SPEC.hash}
    return pd.DataFrame([{**row, **_values(gates), **counts}])


def null_draw(seed: int, kind: str, operator: str) -> pd.DataFrame:
    """One world in which nothing is to be found: the planted head through the gates all the same.

    Parameters
    ----------
    seed
        Seed of both the world and the checkpoint.
    kind
        ``shuffled ruler``: cells and head as planted, but the ruler's stages changed places. ``rewired ruler``: the same
        with a random graph of the same degrees. ``signal removed``: a cell's state has nothing to do with its label.
    operator
        Kind of operator: ``attention``, ``qk`` or ``ov``.
    """
    world, adaptor = make_world(seed), LETAdaptor()
    planted = plant_world(world, seed)
    cells = planted_cells(world, INTERNAL, signal=REMOVED if kind == "signal removed" else GRAPH)
    matrix = operators_of(planted, cells, operator)[planted.layer, planted.head]
    ruler = world.ruler
    if kind == "shuffled ruler":
        ruler = shuffled(ruler, seed, [ruler.stages[stage] for stage in world.stages])
    elif kind == "rewired ruler":
        ruler = rewired(ruler, seed)
    doomed = placed_cells(world, planted_cells(world, TO_FAIL, ("lung",), signal=OFF_GRAPH))
    gates = _gates(placed_cells(world, cells), doomed, matrix, ruler, adaptor, seed)
    statuses = {gate.gate.replace(" ", "_") + "_status": gate.status for gate in gates}
    row = {"seed": seed, "kind": kind, "operator": operator, "verdict": verdict(gates), **statuses, **_values(gates)}
    return pd.DataFrame([{**row, "spec": SPEC.hash}])


def _gates(
    cells: PlacedCells, doomed: PlacedCells, matrix: np.ndarray, ruler: Ruler, adaptor: LETAdaptor, seed: int
) -> list[Any]:
    """All seven; the cohort that is expected to fail goes through the same feature map."""

    def judged(one: PlacedCells) -> AnchorSet:
        anchors = anchors_of(one)
        return AnchorSet.of_cohort(anchors.centroids @ matrix, anchors)

    gates = evaluate(judged(cells), ruler, adaptor, seed=seed, refits=0)
    return [*gates, expected_to_fail({"off graph": first_five(judged(doomed), ruler, adaptor, seed=seed)})]


def _values(gates: list[Any]) -> dict[str, float]:
    return {gate.gate.replace(" ", "_"): gate.value for gate in gates}
