"""How far each head carries one group of cells towards another, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from workbench.ablation.patching import activation_patching
from workbench.cells.genes import MIN_SHARE
from workbench.errors import CellsError
from workbench.models import CellModel
from workbench.models.load import as_model
from workbench.tools.common import column, rows_of


def patch(
    adata: AnnData,
    model: CellModel | str | Path,
    *,
    source: str | Sequence[str],
    target: str | Sequence[str],
    groupby: str = "cell_type",
    sites: str | Sequence[str] | None = None,
    n_cells: int | None = 50,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
) -> pd.DataFrame:
    """Put activations of source cells into target cells, gene by gene, and say how far that moves their embedding.

    Parameters
    ----------
    adata, model, batch_size, max_tokens, seed, min_gene_share
        As in `workbench.embed`.
    source, target
        Label or labels of the cells that activations are taken from, and of those they are put into.
    groupby
        Column of ``obs`` with the labels.
    sites
        Parts, such as ``L2H3``, ``L2.attention`` or ``L2.mlp``; every head when None.
    n_cells
        Cells of each side, at most, drawn by seed and name; all when None.

    Returns
    -------
    pandas.DataFrame
        As `workbench.ablation.patching.activation_patching` makes it: ``moved`` (share of the way from the mean embedding of the target
        cells to that of the source cells) with an interval, beside patching from other target cells as the null.

    Raises
    ------
    CellsError
        If a label does not exist, or both sides share one.

    Examples
    --------
    >>> table = workbench.patch(cells, model, source="CD14+ Monocyte", target="Dendritic")  # doctest: +SKIP
    >>> table.sort_values("moved").tail()  # doctest: +SKIP
    """
    labels = column(adata, groupby)
    sides = [rows_of(labels, side, adata.obs_names, n_cells, seed) for side in (target, source)]
    if set(sides[0]) & set(sides[1]):
        raise CellsError("Source and target share cells; name labels that exclude each other.")
    model = as_model(model)
    read: dict[str, Any] = {"seed": seed, "max_tokens": max_tokens, "min_gene_share": min_gene_share}
    tokens = [model.to_tokens(adata[rows], **read) for rows in sides]
    donors = None
    if "donor" in adata.obs:
        donors = pd.factorize(column(adata, "donor")[sides[0]])[0]
    of_target, of_source = (side if isinstance(side, str) else " + ".join(side) for side in (target, source))
    chosen = [sites] if isinstance(sites, str) else sites
    options = {"donors": donors, "seed": seed, "batch_size": batch_size}
    return activation_patching(model, *tokens, sites=chosen, names=(of_target, of_source), **options)  # type: ignore[arg-type]
