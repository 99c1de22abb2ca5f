"""The benchmark, endpoint by endpoint: every method's scores, and what ours is better or worse by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, with_value
from workbench.figures.facets import AXIS, facets, heading_of, lines_of, list_undrawn, named_rows
from workbench.figures.forest import zero_axis
from workbench.figures.marks import ALPHA, Key, Look, interval, legend_keys, marks, p_and_q, spread
from workbench.figures.style import ACCENT, INK, QUIET, RULE, dressed, label, number, span

BETTER, WORSE = ACCENT, "#D55E00"
_OUTCOMES = {"win": (BETTER, "circle"), "loss": (WORSE, "circle")}
PLACE = ("kind", "data")
_ROW = 19
# What was extracted is in the accent of all figures, most others in colours of Okabe & Ito, which stay apart under colour
# blindness; each group has a mark of its own as well.
_GROUPS = {
    "extracted": (ACCENT, "diamond"),
    "compact": ("#8073AC", "diamond-open"),
    "control": ("#8c8c94", "x"),
    "baseline": ("#E69F00", "square"),
    "scGPT": ("#009E73", "circle"),
    "layers": ("#7fc9ae", "circle-open"),
    "peer": ("#CC79A7", "triangle-up"),
    "own": ("#56B4E9", "star"),
}


def benchmark_endpoints(summary: pd.DataFrame, scores: pd.DataFrame, ours: str = "") -> go.Figure:
    """Scores of every method, one facet per endpoint metric: the mean over splits with its sd, and every split.

    Parameters
    ----------
    summary
        `method`, `group`, `kind`, `data`, `endpoint`, `metric`, `better`, `value`, `sd`, `n_splits`, `status`, of one kind of
        split.
    scores
        `method`, `endpoint`, `metric`, `scope`, `value` of the same; rows of the scope `all` are drawn as small dots.
    ours
        The method whose name is bold and whose mean is a line through each facet.

    Returns
    -------
    plotly.graph_objects.Figure
        Rows are methods by group, in the order of the table; what was not run, or is undefined, is listed.

    Raises
    ------
    EvaluationError
        If a column is missing, a method is in a facet twice, or no value is finite.
    """
    what = "figure of the benchmark"
    text = ["method", "group", *PLACE, "endpoint", "metric", "better", "status"]
    rows = checked(summary, what, text, ["value", "sd", "n_splits"], once=["endpoint", "metric", "method"])
    drawn = with_value(rows, "value", what)
    dots = checked(scores, what, ["method", "endpoint", "metric", "scope"], ["value"])
    dots = dots[(dots["scope"] == "all") & np.isfinite(dots["value"])]
    drawn["hover"] = [
        f"{label(r.method)} ({label(r.group)})<br>{label(r.endpoint)}, {label(r.metric)}: {number(r.value)} ± {number(r.sd)}<br>"
        f"sd over n = {number(r.n_splits)} splits"
        for r in records(drawn)
    ]
    group = dict(zip(rows["method"], rows["group"], strict=True))
    there = set(drawn["method"])
    order = sorted((name for name in group if name in there), key=lambda name: _place(group[name]))
    shown = names(order, ours)
    parts, figure, places, total, above = _facets(drawn, len(order), "")
    for (endpoint, metric, part), at in zip(parts, places, strict=True):
        own = dots[(dots["endpoint"] == endpoint) & (dots["metric"] == metric) & dots["method"].isin(part["method"])]
        marker = {"color": [group_color(group[name]) for name in own["method"]], "size": 4, "opacity": 0.45}
        figure.add_trace(marks(own["value"], own["method"].map(shown), name="splits", marker=marker), **at)
        for name, kept in part.groupby("group", sort=False):
            color, symbol = _mark(str(name))
            marker = {"color": color, "size": 8, "symbol": symbol, "line": {"color": color, "width": 1.6}}
            around = spread(kept["sd"], color=color, thickness=1.5, width=3)
            look: Look = {"name": label(name), "marker": marker, "error_x": around}
            figure.add_trace(marks(kept["value"], kept["method"].map(shown), kept["hover"], **look), **at)
        for value in part.loc[part["method"] == ours, "value"]:
            figure.add_vline(value, line={"color": ACCENT, "width": 1, "dash": "dot"}, layer="below", **at)
        figure.update_xaxes(title=label(metric), nticks=6, **at)
    _methods(figure, shown)
    keys = [(label(name), name) for name in sorted({group[one] for one in order}, key=_place)]
    entries = [(name, {"color": _mark(of)[0], "size": 9, "symbol": _mark(of)[1]}) for name, of in keys]
    if ours in there:
        line = {"color": ACCENT, "width": 1.5}
        entries.append((f"mean of {label(ours)}", {"symbol": "line-ns", "size": 12, "color": ACCENT, "line": line}))
    legend_keys(figure, entries)
    above += 20 * (len(entries) > 5)
    subtitle = (
        f"{place_of(rows)}: cells that nothing was fitted on, mean ± sd over splits (n = {span(drawn['n_splits'])}); where splits "
        "overlap the sd understates the uncertainty. Small dots: single splits."
    )
    dressed(figure, "Every method, endpoint by endpoint", subtitle, total, above=above, below=AXIS, legend=True)
    return list_undrawn(figure, _reasons(rows.drop(index=drawn.index)))


def benchmark_differences(comparisons: pd.DataFrame) -> go.Figure:
    """What ours is better by than each method, one facet per endpoint metric.

    Parameters
    ----------
    comparisons
        `ours`, `method`, `kind`, `data`, `endpoint`, `metric`, `better`, `ours_value`, `value`, `difference` (above 0: ours is
        better), `low`, `high`, `test`, `n_splits`, `detectable`, `effect`, `p`, `q`, `outcome`, `p_wilcoxon`, of one kind of split.

    Returns
    -------
    plotly.graph_objects.Figure
        Filled where q <= 0.05; what has no difference is listed.

    Raises
    ------
    EvaluationError
        If a column is missing, a method is in a facet twice, or no difference is finite.
    """
    what = "figure of differences"
    numeric = [
        "ours_value",
        "value",
        "difference",
        "low",
        "high",
        "n_splits",
        "detectable",
        "effect",
        "p",
        "q",
        "p_wilcoxon",
    ]
    text = ["ours", "method", *PLACE, "endpoint", "metric", "better", "test", "outcome"]
    rows = checked(comparisons, what, text, numeric, once=["endpoint", "metric", "method"])
    drawn = with_value(rows, "difference", what)
    ours = rows["ours"].iloc[0]
    drawn["hover"] = [
        f"{label(r.endpoint)}, {label(r.metric)}<br>{label(ours)} {number(r.ours_value)}, {label(r.method)} {number(r.value)}<br>difference "
        f"{number(r.difference)} ({number(r.low)} to {number(r.high)}: {label(r.test)})<br>rank-biserial {number(r.effect)}, n = "
        f"{number(r.n_splits)} splits<br>{p_and_q(r)}: {label(r.outcome)}<br>a difference of {number(r.detectable)} would "
        f"have been found in four of five<br>Wilcoxon over splits p = {number(r.p_wilcoxon)}, too small where splits share cells"
        for r in records(drawn)
    ]
    order = [name for name in dict.fromkeys(rows["method"]) if name in set(drawn["method"])]
    shown = names(order)
    parts, figure, places, total, above = _facets(drawn, len(order), "ours_value")
    for (_, _, part), at in zip(parts, places, strict=True):
        for outcome, kept in part.groupby("outcome", sort=False):
            color, symbol = _OUTCOMES.get(str(outcome), (QUIET, "circle-open"))
            marker = {"color": color, "size": 8, "symbol": symbol, "line": {"color": color, "width": 2}}
            around = interval(kept, "difference", color=color, thickness=1.5, width=3)
            look: Look = {"name": outcome, "marker": marker, "error_x": around}
            figure.add_trace(marks(kept["difference"], kept["method"].map(shown), kept["hover"], **look), **at)
        axis = zero_axis("ours better →", part[["difference", "low", "high"]], 0.07)
        figure.update_xaxes(**axis, zerolinecolor=INK, **at)
    _methods(figure, shown)
    keys: list[Key] = [
        (f"ours better, q ≤ {ALPHA:g}", {"color": BETTER, "symbol": "circle"}),
        ("no sure difference", {"color": QUIET, "symbol": "circle-open", "line": {"width": 2}}),
        (f"ours worse, q ≤ {ALPHA:g}", {"color": WORSE, "symbol": "circle"}),
    ]
    legend_keys(figure, [(name, {**marker, "size": 9}) for name, marker in keys])
    counts = drawn["outcome"].value_counts()
    bars = " or ".join(sorted(set(drawn["test"]) - {"none"})) or "none"
    subtitle = (
        f"{place_of(rows)}: {ours} less each method, mean over the same splits; right of 0 ours is better, whichever side is better "
        f"of the metric. Bars: 95 %, {bars}. Null: no difference (the same test, Benjamini-Hochberg over the endpoint "
        f"metrics of a method). Of {len(drawn)}: {counts.get('win', 0)} better, {counts.get('tie', 0)} no sure difference, "
        f"{counts.get('loss', 0)} worse."
    )
    dressed(figure, f"{ours} less each other method", subtitle, total, above=above, below=AXIS, legend=True)
    lost = rows.drop(index=drawn.index).assign(status="no split in which both have a value")
    return list_undrawn(figure, _reasons(lost))


def names(methods: Sequence[str], ours: str = "") -> dict[str, str]:
    """Methods as the axis of a figure writes them.

    Parameters
    ----------
    methods
        Names of methods as tables have them, each once.
    ours
        Name that is set in bold; none where it is empty.
    """
    return {name: f"<b>{label(name)}</b>" if name == ours else label(name) for name in methods}


def place_of(rows: pd.DataFrame) -> str:
    """Kind of split and data that a checked table is about, as the first words of a subtitle.

    Parameters
    ----------
    rows
        Table from `checked` with the columns `kind` and `data`.
    """
    said = " and ".join(dict.fromkeys(f"{kind}, {data}" for kind, data in zip(rows["kind"], rows["data"], strict=True)))
    return said[:1].upper() + said[1:]


def group_color(group: str) -> str:
    """Colour of a group of methods, the same in every figure.

    Parameters
    ----------
    group
        Group as in the column `group` of ``methods.csv``; an unknown one is grey.
    """
    return _mark(group)[0]


def _mark(group: str) -> tuple[str, str]:
    return _GROUPS.get(group, (QUIET, "cross"))


def _place(group: str) -> int:
    return list(_GROUPS).index(group) if group in _GROUPS else len(_GROUPS)


def _facets(drawn: pd.DataFrame, n: int, ours: str) -> tuple[list[Any], go.Figure, list[Any], int, int]:
    """A facet per endpoint metric, whose heading has ours where a column holds it; pixels of all, and above them."""
    parts, titles = [], []
    for (endpoint, metric, better), part in drawn.groupby(["endpoint", "metric", "better"], sort=False):
        note = f"n = {span(part['n_splits'])} splits"
        note = f"ours {span(part[ours].round(3))}, {note}" if ours else note
        titles.append(heading_of(str(endpoint), f"{metric}, {better} is better", note, width=26))
        parts.append((endpoint, metric, part))
    head = lines_of(titles) + 10
    return parts, *facets(titles, _ROW * n + 16, 3, head + AXIS), head + 34


def _methods(figure: go.Figure, shown: Mapping[str, str]) -> None:
    named_rows(figure, list(shown.values()), showgrid=None, gridcolor=RULE, tickfont={"size": 11}, dtick=1)


def _reasons(lost: pd.DataFrame) -> list[str]:
    """One sentence for each reason and each set of methods: the endpoint metrics of which they have no value."""
    notes = []
    for status, part in lost.groupby("status", sort=False):
        places: dict[tuple[str, ...], list[str]] = {}
        for place, own in part.groupby(["endpoint", "metric"], sort=False):
            places.setdefault(tuple(own["method"]), []).append(" ".join(map(str, place)))
        for who, where in places.items():
            said = ", ".join(f"'{name}'" for name in who) if len(who) <= 6 else f"{len(who)} methods"
            listed = ", ".join(where) if len(where) <= 4 else f"{len(where)} endpoint metrics"
            notes.append(f"{listed} ({said}): {status}")
    return notes
