"""What all figures share: one template, a colour for each branch, and text that plotly shows as is."""

from __future__ import annotations

import html
import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.evidence.contrasts import OFF_RULER

INK = "#1b1b1f"
QUIET = "#5a5a63"
RULE = "#dcdce0"
ACCENT = "#1f4e79"
NULL = "#b4b4bb"
NULL_EDGE = "#6d6d75"
OUTLINE = "rgba(20, 20, 25, 0.55)"
UNASSIGNED = "#bbbbbb"
# Ink on a fill that is light in both themes.
ON_FILL = "#1b1b1e"

# Twelve colours that stay apart under protanopia, deuteranopia and tritanopia, those that are farthest apart first: the nine
# of Paul Tol's "muted" scheme, amber, violet and black.
PALETTE = (
    "#332288",
    "#FFAA00",
    "#88CCEE",
    "#882255",
    "#9922FF",
    "#000000",
    "#DDCC77",
    "#117733",
    "#999933",
    "#CC6677",
    "#AA4499",
    "#44AA99",
)

_METRICS = {"masked_error": "masked expression error", "mvc_error": "masked MVC error", "ruler": "ruler correlation"}
_TITLE = 24  # pixels above the title
_TITLE_SIZE = 17
# Pixels from line to line of a title: plotly goes by the size of the title, whatever that of the line is.
_LINE = 1.3 * _TITLE_SIZE

# On a dark page. Branches keep their hue; the three darkest are lifted, and colour scales stay as they are.
DARK = {
    INK: "#ececf0",
    QUIET: "#a9abb5",
    RULE: "#3a3d46",
    ACCENT: "#8fc1f0",
    NULL: "#5c5f6a",
    NULL_EDGE: "#9fa1ab",
    OUTLINE: "rgba(236, 236, 240, 0.6)",
    "white": "#202228",
    "#332288": "#8577e6",
    "#117733": "#2f9e57",
    "#882255": "#bb3d80",
    "#000000": "#f4f4f6",
    "#542788": "#b2abd2",
    "#B35806": "#fdb863",
    "#7B4B1E": "#b98a5e",
    "rgba(31, 78, 121, 0.35)": "rgba(143, 193, 240, 0.4)",
    "#cfe3ee": "#2d4658",
}

