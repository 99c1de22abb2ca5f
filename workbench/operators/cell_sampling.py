"""Which cells a cell head is trained on, and which it is stopped by."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from workbench.errors import EvaluationError, ShapeError
from workbench.seeds import key

_HELD_OUT = 0.12
_MOST_HELD_OUT = 1 / 3


def check_cells(
    X: sp.csr_matrix,
    stage: np.ndarray,
    distances: np.ndarray,
    operator: np.ndarray | None,
    groups: np.ndarray | None,
    names: np.ndarray | None,
) -> None:
    """Make sure that arrays fit each other, stages can be learnt from, and names are unique.

    Parameters
    ----------
    X, stage, distances, operator, groups, names
        As in `CellAdaptor.fit`.

    Raises
    ------
    EvaluationError, ShapeError
        As in `CellAdaptor.fit`.
    """
    n, genes = X.shape
    for what, values in (("stages", stage), ("groups", groups), ("names", names)):
        if values is not None and values.shape != (n,):
            raise ShapeError(f"{n} cells need {n} {what}; found {values.shape}.")
    if distances.shape != (len(distances), len(distances)):
        raise ShapeError(f"Distances between stages are a square matrix; found {distances.shape}.")
    if operator is not None and len(operator) != genes:
        raise ShapeError(f"The operator has {len(operator)} genes and the cells have {genes}; use one panel for both.")
    if not np.isfinite(distances).all() or (operator is not None and not np.isfinite(operator).all()):
        raise EvaluationError("The distances or the operator hold NaN or infinity; an unknown distance is negative.")
    present, counts = np.unique(stage[stage >= 0], return_counts=True)
    if len(present) < 2:
        raise EvaluationError(f"The cells are of {len(present)} stage; at least two are needed to learn distances.")
    if present[-1] >= len(distances):
        raise EvaluationError(
            f"A cell is of stage {present[-1]}, and there are distances between stages 0 to {len(distances) - 1} only; "
            "number stages as the ruler does."
        )
    if counts.min() < 2:
        raise EvaluationError(
            f"Stage {present[counts.argmin()]} has a single cell; each stage needs two. Give it a negative number to leave "
            "it out."
        )
    if not (distances[np.ix_(present, present)][~np.eye(len(present), dtype=bool)] > 0).any():
        raise EvaluationError("No two stages that occur have a known distance above zero; check the ruler.")
    if names is not None and len(set(names.tolist())) < n:
        raise EvaluationError(f"{n} cells have {len(set(names.tolist()))} names; make names unique, or give none.")


def in_pairs(stage: np.ndarray) -> np.ndarray:
    """Cells that a head can be trained on: a stage of which there is one cell only has no pair within it.

    Parameters
    ----------
    stage
        Stage number of each cell, negative where unknown.

    Returns
    -------
    Row numbers.
    """
    rows = np.flatnonzero(stage >= 0)
    return rows[np.bincount(stage[rows], minlength=1)[stage[rows]] > 1]


def check_enough(
    stage: np.ndarray,
    distances: np.ndarray,
    groups: np.ndarray | None,
    names: np.ndarray,
    *,
    k: int,
    per_stage: int,
    patience: int | None,
    seed: int,
) -> None:
    """Refuse cells that are too few for a head that is trained on them, from their labels alone, before anything is read.

    Parameters
    ----------
    stage, distances, groups, names
        As in `CellAdaptor.fit`, of all cells that there will be to train on.
    k, per_stage, patience, seed
        Settings of the head, as `CellAdaptor` takes them when it is made.

    Raises
    ------
    EvaluationError
        As in `CellAdaptor.fit`, and if the cells to train on are too few for a latent of this width.
    """
    kept = in_pairs(stage)
    empty, own = sp.csr_matrix((len(kept), 1)), None if groups is None else groups[kept]
    check_cells(empty, stage[kept], distances, None, own, names[kept])
    _, held, _ = dealt(empty, stage[kept], own, names[kept], per_stage, patience, seed)
    if k > (n := int((~held).sum())) - 1:
        raise EvaluationError(
            f"A latent of width {k} cannot be learned from {n} cells, which span {n - 1} directions at most; lower adaptor.k, or give more "
            "cells."
        )


def dealt(
    X: sp.csr_matrix,
    stage: np.ndarray,
    groups: np.ndarray | None,
    names: np.ndarray | None,
    per_stage: int,
    patience: int | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Cells that a head sees, which of them are held out to say when to stop, and the groups that these are made of.

    Parameters
    ----------
    X, stage, groups, names, per_stage, seed
        What is drawn from, and how many of each stage, as `draw_cells` takes them.
    patience
        None where nothing says when to stop, and no cell is held out.

    Raises
    ------
    EvaluationError
        If fewer than three can be held out.
    """
    drawn = draw_cells(X, stage, groups, names, per_stage, seed)
    if patience is None:
        return drawn, np.zeros(len(drawn), dtype=bool), ()
    place = np.unique(stage[drawn], return_inverse=True)[1]
    held, taken = hold_out(place, None if groups is None else groups[drawn], seed)
    if held.sum() < 3:
        raise EvaluationError(
            f"{held.sum()} of {len(held)} cells can be held out to say when to stop, and three are needed; give more cells, or patience=None."
        )
    return drawn, held, taken


