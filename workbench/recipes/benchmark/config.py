"""What ``workbench benchmark`` is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, model_validator

from workbench.operators.convention import SCGPT
from workbench.settings import (
    CellHeadsConfig,
    EmbeddedDataConfig,
    Interpreter,
    OperatorConfig,
    Strict,
    named,
)


class SplitsConfig(Strict):
    """How often and how cells are held out."""

    n: PositiveInt = Field(default=12, description="Number of splits, at most as many as there are.")
    test_share: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Share of the donors that a split holds out, or of the units without donors.",
    )
    units: int = Field(
        default=8,
        ge=3,
        description="Units that splits hold out where there are no donors: sets of capture.groups, over which every label is "
        "spread as evenly as whole groups allow.",
    )
    per_stage: PositiveInt = Field(
        default=500, description="Most training cells of one stage, so that training sides are balanced."
    )


class TransferConfig(Strict):
    """Other cells, which nothing is fitted on."""

    data: EmbeddedDataConfig = Field(description="The cells, as under data of the benchmark itself.")
    stages: dict[str, str] = Field(
        default={}, description="Stage of each label that the ruler does not know by itself; none by default."
    )


class PeersConfig(Strict):
    """Methods of other packages, which run in processes of their own."""

    python: Interpreter | None = Field(
        default=None,
        description="Interpreter of the environment that they are installed in (`make peers` prints one); by default "
        "the one that runs the workbench.",
    )
    seconds: PositiveInt = Field(
        default=600, description="Most seconds that a peer may take to be fitted, and again to predict."
    )
    options: dict[str, dict[str, Any]] = Field(
        default={}, description="Options of the package by the name of the method; each package's own by default."
    )


class BenchmarkConfig(OperatorConfig):
    """``workbench benchmark``: methods x splits x endpoints."""

    name: str = named("benchmark")
    data: EmbeddedDataConfig = Field(
        default=EmbeddedDataConfig(),
        description="The cells; a dataset that ships brings its own columns, unless one of them is given.",
    )
    cell_heads: CellHeadsConfig = Field(
        default=CellHeadsConfig(), description="The adaptor's heads that are trained on cells."
    )
    cells_per_donor: PositiveInt | None = Field(
        default=None, description="Most cells of one donor (without donors: of all), drawn by the seed; all by default."
    )
    splits: SplitsConfig = Field(default=SplitsConfig(), description="How often and how cells are held out.")
    transfer: dict[str, TransferConfig] = Field(
        default={}, description="Other cohorts of cells by name, on which what was fitted on all cells is judged."
    )
    methods: tuple[str, ...] = Field(
        default=(),
        description="Names of methods, or of groups: extracted, compact, control, baseline, scGPT, layers, peer, own; all "
        "when empty. What is your own (data.embeddings) is always among them.",
    )
    ours: str = Field(default="anchor head", description="The method that every other one is compared with.")
    peers: PeersConfig = Field(default=PeersConfig(), description="Methods of other packages.")
    audit: bool = Field(
        default=True,
        description="Fit every method once more with a test side of noise, which must change nothing; a method that "
        "fails is not judged.",
    )
    expected: Path | None = Field(
        default=None,
        description="File of published figures that the report prints beside what was found; none by default.",
    )

    @model_validator(mode="after")
    def _own_input(self) -> BenchmarkConfig:
        if self.capture.convention != SCGPT:
            raise ValueError(
                "capture.convention: paper is for operators only, and the benchmark reads scGPT's own embedding in the same pass, which has "
                "no place in it; use run or gates for such operators"
            )
        if self.panel.by != "cells" or self.panel.file is not None:
            raise ValueError(
                "the benchmark chooses a panel for each split by the cells of its training side; leave panel.by and panel.file out"
            )
        return self
