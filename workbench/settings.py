"""Typed sections that the configurations of several commands share.

Every field says what it means; ``workbench config`` and the page of keys are made from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from workbench.operators.convention import Convention, Input, Orientation, Pooling, Precision
from workbench.operators.operator import FeatureMapSpec, Head

# As the JSON schema calls the name of something that ships, or a path: it is one where it holds a slash or such a file
# exists.
NAME_OR_PATH = "name or path"
NameOrPath = Annotated[str, WithJsonSchema({"type": "string", "format": NAME_OR_PATH})]
Interpreter = Annotated[Path, WithJsonSchema({"type": "string", "format": NAME_OR_PATH})]
# Of every configuration with a checkpoint.
DeviceName = Annotated[
    str | tuple[str, ...],
    Field(
        description="Where the model runs: auto (the first CUDA card, or Apple's mps, or the processor), cpu, cuda:1 and so on; or a list, "
        "which worker processes (--backend loky) take in turn. Results agree but for rounding."
    ),
]
FloatType = Annotated[
    Literal["float32", "bfloat16", "float16"],
    Field(
        description="Float type of the model's weights and activations; sums are in single precision or better. The half "
        "types save memory and time on a GPU, and change the third digit."
    ),
]


def _has_truth(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list) and any(map(_has_truth, value)))


class Strict(BaseModel):
    """Settings of which no key is unknown and none can be changed, and whose numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if cls.model_fields[info.field_name or ""].annotation is not bool and _has_truth(value):
            raise ValueError("true and false are neither numbers nor names")
        return value


class DataConfig(Strict):
    """Which cells, and what their columns mean."""

    name: NameOrPath = Field(
        default="pbmc68k",
        description="A dataset that ships (pbmc68k: 700 human blood cells), or the path of a file of cells (h5ad, h5mu, zarr, 10x).",
    )
    backed: bool = Field(
        default=False,
        description="Leave the matrix on the disk and read rows as they are needed, for files beyond memory.",
    )
    layer: str | None = Field(default=None, description="Where the values lie: X (default), raw, or a layer's name.")
    values: str | None = Field(
        default=None,
        description="What the values are, where they do not show it: counts, cp10k, cpm, log1p:TOTAL, log2:TOTAL and so on, TOTAL "
        "being what each cell added up to before the logarithm.",
    )
    depth: str | None = Field(
        default=None,
        description="Column of obs with each cell's counts over all genes, for data that hold only some of the genes; by default "
        "n_counts, total_counts or nCount_RNA, where there is one.",
    )
    gene_column: str | None = Field(
        default=None, description="Column of var with the gene symbols; the index of var by default."
    )
    cell_type: str | None = Field(
        default=None, description="Column of obs with the labels that the ruler places; none by default."
    )
    donor: str | None = Field(
        default=None,
        description="Column of obs with the donors, whom folds and splits never divide; without it cells are dealt out "
        "by a hash of their names.",
    )
    tissue: str | None = Field(
        default=None, description="Column of obs with the tissues, which no anchor mixes; none by default."
    )
    batch: str | None = Field(
        default=None,
        description="Column of obs with the batches, by name or row; only some checkpoints need one (docs/inputs.md).",
    )
    min_gene_share: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="Share of the cells' genes that the vocabulary has to know, or the command stops.",
    )


class EmbeddedDataConfig(DataConfig):
    """Which cells, what their columns mean, and which embeddings of them are judged."""

    embeddings: tuple[str, ...] = Field(
        default=(),
        description="Entries of obsm, such as X_scVI, that are judged beside what the model gives. For benchmark each is a method of the "
        "group own: linear probes on it. Of a cohort that is transferred to: those that it has, too; a method without its embedding is "
        "not run there.",
    )


class PanelConfig(Strict):
    """The gene panel: which genes the operators are between."""

    size: PositiveInt | None = Field(
        default=None,
        description="Number of genes, chosen as `by` says; all by default. Memory grows with its square.",
    )
    by: Literal["cells", "variable"] = Field(
        default="cells",
        description="Which genes are taken where there are more than `size`: those seen in most cells, or the highly variable genes of "
        "scanpy (flavor seurat, on log1p of counts per 10,000), for which all matched genes are held in memory.",
    )
    file: Path | None = Field(
        default=None,
        description="File with one gene symbol a line, which are the panel, in their order; none by default. Each has to be measured and "
        "in the vocabulary.",
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Symbols of genes to leave out, such as those by which the cells were labelled."
    )

    def chosen(self) -> dict[str, Any]:
        """Arguments of `choose_panel` by name."""
        return self.model_dump()


