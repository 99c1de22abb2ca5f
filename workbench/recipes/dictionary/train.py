"""The stages that train: a dictionary of each hook in one pass over the cells, for the model, its other seeds, and each control."""

from __future__ import annotations

import shutil
from pathlib import Path

from workbench.dictionaries.pretrained import CONFIG_FILE, WEIGHTS_FILE
from workbench.dictionaries.training import train_dictionaries
from workbench.engine.stages import Result, Results
from workbench.recipes.dictionary.config import SHUFFLED
from workbench.recipes.dictionary.context import DictionaryContext, PlannedTraining

_STATE = "state"


def train_stage(context: DictionaryContext, one: PlannedTraining, folder: Path, _: Results) -> Result:
    """Train a dictionary of each hook, or go on from the last state that an interrupted training saved.

    Parameters
    ----------
    context
        Cells, hooks and settings of the training.
    one
        Whose activations are trained on, and from which seed.
    folder
        Folder of the stage; states to go on from lie in it while it trains.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``steps``, how many steps each dictionary has made, and ``n_cells``, the cells trained on.
    """
    found = train_dictionaries(
        context.model_of(one.source),
        context.train_cells,
        list(context.hooks),
        context.config.dictionary,
        targets=context.config.targets or None,
        seed=one.seed,
        folder=folder / _STATE,
        min_gene_share=context.config.data.min_gene_share,
        shuffled=one.source == SHUFFLED,
        progress=context.backend.progress,
    )
    for hook, dictionary in found.items():
        place = context.place(one.stage, hook)
        # Where this stage is made again, one of its two files may be gone or damaged, and the other is no stranger's.
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            (place / name).unlink(missing_ok=True)
        dictionary.save_pretrained(place)
    shutil.rmtree(folder / _STATE, ignore_errors=True)
    return {"steps": next(iter(found.values())).origin.steps, "n_cells": len(context.split.train)}
