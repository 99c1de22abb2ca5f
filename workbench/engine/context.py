"""What the stages of a command share, in the process that started it and in its workers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from multiprocessing import current_process
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import pandas as pd
import torch
from pydantic import BaseModel

from workbench.engine.config import absolute
from workbench.engine.provenance import describe_model
from workbench.engine.record import key_of
from workbench.engine.sweep import Backend
from workbench.engine.tables import read_table, table_path, write_table
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.models import CellModel, load_model
from workbench.models.devices import find_device

Settings = TypeVar("Settings", bound=BaseModel)


class Context(Generic[Settings]):
    """Configuration, folder and data of a command; data are loaded when they are first needed.

    Parameters
    ----------
    config
        Typed configuration of the command. Paths in it work from here.
    out
        Output folder; stages, tables and report lie in it.
    backend
        Who does the tasks of its sweeps: one after the other in this process by default.

    Attributes
    ----------
    settings
        Type of its configuration; each command's context names its own.
    shared
        Stages whose results workers read from the disk. What a worker has opened is opened again when one of them is
        another.
    """

    settings: ClassVar[type[BaseModel]]
    shared: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Settings, out: Path, backend: Backend | None = None) -> None:
        self.config, self.out, self.backend = config, out, backend or Backend()

    @property
    def checkpoint(self) -> Path:
        """Folder of the checkpoint."""
        return self.config.checkpoint  # type: ignore[attr-defined]

    @cached_property
    def device(self) -> torch.device:
        """Where the model of this process runs."""
        return find_device(self.config.device)  # type: ignore[attr-defined]

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the model."""
        return getattr(torch, self.config.dtype)  # type: ignore[attr-defined]

    @cached_property
    def model(self) -> CellModel:
        """The checkpoint."""
        # Reading one imports transformer-lens, which takes seconds; workers do it unseen.
        if current_process().name == "MainProcess":
            print(f"[model] loading {self.checkpoint} ...", file=sys.stderr)
        return load_model(self.checkpoint, device=self.device, dtype=self.dtype)

    @cached_property
    def ruler(self) -> Ruler:
        """The ruler."""
        return load_ruler(self.config.ruler)  # type: ignore[attr-defined]

    def folder(self, stage: str) -> Path:
        """Folder of a stage.

        Parameters
        ----------
        stage
            Its name, as in `Stage.name`.
        """
        return self.out / "stages" / stage

    def read(self, name: str) -> pd.DataFrame:
        """A table that a stage has written.

        Parameters
        ----------
        name
            Name of the table, without ending.
        """
        return read_table(table_path(self.out, name))

    def write(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write tables of a stage.

        Parameters
        ----------
        tables
            Tables by name, without ending.
        """
        for name, table in tables.items():
            write_table(table_path(self.out, name), table)

    def chosen(self, *sections: str) -> dict[str, Any]:
        """Parts of the configuration, JSON-ready, for the inputs of a stage.

        Parameters
        ----------
        *sections
            Keys at the top of the configuration.
        """
        return self.config.model_dump(mode="json", include=set(sections))

    @property
    def content(self) -> str:
        """Content hash of the cells, for the manifest."""
        raise NotImplementedError

    @property
    def data_name(self) -> str:
        """Name of the cells and their number, for captions."""
        raise NotImplementedError

    @property
    def setting(self) -> str:
        """Model and data, for captions."""
        return f"Model: {describe_model(self.model, self.checkpoint)}. Data: {self.data_name}."

    @property
    def cautions(self) -> list[str]:
        """Sentences that stand before a report's own cautions; none by default."""
        return []

    @property
    def handle(self) -> Handle:
        """What a task takes to a worker in place of this context."""
        config = self.settings.model_validate(absolute(self.config)).model_dump_json()
        return Handle(type(self), config, str(self.out.resolve()), self.shared)

    @classmethod
    def opened(cls, config: str, out: Path, part: str) -> Self:
        """The context in a worker.

        Parameters
        ----------
        config
            Its configuration as JSON, with paths that are absolute.
        out
            Output folder of the command.
        part
            Which part of a command it is of, for contexts that are of one.
        """
        assert not part
        return cls(cls.settings.model_validate_json(config), out)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Handle:
    """A context as a task carries it: small, and good in any process that shares the folder.

    Attributes
    ----------
    kind
        Type of the context, importable in the worker.
    config
        Its configuration as JSON, paths absolute.
    out
        Its output folder as an absolute path.
    shared
        Names of the stages in that folder whose results it reads.
    part
        Which part of a command it is of; empty for the whole.
    """

    kind: type[Context]
    config: str
    out: str
    shared: tuple[str, ...] = ()
    part: str = ""

    def open(self) -> Any:
        """The context in this process, made once for as long as the stages that it shares hold the same."""
        return _opened(self, tuple(key_of(Path(self.out), name) for name in self.shared))


@lru_cache(maxsize=1)
def _opened(handle: Handle, keys: tuple[str, ...]) -> Context:
    return handle.kind.opened(handle.config, Path(handle.out), handle.part)
