"""Phases of the cell cycle, scored by scanpy from the genes that a ruler names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from jaxtyping import Shaped

from workbench.cells.expression import expression_on
from workbench.cells.genes import match_cells
from workbench.errors import EvaluationError

# What `scanpy.tl.score_genes_cell_cycle` calls phases; the first two have genes.
S, G2M, G1 = PHASES = ("S", "G2M", "G1")
FEWEST = 10


def scored_phases(cells: AnnData, genes: Mapping[str, Sequence[str]], seed: int = 0) -> Shaped[np.ndarray, " cell"]:
    """Phase of each cell by `scanpy.tl.score_genes_cell_cycle`, on log-normalised expression of all its genes.

    Parameters
    ----------
    cells
        Cells as `datasets.load` gives them; all genes are held in memory.
    genes
        Genes of the phases ``S`` and ``G2M``.
    seed
        Seed of the genes of like expression that scanpy compares with.

    Returns
    -------
    ndarray
        ``G1``, ``S`` or ``G2M``.

    Raises
    ------
    EvaluationError
        If fewer than ten genes of a phase are measured.
    """
    match = match_cells(cells, [*cells.var_names, *genes[S], *genes[G2M]], 0)
    there = {phase: [gene for gene in genes[phase] if gene in set(match.genes)] for phase in (S, G2M)}
    for phase, own in there.items():
        if len(own) < FEWEST:
            raise EvaluationError(
                f"{len(own)} of the {len(genes[phase])} genes of phase {phase} are measured, and {FEWEST} are needed to score it. Take cells with more "
                "genes, or name the column of obs that holds phases as data.cell_type."
            )
    whole = ad.AnnData(
        expression_on(cells, match, match.genes)[0],
        obs=pd.DataFrame(index=cells.obs_names),
        var=pd.DataFrame(index=list(match.genes)),
    )
    sc.tl.score_genes_cell_cycle(whole, s_genes=there[S], g2m_genes=there[G2M], random_state=seed)
    return whole.obs["phase"].to_numpy(dtype=str)
