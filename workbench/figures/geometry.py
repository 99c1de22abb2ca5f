"""Geometry layer by layer: how many dimensions, how isotropic, how faithful, whose variance, beside baselines and controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from workbench.figures.checks import checked, records, refusal
from workbench.figures.facets import Place, add_levels, facets
from workbench.figures.heatmap import colors_of, heatmap
from workbench.figures.marks import SERIES, interval, line_of
from workbench.figures.style import QUIET, dressed, label, number, span
from workbench.geometry.space_draws import BASELINE, MODEL

_DASHES = ("dash", "dot", "longdash")


def geometry_layers(table: pd.DataFrame, hook: str = "", measures: Sequence[Sequence[str]] = ()) -> go.Figure:
    """Measures of a space after each layer, a facet each, beside baselines and the same passes of the controls.

    Parameters
    ----------
    table
        Table of ``workbench geometry``: ``source``, ``layer``, ``hook``, ``measure``, ``scope``, ``value``, ``low``, ``high``, ``n``.
    hook
        Hook that is drawn, such as ``resid_post mean``; the first of the model when empty.
    measures
        Pairs of measure and scope to draw, in their order; all of them when empty.

    Returns
    -------
    plotly.graph_objects.Figure
        The model solid with its intervals, controls dashed, baselines as horizontal lines with their interval as a band.

    Raises
    ------
    EvaluationError
        If the hook or a measure is not in the table.
    """
    what = "figure of layers"
    text, numeric = ["source", "hook", "measure", "scope"], ["layer", "value", "low", "high", "n"]
    rows = checked(table, what, text, numeric)
    hooks = list(dict.fromkeys(rows.loc[rows["source"] == MODEL, "hook"]))
    if not hooks or (hook and hook not in hooks):
        raise refusal(what, f"its table has no hook '{hook}' of the model; there are: {', '.join(hooks) or 'none'}.")
    hook = hook or hooks[0]
    rows = rows[(rows["hook"] == hook) | (rows["source"] == BASELINE)]
    there = list(dict.fromkeys(zip(rows["measure"], rows["scope"], strict=True)))
    drawn = [tuple(one) for one in measures if tuple(one) in there] if measures else there
    if not drawn:
        raise refusal(what, "none of the measures that it draws is in its table.")
    titles = [
        label(f"{measure}, {scope}" if scope else measure).replace("partial eta squared", "eta²")
        for measure, scope in drawn
    ]
    figure, places, total = facets(titles, 190, 4, 84, spacing=0.055, shared_rows=False)
    levels: list[tuple[Place, float, float, float, str]] = []
    for i, ((measure, scope), at) in enumerate(zip(drawn, places, strict=True)):
        own = rows[(rows["measure"] == measure) & (rows["scope"] == scope)]
        for j, (source, part) in enumerate(own[own["source"] != BASELINE].groupby("source", sort=False)):
            part = part.sort_values("layer")
            series = SERIES[j % len(SERIES)]
            hover = [
                f"{label(source)}, {_layer(r.layer)}<br>{label(measure)} {number(r.value)}<br>95 % {number(r.low)} to {number(r.high)}<br>n = {number(r.n)}"
                for r in records(part)
            ]
            bars = interval(part, "value", color=series[0], thickness=1.2)
            trace = line_of(part["layer"], part["value"], hover, series, name=str(source), legend=i == 0, error_y=bars)
            dash = "solid" if source == MODEL else _DASHES[(j - 1) % len(_DASHES)]
            figure.add_trace(trace.update(line={"dash": dash}), **at)
        levels += [
            (at, float(r.value), r.low, r.high, label(r.hook))
            for r in records(own[own["source"] == BASELINE])
            if np.isfinite(r.value)
        ]
        ticks = sorted(set(own["layer"].dropna()))
        figure.update_xaxes(title="after layer", tickvals=ticks, ticktext=[_tick(tick) for tick in ticks], **at)
        figure.update_yaxes(nticks=5, **at)
    add_levels(figure, levels)
    subtitle = f"{hook}: one point a cell, n = {span(rows['n'])} cells. Bars: 95 % intervals. Dashed: controls through the same passes. Grey lines: what needs no model. In: in front of the first layer."
    return dressed(figure, "The shape of what each layer encodes", subtitle, total, above=56, legend=True)


def space_likeness(table: pd.DataFrame, measure: str = "debiased CKA") -> go.Figure:
    """Likeness of each pair of spaces: layers with each other, and with expression.

    Parameters
    ----------
    table
        Table ``likeness`` of ``workbench geometry``: ``one``, ``other``, ``measure``, ``value``, ``null_mean``, ``null_low``, ``null_high``, ``n``; angles are in degrees.
    measure
        ``debiased CKA`` or ``principal angle``.

    Returns
    -------
    plotly.graph_objects.Figure
        A cell per pair; the null of dealt cells on hover.
    """
    what = "map of likeness"
    rows = checked(table, what, ["one", "other", "measure"], ["value", "null_mean", "null_low", "null_high", "n"])
    rows = rows[rows["measure"] == measure]
    if rows.empty:
        raise refusal(what, f"its table has no '{measure}'.")
    both = pd.concat([rows, rows.rename(columns={"one": "other", "other": "one"})]).drop_duplicates(["one", "other"])
    names = list(dict.fromkeys([*rows["one"], *rows["other"]]))
    cells = both.assign(row=both["one"], column=both["other"], bold=False)
    cells["hover"] = [
        f"{label(r.one)} and {label(r.other)}<br>{label(measure)} {number(r.value)}<br>cells dealt anew: mean {number(r.null_mean)}, {number(r.null_low)} to {number(r.null_high)}<br>n = {number(r.n)}"
        for r in records(both)
    ]
    subtitle = f"Of the same cells, n = {span(rows['n'])}. Where cells are dealt anew: {number(rows['null_low'].min())} to {number(rows['null_high'].max())} (95 %)."
    return heatmap(
        cells, names, names, colors_of(cells["value"], measure), "How alike the spaces are", subtitle, ("", "")
    )


def _tick(layer: float) -> str:
    return "in" if layer < 0 else f"{layer:.0f}"


def _layer(layer: float) -> str:
    return "in front of the first layer" if layer < 0 else f"after layer {layer:.0f}"


def dimension_curves(table: pd.DataFrame, hook: str = "") -> go.Figure:
    """Dimension of ever more of the same cells, a line per layer: one that still rises at the right end is not known.

    Parameters
    ----------
    table
        Table of ``workbench geometry`` or `workbench.geometry`, as `geometry_layers` takes it.
    hook
        Hook that is drawn, such as ``resid_post mean``; the first of the model when empty.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per estimator, cells on a logarithmic axis; baselines dashed.

    Raises
    ------
    EvaluationError
        If the table holds no dimension of fewer cells.
    """
    what = "figure of dimension by cells"
    rows = checked(table, what, ["source", "hook", "measure", "scope"], ["layer", "value", "n"])
    if not hook:
        hook = next(iter(rows.loc[rows["source"] == MODEL, "hook"]), "")
    rows = rows[((rows["source"] == MODEL) & (rows["hook"] == hook)) | (rows["source"] == BASELINE)]
    parts = rows["scope"].str.fullmatch(r"1/\d+ of the cells")
    names = list(dict.fromkeys(rows.loc[parts, "measure"]))
    if not names:
        raise refusal(what, "its table has no dimension of a part of the cells; too few cells, or an older table.")
    rows = rows[rows["measure"].isin(names) & (parts | (rows["scope"] == "raw")) & rows["value"].notna()]
    figure, places, total = facets([label(name) for name in names], 300, 2, 84, spacing=0.1, shared_rows=False)
    layers = sorted(rows["layer"].dropna().unique())
    shades = sample_colorscale("Viridis", np.linspace(0, 0.85, max(len(layers), 2)))
    for i, (name, at) in enumerate(zip(names, places, strict=True)):
        own = rows[rows["measure"] == name]
        lines = [(_layer(layer), own[own["layer"] == layer], shades[j], "solid") for j, layer in enumerate(layers)]
        lines += [
            (key, part, QUIET, _DASHES[j % len(_DASHES)])
            for j, (key, part) in enumerate(own[own["layer"].isna()].groupby("hook", sort=False))
        ]
        for key, part, color, dash in lines:
            part = part.sort_values("n")
            hover = [f"{label(key)}<br>{number(r.value)} dimensions<br>n = {number(r.n)} cells" for r in records(part)]
            line = line_of(part["n"], part["value"], hover, (color, "circle"), name=str(key), legend=i == 0)
            figure.add_trace(line.update(line={"dash": dash}, marker={"size": 6}), **at)
        numbers = np.sort(own["n"].unique())
        # Numbers that differ by a few repeated cells would be written over each other.
        ticks = numbers[np.append(True, np.diff(np.log(numbers)) > 0.2)]
        figure.update_xaxes(title="cells", type="log", tickvals=ticks, ticktext=[f"{n:,.0f}" for n in ticks], **at)
        figure.update_yaxes(title="dimension", rangemode="tozero", **at)
    subtitle = f"{hook}, and baselines dashed. The same order of cells in every space; all n = {span(rows.groupby(['source', 'hook', 'layer'], dropna=False)['n'].max())} cells at the right. No intervals."
    return dressed(figure, "Dimension grows with the cells", subtitle, total, above=56, legend=True)
