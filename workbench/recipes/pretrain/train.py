"""The stage ``train``: the checkpoint."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from workbench.engine.stages import Result, Results
from workbench.models.scgpt.pretraining import STATE, save_trained, train
from workbench.recipes.pretrain.context import PretrainContext

FILES = ("best_model.pt", "args.json", "vocab.json")


def train_stage(context: PretrainContext, folder: Path, results: Results) -> Result:
    """Train a model, or go on from the last state that an interrupted training saved, and write the checkpoint.

    Parameters
    ----------
    context
        Cells, and how to train on them.
    folder
        Where states to go on from are saved while it trains.
    results
        Results of other stages, of which none is needed.
    """
    settings, began = context.config.settings, time.perf_counter()
    with tqdm(total=settings.steps, unit="step", desc="pretrain", disable=not context.backend.progress) as bar:

        def show(step: int, row: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix({k: f"{v:.1f}" for k, v in row.items() if k != "step"})

        dtype = getattr(torch, context.config.dtype)
        model, curve = train(context.data, settings, folder, show, device=context.device, dtype=dtype)
    save_trained(model, settings, context.out)
    shutil.rmtree(folder / STATE, ignore_errors=True)
    context.write({"curve": pd.DataFrame(curve)})
    return {
        "n_train": len(context.data.train),
        "n_held_out": len(context.data.held_out),
        "n_genes": len(context.data.vocabulary.genes),
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "seconds_of_last_session": round(time.perf_counter() - began, 1),
    }