class AnchorConfig(Strict):
    """Anchors: mean expression of the cells of one donor, tissue, cell type and stage."""

    min_cells: PositiveInt = Field(default=5, description="Cells that an anchor needs; smaller groups make none.")
    parts: PositiveInt = Field(
        default=1,
        description="Split each group at random into up to so many anchors. Parts share donors and are no biological "
        "replicates: only for data with too few groups to hold any out.",
    )
    weights: Literal["equal", "cells", "stage"] = Field(
        default="equal",
        description="Weight of an anchor in the fit: the same, by its cells, or the same for each stage.",
    )


class AdaptorConfig(Strict):
    """The LET adaptor, and the feature map that it acts on."""

    k: PositiveInt = Field(default=10, description="Width of the latent.")
    alpha: float = Field(
        default=0.1, ge=0, description="Weight of the reconstruction of the features beside the ruler's distances."
    )
    beta: float = Field(
        default=0.3183098861837907,
        gt=0,
        description="Ruler diameters per radian; with 1 / pi, opposites are one apart.",
    )
    steps: PositiveInt = Field(
        default=20_000,
        description="Most iterations of the fit (L-BFGS); it ends at its optimum (tol) where this allows it.",
    )
    tol: float = Field(
        default=1e-7, gt=0, lt=1, description="The fit ends at this share of the gradient's norm at its start."
    )
    feature_map: Literal["drift", "single", "topk"] = Field(
        default="drift",
        description="Differences of mean operators between blocks of layers, one head (layer, head), or the best heads "
        "of a screen weighted by their score (top).",
    )
    layer: NonNegativeInt = Field(default=0, description="Layer of the head for feature_map single, from 0.")
    head: NonNegativeInt = Field(default=0, description="Head within its layer for feature_map single, from 0.")
    top: PositiveInt = Field(
        default=5,
        description="Number of heads for feature_map topk, screened on the cells that the adaptor is fitted on.",
    )
    blocks: tuple[tuple[NonNegativeInt, ...], ...] = Field(
        default=(), description="Layers of each block for feature_map drift, from 0; thirds of the model when empty."
    )

    def feature_map_spec(self, weights: Mapping[Head, float] | None = None) -> FeatureMapSpec:
        """The feature map that these settings ask for.

        Parameters
        ----------
        weights
            Weight of each head by (layer, head), for ``topk``; other feature maps need none.
        """
        return FeatureMapSpec(self.feature_map, (self.layer, self.head), weights, self.blocks)

    @property
    def name(self) -> str:
        """Name of the feature map, for tables and captions."""
        return f"top {self.top} heads" if self.feature_map == "topk" else self.feature_map_spec().name

    def parameters(self) -> dict[str, Any]:
        """Parameters of `LETAdaptor`."""
        return {name: getattr(self, name) for name in ("k", "alpha", "beta", "steps", "tol")}


class CaptureConfig(Strict):
    """The forward passes over all cells, and by which convention operators are made of them (docs/conventions.md)."""

    convention: Input = Field(
        default="scgpt",
        description="What cells are fed as. scgpt: bins and <cls>, as scGPT was trained. paper, for operators only: the genes of the panel, "
        "log1p of counts per 10,000 without bins, no <cls>; no embedding of the cell is read of it.",
    )
    over_cells: Pooling = Field(
        default="mean",
        description="Of each pair of genes the mean attention over the cells in which both are tokens, or the plain sum.",
    )
    orientation: Orientation = Field(
        default="query x key",
        description="Rows of an operator are query genes and columns key genes, or its transpose.",
    )
    sums: Precision = Field(
        default="float32",
        description="Float type in which attention is added up over cells; float64 takes twice the memory.",
    )

    batch_size: PositiveInt | None = Field(
        default=None, description="Cells per pass; by default as many as keep a layer's attention maps small."
    )
    max_tokens: PositiveInt | None = Field(
        default=None,
        description="Longest sequence with <cls>; the model's own by default. Memory grows with its square.",
    )
    groups: PositiveInt | None = Field(
        default=None,
        description="Groups of cells whose sums are kept apart: whole donors, or cells by a hash of their names. Folds "
        "and splits are made of them without another pass. By default 10 for run, 1 for gates; for benchmark every "
        "donor, and 16 where there are no donors.",
    )

    @property
    def of_operators(self) -> Convention:
        """Convention of the operators."""
        return Convention(self.convention, self.over_cells, self.orientation, self.sums)


