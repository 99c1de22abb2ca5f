"""Which cells a cohort takes, and that no cell is in two of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from anndata import AnnData

from workbench.errors import CellsError, EvaluationError, unknown_name
from workbench.evidence.gate_table import INTERNAL
from workbench.recipes.gates.config import CohortConfig
from workbench.seeds import key


def select_cells(name: str, cohort: CohortConfig, cells: AnnData, seed: int) -> AnnData:
    """Cells of a cohort.

    Parameters
    ----------
    name
        Name of the cohort, for errors.
    cohort
        What it selects, and which part of that it takes.
    cells
        Cells to choose from; never changed, and returned as they are where all are taken.
    seed
        Seed of the parts, together with each cell's name.

    Raises
    ------
    CellsError
        If a column, value or part is named that does not exist, or no cell is left.
    """
    kept = np.ones(cells.shape[0], dtype=bool)
    for column, values in cohort.select.items():
        if column not in cells.obs:
            raise CellsError(
                f"Cohort '{name}' selects by '{column}': {unknown_name('standard column', column, cells.obs.columns)} Map it "
                "under data, if the file has it by another name."
            )
        there = set(cells.obs[column])
        for value in values:
            if value not in there:
                raise CellsError(f"Cohort '{name}' selects {unknown_name(column, value, there)}")
        kept &= cells.obs[column].isin(values).to_numpy()
    if cohort.part is not None:
        i, n = cohort.part
        if not 0 <= i < n:
            raise CellsError(f"Cohort '{name}' asks for part {i} of {n}; parts are numbered from 0 to {n - 1}.")
        # The word is part of the draw: another one would deal every cell anew.
        kept &= np.array([key(seed, "panel part", cell) % n == i for cell in cells.obs_names])
    if not kept.any():
        raise CellsError(f"Cohort '{name}' selects none of {cells.shape[0]} cells; widen its selection.")
    return cells if kept.all() else cells[kept].copy()


def check_cohorts(roles: Mapping[str, str], cells: Mapping[str, AnnData]) -> None:
    """Refuse cohorts without exactly one that is internal, or with a cell in two of them.

    Parameters
    ----------
    roles
        Role of each cohort by its name.
    cells
        Cells of the same cohorts; a cell is known by its name.

    Raises
    ------
    EvaluationError
        If two cohorts share a cell, or none or several are internal.
    """
    internal = [name for name, role in roles.items() if role == INTERNAL]
    if len(internal) != 1:
        raise EvaluationError(
            f"{len(internal)} cohorts are internal ({', '.join(internal) or 'none'}); exactly one has to be: the one that "
            "adaptors are fitted on."
        )
    for (one, own), (other, others) in combinations(cells.items(), 2):
        shared = sorted(set(own.obs_names) & set(others.obs_names))
        if shared:
            raise EvaluationError(
                f"Cohorts '{one}' and '{other}' share {len(shared)} cells (such as {', '.join(shared[:3])}); cohorts must "
                "not overlap. Part them by `select` or `part`; if only the names are the same, make them unique."
            )
