"""Several plots in one figure: a grid of facets with headings, rows with names, the legend, and what is not drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.style import NULL_EDGE, QUIET, label, legend_row, of_height, short, wrapped

LINE = 17  # pixels from line to line of a heading or a list
AXIS = 66  # pixels under a facet, for its axis and the title of that
_NAME = 16  # characters of a gene's name on an axis
Place = Mapping[str, int]


def facets(
    titles: Sequence[str],
    each: int,
    across: int,
    between: int,
    *,
    spacing: float = 0.035,
    font: int | None = 13,
    shared_rows: bool = True,
) -> tuple[go.Figure, list[Place], int]:
    """Grid of empty facets of one size.

    Parameters
    ----------
    titles
        Heading of each facet, in small HTML; as many facets are made.
    each, between
        Pixels of one facet from top to bottom, and from one to the next below it.
    across
        Facets side by side, at most.
    spacing
        Share of the width between two facets side by side.
    font
        Size of the headings; plotly's own when None.
    shared_rows
        Whether facets side by side have one vertical axis.

    Returns
    -------
    figure : plotly.graph_objects.Figure
        The facets.
    places : list of dict
        Row and column of each facet, as plotly takes them.
    total : int
        Pixels of the whole grid from top to bottom.
    """
    n = len(titles)
    across = min(across, n)
    down = math.ceil(n / across)
    total = each * down + between * (down - 1)
    figure = make_subplots(
        rows=down,
        cols=across,
        shared_yaxes=shared_rows,
        horizontal_spacing=spacing if across > 1 else 0,
        vertical_spacing=between / total if down > 1 else 0,
        subplot_titles=titles,
        specs=[[{} if r * across + c < n else None for c in range(across)] for r in range(down)],
    )
    if font is not None:
        figure.update_annotations(font={"size": font})
    return figure, [{"row": i // across + 1, "col": i % across + 1} for i in range(n)], total


def lines_of(titles: Sequence[str]) -> int:
    """Pixels of the highest heading.

    Parameters
    ----------
    titles
        Headings in small HTML, as `heading_of` gives them.
    """
    return LINE * max(title.count("<br>") + 1 for title in titles)


def heading_of(title: str, *notes: str, width: int) -> str:
    """Lines above a facet, in small HTML.

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
    return "<br>".join([*lines, *(quiet(line) for note in notes for line in wrapped(note, width * 3 // 2))])


def quiet(text: str, size: int = 12) -> str:
    """Text in small letters and a quiet colour, in small HTML.

    Parameters
    ----------
    text
        Text that is escaped already.
    size
        Height of the letters in pixels.
    """
    return f"<span style='font-size:{size}px;color:{QUIET}'>{text}</span>"


def named_rows(figure: go.Figure, names: Sequence[str], at: Place | None = None, **look: Any) -> None:
    """Vertical axis with a row per name, from top to bottom.

    Parameters
    ----------
    figure
        Figure whose axes are set.
    names
        Names as the axis has them, escaped by `label`.
    at
        Row and column of the facet; all of them when None.
    **look
        Further properties of the axis, or others in place of those for rows without a grid.
    """
    order = {"type": "category", "categoryorder": "array", "categoryarray": list(names)[::-1]}
    axis = {**order, "range": [-0.6, len(names) - 0.4], "ticks": "", "showgrid": False, **look}
    figure.update_yaxes(**axis, **(at or {}))


def gene_rows(figure: go.Figure, names: Sequence[str], at: Place, **look: Any) -> None:
    """Vertical axis with a row per gene; long names are cut, or they reach into the facet beside; they are whole on hover.

    Parameters
    ----------
    figure
        Figure whose axis is set.
    names
        Plain text, each once, in the order of the axis.
    at
        Row and column of the facet.
    **look
        Further properties of the axis.
    """
    ticks = {"tickvals": [label(name) for name in names], "ticktext": [label(short(name, _NAME)) for name in names]}
    figure.update_yaxes(type="category", showgrid=False, ticks="", tickfont={"size": 11}, **ticks, **look, **at)


def legend_on_top(figure: go.Figure, y: float = 1) -> go.Figure:
    """Put the legend in one row that stands on the plotting area.

    Parameters
    ----------
    figure
        The figure; changed and returned.
    y
        Where its lower edge is, as a share of the plotting area's height.
    """
    return legend_row(figure, y, "bottom")


def note_beside(figure: go.Figure, text: str, **look: Any) -> None:
    """Write text from a place of the whole figure on.

    Parameters
    ----------
    figure
        Figure that gets the text as an annotation.
    text
        Small HTML, with the lines already broken.
    **look
        Place in shares of the plotting area, and other properties, in place of the upper left corner.
    """
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "top"}
    figure.add_annotation(text=text, **{**place, "showarrow": False, "align": "left", **look})


def add_levels(figure: go.Figure, levels: Sequence[tuple[Place, float, float, float, str]]) -> None:
    """Draw values that no place along a facet changes: a quiet line each, with its interval as a band and its name.

    Plotly checks all shapes of a figure again whenever one is added, so that all are added at once.

    Parameters
    ----------
    figure
        Grid of facets, as `facets` makes it; changed.
    levels
        Facet, value, both ends of its interval (NaN without one), and the name in small HTML.
    """
    shapes, notes = [], []
    for at, value, low, high, name in levels:
        axes = figure.get_subplot(at["row"], at["col"])
        x, y = (axis.plotly_name.replace("axis", "") for axis in (axes.xaxis, axes.yaxis))
        across = {"xref": f"{x} domain", "x0": 0, "x1": 1, "yref": y}
        shapes.append({"type": "line", **across, "y0": value, "y1": value, "line": {"color": QUIET, "width": 1.2}})
        if high > low:
            band = {"fillcolor": NULL_EDGE, "opacity": 0.12, "line": {"width": 0}}
            shapes.append({"type": "rect", **across, "y0": low, "y1": high, **band})
        place = {"xref": f"{x} domain", "x": 1, "xanchor": "right", "yref": y, "y": value, "yanchor": "bottom"}
        notes.append({**place, "text": name, "showarrow": False, "font": {"size": 11, "color": QUIET}})
    figure.update_layout(
        shapes=[*figure.layout.shapes, *shapes], annotations=[*figure.layout.annotations, *notes], overwrite=True
    )


def list_undrawn(figure: go.Figure, notes: Sequence[str], width: int = 110) -> go.Figure:
    """Make a dressed figure higher by what is listed under it: rows that have no value, and why.

    Parameters
    ----------
    figure
        The figure; changed and returned.
    notes
        Plain sentences; without any the figure stays as it is.
    width
        Characters of a line at most.
    """
    lines = [line for note in notes for line in wrapped(note, width)]
    if not lines:
        return figure
    below = figure.layout.margin.b
    text = "<b>Not drawn</b><br>" + "<br>".join(lines)
    note_beside(figure, text, y=0, yshift=6 - below, font={"size": 12, "color": QUIET})
    room = 24 + LINE * len(lines)
    return of_height(figure.update_layout(margin={"b": below + room}), figure.layout.height + room)
