"""The stage ``evaluation``: masked values of held-out cells, as the model and as simpler predictors see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.engine.stages import Result, Results
from workbench.models import CellModel
from workbench.models.scgpt.baselines import (
    choose_components,
    choose_ridge,
    component_regression,
    gene_mean,
    linear_regression,
    nearest_cells,
)
from workbench.models.scgpt.binning import hash_genes
from workbench.models.scgpt.pretraining import TrainingData, model_config
from workbench.models.scgpt.tokenizer import tokenise_rows
from workbench.models.tokens import Tokens
from workbench.recipes.pretrain.context import PretrainContext
from workbench.seeds import generator, key
from workbench.settings import PretrainSettings

_RIDGES = (10.0, 30.0, 100.0, 300.0, 1000.0)
_COMPONENTS, _PENALTIES = (5, 10, 20, 40), (3.0, 10.0, 30.0, 100.0)


def evaluation_stage(context: PretrainContext, folder: Path, results: Results) -> Result:
    """Write the table of errors on held-out cells.

    Parameters
    ----------
    context
        Cells, and the checkpoint that was trained on some of them.
    folder
        Not used: the table goes to the tables of the run.
    results
        Results of other stages, of which none is needed.
    """
    rows = evaluate(context.model, context.data, context.config.settings)
    context.write({"evaluation": pd.DataFrame(rows)})
    return {}


def evaluate(model: CellModel, data: TrainingData, settings: PretrainSettings) -> list[dict[str, Any]]:
    """Masked-value error on held-out cells beside baselines, one row per mask ratio and predictor.

    All predictors see the same visible bins and are scored on the same masked ones. The spread is over cells: the
    intervals are bootstraps (2,000 draws of cells) of the mean over cells of each cell's mean squared error, and of its
    paired reduction against the gene mean.

    Parameters
    ----------
    model, data, settings
        What `pretraining.train` was given and has trained.

    Returns
    -------
    list of dict
        ``mask_ratio``, ``predictor``, ``mse``, ``low``, ``high``, ``gain`` (share of the gene mean's error that is
        saved), ``gain_low``, ``gain_high``, ``n_cells``, ``n_values``.
    """
    training, held = _bins(data, data.train, settings), _bins(data, data.held_out, settings)
    rows: list[dict[str, Any]] = []
    for ratio in settings.mask_ratios:
        masks = [
            (generator(settings.seed, "evaluation", side, str(ratio)).random(bins.shape) < ratio) & (bins > 0)
            for side, bins in (("train", training), ("held-out", held))
        ]
        mask = masks[1]
        visible = np.where(mask, 0, held)
        ridge = choose_ridge(training, masks[0], _RIDGES)
        components = choose_components(training, masks[0], _COMPONENTS, _PENALTIES)
        expression, mvc = _predict(model, data, settings, visible, mask)
        predictors = {
            "expression decoder": expression,
            "MVC decoder": mvc,
            "gene mean": np.broadcast_to(gene_mean(training), held.shape),
            f"linear regression on the other genes (ridge {ridge:g})": linear_regression(
                training, visible, mask, ridge
            ),
            f"linear regression on {components[0]} components of what is expressed and visible (ridge {components[1]:g})": (
                component_regression(training, masks[0], visible, mask, *components)
            ),
            "100 nearest training cells": nearest_cells(training, visible, 100),
            "best possible (ties only)": _tie_means(data, settings),
        }
        errors = {
            name: np.where(mask, (predicted - held) ** 2, 0).sum(1) / np.maximum(mask.sum(1), 1)
            for name, predicted in predictors.items()
        }
        draws = generator(settings.seed, "bootstrap", str(ratio)).integers(0, len(held), (2000, len(held)))
        reference = errors["gene mean"][draws].mean(1)
        for name, squared in errors.items():
            means = squared[draws].mean(1)
            low, high = np.quantile(means, [0.025, 0.975])
            gain_low, gain_high = np.quantile(1 - means / reference, [0.025, 0.975])
            rows.append(
                {
                    "mask_ratio": ratio,
                    "predictor": name,
                    "mse": float(squared.mean()),
                    "low": float(low),
                    "high": float(high),
                    "gain": float(1 - squared.mean() / errors["gene mean"].mean()),
                    "gain_low": float(gain_low),
                    "gain_high": float(gain_high),
                    "n_cells": len(held),
                    "n_values": int(mask.sum()),
                }
            )
    return rows


def _bins(data: TrainingData, rows: np.ndarray, settings: PretrainSettings, draw: str = "evaluation") -> np.ndarray:
    """Dense bins (cell, gene of the vocabulary) of some cells, all genes, ties broken once."""
    ids, values, padding = tokenise_rows(
        data.matrix[rows],
        data.column_ids,
        hash_genes(data.column_ids),
        data.cell_ids[rows],
        config=model_config(settings, data.vocabulary),
        vocabulary=data.vocabulary,
        max_tokens=len(data.vocabulary) + 1,
        seed=key(settings.seed, draw),
    )
    bins = np.zeros((len(rows), len(data.vocabulary)))
    cell, position = np.nonzero(~padding)
    bins[cell, ids[cell, position]] = values[cell, position]
    return bins[:, 3:]


def _tie_means(data: TrainingData, settings: PretrainSettings) -> np.ndarray:
    """Mean bin over 200 ways of breaking ties: what a predictor that knew the true value could say at best."""
    draws = [_bins(data, data.held_out, settings, f"ties {i}") for i in range(200)]
    return np.mean(draws, axis=0)


def _predict(
    model: CellModel, data: TrainingData, settings: PretrainSettings, visible: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both decoders' predictions at masked genes, as dense (cell, gene) arrays."""
    out = [np.zeros_like(visible), np.zeros_like(visible)]
    config = model_config(settings, data.vocabulary)
    with torch.no_grad():
        for i in range(len(visible)):
            genes = np.flatnonzero((visible[i] > 0) | mask[i])
            values = np.where(mask[i, genes], config.mask_value, visible[i, genes])
            ids = torch.from_numpy(np.concatenate([[data.vocabulary.cls_id], genes + 3]))[None]
            shown = torch.from_numpy(np.concatenate([[config.pad_value], values]).astype(np.float32))[None]
            predicted = model(
                Tokens(ids, shown, torch.zeros_like(ids, dtype=torch.bool)), outputs=("expression", "mvc")
            )
            assert predicted.expression is not None and predicted.mvc is not None
            out[0][i, genes] = predicted.expression[0, 1:].cpu().numpy()
            out[1][i, genes] = predicted.mvc[0, 1:].cpu().numpy()
    return out[0], out[1]
