"""Heatmaps with a number in every cell: the head map, and what the maps of ablations are drawn with."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import check_finite, checked, records, refusal
from workbench.figures.marks import ALPHA, mean_sd, p_and_q
from workbench.figures.style import INK, dressed, label, number, span, wrapped
from workbench.stats import WITHOUT

# Blue to red through white (ColorBrewer RdBu): told apart with any colour vision, and zero is paper.
SCALE = ("#2166AC", "#4393C3", "#92C5DE", "#D1E5F0", "#F7F7F7", "#FDDBC7", "#F4A582", "#D6604D", "#B2182B")
# Orange to purple (ColorBrewer PuOr), where neither sign is good or bad.
NEUTRAL = ("#B35806", "#E08214", "#FDB863", "#FEE0B6", "#F7F7F7", "#D8DAEB", "#B2ABD2", "#8073AC", "#542788")
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Colors:
    """Colours of values, and how these are written.

    Parameters
    ----------
    scale
        Colours from the lower to the upper limit.
    limits
        Values of the first and last colour.
    title
        Title of the colour bar, plain text in lines.
    factor, decimals
        What values are multiplied with, and digits after the point, in the cells.
    """

    scale: Sequence[str]
    limits: tuple[float, float]
    title: str
    factor: float = 1.0
    decimals: int = 2

    def text(self, value: float) -> str:
        """A value as its cell shows it.

        Parameters
        ----------
        value
            Value of one cell, before it is multiplied; NaN is a dash.
        """
        return f"{value * self.factor:z.{self.decimals}f}" if math.isfinite(value) else "–"

    @property
    def bar(self) -> dict[str, Any]:
        """Colour bar as plotly takes it, with ticks at both limits."""
        ticks = np.linspace(*self.limits, 5 if self.limits[0] < 0 else 3)
        lines = [part for line in self.title.splitlines() for part in wrapped(line, 18)]
        return {
            "title": {"text": "<br>".join([*lines, "&nbsp;"]), "side": "top", "font": {"size": 12}},
            "thickness": 14,
            "tickvals": ticks.tolist(),
            "ticktext": [number(float(tick) * self.factor) for tick in ticks],
        }


def colors_of(values: pd.Series, what: str, unit: str = "", *, worse: int = 0, factor: float | None = None) -> Colors:
    """Colours for these values: around 0 as far as the largest goes; from 0 on where none is below.

    Parameters
    ----------
    values
        Values to colour, NaN allowed; one of them at least must be finite.
    what
        Name of the quantity, over the colour bar.
    unit
        Its unit, in brackets on a line of its own; none when empty.
    worse
        1 when values above 0 are worse, -1 when those below are: the worse side is red. 0 when neither is.
    factor
        What values are multiplied with when they are written; a power of 1,000 that keeps them short when None.

    Examples
    --------
    >>> import pandas as pd
    >>> from workbench.figures.heatmap import colors_of
    >>> colors = colors_of(pd.Series([-2e-5, 1e-5]), "effect")
    >>> colors.title, colors.limits, colors.text(1e-5)
    ('effect × 10⁶', (-2e-05, 2e-05), '10.0')
    """
    known = values[np.isfinite(values)]
    largest = float(known.abs().max()) or 1.0
    power = 0
    if factor is None:
        power = 0 if 0.1 <= largest < 1000 else -3 * math.floor(math.log10(largest) / 3)
        factor = 10.0**power
    decimals = int(np.clip(2 - math.floor(math.log10(largest * factor)), 0, 3))
    scale: Sequence[str] = {1: SCALE, -1: SCALE[::-1]}.get(worse, NEUTRAL)
    limits = (-largest, largest)
    if (known >= 0).all():
        scale, limits = scale[len(scale) // 2 :], (0.0, largest)
    times = f" × 10{str(power).translate(_RAISED)}" if power else ""
    return Colors(scale, limits, f"{what}{times}" + (f"\n({unit})" if unit else ""), factor, decimals)


def check_heads(heads: pd.DataFrame, figure: str, within: Sequence[str] = ()) -> None:
    """Refuse heads without a place, or with more than one row.

    Parameters
    ----------
    heads
        A checked table with `layer` and `head`.
    figure
        Name of what is to be drawn, for errors.
    within
        Columns for each value of which a head may have a row.

    Raises
    ------
    EvaluationError
        If a place is missing, or a head is there twice.
    """
    if heads[["layer", "head"]].isna().any(axis=None):
        raise refusal(figure, "'layer' or 'head' is missing in a row.")
    twice = heads.duplicated([*within, "layer", "head"])
    if twice.any():
        layer, head = heads.loc[twice, ["layer", "head"]].astype(int).iloc[0]
        raise refusal(figure, f"layer {layer} head {head} has more than one row.")


def placed(heads: pd.DataFrame, value: str, figure: str) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Heads with their places in a map of layers and heads; a head without a row leaves a gap.

    Parameters
    ----------
    heads
        A checked table with `layer` and `head`.
    value
        Column that the map shows, finite in one row at least.
    figure
        Name of what is to be drawn, for errors.

    Returns
    -------
    cells : pandas.DataFrame
        The table with `row`, `column` and `value`.
    rows, columns : list of str
        Layers and heads, from the first to the last that there is.

    Raises
    ------
    EvaluationError
        If no value is finite, a place is missing, or a head is there twice.
    """
    check_finite(heads, value, figure)
    check_heads(heads, figure)
    at = heads[["layer", "head"]].astype(int)
    rows, columns = ([str(i) for i in range(at[c].min(), at[c].max() + 1)] for c in ("layer", "head"))
    cells = heads.assign(row=at["layer"].astype(str), column=at["head"].astype(str), value=heads[value])
    return cells, rows, columns


