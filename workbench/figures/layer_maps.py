"""Each layer as a map of its cells, and what its axes of genes go with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, refusal
from workbench.figures.facets import add_levels, facets
from workbench.figures.marks import SERIES, line_of, marks
from workbench.figures.style import assign_colors, dressed, label, number, span

_NONE = "no label"
_MODEL, _TABLE, _RANDOM = "model", "gene table", "random weights"
_BEYOND = "beyond level"


def space_maps(table: pd.DataFrame, hook: str = "") -> go.Figure:
    """UMAP of the cells after each layer, coloured by cell type.

    Parameters
    ----------
    table
        Table ``maps`` of ``workbench geometry``: ``layer``, ``hook``, ``cell_id``, ``cell_type``, ``umap_1``, ``umap_2``, ``k``, ``trustworthiness``.
    hook
        Hook that is drawn, such as ``resid_post cls``; the first that is there when empty.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per layer, with the trustworthiness of its map in the heading.

    Raises
    ------
    EvaluationError
        If the hook is not in the table.
    """
    what = "maps of layers"
    rows = checked(table, what, ["hook", "cell_id", "cell_type"], ["layer", "umap_1", "umap_2", "k", "trustworthiness"])
    hook = hook or rows["hook"].iloc[0]
    rows = rows[rows["hook"] == hook]
    if rows.empty:
        raise refusal(what, f"its table has no hook '{hook}'.")
    rows["cell_type"] = rows["cell_type"].replace("", _NONE)
    layers = sorted(rows["layer"].unique())
    of = rows.groupby("layer")["trustworthiness"].first()
    titles = [f"{label(_after(layer))}: {number(of[layer], 3)}" for layer in layers]
    figure, places, total = facets(titles, 230, 4, 50, spacing=0.03, shared_rows=False)
    hues = assign_colors(sorted(rows["cell_type"].unique()))
    size = 5 if rows["layer"].value_counts().max() <= 2000 else 3
    for i, (layer, at) in enumerate(zip(layers, places, strict=True)):
        for kind, part in rows[rows["layer"] == layer].groupby("cell_type", sort=True):
            hover = [f"{label(r.cell_id)}<br>{label(kind)}" for r in records(part)]
            marker = {"color": hues[kind], "size": size, "opacity": 0.8}
            dots = marks(part["umap_1"], part["umap_2"], hover, legend=i == 0, marker=marker, name=label(kind))
            figure.add_trace(dots.update(legendgroup=str(kind), showlegend=i == 0), **at)
        figure.update_xaxes(showticklabels=False, showgrid=False, zeroline=False, ticks="", **at)
        figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False, ticks="", **at)
    n, k = rows["layer"].value_counts(), int(rows["k"].iloc[0])
    subtitle = (
        f"{hook}, n = {span(n)} cells. Heading: trustworthiness of the map at k = {k} (1: no cell has a neighbour on the map that it lacks in the "
        "space). Only neighbourhoods can be read from a UMAP, not distances."
    )
    dressed(figure, "The cells after each layer", subtitle, total, above=32, below=20)
    # As many entries as there are cell types: at the side, where they have the height of the figure.
    beside = {"orientation": "v", "x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top", "itemsizing": "constant"}
    return figure.update_layout(showlegend=True, legend=beside)


def gene_layers(spectrum: pd.DataFrame, axes: pd.DataFrame) -> go.Figure:
    """Axes of gene vectors by layer: how many there are, what the first one is, and how many sets lie on them beyond expression level.

    Parameters
    ----------
    spectrum
        ``spectrum`` of `workbench.gene_geometry`: ``group``, ``layer``, ``source``, ``axis``, ``participation_ratio``, ``level_r2``, ``n``.
    axes
        ``axes`` of it: ``layer``, ``source``, ``axis``, ``set``, ``called``.

    Returns
    -------
    plotly.graph_objects.Figure
        Three facets; the model solid, random weights dashed, the gene table as a line across.

    Raises
    ------
    EvaluationError
        If a column is missing, or the model has no layer.
    """
    what = "figure of genes"
    rows = checked(spectrum, what, ["group", "source"], ["layer", "axis", "participation_ratio", "level_r2", "n"])
    rows = rows[(rows["group"] == "all cells") & (rows["axis"] == 1)]
    tests = checked(axes, what, ["source", "set", "called"], ["layer", "axis"])
    if rows[rows["source"] == _MODEL].empty:
        raise refusal(what, "its table has no layer of the model.")
    beyond = tests[tests["called"] == _BEYOND].assign(layer=lambda t: t["layer"].fillna(-2))
    found = beyond.groupby(["source", "layer"])["set"].nunique()
    rows["sets"] = [float(found.get((r.source, -2.0 if np.isnan(r.layer) else r.layer), 0)) for r in records(rows)]
    drawn = [
        ("participation_ratio", "dimensions (participation ratio)"),
        ("level_r2", "first axis: share that level explains"),
    ]
    drawn += [("sets", "sets beyond level, q ≤ 0.05")] if len(tests) else []
    figure, places, total = facets([label(title) for _, title in drawn], 220, 3, 84, spacing=0.07, shared_rows=False)
    for i, ((column, title), at) in enumerate(zip(drawn, places, strict=True)):
        for j, source in enumerate((_MODEL, _RANDOM)):
            part = rows[rows["source"] == source].sort_values("layer")
            hover = [
                f"{source}, {_after(r.layer)}<br>{label(title)} {number(getattr(r, column))}<br>n = {number(r.n)} genes"
                for r in records(part)
            ]
            line = line_of(part["layer"], part[column], hover, SERIES[j], name=source, legend=i == 0)
            figure.add_trace(line.update(line={"dash": "dash" if j else "solid"}), **at)
        levels = [float(getattr(r, column)) for r in records(rows[rows["source"] == _TABLE])]
        add_levels(figure, [(at, level, np.nan, np.nan, _TABLE) for level in levels])
        ticks = sorted(rows["layer"].dropna().unique())
        figure.update_xaxes(
            title="after layer", tickvals=ticks, ticktext=["in" if t < 0 else f"{t:.0f}" for t in ticks], **at
        )
        figure.update_yaxes(rangemode="tozero", nticks=5, **at)
    subtitle = (
        f"Mean residual vector of each of n = {span(rows['n'])} genes. Level: expression, detection and cells in the mean. Random weights on the same "
        "cells dashed; the gene table, which has seen no cell, as a line. In: in front of the first layer."
    )
    return dressed(figure, "What the axes of genes go with", subtitle, total, above=56, legend=True)


def _after(layer: float) -> str:
    return "in front of layer 0" if layer < 0 else f"after layer {layer:.0f}"
