"""What ``workbench pretrain`` is told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from workbench.pretrain_settings import PretrainSettings
from workbench.settings import DataConfig, DeviceName, FloatType, Strict


class PretrainConfig(Strict):
    """``workbench pretrain``: the cells, how to train on them, and a note for the model card."""

    out: Path = Field(description="Folder of the checkpoint; --out names another.")
    device: DeviceName = "auto"
    dtype: FloatType = "float32"
    note: str = Field(default="", description="A sentence for the model card; none by default.")
    data: DataConfig = Field(default=DataConfig(), description="The cells to train on, some of them held out.")
    studies: dict[str, DataConfig] = Field(
        default={},
        description="Further studies by name, each as in data; the genes of all are joined. None by default.",
    )
    held_out_studies: tuple[str, ...] = Field(
        default=(), description="Names in studies that are not trained on at all: the model is judged on their cells."
    )
    settings: PretrainSettings = Field(
        default=PretrainSettings(), description="Shape of the model, and how it is trained."
    )
