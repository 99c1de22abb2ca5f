"""Scores of all heads under each convention, beside controls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records
from workbench.figures.facets import named_rows
from workbench.figures.forest import ROW
from workbench.figures.marks import POINT, legend_keys, marks, spread
from workbench.figures.style import QUIET, dressed, label, number


def conventions(table: pd.DataFrame, heads: pd.DataFrame) -> go.Figure:
    """Every head's score under each convention as a point, and controls with their spread.

    Parameters
    ----------
    table
        Table ``conventions`` of ``workbench conventions``: ``kind``, ``name``, ``rank_correlation``, ``shared``, ``score``, ``sd``, ``n``, ``of``.
    heads
        Table ``convention_heads``: ``name``, ``head``, ``spearman``, ``sd``, ``n_splits``.

    Returns
    -------
    plotly.graph_objects.Figure
        A row per convention and control; grey points are heads, the black one is the best of them.

    Raises
    ------
    EvaluationError
        If a table lacks a column, or has no row.
    """
    what = "figure of conventions"
    rows = checked(table, what, ["kind", "name", "of"], ["rank_correlation", "shared", "score", "sd", "n"])
    points = checked(heads, what, ["name", "head"], ["spearman", "sd", "n_splits"])
    order = [label(name) for name in rows["name"]]
    figure = go.Figure()
    hover = [
        f"{label(r.head)}, {label(r.name)}<br>{number(r.spearman)} (sd {number(r.sd)}, n = {r.n_splits:.0f} splits)"
        for r in records(points)
    ]
    look = {"symbol": "circle", "size": 7, "color": QUIET, "opacity": 0.55}
    figure.add_trace(marks(points["spearman"], points["name"].map(label), hover, name="a head", marker=look))
    told = [
        f"{label(r.name)}<br>{number(r.score)} (sd {number(r.sd)}, n = {r.n:.0f} {label(r.of)})"
        + (
            f"<br>rank correlation {number(r.rank_correlation)}, {r.shared:.0f} of 5 best heads shared"
            if r.kind == "convention"
            else ""
        )
        for r in records(rows)
    ]
    shapes = ["circle" if kind == "convention" else "circle-open" for kind in rows["kind"]]
    texts = [
        f"  ρ {number(r.rank_correlation, 2)}, {r.shared:.0f} of 5" if r.kind == "convention" else ""
        for r in records(rows)
    ]
    best = marks(rows["score"], order, told, mode="markers", name="best head", marker={**POINT, "symbol": shapes})
    figure.add_trace(best.update(error_x=spread(rows["sd"])))
    ends = [*points["spearman"], *(rows["score"] + rows["sd"].fillna(0)), *(rows["score"] - rows["sd"].fillna(0))]
    low, high = min(ends), max(ends)
    at = high + 0.03 * (high - low)
    figure.add_trace(
        marks(
            [at] * len(order),
            order,
            mode="text",
            text=texts,
            textposition="middle right",
            textfont={"size": 11},
            hoverinfo="skip",
        )
    )
    named_rows(figure, order, {})
    figure.update_xaxes(
        title="rank correlation with the ruler on held-out anchors",
        range=[low - 0.03 * (high - low), high + 0.3 * (high - low)],
    )
    keys = [
        ("best head ± sd over splits", {**POINT, "symbol": "circle"}),
        ("a control ± sd", {**POINT, "symbol": "circle-open"}),
        ("a head", look),
    ]
    legend_keys(figure, keys)
    n = f"n = {points['head'].nunique()} heads, {points['n_splits'].max():.0f} splits"
    subtitle = f"{n}. On the right: rank correlation ρ of the head scores with those of scGPT's own input, and how many of its five best heads are shared. Controls: sd over splits, of random ones over draws."
    return dressed(
        figure,
        "The same heads under other conventions",
        subtitle,
        ROW * len(order) + 40,
        above=40,
        below=62,
        legend=True,
    )
