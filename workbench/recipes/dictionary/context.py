"""What the stages of ``workbench dictionary`` share: cells, which of them are held out, trainings, and the dictionaries they have left."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from workbench.cells.datasets import content_hash, values_hash
from workbench.cells.splits import Split
from workbench.dictionaries.dictionary import Dictionary
from workbench.dictionaries.feeding import split_cells
from workbench.dictionaries.judge import drawn_cells
from workbench.engine.config import load_cells
from workbench.engine.context import Context
from workbench.files import digest
from workbench.models import CellModel
from workbench.recipes.dictionary.config import UNTRAINED, DictionaryRunConfig

TRAIN, MODEL, FOLDER = "train", "model", "dictionaries"
_PLACE = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class PlannedTraining:
    """One training of a dictionary of each hook.

    Attributes
    ----------
    stage
        Name of the stage that does it.
    source
        ``model``, or the control whose activations are trained on.
    seed
        Seed of its weights, draws and order of cells.
    """

    stage: str
    source: str
    seed: int


class DictionaryContext(Context[DictionaryRunConfig]):
    """Configuration, cells, trainings and dictionaries of ``workbench dictionary``."""

    settings = DictionaryRunConfig

    @cached_property
    def cells(self) -> AnnData:
        """All cells, those that are held out among them."""
        return load_cells(self.config.data)

    @cached_property
    def values(self) -> str:
        """Hash of all values of the cells."""
        return values_hash(self.cells)

    @cached_property
    def split(self) -> Split:
        """Cells to train on and cells held out."""
        asked = self.config.held_out
        donor = "donor" if asked.donors else None
        return split_cells(self.cells, donor=donor, folds=asked.folds, seed=self.config.seed)

    @cached_property
    def train_cells(self) -> AnnData:
        """Cells that dictionaries are trained on."""
        return self.cells[self.split.train]

    @cached_property
    def held_cells(self) -> AnnData:
        """Cells that dictionaries are judged and named on."""
        return self.cells[self.split.test]

    @cached_property
    def drawn(self) -> AnnData:
        """Cells of both kinds, by which features of one donor are found."""
        return drawn_cells(self.cells, self.config.judge.n_cells, self.config.seed)

    @cached_property
    def hooks(self) -> tuple[str, ...]:
        """Full names of the hooks."""
        return self.model.resolve_hooks(self.config.hooks)

    @cached_property
    def trainings(self) -> tuple[PlannedTraining, ...]:
        """The model's own trainings, the first of which is judged in full, and those of the controls."""
        first = self.config.seed
        own = [
            PlannedTraining(f"{TRAIN}_{i + 1}" if i else TRAIN, MODEL, first + i) for i in range(self.config.trainings)
        ]
        return (*own, *(PlannedTraining(name, name, first) for name in dict.fromkeys(self.config.controls)))

    def model_of(self, source: str) -> CellModel:
        """Model of a training.

        Parameters
        ----------
        source
            ``model`` or a control, as `PlannedTraining.source` has it.
        """
        return self._untrained if source == UNTRAINED else self.model

    @cached_property
    def _untrained(self) -> CellModel:
        return self.model.untrained(self.config.seed)

    def place(self, stage: str, hook: str) -> Path:
        """Folder of a dictionary: the model's first lie open in ``dictionaries``, others with their stage.

        Parameters
        ----------
        stage
            Name of the stage that trained it.
        hook
            Full name of the hook.
        """
        return (self.out / FOLDER if stage == TRAIN else self.folder(stage)) / hook

    def dictionary(self, stage: str, hook: str) -> Dictionary:
        """A dictionary that a training has left, on the device of the model.

        Parameters
        ----------
        stage, hook
            Stage of the training, and the full name of the hook.
        """
        return Dictionary.from_pretrained(self.place(stage, hook), hook=hook, device=self.device)

    def column(self, name: str) -> str | None:
        """Name of a standard column of the cells; None where there is none.

        Parameters
        ----------
        name
            Name of the column: cell_type or donor.
        """
        return name if name in self.cells.obs else None

    def labels(self, name: str) -> str | None:
        """Hash of a standard column, for the inputs of a stage; None where there is none.

        Parameters
        ----------
        name
            Name of the column: cell_type or donor.
        """
        return digest(self.cells.obs[name].astype(str).tolist()) if name in self.cells.obs else None

    @property
    def passed(self) -> dict[str, Any]:
        """What activations depend on, the weights apart: no cell type is among it, and donors only by whom they hold out."""
        obs = self.cells.obs
        return {
            "values": self.values,
            "cells": digest(obs.index.tolist()),
            "batch": digest(obs["batch"].astype(str).tolist()) if "batch" in obs else None,
            "held_out": digest(np.sort(self.split.test).tolist()),
            "vocabulary": digest(dict(self.model.vocabulary.ids)),
            "hooks": list(self.hooks),
            "targets": self.config.targets,
            "min_gene_share": self.config.data.min_gene_share,
        }

    @property
    def content(self) -> str:
        """Content hash of the cells."""
        return content_hash(self.cells, self.values)

    @property
    def data_name(self) -> str:
        """Name of the data, and the numbers of cells trained on and held out."""
        name = self.cells.uns["workbench"]["name"]
        return f"{name}, {len(self.split.train)} cells trained on and {len(self.split.test)} held out"


def where(hook: str) -> dict[str, Any]:
    """Layer and kind of a hook, as tables have them beside its name.

    Parameters
    ----------
    hook
        Full name; without a layer, such as ``hook_cell``, the layer is NaN.
    """
    found = _PLACE.fullmatch(hook)
    layer, kind = (float(found[1]), found[2]) if found else (float("nan"), hook)
    return {"hook": hook, "kind": kind, "layer": layer}
