"""Repeated splits: whole donors held out, or groups of cells dealt by label where the data name no donors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from workbench.cells.splits import make_folds
from workbench.errors import EvaluationError
from workbench.seeds import generator, key

HOLDOUT, STRATIFIED, TRANSFER = "donor holdout", "stratified", "transfer"


@dataclass(frozen=True)
class Split:
    """Which units are held out.

    Attributes
    ----------
    name
        Of the split.
    kind
        ``donor holdout``, ``stratified`` or ``transfer``.
    held
        Numbers of the units held out; none for a transfer.
    disjoint
        Whether it belongs to the splits of which no two hold out the same unit.
    panel
        For a transfer: the panel that is judged.
    """

    name: str
    kind: str
    held: frozenset[int]
    disjoint: bool
    panel: str = ""


def make_units(obs: pd.DataFrame, n_groups: int, seed: int) -> tuple[Int[np.ndarray, " cell"], tuple[str, ...], str]:
    """What is held out as a whole: donors, or groups of cells.

    Parameters
    ----------
    obs
        Index: cell names. Columns: ``cell_type``, and ``donor`` where there are donors.
    n_groups
        Groups of cells where there are none.
    seed
        For the groups.

    Returns
    -------
    unit, names, kind
        Number of each cell's unit, names of the units, and the kind of the splits.

    Raises
    ------
    EvaluationError
        If there are two donors only, or fewer.
    """
    if "donor" not in obs:
        unit, _ = make_folds(obs[["cell_type"]], n_groups, seed)
        return unit, tuple(f"group {i}" for i in range(n_groups)), STRATIFIED
    names = sorted(set(obs["donor"]))
    if len(names) < 3:
        raise EvaluationError(
            f"The data have {len(names)} donor(s) ({', '.join(names)}); repeated holdouts of whole donors need three. Leave "
            "data.donor out for splits that are stratified by label."
        )
    number = {name: i for i, name in enumerate(names)}
    return obs["donor"].map(number).to_numpy(dtype=int), tuple(names), HOLDOUT


def make_splits(names: tuple[str, ...], kind: str, n: int, test_share: float, seed: int) -> list[Split]:
    """Repeated splits; the first of them hold out every unit at most once, the others are drawn among all the rest.

    Parameters
    ----------
    names, kind
        Of the units, and of the splits.
    n
        Splits that are asked for.
    test_share
        Share of the units that a split holds out; one at least is held out, and one left.
    seed
        Seed.

    Returns
    -------
    list of Split
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
        Split("+".join(names[i] for i in sorted(held)), kind, held, disjoint=place < n_disjoint)
        for place, held in enumerate(chosen)
    ]


def drawn_cells(obs: pd.DataFrame, most: int | None, seed: int) -> Bool[np.ndarray, " cell"]:
    """Which cells are used, where not all are: so many of a donor at most, chosen by a hash of their names.

    Parameters
    ----------
    obs
        Index: cell names. Column ``donor``, where there are donors.
    most
        Cells of a donor, or of all where there are none; None for all cells.
    seed
        Seed.
    """
    if most is None:
        return np.ones(len(obs), dtype=bool)
    donors = obs["donor"].to_numpy(dtype=str) if "donor" in obs else np.full(len(obs), "")
    return first_of_each(obs.index.to_numpy(dtype=str), donors, most, seed, "benchmark cells")


def first_of_each(
    names: Shaped[np.ndarray, " cell"], groups: Shaped[np.ndarray, " cell"], most: int, seed: int, what: str
) -> Bool[np.ndarray, " cell"]:
    """At most so many cells of each group, those whose hashed names come first: the order of the cells changes nothing.

    Parameters
    ----------
    names, groups
        Of the cells.
    most
        Cells of a group.
    seed, what
        Of the hash.
    """
    hashes = np.array([key(seed, what, str(name)) for name in names], dtype=np.uint64)
    frame = pd.DataFrame({"hash": hashes, "group": groups})
    return (frame.groupby("group")["hash"].rank(method="first") <= most).to_numpy()