_AXIS = {
    "gridcolor": RULE,
    "linecolor": QUIET,
    "showline": True,
    "zeroline": False,
    "ticks": "outside",
    "automargin": True,
    "title": {"standoff": 8, "font": {"size": 13}},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        "title": {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": [ACCENT, *PALETTE],
        "hoverlabel": {"bgcolor": "white", "bordercolor": QUIET, "font": {"color": INK, "size": 13}, "align": "left"},
        "legend": {"font": {"size": 12}, "itemsizing": "constant"},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def assign_colors(branches: Iterable[Any], fixed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give every branch of a figure a colour of its own, as long as the palette lasts; after twelve, colours repeat.

    Parameters
    ----------
    branches
        Names, possibly repeated; missing ones and `OFF_RULER` are left out, and are drawn in `UNASSIGNED`.
    fixed
        Branch -> hex colour that it keeps, such as `Ruler.colors`; the others get it only where nothing else is left.

    Returns
    -------
    dict
        Branch -> hex colour, in the order of a legend: those of `fixed` first, in its order, then the others as they come.
    """
    fixed = fixed or {}
    names = [str(name) for name in dict.fromkeys(branches) if not pd.isna(name) and name not in ("", OFF_RULER)]
    found = {name: color for name, color in fixed.items() if name in names}
    # Colours that nobody has first, then those of branches that are not drawn.
    free = sorted(set(PALETTE) - set(found.values()), key=lambda c: (c in fixed.values(), PALETTE.index(c))) or PALETTE
    return found | dict(zip((name for name in names if name not in found), itertools.cycle(free), strict=False))


def label(text: object) -> str:
    """Text as plotly shows it literally: plotly reads a small HTML in labels, so markup in data is escaped.

    Parameters
    ----------
    text
        Any value; its str is shown.
    """
    return html.escape(str(text), quote=False)


def metric_title(metric: str) -> str:
    """What figures and reports call a metric of an ablation.

    Parameters
    ----------
    metric
        Its name in tables, such as ``cell_shift`` or ``gene:CD3E``; one's own may be anything.

    Examples
    --------
    >>> from workbench.figures.style import metric_title
    >>> [metric_title(name) for name in ("cell_shift", "mvc_error", "label_error: B cell", "gene:CD3E")]
    ['cell shift', 'masked MVC error', 'label error: B cell', 'prediction of CD3E']
    """
    name, colon, rest = metric.partition(":")
    if name == "gene":
        return f"prediction of {rest}"
    return _METRICS.get(name, name.replace("_", " ")) + colon + rest


def short(text: str, width: int) -> str:
    """Text that is cut, with an ellipsis, where it is longer than that.

    Parameters
    ----------
    text
        Plain text, not yet escaped: an escape must not be cut.
    width
        Characters of the result at most, the ellipsis included; 1 or more.
    """
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def wrapped(text: str, width: int = 104) -> list[str]:
    """Break text into escaped lines, since plotly does not wrap.

    Parameters
    ----------
    text
        Plain text, not yet escaped; line breaks in it count as spaces.
    width
        Characters of a line at most; only a longer word is broken.
    """
    return [label(line) for line in textwrap.wrap(text, width, break_on_hyphens=False)] or [""]


def counted(n: float, noun: str) -> str:
    """Text of a number of things, such as ``1 draw`` and ``20 draws``.

    Parameters
    ----------
    n
        Whole number of things, of any numeric type.
    noun
        What they are, in the singular; an s is added for all numbers but one.
    """
    return f"{n:,.0f} {noun}{'' if n == 1 else 's'}"


def number(value: float, digits: int = 3) -> str:
    """Short text of a number; a dash where there is none.

    Parameters
    ----------
    value
        Any number; None, NaN and infinity are a dash.
    digits
        Significant digits of what is not whole; whole numbers are written whole, with commas.

    Examples
    --------
    >>> from workbench.figures.style import number
    >>> number(1234.0), number(0.04567), number(float("nan"))
    ('1,234', '0.0457', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"


def span(values: pd.Series) -> str:
    """One number if all are the same, else the smallest and the largest.

    Parameters
    ----------
    values
        Numbers; missing ones are left out, and without any there is a dash.
    """
    known = values.dropna()
    if known.empty:
        return "–"
    low, high = number(known.min()), number(known.max())
    return low if low == high else f"{low} to {high}"


def heading(title: str, subtitle: str) -> tuple[str, int]:
    """Title of a figure with the lines under it.

    Parameters
    ----------
    title, subtitle
        Plain text; the subtitle is broken into lines.

    Returns
    -------
    text : str
        What plotly takes as title.
    height : int
        Pixels that it needs at the top of the figure.
    """
    lines = wrapped(subtitle)
    small = "<br>".join(lines)
    text = f"<b>{label(title)}</b><br><span style='font-size:12px;color:{QUIET}'>{small}</span>"
    return text, round(48 + _LINE * len(lines))


def dressed(
    figure: go.Figure,
    title: str,
    subtitle: str,
    plot_height: int,
    *,
    above: int = 0,
    below: int = 60,
    legend: bool = False,
) -> go.Figure:
    """Give a figure the shared template, its title and a height of which every part is known in pixels.

    Parameters
    ----------
    figure
        The figure; changed and returned.
    title, subtitle
        Plain text; the subtitle is broken into lines.
    plot_height
        Height of the plotting area in pixels.
    above, below
        Further pixels between title and plotting area, and under it.
    legend
        Whether the legend is put in one row under the title, above whatever else is over the plotting area.
    """
    text, top = heading(title, subtitle)
    margin = {"l": 70, "r": 30, "t": top + above, "b": below}
    title_of = {"text": text, "font": {"size": _TITLE_SIZE}, "pad": {"l": 14}}
    figure.update_layout(template=TEMPLATE, title=title_of, margin=margin)
    if legend:
        legend_row(figure, 1 + above / plot_height, "top")
    return of_height(figure, plot_height + top + above + below)


def legend_row(figure: go.Figure, y: float, anchor: str) -> go.Figure:
    """Put the legend of a figure in one row.

    Parameters
    ----------
    figure
        The figure; changed and returned.
    y
        Where the row is, as a share of the plotting area's height from its lower edge.
    anchor
        Which edge of the row is there: ``top`` or ``bottom``.
    """
    place = {"x": 0, "xanchor": "left", "y": y, "yanchor": anchor}
    return figure.update_layout(legend={"orientation": "h", "traceorder": "normal", **place})


def of_height(figure: go.Figure, height: int) -> go.Figure:
    """Give a dressed figure a height, and its title the place that goes with it.

    Parameters
    ----------
    figure
        The figure; changed and returned.
    height
        Pixels from the upper to the lower edge, margins included.
    """
    # The anchor of a title with lines is not its upper edge: this far down, an image without a margin shows it whole.
    return figure.update_layout(height=height, title={"y": 1 - _TITLE / height})


def in_dark(figure: go.Figure) -> go.Figure:
    """The same figure for a dark page.

    Parameters
    ----------
    figure
        Drawn in the shared template; not changed.

    Returns
    -------
    plotly.graph_objects.Figure
        With the colours of `DARK` in their places; colour scales, and so what a value looks like, stay.
    """
    return go.Figure(_darkened(figure.to_plotly_json()))


def _darkened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: one if key == "colorscale" else _darkened(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_darkened(one) for one in value]
    if isinstance(value, str):
        return DARK.get(value) or re.sub(r"color:(#[0-9a-f]{6})", lambda m: f"color:{DARK.get(m[1], m[1])}", value)
    return value
