"""What the stages of ``workbench pretrain`` share: the cells to train on, and the checkpoint that they make."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from anndata import AnnData

from workbench.cells.datasets import content_hash
from workbench.engine.config import load_cells
from workbench.engine.context import Context
from workbench.models.scgpt.pretraining import TrainingData, prepare
from workbench.recipes.pretrain.config import PretrainConfig


class PretrainContext(Context[PretrainConfig]):
    """Configuration and cells of a training; its model is the one that the stage ``train`` has left."""

    settings = PretrainConfig

    @cached_property
    def cells(self) -> AnnData:
        """All cells, those that are held out among them."""
        return load_cells(self.config.data)

    @cached_property
    def data(self) -> TrainingData:
        """Cells by matched genes, split into those to train on and those held out."""
        return prepare(self.cells, self.config.settings)

    @property
    def dtype(self) -> torch.dtype:
        """Single precision, in which a checkpoint is left and judged whatever it was trained in."""
        return torch.float32

    @property
    def checkpoint(self) -> Path:
        """The output folder is the checkpoint's."""
        return self.out

    @property
    def source(self) -> str:
        """Where the cells are from."""
        return str(self.cells.uns["workbench"]["source"])

    @property
    def content(self) -> str:
        """Content hash of all cells."""
        return content_hash(self.cells)

    @property
    def data_name(self) -> str:
        """Name of the data, and the numbers of cells trained on and held out."""
        name = self.cells.uns["workbench"]["name"]
        return f"{name}, {len(self.data.train)} cells trained on and {len(self.data.held_out)} held out"
