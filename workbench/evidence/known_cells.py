"""What is known of the release on cells: attention of gene pairs, the spread of the last layer, and vectors of genes in cell types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from jaxtyping import Float

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.cells.panel import choose_panel
from workbench.errors import GeneMatchError
from workbench.evidence.known_contexts import of_contexts
from workbench.geometry.dimension import participation_ratio
from workbench.models import CellModel, CellTokenizer
from workbench.operators.operator import head_name
from workbench.stats import spearman
from workbench.tools.common import rows_of

# As many cells and genes as the published export took.
MOST_CELLS, PANEL = 600, 1200
_FEWEST = 20


def of_cells(model: CellModel, cells: AnnData, pairs: pd.DataFrame, seed: int) -> dict[str, dict[str, Any]]:
    """Answers that need cells, in the convention ``paper`` and, for the last layer, in scGPT's own input too.

    The published panel is not known: here cells are restricted to the genes of the pairs and, up to 1,200, to the highly
    variable ones.

    Parameters
    ----------
    model
        Checkpoint that is asked, on any device.
    cells
        Cells as `workbench.load` gives them.
    pairs
        ``source`` (query), ``target`` (key), ``mean`` and ``head``, as published.
    seed
        Seed of the draw of cells.

    Returns
    -------
    dict
        By name of the answer: ``found``, ``n`` and ``beside``; or ``why`` it cannot be asked.

    Raises
    ------
    GeneMatchError
        If fewer than 20 of the pairs are of genes that the cells measure.
    """
    contexts = of_contexts(model, cells, seed)
    names = cells.obs_names.to_numpy(dtype=str)
    cells = cells[rows_of(np.full(len(cells), ""), "", names, MOST_CELLS, seed)]
    cells = cells.to_memory() if cells.isbacked else cells.copy()
    own = model.tokenizer(cells, seed=seed)
    measured = set(own.match.genes)
    asked = pairs[pairs["source"].isin(measured) & pairs["target"].isin(measured)].reset_index(drop=True)
    if len(asked) < _FEWEST:
        raise GeneMatchError(
            f"{len(asked)} of the {len(pairs)} published gene pairs are of genes that the cells measure; {_FEWEST} are needed. Give cells "
            "of the immune system with all of their genes."
        )
    genes = sorted(set(asked["source"]) | set(asked["target"]))
    variable = choose_panel(cells, own.match, PANEL, by="variable")
    panel = [*genes, *[gene for gene in variable if gene not in set(genes)][: max(0, PANEL - len(genes))]]
    unbinned = model.tokenizer(cells, seed=seed, panel=panel)
    sink = GenePairSink(genes, model.vocabulary)
    capture(model, unbinned, PATTERNS, sink, progress=False)
    places = {gene: i for i, gene in enumerate(genes)}
    at = (asked["source"].map(places).to_numpy(), asked["target"].map(places).to_numpy())
    sums, counts = (part[..., at[0], at[1]] for part in (sink.result().sums, sink.result().counts))
    spread: dict[str, dict[str, Any]] = {}
    for how, tokens in (("unbinned", unbinned), ("binned", own)):
        points = last_layer(model, tokens)
        spread |= {f"first_component_{how}": {"found": first_component(points), "n": len(points)}}
        spread |= {f"participation_{how}": {"found": participation_ratio(points), "n": len(points)}}
    return {**compared(sums, counts, asked), **spread, **contexts}


def compared(sums: np.ndarray, counts: np.ndarray, asked: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Attention of pairs beside the published.

    Parameters
    ----------
    sums
        Sum of each pair over cells, (layer, head, pair).
    counts
        Cells in which both genes of a pair are tokens, (pair,).
    asked
        The same pairs, as published.

    Returns
    -------
    dict
        ``pair_means`` and ``pair_best_head``, over the pairs that were seen in a cell.
    """
    seen = counts > 0
    by_head, published = sums[..., seen].reshape(-1, int(seen.sum())), asked[seen]
    total = by_head.astype(np.float64).mean(0)
    # Whether the published sums were divided by the counts is told in two ways, so both are shown.
    found = {
        how: spearman(value, published["mean"].to_numpy())
        for how, value in (("sum", total), ("mean", total / counts[seen]))
    }
    names = np.array([head_name(*at) for at in np.ndindex(*sums.shape[:2])])
    best = names[by_head.argmax(0)]
    a, b = (pd.Series(heads).value_counts(normalize=True) for heads in (best, published["head"]))
    chance = float((a * b.reindex(a.index, fill_value=0)).sum())
    beside = ", ".join(f"{how} over cells {value:.3f}" for how, value in found.items())
    return {
        "pair_means": {"found": float(np.nanmax(list(found.values()))), "n": int(seen.sum()), "beside": beside},
        "pair_best_head": {
            "found": float((best == published["head"].to_numpy()).mean()),
            "n": int(seen.sum()),
            "beside": f"heads dealt to other pairs: {chance:.3f}",
        },
    }


def last_layer(model: CellModel, tokens: CellTokenizer) -> Float[np.ndarray, "cell d"]:
    """Each cell as the mean over its genes behind the last layer.

    Parameters
    ----------
    model
        Checkpoint that is asked, on any device.
    tokens
        Tokens of two cells or more.
    """
    parts = []
    with torch.no_grad():
        for batch in tokens.batches(8):
            batch = batch.to(model.device, model.dtype)
            stream, keep = model(batch, outputs=()).residual.float(), batch.genes.float()
            parts.append(((stream * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)).cpu().numpy())
    return np.concatenate(parts).astype(np.float64)


def first_component(points: Float[np.ndarray, "cell d"]) -> float:
    """Share of the variance on the first principal component.

    Parameters
    ----------
    points
        One row per cell, two at least.
    """
    variance = np.linalg.svd(points - points.mean(0), compute_uv=False) ** 2
    return float(variance[0] / variance.sum())
