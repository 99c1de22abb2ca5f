"""The shape of a latent: dimension by every estimator, neighbourhoods over k, width, and distances against the ruler."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.checks import checked, records, refusal, with_value
from workbench.figures.facets import legend_on_top
from workbench.figures.forest import ROW
from workbench.figures.marks import SERIES, Look, interval, legend_keys, line_of, marks, spread
from workbench.figures.style import ACCENT, INK, NULL, OUTLINE, dressed, label, number, span

_ABOVE = 34
# With more pairs than this, spread is in the hover text only: bars would hide the points.
BARS_LIMIT = 120


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
        rows_at = [place[name] - shift for name in own["estimator"]]
        look: Look = {
            "marker": {"color": color, "symbol": symbol, "size": 10},
            "error_x": interval(own, "dimension", color=color),
        }
        figure.add_trace(marks(own["dimension"], rows_at, hover, name=label(space), legend=True, **look))
        figure.add_vline(x=median, line={"color": color, "width": 1, "dash": "dot"})
    if truth is not None:
        figure.add_vline(x=truth, line={"color": INK, "width": 2})
        stroke = {"symbol": "line-ns-open", "size": 14, "color": INK, "line": {"width": 2}}
        legend_keys(figure, [("planted truth", stroke)])
    subtitle = (
        f"n = {span(rows['n'])} points. Bars: 95 % by random halves of the points; bias of an estimator is not in them. Dotted: "
        f"median over estimators ({'; '.join(medians)})."
        + (f" Planted truth: {number(truth)}." if truth is not None else "")
    )
    dressed(figure, "Intrinsic dimension by every estimator", subtitle, ROW * len(order) + 60, above=_ABOVE)
    figure.update_xaxes(title="estimated dimension", rangemode="tozero")
    ticks = {"tickvals": list(place.values()), "ticktext": [label(name) for name in place]}
    figure.update_yaxes(**ticks, range=[-0.6, len(order) - 0.4], showgrid=False, ticks="")
    return legend_on_top(figure)


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
        Lines over k per space; the null is grey and dotted, what the gate asks for a line across.

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
            look = {
                "name": label(said if rows["space"].nunique() == 1 else f"{said}: {space}"),
                "line": {"color": shown, "dash": dash, "width": 2},
                "marker": {"symbol": symbol if name != "continuity" else f"{symbol}-open", "size": 8, "color": shown},
                "text": [f"{label(space)}<br>n = {number(n)}" for n in own["n"]],
            }
            hover = f"k = %{{x}}<br>{said} %{{y:.3f}}<br>%{{text}}"
            figure.add_trace(line_of(own["k"], own[name], hover, (color, symbol), **look))
    figure.add_hline(y=threshold, line={"color": INK, "width": 1, "dash": "longdash"})
    gate = {"x": 1, "xref": "paper", "xanchor": "right", "y": threshold, "yanchor": "top", "showarrow": False}
    figure.add_annotation(text=f"gate: {threshold:g}", **gate)
    subtitle = f"{'; '.join(dict.fromkeys(rows['space']))}; n = {span(rows['n'])} points."
    dressed(figure, "How well the latent keeps neighbourhoods", subtitle, 340, above=_ABOVE)
    figure.update_xaxes(title="neighbours k", rangemode="tozero")
    least = float(np.fmin(0.4, rows[["null", "trustworthiness"]].min().min()))
    figure.update_yaxes(title="share kept (1: all)", range=[least, 1.02])
    return legend_on_top(figure)


def let_elbow(table: pd.DataFrame) -> go.Figure:
    """Objective and trustworthiness of the adaptor against the width of its latent.

    Parameters
    ----------
    table
        `k`, `stress`, `reconstruction`, `trustworthiness`, `n_anchors`.

    Returns
    -------
    plotly.graph_objects.Figure
        Two facets above each other, on one axis of k.

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
    for name, values, series, row in lines:
        figure.add_trace(
            line_of(rows["k"], values, f"k = %{{x}}<br>{name} %{{y:.4f}}", series, name=name), row=row, col=1
        )
    subtitle = (
        f"Fitted and judged on the same n = {span(rows['n_anchors'])} anchors, so the objective can only fall: look for the bend, "
        "not for the lowest point."
    )
    dressed(figure, "Width of the latent", subtitle, 430, above=_ABOVE)
    figure.update_xaxes(title="width k of the latent", dtick=1, row=2, col=1)
    figure.update_yaxes(title="objective", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="trustworthiness", row=2, col=1)
    return legend_on_top(figure)


