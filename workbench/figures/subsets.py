"""What subsets of factors do when they alone are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.checks import checked, chosen, each_once, records, undrawn, with_value
from workbench.figures.facets import list_undrawn, note_beside
from workbench.figures.factors import removed
from workbench.figures.marks import Look, marks, mean_sd, spread
from workbench.figures.style import ACCENT, INK, NULL, dressed, label, number, span

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
    each_once(rows, ["subset"], what)
    drawn = with_value(rows, "value", what).sort_values(["size", "value"], ascending=[True, False], kind="stable")
    title = f"{drawn['endpoint'].iloc[0]}, {drawn['metric'].iloc[0]}"
    members = [[part for part in subset.split("+") if part] for subset in drawn["subset"]]
    factors = sorted({factor for kept in members for factor in kept})
    columns = np.arange(len(drawn))
    matrix = max(40, 24 * len(factors))
    total = 300 + 24 + matrix
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[300, matrix], vertical_spacing=24 / total)
    _values(figure, drawn, title, columns)
    _dots(figure, members, factors)
    best = drawn.iloc[int(drawn["value"].argmax())]
    furthest = drawn["interaction"].abs()
    most = drawn.iloc[int(np.nanargmax(furthest))] if furthest.notna().any() else None
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
    dressed(figure, f"What factors do alone and together: {title}", subtitle, total, above=34, below=30, legend=True)
    figure.update_layout(margin={"r": 108})
    return list_undrawn(figure, undrawn(rows, drawn, ["endpoint", "metric"], "subset", "no value"))


def _values(figure: go.Figure, drawn: pd.DataFrame, title: str, columns: np.ndarray) -> None:
    hover = [
        f"{label(r.subset)} kept: {label(title)}<br>{mean_sd(r.value, r.sd, r.n_splits, 'splits')}<br>additive prediction "
        f"{number(r.additive)}, interaction {number(r.interaction)}<br>intact {number(r.intact)}, floor {number(r.none)}"
        for r in records(drawn)
    ]
    joined = [value for r in records(drawn) for value in (r.value, r.additive, None)]
    text = [f"{value:z.2f}" for value in drawn["value"]] if len(drawn) <= 20 else None
    line = {"color": _OTHER, "width": 1.2, "dash": "dot"}
    between = marks(
        np.repeat(columns, 3), joined, mode="lines", line=line, name="interaction", legend=True, legendrank=1002
    )
    marker = {"symbol": "diamond-open", "size": 10, "color": _OTHER, "line": {"width": 2}}
    named: Look = {"name": "additive prediction", "legend": True, "legendrank": 1001}
    expected = marks(columns, drawn["additive"], hover, marker=marker, **named)
    look: Look = {
        "mode": "markers+text" if text else "markers",
        "text": text,
        "textposition": "middle right",
        "textfont": {"size": 11, "color": INK},
        "marker": {"symbol": "circle", "size": 9, "color": ACCENT},
    }
    named = {"name": "subset kept, mean ± sd", "legend": True}
    found = marks(columns, drawn["value"], hover, error_y=spread(drawn["sd"]), **named, **look)
    figure.add_traces([between, expected, found], rows=1, cols=1)
    for name, dash in (("intact", "solid"), ("none", "dash")):
        value = float(drawn[name].median())
        if math.isfinite(value):
            figure.add_hline(y=value, line={"color": INK, "width": 1, "dash": dash}, row=1, col=1)
            said = f"{'intact' if name == 'intact' else 'none kept'} {value:z.2f}"
            at: Look = {"x": 1, "xshift": 4, "y": value, "yref": "y", "yanchor": "middle"}
            note_beside(figure, said, align=None, font={"size": 12, "color": INK}, **at)
    figure.update_yaxes(title=label(title.rsplit(", ", 1)[-1]), nticks=7, row=1, col=1)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, range=[-0.6, len(columns) - 0.3], row=1, col=1)


def _dots(figure: go.Figure, members: Sequence[Sequence[str]], factors: Sequence[str]) -> None:
    """Which factors a column keeps: dark dots, joined."""
    place = {factor: i for i, factor in enumerate(factors)}
    every = [(x, y) for x in range(len(members)) for y in range(len(factors))]
    kept = [(x, place[factor]) for x, own in enumerate(members) for factor in own]
    joined = [at for x, own in enumerate(members) for at in (*((x, place[f]) for f in own), (x, None))]
    for points, mode, color in ((every, "markers", NULL), (joined, "lines", INK), (kept, "markers", INK)):
        look: Look = {
            "name": "kept" if color == INK else "not kept",
            "marker": {"size": 11 if color == INK else 8, "color": color, "opacity": 1 if color == INK else 0.6},
            "line": {"color": color, "width": 2},
        }
        figure.add_trace(marks([x for x, _ in points], [y for _, y in points], mode=mode, **look), row=2, col=1)
    plain = {"showgrid": False, "showline": False, "ticks": "", "row": 2, "col": 1}
    figure.update_xaxes(showticklabels=False, **plain)
    ticks = {"tickvals": list(range(len(factors))), "ticktext": [label(factor) for factor in factors]}
    figure.update_yaxes(**ticks, range=[len(factors) - 0.5, -0.5], **plain)
