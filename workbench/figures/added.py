"""What ours adds to each control, and what the figures of the extractor share: refusals, headings, what is not drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.errors import EvaluationError, unknown_name
from workbench.figures.panels import POINT, ROW_HEIGHT, legend_keys, points
from workbench.figures.style import INK, QUIET, checked, dressed, label, number, records, span, with_value, wrapped

_ACROSS = 3
_AXIS = 66
_LEGEND = 34
LINE = 17


def added_value(table: pd.DataFrame, q: float = 0.05) -> go.Figure:
    """Forest plot of what ours adds to each control: one panel per endpoint and metric, one row per control.

    Parameters
    ----------
    table
        From `workbench.operators.controls.added_value`: `endpoint`, `metric`, `control`, `ours`, `theirs`, `difference`
        (above 0 where ours is better), `low`, `high` (95 %), `n_folds`, `p`, `q`.
    q
        Marks are filled where the q of their row is at most this.

    Returns
    -------
    plotly.graph_objects.Figure
        Points with intervals on one scale for all panels; what has no value is listed underneath.

    Raises
    ------
    EvaluationError
        If a column is missing, a control is in a panel twice, or no difference is finite.
    """
    what = "figure of added value"
    numeric = ["ours", "theirs", "difference", "low", "high", "n_folds", "p", "q"]
    rows = checked(table, what, ["endpoint", "metric", "control"], numeric)
    once(rows, ["endpoint", "metric", "control"], what)
    drawn = with_value(rows, "difference", what)
    drawn["hover"] = [
        f"{label(r.endpoint)}, {label(r.metric)}<br>ours {number(r.ours)}, {label(r.control)} {number(r.theirs)}<br>"
        f"difference {number(r.difference)} (95 % interval {number(r.low)} to {number(r.high)})<br>n = {number(r.n_folds)} "
        f"folds<br>p = {number(r.p)}, q = {number(r.q)}"
        for r in records(drawn)
    ]
    order = [name for name in dict.fromkeys(rows["control"]) if name in set(drawn["control"])]
    parts = list(drawn.groupby(["endpoint", "metric"], sort=False))
    titles = [
        heading_of(
            str(endpoint),
            str(metric),
            f"ours {span(part['ours'].round(3))}, n = {span(part['n_folds'])} folds",
            width=26,
        )
        for (endpoint, metric), part in parts
    ]
    figure, total, above = panel_grid(titles, ROW_HEIGHT * len(order) + 22)
    ends = drawn[["difference", "low", "high"]].to_numpy()
    low, high = min(0.0, float(np.nanmin(ends))), max(0.0, float(np.nanmax(ends)))
    pad = 0.1 * (high - low) or 0.1
    across = min(_ACROSS, len(parts))
    for i, (_, part) in enumerate(parts):
        at = {"row": i // across + 1, "col": i % across + 1}
        spread = {"array": part["high"] - part["difference"], "arrayminus": part["difference"] - part["low"]}
        texts = [f"{value:+z.2f}" for value in part["difference"]]
        symbols = ["circle" if small else "circle-open" for small in part["q"] <= q]
        names = [label(name) for name in part["control"]]
        figure.add_trace(points(names, part["difference"], spread, texts, symbols, part["hover"]), **at)
        figure.update_xaxes(
            title="ours minus control", range=[low - pad, high + pad], nticks=6, zeroline=True, zerolinecolor=INK, **at
        )
        figure.update_yaxes(
            type="category",
            categoryorder="array",
            categoryarray=[label(name) for name in reversed(order)],
            range=[-0.6, len(order) - 0.4],
            showgrid=False,
            ticks="",
            **at,
        )
    keys = [(f"q ≤ {q:g}", "circle"), (f"q > {q:g} or no q", "circle-open")]
    legend_keys(figure, [(name, {**POINT, "symbol": symbol}) for name, symbol in keys])
    worse = int(((drawn["q"] <= q) & (drawn["difference"] < 0)).sum())
    better = int(((drawn["q"] <= q) & (drawn["difference"] > 0)).sum())
    subtitle = (
        f"Mean difference over n = {span(drawn['n_folds'])} folds, right of 0: ours is better. Bars: 95 % interval; none where "
        f"there are too few folds. Null: no difference (two-sided). Filled: q ≤ {q:g} (Benjamini-Hochberg over the endpoints "
        f"of a control): ours better in {better}, worse in {worse} of {len(drawn)}."
    )
    dressed(figure, "What ours adds to each control", subtitle, total, above=above, below=_AXIS)
    legend_above(figure, total, above)
    return list_undrawn(figure, missing(rows, drawn, ["endpoint", "metric"], "control", "no fold has a value of both"))


def panel_grid(titles: Sequence[str], each: int) -> tuple[go.Figure, int, int]:
    """Empty panels, three across, with one scale of rows.

    Parameters
    ----------
    titles
        Heading of each panel, in small HTML; as many panels are made.
    each
        Height of one panel in pixels.

    Returns
    -------
    figure, total, above
        The panels, the pixels of all of them, and those that titles and legend need above.
    """
    across = min(_ACROSS, len(titles))
    down = math.ceil(len(titles) / across)
    lines = LINE * max(title.count("<br>") + 1 for title in titles) + 10
    total = each * down + (lines + _AXIS) * (down - 1)
    figure = make_subplots(
        rows=down,
        cols=across,
        shared_yaxes=True,
        horizontal_spacing=0.035 if across > 1 else 0,
        vertical_spacing=(lines + _AXIS) / total if down > 1 else 0,
        subplot_titles=titles,
        specs=[[{} if r * across + c < len(titles) else None for c in range(across)] for r in range(down)],
    )
    figure.update_annotations(font={"size": 13})
    return figure, total, lines + _LEGEND


def heading_of(title: str, *notes: str, width: int) -> str:
    """Lines above a panel, in small HTML.

    Parameters
    ----------
    title
        Plain text that is set in bold, broken into lines.
    notes
        What is said about it, each from a new line on.
    width
        Characters of a bold line; a note has room for half as many more.
    """
    lines = [f"<b style='font-size:14px'>{line}</b>" for line in wrapped(title, width)]
    for note in notes:
        lines += [f"<span style='font-size:12px;color:{QUIET}'>{line}</span>" for line in wrapped(note, width * 3 // 2)]
    return "<br>".join(lines)


def legend_above(figure: go.Figure, total: int, above: int) -> go.Figure:
    """Put the legend in one row between the title and whatever stands above the panels.

    Parameters
    ----------
    figure
        The figure; changed and returned.
    total, above
        Pixels of the plotting area, and of what is between it and the title.
    """
    legend: dict[str, Any] = {"orientation": "h", "traceorder": "normal", "x": 0, "xanchor": "left"}
    return figure.update_layout(legend={**legend, "y": 1 + above / total, "yanchor": "top"})


def list_undrawn(figure: go.Figure, notes: Sequence[str]) -> go.Figure:
    """Make a dressed figure higher by what is listed under it: rows that have no value, and why.

    Parameters
    ----------
    figure
        The figure; changed and returned.
    notes
        Plain sentences; without any the figure stays as it is.
    """
    lines = [line for note in notes for line in wrapped(note, 110)]
    if not lines:
        return figure
    below = figure.layout.margin.b
    figure.add_annotation(
        text="<b>Not drawn</b><br>" + "<br>".join(lines),
        **{"x": 0, "xref": "paper", "xanchor": "left", "y": 0, "yref": "paper", "yanchor": "top", "yshift": 6 - below},
        **{"showarrow": False, "align": "left", "font": {"size": 12, "color": QUIET}},
    )
    room = 24 + LINE * len(lines)
    return figure.update_layout(height=figure.layout.height + room, margin={"b": below + room})


def missing(rows: pd.DataFrame, drawn: pd.DataFrame, place: Sequence[str], kind: str, why: str) -> list[str]:
    """One sentence for every place where rows are left out.

    Parameters
    ----------
    rows, drawn
        All rows, and those that are drawn, by the same index.
    place
        Columns that say where a row belongs.
    kind
        Column that tells the rows of a place apart.
    why
        Reason, the same for all rows that are left out; ends each sentence.
    """
    lost = rows.drop(index=drawn.index)
    notes: dict[str, list[str]] = {}
    for at, part in lost.groupby(list(place), sort=False):
        whole = set(part[kind]) == set(rows.loc[(rows[list(place)] == list(at)).all(axis=1), kind])
        who = f"every {kind}" if whole else ", ".join(f"'{name}'" for name in part[kind])
        notes.setdefault(who, []).append(", ".join(map(str, at)))
    return [f"{'; '.join(places)} ({who}): {why}" for who, places in notes.items()]


def removed(how: str) -> str:
    """How factors were removed, in words.

    Parameters
    ----------
    how
        Way of taking out, ``zero`` or ``mean``, see `workbench.factors.necessity`; any other is returned as it is.
    """
    return {"mean": "set to the mean of the training cells", "zero": "set to zero"}.get(how, how)


def once(rows: pd.DataFrame, keys: Sequence[str], figure: str) -> None:
    """Refuse a table in which something that has one place has several rows.

    Parameters
    ----------
    rows
        Table from `checked`, with the columns `keys`.
    keys
        Columns of text that name a place.
    figure
        What is to be drawn, for the error.

    Raises
    ------
    EvaluationError
        If a combination of `keys` is there twice.
    """
    twice = rows.duplicated(list(keys))
    if twice.any():
        first = ", ".join(f"{key} '{rows.loc[twice, key].iloc[0]}'" for key in keys)
        raise EvaluationError(f"The {figure} cannot be drawn: {first} is there more than once. Pass one row of each.")


def chosen(rows: pd.DataFrame, column: str, name: str | None, figure: str) -> pd.DataFrame:
    """Rows of one name of a column.

    Parameters
    ----------
    rows
        Table from `checked` that holds `column`.
    column
        Column of text that names what is chosen.
    name
        Value of that column to keep; the first that is there when None.
    figure
        What is to be drawn, for the error.

    Raises
    ------
    EvaluationError
        If no row has that name.
    """
    known = list(dict.fromkeys(rows[column]))
    name = known[0] if name is None else name
    if name not in known:
        raise EvaluationError(f"The {figure} cannot be drawn. {unknown_name(column, name, known)}")
    return rows[rows[column] == name].copy()