def ruler_against_latent(table: pd.DataFrame) -> go.Figure:
    """Scatter of the ruler's distance against the angular distance in the latent, one mark per pair of stages.

    Parameters
    ----------
    table
        One row per pair of stages: `stage_a`, `stage_b`, `ruler_distance`, `latent`, `latent_sd`, `n_pairs` (pairs of
        anchors).

    Returns
    -------
    plotly.graph_objects.Figure
        Marks with an area by `n_pairs` and no jitter, and the mean at each ruler distance, weighted by `n_pairs`.

    Raises
    ------
    EvaluationError
        If a column is missing, or no pair has both distances.
    """
    pairs = checked(
        table, "distance figure", ["stage_a", "stage_b"], ["ruler_distance", "latent", "latent_sd", "n_pairs"]
    )
    drawn = pairs[np.isfinite(pairs["ruler_distance"]) & np.isfinite(pairs["latent"]) & (pairs["n_pairs"] > 0)]
    if drawn.empty:
        raise refusal("distance figure", "no row has 'ruler', 'latent' and 'n_pairs' above zero.")
    # Large marks first, so that small ones lie on top and can be pointed at.
    drawn = drawn.sort_values(["n_pairs", "stage_a", "stage_b"], ascending=[False, True, True])
    hover = [
        f"{label(row.stage_a)} – {label(row.stage_b)}<br>ruler {number(row.ruler_distance)}<br>"
        f"latent {number(row.latent)} ± {number(row.latent_sd)} (sd)<br>n = {number(row.n_pairs)} anchor pairs"
        for row in records(drawn)
    ]
    around = spread(drawn["latent_sd"], color="rgba(31, 78, 121, 0.35)", thickness=1, width=0)
    around["visible"] = len(drawn) <= BARS_LIMIT
    area = {"sizemode": "area", "sizeref": 2.0 * drawn["n_pairs"].max() / 22.0**2, "sizemin": 4}
    marker = {
        "color": ACCENT,
        "opacity": 0.65,
        "line": {"color": OUTLINE, "width": 0.6},
        "size": drawn["n_pairs"],
        **area,
    }
    named: Look = {"name": "pair of stages", "legend": True}
    figure = go.Figure(marks(drawn["ruler_distance"], drawn["latent"], hover, error_y=around, marker=marker, **named))
    by_ruler = drawn.groupby("ruler_distance")
    mean = by_ruler.apply(lambda g: float(np.average(g["latent"], weights=g["n_pairs"])), include_groups=False)
    look: Look = {
        "line": {"color": INK, "width": 1.5, "dash": "dot"},
        "marker": {"symbol": "line-ew-open", "size": 16, "color": INK, "line": {"width": 2}},
        "text": [f"{number(n)} anchor pairs" for n in by_ruler["n_pairs"].sum()],
    }
    named = {"name": "mean at that ruler distance", "legend": True}
    said = "ruler %{x}<br>mean latent %{y:.3f}<br>n = %{text}"
    figure.add_trace(marks(mean.index, mean, said, mode="lines+markers", **named, **look))
    lost = len(pairs) - len(drawn)
    subtitle = (
        f"n = {len(drawn):,} pairs of stages, {number(drawn['n_pairs'].sum())} pairs of anchors; area: anchor pairs "
        f"({span(drawn['n_pairs'])})"
        + ("; bars: sd over anchor pairs" if len(drawn) <= BARS_LIMIT else "")
        + (f"; {lost} pairs without a distance are not drawn" if lost else "")
        + ". Pairs that share a stage are not independent."
    )
    dressed(figure, "Latent angular distance against the ruler", subtitle, 400, above=30)
    figure.update_xaxes(title="ruler: distance of the two stages in development", rangemode="tozero")
    figure.update_yaxes(title="latent angular distance", rangemode="tozero")
    return legend_on_top(figure)
