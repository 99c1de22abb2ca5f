"""Typed settings of a dictionary and of its training."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from workbench.settings import Strict

Architecture = Literal["topk", "batchtopk", "matryoshka", "jumprelu", "l1"]


class DictionaryConfig(Strict):
    """What kind of dictionary is trained, and for how long."""

    architecture: Architecture = Field(
        default="topk",
        description="What keeps features few: topk (k of each activation), batchtopk (k on average), matryoshka (the same, nested), "
        "jumprelu (a threshold of each feature, k on average) or l1 (a penalty).",
    )
    width: PositiveInt = Field(default=2048, description="Number of features; at least the width of the activation.")
    k: PositiveInt = Field(
        default=32, description="Features that are active at once; of l1 it is what the penalty leaves."
    )
    penalty: PositiveFloat = Field(
        default=1.0,
        description="Weight of sparsity beside the error of the reconstruction, for jumprelu and l1 alone.",
    )
    matryoshka: tuple[PositiveInt, ...] = Field(
        default=(),
        description="Widths of the inner dictionaries, ascending; an eighth, a quarter and a half by default.",
    )
    epochs: PositiveFloat = Field(
        default=4.0, description="How often the cells are run through the model; a part of a pass is allowed."
    )
    rows: PositiveInt = Field(default=2048, description="Activations of one step.")
    buffer: PositiveInt = Field(
        default=65536,
        description="Activations that are held at once and shuffled; memory grows with it, not with the cells.",
    )
    learning_rate: PositiveFloat = Field(default=1e-3, description="Largest learning rate of Adam.")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="Share of the steps in which the rate rises.")
    decay: float = Field(
        default=0.2, ge=0, lt=1, description="Share of the steps, the last, in which the rate falls to 0."
    )
    dead_after: PositiveInt = Field(
        default=200, description="Steps without firing after which a feature counts as dead and is revived."
    )
    balance: bool = Field(
        default=False,
        description="Leave out activations of genes that more cells express than the median gene, so that each of them counts as much.",
    )
    share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the activations of each pass that is used, drawn anew in each: a step may cost as much as the passes that feed it, "
        "and a share of many cells says more than all of a few.",
    )
    cells_at_once: PositiveInt = Field(
        default=16, description="Cells per forward pass; results differ by rounding only."
    )

    @model_validator(mode="after")
    def _fits(self) -> DictionaryConfig:
        if self.k > self.width:
            raise ValueError(f"k is {self.k}, but there are {self.width} features; set k to at most width")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} are more than all steps; lower one of them")
        widths = (*self.matryoshka, self.width)
        if any(a >= b for a, b in pairwise(widths)):
            raise ValueError(
                f"matryoshka is {list(self.matryoshka)}; the widths have to rise and stay under width {self.width}"
            )
        return self
