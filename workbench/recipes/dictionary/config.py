"""What ``workbench dictionary`` is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

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
        default=200, description="Draws of held-out cells for the interval of what is explained beyond a gene's name."
    )


class NamesConfig(Strict):
    """How features are named."""

    sets: NameOrPath = Field(
        default="hematopoiesis", description="A collection of gene sets that ships, or the path of a GMT file."
    )
    n_top: PositiveInt = Field(default=20, description="Genes of a feature's list, at most.")
    draws: PositiveInt = Field(
        default=2000,
        description="Random gene lists of each feature, matched in length and expression. The smallest p is 1 / (1 + draws).",
    )


class DictionaryRunConfig(CommandConfig):
    """``workbench dictionary``: sparse dictionaries of hooks, judged beside a gene's name alone, named beside random lists."""

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
    controls: tuple[Control, ...] = Field(
        default=(UNTRAINED, SHUFFLED),
        description="Trainings beside the model's own: of the same network with random weights, and of activations whose coordinates were "
        "dealt anew among the rows of each gene.",
    )
