"""How the operators change along the layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.checks import checked, records, with_value
from workbench.figures.facets import gene_rows
from workbench.figures.heatmap import SCALE, Colors, heat_trace
from workbench.figures.marks import bars
from workbench.figures.style import ACCENT, dressed, label, number, span

TOP = 12
_CELL, _ROW, _BETWEEN = 38, 20, 110


def drift(layers: pd.DataFrame, genes: pd.DataFrame) -> go.Figure:
    """Likeness of the layers' mean operators, and the genes whose rows and columns change most between blocks.

    Parameters
    ----------
    layers
        `first`, `second` (layers), `cosine` of their mean operators, `n_heads`, `n_genes`.
    genes
        `step` (such as "early - mid"), `side` ("read" or "write"), `gene`, `rank`, `share` of the squared change.

    Returns
    -------
    plotly.graph_objects.Figure
        A map of layers by layers, and under it bars for the first genes of each step and side.

    Raises
    ------
    EvaluationError
        If a column is missing, or no cosine is finite.
    """
    rows = checked(layers, "figure of drift", numeric=["first", "second", "cosine", "n_heads", "n_genes"])
    rows = with_value(rows, "cosine", "figure of drift")
    table = checked(genes, "figure of drift", ["step", "side", "gene"], ["rank", "share"])
    table = table[table["rank"] <= TOP]
    groups = list(table.groupby(["step", "side"], sort=False))
    pairs = rows[["first", "second"]].astype(int)
    names = [str(i) for i in np.unique(pairs)]
    cells = rows.assign(
        row=pairs["first"].astype(str), column=pairs["second"].astype(str), value=rows["cosine"], bold=False
    )
    cells["hover"] = [
        f"layers {int(r.first)} and {int(r.second)}<br>cosine {number(r.cosine)}<br>n = {number(r.n_heads)} heads each, "
        f"{number(r.n_genes)} genes"
        for r in records(rows)
    ]
    map_height, list_height = max(160, _CELL * len(names)), _ROW * TOP
    down = 1 + (len(groups) + 1) // 2
    total = map_height + (down - 1) * (list_height + _BETWEEN)
    figure = make_subplots(
        rows=down,
        cols=2,
        row_heights=[map_height, *[list_height] * (down - 1)],
        vertical_spacing=_BETWEEN / total if down > 1 else 0,
        horizontal_spacing=0.14,
        specs=[[{"colspan": 2}, None], *[[{}, {}] for _ in range(down - 1)]],
        subplot_titles=["", *[f"{label(step)}, {label(side)} side" for (step, side), _ in groups]],
    )
    figure.add_trace(heat_trace(cells, names, names, Colors(SCALE, (-1, 1), "cosine")), row=1, col=1)
    figure.data[0].colorbar.update(len=map_height / total, y=1, yanchor="top")
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(title="layer", type="category", row=1, col=1, showgrid=False, ticks="")
    for i, (_, part) in enumerate(groups):
        at, genes_of = {"row": 2 + i // 2, "col": 1 + i % 2}, part["gene"].tolist()
        look = {"hovertext": (shown := [label(gene) for gene in genes_of]), "marker": {"color": ACCENT}}
        hover = "%{hovertext}: %{x:.2f} % of the squared change"
        figure.add_trace(bars(100 * part["share"], shown, hover, **look), **at)
        gene_rows(figure, genes_of, at, autorange="reversed")
        figure.update_xaxes(title="share of the squared change (%)", rangemode="tozero", **at)
    uniform = 100 / float(np.nanmax(rows["n_genes"]))
    subtitle = (
        f"Cosine of mean operators of two layers ({span(rows['n_heads'])} heads each, {span(rows['n_genes'])} genes; 1: the same but for "
        f"scale), and the {TOP} genes whose rows (read) or columns (write) hold most of the change between blocks. One number each, no "
        f"spread; a gene like any other would hold {number(uniform)} %."
    )
    return dressed(figure, "How operators change along the layers", subtitle, total, above=24)