class ReadoutConfig(Strict):
    """The readouts of cells from the latent."""

    hidden: NonNegativeInt = Field(
        default=0, description="Width of one hidden layer; 0 for linear readouts, 64 for the method's MLP2."
    )


class EvaluationConfig(Strict):
    """Folds, holdouts, and draws of the null distributions."""

    folds: int = Field(
        default=5,
        ge=2,
        description="Folds of the cross-validation: whole groups of capture.groups, no more than there are.",
    )
    holdouts: PositiveInt = Field(default=8, description="Random holdouts of anchors, of 30 % each.")
    permutations: PositiveInt = Field(
        default=200, description="Draws of the readouts' null: labels permuted against fixed predictions."
    )
    refits: PositiveInt = Field(
        default=40, description="Draws of the holdouts' null: stages relabelled, and the adaptor fitted again."
    )
    head_refits: PositiveInt = Field(default=8, description="The same for each head; draws are pooled over the heads.")
    control_draws: int = Field(
        default=20,
        ge=2,
        description="Draws of each random control, of which mean and spread are given; the smallest p beside them is "
        "1 / (draws + 1).",
    )


class CellHeadsConfig(Strict):
    """Heads of the adaptor that are trained on cells, judged beside the one that is fitted to anchors."""

    epochs: PositiveInt = Field(
        default=120, description="Most passes over the training cells; training may stop earlier."
    )
    batch_size: PositiveInt = Field(default=896, description="Most cells of one step.")
    per_stage: PositiveInt = Field(
        default=500, description="Most training cells of one stage, drawn by the seed and the cells' names."
    )
    hybrid: bool = Field(
        default=True, description="Train the hybrid heads too: both sweeps over the weight of the topology term."
    )


class RulerConfig(Strict):
    """The ruler, and which labels lie where on it."""

    ruler: NameOrPath = Field(
        default="hematopoiesis", description="A ruler that ships (hematopoiesis), or the path of one of your own."
    )
    stages: dict[str, str] = Field(
        default={}, description="Stage of each label that the ruler does not know by itself; none by default."
    )


def named(default: str) -> Any:
    """Field of a command's ``name``.

    Parameters
    ----------
    default
        Name where the configuration gives none.
    """
    return Field(
        default=default, description="Names the folder artifacts/NAME where --out gives no other, and the report."
    )


class CommandConfig(Strict):
    """What every command with a checkpoint is told."""

    name: str = named("")
    checkpoint: Path = Field(description="Folder of the checkpoint: args.json, vocab.json and best_model.pt.")
    seed: int = Field(
        default=0,
        ge=0,
        le=2**32 - 1,
        description="The one seed of everything random; the same seed gives the same numbers.",
    )
    device: DeviceName = "auto"
    dtype: FloatType = "float32"
    data: DataConfig = Field(
        default=DataConfig(),
        description="The cells; a dataset that ships brings its own columns, unless one of them is given.",
    )


class OperatorConfig(RulerConfig, CommandConfig):
    """What every command is told that makes operators of a model."""

    panel: PanelConfig = Field(default=PanelConfig(), description="The genes of the operators.")
    capture: CaptureConfig = Field(default=CaptureConfig(), description="The forward passes.")
    anchors: AnchorConfig = Field(default=AnchorConfig(), description="The centroids that the adaptor is fitted to.")
    operator: Literal["attention", "qk", "ov"] = Field(
        default="attention",
        description="Mean attention patterns over the cells, or qk and ov from the checkpoint alone.",
    )
    adaptor: AdaptorConfig = Field(default=AdaptorConfig(), description="The adaptor and the feature map under it.")

    @model_validator(mode="after")
    def _convention_of_cells(self) -> OperatorConfig:
        if self.operator != "attention" and not self.capture.of_operators.is_default:
            raise ValueError(
                f"operator {self.operator} comes from the weights alone, and capture.convention, over_cells, orientation and sums say how "
                "attention is averaged over cells; leave them out, or set operator to attention"
            )
        if self.panel.file is not None and self.panel.size is not None:
            raise ValueError(
                "panel.file names every gene of the panel, and panel.size how many are chosen; give one of them"
            )
        return self
