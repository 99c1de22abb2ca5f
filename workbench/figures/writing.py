"""Map of heads by what they write."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, refusal
from workbench.figures.heatmap import ALPHA, bold_heads, colors_of, head_name, heatmap, placed
from workbench.figures.style import number, span


def write_map(table: pd.DataFrame, scope: str = "", source: str = "model") -> go.Figure:
    """Heatmap of how the scores that each head writes follow the genes that they are scores of, layer by head.

    Parameters
    ----------
    table
        Table ``writing`` of a run: `operator`, `source`, `scope`, `layer`, `head`, `correlation`, `sd`, `excess`, `null_mean`, `null_low`, `null_high`, `p`, `q`,
        `n_genes`, `n_cells`, `n_folds`.
    scope
        ``all cells`` or ``inside cell types``; the last that the table has when empty.
    source
        ``model``, or the name of the untrained one.

    Returns
    -------
    plotly.graph_objects.Figure
        Correlation less the mean of its null; heads with q at most .05 bold. Controls are in the subtitle.

    Raises
    ------
    EvaluationError
        If a column is missing, or the scope or the source is not there.
    """
    what = "map of what heads write"
    numeric = ["layer", "head", "correlation", "sd", "excess", "null_mean", "null_low", "null_high", "p", "q"]
    rows = checked(table, what, ["operator", "source", "scope"], [*numeric, "n_genes", "n_cells", "n_folds"])
    scopes = list(dict.fromkeys(rows["scope"]))
    scope = scope or scopes[-1]
    rows = rows[rows["scope"] == scope]
    heads = rows[rows["layer"].notna() & (rows["source"] == source)].reset_index(drop=True)
    if heads.empty:
        raise refusal(what, f"its table has no heads of '{source}', {scope}; scopes: {', '.join(scopes)}.")
    cells, names, columns = placed(heads, "excess", what)
    cells["bold"] = cells["q"] <= ALPHA
    cells["hover"] = [
        f"{head_name(pd.Series(r._asdict()))}<br>correlation {number(r.correlation)} (sd {number(r.sd)}, {number(r.n_folds)} folds)"
        f"<br>names exchanged: mean {number(r.null_mean)}, {number(r.null_low)} to {number(r.null_high)}"
        f"<br>p {number(r.p)}, q {number(r.q)}<br>n = {number(r.n_genes)} genes, {number(r.n_cells)} cells"
        for r in records(heads)
    ]
    beside = "; ".join(
        f"{r.operator if r.source == 'control' else f'{r.operator}, {r.source}'} {number(r.excess)}"
        for r in records(rows[rows["layer"].isna()])
        if np.isfinite(r.excess)
    )
    subtitle = (
        f"{scope}, n = {span(heads['n_genes'])} genes, {span(heads['n_cells'])} held-out cells. Shown: correlation less the mean where names of "
        f"written genes are exchanged. {bold_heads(cells)}. Of whole operators: {beside}."
    )
    scale = colors_of(cells["value"], "correlation beyond the null")
    return heatmap(cells, names, columns, scale, "Do scores follow the genes that heads write to?", subtitle)
