"""The same ruler over genes on two files of cells: each of them as a part of the command, with operators and panel of its own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from workbench.evidence.ruler import Ruler
from workbench.models import CellModel
from workbench.recipes.manifold.config import ManifoldConfig
from workbench.recipes.manifold.context import ManifoldContext
from workbench.settings import DataConfig

INTERNAL, EXTERNAL, COHORT = "internal", "external", "cohort"


class Cohort(ManifoldContext):
    """One file of cells as a part of the command.

    Parameters
    ----------
    whole
        The command, which has the model and the ruler.
    name
        ``internal`` for the cells under ``data``, or ``external``.
    data
        Where its cells are from.
    """

    def __init__(self, whole: TwoCohorts, name: str, data: DataConfig) -> None:
        self.whole, self.name = whole, name
        config = whole.config.model_copy(update={"data": data, "external": None})
        super().__init__(config, whole.out / "cohorts" / name, whole.backend)

    def staged(self, name: str) -> str:
        """Name of a stage in the whole command.

        Parameters
        ----------
        name
            Name of the stage as a command with one file of cells has it.
        """
        return f"{name}-{self.name}"

    def folder(self, stage: str) -> Path:
        """Folder of a stage of this cohort.

        Parameters
        ----------
        stage
            Its name as a command with one file of cells has it.
        """
        return self.whole.folder(self.staged(stage))

    @property
    def model(self) -> CellModel:  # type: ignore[override]
        """The checkpoint."""
        return self.whole.model

    @property
    def ruler(self) -> Ruler:  # type: ignore[override]
        """The ruler over genes."""
        return self.whole.ruler


class TwoCohorts(ManifoldContext):
    """The command with cells of its own and an external panel."""

    @cached_property
    def parts(self) -> dict[str, Cohort]:
        """The command as it is for each file of cells."""
        config: ManifoldConfig = self.config
        assert config.external is not None
        data = {INTERNAL: config.data, EXTERNAL: config.external}
        return {name: Cohort(self, name, one) for name, one in data.items()}
