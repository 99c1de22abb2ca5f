"""What the stages of ``workbench geometry`` share: cells, their controls, and the spaces that passes have left."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from jaxtyping import Float

from workbench.capture.pooled import FRONT
from workbench.cells.datasets import content_hash, values_hash
from workbench.cells.expression import scale_of
from workbench.cells.shuffled import permuted_genes, thinned
from workbench.engine.config import load_cells
from workbench.engine.context import Context
from workbench.files import digest, read_arrays
from workbench.geometry.space_draws import MODEL, RANDOM
from workbench.models import CellModel, CellTokenizer
from workbench.recipes.geometry.config import PERMUTED, THINNED, UNTRAINED, GeometryConfig
from workbench.tools.common import layers_of, rows_of

# What each pass is called in tables.
SOURCES = {
    MODEL: MODEL,
    UNTRAINED: RANDOM,
    PERMUTED: "genes permuted over cells",
    THINNED: "one library size",
}
SPACES = "spaces.safetensors"
# Stages that no model has a part in.
REFERENCE, SCVI = "expression", "scvi"
_HEADS = "attn.hook_z"


class GeometryContext(Context[GeometryConfig]):
    """Configuration, cells and spaces of a geometry."""

    settings = GeometryConfig
    shared = (REFERENCE, SCVI, *SOURCES)

    @cached_property
    def cells(self) -> AnnData:
        """The cells that are looked at: all, or a draw of them by seed and name."""
        every, most = load_cells(self.config.data), self.config.spaces.max_cells
        if most is None or len(every) <= most:
            return every
        names = every.obs_names.to_numpy(dtype=str)
        rows = rows_of(np.full(len(every), ""), "", names, most, self.config.seed)
        print(f"[cells] {most} of them are looked at, drawn by seed and name (spaces.max_cells)", file=sys.stderr)
        return every[rows].to_memory() if every.isbacked else every[rows].copy()

    @cached_property
    def values(self) -> str:
        """Hash of all values of the cells."""
        return values_hash(self.cells)

    @cached_property
    def layers(self) -> list[int]:
        """Layers that are looked at, without the embedding in front of them."""
        return layers_of(self.model, self.config.spaces.layers)

    @property
    def hooks(self) -> list[str]:
        """Names of the hooks that a pass captures."""
        asked = [f"hook_{name}" for name in self.config.spaces.hooks] + ([_HEADS] if self.config.spaces.heads else [])
        return [FRONT, *(f"blocks.{layer}.{hook}" for layer in self.layers for hook in asked)]

    @cached_property
    def counts(self) -> bool:
        """Whether the values are counts, which residuals and thinning need."""
        return scale_of(self.cells).counts

    @cached_property
    def passes(self) -> tuple[str, ...]:
        """The model's own pass, and those of the controls that these cells allow."""
        return (MODEL, *(name for name in self.config.controls if name != THINNED or self.counts))

    def cells_of(self, name: str) -> AnnData:
        """Cells of a pass: as they are, or changed by a control.

        Parameters
        ----------
        name
            Name of the pass, a key of `SOURCES`.
        """
        if name == PERMUTED:
            return permuted_genes(self.cells, self.column("batch"), seed=self.config.seed)
        return thinned(self.cells, seed=self.config.seed)[0] if name == THINNED else self.cells

    def model_of(self, name: str) -> CellModel:
        """Model of a pass.

        Parameters
        ----------
        name
            Name of the pass, a key of `SOURCES`.
        """
        return self.model.untrained(self.config.seed) if name == UNTRAINED else self.model

    def tokenizer(self, cells: AnnData) -> CellTokenizer:
        """Tokens of cells, as the configuration asks for them.

        Parameters
        ----------
        cells
            Cells of a pass, as `cells_of` gives them.
        """
        share, most = self.config.data.min_gene_share, self.config.spaces.max_tokens
        return self.model.tokenizer(cells, seed=self.config.seed, max_tokens=most, min_gene_share=share)

    def column(self, name: str) -> np.ndarray | None:
        """A standard column of the cells as text; None where there is none.

        Parameters
        ----------
        name
            Name of the column: cell_type, donor, tissue or batch.
        """
        obs = self.cells.obs
        return obs[name].astype(str).to_numpy() if name in obs else None

    @property
    def batches(self) -> np.ndarray | None:
        """Batch of each cell, never compared across: the column batch, or else the donor; None where there is neither."""
        batch = self.column("batch")
        return self.column("donor") if batch is None else batch

    @property
    def pass_inputs(self) -> dict[str, Any]:
        """What a pass depends on, the weights apart; no label is among it."""
        obs = self.cells.obs
        return {
            "values": self.values,
            "cells": digest(obs.index.tolist()),
            "batch": digest(obs["batch"].astype(str).tolist()) if "batch" in obs else None,
            "spaces": self.config.spaces.model_dump(mode="json", exclude={"batch_size"}),
            "vocabulary": digest(dict(self.model.vocabulary.ids)),
            "seed": self.config.seed,
            "min_gene_share": self.config.data.min_gene_share,
        }

    def file(self, stage: str) -> Path:
        """Safetensors file with the spaces that a stage has left.

        Parameters
        ----------
        stage
            Name of a pass, or ``expression``.
        """
        return self.folder(stage) / SPACES

    def space(self, source: str, name: str) -> Float[np.ndarray, "cell feature"]:
        """Points of a space.

        Parameters
        ----------
        source
            Stage that has left it.
        name
            Its name in the file.
        """
        return read_arrays(self.file(source), [name])[0][name]

    @cached_property
    def embeddings(self) -> dict[str, Float[np.ndarray, "cell feature"]]:
        """The user's own embeddings of the cells, by their keys."""
        return {key: np.asarray(values) for key, values in self.cells.obsm.items()}

    @property
    def content(self) -> str:
        """Content hash of the cells."""
        return content_hash(self.cells, self.values)

    @property
    def data_name(self) -> str:
        """Name of the data and the number of cells."""
        return f"{self.cells.uns['workbench']['name']}, n = {len(self.cells)} cells"
