"""What the stages of ``workbench pretrain`` share: the cells to train on, and the checkpoint that they make."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from anndata import AnnData

from workbench.cells.datasets import content_hash
from workbench.engine.config import load_cells
from workbench.engine.context import Context
from workbench.errors import ConfigError
from workbench.files import digest
from workbench.models.scgpt.pretraining_data import TrainingData, prepare
from workbench.recipes.pretrain.config import PretrainConfig


class PretrainContext(Context[PretrainConfig]):
    """Configuration and cells of a training; its model is the one that the stage ``train`` has left."""

    settings = PretrainConfig

    @cached_property
    def studies(self) -> dict[str, AnnData]:
        """All cells by the name of their study, those that are held out among them."""
        first = self.config.data
        if (name := Path(first.name).stem) in self.config.studies:
            raise ConfigError(
                f"Two studies are called '{name}': the one of data and one of studies; rename the latter."
            )
        return {name: load_cells(first)} | {name: load_cells(study) for name, study in self.config.studies.items()}

    @cached_property
    def data(self) -> TrainingData:
        """Cells by matched genes, split into those to train on and those held out."""
        config, shares = self.config, {}
        for name in config.held_out_studies:
            shares[name] = config.studies.get(name, config.data).min_gene_share
        return prepare(self.studies, config.settings, shares)

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
        """Where the cells are from: files by their names alone, for a checkpoint is handed on and folders are not."""
        source = "; and ".join(str(cells.uns["workbench"]["source"]) for cells in self.studies.values())
        for name in (self.config.data.name, *(study.name for study in self.config.studies.values())):
            source = source.replace(name, Path(name).name)
        return source

    @property
    def content(self) -> str:
        """Content hash of all cells."""
        hashes = [content_hash(cells) for cells in self.studies.values()]
        return hashes[0] if len(hashes) == 1 else digest(hashes)

    @property
    def data_name(self) -> str:
        """Name of the data, and the numbers of cells trained on and held out."""
        names = ", ".join(Path(cells.uns["workbench"]["name"]).name for cells in self.studies.values())
        return f"{names}, {len(self.data.train)} cells trained on and {len(self.data.held_out)} held out"
