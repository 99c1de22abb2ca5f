"""Forest plots: rows of points with spread and null, in one or several facets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.facets import facets, list_undrawn, named_rows, quiet
from workbench.figures.marks import NULL_KEY, POINT, Key, Look, bars, circles, interval, legend_keys, marks, spread
from workbench.figures.style import INK, NULL, NULL_EDGE, dressed, label

ROW = 34  # pixels of a row
# Of a value that stands beside the one that is written.
BESIDE: dict[str, Any] = {**POINT, "symbol": "diamond-open", "color": INK}


@dataclass(frozen=True)
class Facet:
    """One plot of a forest.

    Parameters
    ----------
    title
        Heading above it, in small HTML; none where it is empty.
    rows
        One row per point: `row` (its name on the left), `value`, `hover`; `low` and `high`, or else `sd`; and
        `null_from` and `null_high` where there is a null, `text` (the value as it is written), `filled` (else a ring), `beside` (another
        value, which the null is of).
    axis
        Further properties of the value axis, such as its title and range.
    """

    title: str
    rows: pd.DataFrame
    axis: dict[str, Any] = field(default_factory=dict)


def titled(title: str, note: str, axis: str, rows: pd.DataFrame, limits: tuple[float, float]) -> Facet:
    """Facet with a heading of two lines and a fixed range.

    Parameters
    ----------
    title, note
        First and second line of the heading, plain text.
    axis
        Title of the value axis, plain text.
    rows
        As in `Facet`.
    limits
        Smallest and largest value that the axis shows.
    """
    heading = f"<b>{label(title)}</b><br>{quiet(label(note))}"
    return Facet(heading, rows, {"title": {"text": label(axis), "standoff": 6}, "range": list(limits)})


def zero_axis(title: str, ends: Any, pad: float) -> dict[str, Any]:
    """Value axis of differences: as far as they go on either side of 0, and 0 is a line.

    Parameters
    ----------
    title
        Title of the axis, escaped.
    ends
        Numbers that the axis has room for, NaN allowed; one of them at least is finite.
    pad
        Share of the range that is added at both ends.
    """
    low, high = min(0.0, float(np.nanmin(ends))), max(0.0, float(np.nanmax(ends)))
    room = pad * (high - low) or 0.1
    return {"title": title, "range": [low - room, high + room], "nticks": 6, "zeroline": True}


def order_of(rows: pd.DataFrame) -> list[str]:
    """Names of the rows of a forest as they come.

    Parameters
    ----------
    rows
        Table with the column `row`, whose names may repeat.
    """
    return list(dict.fromkeys(rows["row"]))


def forest(
    parts: Sequence[Facet],
    order: Sequence[str],
    title: str,
    subtitle: str,
    keys: Sequence[Key],
    *,
    across: int = 1,
    row: int = ROW,
    head: int = 42,
    above: int = 32,
    below: int = 62,
    bounds: bool = True,
    notes: Sequence[str] = (),
    **look: Any,
) -> go.Figure:
    """Draw facets side by side, each with the same rows, and list what could not be drawn underneath.

    Parameters
    ----------
    parts
        One facet or more, drawn in this order, row by row.
    order
        Names of the rows, from top to bottom.
    title, subtitle
        Plain text; the subtitle is broken into lines.
    keys
        Entries of the legend, in their order.
    across
        Facets side by side, at most.
    row, head, above, below
        Pixels of a row, of a facet's heading, of the legend above all facets, and of the axis below each.
    bounds
        Whether a null's upper bound has a mark of its own.
    notes
        Sentences to list under the facets, plain text; without any there is no list.
    **look
        `spacing` and `font` of `facets`, in place of 0.045 and plotly's own.

    Returns
    -------
    plotly.graph_objects.Figure
        In every facet grey bars for the null, where there is one, and one trace of points with their spread.
    """
    grid = {"spacing": 0.045, "font": None, **look}
    figure, places, total = facets([part.title for part in parts], row * len(order) + 22, across, head + below, **grid)
    for part, at in zip(parts, places, strict=True):
        for trace in _traces(part.rows, bounds):
            figure.add_trace(trace, **at)
        figure.update_xaxes(**part.axis, **at)
        named_rows(figure, [label(name) for name in order], at)
    legend_keys(figure, keys)
    dressed(figure, title, subtitle, total, above=head + above, below=below, legend=True).update_layout(bargap=0.35)
    return list_undrawn(figure, notes, width=92)


def _traces(rows: pd.DataFrame, bounds: bool) -> list[Any]:
    names, made = [label(name) for name in rows["row"]], []
    if "null_high" in rows:
        made.append(null_bars(names, rows["null_from"], rows["null_high"]))
        if bounds:
            marker = {"symbol": "line-ns-open", "size": 16, "color": NULL_EDGE, "line": {"width": 2}}
            made.append(marks(rows["null_high"], names, name="null, upper bound", marker=marker))
    texts = rows["text"].tolist() if "text" in rows else [f"{value:z.2f}" for value in rows["value"]]
    look: Look = {
        "name": "value",
        "text": texts,
        "textposition": "top center",
        "textfont": {"size": 11, "color": INK},
        "cliponaxis": False,
        "marker": {**POINT, "symbol": circles(rows["filled"])},
        "error_x": interval(rows, "value") if "low" in rows else spread(rows["sd"]),
    }
    made.append(marks(rows["value"], names, rows["hover"], mode="markers+text", **look))
    if "beside" in rows and rows["beside"].notna().any():
        made.append(marks(rows["beside"], names, rows["hover"], name="beside", marker=BESIDE))
    return made


def null_bars(names: Sequence[str], low: pd.Series, high: pd.Series) -> go.Bar:
    """Grey bars from one bound of a null to the other.

    Parameters
    ----------
    names
        Name of each row as the axis has it, escaped by `label`.
    low, high
        Bounds; no bar where they are missing.
    """
    marker = {"color": NULL, "opacity": 0.55, "line": {"width": 0}}
    return bars(high - low, names, base=low, name="null", marker=marker)


def mean_keys(rows: pd.DataFrame, mark: str = "mean ± sd") -> list[Key]:
    """Keys of a forest whose rings are baselines.

    Parameters
    ----------
    rows
        All rows of the forest, with the column `filled`.
    mark
        What a point and its bar are.
    """
    keys = [(mark, {**POINT, "symbol": "circle"})]
    if not rows["filled"].all():
        keys.append(("the same for a baseline", {**POINT, "symbol": "circle-open"}))
    return [*keys, ("null, up to its upper bound", NULL_KEY)]
