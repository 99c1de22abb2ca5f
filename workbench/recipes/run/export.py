"""The stage that leaves the algorithm behind: fitted on all cells, folded, written, read again, and drawn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm import tqdm

from workbench.engine.provenance import versions
from workbench.engine.stages import Result, Results
from workbench.errors import EvaluationError
from workbench.evidence.contrasts import OFF_RULER
from workbench.evidence.technical import technical_axes
from workbench.evidence.transfers import COLUMNS, transfer
from workbench.geometry.shape import stage_distances
from workbench.operators import saved_operator
from workbench.operators.adaptor import LETAdaptor, angles
from workbench.operators.algorithm import CARD, README, WEIGHTS, Algorithm, fold
from workbench.operators.exporting import HeldOutEncoder, TrainingCells, export_readouts
from workbench.operators.reference import LEVEL_COLUMNS, levels_table
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.gates import TABLES as GATES
from workbench.seeds import key

TABLES = ("latent", "distances", "latent_axes", "levels", "transfers")
FOLDER, MAP = "algorithm", "operator"
FILES = (
    *(f"{FOLDER}/{name}" for name in (WEIGHTS, CARD, README)),
    *(f"{MAP}/{name}" for name in (saved_operator.WEIGHTS, saved_operator.CARD)),
)
LIMITS = (
    "Fitted on the cells named under data and judged in the tables readouts.csv and added.csv of its run; on other tissues, donors or "
    "technologies than those and the studies listed here it has not been tested. It depends on the operator A through A A^T alone: which "
    "genes are read together is what was judged, and what a head writes is not."
)
_GATE = ("gate", "status", "value", "rule", "threshold", "sd", "n", "unit", "null_high", "p", "note", "spec")


def algorithm_stage(context: RunContext, _: Path, __: Results) -> Result:
    """Fit on all cells, fold, export, and apply again from the file alone.

    Parameters
    ----------
    context
        Run whose heads and readouts were judged; gates go onto the card where it has that section.
    _, __
        Folder of the stage, which nothing is left in, and results of those before it, of which none is needed.

    Returns
    -------
    dict
        ``relative_difference_from_file``; sizes in bytes, ``n_parameters``, ``stress`` and ``readouts``, the number of
        classes by endpoint.
    """
    config, cells, anchors, matrix = context.config, context.cells, context.anchors(), context.feature_map()
    fitted = context.fitted(matrix)
    rows = range(0, len(cells), 1024)
    # The long way, feature map and adaptor one after the other, for the folded one to be held against.
    blocks = (cells.expression[row : row + 1024] @ matrix for row in rows)
    z = np.concatenate([fitted.transform(np.asarray(block, dtype=np.float64)) for block in blocks])
    folded, offset = fold(matrix, fitted.encoder_, fitted.bias_)
    wanted = [one for one in context.endpoints if len(set(one.target[one.cells].tolist())) > 1]
    training = TrainingCells(
        cells.expression, cells.names, cells.genes, wanted, hidden=config.readout.hidden, seed=config.seed
    )
    # Each fold is left out twice, of the latent and of its readouts; then there are the readouts of all cells, and levels.
    total = 2 * config.evaluation.folds + 2
    with tqdm(unit="fit", total=total, desc="algorithm", disable=not context.backend.progress) as bar:
        readouts, reference = export_readouts(training, folded, offset, list(_encoders(context, bar)), bar)
    weights = context.model.fingerprint()
    about, of = (config.operator, config.adaptor.name), config.capture.of_operators
    means = np.asarray(cells.expression.astype(np.float64).mean(0)).ravel()
    saved_operator.Operator(cells.genes, matrix, *about, weights, of, means).save(context.out / MAP)
    place, card = context.out / FOLDER, _card(context, fitted)
    made = Algorithm(cells.genes, folded, offset, readouts, card, reference)
    tried = [
        row
        for name, (other, stage) in context.studies.items()
        for row in transfer(made, cells, other, stage, name, seed=config.seed)
    ]
    made = replace(made, card={**card, "transfers": tried})
    made.save_pretrained(place)
    again = Algorithm.from_pretrained(place).transform(context.adata)
    distances = stage_distances(angles(fitted.transform(anchors.centroids @ matrix)), anchors.stage, context.ruler)
    levels = pd.DataFrame(levels_table(reference.levels if reference is not None else ()), columns=LEVEL_COLUMNS)
    axes = technical_axes(z, cells.obs)
    context.write(
        {
            "latent": _latent(context, z),
            "distances": distances,
            "latent_axes": axes,
            "levels": levels,
            "transfers": pd.DataFrame(tried, columns=COLUMNS),
        }
    )
    return {
        "relative_difference_from_file": float(np.abs(again - z).max() / np.abs(z).max()),
        "bytes": sum((place / name).stat().st_size for name in (WEIGHTS, CARD, README)),
        "bytes_folded": 4 * (folded.size + offset.size),
        "bytes_feature_map": 4 * matrix.size,
        "n_parameters": sum(readout.n_parameters for readout in readouts.values()),
        "stress": fitted.stress_,
        "readouts": {name: len(readout.classes) for name, readout in readouts.items()},
        # Cells of another study that have the name of one of these.
        "shared": {
            name: n for name, (other, _) in context.studies.items() if (n := len({*other.obs_names} & {*cells.names}))
        },
    }


def _encoders(context: RunContext, bar: tqdm) -> Iterator[HeldOutEncoder]:
    """Folded latents without the cells of one fold, as far as anchors are left for them."""
    of_fold = context.cells.obs["fold"].to_numpy()
    for one in sorted(set(of_fold.tolist())):
        try:
            matrix = context.feature_map((one,))
            fitted = context.fitted(matrix, (one,))
        except EvaluationError:  # too few anchors without them
            continue
        finally:
            bar.update()
        yield HeldOutEncoder(*fold(matrix, fitted.encoder_, fitted.bias_), of_fold == one)


def card_inputs(context: RunContext) -> dict[str, Any]:
    """What the card says of where the algorithm comes from, as far as the run's tables do not say it.

    Parameters
    ----------
    context
        Run whose cells and checkpoint are named.
    """
    config, report, about = context.config, context.model.report, context.adata.uns["workbench"]
    sections = ("stages", "panel", "capture", "anchors", "operator", "adaptor", "readout", "evaluation", "cell_heads")
    return {
        "data": about["source"],
        "checkpoint": {"name": Path(config.checkpoint).name, "sha256": dict(report.sha256) if report else {}},
        "config": {"data": about["mapping"], **context.chosen(*sections, "gates")},
        "seed": config.seed,
    }


def _card(context: RunContext, fitted: LETAdaptor) -> dict[str, Any]:
    config, held, read = context.config, context.read("holdouts"), context.read("readouts")
    return {
        **card_inputs(context),
        "weights": context.model.fingerprint(),
        "operator": {"kind": config.operator, "feature_map": config.adaptor.name},
        "convention": config.capture.of_operators.told(),
        "ruler": context.ruler.name,
        "n_cells": len(context.cells),
        "n_anchors": len(context.anchors()),
        "stress": fitted.stress_,
        "reconstruction": fitted.reconstruction_,
        "gates": _gates(context.read(GATES[0])) if config.gates is not None else [],
        "holdouts": held[held["status"] == "ok"].to_dict("records"),
        "readouts": read[(read["representation"] == context.ours) & (read["status"] == "ok")].to_dict("records"),
        "controls": context.read("added").to_dict("records"),
        "versions": versions(),
        "limits": LIMITS,
    }


def _gates(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table[list(_GATE)].itertuples(index=False, name=None)
    return [{name: None if pd.isna(value) else value for name, value in zip(_GATE, row, strict=True)} for row in rows]


def _latent(context: RunContext, z: Float[np.ndarray, "cell k"]) -> pd.DataFrame:
    cells, ruler = context.cells, context.ruler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        # By name, so that the order of the cells in their file decides nothing.
        order, flat = np.argsort(cells.names, kind="stable"), np.empty((len(z), 2))
        flat[order] = UMAP(random_state=key(context.config.seed, "umap") % 2**32, n_jobs=1).fit_transform(z[order])
    return pd.DataFrame(
        {
            "cell_id": cells.names,
            "cell_type": cells.column("cell_type"),
            "stage": cells.named(ruler.stages, OFF_RULER),
            **({} if cells.donor is None else {"donor": cells.donor}),
            "branch": cells.named(ruler.branches, OFF_RULER),
            "umap_1": flat[:, 0],
            "umap_2": flat[:, 1],
            **{f"z_{i + 1}": z[:, i] for i in range(z.shape[1])},
        }
    )
