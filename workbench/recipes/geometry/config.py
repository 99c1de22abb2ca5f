"""What ``workbench geometry`` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from workbench.settings import CommandConfig, EmbeddedDataConfig, Interpreter, NameOrPath, Strict, named

UNTRAINED: Literal["untrained"] = "untrained"
PERMUTED: Literal["permuted"] = "permuted"
THINNED: Literal["thinned"] = "thinned"
Control = Literal["untrained", "permuted", "thinned"]


class SpacesConfig(Strict):
    """Which activations are looked at, one point a cell."""

    layers: Literal["all"] | tuple[NonNegativeInt, ...] = Field(
        default="all", description="Layers from 0, or all. The embedding in front of the first is always among them."
    )
    hooks: tuple[Literal["resid_post", "attn_out", "mlp_out"], ...] = Field(
        default=("resid_post", "attn_out", "mlp_out"),
        min_length=1,
        description="What is read of each layer: the residual stream behind it, and what attention and MLP add to it.",
    )
    max_cells: PositiveInt | None = Field(
        default=20_000,
        description="Cells that are looked at, drawn by seed and name where there are more; null for all.",
    )
    heads: bool = Field(default=False, description="Read what each head gives (hook_z), too.")
    batch_size: PositiveInt | None = Field(
        default=None, description="Cells per pass; by default as many as keep a layer's attention maps small."
    )
    max_tokens: PositiveInt | None = Field(
        default=None,
        description="Longest sequence with <cls>; the model's own by default. Memory grows with its square.",
    )


class MeasuresConfig(Strict):
    """How the spaces are measured."""

    neighbours: tuple[PositiveInt, ...] = Field(
        default=(15, 30, 50),
        min_length=1,
        description="Sizes of neighbourhoods that are compared with those of expression.",
    )
    min_batch: PositiveInt = Field(
        default=50,
        description="Cells that a batch needs to be compared with expression; smaller ones are left out and counted.",
    )
    trustworthiness: PositiveInt | None = Field(
        default=15,
        description="Neighbourhood of trustworthiness and continuity against the residuals, the slowest of all measures; null leaves "
        "them out.",
    )
    components: PositiveInt = Field(default=50, description="Components of the PCA that stands beside the model.")
    bootstrap: PositiveInt = Field(
        default=200, description="Draws of each interval: donors, or cells where there are none."
    )
    draws: PositiveInt = Field(default=20, description="Draws of the null of the agreement between spaces.")
    probe_folds: int = Field(
        default=5,
        ge=2,
        description="Folds of the linear probe that reads the cell type; whole donors, of which there may be fewer.",
    )
    probe_cells: PositiveInt | None = Field(
        default=5000, description="Cells that are probed, drawn by seed and name where there are more; null for all."
    )
    maps: bool = Field(
        default=False,
        description="Draw a UMAP of each residual stream, with its trustworthiness; slow with many cells.",
    )


class EdgesConfig(Strict):
    """A network of genes."""

    path: Path = Field(
        description="Table with the columns source and target, or with two columns in all: commas, or tabs in .tsv and .txt."
    )


class GenesConfig(Strict):
    """What the axes of the genes' mean residual vectors go with, beyond expression level."""

    sets: NameOrPath | None = Field(
        default="hematopoiesis",
        description="A collection of gene sets that ships, or the path of a GMT file; null for none.",
    )
    edges: dict[str, EdgesConfig] = Field(
        default={}, description="Networks by name, such as STRING or CollecTRI; none by default."
    )
    covariates: Path | None = Field(
        default=None,
        description="Table with commas, a row per gene, named by its first column: numbers are regressed out beside expression, family and "
        "chromosome are names.",
    )
    axes: PositiveInt = Field(default=10, description="First singular axes of each layer that are looked at.")
    min_cells: PositiveInt = Field(default=10, description="Genes that are a token in fewer cells are left out.")
    null_draws: PositiveInt | None = Field(
        default=None,
        description="Draws of each null, at most; by default as many as let a single hit be found among all tests.",
    )


class ScviConfig(Strict):
    """scVI as a baseline: an autoencoder of the counts, trained on the very cells that are looked at."""

    python: Interpreter | None = Field(
        default=None,
        description="Interpreter that has scvi-tools, such as that of make peers; the workbench's own by default.",
    )
    epochs: PositiveInt = Field(default=100, description="Passes over the cells, at most.")
    latent: PositiveInt = Field(default=10, description="Width of the latent.")
    seconds: PositiveInt = Field(
        default=3600, description="So long may it take; the space is skipped where it does not end."
    )


class GeometryConfig(CommandConfig):
    """``workbench geometry``: dimension, isotropy, faithfulness and whose variance, of every layer beside its baselines."""

    name: str = named("geometry")
    data: EmbeddedDataConfig = Field(
        default=EmbeddedDataConfig(),
        description="The cells; a dataset that ships brings its own columns, unless one of them is given.",
    )
    spaces: SpacesConfig = Field(default=SpacesConfig(), description="Which activations are looked at.")
    measures: MeasuresConfig = Field(default=MeasuresConfig(), description="How they are measured.")
    genes: GenesConfig | None = Field(
        default=None, description="Geometry of genes as well; two more passes. Left out unless the section is there."
    )
    scvi: ScviConfig | None = Field(
        default=None, description="scVI beside the model, where counts are there. Left out unless the section is there."
    )
    controls: Annotated[tuple[Control, ...], Field()] = Field(
        default=(UNTRAINED, PERMUTED, THINNED),
        description="Passes beside the model's own: the same network with random weights, the model on cells whose genes were "
        "permuted over cells, and on cells thinned to one library size (counts are needed).",
    )
