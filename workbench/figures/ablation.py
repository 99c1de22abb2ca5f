"""What ablating heads does: maps and intervals of their effects, by metric and by label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import check_finite, checked, chosen, records, refusal
from workbench.figures.forest import Facet, forest
from workbench.figures.heatmap import bold_heads, check_heads, colors_of, head_codes, head_name, heatmap, placed
from workbench.figures.marks import ALPHA, NULL_KEY, Look, p_and_q, sure_keys
from workbench.figures.style import INK, counted, label, metric_title, number, short, span

LABEL_PREFIX = "label_error: "
_TEXT = ("metric", "how", "kind", "unit")
_NUMBERS = tuple(
    "layer head effect low high sd n_cells null_mean null_low null_high n_null ratio worse p q heads_as_large".split()
)
_SIGN = {1: "above 0 is worse", -1: "below 0 is worse", 0: "neither sign is worse"}
# Characters of a metric in a title.
CUT = 40


def effect_map(table: pd.DataFrame, metric: str | None = None, how: str | None = None) -> go.Figure:
    """Heatmap of the effect of ablating each head on one metric, layer by head.

    Parameters
    ----------
    table
        From `workbench.ablation.effects.effect_table`, with `unit`: one row per metric and ablation, `metric`, `how`,
        `kind` (other kinds than "head" are left out), `layer`, `head`, `unit`, `effect`, `low`, `high`, `sd`, `n_cells`,
        `null_mean`, `null_low`, `null_high`, `n_null`, `ratio`, `worse`, `p`, `q`, `heads_as_large`.
    metric
        Metric to draw, one of the table's column `metric`; its first when None.
    how
        Way of ablating, such as ``zero`` or ``mean``; None where the table has one.

    Returns
    -------
    plotly.graph_objects.Figure
        Colours go as far on both sides of 0 as the largest effect (from 0 on where none is below), and are red on the
        side that is worse. Values with q <= 0.05 and an interval without 0 are bold; the head that matters most is framed.

    Raises
    ------
    EvaluationError
        If a column is missing, the metric or way of ablating is unknown, or no head has an effect.
    """
    heads = chosen(_heads(table, "effect map", how), "metric", metric, "effect map")
    metric = heads["metric"].iloc[0]
    cells, rows, columns = placed(heads, "effect", "effect map")
    cells["bold"] = _beyond(cells)
    first = cells.iloc[0]
    most = cells.iloc[int(np.nanargmax(cells["score"]))]
    worse = int(first["worse"])
    subtitle = (
        f"{_whole(metric)}n = {len(cells)} heads, {first['how']} ablation one at a time, {span(cells['n_cells'])} cells. "
        f"Unit: {first['unit'] or 'none'}; {_SIGN[worse]}. {bold_heads(cells)}, interval without 0; frame: "
        f"{'largest' if worse == 0 else 'worst'} effect, {head_name(most)}. {_null(cells)} On hover: 95 % bootstrap "
        "interval and sd over cells."
    )
    title = f"Effect of ablating each head: {short(metric_title(metric), CUT)}"
    colors = colors_of(cells["value"], "effect", first["unit"], worse=worse)
    return heatmap(cells, rows, columns, colors, title, subtitle, frame=most)


def _beyond(rows: pd.DataFrame) -> pd.Series:
    """As ``beyond`` of the effects' table: the effect is more than a random change does, and not 0 over these cells."""
    return (rows["q"] <= ALPHA) & ~((rows["low"] <= 0) & (rows["high"] >= 0))


def head_intervals(table: pd.DataFrame, metric: str | None = None, how: str | None = None, top: int = 12) -> go.Figure:
    """Forest plot of the heads whose ablation matters most for one metric.

    Parameters
    ----------
    table, metric, how
        As in `effect_map`.
    top
        How many heads: those with the worst effects, or the largest where neither sign is worse.

    Returns
    -------
    plotly.graph_objects.Figure
        Effects with their 95 % bootstrap interval, filled where q <= 0.05 and it excludes 0, and the range of each head's null in grey.

    Raises
    ------
    EvaluationError
        As in `effect_map`.
    """
    what = "figure of head intervals"
    every = chosen(_heads(table, what, how), "metric", metric, what)
    metric = every["metric"].iloc[0]
    placed(every, "effect", what)
    rows = every[np.isfinite(every["effect"])].sort_values("score", ascending=False, kind="stable").head(max(1, top))
    rows = rows.assign(row=head_codes(rows), value=rows["effect"], null_from=rows["null_low"], filled=_beyond(rows))
    rows["text"] = [number(value, 2) for value in rows["effect"]]
    with_null = bool(np.isfinite(rows["null_low"]).any())
    keys = [*sure_keys(), *([("range of the head's null draws", NULL_KEY)] if with_null else [])]
    first, sure = rows.iloc[0], int(rows["filled"].sum())
    worse, others = int(first["worse"]), int(_beyond(every).sum()) - sure
    more = f" and {others} of the {len(every) - len(rows)} that are not drawn" if others else ""
    bars = "; bars: its 95 % bootstrap interval" if np.isfinite(rows["low"]).any() else ", without an interval"
    subtitle = (
        f"{_whole(metric)}The {len(rows)} of n = {len(every)} heads with the {'largest' if worse == 0 else 'worst'} "
        f"effects of {first['how']} ablation, {span(rows['n_cells'])} cells; {_SIGN[worse]}. Points: mean effect over cells{bars}. "
        f"Filled: q ≤ {ALPHA} (Benjamini-Hochberg over all heads) and an interval without 0, {sure} of {len(rows)}{more}. {_null(every)}"
    )
    axis = {"title": label(f"effect ({first['unit']})" if first["unit"] else "effect"), "exponentformat": "power"}
    part = Facet("", rows if with_null else rows.drop(columns="null_high"), axis)
    pixels: Look = {"head": 0, "above": 40, "below": 60, "bounds": False}
    title = f"Heads that matter most: {short(metric_title(metric), CUT)}"
    figure = forest([part], rows["row"].tolist(), title, subtitle, keys, **pixels)
    return figure.add_vline(x=0, line={"color": INK, "width": 1})


