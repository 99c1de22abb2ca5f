"""The benchmark, endpoint by endpoint: every method's scores, and what ours is better or worse by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.added import heading_of, legend_above, list_undrawn, once, panel_grid
from workbench.figures.heatmap import ALPHA
from workbench.figures.panels import legend_keys
from workbench.figures.style import INK, QUIET, RULE, checked, dressed, label, number, records, span, with_value

ROW = 19
_AXIS = 66
# Okabe & Ito's colours, which stay apart under colour blindness; what was extracted is in the accent of all figures.
GROUP_COLORS = {
    "extracted": "#1f4e79",
    "compact": "#56B4E9",
    "control": "#8c8c94",
    "baseline": "#E69F00",
    "scGPT": "#009E73",
    "layers": "#7fc9ae",
    "peer": "#CC79A7",
}


def benchmark_endpoints(summary: pd.DataFrame, scores: pd.DataFrame) -> go.Figure:
    """Scores of every method, one panel per endpoint metric: the mean over splits with its sd, and every split.

    Parameters
    ----------
    summary
        `method`, `group`, `endpoint`, `metric`, `better`, `value`, `sd`, `n_splits`, `status`, of one kind of split.
    scores
        `method`, `endpoint`, `metric`, `split`, `scope`, `value`; rows of the scope `all` are drawn as small dots.

    Returns
    -------
    plotly.graph_objects.Figure
        Rows are methods in the order of the table, coloured by group; what was not run, or is undefined, is listed.

    Raises
    ------
    EvaluationError
        If a column is missing, a method is in a panel twice, or no value is finite.
    """
    what = "figure of the benchmark"
    text = ["method", "group", "endpoint", "metric", "better", "status"]
    rows = checked(summary, what, text, ["value", "sd", "n_splits"])
    once(rows, ["endpoint", "metric", "method"], what)
    drawn = with_value(rows, "value", what)
    dots = checked(scores, what, ["method", "endpoint", "metric", "scope"], ["value"])
    dots = dots[(dots["scope"] == "all") & np.isfinite(dots["value"])]
    order = [name for name in dict.fromkeys(rows["method"]) if name in set(drawn["method"])]
    group = dict(zip(rows["method"], rows["group"], strict=True))
    drawn["hover"] = [
        f"{label(r.method)} ({label(r.group)})<br>{label(r.endpoint)}, {label(r.metric)}: {number(r.value)} ± {number(r.sd)}<br>"
        f"sd over n = {number(r.n_splits)} splits"
        for r in records(drawn)
    ]
    parts = list(drawn.groupby(["endpoint", "metric", "better"], sort=False))
    titles = [
        heading_of(str(endpoint), f"{metric}, {better} is better", f"n = {span(part['n_splits'])} splits", width=26)
        for (endpoint, metric, better), part in parts
    ]
    figure, total, above = panel_grid(titles, ROW * len(order) + 16)
    for i, ((endpoint, metric, _), part) in enumerate(parts):
        at = {"row": i // 3 + 1, "col": i % 3 + 1}
        own = dots[(dots["endpoint"] == endpoint) & (dots["metric"] == metric) & dots["method"].isin(part["method"])]
        figure.add_trace(
            go.Scatter(
                x=own["value"],
                y=[label(name) for name in own["method"]],
                mode="markers",
                marker={"color": [_color(group.get(name, "")) for name in own["method"]], "size": 4, "opacity": 0.45},
                hoverinfo="skip",
                showlegend=False,
            ),
            **at,
        )
        colors = [_color(name) for name in part["group"]]
        for color in dict.fromkeys(colors):
            kept = part[[one == color for one in colors]]
            figure.add_trace(
                go.Scatter(
                    x=kept["value"],
                    y=[label(name) for name in kept["method"]],
                    error_x={"array": kept["sd"], "color": color, "thickness": 1.5, "width": 3},
                    mode="markers",
                    marker={"color": color, "size": 8, "symbol": "diamond"},
                    hovertext=kept["hover"],
                    hoverinfo="text",
                    showlegend=False,
                ),
                **at,
            )
        figure.update_xaxes(title=label(metric), nticks=6, **at)
        _methods(figure, order, at)
    groups = [name for name in dict.fromkeys(rows["group"]) if name in {group[one] for one in order}]
    legend_keys(figure, [(label(name), {"color": _color(name), "size": 9, "symbol": "diamond"}) for name in groups])
    subtitle = (
        f"Cells that nothing was fitted on: mean ± sd over splits (n = {span(drawn['n_splits'])}), which overlap, so that the sd "
        "understates the uncertainty; small dots: single splits."
    )
    dressed(figure, "Every method, endpoint by endpoint", subtitle, total, above=above, below=_AXIS)
    legend_above(figure, total, above)
    return list_undrawn(figure, _reasons(rows.drop(index=drawn.index)))


def benchmark_differences(comparisons: pd.DataFrame) -> go.Figure:
    """What ours is better by than each method, one panel per endpoint metric.

    Parameters
    ----------
    comparisons
        `ours`, `method`, `endpoint`, `metric`, `ours_value`, `value`, `difference` (above 0: ours is better), `low`, `high`,
        `interval`, `n_splits`, `effect`, `p`, `q`, `outcome`, of one kind of split.

    Returns
    -------
    plotly.graph_objects.Figure
        Filled where q <= 0.05.

    Raises
    ------
    EvaluationError
        If a column is missing, a method is in a panel twice, or no difference is finite.
    """
    what = "figure of differences"
    numeric = ["ours_value", "value", "difference", "low", "high", "n_splits", "effect", "p", "q"]
    rows = checked(comparisons, what, ["ours", "method", "endpoint", "metric", "interval", "outcome"], numeric)
    once(rows, ["endpoint", "metric", "method"], what)
    drawn = with_value(rows, "difference", what)
    ours = rows["ours"].iloc[0]
    drawn["hover"] = [
        f"{label(r.endpoint)}, {label(r.metric)}<br>{label(ours)} {number(r.ours_value)}, {label(r.method)} {number(r.value)}<br>difference "
        f"{number(r.difference)} ({number(r.low)} to {number(r.high)}: {label(r.interval)})<br>rank-biserial {number(r.effect)}, n = "
        f"{number(r.n_splits)} splits<br>p = {number(r.p)}, q = {number(r.q)}: {label(r.outcome)}"
        for r in records(drawn)
    ]
    order = [name for name in dict.fromkeys(rows["method"]) if name in set(drawn["method"])]
    parts = list(drawn.groupby(["endpoint", "metric"], sort=False))
    titles = [
        heading_of(
            str(endpoint),
            str(metric),
            f"ours {span(part['ours_value'].round(3))}, n = {span(part['n_splits'])} splits",
            width=26,
        )
        for (endpoint, metric), part in parts
    ]
    figure, total, above = panel_grid(titles, ROW * len(order) + 16)
    for i, (_, part) in enumerate(parts):
        at = {"row": i // 3 + 1, "col": i % 3 + 1}
        for outcome, color in (("win", "#0072B2"), ("tie", QUIET), ("loss", "#D55E00")):
            kept = part[part["outcome"] == outcome]
            figure.add_trace(
                go.Scatter(
                    x=kept["difference"],
                    y=[label(name) for name in kept["method"]],
                    error_x={
                        "array": kept["high"] - kept["difference"],
                        "arrayminus": kept["difference"] - kept["low"],
                        "color": color,
                        "thickness": 1.5,
                        "width": 3,
                    },
                    mode="markers",
                    marker={
                        "color": color,
                        "size": 8,
                        "symbol": "circle-open" if outcome == "tie" else "circle",
                        "line": {"width": 2},
                    },
                    hovertext=kept["hover"],
                    hoverinfo="text",
                    showlegend=False,
                ),
                **at,
            )
        figure.update_xaxes(title="ours minus method", nticks=6, zeroline=True, zerolinecolor=INK, **at)
        _methods(figure, order, at)
    keys = [
        (f"ours better, q ≤ {ALPHA:g}", {"color": "#0072B2", "symbol": "circle"}),
        ("no sure difference", {"color": QUIET, "symbol": "circle-open", "line": {"width": 2}}),
        (f"ours worse, q ≤ {ALPHA:g}", {"color": "#D55E00", "symbol": "circle"}),
    ]
    legend_keys(figure, [(name, {**marker, "size": 9}) for name, marker in keys])
    counts = {name: int((drawn["outcome"] == name).sum()) for name in ("win", "tie", "loss")}
    subtitle = (
        f"Mean difference over the same splits, right of 0: {ours} is better (signs turned where lower is better). Bars: 95 %, "
        f"{' or '.join(sorted({one for one in drawn['interval'] if one != 'none'})) or 'none'}. Null: no difference, two-sided Wilcoxon over splits, "
        f"Benjamini-Hochberg over the endpoint metrics of a method. Of {len(drawn)}: {counts['win']} better, {counts['tie']} no sure "
        f"difference, {counts['loss']} worse."
    )
    dressed(figure, f"{ours} less each other method", subtitle, total, above=above, below=_AXIS)
    legend_above(figure, total, above)
    lost = rows.drop(index=drawn.index).assign(status="no split in which both have a value")
    return list_undrawn(figure, _reasons(lost))


def _methods(figure: go.Figure, order: Sequence[str], at: Mapping[str, int]) -> None:
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=[label(name) for name in reversed(order)],
        range=[-0.6, len(order) - 0.4],
        gridcolor=RULE,
        ticks="",
        tickfont={"size": 11},
        dtick=1,
        **at,
    )


def _reasons(lost: pd.DataFrame) -> list[str]:
    """One sentence for each reason: the methods and endpoints that have no value."""
    notes = []
    for status, part in lost.groupby("status", sort=False):
        by_place: dict[str, list[str]] = {}
        for place, own in part.groupby(["endpoint", "metric"], sort=False):
            by_place.setdefault(", ".join(f"'{name}'" for name in own["method"]), []).append(" ".join(map(str, place)))
        for names, places in by_place.items():
            n = names.count("',") + 1
            who = names if n <= 6 else f"{n} methods"
            where = ", ".join(places) if len(places) <= 4 else f"{len(places)} endpoint metrics"
            notes.append(f"{where} ({who}): {status}")
    return notes


def _color(group: str) -> str:
    return GROUP_COLORS.get(group, QUIET)


def group_color(group: str) -> str:
    """Colour of a group of methods, the same in every figure.

    Parameters
    ----------
    group
        As in ``methods.csv``.
    """
    return _color(group)
