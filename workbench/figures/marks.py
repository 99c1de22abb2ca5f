"""What figures are made of: marks and lines, bars, their spread, the null behind them, and the keys of a legend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.style import ACCENT, NULL, number

ALPHA = 0.05
POINT = {"color": ACCENT, "size": 9, "line": {"color": ACCENT, "width": 2}}
NULL_KEY = {"symbol": "square", "size": 12, "color": NULL}
# Colour and mark of what is beside each other: told apart by either.
SERIES = ((ACCENT, "circle"), ("#CC6677", "square"), ("#117733", "diamond"), ("#AA4499", "triangle-up"))
Look = dict[str, Any]
Key = tuple[str, Look]


def marks(x: Any, y: Any, hover: Any = None, *, mode: str = "markers", legend: bool = False, **look: Any) -> go.Scatter:
    """Marks, a line or text.

    Parameters
    ----------
    x, y
        Places, one each per mark.
    hover
        Small HTML per mark, or one template of plotly's for all; nothing is shown on hover when None.
    mode
        As plotly takes it, such as ``lines+markers``.
    legend
        Whether the trace has an entry in the legend, if there is one.
    **look
        Further properties of the trace.
    """
    shown = {"x": x, "y": y, "mode": mode, "showlegend": None if legend else False}
    return go.Scatter({**shown, **_hovering(hover), **look})


def bars(x: Any, y: Any, hover: Any = None, **look: Any) -> go.Bar:
    """Horizontal bars without an entry in the legend.

    Parameters
    ----------
    x, y
        Length of each bar, and name of its row as the axis has it.
    hover
        As in `marks`.
    **look
        Further properties of the trace.
    """
    return go.Bar(x=x, y=y, orientation="h", showlegend=False, **_hovering(hover), **look)


def _hovering(hover: Any) -> dict[str, Any]:
    if hover is None:
        return {"hoverinfo": "skip"}
    if isinstance(hover, str):
        return {"hovertemplate": f"{hover}<extra></extra>"}
    return {"hovertext": hover, "hovertemplate": "%{hovertext}<extra></extra>"}


def line_of(x: Any, y: Any, hover: Any, series: tuple[str, str], **look: Any) -> go.Scatter:
    """Line with a mark per value, in the colour of one of `SERIES`.

    Parameters
    ----------
    x, y, hover
        As in `marks`.
    series
        Hex colour and plotly symbol.
    **look
        Further properties of the trace.
    """
    color, symbol = series
    marker, line = {"symbol": symbol, "size": 8, "color": color}, {"color": color, "width": 2}
    return marks(x, y, hover, **{"mode": "lines+markers", "marker": marker, "line": line, "legend": True, **look})


def spread(
    plus: pd.Series, minus: pd.Series | None = None, color: str = ACCENT, thickness: float = 1.6, width: float = 4
) -> dict[str, Any]:
    """Bars of spread around marks.

    Parameters
    ----------
    plus, minus
        Length of each bar to the right or up, and to the other side; the same when None.
    color
        Hex colour of the bars.
    thickness, width
        Pixels of a bar across, and of its ends.
    """
    return {
        "type": "data", "array": plus, "arrayminus": minus, "color": color, "thickness": thickness, "width": width
    }  # fmt: skip


def interval(rows: pd.DataFrame, value: str, **look: Any) -> dict[str, Any]:
    """Bars from `low` to `high` around marks.

    Parameters
    ----------
    rows
        Table with the columns `low` and `high`.
    value
        Column of the marks' places.
    **look
        Colour, thickness and width, as in `spread`.
    """
    return spread(rows["high"] - rows[value], rows[value] - rows["low"], **look)


def circles(filled: Iterable[bool]) -> list[str]:
    """Symbol of each mark.

    Parameters
    ----------
    filled
        Whether a mark is filled; the others are rings.
    """
    return ["circle" if one else "circle-open" for one in filled]


def sure_keys(q: float = ALPHA) -> list[Key]:
    """Keys of marks that are filled where their q is small.

    Parameters
    ----------
    q
        Largest q of a filled mark.
    """
    names = (f"q ≤ {q:g}", f"q > {q:g} or no q")
    return [(name, {**POINT, "symbol": symbol}) for name, symbol in zip(names, circles((True, False)), strict=True)]


def legend_keys(figure: go.Figure, keys: Iterable[Key]) -> None:
    """Legend from empty traces: the real ones repeat in every facet, or have marks of several kinds.

    Parameters
    ----------
    figure
        Figure to which the traces are added.
    keys
        Text of each entry, and its marker as plotly takes it.
    """
    for name, marker in keys:
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=name, marker=marker, hoverinfo="skip"))


def mean_sd(value: float, sd: float, n: float, of: str) -> str:
    """A mean with its spread, for a hover text.

    Parameters
    ----------
    value, sd, n
        Mean, standard deviation, and over how many values.
    of
        What these are, such as ``splits``.
    """
    return f"{number(value)} ± {number(sd)} (sd over n = {number(n)} {of})"


def p_and_q(row: Any) -> str:
    """How sure something is, for a hover text.

    Parameters
    ----------
    row
        Row of a table with `p` and `q`.
    """
    return f"p = {number(row.p)}, q = {number(row.q)}"


def null_of(row: Any) -> str:
    """What was drawn as null, for a hover text.

    Parameters
    ----------
    row
        Row of a table with `null_mean` and `null_high`.
    """
    return f"null {number(row.null_mean)}, upper bound {number(row.null_high)}"
