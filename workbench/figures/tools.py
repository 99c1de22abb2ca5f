"""Figures of the tools: attention between genes, what each layer knows, and where steered cells go."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, chosen, records, refusal
from workbench.figures.facets import facets
from workbench.figures.heatmap import colors_of, heatmap
from workbench.figures.marks import SERIES, line_of, spread
from workbench.figures.style import NULL, NULL_EDGE, QUIET, dressed, label, number, span

_UNTRAINED, _EXPRESSION = "untrained model", "expression"
_NUMBERED = 12
# Columns that say which of several directions a table of doses is of.
_NAMED = ("along", "target", "source")


def attention_map(table: pd.DataFrame, group: str | None = None, value: str = "ratio") -> go.Figure:
    """Heatmap of attention between genes: who reads (rows) from whom (columns).

    Parameters
    ----------
    table
        From `workbench.attention`, of one head.
    group
        Group of cells that is drawn; may be left out where there is one.
    value
        ``ratio`` (attention over even attention, the default) or ``attention``.

    Returns
    -------
    plotly.graph_objects.Figure
        One cell per pair; sd over cells and n on hover.

    Raises
    ------
    EvaluationError
        If there are several heads, or several groups and none is named.
    """
    what = "attention map"
    rows = checked(table, what, ["head", "group", "target", "source"], ["attention", "sd", "even", "ratio", "n_cells"])
    if rows["head"].nunique() > 1:
        raise refusal(what, f"its table has several heads ({', '.join(rows['head'].unique())}); pass the rows of one.")
    rows = chosen(rows, "group", group, what)
    if value not in ("ratio", "attention"):
        raise refusal(what, f"'{value}' is no value that it draws; take 'ratio' or 'attention'.")
    cells = rows.assign(row=rows["target"], column=rows["source"], value=rows[value], bold=False)
    cells["hover"] = [
        f"{label(r.target)} reads {label(r.source)}<br>attention {number(r.attention)}, sd {number(r.sd)}<br>{number(r.ratio)} times even attention<br>"
        f"n = {int(r.n_cells)} cells with both"
        for r in records(rows)
    ]
    targets, sources = list(dict.fromkeys(cells["row"])), list(dict.fromkeys(cells["column"]))
    unit = "attention / even" if value == "ratio" else "attention"
    subtitle = (
        f"Mean over cells with both genes (n = {span(rows['n_cells'])}) of {label(rows['group'].iloc[0])}; rows read, columns are read. "
        "Even: what the same cells would give if each attended evenly. Spread over cells on hover; no null is drawn."
    )
    title, axes = f"Attention of head {rows['head'].iloc[0]}", ("source gene", "target gene")
    figure = heatmap(cells, targets, sources, colors_of(cells["value"], unit), title, subtitle, axes)
    if max(len(targets), len(sources)) > _NUMBERED:  # numbers would not be readable; they are on hover
        figure.update_traces(texttemplate=None, text=None)
        figure.update_layout(height=figure.layout.height - (38 - 18) * len(targets))
    return figure


def layer_probes(table: pd.DataFrame) -> go.Figure:
    """What a linear probe reads after each layer, beside expression itself and the model before training.

    Parameters
    ----------
    table
        What `workbench.probe` or `workbench.lens` gives.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per thing that is read; sd over folds as bars, the 97.5 % quantile of relabelled cells dotted.
    """
    what = "figure of probes"
    numeric = ["layer", "value", "sd", "null_high", "n_cells", "n_folds"]
    rows = checked(table, what, ["reads", "features", "metric", "folds_of"], numeric)
    rows["pool"] = table["pool"].to_numpy()
    names = list(dict.fromkeys(rows["reads"]))
    titles = [f"{label(name)}: {label(rows.loc[rows['reads'] == name, 'metric'].iloc[0])}" for name in names]
    figure, places, total = facets(titles, 300, 2, 90, spacing=0.1, shared_rows=False)
    for i, (name, at) in enumerate(zip(names, places, strict=True)):
        part = rows[rows["reads"] == name]
        shown = set()
        for j, ((who, pool), own) in enumerate(
            part[part["features"] != _EXPRESSION].groupby(["features", "pool"], sort=False)
        ):
            own = own.sort_values("layer")
            series, dash = SERIES[j % len(SERIES)], "dash" if who == _UNTRAINED else "solid"
            hover = [
                f"{label(who)}, {label(pool)}, {_layer(r.layer)}<br>{label(r.metric)} {number(r.value)}, sd {number(r.sd)} over {int(r.n_folds)} folds<br>"
                f"relabelled: up to {number(r.null_high)}"
                for r in records(own)
            ]
            line = line_of(
                own["layer"],
                own["value"],
                hover,
                series,
                name=f"{who}, {pool}",
                legend=i == 0,
                error_y=spread(own["sd"], color=series[0], thickness=1.2),
            )
            figure.add_trace(line.update(line={"dash": dash}), **at)
            shown |= set(own["layer"])
        base = part[part["features"] == _EXPRESSION]
        if len(base):
            figure.add_hline(
                y=float(base["value"].iloc[0]),
                line={"color": QUIET, "width": 1.5},
                annotation_text="expression itself",
                **at,
            )
        if np.isfinite(highest := part["null_high"].max()):
            figure.add_hline(
                y=float(highest),
                line={"color": NULL_EDGE, "width": 1, "dash": "dot"},
                annotation_text="relabelled cells",
                annotation_position="bottom right",
                **at,
            )
        ticks = sorted(shown)
        figure.update_xaxes(title="after layer", tickvals=ticks, ticktext=[_tick(tick) for tick in ticks], **at)
        figure.update_yaxes(nticks=6, **at)
    first = rows.iloc[0]
    subtitle = (
        f"Linear probes on held-out cells: mean and sd over {int(first['n_folds'])} folds of {first['folds_of']}, n = {span(rows['n_cells'])} cells. "
        "Expression itself: its principal components, as many as the model is wide. Dotted: 97.5 % of relabelled cells."
    )
    return dressed(figure, "What each layer knows", subtitle, total, above=56, legend=True)


def dose_curves(table: pd.DataFrame) -> go.Figure:
    """Where steered cells go at each dose, and what it costs, beside random directions of the same length.

    Parameters
    ----------
    table
        What `workbench.steer` gives, of one run.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per measure; bars are intervals over cells, the grey band is the range of the random directions.
    """
    what = "figure of doses"
    rows = checked(
        table,
        what,
        ["measure", *(_NAMED if set(_NAMED) <= set(table) else ())],
        ["dose", "value", "low", "high", "null_mean", "null_low", "null_high", "n_cells", "n_null", "layer"],
    )
    names = list(dict.fromkeys(rows["measure"]))
    figure, places, total = facets([label(name) for name in names], 240, 3, 90, spacing=0.08, shared_rows=False)
    for i, (name, at) in enumerate(zip(names, places, strict=True)):
        own = rows[rows["measure"] == name].sort_values("dose")
        null = own[np.isfinite(own["null_mean"])]
        if len(null):
            x = np.concatenate([null["dose"], null["dose"][::-1]])
            y = np.concatenate([null["null_high"], null["null_low"][::-1]])
            band = go.Scatter(
                x=x,
                y=y,
                fill="toself",
                fillcolor=NULL,
                opacity=0.5,
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                name="random directions",
                showlegend=i == 0,
            )
            figure.add_trace(band, **at)
        hover = [
            f"dose {number(r.dose)}<br>{label(name)} {number(r.value)}<br>95 % {number(r.low)} to {number(r.high)}<br>random: {number(r.null_low)} to {number(r.null_high)}"
            for r in records(own)
        ]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": own["high"] - own["value"],
            "arrayminus": own["value"] - own["low"],
            "thickness": 1.2,
        }
        figure.add_trace(
            line_of(own["dose"], own["value"], hover, SERIES[0], name="direction", legend=i == 0, error_y=bars), **at
        )
        figure.update_xaxes(title="dose", **at)
        figure.update_yaxes(nticks=5, **at)
    subtitle = (
        f"{_along(rows)} behind layer {int(rows['layer'].iloc[0])}; n = {span(rows['n_cells'])} cells that the direction was not made from, 95 % bootstrap intervals. Grey: range of "
        f"{span(rows.loc[rows['dose'] > 0, 'n_null'])} random directions of the same length."
    )
    return dressed(figure, "Cells steered along a direction", subtitle, total, above=56, legend=True)


def _along(rows: pd.DataFrame) -> str:
    if not set(_NAMED) <= set(rows):
        return "Added"
    one = rows.iloc[0]
    return f"{label(one['target'])} steered towards {label(one['source'])}: {label(one['along'])} is added"


def _layer(layer: float) -> str:
    return "in front of the first layer" if layer < 0 else f"after layer {int(layer)}"


def _tick(layer: float) -> str:
    return "input" if layer < 0 else str(int(layer))
