"""Typed settings of ``workbench benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from workbench.settings import (
    AdaptorConfig,
    AnchorConfig,
    CaptureConfig,
    CellHeadsConfig,
    DataConfig,
    PanelConfig,
    Strict,
)


class SplitsConfig(Strict):
    """How often and how cells are held out.

    ``n`` splits (at most as many as there are), each of which holds out ``test_share`` of the donors. Without donors the
    cells are dealt by label into ``units`` groups, of which the same share is held out. ``per_stage``: so many training
    cells of a stage at most, so that training sides are balanced.
    """

    n: PositiveInt = 12
    test_share: float = Field(default=0.25, gt=0, lt=1)
    units: int = Field(default=8, ge=3)
    per_stage: PositiveInt = 500


class TransferConfig(Strict):
    """Cells of another panel, which nothing is fitted on: ``data`` and labels as in the campaign itself."""

    data: DataConfig
    stages: dict[str, str] = {}


class PeersConfig(Strict):
    """Methods of other packages.

    ``python``: interpreter of the environment that they are installed in; that of the workbench when absent. ``seconds``: so
    long may a peer take to be fitted, and again to answer. ``options``: by the name of the method.
    """

    python: Path | None = None
    seconds: PositiveInt = 600
    options: dict[str, dict[str, Any]] = {}


class BenchmarkConfig(Strict):
    """``workbench benchmark``: methods x splits x endpoints.

    ``methods``: names, or names of groups (extracted, compact, control, baseline, scGPT, layers, peer); all when empty. ``ours`` is
    compared with every other. ``cells_per_donor``: so many cells of a donor are drawn at most (by seed and name; of a
    dataset without donors: in all), for machines that cannot read a whole atlas. ``audit``: every method is fitted once more
    on a split whose test side was replaced by noise, which must change nothing.
    """

    name: str = "benchmark"
    checkpoint: Path
    seed: int = 0
    data: DataConfig = DataConfig()
    ruler: str = "hematopoiesis"
    stages: dict[str, str] = {}
    panel: PanelConfig = PanelConfig()
    capture: CaptureConfig = CaptureConfig()
    anchors: AnchorConfig = AnchorConfig()
    operator: Literal["attention", "qk", "ov"] = "attention"
    adaptor: AdaptorConfig = AdaptorConfig()
    cell_heads: CellHeadsConfig = CellHeadsConfig()
    cells_per_donor: PositiveInt | None = None
    splits: SplitsConfig = SplitsConfig()
    transfer: dict[str, TransferConfig] = {}
    methods: tuple[str, ...] = ()
    ours: str = "anchor head"
    peers: PeersConfig = PeersConfig()
    audit: bool = True
    expected: Path | None = None
