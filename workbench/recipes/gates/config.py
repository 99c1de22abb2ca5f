"""What ``workbench gates`` is told."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from workbench.evidence.gate_spec import GATES
from workbench.settings import AnchorConfig, DataConfig, OperatorConfig, Strict, named


class CohortConfig(Strict):
    """A cohort: its role in the gates, where its cells come from, and which of them it takes."""

    role: Literal["internal", "external", "zero shot", "expected to fail"] = Field(
        description="Internal: operators and adaptor are fitted here (one cohort only). External: fitted anew. Zero "
        "shot: meets the internal adaptor as it is. Expected to fail: a control that has to fail a gate."
    )
    data: DataConfig | None = Field(default=None, description="Its cells; those of data for all by default.")
    select: dict[str, tuple[str, ...]] = Field(
        default={},
        description="Keep cells whose cell_type, donor, tissue or batch has one of these values; all by default.",
    )
    part: tuple[NonNegativeInt, PositiveInt] | None = Field(
        default=None,
        description="[i, n] keeps part i (from 0) of n parts of what is left, by a hash of the cells' names, for data "
        "that have nothing else to part them by; all by default.",
    )
    stages: dict[str, str] = Field(
        default={}, description="Stage of each of its labels that neither the ruler nor stages for all knows."
    )
    anchors: AnchorConfig | None = Field(default=None, description="Its anchors; as under anchors for all by default.")


class GatesConfig(OperatorConfig):
    """``workbench gates``: cohorts of cells, an operator of the model, and which gates have to pass."""

    # As older versions called them; said to whoever still does.
    renamed: ClassVar[dict[str, str]] = {"panels": "cohorts", "genes": "panel"}

    name: str = named("gates")
    cohorts: dict[str, CohortConfig] = Field(
        description="Cohorts by name: one internal, any number of others, no cell in two of them."
    )
    required: tuple[str, ...] = Field(
        default=GATES,
        description="Gates that every internal, external and zero-shot cohort has to pass, or the command exits with "
        "1; one that is not applicable has not passed.",
    )
    screen: bool = Field(default=True, description="Screen every head by the gates, where a cohort is external.")
    refits: PositiveInt = Field(
        default=20,
        description="Draws of the null beside the holdouts: stages relabelled, and the adaptor fitted again.",
    )
    head_refits: PositiveInt = Field(
        default=8,
        description="The same for each head of the screen, where draws are pooled over the heads, and for each reading of a holdout.",
    )
    control_draws: int = Field(
        default=20,
        ge=2,
        description="Draws of each random control, of which mean and spread are given.",
    )
    trajectories: tuple[str, ...] = Field(
        default=(), description="Branches of the ruler that are followed; the ruler's own lineages when empty."
    )
