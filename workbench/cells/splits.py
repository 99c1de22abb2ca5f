"""Folds: whole donors where there are donors, stratified by label where there are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int

from workbench.errors import EvaluationError
from workbench.seeds import key


def make_folds(obs: pd.DataFrame, n_folds: int, seed: int = 0) -> tuple[Int[np.ndarray, " cell"], str]:
    """Fold of each cell; the order of the cells does not matter.

    Parameters
    ----------
    obs
        Index: cell names. Columns: ``cell_type``, and ``donor`` where there are donors.
    n_folds
        Number of folds.
    seed
        For the order in which cells or donors are dealt out.

    Returns
    -------
    fold, kind
        0 to ``n_folds - 1`` per cell, and ``"donor"`` or ``"stratified"``.

    Raises
    ------
    EvaluationError
        If there are fewer donors, or fewer cells, than folds.

    Notes
    -----
    Donors are dealt out largest first to the fold with the fewest cells, so that folds are about equal. Without donors
    the cells of each label are dealt out in turn, in the order of a hash of their names.
    """
    fold = np.full(len(obs), -1)
    if "donor" in obs:
        donors = obs["donor"].value_counts()
        if len(donors) < n_folds:
            fewer = f"set evaluation.folds to at most {len(donors)}" if len(donors) > 1 else "leave data.donor out"
            raise EvaluationError(f"{len(donors)} donors cannot fill {n_folds} folds of whole donors; {fewer}.")
        order = sorted(donors.index, key=lambda donor: (-donors[donor], key(seed, "donor", str(donor))))
        load = np.zeros(n_folds)
        for donor in order:
            lightest = int(np.argmin(load))
            fold[(obs["donor"] == donor).to_numpy()] = lightest
            load[lightest] += donors[donor]
        return fold, "donor"
    if len(obs) < n_folds:
        raise EvaluationError(f"{len(obs)} cells cannot fill {n_folds} folds; set evaluation.folds lower.")
    hashes = np.array([key(seed, "fold", str(cell)) for cell in obs.index], dtype=np.uint64)
    dealt = 0
    labels = obs["cell_type"].to_numpy(dtype=str)
    for label in sorted(set(labels)):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(hashes[members], kind="stable")]
        # Go on dealing where the label before stopped, so that small labels do not all fall into the first folds.
        fold[members] = (dealt + np.arange(len(members))) % n_folds
        dealt += len(members)
    return fold, "stratified"
