"""Panels of horizontal points with spread and null: what the holdouts and the readouts are drawn with."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.style import ACCENT, INK, NULL, NULL_EDGE, QUIET, dressed, label, wrapped

ROW_HEIGHT = 34
BETWEEN = 104
ABOVE = 74
POINT = {"color": ACCENT, "size": 9, "line": {"color": ACCENT, "width": 2}}


@dataclass(frozen=True)
class Panel:
    """One panel.

    Parameters
    ----------
    title, note
        First and second line above the panel, plain text.
    axis
        Title of the value axis, plain text.
    rows
        One row per point: `row` (its name on the left), `value`, `sd`, `null_from`, `null_high`, `hover`.
    limits
        Smallest and largest value that the axis shows.
    """

    title: str
    note: str
    axis: str
    rows: pd.DataFrame
    limits: tuple[float, float]


def point_panels(
    panels: Sequence[Panel],
    order: Sequence[str],
    title: str,
    subtitle: str,
    *,
    columns: int,
    baselines: Collection[str] = (),
    notes: Sequence[str] = (),
    mark: str = "mean ± sd",
) -> go.Figure:
    """Draw panels side by side, each with the same rows, and list what could not be drawn underneath.

    Parameters
    ----------
    panels
        One panel or more, drawn in this order, row by row.
    order
        Names of the rows, from top to bottom.
    title, subtitle
        Plain text; the subtitle is broken into lines.
    columns
        Panels side by side, at most.
    baselines
        Rows that are drawn with an open mark.
    notes
        Sentences to list under the panels, plain text; without any there is no list.
    mark
        What a point and its bar are, for the legend.

    Returns
    -------
    plotly.graph_objects.Figure
        In every panel a bar for the null and one trace of points with error bars.
    """
    across = min(columns, len(panels))
    down = math.ceil(len(panels) / across)
    each = ROW_HEIGHT * len(order) + 22
    total = each * down + BETWEEN * (down - 1)
    figure = make_subplots(
        rows=down,
        cols=across,
        shared_yaxes=True,
        horizontal_spacing=0.045 if across > 1 else 0,
        vertical_spacing=BETWEEN / total if down > 1 else 0,
        subplot_titles=[
            f"<b>{label(p.title)}</b><br><span style='font-size:12px;color:{QUIET}'>{label(p.note)}</span>"
            for p in panels
        ],
        specs=[[{} if r * across + c < len(panels) else None for c in range(across)] for r in range(down)],
    )
    for i, panel in enumerate(panels):
        at = {"row": i // across + 1, "col": i % across + 1}
        _draw(figure, panel, at, baselines)
        figure.update_xaxes(title={"text": label(panel.axis), "standoff": 6}, range=list(panel.limits), **at)
        figure.update_yaxes(
            type="category",
            categoryorder="array",
            categoryarray=[label(name) for name in reversed(order)],
            range=[-0.6, len(order) - 0.4],
            showgrid=False,
            ticks="",
            **at,
        )
    legend_keys(figure, _keys(mark, bool(set(baselines) & set(order))))
    lines = [line for note in notes for line in wrapped(note, 92)]
    below = 62 + (24 + 17 * len(lines) if lines else 0)
    dressed(figure, title, subtitle, total, above=ABOVE, below=below)
    figure.update_layout(
        legend={
            "orientation": "h",
            "traceorder": "normal",
            "x": 0,
            "xanchor": "left",
            "y": 1 + ABOVE / total,
            "yanchor": "top",
        },
        bargap=0.35,
    )
    if lines:
        figure.add_annotation(
            text="<b>Not drawn</b><br>" + "<br>".join(lines),
            **{"x": 0, "xref": "paper", "xanchor": "left", "y": 0, "yref": "paper", "yanchor": "top", "yshift": -56},
            **{"showarrow": False, "align": "left", "font": {"size": 12, "color": QUIET}},
        )
    return figure


def _draw(figure: go.Figure, panel: Panel, at: dict[str, int], baselines: Collection[str]) -> None:
    rows = panel.rows
    names = [label(name) for name in rows["row"]]
    figure.add_trace(null_bars(names, rows["null_from"], rows["null_high"]), **at)
    figure.add_trace(
        go.Scatter(
            x=rows["null_high"],
            y=names,
            mode="markers",
            name="null, upper bound",
            showlegend=False,
            marker={"symbol": "line-ns-open", "size": 16, "color": NULL_EDGE, "line": {"width": 2}},
            hoverinfo="skip",
        ),
        **at,
    )
    symbols = ["circle-open" if name in baselines else "circle" for name in rows["row"]]
    texts = [f"{value:z.2f}" for value in rows["value"]]
    figure.add_trace(points(names, rows["value"], {"array": rows["sd"]}, texts, symbols, rows["hover"]), **at)


def points(
    names: Sequence[str],
    values: pd.Series,
    spread: Mapping[str, Any],
    texts: Sequence[str],
    symbols: Sequence[str],
    hover: pd.Series,
) -> go.Scatter:
    """One point per row with its spread, and its value written above.

    Parameters
    ----------
    names
        Name of each row as the axis has it, escaped by `label`.
    values
        Horizontal position of each point, which is also what is written.
    spread
        `array`, and `arrayminus` where the lower side differs, as plotly takes them.
    texts, symbols, hover
        Written above each point, its mark, and its hover text (small HTML).
    """
    return go.Scatter(
        x=values,
        y=names,
        mode="markers+text",
        text=texts,
        textposition="top center",
        textfont={"size": 11, "color": INK},
        cliponaxis=False,
        name="value",
        showlegend=False,
        error_x={"type": "data", **spread, "color": ACCENT, "thickness": 1.6, "width": 4},
        marker={**POINT, "symbol": symbols},
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
    )


def null_bars(names: Sequence[str], low: pd.Series, high: pd.Series) -> go.Bar:
    """Grey bars from one bound of a null to the other.

    Parameters
    ----------
    names
        Name of each row as the axis has it, escaped by `label`.
    low, high
        Bounds; no bar where they are missing.
    """
    return go.Bar(
        x=high - low,
        base=low,
        y=names,
        orientation="h",
        name="null",
        showlegend=False,
        marker={"color": NULL, "opacity": 0.55, "line": {"width": 0}},
        hoverinfo="skip",
    )


def legend_keys(figure: go.Figure, keys: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Legend from empty traces: the real ones repeat in every panel, or have marks of several kinds.

    Parameters
    ----------
    figure
        Figure to which the traces are added.
    keys
        Text of each entry, and its marker as plotly takes it.
    """
    for name, marker in keys:
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, hoverinfo="skip"))


def _keys(mark: str, with_baselines: bool) -> list[tuple[str, dict[str, Any]]]:
    keys: list[tuple[str, dict[str, Any]]] = [(mark, {**POINT, "symbol": "circle"})]
    if with_baselines:
        keys.append(("the same for a baseline", {**POINT, "symbol": "circle-open"}))
    return [*keys, ("null, up to its upper bound", {"symbol": "square", "size": 12, "color": NULL})]
