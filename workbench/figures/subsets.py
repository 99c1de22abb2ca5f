"""What subsets of factors do when they alone are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import EvaluationError
from workbench.figures.added import chosen, legend_above, list_undrawn, missing, once, removed
from workbench.figures.style import ACCENT, INK, NULL, checked, dressed, label, number, records, span

# Of the additive prediction.
_OTHER = "#B35806"


def subset_interactions(
    table: pd.DataFrame, endpoint: str | None = None, metric: str | None = None, how: str = "mean"
) -> go.Figure:
    """What subsets of factors do when they alone are kept, beside what their effects would add up to.

    Parameters
    ----------
    table
        One row per subset, way of removing the others, endpoint and metric: `subset` (names joined by "+"), `size`,
        `how`, `endpoint`, `metric`, `value`, `sd`, `intact` (all factors kept), `none` (none kept), `additive` (what the
        effects of the single factors add up to), `interaction` (value minus additive), `n_splits`.
    endpoint, metric
        Which; the first of the table when None.
    how
        How the factors that are not kept were removed.

    Returns
    -------
    plotly.graph_objects.Figure
        Columns by size, and by value within a size: points with sd bars and the additive prediction as an open mark,
        lines for intact and for none kept, and dots that say which factors a column keeps.

    Raises
    ------
    EvaluationError
        If a column is missing, a name is unknown, a subset is there twice, or no value is finite.
    """
    what = "figure of subsets"
    numeric = ["size", "value", "sd", "intact", "none", "additive", "interaction", "n_splits"]
    rows = chosen(checked(table, what, ["subset", "how", "endpoint", "metric"], numeric), "how", how, what)
    rows = chosen(chosen(rows, "endpoint", endpoint, what), "metric", metric, what)
    once(rows, ["subset"], what)
    drawn = rows[np.isfinite(rows["value"])].sort_values(["size", "value"], ascending=[True, False], kind="stable")
    if drawn.empty:
        raise EvaluationError(f"The {what} cannot be drawn: no row has a finite 'value'.")
    panel = f"{drawn['endpoint'].iloc[0]}, {drawn['metric'].iloc[0]}"
    members = [[part for part in subset.split("+") if part] for subset in drawn["subset"]]
    factors = sorted({factor for kept in members for factor in kept})
    columns = np.arange(len(drawn))
    matrix = max(40, 24 * len(factors))
    total = 300 + 24 + matrix
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[300, matrix], vertical_spacing=24 / total)
    _values(figure, drawn, panel, columns)
    _dots(figure, members, factors)
    best = drawn.loc[drawn["value"].idxmax()]
    furthest = drawn["interaction"].abs()
    most = drawn.loc[furthest.idxmax()] if furthest.notna().any() else None
    subtitle = (
        f"n = {len(drawn)} subsets, each kept alone while every other factor is {removed(how)}; "
        f"probes fixed. Mean ± sd over n = {span(drawn['n_splits'])} splits. Intact: {span(drawn['intact'].round(3))}; floor, no factor "
        f"kept: {span(drawn['none'].round(3))}. Highest: {best['subset']} with {number(best['value'])}."
        + (
            f" Largest interaction: {number(most['interaction'])}, {most['subset']}."
            if most is not None and most["interaction"]
            else ""
        )
        + " No null is drawn here."
    )
    dressed(figure, f"What factors do alone and together: {panel}", subtitle, total, above=34, below=30)
    figure.update_layout(margin={"r": 108})
    legend_above(figure, total, 34)
    return list_undrawn(figure, missing(rows, drawn, ["endpoint", "metric"], "subset", "no value"))


def _values(figure: go.Figure, drawn: pd.DataFrame, panel: str, columns: np.ndarray) -> None:
    hover = [
        f"{label(r.subset)} kept: {label(panel)}<br>{number(r.value)} ± {number(r.sd)} (sd over n = {number(r.n_splits)} "
        f"splits)<br>additive prediction {number(r.additive)}, interaction {number(r.interaction)}<br>intact "
        f"{number(r.intact)}, floor {number(r.none)}"
        for r in records(drawn)
    ]
    joined = [value for r in records(drawn) for value in (r.value, r.additive, None)]
    shown = {"hovertext": hover, "hovertemplate": "%{hovertext}<extra></extra>"}
    text = [f"{value:z.2f}" for value in drawn["value"]] if len(drawn) <= 20 else None
    figure.add_trace(
        go.Scatter(
            x=np.repeat(columns, 3),
            y=joined,
            mode="lines",
            line={"color": _OTHER, "width": 1.2, "dash": "dot"},
            name="interaction",
            legendrank=1002,
            hoverinfo="skip",
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Scatter(
            x=columns,
            y=drawn["additive"],
            mode="markers",
            name="additive prediction",
            legendrank=1001,
            marker={"symbol": "diamond-open", "size": 10, "color": _OTHER, "line": {"width": 2}},
            **shown,
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Scatter(
            x=columns,
            y=drawn["value"],
            mode="markers+text" if text else "markers",
            text=text,
            textposition="middle right",
            textfont={"size": 11, "color": INK},
            name="subset kept, mean ± sd",
            error_y={"type": "data", "array": drawn["sd"], "color": ACCENT, "thickness": 1.6, "width": 4},
            marker={"symbol": "circle", "size": 9, "color": ACCENT},
            **shown,
        ),
        row=1,
        col=1,
    )
    for name, dash in (("intact", "solid"), ("none", "dash")):
        value = float(drawn[name].median())
        if math.isfinite(value):
            figure.add_hline(y=value, line={"color": INK, "width": 1, "dash": dash}, row=1, col=1)
            figure.add_annotation(
                text=f"{'intact' if name == 'intact' else 'none kept'} {value:z.2f}",
                **{"x": 1, "xref": "paper", "xanchor": "left", "xshift": 4, "y": value, "yref": "y"},
                **{"yanchor": "middle", "showarrow": False, "font": {"size": 12, "color": INK}},
            )
    figure.update_yaxes(title=label(panel.rsplit(", ", 1)[-1]), nticks=7, row=1, col=1)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, range=[-0.6, len(columns) - 0.3], row=1, col=1)


def _dots(figure: go.Figure, members: Sequence[Sequence[str]], factors: Sequence[str]) -> None:
    """Which factors a column keeps: dark dots, joined."""
    place = {factor: i for i, factor in enumerate(factors)}
    every = [(x, y) for x in range(len(members)) for y in range(len(factors))]
    kept = [(x, place[factor]) for x, own in enumerate(members) for factor in own]
    joined = [at for x, own in enumerate(members) for at in (*((x, place[f]) for f in own), (x, None))]
    for points, mode, color in ((every, "markers", NULL), (joined, "lines", INK), (kept, "markers", INK)):
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                mode=mode,
                showlegend=False,
                name="kept" if color == INK else "not kept",
                marker={"size": 11 if color == INK else 8, "color": color, "opacity": 1 if color == INK else 0.6},
                line={"color": color, "width": 2},
                hoverinfo="skip",
            ),
            row=2,
            col=1,
        )
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, showline=False, row=2, col=1)
    figure.update_yaxes(
        tickvals=list(range(len(factors))),
        ticktext=[label(factor) for factor in factors],
        range=[len(factors) - 0.5, -0.5],
        showgrid=False,
        showline=False,
        ticks="",
        row=2,
        col=1,
    )
