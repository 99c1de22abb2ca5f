"""The benchmark as a whole: wins, ties and losses, and mean ranks with critical differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.benchmark import BETTER, PLACE, names, place_of
from workbench.figures.checks import checked, each_once, records, with_value
from workbench.figures.facets import Place, facets, heading_of, lines_of
from workbench.figures.heatmap import cell_trace
from workbench.figures.marks import ALPHA, Look, legend_keys, marks
from workbench.figures.style import INK, NULL_EDGE, ON_FILL, QUIET, RULE, dressed, label, number, short, span

_CELL = 24
# Blue for better, orange for worse, as in the differences but light enough for text; grey for neither.
_FILLS = {"loss": "#F0A070", "tie": "#ededf0", "win": "#7db8e0"}
_VALUES = {"loss": -1.0, "tie": 0.0, "win": 1.0}
_UNDEFINED = "undefined"
_ROW, _AXIS, _LEGEND = 15, 60, 34
# Share of a facet for the bars of critical differences, pixels from one to the next, and of a facet: about.
_BARS, _STEP, _WIDTH = 0.4, 7, 280


def benchmark_tally(comparisons: pd.DataFrame) -> go.Figure:
    """Outcome of ours against each method on each endpoint metric. There is no sum over methods.

    Parameters
    ----------
    comparisons
        `ours`, `method`, `kind`, `data`, `endpoint`, `metric`, `difference`, `q`, `n_splits`, `outcome`, of one kind of split.

    Returns
    -------
    plotly.graph_objects.Figure
        A cell has the difference; its colour is the outcome, one with a dash has no split in which both are defined.

    Raises
    ------
    EvaluationError
        If a column is missing or a method is in a column twice.
    """
    what = "table of wins, ties and losses"
    text = ["ours", "method", *PLACE, "endpoint", "metric", "outcome"]
    numeric, place = ["difference", "q", "n_splits"], ["endpoint", "metric"]
    rows = checked(comparisons, what, text, numeric, once=[*place, "method"])
    ours = rows["ours"].iloc[0]
    rows["column"] = [f"{label(r.endpoint)}<br>{label(r.metric)}" for r in records(rows)]
    shown, columns = names(list(dict.fromkeys(rows["method"]))), list(dict.fromkeys(rows["column"]))
    cells = rows.assign(row=rows["method"], value=rows["outcome"].map(_VALUES))
    cells["text"] = [f"{value:+z.2f}" if np.isfinite(value) else "" for value in rows["difference"]]
    cells["hover"] = [
        f"{label(r.method)}<br>{label(r.endpoint)}, {label(r.metric)}<br>difference {number(r.difference)}, q = {number(r.q)}, n = "
        f"{number(r.n_splits)} splits: {label(r.outcome)}"
        for r in records(rows)
    ]
    font = {"size": 11, "color": ON_FILL}
    look = {"x": columns, "y": list(shown.values()), "textfont": font, "colorscale": _steps(), "hoverongaps": True}
    trace = cell_trace(cells, list(shown), columns, zmin=-1, zmax=1, showscale=False, xgap=1, ygap=1, **look)
    blank = rows[~rows["outcome"].isin(list(_VALUES))]
    dash: Look = {"mode": "text", "text": "–", "textfont": {"size": 11, "color": QUIET}}
    figure = go.Figure([trace, marks(blank["column"], blank["method"].map(shown), **dash)])
    _sums(figure, rows, shown)
    # Marks and text would widen the axes beyond the cells.
    axis: dict[str, Any] = {"showgrid": False, "ticks": "", "tickfont": {"size": 11}, "dtick": 1}
    figure.update_yaxes(range=[len(shown) - 0.5, -0.5], **axis)
    figure.update_xaxes(range=[-0.5, len(columns) - 0.5], tickangle=-60, **axis)
    said = {"win": "ours better", "tie": "no sure difference", "loss": "ours worse"}
    line = {"color": QUIET, "width": 1}
    keys = [(said[name], {"color": _FILLS[name], "size": 12, "symbol": "square", "line": line}) for name in said]
    if len(blank):
        keys.append(("undefined", {"color": QUIET, "size": 8, "symbol": "line-ew-open", "line": {"width": 1.5}}))
    legend_keys(figure, keys)
    subtitle = (
        f"{place_of(rows)}: mean difference over n = {span(rows.loc[rows['n_splits'] > 0, 'n_splits'])} splits, above 0 where {ours} is "
        f"better; coloured where q ≤ {ALPHA:g} (two-sided, Benjamini-Hochberg over the endpoint metrics of a method; the test stands in the "
        "table). Undefined: no split in which both have a value."
    )
    longest = max(len(part) for column in columns for part in column.split("<br>"))
    below = round(40 + 5.4 * longest)
    total = _CELL * len(shown)
    dressed(figure, f"Where {ours} wins, ties and loses", subtitle, total, above=44, below=below, legend=True)
    return figure.update_layout(margin={"r": 130})


def _steps() -> list[tuple[float, str]]:
    """Colour scale of three steps, from loss to win."""
    edges = (0, 1 / 3, 2 / 3, 1)
    return [(edges[i + side], color) for i, color in enumerate(_FILLS.values()) for side in (0, 1)]


def _sums(figure: go.Figure, rows: pd.DataFrame, shown: dict[str, str]) -> None:
    """Write beside each method how often ours wins, ties, loses and is undefined."""
    beside = {"x": 1, "xref": "paper", "xanchor": "left", "showarrow": False}
    counts = rows.groupby("method", sort=False)["outcome"].value_counts().unstack(fill_value=0)
    for name, row in counts.reindex(columns=["win", "tie", "loss", _UNDEFINED], fill_value=0).iterrows():
        said = " / ".join(str(int(n)) for n in row)
        figure.add_annotation(y=shown[str(name)], text=said, xshift=8, font={"size": 12, "color": INK}, **beside)
    font = {"size": 11, "color": QUIET}
    top = {"y": 1, "yref": "paper", "yanchor": "bottom", "font": font}
    figure.add_annotation(text="win / tie / loss / –", xshift=8, **top, **beside)


def benchmark_ranks(ranks: pd.DataFrame, ours: str = "") -> go.Figure:
    """Mean rank of the methods, one critical-difference diagram per endpoint metric (Demsar 2006).

    Parameters
    ----------
    ranks
        `kind`, `data`, `endpoint`, `metric`, `method`, `mean_rank`, `n_splits`, `n_methods`, `critical_difference`, `friedman_p`,
        of one kind of split.
    ours
        The method whose name is bold and whose mark is coloured.

    Returns
    -------
    plotly.graph_objects.Figure
        Methods from the best mean rank on; upright bars join those that do not differ by more than the critical difference.

    Raises
    ------
    EvaluationError
        If a column is missing, a method is in a facet twice, or there is no rank.
    """
    what = "figure of mean ranks"
    numeric = ["mean_rank", "n_splits", "n_methods", "critical_difference", "friedman_p"]
    text = [*PLACE, "endpoint", "metric", "method"]
    rows = with_value(checked(ranks, what, text, numeric), "mean_rank", what)
    each_once(rows, ["endpoint", "metric", "method"], what)
    parts, titles = [], []
    for (endpoint, metric), part in rows.groupby(["endpoint", "metric"], sort=False):
        part = part.sort_values(["mean_rank", "method"], ignore_index=True)
        splits, distance = number(part["n_splits"][0]), number(part["critical_difference"][0])
        test = f"{metric}; Friedman p = {number(part['friedman_p'][0])}"
        size = f"{len(part)} methods, n = {splits} splits, CD {distance}"
        parts.append(part)
        titles.append(heading_of(str(endpoint), test, size, width=32))
    most, lines = max(map(len, parts)), lines_of(titles) + 12
    figure, places, total = facets(titles, _ROW * most + 16, 2, lines + _AXIS, spacing=0.29, shared_rows=False)
    for part, at in zip(parts, places, strict=True):
        _diagram(figure, part, most, ours, at)
    own = {"symbol": "diamond", "size": 11, "color": BETTER}
    keys: list[tuple[str, dict[str, Any]]] = [(label(ours), own)] if ours in set(rows["method"]) else []
    keys.append(("mean rank of a method", {"symbol": "circle", "size": 9, "color": NULL_EDGE}))
    line = {"width": 3, "color": INK}
    keys.append(("not further apart than CD", {"symbol": "line-ns", "size": 13, "color": INK, "line": line}))
    legend_keys(figure, keys)
    subtitle = (
        f"{place_of(rows)}: ranks within each split, averaged (1: best). CD: Nemenyi's critical difference at {ALPHA:g}, the width of the "
        "grey band; where Friedman's p is above that, bars are not to be read. Both take splits to be independent: where splits share "
        "cells, too many methods differ. Methods that are undefined in a split are left out."
    )
    dressed(figure, "Mean ranks", subtitle, total, above=lines + _LEGEND, below=_AXIS, legend=True)
    return figure.update_layout(margin={"l": 220})


def _diagram(figure: go.Figure, part: pd.DataFrame, most: int, ours: str, at: Place) -> None:
    """One facet: marks on the left, the bars on the right of the last rank."""
    n, distance = len(part), float(part["critical_difference"][0])
    own = part["method"] == ours
    shown = [f"<b>{label(short(m, 34))}</b>" if m == ours else label(short(m, 34)) for m in part["method"]]
    hover = [
        f"{label(r.method)}<br>mean rank {number(r.mean_rank)} of {number(r.n_methods)}, n = {number(r.n_splits)} splits"
        for r in records(part)
    ]
    marker = {
        "color": [BETTER if one else NULL_EDGE for one in own],
        "symbol": ["diamond" if one else "circle" for one in own],
        "size": [11 if one else 8 for one in own],
    }
    figure.add_trace(marks(part["mean_rank"], list(range(n)), hover, name="mean rank", marker=marker), **at)
    best = float(part["mean_rank"].min())
    box = {"x0": best, "x1": best + distance, "y0": -0.6, "y1": most - 0.4, "layer": "below"}
    figure.add_shape(type="rect", line={"width": 0}, fillcolor=RULE, opacity=0.5, **box, **at)
    last = max(float(n), best + distance)
    places = _side_by_side(not_apart(part["mean_rank"].tolist(), distance))
    columns = max((place for _, _, place in places), default=0) + 1
    strip = min(_BARS, (_STEP * columns + 12) / _WIDTH)
    whole = (last - 0.5) / (1 - strip)
    step = whole * min(_STEP / _WIDTH, (_BARS - 0.03) / columns)
    start = last + whole * 8 / _WIDTH
    xs = [value for _, _, place in places for value in (start + step * place, start + step * place, None)]
    ys = [value for first, to, _ in places for value in (first - 0.3, to + 0.3, None)]
    figure.add_trace(marks(xs, ys, mode="lines", name="not apart", line={"color": INK, "width": 3}), **at)
    ticks = [1, *range(5, n + 1, 5)] if n > 8 else list(range(1, n + 1))
    figure.update_xaxes(title="mean rank (1: best)", range=[0.5, 0.5 + whole], tickvals=ticks, **at)
    rows = {"tickvals": list(range(n)), "ticktext": shown, "range": [most - 0.4, -0.6]}
    figure.update_yaxes(showgrid=False, ticks="", tickfont={"size": 11}, **rows, **at)


def not_apart(ranks: Sequence[float], distance: float) -> list[tuple[int, int]]:
    """First and last of every longest run of methods of which no two are further apart than a distance.

    Parameters
    ----------
    ranks
        Mean rank of each method, ascending.
    distance
        Critical difference, in ranks; methods no further apart than this are not told apart.

    Examples
    --------
    >>> from workbench.figures.benchmark_maps import not_apart
    >>> not_apart([1.2, 1.9, 3.0, 4.1], 1.2)
    [(0, 1), (1, 2), (2, 3)]
    """
    values, runs, reached = np.asarray(ranks, dtype=float), [], 0
    for i, value in enumerate(values):
        last = int(np.searchsorted(values, value + distance + 1e-9, side="right")) - 1
        if last > max(i, reached):
            runs.append((i, last))
            reached = last
    return runs


def _side_by_side(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Runs with the first column that is free where they begin."""
    ends: list[int] = []
    placed = []
    for first, last in runs:
        free = next((i for i, end in enumerate(ends) if end < first), len(ends))
        ends[free:] = [last, *ends[free + 1 :]]
        placed.append((first, last, free))
    return placed