def label_effects(table: pd.DataFrame, how: str | None = None, top: int = 8) -> go.Figure:
    """Heatmap of how many more cells of each label are read wrongly without a head.

    Parameters
    ----------
    table
        As in `effect_map`; drawn are the metrics "label_error: " and a label.
    how
        As in `effect_map`.
    top
        How many heads: those with the largest effect on any label, in that order.

    Returns
    -------
    plotly.graph_objects.Figure
        Labels by heads, in percentage points; values with q <= 0.05 are bold.

    Raises
    ------
    EvaluationError
        As in `effect_map`, or if the table has no metric of a single label.
    """
    what = "figure of label effects"
    every = _heads(table, what, how)
    every = every[every["metric"].str.startswith(LABEL_PREFIX)].copy()
    if every.empty:
        raise refusal(
            what, f"its table has no metric named '{LABEL_PREFIX}' and a label; evaluate 'label_error' with per_label."
        )
    every["row"] = every["metric"].str.removeprefix(LABEL_PREFIX)
    check_finite(every, "effect", what)
    every = every[np.isfinite(every["effect"]).groupby(every["row"]).transform("any")]
    every["column"] = head_codes(every)
    largest = every["effect"].abs().groupby(every["column"], sort=False).max()
    columns = largest.sort_values(ascending=False, kind="stable").index[: max(1, top)].tolist()
    cells = every[every["column"].isin(columns)].assign(value=lambda t: t["effect"], bold=lambda t: t["q"] <= ALPHA)
    sizes = {str(name): f"(n = {span(part['n_cells'])})" for name, part in cells.groupby("row", sort=False)}
    subtitle = (
        f"Change in the share of wrongly read cells, in percentage points; above 0: more are wrong. The {len(columns)} "
        f"of {largest.size} heads with the largest change for any label ({cells['how'].iloc[0]} ablation), largest first; "
        f"n: cells of the label. {bold_heads(cells)}, each label by itself. {_null(every, 100)}"
    )
    colors = colors_of(cells["value"], "change", "% points", worse=1, factor=100)
    title = "Which labels are read wrongly without which head"
    return heatmap(cells, list(sizes), columns, colors, title, subtitle, axes=("head", "label"), notes=sizes)


def _heads(table: pd.DataFrame, figure: str, how: str | None) -> pd.DataFrame:
    """Rows of heads for one way of ablating, with hover, and a score that is large where a head matters."""
    rows = checked(table, figure, _TEXT, _NUMBERS)
    heads = rows[rows["kind"] == "head"]
    if heads.empty:
        raise refusal(figure, "its table has no row of kind 'head'.")
    ways = list(dict.fromkeys(heads["how"]))
    if how is None and len(ways) > 1:
        said = f"its table has several ways of ablating ({', '.join(ways)}); say which with how='{ways[0]}'."
        raise refusal(figure, said)
    heads = chosen(heads, "how", how, figure, kind="way of ablating").reset_index(drop=True)
    check_heads(heads, figure, ["metric"])
    heads["worse"] = heads["worse"].fillna(0)
    heads["score"] = np.where(heads["worse"] == 0, heads["effect"].abs(), heads["worse"] * heads["effect"])
    heads["hover"] = [
        f"{label(metric_title(r.metric))}<br>layer {int(r.layer)}, head {int(r.head)} ({label(r.how)})<br>"
        f"effect {number(r.effect)} {label(r.unit)}<br>95 % bootstrap interval {number(r.low)} to {number(r.high)}<br>"
        f"sd over cells {number(r.sd)}, n = {number(r.n_cells)} cells<br>{_null_of(r)}<br>"
        f"other heads with as large an effect: {number(100 * r.heads_as_large)} %"
        for r in records(heads)
    ]
    return heads


def _null_of(row: Any) -> str:
    if not row.n_null > 0:
        return "no null was drawn"
    return (
        f"null {number(row.null_low)} to {number(row.null_high)}, mean {number(row.null_mean)} "
        f"(n = {counted(row.n_null, 'draw')})<br>size over null {number(row.ratio)}, {p_and_q(row)}"
    )


def _whole(metric: str) -> str:
    """Name of a metric that the title does not hold as a whole."""
    title = metric_title(metric)
    return "" if len(title) <= CUT else f"Metric: {title}. "


def _null(heads: pd.DataFrame, factor: float = 1) -> str:
    """What was drawn as null, and how small a p it can give; effects are written times the factor."""
    n = heads["n_null"].fillna(0)
    if not n.any():
        return "No null was drawn, so there is no p and no q."
    said = (
        f"Null: {span(n)} random-direction draws per head, effects {number(factor * heads['null_low'].min())} to "
        f"{number(factor * heads['null_high'].max())}; "
    )
    # A draw is compared with the other draws of its head, so a head with one draw gives none to the pool.
    pooled = int(n[n > 1].groupby(heads["metric"]).sum().max() if (n > 1).any() else 0)
    if not pooled:
        return said + "a p takes two draws or more per head."
    return said + f"smallest reachable p {number(1 / (1 + pooled), 2)} ({counted(pooled, 'draw')}, pooled over heads)."
