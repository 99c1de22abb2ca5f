"""Whether top genes of features are targets of one regulator, beside lists of random directions of the cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from workbench.dictionaries.directions import CellDirections
from workbench.dictionaries.lists import REGULATORS, name_lists
from workbench.errors import EvaluationError
from workbench.geometry.gene_edges import FEWEST, clean_edges

# Targets on the panel that a regulator needs.
_TARGETS = 3


def name_regulators(
    lists: list[np.ndarray],
    edges: Int[np.ndarray, "edge 2"],
    genes: list[str],
    directions: CellDirections,
    *,
    draws: int,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The regulator whose targets are over-represented among each feature's top genes, and p against random directions of the cells.

    The targets of a regulator are a gene set, and p is that of `name_lists`. Lists of a draw lean, beside expression, to genes with as many
    regulators as those of the feature: such genes are together in any network.

    Parameters
    ----------
    lists
        Numbers of the top genes of each feature; an empty list has no regulator.
    edges
        Rows of regulator and target, -1 where one is not on the panel, as `read_edges` gives them.
    genes
        Names of the panel's genes.
    directions
        Random directions of the cells that the lists are of.
    draws, seed
        Random directions, the same for all features, and their seed.

    Returns
    -------
    tuple
        A row per feature: ``feature``, ``regulator`` (with the smallest p; empty without a target in the list), ``regulator_overlap``, ``regulator_p`` (share
        of directions whose list does as well with some regulator), ``regulator_q`` and ``regulated`` (q at most 0.05); and the summary, see `Names`.

    Raises
    ------
    EvaluationError
        If there is no draw, no gene varies over the cells, or too few edges are of a regulator with three targets on the panel.
    """
    kept, _ = clean_edges(edges)
    regulators, counts = np.unique(kept[:, 0], return_counts=True)
    regulators = regulators[counts >= _TARGETS]
    kept = kept[np.isin(kept[:, 0], regulators)]
    if len(kept) < FEWEST:
        raise EvaluationError(
            f"{len(kept)} edges of the network are of a regulator with {_TARGETS} targets among the {len(genes)} genes of the panel; {FEWEST} are needed. "
            "Check that it names genes as the panel does, or take more cells or genes."
        )
    members = np.zeros((len(regulators), len(genes)), dtype=bool)
    members[np.searchsorted(regulators, kept[:, 0]), kept[:, 1]] = True
    table, summary = name_lists(
        lists, members, [genes[i] for i in regulators], directions.beside(members.sum(0)), draws=draws, seed=seed
    )
    columns = {"program": "regulator", "overlap": "regulator_overlap", "p": "regulator_p", "q": "regulator_q"}
    columns = {"feature": "feature", **columns, "named": "regulated"}
    return table[list(columns)].rename(columns=columns), {**summary, "method": REGULATORS}