def draw_cells(
    X: sp.csr_matrix, stage: np.ndarray, groups: np.ndarray | None, names: np.ndarray | None, per_stage: int, seed: int
) -> np.ndarray:
    """At most so many cells of each stage, in the order of their keys.

    Parameters
    ----------
    X, stage, groups, names
        As in `CellAdaptor.fit`; without names a cell goes by its content.
    per_stage, seed
        How many, and the seed.

    Returns
    -------
    Row numbers.
    """
    known = np.flatnonzero(stage >= 0)

    def parts(i: int) -> tuple[str, ...]:
        if names is not None:
            return (str(names[i]),)
        return _content(X, i), str(stage[i]), "" if groups is None else str(groups[i])

    keys = [key(seed, "cell head", *parts(int(i))) for i in known]
    ordered = known[np.argsort(np.array(keys, dtype=np.uint64), kind="stable")]
    nth = pd.Series(stage[ordered]).groupby(stage[ordered]).cumcount().to_numpy()
    return ordered[nth < per_stage]


def _content(X: sp.csr_matrix, row: int) -> str:
    part = slice(X.indptr[row], X.indptr[row + 1])
    at, values = X.indices[part].astype(np.int64), X.data[part].astype(np.float64)
    at, values = at[values != 0], values[values != 0]
    order = np.argsort(at, kind="stable")
    return at[order].tobytes().hex() + values[order].tobytes().hex()


def hold_out(place: np.ndarray, groups: np.ndarray | None, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Cells of the inner holdout, and the groups that it is made of.

    Parameters
    ----------
    place
        Stage of each cell, from 0 without gaps; the cells come in the order of their keys.
    groups
        Group of each cell, or None.
    seed
        Seed that decides in which order groups are tried.
    """
    n, counts = len(place), np.bincount(place)
    held = np.zeros(n, dtype=bool)
    taken: list[str] = []
    if groups is not None:
        labels = groups.astype(str)
        for group in sorted(set(labels.tolist()), key=lambda name: key(seed, "inner holdout", name)):
            wider = held | (labels == group)
            left = counts - np.bincount(place[wider], minlength=len(counts))
            if wider.sum() <= _MOST_HELD_OUT * n and (left >= 2).all():
                held, taken = wider, [*taken, group]
            if held.sum() >= _HELD_OUT * n:
                break
    if not taken:
        nth = pd.Series(place).groupby(place).cumcount().to_numpy()
        quota = np.minimum(np.maximum(np.round(_HELD_OUT * counts), 1), counts - 2)
        held = nth < quota[place]
    return held, tuple(sorted(taken))
