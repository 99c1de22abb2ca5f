"""What the stages and the workers of a campaign share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from jaxtyping import Float, Int

from workbench.cells.datasets import content_hash, values_hash
from workbench.cells.panel import genes_left_out
from workbench.cells.placed import PlacedCells, place_cells
from workbench.engine.config import load_cells
from workbench.engine.sweep import Backend
from workbench.errors import EvaluationError, GeneMatchError
from workbench.evidence.methods import Listed, chosen_methods
from workbench.evidence.representations import own_name
from workbench.files import read_arrays, read_json
from workbench.models import CellTokenizer
from workbench.operators.store import StoredOperators
from workbench.recipes.benchmark.cells import GENES
from workbench.recipes.benchmark.config import BenchmarkConfig, EmbeddedDataConfig
from workbench.recipes.benchmark.splits import INTERNAL, TRANSFER, Holdout, drawn_cells, make_holdouts, with_units
from workbench.recipes.shared import CohortsContext

# Groups of cells that sums are kept by where the data name no donors and the configuration says nothing.
_GROUPS = 16


class BenchmarkContext(CohortsContext):
    """Configuration, folder and cohorts of a campaign; what is not needed is not loaded."""

    settings = BenchmarkConfig
    shared = ("cells", "operators", "transfer", "untrained")
    internal = INTERNAL

    def __init__(
        self,
        config: BenchmarkConfig,
        out: Path,
        backend: Backend | None = None,
        own: Mapping[str, Listed] | None = None,
    ) -> None:
        super().__init__(config, out, backend)
        # Of the process that lists the methods: a task carries its own to a worker.
        self.own = own or {}

    # What is configured.

    @cached_property
    def methods(self) -> dict[str, Listed]:
        """The methods that are asked for, by name, the user's own among them."""
        return chosen_methods(self.config, self.model.config.n_layers, self.own)

    @property
    def cohort_names(self) -> tuple[str, ...]:
        """Names of the cohorts: the internal one, and those that are transferred to."""
        if INTERNAL in self.config.transfer:
            raise EvaluationError(
                f"A cohort under 'transfer' is called '{INTERNAL}', as the cells of 'data' are; give it another name."
            )
        return (INTERNAL, *self.config.transfer)

    def data_of(self, name: str) -> EmbeddedDataConfig:
        """Where the cells of a cohort are from.

        Parameters
        ----------
        name
            Name of the cohort: ``internal``, or a key of ``transfer``.
        """
        return self.config.data if name == INTERNAL else self.config.transfer[name].data

    # What the stages make; no worker asks for it.

    @cached_property
    def cells(self) -> dict[str, AnnData]:
        """Cells of every cohort as they were loaded; no internal cell is in another one."""
        found = {name: load_cells(self.data_of(name)) for name in self.cohort_names}
        for name in self.config.transfer:
            shared = sorted(set(found[INTERNAL].obs_names) & set(found[name].obs_names))
            if shared:
                raise EvaluationError(
                    f"Cohort '{name}' shares {len(shared)} cells with the internal data (such as {', '.join(shared[:3])}), so "
                    "nothing can be transferred to it. Leave them out; or make names unique where only names are the same."
                )
        return found

    @cached_property
    def values(self) -> dict[str, str]:
        """By cohort: hash of its values and names, without any label."""
        return {name: values_hash(cells) for name, cells in self.cells.items()}

    @cached_property
    def drawn(self) -> dict[str, Int[np.ndarray, " drawn"]]:
        """By cohort: numbers of the cells that are used, in the order of the file."""
        most, seed = self.config.cells_per_donor, self.config.seed
        return {name: np.flatnonzero(drawn_cells(cells.obs, most, seed)) for name, cells in self.cells.items()}

    @cached_property
    def measured(self) -> dict[str, tuple[str, ...]]:
        """By cohort: the genes that a panel may take, in alphabetical order."""
        left_out, found = genes_left_out(self.config.panel.exclude, self.matches.values()), {}
        for name, match in self.matches.items():
            found[name] = tuple(sorted(set(match.genes) - left_out))
            if not found[name]:
                raise GeneMatchError(f"All {len(match.genes)} matched genes are left out of the panel; exclude fewer.")
            if not set(found[name]) & set(found[INTERNAL]):
                raise EvaluationError(f"Cohort '{name}' measures none of the genes of the internal data.")
        return found

    @property
    def read_obs(self) -> pd.DataFrame:
        """Standard columns of the internal cells that are drawn."""
        return self.cells[INTERNAL].obs.iloc[self.drawn[INTERNAL]]

    @property
    def most_groups(self) -> int | None:
        """Number of groups that sums are kept by: by default every donor, or 16 where there are no donors."""
        return self.config.capture.groups or (None if "donor" in self.read_obs else _GROUPS)

    @cached_property
    def _placed(self) -> tuple[dict[str, PlacedCells], tuple[str, ...], str]:
        found = {}
        for name, cells in self.cells.items():
            more = {} if name == INTERNAL else self.config.transfer[name].stages
            obs, unplaced = place_cells(cells, self.ruler, {**self.config.stages, **more})
            if (obs["stage"] < 0).all():
                raise EvaluationError(
                    f"The ruler knows none of the labels of '{self.data_of(name).name}' (such as "
                    f"{', '.join(list(unplaced)[:3])}); map them under stages."
                )
            obs = obs.iloc[self.drawn[name]]
            found[name] = PlacedCells(
                self.titles[name], obs, (), sp.csr_matrix((len(obs), 0)), self.ruler, unplaced=unplaced
            )
        given = found[INTERNAL], self.groups, self.config.splits.units, self.config.seed
        found[INTERNAL], units, kind = with_units(*given)
        return found, units, kind

    @property
    def placed(self) -> dict[str, PlacedCells]:
        """Drawn cells of every cohort on the ruler, before their values are read; the internal ones with their units."""
        return self._placed[0]

    @property
    def units(self) -> tuple[str, ...]:
        """Names of what is held out as a whole: donors, or sets of hashed groups of cells."""
        return self._placed[1]

    @property
    def kind(self) -> str:
        """Kind of the repeated splits: ``donor holdout`` or ``stratified``."""
        return self._placed[2]

    @cached_property
    def holdouts(self) -> list[Holdout]:
        """The splits: repeated ones of the internal cells, then one for each cohort that is transferred to."""
        splits, names = self.config.splits, self.config.transfer
        made = make_holdouts(self.units, self.kind, splits.n, splits.test_share, self.config.seed)
        return made + [Holdout(f"to {name}", TRANSFER, cohort=name) for name in names]

    @cached_property
    def titles(self) -> dict[str, str]:
        """By cohort: name of its data, without the folder of a file unless two names are then the same."""
        paths = {name: str(cells.uns["workbench"]["name"]) for name, cells in self.cells.items()}
        short = {name: Path(path).name for name, path in paths.items()}
        return short if len(set(short.values())) == len(short) else paths

    @cached_property
    def embeddings(self) -> dict[str, dict[str, Float[np.ndarray, "drawn width"]]]:
        """By cohort: the user's own embeddings of the drawn cells, by the name that methods read them under."""
        found = {
            name: {own_name(key): np.asarray(values)[self.drawn[name]] for key, values in cells.obsm.items()}
            for name, cells in self.cells.items()
        }
        for name in self.config.transfer:
            for key in self.data_of(name).embeddings:
                here = found[name][own_name(key)].shape[1]
                there = found[INTERNAL].get(own_name(key))
                if there is None or there.shape[1] != here:
                    held = "does not name it" if there is None else f"has {there.shape[1]} columns"
                    raise EvaluationError(
                        f"Cohort '{name}' names the embedding '{key}' of {here} columns, and the internal data's {held}. Name the "
                        f"same embedding in both, or leave it out of transfer.{name}.data.embeddings."
                    )
        return found

    def tokenizer(self, name: str) -> CellTokenizer:
        """Tokens of the drawn cells of a cohort.

        Parameters
        ----------
        name
            Name of the cohort: ``internal``, or a key of ``transfer``.
        """
        cells, rows = self.cells[name], self.drawn[name]
        chosen = cells if len(rows) == len(cells) else AnnData(cells.X[rows], obs=cells.obs.iloc[rows], var=cells.var)
        return self.tokens_of(chosen, self.data_of(name))

    @property
    def content(self) -> str:
        """Hash of the cells of each cohort, for the manifest."""
        return "; ".join(f"{name} {content_hash(cells, self.values[name])}" for name, cells in self.cells.items())

    @property
    def data_name(self) -> str:
        """Names of the data and the number of cells that are used of all of them, for captions."""
        return f"{', '.join(self.titles.values())} ({sum(map(len, self.drawn.values()))} cells)"

    # What the stages have left.

    def cohort_folder(self, name: str) -> Path:
        """Where the placed cells of a cohort are kept; a cohort is called as its user likes, a folder is not.

        Parameters
        ----------
        name
            Name of the cohort: ``internal``, or a key of ``transfer``.
        """
        return self.folder("cells") / str(self.cohort_names.index(name))

    def model_folder(self, name: str) -> Path:
        """Where what the model gave of a cohort's cells is kept.

        Parameters
        ----------
        name
            Name of the cohort: ``internal``, or a key of ``transfer``.
        """
        if name == INTERNAL:
            return self.folder("operators")
        return self.folder("transfer") / str(self.cohort_names.index(name))

    def embeddings_file(self, name: str) -> Path:
        """Safetensors file with the embeddings of a cohort's cells.

        Parameters
        ----------
        name
            Name of the cohort: ``internal``, or a key of ``transfer``.
        """
        return self.model_folder(name) / "embeddings.safetensors"

    def own_file(self, name: str) -> Path:
        """Safetensors file with the user's own embeddings of a cohort's cells; absent where there are none.

        Parameters
        ----------
        name
            Name of the cohort: ``internal``, or a key of ``transfer``.
        """
        return self.cohort_folder(name) / "own.safetensors"

    @cached_property
    def cohorts(self) -> dict[str, PlacedCells]:
        """Cells of every cohort with their embeddings, on all genes that a panel may take."""
        found = {}
        for name in self.cohort_names:
            cells = PlacedCells.open(self.cohort_folder(name), self.ruler, self.embeddings_file(name))
            own = read_arrays(self.own_file(name))[0] if self.data_of(name).embeddings else {}
            found[name] = replace(cells, embeddings={**cells.embeddings, **own})
        return found

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of the operators: those of the panel of any split."""
        return tuple(read_json(self.folder("cells") / GENES))

    @cached_property
    def operators(self) -> StoredOperators:
        """Operators of every head by group of the internal cells."""
        found = StoredOperators(self.folder("operators"))
        found.check(self.config.capture.of_operators)
        return found

    @cached_property
    def untrained(self) -> StoredOperators:
        """The same of a model that was never trained."""
        found = StoredOperators(self.folder("untrained"))
        found.check(self.config.capture.of_operators)
        return found

    @cached_property
    def present(self) -> frozenset[int]:
        """Stage numbers that the campaign has cells of, in any cohort."""
        return frozenset[int]().union(*(cells.stage[cells.placed].tolist() for cells in self.cohorts.values()))
