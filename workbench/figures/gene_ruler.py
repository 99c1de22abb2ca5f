"""How genes follow a ruler over genes: every representation beside its nulls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records
from workbench.figures.facets import named_rows
from workbench.figures.forest import ROW, null_bars
from workbench.figures.marks import POINT, legend_keys, marks
from workbench.figures.style import QUIET, dressed, label, number

_HELD = "LET, held-out groups"


def genes_on_ruler(table: pd.DataFrame) -> go.Figure:
    """Rank correlation with a ruler over genes on held-out families, beside fits that have not seen the ruler, and nulls.

    Parameters
    ----------
    table
        Table ``manifold_genes`` of ``workbench manifold``: ``representation``, ``kind``, ``method``, ``spearman``, ``null_mean``, ``null_high``,
        ``p``, ``n_null``, ``rewired_high``, ``rewired_p``, ``n_rewired``, ``n_groups``, ``n_points``, ``n_pairs``.

    Returns
    -------
    plotly.graph_objects.Figure
        A row per representation, controls hollow.

    Raises
    ------
    EvaluationError
        If the table lacks a column, or has no row.
    """
    numbers = ["spearman", "null_mean", "null_high", "p", "n_null", "rewired_high", "rewired_p", "n_rewired"]
    rows = checked(
        table,
        "figure of genes on a ruler",
        ["representation", "kind", "method"],
        [*numbers, "n_groups", "n_points", "n_pairs"],
    )
    held, others = rows[rows["method"] == _HELD], rows[rows["method"] != _HELD]
    order = [label(name) for name in held["representation"]]
    figure = go.Figure(null_bars(order, held["null_mean"], held["null_high"]))
    look = {"symbol": "line-ns-open", "size": 9, "color": QUIET}
    hover = [
        f"{label(r.representation)}, {label(r.method)}<br>{number(r.spearman)}, p {number(r.p)}"
        for r in records(others)
    ]
    figure.add_trace(
        marks(others["spearman"], others["representation"].map(label), hover, name="another fit", marker=look)
    )
    rewired = {"symbol": "diamond-open", "size": 7, "color": QUIET}
    figure.add_trace(
        marks(held["rewired_high"], order, mode="markers", hoverinfo="skip", name="rewired", marker=rewired)
    )
    shapes = ["circle" if kind == "model" else "circle-open" for kind in held["kind"]]
    told = [
        f"{label(r.representation)}<br>{number(r.spearman)}<br>matched families: p {number(r.p)} ({r.n_null:.0f} draws)"
        f"<br>rewired graphs: p {number(r.rewired_p)} ({r.n_rewired:.0f} draws)"
        for r in records(held)
    ]
    figure.add_trace(marks(held["spearman"], order, told, name="held out", marker={**POINT, "symbol": shapes}))
    named_rows(figure, order, {})
    figure.update_xaxes(title="rank correlation with the ruler")
    keys = [
        ("LET on held-out families (controls hollow)", {**POINT, "symbol": "circle"}),
        ("MDS, Isomap, principal components", look),
        ("97.5 % of rewired graphs", rewired),
    ]
    legend_keys(figure, keys)
    one = next(records(held))
    subtitle = (
        f"n = {one.n_points:.0f} genes of {one.n_groups:.0f} families, {one.n_pairs:.0f} pairs within folds. Grey bars: families that change places "
        f"with others of like expression and degree, mean to 97.5 % of {held['n_null'].max():.0f} draws."
    )
    return dressed(
        figure, "Genes on a ruler over genes", subtitle, ROW * len(order) + 40, above=62, below=62, legend=True
    )
