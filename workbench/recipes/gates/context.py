"""What the stages and the workers of a gate run share."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float

from workbench.cells.datasets import content_hash
from workbench.cells.panel import choose_panel
from workbench.cells.placed import PlacedCells, place_cells
from workbench.engine.config import load_cells
from workbench.evidence.contrasts import read_lineages
from workbench.evidence.gate_table import EXTERNAL, INTERNAL
from workbench.operators.operator import feature_map
from workbench.recipes.gates.cohorts import cohort_folder
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.gates.maps import MeansOfHeads
from workbench.recipes.gates.selection import check_cohorts, select_cells
from workbench.recipes.shared import CohortsContext
from workbench.settings import DataConfig


class GatesContext(CohortsContext):
    """Configuration, folder and cohorts of a gate run; what is not needed is not loaded."""

    settings = GatesConfig
    shared = ("cohorts", "operators")
    unlabelled = ("cohorts",)

    # What is configured.

    @property
    def internal(self) -> str:
        """Name of the cohort that adaptors are fitted on; its cells are those that operators are averaged over."""
        return next(name for name, cohort in self.config.cohorts.items() if cohort.role == INTERNAL)

    @property
    def external(self) -> str | None:
        """Name of the first external cohort, which heads are screened on; None where none is."""
        return next((name for name, cohort in self.config.cohorts.items() if cohort.role == EXTERNAL), None)

    def data_of(self, name: str) -> DataConfig:
        """Where the cells of a cohort are from.

        Parameters
        ----------
        name
            Name of the cohort; one without data of its own has those of all.
        """
        return self.config.cohorts[name].data or self.config.data

    @cached_property
    def lineages(self) -> tuple[str, ...]:
        """Branches that are followed: those of the configuration, which have to be the ruler's, or the ruler's own."""
        return read_lineages(self.config.trajectories, self.ruler.branches) or self.ruler.lineages

    # What the stages make.

    @cached_property
    def cells(self) -> dict[str, AnnData]:
        """Cells of every cohort by its name, as they were loaded; no cell is in two of them."""
        config = self.config
        loaded = {data: load_cells(data) for data in dict.fromkeys(map(self.data_of, config.cohorts))}
        chosen = {
            name: select_cells(name, cohort, loaded[self.data_of(name)], config.seed)
            for name, cohort in config.cohorts.items()
        }
        check_cohorts({name: cohort.role for name, cohort in config.cohorts.items()}, chosen)
        return chosen

    @cached_property
    def places(self) -> dict[str, tuple[pd.DataFrame, dict[str, str]]]:
        """By cohort: its cells with the stage of each, and the labels that the ruler does not know."""
        config = self.config
        return {
            name: place_cells(cells, self.ruler, {**config.stages, **config.cohorts[name].stages})
            for name, cells in self.cells.items()
        }

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Genes of the operators, chosen on the internal cohort; no label is looked at."""
        others = [match for name, match in self.matches.items() if name != self.internal]
        return choose_panel(
            self.cells[self.internal], self.matches[self.internal], **self.config.panel.chosen(), others=others
        )

    @property
    def read_obs(self) -> pd.DataFrame:
        """Standard columns of the internal cohort's cells."""
        return self.cells[self.internal].obs

    @property
    def most_groups(self) -> int:
        """Number of groups that sums are kept by: one by default, for no gate leaves any out."""
        return self.config.capture.groups or 1

    @cached_property
    def hashes(self) -> dict[str, str]:
        """By cohort: hash of its values, names and labels."""
        return {name: content_hash(cells) for name, cells in self.cells.items()}

    @property
    def content(self) -> str:
        """Hash of the cells of each cohort, for the manifest."""
        return "; ".join(f"{name} {value}" for name, value in self.hashes.items())

    @property
    def data_name(self) -> str:
        """Names of the data and the number of cells in all cohorts, for captions."""
        names = sorted({cells.uns["workbench"]["name"] for cells in self.cells.values()})
        return f"{', '.join(names)} ({sum(len(cells) for cells in self.cells.values())} cells)"

    # What the stages have left.

    @cached_property
    def cohorts(self) -> dict[str, PlacedCells]:
        """Cells of every cohort with their anchors, as the stage `cohorts` kept them."""
        folder = self.folder("cohorts")
        return {name: PlacedCells.open(cohort_folder(folder, name), self.ruler) for name in self.config.cohorts}

    @cached_property
    def operators(self) -> MeansOfHeads:
        """Operators of every head, as the stage `operators` kept them."""
        found = MeansOfHeads(self.folder("operators"))
        found.check(self.config.capture.of_operators)
        return found

    @cached_property
    def feature_map(self) -> Float[np.ndarray, "gene feature"]:
        """The configured feature map of these operators."""
        return feature_map(self.operators, self.config.adaptor.feature_map_spec())
