"""What ``workbench conventions`` is told."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveInt, model_validator

from workbench.settings import OperatorConfig, Strict, named


class ScoresConfig(Strict):
    """How heads and controls are scored."""

    holdouts: PositiveInt = Field(default=8, description="Random holdouts of anchors, of 30 % each.")
    control_draws: int = Field(
        default=20, ge=2, description="Draws of each random control, of which mean and spread are given."
    )
    bootstrap: PositiveInt = Field(
        default=1000, description="Draws of heads for the interval of each rank correlation."
    )


class ConventionsConfig(OperatorConfig):
    """``workbench conventions``: the same heads under each convention, beside controls."""

    name: str = named("conventions")
    evaluation: ScoresConfig = Field(default=ScoresConfig(), description="How heads and controls are scored.")

    @model_validator(mode="after")
    def _goes_through_all(self) -> Self:
        if self.operator != "attention" or not self.capture.of_operators.is_default:
            raise ValueError(
                "conventions goes through all of them by itself; leave operator and capture.convention, over_cells, orientation and sums out"
            )
        return self
