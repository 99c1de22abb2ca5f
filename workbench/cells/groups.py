"""Groups of cells that sums are kept by, and the folds that are made of them.

Operators are averaged over cells, and every fold needs those of the cells outside it. Sums are therefore kept by groups
that no label has a part in: whole donors, or cells by a hash of their names. A fold is a set of groups, so that other
labels, rulers or numbers of folds need no other pass over the cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from workbench.errors import EvaluationError
from workbench.seeds import key

DONORS, HASHED, SINGLE = "donors", "cells by a hash of their names", "single cells"


@dataclass(frozen=True)
class Groups:
    """Groups of cells.

    Attributes
    ----------
    of_cell
        Group of each cell, from 0.
    names
        Name of each group: its donors, or ``group 0`` and so on.
    kind
        ``donors`` (no donor is in two groups), ``cells by a hash of their names``, or ``single cells``.
    """

    of_cell: Int[np.ndarray, " cell"]
    names: tuple[str, ...]
    kind: str

    def __len__(self) -> int:
        return len(self.names)


def make_groups(
    names: Shaped[np.ndarray, " cell"], donors: Shaped[np.ndarray, " cell"] | None, most: int | None, seed: int = 0
) -> Groups:
    """Deal cells to groups by their donors, or by a hash of their names; their order and their labels do not matter.

    Parameters
    ----------
    names
        Cell names, each once; they key the hash.
    donors
        Donor of each cell; None where the data name none.
    most
        Number of groups. Of fewer donors each is a group of its own; more are dealt largest first to the group with the
        fewest cells. None: as many as there are donors, or cells where the data name no donors.
    seed
        For the order in which cells or donors of one size are dealt.

    Raises
    ------
    EvaluationError
        If there are fewer cells than groups.
    """
    if donors is None and most is None:
        return Groups(np.arange(len(names)), tuple(map(str, names)), SINGLE)
    if donors is None:
        assert most is not None
        if len(names) < most:
            raise EvaluationError(f"{len(names)} cells cannot fill {most} groups; set capture.groups lower.")
        order = np.argsort(np.array([key(seed, "group", str(name)) for name in names], dtype=np.uint64), kind="stable")
        group = np.empty(len(names), dtype=int)
        group[order] = np.arange(len(names)) % most
        return Groups(group, tuple(f"group {i}" for i in range(most)), HASHED)
    own, cells = np.unique(np.asarray(donors, dtype=str), return_inverse=True)
    if most is None or len(own) <= most:
        return Groups(cells, tuple(own.tolist()), DONORS)
    dealt = _largest_first(np.bincount(cells), own, most, seed)
    members = [own[dealt == i].tolist() for i in range(most)]
    return Groups(dealt[cells], tuple("+".join(one) for one in members), DONORS)


def make_folds(
    groups: Groups, labels: Shaped[np.ndarray, " cell"], n_folds: int, seed: int = 0
) -> Int[np.ndarray, " cell"]:
    """Fold of each cell: groups are dealt whole.

    Parameters
    ----------
    groups
        Groups of the cells, from `make_groups`.
    labels
        Label of each cell. Single cells are dealt label by label, and groups of hashed cells so that every label is
        spread as evenly as whole groups allow. Donors are dealt by their numbers of cells alone, largest first.
    n_folds
        Number of folds, at most that of the groups.
    seed
        For the order of single cells, and of donors with equally many cells.

    Returns
    -------
    ndarray, shape (cell,)
        0 to ``n_folds - 1``.

    Raises
    ------
    EvaluationError
        If there are fewer groups than folds.
    """
    n = len(groups)
    if n < n_folds and groups.kind == DONORS:
        fewer = f"ask for at most {n} folds" if n > 1 else "leave data.donor out"
        raise EvaluationError(f"{n} donor{'s' if n > 1 else ''} cannot fill {n_folds} folds of whole donors; {fewer}.")
    if n < n_folds and groups.kind == SINGLE:
        raise EvaluationError(f"{n} cells cannot fill {n_folds} folds; ask for at most {n}.")
    if n < n_folds:
        raise EvaluationError(
            f"{n} groups of cells cannot fill {n_folds} folds; set capture.groups to {n_folds} or more."
        )
    sizes = np.bincount(groups.of_cell, minlength=n)
    if groups.kind == DONORS:
        return _largest_first(sizes, np.array(groups.names), n_folds, seed)[groups.of_cell]
    if groups.kind == SINGLE:
        return _label_by_label(groups.names, np.asarray(labels, dtype=str), n_folds, seed)
    counts = pd.crosstab(groups.of_cell, np.asarray(labels, dtype=str)).reindex(range(n), fill_value=0).to_numpy()
    return _balanced(counts, n_folds)[groups.of_cell]


def _largest_first(sizes: np.ndarray, names: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Deal what has names out to n places, the largest first, each to the place with the fewest cells."""
    place, load = np.zeros(len(sizes), dtype=int), np.zeros(n)
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], key(seed, "donor", str(names[i])))):
        place[i] = np.argmin(load)
        load[place[i]] += sizes[i]
    return place


def _label_by_label(names: tuple[str, ...], labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    fold, hashes = (
        np.empty(len(names), dtype=int),
        np.array([key(seed, "fold", name) for name in names], dtype=np.uint64),
    )
    dealt = 0
    for label in sorted(set(labels.tolist())):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(hashes[members], kind="stable")]
        # Go on dealing where the label before stopped, so that small labels do not all fall into the first folds.
        fold[members] = (dealt + np.arange(len(members))) % n
        dealt += len(members)
    return fold


def _balanced(counts: Int[np.ndarray, "group label"], n: int) -> np.ndarray:
    """Deal groups to n folds of nearly equal numbers of groups so that labels are spread evenly; no chance has a part."""
    room = np.full(n, len(counts) // n) + (np.arange(n) < len(counts) % n)
    place = np.repeat(np.arange(n), room)
    wanted = np.outer(room / len(counts), counts.sum(0))
    weight = 1 / np.maximum(counts.sum(0), 1)

    def cost(place: np.ndarray) -> float:
        held = np.stack([counts[place == fold].sum(0) for fold in range(n)])
        return float((((held - wanted) ** 2) * weight).sum())

    best, better = cost(place), True
    while better:
        better = False
        for i in range(len(counts)):
            for j in range(i + 1, len(counts)):
                if place[i] == place[j]:
                    continue
                place[[i, j]] = place[[j, i]]
                # A sure gain only, so that rounding cannot go round in circles.
                if (now := cost(place)) < best - 1e-9:
                    best, better = now, True
                else:
                    place[[i, j]] = place[[j, i]]
    return place
