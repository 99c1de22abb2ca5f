"""The stage that leaves the algorithm behind: fitted on all cells, folded, written, read again, and drawn."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.engine.provenance import versions
from workbench.figures.style import OFF_RULER
from workbench.geometry.shape import stage_distances
from workbench.operators.adaptor import angles
from workbench.operators.algorithm import Algorithm, fold
from workbench.operators.calibration import fit_readout
from workbench.operators.saved_operator import Operator
from workbench.recipes.run.chain import Chain
from workbench.recipes.run.evidence import ours_of
from workbench.recipes.run.gates import card_gates
from workbench.seeds import key

LIMITS = (
    "Fitted on the cells named under data and judged in the tables readouts.csv and added.csv of its run; on other "
    "tissues, donors or technologies it has not been tested."
)


def algorithm_stage(chain: Chain, folder: Path) -> dict[str, Any]:
    """Fit on all cells, fold, export, and apply again from the file alone.

    Parameters
    ----------
    chain
        The run.
    folder
        Of the stage.
    """
    anchors, matrix = chain.anchors(), chain.feature_map()
    fitted = chain.fitted(matrix)
    rows = range(0, chain.expression.shape[0], 1024)
    # The long way, feature map and adaptor one after the other, for the folded one to be held against.
    blocks = (chain.expression[row : row + 1024] @ matrix for row in rows)
    z = np.concatenate([fitted.transform(np.asarray(block, dtype=np.float64)) for block in blocks])
    readouts = {
        endpoint.name: fit_readout(
            z,
            endpoint,
            hidden=chain.config.readout.hidden,
            groups=chain.donors,
            names=chain.obs.index.to_numpy(dtype=str),
            seed=chain.config.seed,
        )
        for endpoint in chain.endpoints
        if len(set(endpoint.target[endpoint.cells].tolist())) > 1
    }
    folded, offset = fold(matrix, fitted.encoder_, fitted.bias_)
    Operator(chain.panel, matrix, chain.config.operator, chain.config.adaptor.name, chain.model.fingerprint()).save(
        chain.out / "operator"
    )
    place = chain.out / "algorithm"
    Algorithm(chain.panel, folded, offset, readouts, _card(chain, fitted)).save_pretrained(place)
    difference = float(np.abs(Algorithm.from_pretrained(place).transform(chain.adata) - z).max() / np.abs(z).max())
    _write_latent(chain, z)
    distances = stage_distances(angles(fitted.transform(anchors.centroids @ matrix)), anchors.stage, chain.ruler)
    distances.to_csv(chain.tables / "distances.csv", index=False)
    return {
        "relative_difference_from_file": difference,
        "bytes": sum(p.stat().st_size for p in place.iterdir()),
        "bytes_folded": 4 * (folded.size + offset.size),
        "bytes_feature_map": 4 * matrix.size,
        "n_parameters": sum(readout.n_parameters for readout in readouts.values()),
        "stress": fitted.stress_,
        "readouts": {name: len(readout.classes) for name, readout in readouts.items()},
    }


def _card(chain: Chain, fitted: Any) -> dict[str, Any]:
    config, report = chain.config, chain.model.report
    held = pd.read_csv(chain.tables / "holdouts.csv")
    read = pd.read_csv(chain.tables / "readouts.csv")
    own = ours_of(chain)
    return {
        "data": chain.adata.uns["workbench"]["source"],
        "checkpoint": {"name": Path(config.checkpoint).name, "sha256": dict(report.sha256) if report else {}},
        "weights": chain.model.fingerprint(),
        "operator": {"kind": config.operator, "feature_map": config.adaptor.name},
        "ruler": chain.ruler.name,
        "n_cells": len(chain.obs),
        "n_anchors": len(chain.anchors()),
        "stress": fitted.stress_,
        "reconstruction": fitted.reconstruction_,
        "gates": card_gates(chain),
        "holdouts": held[held["status"] == "ok"].to_dict("records"),
        "readouts": read[(read["representation"] == own) & (read["status"] == "ok")].to_dict("records"),
        "controls": pd.read_csv(chain.tables / "added.csv").to_dict("records"),
        "config": config.model_dump(mode="json"),
        "seed": config.seed,
        "versions": versions(),
        "limits": LIMITS,
    }


def _write_latent(chain: Chain, z: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        flat = UMAP(random_state=key(chain.config.seed, "umap") % 2**32, n_jobs=1).fit_transform(z)
    stage, ruler = chain.obs["stage"].to_numpy(), chain.ruler
    placed = np.maximum(stage, 0)
    table = pd.DataFrame(
        {
            "cell_id": chain.obs.index,
            "cell_type": chain.obs["cell_type"].to_numpy(),
            "stage": np.where(stage >= 0, np.array(ruler.stages)[placed], OFF_RULER),
            **({} if chain.donors is None else {"donor": chain.donors}),
            "branch": np.where(stage >= 0, np.array(ruler.branches)[placed], OFF_RULER),
            "umap_1": flat[:, 0],
            "umap_2": flat[:, 1],
            **{f"z_{i + 1}": z[:, i] for i in range(z.shape[1])},
        }
    )
    table.to_csv(chain.tables / "latent.csv", index=False)
