"""A campaign in the process that needs it: pools, splits, sides and methods, each read when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from workbench.engine.stages import key_of
from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.embeddings import OnPanel
from workbench.evidence.endpoints import MACROPHAGE, Judged, asked
from workbench.evidence.methods import GROUPS, PEER, Listed, own_methods
from workbench.evidence.peers import peer_methods
from workbench.evidence.protocol import Cells, Training
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.files import read_json
from workbench.operators.operator import OperatorSource
from workbench.operators.store import StoredOperators
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.pools import Pool, read_pool
from workbench.recipes.benchmark.splits import TRANSFER, Split, first_of_each
from workbench.seeds import generator

INTERNAL = "internal"
# Stages; the key of the second says of which cells and which model everything before a method is.
MODEL, UNTRAINED = "operators", "untrained"
SPLITS, FORWARD = "splits.json", "forward.json"


@dataclass(frozen=True)
class Sides:
    """A split, taken apart.

    Attributes
    ----------
    train
        Everything that a method may be fitted on.
    test
        The cells that it is asked about.
    truth
        What is right about them.
    """

    train: Training
    test: Cells
    truth: Judged


@dataclass(frozen=True)
class Bench:
    """A campaign whose cells and operators are on the disk.

    Attributes
    ----------
    config
        What to run.
    out
        Folder of the run.
    """

    config: BenchmarkConfig
    out: Path

    @cached_property
    def ruler(self) -> Ruler:
        """The ruler."""
        return load_ruler(self.config.ruler)

    @cached_property
    def about(self) -> dict:
        """What the first stage found: units, splits, names of data."""
        return read_json(self.out / "stages" / "cells" / SPLITS)

    @cached_property
    def forward(self) -> float:
        """Seconds of a forward pass over one cell."""
        return read_json(self.out / "stages" / MODEL / FORWARD)["seconds_per_cell"]

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """Cells by panel: ``internal``, and those of transfers."""
        cells, given = self.out / "stages" / "cells", self.out / "stages" / MODEL
        return {
            name: read_pool(cells / name, said, given / embeddings_file(name))
            for name, said in self.about["data"].items()
        }

    @cached_property
    def splits(self) -> dict[str, Split]:
        """All splits by name."""
        found = [Split(**{**one, "held": frozenset(one["held"])}) for one in self.about["splits"]]
        return {one.name: one for one in found}

    @cached_property
    def methods(self) -> dict[str, Listed]:
        """The methods that are asked for, by name."""
        every = own_methods(self.config, self.about["n_layers"])
        peers = self.config.peers
        for name, peer in peer_methods(peers.python, peers.seconds, peers.options).items():
            every[name] = Listed(peer, PEER, peer.about)
        return chosen_methods(every, self.config.methods, self.config.ours)

    @property
    def macrophages(self) -> bool:
        """Whether any cell of the campaign is one."""
        if MACROPHAGE not in self.ruler.stages:
            return False
        number = self.ruler.stages.index(MACROPHAGE)
        return any((pool.stage == number).any() for pool in self.pools.values())

    @cached_property
    def stored(self) -> tuple[StoredOperators | None, StoredOperators | None]:
        """Operators of the model, and of the untrained one."""
        places = [self.out / "stages" / name for name in (MODEL, UNTRAINED)]
        one, other = (StoredOperators(place) if (place / "operators.json").is_file() else None for place in places)
        return one, other

    def panel(self, split: Split, pool: Pool) -> tuple[str, ...]:
        """Genes of a split: those of the internal data seen in most cells of its training side; no label is looked at.

        Parameters
        ----------
        split
            The split. Where another panel is judged, only genes that it measures are taken.
        pool
            The internal cells.
        """
        size = self.config.panel.size
        genes = np.array(pool.genes)
        able = np.ones(len(genes), dtype=bool)
        if split.kind == TRANSFER:
            able = np.isin(genes, self.pools[split.panel].genes)
            if not able.any():
                raise EvaluationError(f"Panel '{split.panel}' measures none of the genes of the internal data.")
        if size is None or size >= able.sum():
            return tuple(genes[able].tolist())
        return seen_in_most(pool, self.inside(split), able, size)

    def inside(self, split: Split) -> np.ndarray:
        """Whether each internal cell is of a unit that the split does not hold out.

        Parameters
        ----------
        split
            The split.
        """
        return ~np.isin(self.pools[INTERNAL].obs["unit"].to_numpy(), sorted(split.held))

    def sides(self, split: Split, pool: Pool | None = None) -> Sides:
        """Training side and test side of a split.

        Parameters
        ----------
        split
            The split.
        pool
            In place of the internal cells, for the audit.

        Raises
        ------
        EvaluationError
            If either side is left without a cell that has a place on the ruler.
        """
        pool = self.pools[INTERNAL] if pool is None else pool
        panel, inside = self.panel(split, pool), self.inside(split)
        train = balanced(
            pool, np.flatnonzero(inside & (pool.stage >= 0)), self.config.splits.per_stage, self.config.seed
        )
        judged = self.pools[split.panel] if split.kind == TRANSFER else pool
        test = np.flatnonzero(judged.stage >= 0 if split.kind == TRANSFER else ~inside & (pool.stage >= 0))
        test = test[np.argsort(judged.names[test], kind="stable")]
        for rows, side in ((train, "training"), (test, "test")):
            if not len(rows):
                raise EvaluationError(
                    f"Split '{split.name}' has no cell with a place on the ruler on its {side} side; map more labels under "
                    "stages, or hold out another share."
                )
        place = {gene: i for i, gene in enumerate(self.about["genes"])}
        columns = np.array([place[gene] for gene in panel if gene in place])

        def on_panel(source: StoredOperators | None) -> OperatorSource | None:
            return None if source is None else OnPanel(source.leaving(split.held), columns)

        operators, bare = (on_panel(source) for source in self.stored)
        stage = pool.stage[train]
        kinds = {
            name: pool.obs[name].to_numpy(dtype=str)[train] for name in ("tissue", "cell_type") if name in pool.obs
        }
        training = Training(
            pool.cells(train, panel),
            stage,
            None if pool.donor is None else pool.donor[train],
            self.ruler,
            asked(stage, self.ruler, macrophages=self.macrophages),
            self.config.seed,
            operators,
            bare,
            **kinds,
        )
        truth = Judged(
            judged.names[test],
            judged.stage[test],
            None if judged.donor is None else judged.donor[test],
            asked(judged.stage[test], self.ruler, macrophages=self.macrophages),
        )
        return Sides(training, judged.cells(test, panel), truth)


def embeddings_file(name: str) -> str:
    """File of a panel's embeddings, in the folder of the stage that made them.

    Parameters
    ----------
    name
        Of the panel.
    """
    return f"embeddings-{name}.safetensors"


def balanced(pool: Pool, rows: np.ndarray, per_stage: int, seed: int) -> np.ndarray:
    """At most so many cells of each stage, in the order of their names: the order in the file changes nothing.

    Parameters
    ----------
    pool, rows
        Cells of the training side.
    per_stage, seed
        How many, and what decides which.
    """
    names = pool.names[rows]
    kept = rows[first_of_each(names, pool.stage[rows], per_stage, seed, "benchmark training")]
    return kept[np.argsort(pool.names[kept], kind="stable")]


def seen_in_most(pool: Pool, inside: np.ndarray, able: np.ndarray, size: int) -> tuple[str, ...]:
    """The genes that are expressed in most of some cells, in alphabetical order.

    Parameters
    ----------
    pool, inside
        Cells, and which of them count.
    able, size
        Which genes may be taken, and how many.
    """
    genes = np.array(pool.genes)
    seen = np.bincount(pool.expression[np.flatnonzero(inside)].indices, minlength=len(genes))
    frame = pd.DataFrame({"gene": genes[able], "cells": seen[able]})
    frame = frame.sort_values(["cells", "gene"], ascending=[False, True], kind="stable")
    return tuple(sorted(frame["gene"].head(size)))


def chosen_methods(every: dict[str, Listed], wanted: tuple[str, ...], ours: str) -> dict[str, Listed]:
    """The methods that a configuration names, by themselves or by their groups.

    Parameters
    ----------
    every
        All there are.
    wanted
        Names of methods or groups; all when empty.
    ours
        The method that others are compared with; always among them.

    Raises
    ------
    EvaluationError
        For a name that is none.
    """
    for name in (*wanted, ours):
        if name not in every and (name not in GROUPS or name == ours):
            raise EvaluationError(unknown_name("method or group of methods", name, [*every, *GROUPS]))
    if not wanted:
        return every
    return {name: one for name, one in every.items() if name in wanted or one.group in wanted or name == ours}


def replaced_by_noise(pool: Pool, rows: np.ndarray, seed: int) -> Pool:
    """The same pool in which some cells hold other cells' values, of other genes, under other labels.

    Parameters
    ----------
    pool
        Cells.
    rows
        Those to replace; nothing that is fitted without them can change by it.
    seed
        Of the noise.
    """
    rng = generator(seed, "benchmark audit")
    gene, other = rng.permutation(len(pool.genes)), pool.obs.copy()
    order = rng.permutation(rows)
    kept = np.ones(len(pool.obs), dtype=bool)
    kept[rows] = False

    def noisy(matrix: sp.csr_matrix) -> sp.csr_matrix:
        twice = sp.csr_matrix(sp.diags(kept.astype(matrix.dtype)) @ matrix)
        place = sp.csr_matrix((np.ones(len(rows), dtype=matrix.dtype), (rows, order)), shape=(len(kept), len(kept)))
        return sp.csr_matrix(twice + place @ matrix[:, gene])

    for column in set(other) - {"unit", "donor"}:
        values = other[column].to_numpy().copy()
        values[rows] = rng.permutation(values[rows])
        other[column] = values
    embeddings = {}
    for name, array in pool.embeddings.items():
        embeddings[name] = array.copy()
        embeddings[name][rows] = rng.permutation(array[order], axis=1)
    counts = None if pool.counts is None else noisy(pool.counts)
    return replace(pool, obs=other, expression=noisy(pool.expression), counts=counts, embeddings=embeddings)


def bench_of(config: str, out: str) -> Bench:
    """A campaign, in the process that needs it; remembered until its cells or its model are others.

    Parameters
    ----------
    config
        `BenchmarkConfig` as JSON, paths absolute.
    out
        Folder of the run.
    """
    return _bench(config, out, key_of(Path(out), UNTRAINED))


@lru_cache(maxsize=1)
def _bench(config: str, out: str, key: str) -> Bench:
    return Bench(BenchmarkConfig.model_validate_json(config), Path(out))


def sides_of(config: str, out: str, split: str) -> Sides:
    """Sides of a split; the last two are remembered, because methods ask for them one after the other.

    Parameters
    ----------
    config, out
        As in `bench_of`.
    split
        Its name.
    """
    return _sides(config, out, key_of(Path(out), UNTRAINED), split)


@lru_cache(maxsize=2)
def _sides(config: str, out: str, key: str, split: str) -> Sides:
    bench = _bench(config, out, key)
    return bench.sides(bench.splits[split])
