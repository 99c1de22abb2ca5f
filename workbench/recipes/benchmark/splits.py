"""Repeated splits: whole donors held out, or groups of hashed cells where the data name no donors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from workbench.cells.groups import Groups, make_folds
from workbench.cells.placed import PlacedCells
from workbench.cells.splits import Split
from workbench.errors import EvaluationError
from workbench.seeds import generator, key

INTERNAL = "internal"
HOLDOUT, STRATIFIED, TRANSFER = "donor holdout", "stratified", "transfer"


@dataclass(frozen=True)
class Holdout:
    """What a split holds out.

    Attributes
    ----------
    name
        Name of the split: of the units that it holds out, or of the cohort that it transfers to.
    kind
        ``donor holdout``, ``stratified`` (hashed groups of cells, over which every label is spread as evenly as whole
        groups allow) or ``transfer``.
    units
        Numbers of the units held out; none for a transfer.
    disjoint
        Whether it belongs to the splits of which no two hold out the same unit.
    cohort
        Name of the cohort that is judged.
    """

    name: str
    kind: str
    units: frozenset[int] = frozenset()
    disjoint: bool = True
    cohort: str = INTERNAL


def with_units(cells: PlacedCells, groups: Groups, n_units: int, seed: int) -> tuple[PlacedCells, tuple[str, ...], str]:
    """Cells with their groups, and with the unit that each is held out with as its fold.

    Parameters
    ----------
    cells
        Cells on the ruler, with donors or without.
    groups
        Groups that sums are kept by: donors where there are donors. Those are units themselves.
    n_units
        Units that groups of hashed cells are dealt to, so that every label is spread as evenly as whole groups allow.
    seed
        Seed of the groups; no chance has a part in dealing them to units.

    Returns
    -------
    cells, names, kind
        The cells with the columns ``group`` and ``fold``, names of the units, and the kind of the splits.

    Raises
    ------
    EvaluationError
        If there are two donors only, or fewer, or fewer groups of cells than units.
    """
    if cells.donor is None:
        fold = make_folds(groups, cells.obs["cell_type"].to_numpy(dtype=str), n_units, seed)
        names, kind = tuple(f"group {i}" for i in range(n_units)), STRATIFIED
    else:
        fold, names, kind = groups.of_cell, groups.names, HOLDOUT
        if len(names) < 3:
            raise EvaluationError(
                f"The data have {len(names)} donor(s) ({', '.join(names)}); repeated holdouts of whole donors need three. "
                "Leave data.donor out for splits that are stratified by label."
            )
    return replace(cells, obs=cells.obs.assign(group=groups.of_cell, fold=fold)), names, kind


def make_holdouts(names: tuple[str, ...], kind: str, n: int, test_share: float, seed: int) -> list[Holdout]:
    """Repeated holdouts; the first of them hold out every unit at most once, the others are drawn among all the rest.

    Parameters
    ----------
    names
        Name of each unit, two or more.
    kind
        Kind of the splits, ``donor holdout`` or ``stratified``.
    n
        Number of splits that are asked for.
    test_share
        Share of the units that a split holds out; one at least is held out, and one left.
    seed
        Seed of all draws of units.

    Returns
    -------
    list of Holdout
        `n`, or as many as there are.
    """
    units = len(names)
    size = min(max(1, round(test_share * units)), units - 1)
    rng = generator(seed, "benchmark splits")
    order = rng.permutation(units).tolist()
    chosen = [frozenset(order[at : at + size]) for at in range(0, units - size + 1, size)][:n]
    n_disjoint = len(chosen)
    if comb(units, size) <= 4 * n:
        rest = sorted(set(map(frozenset, combinations(range(units), size))) - set(chosen), key=sorted)
        chosen += [rest[i] for i in rng.permutation(len(rest))[: max(0, n - n_disjoint)]]
    while len(chosen) < min(n, comb(units, size)):
        drawn = frozenset(rng.permutation(units)[:size].tolist())
        if drawn not in chosen:
            chosen.append(drawn)
    return [
        Holdout("+".join(names[i] for i in sorted(held)), kind, held, place < n_disjoint)
        for place, held in enumerate(chosen)
    ]


def split_of(holdout: Holdout, cells: PlacedCells, judged: PlacedCells, per_stage: int, seed: int) -> Split:
    """Rows of both sides of a split, each in the order of the cells' names, so that the order in a file changes nothing.

    Parameters
    ----------
    holdout
        What the split holds out, as `make_holdouts` gives it.
    cells
        Internal cells, on which methods are fitted.
    judged
        Cells of the cohort that is judged; the internal ones again, unless this is a transfer.
    per_stage
        Most training cells of one stage, so that training sides are balanced.
    seed
        Decides which those are, by name.

    Returns
    -------
    Split
        Rows of `cells` to fit on, rows of `judged` to judge, and the groups that operators leave out.

    Raises
    ------
    EvaluationError
        If either side is left without a cell that has a place on the ruler.
    """
    inside, on = cells.outside(holdout.units), cells.stage >= 0
    train = np.flatnonzero(inside & on)
    train = train[first_of_each(cells.names[train], cells.stage[train], per_stage, seed, "benchmark training")]
    test = np.flatnonzero(judged.stage >= 0 if holdout.kind == TRANSFER else ~inside & on)
    for rows, side in ((train, "training"), (test, "test")):
        if not len(rows):
            raise EvaluationError(
                f"Split '{holdout.name}' has no cell with a place on the ruler on its {side} side. Map more labels under "
                "stages, or hold out another share."
            )
    train, test = (rows[np.argsort(of.names[rows], kind="stable")] for of, rows in ((cells, train), (judged, test)))
    return Split(train, test, name=holdout.name, held=cells.groups_in(holdout.units))


def panel_of(holdout: Holdout, cells: PlacedCells, judged: PlacedCells, size: int | None) -> tuple[str, ...]:
    """Genes of a split, in alphabetical order: those seen in most cells of its training side; no label is looked at.

    Parameters
    ----------
    holdout
        What the split holds out, as `make_holdouts` gives it.
    cells
        Internal cells, of which those outside the held-out units count.
    judged
        Cells that are judged: only genes that they measure are taken.
    size
        Number of genes; None, or more than there are, for all.
    """
    genes = np.array(cells.genes)
    able = np.isin(genes, judged.genes)
    if size is None or size >= able.sum():
        return tuple(genes[able].tolist())
    inside = np.flatnonzero(cells.outside(holdout.units))
    seen = np.bincount(cells.expression[inside].indices, minlength=len(genes))
    frame = pd.DataFrame({"gene": genes[able], "cells": seen[able]})
    frame = frame.sort_values(["cells", "gene"], ascending=[False, True], kind="stable")
    return tuple(sorted(frame["gene"].head(size)))


def genes_of_all(holdouts: Iterable[Holdout], cohorts: Mapping[str, PlacedCells], size: int | None) -> tuple[str, ...]:
    """Genes that are in the panel of some split: operators are captured once, on all of these.

    Parameters
    ----------
    holdouts
        All splits of the campaign.
    cohorts
        Cells by cohort, the internal ones among them.
    size
        Number of genes of a panel, as `panel_of` takes it.
    """
    cells = cohorts[INTERNAL]
    return tuple(sorted(set[str]().union(*(panel_of(one, cells, cohorts[one.cohort], size) for one in holdouts))))


def drawn_cells(obs: pd.DataFrame, most: int | None, seed: int) -> Bool[np.ndarray, " cell"]:
    """Which cells are used, where not all are: so many of a donor at most, chosen by a hash of their names.

    Parameters
    ----------
    obs
        Index: cell names. Column ``donor``, where there are donors.
    most
        Cells of a donor, or of all where there are none; None for all cells.
    seed
        Seed of the hash of names.
    """
    if most is None:
        return np.ones(len(obs), dtype=bool)
    donors = obs["donor"].to_numpy(dtype=str) if "donor" in obs else np.full(len(obs), "")
    return first_of_each(obs.index.to_numpy(dtype=str), donors, most, seed, "benchmark cells")


def first_of_each(
    names: Shaped[np.ndarray, " cell"], labels: Shaped[np.ndarray, " cell"], most: int, seed: int, what: str
) -> Bool[np.ndarray, " cell"]:
    """At most so many cells of each label, those whose hashed names come first: the order of the cells changes nothing.

    Parameters
    ----------
    names, labels
        Name and label of each cell.
    most
        Most cells of one label.
    seed, what
        Seed of the hash, and what is drawn, which makes it another draw.
    """
    hashes = np.array([key(seed, what, str(name)) for name in names], dtype=np.uint64)
    frame = pd.DataFrame({"hash": hashes, "label": labels})
    return (frame.groupby("label")["hash"].rank(method="first") <= most).to_numpy()
