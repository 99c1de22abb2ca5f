"""The stage ``evaluation``: masked values of held-out cells, as the model and as simpler predictors see them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

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
from workbench.models.scgpt.pretraining import model_config
from workbench.models.scgpt.pretraining_data import TrainingData
from workbench.models.scgpt.tokenizer import tokenise_rows
from workbench.models.tokens import Tokens
from workbench.pretrain_settings import PretrainSettings
from workbench.recipes.pretrain.context import PretrainContext
from workbench.seeds import generator, key

# Most held-out cells of a group that are judged, most training cells that simple predictors are fitted on, and ways of breaking ties.
_JUDGED, _FITTED_ON, _TIES = 500, 4000, 200
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
    settings, n = context.config.settings, len(context.data.held_out_groups)
    # Of each group: what ties allow, and by mask ratio the choice of penalties, the model, and three predictors that are fitted.
    with tqdm(
        total=n * (1 + 5 * len(settings.mask_ratios)),
        unit="predictor",
        desc="evaluation",
        disable=not context.backend.progress,
    ) as bar:
        rows = evaluate(context.model, context.data, settings, bar)
    context.write({"evaluation": pd.DataFrame(rows)})
    return {}


def evaluate(
    model: CellModel, data: TrainingData, settings: PretrainSettings, bar: tqdm | None = None
) -> list[dict[str, Any]]:
    """Masked-value error on held-out cells beside baselines, one row per group of cells, mask ratio and predictor.

    All predictors see the same visible bins and are scored on the same masked ones; of a group at most 500 cells, and simple
    predictors are fitted on at most 4,000 cells that are trained on and measure the same genes, drawn by the seed. The spread is over cells: the
    intervals are bootstraps (2,000 draws of cells) of the mean over cells of each cell's mean squared error, and of its
    paired reduction against the gene mean.

    Parameters
    ----------
    model, data, settings
        What `pretraining.train` was given and has trained.
    bar
        Progress bar that goes on by one for each predictor; none by default.

    Returns
    -------
    list of dict
        ``cells`` (donors or cells of which study), ``mask_ratio``, ``predictor``, ``mse``, ``low``, ``high``, ``gain`` (share of the gene mean's error that is
        saved), ``gain_low``, ``gain_high``, ``n_cells``, ``n_values``.
    """
    groups = data.held_out_groups
    return [{"cells": group, **row} for group in groups for row in _evaluate_group(model, data, settings, group, bar)]


def _evaluate_group(
    model: CellModel, data: TrainingData, settings: PretrainSettings, group: str, bar: tqdm | None
) -> Iterator[dict[str, Any]]:
    """Rows of one group of cells that are held out."""
    # What the group's study does not measure is in no cell, neither theirs nor those that simple predictors are fitted on.
    measured = data.measured[data.study[data.held_out_groups[group][0]]]
    asked = _some(data.held_out_groups[group], _JUDGED, settings.seed, group)
    fitted_on = _some(data.alike(group), _FITTED_ON, settings.seed, f"{group}, training")
    training, held = (_bins(data, rows, settings, measured=measured) for rows in (fitted_on, asked))
    genes = np.flatnonzero(measured)
    # As if there were no other genes, of which each only costs time.
    training, small = training[:, genes], held[:, genes]
    step = bar.update if bar is not None else lambda: None
    best = _tie_means(data, asked, settings, measured)[:, genes]
    step()
    for ratio in settings.mask_ratios:
        masks = [
            (generator(settings.seed, "evaluation", side, str(ratio)).random(bins.shape) < ratio) & (bins > 0)
            for side, bins in (("train", training), ("held-out", held))
        ]
        inside, mask = masks[0], masks[1][:, genes]
        visible = np.where(mask, 0, small)
        ridge = choose_ridge(training, inside, _RIDGES)
        components = choose_components(training, inside, _COMPONENTS, _PENALTIES)
        step()
        expression, mvc = _predict(model, data, settings, np.where(masks[1], 0, held), masks[1])
        step()
        predictors = {
            "expression decoder": expression[:, genes],
            "MVC decoder": mvc[:, genes],
            "gene mean": np.broadcast_to(gene_mean(training), small.shape),
        }
        name = f"linear regression on the other genes (ridge {ridge:g})"
        predictors[name] = linear_regression(training, visible, mask, ridge)
        step()
        name = f"linear regression on {components[0]} components of what is expressed and visible (ridge {components[1]:g})"
        predictors[name] = component_regression(training, inside, visible, mask, *components)
        step()
        predictors["100 nearest training cells"] = nearest_cells(training, visible, 100)
        predictors["best possible (ties only)"] = best
        step()
        errors = {
            name: np.where(mask, (predicted - small) ** 2, 0).sum(1) / np.maximum(mask.sum(1), 1)
            for name, predicted in predictors.items()
        }
        draws = generator(settings.seed, "bootstrap", str(ratio)).integers(0, len(small), (2000, len(small)))
        reference = errors["gene mean"][draws].mean(1)
        for name, squared in errors.items():
            means = squared[draws].mean(1)
            low, high = np.quantile(means, [0.025, 0.975])
            gain_low, gain_high = np.quantile(1 - means / reference, [0.025, 0.975])
            yield {
                "mask_ratio": ratio,
                "predictor": name,
                "mse": float(squared.mean()),
                "low": float(low),
                "high": float(high),
                "gain": float(1 - squared.mean() / errors["gene mean"].mean()),
                "gain_low": float(gain_low),
                "gain_high": float(gain_high),
                "n_cells": len(small),
                "n_values": int(mask.sum()),
            }


def _some(rows: np.ndarray, most: int, seed: int, what: str) -> np.ndarray:
    """Some rows, or all where they are few enough, in their order."""
    return rows if len(rows) <= most else np.sort(generator(seed, what).permutation(rows)[:most])


def _bins(
    data: TrainingData,
    rows: np.ndarray,
    settings: PretrainSettings,
    draw: str = "evaluation",
    *,
    measured: np.ndarray,
) -> np.ndarray:
    """Dense bins (cell, gene of the vocabulary) of some cells, over the genes of some columns, ties broken once."""
    ids, values, padding = tokenise_rows(
        data.matrix[rows][:, measured],
        data.column_ids[measured],
        hash_genes(data.column_ids[measured]),
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


def _tie_means(data: TrainingData, rows: np.ndarray, settings: PretrainSettings, measured: np.ndarray) -> np.ndarray:
    """Mean bin over 200 ways of breaking ties: what a predictor that knew the true value could say at best."""
    draws = (_bins(data, rows, settings, f"ties {i}", measured=measured) for i in range(_TIES))
    return sum(draws, np.zeros(1)) / _TIES


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
