"""What ``workbench ablate`` is told."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from workbench.ablation.settings import StudyConfig, SweepConfig
from workbench.settings import CommandConfig, Strict, named


class ContrastConfig(Strict):
    """Two cell types between which heads are patched."""

    target: str = Field(description="Label of the cells whose heads are patched.")
    source: str = Field(description="Label of the cells that the patches are taken from.")


class AblationConfig(CommandConfig):
    """``workbench ablate``: a sweep over heads, with nulls, attribution beside it, and contrasts between cell types."""

    name: str = named("ablation")
    study: StudyConfig = Field(
        default=StudyConfig(),
        description="The cells that an ablation is judged on, and the metrics that it is judged by.",
    )
    sweep: SweepConfig = Field(default=SweepConfig(), description="Which places are switched off, how, and the null.")
    draws: PositiveInt = Field(
        default=4,
        description="Disjoint draws that the study's cells are split into: the effect of each head is also judged on each of them, "
        "from the same passes. 1 for none.",
    )
    attribution: bool = Field(
        default=True, description="Put gradients beside the exact effects, where metric and checkpoint allow them."
    )
    contrasts: tuple[ContrastConfig, ...] = Field(
        default=(), description="Pairs of cell types; every head of the one is patched with its output on the other."
    )
