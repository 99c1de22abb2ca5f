"""How heads act: estimated effects beside exact ones, what pairs do together, what heads carry between groups."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import check_finite, checked, chosen, records, refusal
from workbench.figures.facets import LINE, Place, facets, quiet
from workbench.figures.heatmap import Colors, bold_heads, check_heads, colors_of, head_name, heat_trace, heatmap, placed
from workbench.figures.marks import ALPHA, legend_keys, marks, p_and_q
from workbench.figures.style import ACCENT, QUIET, dressed, label, metric_title, number, short, span, wrapped
from workbench.stats import spearman

# Marks that differ in shape, in lightness and in fill.
MARKS = (("circle-open", ACCENT), ("diamond", "#E69F00"), ("x-thin-open", "#117733"), ("square-open", "#882255"))
GREY = ("#bcbcc4", "#bcbcc4")
_EACH, _BELOW, _ABOVE = 250, 68, 34


def attribution_scatter(table: pd.DataFrame) -> go.Figure:
    """Estimated against exact effects of ablating each head, one facet per metric.

    Parameters
    ----------
    table
        From `workbench.ablation.attribution.compare_attribution`, of one or more metrics and methods: `metric`, `method`,
        `layer`, `head`, `estimated`, `exact` (mean over cells).

    Returns
    -------
    plotly.graph_objects.Figure
        One mark per head and method, the line where both are the same, and above each facet Spearman's rho per method.

    Raises
    ------
    EvaluationError
        If a column is missing, a head is there twice for a metric and method, or nothing is finite.
    """
    what = "attribution figure"
    rows = checked(table, what, ["metric", "method"], ["layer", "head", "estimated", "exact"])
    check_heads(rows, what, ["metric", "method"])
    drawn = rows[np.isfinite(rows["estimated"]) & np.isfinite(rows["exact"])]
    if drawn.empty:
        raise refusal(what, "no row has both 'estimated' and 'exact'.")
    metrics, methods = (list(dict.fromkeys(drawn[column])) for column in ("metric", "method"))
    notes = [_agreement(metric, drawn[drawn["metric"] == metric]) for metric in metrics]
    above = 12 + LINE * max(len(note) for note in notes)
    titles = ["<br>".join(note) for note in notes]
    figure, places, total = facets(titles, _EACH, 3, above + _BELOW, spacing=0.09, font=None, shared_rows=False)
    for metric, at in zip(metrics, places, strict=True):
        part = drawn[drawn["metric"] == metric]
        ranges = [_range(part[column]) for column in ("exact", "estimated")]
        ends = [min(r[0] for r in ranges), max(r[1] for r in ranges)]
        figure.add_trace(marks(ends, ends, mode="lines", line={"color": QUIET, "width": 1, "dash": "dot"}), **at)
        for method, own in part.groupby("method", sort=False):
            _estimates(figure, own, _mark(methods.index(method)), at)
        figure.update_xaxes(title="exact effect", range=ranges[0], exponentformat="power", nticks=5, **at)
        title = "estimated effect" if at["col"] == 1 else None
        figure.update_yaxes(title=title, range=ranges[1], exponentformat="power", nticks=6, **at)
    legend_keys(figure, [(label(method), _mark(i)) for i, method in enumerate(methods)])
    lost = len(rows) - len(drawn)
    subtitle = (
        f"One mark per head (n = {span(drawn.groupby(['metric', 'method']).size())} per metric and method), mean over "
        "cells; no spread and no null is drawn here. Dotted: estimated = exact. Spearman (rho) over heads: above each "
        "plot." + (f" {lost} rows without both effects are not drawn." if lost else "")
    )
    title = "Effects of heads estimated by gradients, against exact ones"
    return dressed(figure, title, subtitle, total, above=_ABOVE + above, legend=True)


def _mark(i: int) -> dict:
    symbol, color = MARKS[i % len(MARKS)]
    return {"symbol": symbol, "color": color, "size": 8, "opacity": 0.85, "line": {"width": 1.4, "color": color}}


def _estimates(figure: go.Figure, part: pd.DataFrame, marker: dict, at: Place) -> None:
    hover = [
        f"{label(metric_title(r.metric))}<br>layer {int(r.layer)}, head {int(r.head)}<br>{label(r.method)}: estimated "
        f"{number(r.estimated)}<br>exact {number(r.exact)}"
        for r in records(part)
    ]
    name = label(part["method"].iloc[0])
    figure.add_trace(marks(part["exact"], part["estimated"], hover, name=name, marker=marker), **at)


def _agreement(metric: str, part: pd.DataFrame) -> list[str]:
    """Lines above a facet: the metric, and rho of each method."""
    lines = [f"<b style='font-size:14px'>{line}</b>" for line in wrapped(metric_title(metric), 22)]
    for method, heads in part.groupby("method", sort=False):
        rho = spearman(heads["estimated"].to_numpy(), heads["exact"].to_numpy())
        said = f"rho {f'{rho:z.2f}' if math.isfinite(rho) else '–'}, {method}"
        lines += [quiet(line) for line in wrapped(said, 32)]
    return lines


def _range(values: pd.Series) -> list[float]:
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    pad = 0.07 * (high - low) or 1.0
    return [low - pad, high + pad]


def interaction_matrix(table: pd.DataFrame, metric: str | None = None) -> go.Figure:
    """Heatmap of what pairs of heads do together beyond the sum of what each does alone.

    Parameters
    ----------
    table
        From `workbench.ablation.pairs.interactions`, with the metric: one row per pair, `metric`, `first`, `second`,
        `effect_first`, `effect_second`, `effect_both`, `interaction`, `low`, `high`, `n_cells`; where there is a null,
        `random` (pairs drawn at random, which are not shown), `p` (against those) and `q`. Pairs of `same_layer` are not
        shown either.
    metric
        Metric to draw, one of the table's column `metric`; its first when None.

    Returns
    -------
    plotly.graph_objects.Figure
        A symmetric matrix, bold where the interval excludes 0; on the diagonal, in grey, each head's effect alone.

    Raises
    ------
    EvaluationError
        If a column is missing, the metric is unknown, a pair is there twice, or no interaction is finite.
    """
    what = "interaction matrix"
    numeric = ["effect_first", "effect_second", "effect_both", "interaction", "low", "high", "n_cells"]
    more = ("random", "same_layer", "p", "q")
    optional = [column for column in more if column in table.columns]
    every = checked(table, what, ["metric", "first", "second"], [*numeric, *optional])
    every = every.reindex(columns=list(dict.fromkeys([*every.columns, *more])))
    here = chosen(every, "metric", metric, what)
    metric = here["metric"].iloc[0]
    here = here[here["same_layer"] != 1]
    drawn, pairs = here[here["random"] == 1], here[here["random"] != 1]
    check_finite(pairs, "interaction", what)
    keys = [tuple(sorted((r.first, r.second))) for r in records(pairs)]
    for i, key in enumerate(keys):
        if key[0] == key[1]:
            raise refusal(what, f"'{key[0]}' is paired with itself.")
        if key in keys[:i]:
            raise refusal(what, f"the pair of '{key[0]}' and '{key[1]}' is there more than once.")
    heads = sorted({name for key in keys for name in key}, key=_natural)
    sides = []
    alone: dict[str, float] = {}
    for r in records(pairs):
        alone = {r.first: r.effect_first, r.second: r.effect_second, **alone}
        bold = bool(r.low > 0 or r.high < 0)
        hover = (
            f"{label(metric_title(metric))}<br>{label(r.first)} and {label(r.second)}<br>interaction {number(r.interaction)}<br>"
            f"95 % bootstrap interval {number(r.low)} to {number(r.high)}<br>both {number(r.effect_both)}<br>"
            f"{label(r.first)} alone {number(r.effect_first)}<br>{label(r.second)} alone {number(r.effect_second)}<br>"
            f"n = {number(r.n_cells)} cells"
            + (f"<br>p = {number(r.p)}" if np.isfinite(r.p) else "")
            + (f"<br>q = {number(r.q)}" if np.isfinite(r.q) else "")
        )
        sides += [(a, b, r.interaction, bold, hover) for a, b in ((r.first, r.second), (r.second, r.first))]
    cells = pd.DataFrame(sides, columns=["row", "column", "value", "bold", "hover"])
    single = pd.DataFrame(
        [
            (h, h, alone[h], False, f"{label(metric_title(metric))}<br>{label(h)} alone {number(alone[h])}")
            for h in heads
        ],
        columns=cells.columns,
    )
    colors = colors_of(cells["value"], "interaction", worse=0)
    excluded = int(cells["bold"].sum()) // 2
    subtitle = (
        f"Effect of both heads ablated together minus the sum of their effects alone; below 0: together less than the "
        f"sum. n = {len(pairs)} pairs of {len(heads)} heads, {span(pairs['n_cells'])} cells. Bold: the 95 % bootstrap "
        f"interval excludes 0, {excluded} of {len(pairs)}, without a correction for the number of pairs. "
        f"{_random_pairs(drawn, pairs)} Grey diagonal: effect of the head alone, in the same unit."
    )
    title = f"What pairs of heads do together: {short(metric_title(metric), 44)}"
    figure = heatmap(cells, heads, heads, colors, title, subtitle, axes=("head", "other head"))
    limits = (float(np.nanmin(single["value"])) - 1, float(np.nanmax(single["value"])) + 1)
    plain = Colors(GREY, limits, "alone", colors.factor, colors.decimals)
    figure.add_trace(heat_trace(single, heads, heads, plain, bar=False))
    return figure


def _random_pairs(drawn: pd.DataFrame, pairs: pd.DataFrame) -> str:
    sizes = drawn["interaction"].abs().dropna()
    if len(sizes):
        return (
            f"Null: n = {len(sizes)} pairs of heads drawn at random, size up to {number(sizes.max())}; smallest reachable p "
            f"{number(1 / (1 + len(sizes)), 2)}, and q for one pair alone {number(min(1, len(pairs) / (1 + len(sizes))), 2)}; on hover."
        )
    if pairs["p"].notna().any():
        return "Null: pairs of heads drawn at random; p on hover."
    return "No null was drawn."


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Order in which L2H1 is before L10H0."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]


def transfer_map(table: pd.DataFrame) -> go.Figure:
    """Heatmap of activation patching: how far each head moves cells of one group towards another, layer by head.

    Parameters
    ----------
    table
        From `workbench.ablation.patching.activation_patching`, of one pair of groups: `layer`, `head` (rows below 0 are
        no heads, and left out), `moved` (share of the way from the mean embedding of the target group to that of the
        source group), `low`, `high`, `null_mean`, `null_low`, `null_high`, `p`, `q`, `n_pairs`, `shared_genes`,
        `target`, `source`.

    Returns
    -------
    plotly.graph_objects.Figure
        Percent of the way; values with q <= 0.05 are bold, the head that moves cells furthest is framed.

    Raises
    ------
    EvaluationError
        If a column is missing, there are several pairs of groups, a head is there twice, or no share is finite.
    """
    what = "transfer map"
    numeric = ["layer", "head", "moved", "low", "high", "null_mean", "null_low", "null_high", "p", "q"]
    rows = checked(table, what, ["target", "source"], [*numeric, "n_pairs", "shared_genes"])
    groups = list(dict.fromkeys(zip(rows["target"], rows["source"], strict=True)))
    if len(groups) > 1:
        names = "; ".join(f"'{target}' with '{source}'" for target, source in groups)
        raise refusal(what, f"its table has several contrasts ({names}); pass one.")
    heads = rows[~(rows["head"] < 0)]
    if heads.empty:
        raise refusal(what, "its table has no row of a head.")
    target, source = groups[0]
    cells, layers, columns = placed(heads, "moved", what)
    cells["bold"] = cells["q"] <= ALPHA
    with_null = bool(np.isfinite(cells["null_mean"]).any())
    cells["hover"] = [
        f"layer {int(r.layer)}, head {int(r.head)}<br>moved {_way(r.moved)} of the way from {label(target)} to "
        f"{label(source)}<br>95 % bootstrap interval {_way(r.low)} to {_way(r.high)}<br>n = {number(r.n_pairs)} "
        f"pairs of cells, {number(r.shared_genes)} shared genes (mean)<br>"
        + (
            f"null {_way(r.null_mean)}, 95 % bootstrap interval {_way(r.null_low)} to {_way(r.null_high)}"
            f"<br>{p_and_q(r)}"
            if np.isfinite(r.null_mean)
            else "no null was drawn"
        )
        for r in records(cells)
    ]
    most = cells.iloc[int(np.nanargmax(cells["value"]))]
    null = (
        f"Null (another cell of the target group as source): means {_way(cells['null_mean'].min())} to "
        f"{_way(cells['null_mean'].max())}; p: one-sided, above the null."
        if with_null
        else "No null was drawn, so there is no p and no q."
    )
    subtitle = (
        f"Activation patching: share of the way from the mean embedding of target cells ({target}; 0 %) to that of source cells ({source}; "
        f"100 %). n = {len(cells)} heads, {span(cells['n_pairs'])} pairs of cells, {span(cells['shared_genes'])} shared "
        f"genes in the mean. {bold_heads(cells)}; frame: furthest, {head_name(most)}. {null} On hover: 95 % bootstrap interval."
    )
    colors = colors_of(cells["value"], "moved", "% of the way", factor=100)
    title = "How far each head moves target cells towards source cells"
    return heatmap(cells, layers, columns, colors, title, subtitle, frame=most)


def _way(share: float) -> str:
    return f"{number(100 * share)} %"
