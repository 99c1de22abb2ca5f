"""What features of a dictionary cause: their effects beside features that are alike, and which drive which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, chosen, each_once, records, refusal, with_value
from workbench.figures.facets import facets, quiet
from workbench.figures.forest import Facet, forest
from workbench.figures.marks import ALPHA, NULL_KEY, Look, marks, p_and_q, sure_keys
from workbench.figures.style import ACCENT, INK, QUIET, counted, dressed, label, metric_title, number, short, span
from workbench.stats import spearman

_NUMBERS = tuple(
    "feature rate norm effect low high n_cells null_low null_high n_null n_alike worse p q smallest_p".split()
)
_EDGES = "source target strength source_rate target_rate q".split()
_BELOW = "#B2182B"
_STEP, _LEAST = 26, 320


def feature_intervals(table: pd.DataFrame, metric: str | None = None, top: int = 20) -> go.Figure:
    """Features with the largest effects, each with its interval and the range of the features that are like it.

    Parameters
    ----------
    table
        Effects of features on one metric or more, from `workbench.feature_effects`.
    metric
        Metric to draw, one of the table's column `metric`; its first when None.
    top
        How many features, at most.

    Returns
    -------
    plotly.graph_objects.Figure
        One row per feature, the largest effect first: worst where the metric has a worse side, else by size.

    Raises
    ------
    EvaluationError
        If a column is missing, the metric is unknown, a feature is there twice, or no effect is finite.
    """
    what = "figure of feature effects"
    rows = checked(table, what, ["metric", "unit", "ablation", "how"], _NUMBERS)
    rows = chosen(rows, "metric", metric, what)
    each_once(rows, ["ablation", "how"], what)
    every = with_value(rows, "effect", what)
    metric, first = every["metric"].iloc[0], every.iloc[0]
    worse = 0 if np.isnan(first["worse"]) else int(first["worse"])
    score = every["effect"].abs() if worse == 0 else worse * every["effect"]
    drawn = every.loc[score.sort_values(ascending=False, kind="stable").index[: max(1, top)]]
    sure = (drawn["q"] <= ALPHA) & ~((drawn["low"] <= 0) & (drawn["high"] >= 0))
    with_null = bool(np.isfinite(drawn["null_low"]).any())
    drawn = drawn.assign(
        row=[f"F{int(k)}" for k in drawn["feature"]],
        value=drawn["effect"],
        filled=sure,
        null_from=drawn["null_low"],
        text=[number(value, 2) for value in drawn["effect"]],
        hover=[
            f"{label(r.ablation)} ({label(r.how)})<br>effect {number(r.effect)} {label(r.unit)}<br>95 % bootstrap interval {number(r.low)} to "
            f"{number(r.high)}<br>n = {number(r.n_cells)} cells<br>fires at {number(100 * r.rate)} % of genes, norm {number(r.norm)}<br>"
            + (
                f"alike: {number(r.null_low)} to {number(r.null_high)} ({int(r.n_null)} of {int(r.n_alike)} features)<br>{p_and_q(r)}"
                if r.n_null > 0
                else "no feature is alike"
            )
            for r in records(drawn)
        ],
    )
    if not with_null:
        drawn = drawn.drop(columns="null_high")
    reach = float(every["smallest_p"].min())
    null = (
        f"Grey: range of {span(drawn['n_null'])} other features alike in firing rate and norm; smallest p {number(reach, 2)}, q over n = {len(every)} "
        "features."
        if with_null
        else "No features are alike, so there is no p and no q."
    )
    subtitle = (
        f"{metric_title(metric)}: the {len(drawn)} of n = {len(every)} features of {label(first['ablation'].rpartition('.')[0])} with the {'largest' if worse == 0 else 'worst'} effects of {first['how']}, "
        f"{span(drawn['n_cells'])} cells. Points: mean over cells with 95 % bootstrap intervals. Filled: q ≤ {ALPHA} and an interval without 0, "
        f"{int(sure.sum())} of {len(drawn)}. {null}"
    )
    unit = f"effect ({first['unit']})" if first["unit"] else "effect"
    part = Facet("", drawn, {"title": label(unit), "exponentformat": "power"})
    keys = [*sure_keys(), *([("range of features that are alike", NULL_KEY)] if with_null else [])]
    pixels: Look = {"head": 0, "above": 40, "below": 60, "bounds": False}
    title = f"What features cause: {short(metric_title(metric), 40)}"
    figure = forest([part], drawn["row"].tolist(), title, subtitle, keys, **pixels)
    return figure.add_vline(x=0, line={"color": INK, "width": 1})


def feature_estimates(table: pd.DataFrame) -> go.Figure:
    """Effects of features estimated by gradients, against those of ablation where they were measured.

    Parameters
    ----------
    table
        ``table`` of one `workbench.feature_attribution`, or of several with their ``hook``, one below the other.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per hook and metric: a point per feature that was ablated, the line where both are the same, and ticks below for the
        estimates of all features.

    Raises
    ------
    EvaluationError
        If a column is missing, or no feature was ablated.
    """
    what = "figure of estimated effects"
    text = ["metric", *(["hook"] if "hook" in table else [])]
    rows = checked(table, what, text, ["feature", "rate", "estimated", "n_cells", "exact"])
    rows = rows if "hook" in rows else rows.assign(hook="")
    places_of = rows[["hook", "metric"]].drop_duplicates().itertuples(index=False, name=None)
    every = [(place, rows[(rows["hook"] == place[0]) & (rows["metric"] == place[1])]) for place in places_of]
    parts = [(place, part) for place, part in every if part["exact"].notna().any()]
    if not parts:
        raise refusal(what, "no feature has an exact effect; ask for a check of some.")
    titles = [
        f"{metric_title(metric)}{f', {label(hook)}' if hook else ''}<br>{quiet(f'rho {number(_rho(part), 2)} over {part.exact.notna().sum()} of {len(part)}')}"
        for (hook, metric), part in parts
    ]
    figure, places, total = facets(titles, 250, 2, 110, spacing=0.13, font=12, shared_rows=False)
    for (_, part), at in zip(parts, places, strict=True):
        known = part[part["exact"].notna()]
        ends = [
            min(known["exact"].min(), part["estimated"].min(), 0),
            max(known["exact"].max(), part["estimated"].max(), 0),
        ]
        pad = 0.06 * (ends[1] - ends[0]) or 1.0
        ends = [ends[0] - pad, ends[1] + pad]
        figure.add_trace(marks(ends, ends, mode="lines", line={"color": QUIET, "width": 1, "dash": "dot"}), **at)
        hover = [
            f"F{int(r.feature)}<br>estimated {number(r.estimated)}<br>exact {number(r.exact)}<br>fires at {number(100 * r.rate)} % of genes"
            for r in records(known)
        ]
        marker = {"size": 7, "color": ACCENT, "opacity": 0.8}
        figure.add_trace(marks(known["estimated"], known["exact"], hover, marker=marker), **at)
        ticks = {"symbol": "line-ns-open", "size": 7, "color": QUIET}
        figure.add_trace(marks(part["estimated"], np.full(len(part), ends[0]), marker=ticks), **at)
        figure.update_xaxes(title="estimated effect", range=ends, exponentformat="power", nticks=5, **at)
        title = "exact effect" if at["col"] == 1 else None
        figure.update_yaxes(title=title, range=ends, exponentformat="power", nticks=5, **at)
    subtitle = (
        f"Points: features that were ablated, drawn at random, mean over n = {span(rows['n_cells'])} cells. Ticks: estimates of all features by one backward pass. "
        "Dotted: estimated = exact. No spread and no null is drawn here: estimates choose what is to be ablated."
    )
    return dressed(
        figure, "Effects of features estimated by gradients, against exact ones", subtitle, total, above=70, below=60
    )


def _rho(part: pd.DataFrame) -> float:
    known = part[part["exact"].notna()]
    return spearman(known["estimated"].to_numpy(), known["exact"].to_numpy())


def feature_graph(edges: pd.DataFrame, top: int = 60) -> go.Figure:
    """Features as nodes, hooks as columns, and the strongest edges between them.

    Parameters
    ----------
    edges
        ``edges`` of one `workbench.feature_circuit`, or of several, one below the other; those with q over 0.05 are not drawn.
    top
        How many edges, at most: those of the largest strength.

    Returns
    -------
    plotly.graph_objects.Figure
        Width of an edge: its strength; blue gives, red takes away. Size of a node: how often it fires. Edges are read on hover at their middle.

    Raises
    ------
    EvaluationError
        If a column is missing, or hooks drive each other in a circle.
    """
    what = "graph of features"
    rows = checked(edges, what, ["source_hook", "target_hook"], _EDGES)
    columns = _columns(rows, what)
    found = rows[rows["q"] <= ALPHA]
    order = found["strength"].abs().sort_values(ascending=False, kind="stable").index
    drawn = found.loc[order[: max(1, top)]]
    nodes = _nodes(drawn, columns)
    high = max(nodes.groupby("hook").size().max() if len(nodes) else 1, 1)
    figure = go.Figure()
    most = float(drawn["strength"].abs().max()) if len(drawn) else 1.0
    middles: dict[str, list[Any]] = {"x": [], "y": [], "hover": []}
    for r in records(drawn):
        a, b = nodes.loc[(r.source_hook, r.source)], nodes.loc[(r.target_hook, r.target)]
        line = {"width": 0.6 + 5 * abs(r.strength) / most, "color": ACCENT if r.strength > 0 else _BELOW}
        figure.add_trace(marks([a["x"], b["x"]], [a["y"], b["y"]], mode="lines", line=line, opacity=0.55))
        middles["x"].append((a["x"] + b["x"]) / 2)
        middles["y"].append((a["y"] + b["y"]) / 2)
        middles["hover"].append(
            f"F{int(r.source)} of {label(r.source_hook)}<br>to F{int(r.target)} of {label(r.target_hook)}<br>strength {number(r.strength)}, q = "
            f"{number(r.q)}"
        )
    if len(drawn):
        look = {"size": 10, "color": "rgba(0,0,0,0)"}
        figure.add_trace(marks(middles["x"], middles["y"], middles["hover"], marker=look))
        hover = [
            f"F{int(r.feature)} of {label(r.hook)}<br>fires at {number(100 * r.rate)} % of genes"
            for r in records(nodes)
        ]
        size = 8 + 10 * np.sqrt(nodes["rate"] / nodes["rate"].max())
        names = [f"F{int(k)}" for k in nodes["feature"]]
        marker = {"size": size, "color": "white", "line": {"color": INK, "width": 1.5}}
        figure.add_trace(
            marks(nodes["x"], nodes["y"], hover, mode="markers+text", text=names, textposition="top center",
                  textfont={"size": 10, "color": INK}, marker=marker)
        )  # fmt: skip
    named = {"tickvals": list(range(len(columns))), "ticktext": [label(name) for name in columns]}
    figure.update_xaxes(**named, showgrid=False, zeroline=False, range=[-0.3, len(columns) - 0.7])
    figure.update_yaxes(visible=False, range=[-0.8, high])
    if not len(drawn):
        where = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper"}
        figure.add_annotation(
            text=f"no edge has q ≤ {ALPHA}", showarrow=False, font={"color": QUIET, "size": 14}, **where
        )
    subtitle = (
        f"The {counted(len(drawn), 'edge')} of largest strength of {len(found)} with q ≤ {ALPHA}, of n = {len(rows)} pairs. Strength: what a feature gives to the mean "
        "activation of the other, to first order. Null: random mixtures that read as much and fire as often. Blue gives, red takes away; size: how often a feature fires."
    )
    return dressed(figure, "Which features drive which", subtitle, max(_LEAST, _STEP * int(high)), above=30, below=60)


def _columns(rows: pd.DataFrame, what: str) -> list[str]:
    """Hooks from left to right: each behind all that drive it."""
    pairs = set(zip(rows["source_hook"], rows["target_hook"], strict=True))
    left, order = list(dict.fromkeys([*rows["source_hook"], *rows["target_hook"]])), list[str]()
    while left:
        free = [name for name in left if not any(b == name and a in left for a, b in pairs)]
        if not free:
            raise refusal(what, f"its hooks drive each other in a circle ({', '.join(left)}).")
        order += free
        left = [name for name in left if name not in free]
    return order


def _nodes(drawn: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A row per feature with an edge, and its place: in its column by the mean place of what drives it."""
    ends = [
        drawn[[f"{end}_hook", end, f"{end}_rate"]].set_axis(["hook", "feature", "rate"], axis=1)
        for end in ("source", "target")
    ]
    nodes = pd.concat(ends).drop_duplicates(["hook", "feature"]).reset_index(drop=True)
    nodes["x"], nodes["y"] = nodes["hook"].map({name: float(i) for i, name in enumerate(columns)}), 0.0
    nodes = nodes.set_index(["hook", "feature"], drop=False).rename_axis([None, None]).sort_index()
    high = max(nodes["hook"].value_counts().max(), 1) if len(nodes) else 1
    for name in columns:
        own = nodes.index[nodes["hook"] == name]
        before = drawn[drawn["target_hook"] == name]
        places = [nodes.loc[(r.source_hook, r.source), "y"] for r in records(before)]
        mean = pd.Series(places, index=before["target"].to_numpy(), dtype=float).groupby(level=0).mean()
        sorted_by = sorted(own, key=lambda node: (mean.get(node[1], np.inf), node[1]))
        for i, node in enumerate(sorted_by):
            nodes.loc[node, "y"] = (high - 1) * (i + 0.5) / len(sorted_by)
    return nodes
