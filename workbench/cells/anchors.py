"""Anchors: centroids of cells that share donor, tissue, cell type and stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from jaxtyping import Float, Int, Shaped

from workbench.errors import EvaluationError
from workbench.seeds import key

GROUPING = ("donor", "tissue", "cell_type", "stage")
# Technical properties of cells by their names in scanpy's quality control, in words.
LIBRARY_SIZE, DETECTED, MITOCHONDRIAL = "log1p_total_counts", "log1p_n_genes_by_counts", "pct_counts_mt"
TECHNICAL = {LIBRARY_SIZE: "library size", DETECTED: "detected genes", MITOCHONDRIAL: "mitochondrial share"}


@dataclass(frozen=True)
class Anchors:
    """Centroids and what they stand for.

    Attributes
    ----------
    centroids
        Mean expression of each anchor's cells, log-normalised as the cells are.
    stage
        Number of each anchor's stage on the ruler, 0 or more.
    table
        One row per anchor: the grouping columns that exist, ``part``, ``n_cells``, ``weight``, and the means over its cells of
        what is known of `TECHNICAL`.
    """

    centroids: Float[np.ndarray, "anchor gene"]
    stage: Int[np.ndarray, " anchor"]
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.stage)

    @property
    def weights(self) -> Float[np.ndarray, " anchor"]:
        """Weight of each anchor when an adaptor is fitted; 1 on average."""
        return self.table["weight"].to_numpy(dtype=float)

    @property
    def technical(self) -> dict[str, Float[np.ndarray, " anchor"]]:
        """Mean library size, detected genes and mitochondrial share of each anchor's cells by name, as far as they are known."""
        return {name: self.table[name].to_numpy(dtype=float) for name in TECHNICAL if name in self.table}

    def column(self, name: str) -> Shaped[np.ndarray, " anchor"] | None:
        """A grouping column, or None where the data do not have it.

        Parameters
        ----------
        name
            Name of the column, for example ``donor`` or ``tissue``.
        """
        return self.table[name].to_numpy() if name in self.table else None


def make_anchors(
    expression: sp.csr_matrix,
    obs: pd.DataFrame,
    *,
    min_cells: int = 5,
    parts: int = 1,
    weights: Literal["equal", "cells", "stage"] = "equal",
    seed: int = 0,
) -> Anchors:
    """Average the cells of each group.

    Parameters
    ----------
    expression
        Log-normalised expression, cells by panel genes; rows in the order of `obs`.
    obs
        Index: cell names. Columns: ``stage`` (number, negative where unknown: left out) and any of ``donor``,
        ``tissue``, ``cell_type``, and of `TECHNICAL`.
    min_cells
        Groups with fewer cells make no anchor; 1 or more.
    parts
        Split each group into up to that many anchors of at least `min_cells` cells, by a hash of the cell names.
        Parts of a group share its donor: they are no replicates.
    weights
        ``equal``; ``cells``: by the number of cells, as the variance of a mean goes; ``stage``: every stage the same in
        total, however many anchors it has.
    seed
        Seed of the parts; without effect where `parts` is 1.

    Returns
    -------
    Anchors

    Raises
    ------
    EvaluationError
        If fewer than three anchors or only one stage is left.

    Examples
    --------
    >>> import pandas as pd
    >>> import scipy.sparse as sp
    >>> from workbench.cells.anchors import make_anchors
    >>> expression = sp.csr_matrix([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 4.0], [2.0, 2.0], [2.0, 4.0]])
    >>> obs = pd.DataFrame({"stage": [0, 0, 1, 1, 2, 2], "donor": "D1"}, index=list("abcdef"))
    >>> anchors = make_anchors(expression, obs, min_cells=2)
    >>> anchors.centroids
    array([[2., 0.],
           [0., 3.],
           [2., 3.]])
    >>> anchors.table
      donor  stage  part  n_cells  weight
    0    D1      0     0        2     1.0
    1    D1      1     0        2     1.0
    2    D1      2     0        2     1.0
    """
    known = np.flatnonzero(obs["stage"].to_numpy() >= 0)
    columns = [column for column in GROUPING if column in obs]
    rows: list[np.ndarray] = []
    table = []
    for values, group in obs.iloc[known].reset_index(names="_cell").groupby(columns, sort=True, observed=True):
        members = known[group.index.to_numpy()]
        n_parts = max(1, min(parts, len(members) // min_cells))
        if len(members) < min_cells:
            continue
        order = np.argsort([key(seed, "part", str(cell)) for cell in group["_cell"]], kind="stable")
        for part, share in enumerate(np.array_split(members[order], n_parts)):
            rows.append(share)
            table.append({**dict(zip(columns, values, strict=True)), "part": part, "n_cells": len(share)})
    stages = np.array([row["stage"] for row in table], dtype=int)
    if len(rows) < 3 or len(set(stages)) < 2:
        raise EvaluationError(
            f"{len(rows)} anchors of {len(set(stages))} stages remain with at least {min_cells} cells each; three anchors "
            "and two stages are needed. Lower anchors.min_cells, or map more labels to stages."
        )
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    shares = np.repeat([1 / len(r) for r in rows], [len(r) for r in rows])
    average = sp.csr_matrix((shares, np.concatenate(rows), indptr), shape=(len(rows), expression.shape[0]))
    described = pd.DataFrame(table)
    for name in TECHNICAL:
        if name in obs:
            described[name] = average @ obs[name].to_numpy(dtype=float)
    weight = {
        "equal": np.ones(len(rows)),
        "cells": described["n_cells"].to_numpy(dtype=float),
        "stage": 1 / np.bincount(stages)[stages],
    }[weights]
    described["weight"] = weight / weight.mean()
    return Anchors(np.asarray((average @ expression).todense(), dtype=np.float64), stages, described)
