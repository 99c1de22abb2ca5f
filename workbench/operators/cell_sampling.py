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
