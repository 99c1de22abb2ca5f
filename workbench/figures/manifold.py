"""The shape of a latent: dimension by every estimator, neighbourhoods over k, the width of the adaptor, lineages."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import EvaluationError
from workbench.figures.panels import ROW_HEIGHT, Panel, legend_keys, point_panels
from workbench.figures.style import ACCENT, INK, NULL, checked, dressed, label, number, records, span, with_value

SERIES = ((ACCENT, "circle"), ("#CC6677", "square"), ("#117733", "diamond"), ("#AA4499", "triangle-up"))
_ABOVE = 34


def dimension_agreement(table: pd.DataFrame, truth: float | None = None) -> go.Figure:
    """Intrinsic dimension by every estimator, with intervals, for one or several point clouds.

    Parameters
    ----------
    table
        `space`, `estimator`, `note`, `dimension`, `low`, `high`, `n`, `k`; one row per cloud and estimator.
    truth
        Dimension that is known because it was planted.

    Returns
    -------
    plotly.graph_objects.Figure
        Points with 95 % intervals, one colour and mark per cloud, and the median over estimators of each as a line.

    Raises
    ------
    EvaluationError
        If a column is missing, or no estimate is finite.
    """
    numeric = ["dimension", "low", "high", "n", "k"]
    rows = checked(table, "figure of dimensions", ["space", "estimator", "note"], numeric)
    rows = with_value(rows, "dimension", "figure of dimensions")
    order = list(dict.fromkeys(rows["estimator"]))
    place = {name: i for i, name in enumerate(reversed(order))}
    spaces = list(dict.fromkeys(rows["space"]))
    figure, medians = go.Figure(), []
    for i, space in enumerate(spaces):
        own, (color, symbol) = rows[rows["space"] == space], SERIES[i % len(SERIES)]
        median = float(own["dimension"].median())
        medians.append(f"{space} {number(median)}")
        shift = 0.18 * (i - (len(spaces) - 1) / 2)
        hover = [
            f"{label(row.estimator)}<br>{label(space)}<br>dimension {number(row.dimension)} ({number(row.low)} to "
            f"{number(row.high)})<br>n = {number(row.n)} points, k = {number(row.k)}<br>{label(row.note)}"
            for row in records(own)
        ]
        figure.add_trace(
            go.Scatter(
                x=own["dimension"],
                y=[place[name] - shift for name in own["estimator"]],
                mode="markers",
                name=label(space),
                marker={"color": color, "symbol": symbol, "size": 10},
                error_x={
                    "type": "data",
                    "array": own["high"] - own["dimension"],
                    "arrayminus": own["dimension"] - own["low"],
                    "color": color,
                    "thickness": 1.6,
                    "width": 4,
                },
                text=hover,
                hovertemplate="%{text}<extra></extra>",
            )
        )
        figure.add_vline(x=median, line={"color": color, "width": 1, "dash": "dot"})
    if truth is not None:
        figure.add_vline(x=truth, line={"color": INK, "width": 2})
        legend_keys(
            figure, [("planted truth", {"symbol": "line-ns-open", "size": 14, "color": INK, "line": {"width": 2}})]
        )
    subtitle = (
        f"n = {span(rows['n'])} points. Bars: 95 % by random halves of the points; bias of an estimator is not in them. Dotted: "
        f"median over estimators ({'; '.join(medians)})."
        + (f" Planted truth: {number(truth)}." if truth is not None else "")
    )
    dressed(figure, "Intrinsic dimension by every estimator", subtitle, ROW_HEIGHT * len(order) + 60, above=_ABOVE)
    figure.update_xaxes(title="estimated dimension", rangemode="tozero")
    figure.update_yaxes(
        tickvals=list(place.values()),
        ticktext=[label(name) for name in place],
        range=[-0.6, len(order) - 0.4],
        showgrid=False,
        ticks="",
    )
    return _legend(figure)


def trust_curve(table: pd.DataFrame, threshold: float = 0.80) -> go.Figure:
    """Trustworthiness and continuity over neighbourhood sizes, beside a permuted latent.

    Parameters
    ----------
    table
        `space`, `k`, `trustworthiness`, `continuity`, `null` (trustworthiness with the latent's rows permuted), `n`.
    threshold
        Least trustworthiness that the gate asks for, drawn as a line.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    rows = checked(table, "trust curve", ["space"], ["k", "trustworthiness", "continuity", "null", "n"])
    rows = with_value(rows, "trustworthiness", "trust curve")
    figure = go.Figure()
    for i, (space, own) in enumerate(rows.groupby("space", sort=False)):
        own, (color, symbol) = own.sort_values("k"), SERIES[i % len(SERIES)]
        for name, dash in (("trustworthiness", "solid"), ("continuity", "dash"), ("null", "dot")):
            if not np.isfinite(own[name]).any():
                continue
            said = "trustworthiness, rows permuted" if name == "null" else name
            shown = NULL if name == "null" else color
            figure.add_trace(
                go.Scatter(
                    x=own["k"],
                    y=own[name],
                    mode="lines+markers",
                    name=label(said if rows["space"].nunique() == 1 else f"{said}: {space}"),
                    line={"color": shown, "dash": dash, "width": 2},
                    marker={"symbol": symbol if name != "continuity" else f"{symbol}-open", "size": 8, "color": shown},
                    text=[f"{label(space)}<br>n = {number(n)}" for n in own["n"]],
                    hovertemplate="k = %{x}<br>" + said + " %{y:.3f}<br>%{text}<extra></extra>",
                )
            )
    figure.add_hline(y=threshold, line={"color": INK, "width": 1, "dash": "longdash"})
    figure.add_annotation(
        x=1, xref="paper", xanchor="right", y=threshold, yanchor="top", text=f"gate: {threshold:g}", showarrow=False
    )
    subtitle = f"{'; '.join(dict.fromkeys(rows['space']))}; n = {span(rows['n'])} points."
    dressed(figure, "How well the latent keeps neighbourhoods", subtitle, 340, above=_ABOVE)
    figure.update_xaxes(title="neighbours k", rangemode="tozero")
    figure.update_yaxes(
        title="share kept (1: all)", range=[min(0.4, *_finite(rows, ["null", "trustworthiness"])), 1.02]
    )
    return _legend(figure)


def let_elbow(table: pd.DataFrame) -> go.Figure:
    """Objective and trustworthiness of the adaptor against the width of its latent.

    Parameters
    ----------
    table
        `k`, `stress`, `reconstruction`, `trustworthiness`, `n_anchors`.

    Returns
    -------
    plotly.graph_objects.Figure
        Two panels above each other, on one axis of k.

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    rows = checked(table, "elbow", numeric=["k", "stress", "reconstruction", "trustworthiness", "n_anchors"])
    rows = with_value(rows, "stress", "elbow").sort_values("k")
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    lines = (
        ("objective (both terms)", rows["stress"] + rows["reconstruction"], SERIES[0], 1),
        ("stress: angles against the ruler", rows["stress"], SERIES[1], 1),
        ("reconstruction of f(x)", rows["reconstruction"], SERIES[2], 1),
        ("trustworthiness", rows["trustworthiness"], SERIES[3], 2),
    )
    for name, values, (color, symbol), row in lines:
        figure.add_trace(
            go.Scatter(
                x=rows["k"],
                y=values,
                mode="lines+markers",
                name=name,
                line={"color": color, "width": 2},
                marker={"symbol": symbol, "size": 8},
                hovertemplate="k = %{x}<br>" + name + " %{y:.4f}<extra></extra>",
            ),
            row=row,
            col=1,
        )
    subtitle = (
        f"Fitted and judged on the same n = {span(rows['n_anchors'])} anchors, so the objective can only fall: look for the bend, "
        "not for the lowest point."
    )
    dressed(figure, "Width of the latent", subtitle, 430, above=_ABOVE)
    figure.update_xaxes(title="width k of the latent", dtick=1, row=2, col=1)
    figure.update_yaxes(title="objective", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="trustworthiness", row=2, col=1)
    return _legend(figure)


def trajectories(table: pd.DataFrame) -> go.Figure:
    """Progress along known lineages against depth, with the null of permuted depths.

    Parameters
    ----------
    table
        `lineage`, `root`, `stages`, `status`, `spearman`, `p`, `q`, `null_mean`, `null_high`, `n_anchors`, `n_depths`. Rows
        whose status is not `ok` are listed, not drawn.

    Returns
    -------
    plotly.graph_objects.Figure

    Raises
    ------
    EvaluationError
        If a column is missing, or no lineage has a value.
    """
    numeric = ["spearman", "p", "q", "null_mean", "null_high", "n_anchors", "n_depths"]
    rows = checked(table, "figure of lineages", ["lineage", "root", "stages", "status"], numeric)
    lost = [f"{row.lineage}: {row.status}" for row in records(rows) if row.status != "ok"]
    drawn = rows[(rows["status"] == "ok") & np.isfinite(rows["spearman"])].copy()
    if drawn.empty:
        raise EvaluationError(f"The figure of lineages cannot be drawn: {'; '.join(lost) or 'no lineage has a value'}.")
    drawn["row"], drawn["value"], drawn["sd"] = drawn["lineage"], drawn["spearman"], np.nan
    drawn["null_from"] = np.minimum(drawn["null_mean"], drawn["null_high"])
    drawn["hover"] = [
        f"{label(row.lineage)}: {label(row.stages)}<br>Spearman {number(row.spearman)}, p = {number(row.p)}, q = "
        f"{number(row.q)}<br>n = {number(row.n_anchors)} anchors at {number(row.n_depths)} depths, from {label(row.root)}<br>"
        f"null, upper bound {number(row.null_high)}"
        for row in records(drawn)
    ]
    low = min(-0.1, *(_finite(drawn, ["value", "null_mean"])))
    panel = Panel("Progress against depth", f"{span(drawn['n_anchors'])} anchors", "Spearman", drawn, (low - 0.05, 1.1))
    subtitle = (
        f"n = {len(drawn)} lineages. Progress: angle from the earliest stage; the branch was left out when the adaptor was fitted. "
        "Null: depths permuted inside blocks. Smallest q: "
        f"{number(drawn['q'].min())}."
    )
    return point_panels(
        [panel],
        list(drawn["lineage"]),
        "Known lineages",
        subtitle,
        columns=1,
        notes=lost,
        mark="all anchors of the branch",
    )


def _finite(rows: pd.DataFrame, columns: list[str]) -> list[float]:
    values = rows[columns].to_numpy(dtype=float).ravel()
    return values[np.isfinite(values)].tolist() or [1.0]


def _legend(figure: go.Figure) -> go.Figure:
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"}
    return figure.update_layout(legend=legend)