def cell_trace(cells: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], **look: Any) -> go.Heatmap:
    """Trace of a matrix with text in its cells.

    Parameters
    ----------
    cells
        `row`, `column`, `value`, `text` and `hover` (small HTML); places without a row stay blank.
    rows, columns
        Names in the order of the axes. They are categories, so that a gap and every name has its tick.
    **look
        Further properties of the trace; `x` and `y` where the axes have other names than the table.
    """
    down, across = ({name: i for i, name in enumerate(names)} for names in (rows, columns))
    z = np.full((len(rows), len(columns)), np.nan)
    text, hover = (np.full(z.shape, "", dtype=object) for _ in range(2))
    for cell in records(cells):
        at = down[cell.row], across[cell.column]
        z[at], text[at], hover[at] = cell.value, cell.text, cell.hover
    names = {"x": [label(name) for name in columns], "y": [label(name) for name in rows]}
    shown = {"texttemplate": "%{text}", "hovertemplate": "%{hovertext}<extra></extra>", "hoverongaps": False}
    return go.Heatmap({"z": z, "text": text, "hovertext": hover, **names, **shown, **look})


def heat_trace(
    cells: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], colors: Colors, *, bar: bool = True
) -> go.Heatmap:
    """Trace of a heatmap with a number in every cell.

    Parameters
    ----------
    cells
        `row`, `column`, `value`, `bold` and `hover` (small HTML); places without a row stay blank.
    rows, columns
        Names, in the order of the axes.
    colors
        Colours and the way to write values.
    bar
        Whether to draw a colour bar; of several facets with one scale, one has it.
    """
    texts = [colors.text(value) for value in cells["value"]]
    widest = max(map(len, texts), default=0)
    size = 8 if len(columns) > 16 else 10 if len(columns) > 12 else 13 if widest <= 5 or len(columns) <= 8 else 11
    bold = [f"<b>{text}</b>" if strong else text for text, strong in zip(texts, cells["bold"], strict=True)]
    limits = {"zmin": colors.limits[0], "zmax": colors.limits[1]}
    scale = [[i / (len(colors.scale) - 1), color] for i, color in enumerate(colors.scale)]
    shown = {"showscale": bar, "colorbar": colors.bar if bar else None, "xgap": 2, "ygap": 2}
    return cell_trace(
        cells.assign(text=bold), rows, columns, textfont={"size": size}, colorscale=scale, **limits, **shown
    )


def heatmap(
    cells: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str],
    colors: Colors,
    title: str,
    subtitle: str,
    axes: tuple[str, str] = ("head", "layer"),
    *,
    frame: pd.Series | None = None,
    notes: Mapping[str, str] | None = None,
) -> go.Figure:
    """Heatmap with title, axes and a frame around one cell.

    Parameters
    ----------
    cells, rows, columns, colors
        As in `heat_trace`.
    title, subtitle
        Plain text; the subtitle is broken into lines.
    axes
        Titles of the horizontal and the vertical axis. Layers go upwards, all else downwards.
    frame
        Row of `cells` to frame in ink; none when None.
    notes
        Plain text to put after names on the vertical axis.
    """
    figure = go.Figure(heat_trace(cells, rows, columns, colors))
    if frame is not None:
        x, y = list(columns).index(frame["column"]), list(rows).index(frame["row"])
        figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line={"color": INK, "width": 2.5})
    dressed(figure, title, subtitle, max(180, 38 * len(rows)))
    for names, axis, text in zip((columns, rows), (figure.layout.xaxis, figure.layout.yaxis), axes, strict=True):
        axis.update(title=text, type="category", showgrid=False, showline=False, ticks="")
        axis.update(tickvals=list(range(len(names))), ticktext=[_tick(name) for name in names])
    if notes:
        figure.update_yaxes(ticktext=[f"{_tick(name)} {label(notes.get(name, ''))}" for name in rows])
    if axes[1] != "layer":
        figure.update_yaxes(autorange="reversed")
    return figure


