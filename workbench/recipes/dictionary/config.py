"""What ``workbench dictionary`` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from workbench.dictionaries.settings import DictionaryConfig
from workbench.settings import CommandConfig, NameOrPath, Strict, named

UNTRAINED: Literal["untrained"] = "untrained"
SHUFFLED: Literal["shuffled"] = "shuffled"
Control = Literal["untrained", "shuffled"]


class HeldOutConfig(Strict):
    """Cells that no dictionary is trained on, and that all are judged and named on."""

    folds: int = Field(default=5, ge=2, description="One of so many folds of the cells is held out.")
    donors: bool = Field(
        default=True,
        description="Hold out whole donors where the cells name them; otherwise cells are dealt out by a hash of their names.",
    )


class JudgeConfig(Strict):
    """How dictionaries are judged."""

    n_cells: PositiveInt = Field(
        default=200,
        description="Held-out cells that are looked at, and as many of those trained on for the simpler codes; drawn by seed and name. "
        "All of their activations at one hook are held in memory.",
    )
    mask_share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Share of a cell's values that are masked for the masked-expression error.",
    )
    bootstrap: PositiveInt = Field(
        default=200,
        description="Draws of held-out donors, or of cells where fewer than two donors are held out, for the interval of what is explained beyond a gene's name.",
    )


class NamesConfig(Strict):
    """How features are named."""

    sets: NameOrPath = Field(
        default="hematopoiesis", description="A collection of gene sets that ships, or the path of a GMT file."
    )
    n_top: PositiveInt = Field(default=20, description="Genes of a feature's list, at most.")
    draws: PositiveInt = Field(
        default=2000,
        description="Random directions of the cells beside the top genes of each feature. The smallest p is 1 / (1 + draws).",
    )
    ranked_draws: NonNegativeInt = Field(
        default=500,
        description="Random directions of the cells beside the ranking of each feature (pre-ranked enrichment); 0 for none. Time grows with features, genes, sets and draws.",
    )
    network: Path | None = Field(
        default=None,
        description="Known regulation: a table with the columns source and target, such as CollecTRI or DoRothEA written by decoupler; none by default.",
    )


class SteeringConfig(Strict):
    """Two labels between which cells are steered: along the difference of their means, and along each feature that is tested."""

    target: str = Field(description="Label, of data.cell_type, of the held-out cells that are steered.")
    source: str = Field(description="Label of the cells that they are steered to.")
    doses: tuple[float, ...] = Field(
        default=(1.0, 2.0, 4.0), min_length=1, description="Multiples of the direction that are added behind the layer."
    )
    draws: PositiveInt = Field(
        default=20, description="Random directions of the same length. The smallest p is 1 / (1 + draws)."
    )


class FeatureSweepConfig(Strict):
    """What is asked of the causes of features."""

    hooks: tuple[str, ...] | None = Field(
        default=None, description="Those of the hooks whose features are asked for; all of them when null."
    )
    features: PositiveInt | dict[str, tuple[NonNegativeInt, ...]] = Field(
        default=5,
        description="How many features of each hook are tested, drawn by the seed among those that fire; or the numbers of features by hook, "
        "chosen without a look at their effects on these cells.",
    )
    how: Literal["zero", "clamp", "scale"] = Field(
        default="zero", description="What is done to a feature: taken away, set to the amount, or multiplied by it."
    )
    amount: float | None = Field(default=None, description="Activation or factor of clamp and scale.")
    n_cells: PositiveInt = Field(
        default=100, description="Held-out cells that effects, estimates and edges are of, drawn by seed and name."
    )
    alike: PositiveInt = Field(
        default=50,
        description="Features drawn for each tested one as its null, at most, of those within a factor of two in firing rate and norm.",
    )
    check: PositiveInt = Field(
        default=20,
        description="Features of each hook that are ablated exactly, to check what gradients estimate of all.",
    )
    targets: PositiveInt = Field(
        default=12,
        description="Features of each hook but the first that edges from the hook before are looked for, drawn by the seed "
        "among those that fire.",
    )
    mixtures: PositiveInt = Field(
        default=25, description="Random mixtures of features for each upstream feature, the null of edges."
    )
    steering: tuple[SteeringConfig, ...] = Field(
        default=(), description="Pairs of cell types between which cells are steered; none by default."
    )

    @model_validator(mode="after")
    def _amount(self) -> Self:
        if (self.how == "zero") != (self.amount is None):
            raise ValueError(
                f"how is {self.how} and amount {self.amount}: give an amount with clamp and scale, and none with zero"
            )
        return self


class DictionaryRunConfig(CommandConfig):
    """``workbench dictionary``: sparse dictionaries of hooks, judged beside a gene's name alone, named beside random directions of the cells."""

    name: str = named("dictionary")
    hooks: tuple[str, ...] = Field(
        default=("blocks.*.hook_resid_post",),
        min_length=1,
        description="Hooks, or patterns of them, with a row per gene: a dictionary of each, all in one pass; or hook_cell by itself.",
    )
    targets: dict[str, str] = Field(
        default={},
        description="For transcoders: the hook that each of the hooks is decoded to, by the hook that is read; none by default.",
    )
    dictionary: DictionaryConfig = Field(
        default=DictionaryConfig(), description="What kind of dictionary is trained, and for how long."
    )
    trainings: PositiveInt = Field(
        default=2,
        description="Trainings from different seeds, one after the other from the configuration's own on; with one, stability is not judged.",
    )
    held_out: HeldOutConfig = Field(default=HeldOutConfig(), description="Which cells are held out.")
    judge: JudgeConfig = Field(default=JudgeConfig(), description="How dictionaries are judged.")
    names: NamesConfig | None = Field(
        default=NamesConfig(),
        description="How features are named; null for hooks with a row per cell, which have no genes.",
    )
    sweep: FeatureSweepConfig | None = Field(
        default=FeatureSweepConfig(),
        description="What is asked of the causes of features; null for nothing, as it has to be for hooks with a row per cell.",
    )
    controls: tuple[Control, ...] = Field(
        default=(UNTRAINED, SHUFFLED),
        description="Trainings beside the model's own: of the same network with random weights, and of activations whose coordinates were "
        "dealt anew among the rows of each gene.",
    )
