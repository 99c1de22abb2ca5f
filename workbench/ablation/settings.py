"""Typed settings of a study and of a sweep."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from workbench.settings import RulerConfig, Strict


class StudyConfig(RulerConfig):
    """The cells that an ablation is judged on, and the metrics that it is judged by."""

    cells: PositiveInt | None = Field(
        default=None,
        description="Number of cells, drawn by the seed and their names; all by default. Time grows with it.",
    )
    reference: PositiveInt | None = Field(
        default=None, description="Number of cells that mean and resample take their values from; all by default."
    )
    metrics: tuple[str, ...] = Field(
        default=("cell_shift", "masked_error", "label_loss", "label_error"),
        description="Any of cell_shift, masked_error, mvc_error, label_loss, label_error, trustworthiness, ruler, and "
        "gene:SYMBOL for one gene; the first ranks the heads for pairs.",
    )
    per_label: bool = Field(default=True, description="Judge label_error for each label by itself, too.")
    neighbours: PositiveInt = Field(default=15, description="Neighbours of each cell that trustworthiness looks at.")
    folds: int = Field(
        default=5, ge=2, description="Folds of the label probes: no cell is judged by a probe that was fitted on it."
    )
    mask_share: float = Field(
        default=0.25, gt=0, lt=1, description="Share of the values that masked_error, mvc_error and gene:SYMBOL hide."
    )
    max_tokens: PositiveInt | None = Field(
        default=None, description="Longest sequence with <cls>; the checkpoint's own by default."
    )
    batch_size: PositiveInt = Field(default=16, description="Cells per forward pass.")
    bootstrap: PositiveInt = Field(
        default=1000, description="Draws of cells (of donors, where there are any) per interval."
    )


class SweepConfig(Strict):
    """Which places of the model are switched off, how, and against which null."""

    how: tuple[Literal["zero", "mean", "resample"], ...] = Field(
        default=("mean",),
        description="What takes a head's place: nothing, its mean by gene, or its output on another cell.",
    )
    heads: bool = Field(default=True, description="Switch off every head, one at a time.")
    layers: bool = Field(default=False, description="Switch off every attention layer and every MLP, one at a time.")
    sites: tuple[str | tuple[str, ...], ...] = Field(
        default=(), description="Further places (L2H5, L2.attention, L2.mlp, L0.gene.CD3E), and lists of such together."
    )
    null_draws: int = Field(
        default=20,
        ge=0,
        description="Random directions of the same norm per head. p is pooled over the heads; for one head alone to "
        "reach q = 1 / n takes n draws.",
    )
    pairs_of_top: int = Field(
        default=0,
        ge=0,
        description="Number of top heads that are also switched off two by two, across layers; 0 for none. For each of these pairs "
        "20 others are drawn as the null, as far as the model has them.",
    )
    pairs_by: str | None = Field(
        default=None, description="Metric that the top heads are chosen by; the first of study.metrics by default."
    )
    block: PositiveInt = Field(
        default=32, description="Cells of one task; a sweep that is stopped loses the tasks in flight and no more."
    )