def _tick(name: str) -> str:
    """A name in two lines at most; hover has it whole."""
    return "<br>".join(label(line) for line in textwrap.wrap(name, 30, max_lines=2, placeholder=" …"))


def head_codes(heads: pd.DataFrame) -> list[str]:
    """Heads as axes name them, such as L2H5.

    Parameters
    ----------
    heads
        Table with `layer` and `head`, counted from 0.
    """
    return [f"L{int(r.layer)}H{int(r.head)}" for r in records(heads)]


def bold_heads(cells: pd.DataFrame) -> str:
    """What is bold in a map of heads, and in how many of its cells.

    Parameters
    ----------
    cells
        Cells of the map, with `bold`.
    """
    return f"Bold: q ≤ {ALPHA} (Benjamini-Hochberg over heads), {int(cells['bold'].sum())} of {len(cells)}"


def head_name(row: pd.Series) -> str:
    """Layer and head in words.

    Parameters
    ----------
    row
        Row of a table with the columns `layer` and `head`, counted from 0.
    """
    return f"layer {int(row['layer'])} head {int(row['head'])}"


def head_map(table: pd.DataFrame, controls: Mapping[str, float] | None = None) -> go.Figure:
    """Heatmap of the held-out Spearman correlation of every head, layer by head.

    Parameters
    ----------
    table
        One row per head: `layer`, `head`, `spearman`, `sd`, `n_splits`, `n_anchors`, `null_high`, `p`, `q`
        (Benjamini-Hochberg over heads), and `without_sequencing` where null, p and q are of that. A head without a row stays blank.
    controls
        The same score of operators that hold nothing of the model, by name, for example identity and gaussian.

    Returns
    -------
    plotly.graph_objects.Figure
        The colour scale is fixed at -1 to 1; values with q <= 0.05 are bold, the best head is framed.

    Raises
    ------
    EvaluationError
        If a column is missing, a head is there twice, or no head has a value.

    Examples
    --------
    >>> import pandas as pd
    >>> from workbench.figures import head_map
    >>> same = {"layer": 0, "sd": 0.05, "n_splits": 4, "n_anchors": 40, "null_high": 0.3}
    >>> table = pd.DataFrame({"head": [0, 1], "spearman": [0.6, 0.1], "p": [0.01, 0.4], "q": [0.02, 0.4], **same})
    >>> head_map(table).data[0].text.tolist()
    [['<b>0.60</b>', '0.10']]
    """
    numeric = [
        "layer",
        "head",
        "spearman",
        "sd",
        "n_splits",
        "n_anchors",
        "null_high",
        "p",
        "q",
        *({WITHOUT} & set(table)),
    ]
    heads = checked(table, "head map", numeric=numeric)
    cells, rows, columns = placed(heads, "spearman", "head map")
    cells["bold"] = cells["q"] <= ALPHA
    cells["hover"] = [
        f"layer {int(row.layer)}, head {int(row.head)}<br>Spearman {mean_sd(row.spearman, row.sd, row.n_splits, 'splits')}"
        f"<br>n = {number(row.n_anchors)} anchors<br>"
        + (
            f"without what follows sequencing {number(row.without_sequencing)}, of which are<br>"
            if WITHOUT in heads
            else ""
        )
        + f"null, upper bound {number(row.null_high)}<br>{p_and_q(row)}"
        for row in records(heads)
    ]
    best = cells.iloc[int(np.nanargmax(cells["value"]))]
    beside = "; ".join(f"{name} {number(value)}" for name, value in (controls or {}).items())
    subtitle = (
        f"n = {len(heads)} heads, {span(heads['n_anchors'])} anchors, {span(heads['n_splits'])} splits. "
        f"{bold_heads(cells)}; frame: best head, {head_name(best)}. Null, upper bound: {span(heads['null_high'])}"
        + (" (it and q are without what follows sequencing). " if WITHOUT in heads else ". ")
        + (f"Controls on the same anchors: {beside}." if beside else "No controls were given.")
    )
    title = "Held-out Spearman of each head alone with the ruler"
    return heatmap(cells, rows, columns, Colors(SCALE, (-1, 1), "Spearman"), title, subtitle, frame=best)
