"""The factors of an operator: what breaks without each, endpoint by endpoint, and which genes it reads and writes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.checks import checked, chosen, each_once, known_name, records, refusal, undrawn, with_value
from workbench.figures.facets import facets, gene_rows, heading_of, lines_of, list_undrawn, named_rows
from workbench.figures.forest import null_bars
from workbench.figures.heatmap import colors_of, heatmap
from workbench.figures.marks import ALPHA, NULL_KEY, bars, legend_keys, marks, mean_sd, null_of, p_and_q, spread
from workbench.figures.style import ACCENT, INK, QUIET, dressed, label, number, of_height, short, span, wrapped

SIDES = ("read", "write")
GENES = 12
_ROW = 26
# By the sign of a loading, which has no better side: told apart with any colour vision, and by direction.
_SIGNS = {1: "#542788", -1: "#B35806"}
_GENE, _BETWEEN = 19, 58


def factor_drops(table: pd.DataFrame, how: str = "mean") -> go.Figure:
    """Mean drop over all endpoint metrics when a factor is removed, with its null, and the cumulative share.

    Parameters
    ----------
    table
        One row per factor and way of removing it: `factor`, `how`, `impact` (mean drop over endpoint metrics), `sd`,
        `null_mean`, `null_high`, `p`, `q`, `share` (of the summed positive impacts), `cumulative`, `n_splits`.
    how
        How the factor was removed: ``zero`` or ``mean``, a value of the column `how`.

    Returns
    -------
    plotly.graph_objects.Figure
        Factors from the largest impact down: bars with sd, filled where q <= 0.05, on grey ones for the null; beside
        them the cumulative share as a line. Factors without an impact are listed.

    Raises
    ------
    EvaluationError
        If a column is missing, the way is unknown, a factor is there twice, or no impact is finite.
    """
    what = "figure of drops"
    numeric = ["impact", "sd", "null_mean", "null_high", "p", "q", "share", "cumulative", "n_splits"]
    rows = chosen(checked(table, what, ["factor", "how"], numeric), "how", how, what)
    each_once(rows, ["factor"], what)
    drawn = with_value(rows, "impact", what).sort_values("impact", ascending=False, kind="stable")
    lost = [f"{name}: no endpoint has a value" for name in rows["factor"].drop(index=drawn.index)]
    names = [label(name) for name in drawn["factor"]]
    hover = [
        f"{label(r.factor)} removed ({label(r.how)})<br>mean drop {mean_sd(r.impact, r.sd, r.n_splits, 'splits')}<br>"
        f"{null_of(r)}<br>{p_and_q(r)}<br>share {_percent(r.share)}, cumulative {_percent(r.cumulative)}"
        for r in records(drawn)
    ]
    total = max(150, _ROW * len(drawn) + 16)
    above = 66
    titles = [heading_of(name, width=50) for name in ("Mean drop without the factor", "Cumulative share")]
    sides = {"column_widths": [0.68, 0.32], "shared_yaxes": True, "horizontal_spacing": 0.03}
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, **sides).update_annotations(font={"size": 13})
    known = bool(np.isfinite(drawn["null_high"]).any())
    if known:
        figure.add_trace(null_bars(names, drawn["null_mean"], drawn["null_high"]), row=1, col=1)
    small = drawn["q"] <= ALPHA
    line = {"color": ACCENT, "width": 1.6}
    look: dict[str, Any] = {
        "error_x": spread(drawn["sd"], color=INK, thickness=1.2, width=3),
        "marker": {"color": [ACCENT if s else "white" for s in small], "line": line},
    }
    figure.add_trace(bars(drawn["impact"], names, hover, width=0.36, name="drop", **look), row=1, col=1)
    shares = list(enumerate(drawn["cumulative"]))
    look = {
        "text": [_percent(value) if i < 4 or i == len(drawn) - 1 else "" for i, value in shares],
        "textposition": "middle left",
        "textfont": {"size": 11, "color": INK},
        "line": {"color": _SIGNS[-1], "width": 2},
        "marker": {"symbol": "diamond", "size": 7, "color": _SIGNS[-1]},
    }
    named: dict[str, Any] = {"mode": "lines+markers+text", "name": "cumulative share"}
    figure.add_trace(marks(drawn["cumulative"], names, hover, **named, **look), row=1, col=2)
    square = {"symbol": "square", "size": 11, "line": line}
    keys = [
        (f"drop ± sd, q ≤ {ALPHA}", {**square, "color": ACCENT}),
        (f"drop ± sd, q > {ALPHA} or no q", {**square, "color": "white"}),
        ("null, from its mean to its upper bound", NULL_KEY),
    ]
    legend_keys(figure, keys if known else keys[:2])
    first = drawn.head(4)
    null = "Null: the held-out cells relabelled inside their groups." if known else "No null was drawn."
    subtitle = (
        f"n = {len(drawn)} factors, one at a time {removed(how)}, probes fixed; mean over endpoint metrics, ± sd over n = "
        f"{span(drawn['n_splits'])} splits. {null} q ≤ {ALPHA} (Benjamini-Hochberg): "
        f"{int(small.sum())} of {len(drawn)}. The first {len(first)} ({', '.join(first['factor'])}) hold "
        f"{_percent(first['cumulative'].iloc[-1])} of the summed positive drops."
    )
    dressed(figure, "What breaks without each factor", subtitle, total, above=above, legend=True)
    figure.update_layout(barmode="overlay", bargap=0.2)
    drop = {"title": "drop of the score (above 0: worse without it)", "zeroline": True, "zerolinecolor": INK}
    figure.update_xaxes(**drop, row=1, col=1)
    figure.update_xaxes(title="share of the summed positive drops", tickformat=".0%", range=[0, 1.04], row=1, col=2)
    named_rows(figure, names)
    return list_undrawn(figure, lost)


def factor_effects(table: pd.DataFrame, how: str = "mean") -> go.Figure:
    """Heat map of what each endpoint metric loses when a factor is removed.

    Parameters
    ----------
    table
        One row per factor, way of removing it, endpoint and metric: `factor`, `how`, `endpoint`, `metric`, `drop` (above
        0: worse without the factor), `sd`, `n_splits`, `null_high`, `p`, `q`, `intact`.
    how
        How the factor was removed: ``zero`` or ``mean``, a value of the column `how`.

    Returns
    -------
    plotly.graph_objects.Figure
        Factors by endpoint metrics, in the order of the table; bold and starred where q <= 0.05, a dash without value.

    Raises
    ------
    EvaluationError
        If a column is missing, the way is unknown, a place is there twice, or no drop is finite.
    """
    what = "figure of effects"
    numeric = ["drop", "sd", "n_splits", "null_high", "p", "q", "intact"]
    rows = chosen(checked(table, what, ["factor", "how", "endpoint", "metric"], numeric), "how", how, what)
    each_once(rows, ["factor", "endpoint", "metric"], what)
    drawn = with_value(rows, "drop", what)
    cells = rows.assign(row=rows["factor"], value=rows["drop"], bold=(rows["q"] <= ALPHA) & np.isfinite(rows["drop"]))
    cells["column"] = cells["endpoint"] + ", " + cells["metric"]
    cells["hover"] = [
        f"{label(r.factor)} removed ({label(r.how)}): {label(r.column)}<br>drop {mean_sd(r.drop, r.sd, r.n_splits, 'splits')}, "
        f"intact {number(r.intact)}<br>null, upper bound {number(r.null_high)}<br>{p_and_q(r)}"
        for r in records(cells)
    ]
    names, columns = (list(dict.fromkeys(cells[column])) for column in ("row", "column"))
    strong = int((drawn["q"] <= ALPHA).sum())
    subtitle = (
        f"Drop of the score when one factor is {removed(how)}, probes fixed; above 0, red: worse without it. n = {len(names)} "
        f"factors, {span(drawn['n_splits'])} splits; sd over them: {span(drawn['sd'].round(3))}. Null: the held-out "
        f"cells relabelled inside their groups. Starred: q ≤ {ALPHA} (Benjamini-Hochberg over all), {strong} of {len(drawn)}."
    )
    colors = colors_of(cells["value"], "drop", worse=1, factor=1)
    figure = heatmap(cells, names, columns, colors, "What each factor is needed for", subtitle, ("", "factor"))
    figure.data[0].text = [[text.replace("</b>", "*</b>") for text in line] for line in figure.data[0].text]
    each = cells.drop_duplicates("column")
    ticks = ["<br>".join([*wrapped(r.endpoint, 13), *wrapped(r.metric, 13)]) for r in records(each)]
    figure.update_xaxes(ticktext=ticks, tickangle=0, tickfont={"size": 12})
    deeper = max(0, lines_of(ticks) - 34)
    of_height(figure.update_layout(margin={"b": figure.layout.margin.b + deeper}), figure.layout.height + deeper)
    return list_undrawn(figure, undrawn(rows, drawn, ["endpoint", "metric"], "factor", "no value"))


def factor_genes(genes: pd.DataFrame, programs: pd.DataFrame, top: int = 4) -> go.Figure:
    """Genes that the first factors read and write, with the best gene program of each side.

    Parameters
    ----------
    genes
        One row per factor, side and gene: `factor`, `side` ("read" or "write"), `gene`, `loading`, `rank`, `share` (of
        bootstrap draws in which the gene is among the first; NaN without bootstrap). Factors in the order to draw.
    programs
        One row per factor, side and tested program: `factor`, `side`, `direction`, `method`, `term`, `q`, `score`.
    top
        How many factors are drawn, 1 or more, in the order of `genes`.

    Returns
    -------
    plotly.graph_objects.Figure
        Per factor and side the twelve genes with the largest absolute loadings as signed bars, the paler the smaller
        the share, and over each facet the program with the smallest q.

    Raises
    ------
    EvaluationError
        If a column is missing, a side is unknown, a gene is in a facet twice, `top` is below 1, or no loading is finite.
    """
    what = "figure of genes"
    rows = checked(genes, what, ["factor", "side", "gene"], ["loading", "rank", "share"])
    tested = checked(programs, what, ["factor", "side", "direction", "method", "term"], ["q", "score"])
    for side in dict.fromkeys([*rows["side"], *tested["side"]]):
        known_name("side", side, SIDES, what)
    if top < 1:
        raise refusal(what, f"'top' is {top}; ask for at least 1 factor.")
    each_once(rows, ["factor", "side", "gene"], what)
    known = with_value(rows[rows["loading"] != 0], "loading", what)
    factors = list(dict.fromkeys(known["factor"]))[:top]
    known = known[known["factor"].isin(factors)].assign(size=known["loading"].abs())
    firsts = known.sort_values(["size", "gene"], ascending=[False, True]).groupby(["factor", "side"]).head(GENES)
    bootstrapped = bool(np.isfinite(firsts["share"]).any())
    places = [(factor, side) for factor in factors for side in SIDES]
    titles = [_program(factor, side, tested) for factor, side in places]
    most, lines = int(firsts.groupby(["factor", "side"]).size().max()), lines_of(titles)
    figure, at_of, total = facets(titles, _GENE * max(4, most), 2, _BETWEEN + lines, spacing=0.12, shared_rows=False)
    reach = 1.08 * float(firsts["size"].max())
    for (factor, side), at in zip(places, at_of, strict=True):
        own = firsts[(firsts["factor"] == factor) & (firsts["side"] == side)].sort_values("loading", kind="stable")
        figure.add_trace(_loadings(own, bootstrapped), **at)
        figure.update_xaxes(range=[-reach, reach], nticks=7, zeroline=True, zerolinecolor=QUIET, **at)
        gene_rows(figure, own["gene"].tolist(), at)
    figure.update_xaxes(title="loading", row=len(factors))
    keys = [("loading above 0", _key(1, 1.0)), ("below 0", _key(-1, 1.0))]
    for share in (1.0, 0.5, 0.0) if bootstrapped else ():
        keys.append((f"in {_percent(share)} of draws" + ("" if share else ", or unknown"), _key(1, share)))
    legend_keys(figure, keys)
    shares = (
        f"Paler: in fewer bootstrap draws among the first genes of the factor (share {span(firsts['share'].round(2))})."
        if bootstrapped
        else "No bootstrap was made, so nothing is said about how stable these genes are."
    )
    subtitle = (
        f"n = {len(factors)} factors, per side the {GENES} genes with the largest absolute loading. {shares} Over each plot the program "
        f"with the smallest q (Benjamini-Hochberg over all factors, sides and programs of a method), programs "
        f"tested: n = {tested['term'].nunique()}. A factor means the same when both of its sides change sign."
    )
    above = 34 + lines
    dressed(figure, "What the first factors read and write", subtitle, total, above=above, legend=True)
    empty = [f"{f}, {s}: no gene" for f, s in places if not ((firsts["factor"] == f) & (firsts["side"] == s)).any()]
    return list_undrawn(figure, empty)


def _program(factor: str, side: str, tested: pd.DataFrame) -> str:
    """Heading of a facet: the factor, the side, and the program that is nearest to significance."""
    own = tested[(tested["factor"] == factor) & (tested["side"] == side) & np.isfinite(tested["q"])]
    if own.empty:
        return heading_of(f"{factor} {side}s", "no program was tested", width=36)
    first = own.assign(size=-own["score"].abs()).sort_values(["q", "size", "term"]).iloc[0]
    how = f"{first['method']} {first['direction']}, score {number(first['score'])}, q = {number(first['q'], 2)}"
    said = f"{short(first['term'], 60)} ({how})"
    if first["q"] > ALPHA:
        said = f"no program with q ≤ {ALPHA}; nearest: {said}"
    return heading_of(f"{factor} {side}s", said, width=36)


def _loadings(own: pd.DataFrame, bootstrapped: bool) -> go.Bar:
    signs = [1 if value >= 0 else -1 for value in own["loading"]]
    opaque = own["share"].fillna(0.0 if bootstrapped else 1.0)
    hover = [
        f"{label(r.gene)}: {label(r.factor)} {label(r.side)}s<br>loading {number(r.loading)}, rank {number(r.rank)}<br>"
        f"among the first in {_percent(r.share)} of bootstrap draws"
        for r in records(own)
    ]
    line = {"color": [_SIGNS[sign] for sign in signs], "width": 1.2}
    marker = {"color": [_shade(sign, share) for sign, share in zip(signs, opaque, strict=True)], "line": line}
    return bars(own["loading"], own["gene"].map(label).tolist(), hover, width=0.72, name="genes", marker=marker)


def _shade(sign: int, opacity: float) -> str:
    color = _SIGNS[sign]
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {float(np.clip(opacity, 0, 1)):.3f})"


def _key(sign: int, opacity: float) -> dict:
    line = {"color": _SIGNS[sign], "width": 1.2}
    return {"symbol": "square", "size": 11, "color": _shade(sign, opacity), "line": line}


def removed(how: str) -> str:
    """How factors were removed, in words.

    Parameters
    ----------
    how
        Way of taking out, ``zero`` or ``mean``, see `workbench.factors.necessity`; any other is returned as it is.
    """
    return {"mean": "set to the mean of the training cells", "zero": "set to zero"}.get(how, how)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else "–"
