"""The benchmark as a whole: wins, ties and losses, mean ranks with critical differences, and what methods cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.added import LINE, heading_of, legend_above, once
from workbench.figures.benchmark import group_color
from workbench.figures.panels import legend_keys
from workbench.figures.style import (
    INK,
    ON_FILL,
    QUIET,
    RULE,
    checked,
    dressed,
    label,
    number,
    records,
    short,
    span,
    with_value,
    wrapped,
)

_CELL = 24
# Blue for better, orange for worse (Okabe & Ito), pale for neither, as colour scale from loss to win.
_OUTCOMES = {"loss": -1.0, "tie": 0.0, "win": 1.0}
_SCALE = [[0, "#F0A070"], [0.33, "#F0A070"], [0.34, "#ededf0"], [0.66, "#ededf0"], [0.67, "#7db8e0"], [1, "#7db8e0"]]


def benchmark_tally(comparisons: pd.DataFrame) -> go.Figure:
    """Outcome of ours against each method on each endpoint metric. There is no sum over methods.

    Parameters
    ----------
    comparisons
        `ours`, `method`, `endpoint`, `metric`, `difference`, `q`, `n_splits`, `outcome`, of one kind of split.

    Returns
    -------
    plotly.graph_objects.Figure
        A cell has the difference; its colour is the outcome, a blank one has no split in which both are defined.

    Raises
    ------
    EvaluationError
        If a column is missing or a method is in a column twice.
    """
    what = "table of wins, ties and losses"
    rows = checked(
        comparisons, what, ["ours", "method", "endpoint", "metric", "outcome"], ["difference", "q", "n_splits"]
    )
    once(rows, ["endpoint", "metric", "method"], what)
    ours = rows["ours"].iloc[0]
    rows["column"] = [f"{label(r.endpoint)}<br>{label(r.metric)}" for r in records(rows)]
    methods, columns = list(dict.fromkeys(rows["method"])), list(dict.fromkeys(rows["column"]))
    place = {name: i for i, name in enumerate(methods)}
    colors = np.full((len(methods), len(columns)), np.nan)
    texts = np.full(colors.shape, "", dtype=object)
    hovers = np.full(colors.shape, "", dtype=object)
    for r in records(rows):
        at = place[r.method], columns.index(r.column)
        colors[at] = _OUTCOMES.get(r.outcome, np.nan)
        texts[at] = f"{r.difference:+z.2f}" if np.isfinite(r.difference) else "–"
        hovers[at] = (
            f"{label(r.method)}<br>{label(r.endpoint)}, {label(r.metric)}<br>difference {number(r.difference)}, q = {number(r.q)}, n = "
            f"{number(r.n_splits)} splits: {label(r.outcome)}"
        )
    counts = rows.groupby("method", sort=False)["outcome"].value_counts().unstack(fill_value=0)
    sums = [
        f"{int(counts.loc[name].get('win', 0))} / {int(counts.loc[name].get('tie', 0))} / {int(counts.loc[name].get('loss', 0))}"
        for name in methods
    ]
    figure = go.Figure(
        go.Heatmap(
            z=colors,
            x=columns,
            y=[label(name) for name in methods],
            text=texts,
            texttemplate="%{text}",
            textfont={"size": 11, "color": ON_FILL},
            hovertext=hovers,
            hoverinfo="text",
            colorscale=_SCALE,
            zmin=-1,
            zmax=1,
            showscale=False,
            xgap=1,
            ygap=1,
        )
    )
    for name, said in zip(methods, sums, strict=True):
        figure.add_annotation(
            x=1,
            xref="paper",
            y=label(name),
            text=said,
            showarrow=False,
            xanchor="left",
            xshift=8,
            font={"size": 12, "color": INK},
        )
    figure.add_annotation(
        x=1, xref="paper", y=0, yref="paper", yshift=-14, text="win / tie / loss", showarrow=False, xanchor="left", xshift=4,
        font={"size": 11, "color": QUIET},
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", tickfont={"size": 11}, dtick=1)
    figure.update_xaxes(showgrid=False, ticks="", tickangle=-60, tickfont={"size": 11}, dtick=1)
    keys = [("ours better", "#7db8e0"), ("no sure difference", "#ededf0"), ("ours worse", "#F0A070")]
    marks = [
        (name, {"color": color, "size": 12, "symbol": "square", "line": {"color": QUIET, "width": 1}})
        for name, color in keys
    ]
    legend_keys(figure, marks)
    subtitle = (
        f"Mean difference over n = {span(rows.loc[rows['n_splits'] > 0, 'n_splits'])} splits, above 0 where {ours} is better; coloured where q ≤ 0.05 "
        "(two-sided Wilcoxon over splits, Benjamini-Hochberg over the endpoint metrics of a method)."
    )
    total = _CELL * len(methods)
    dressed(figure, f"Where {ours} wins, ties and loses", subtitle, total, above=36, below=190)
    legend_above(figure, total, 36)
    return figure.update_layout(margin={"r": 110})


def benchmark_ranks(ranks: pd.DataFrame, keep: int = 14) -> go.Figure:
    """Mean rank of the methods, one panel per endpoint metric, with the critical difference from the best.

    Parameters
    ----------
    ranks
        `endpoint`, `metric`, `method`, `mean_rank`, `n_splits`, `n_methods`, `critical_difference`, `friedman_p`, of one kind.
    keep
        Methods that a panel shows: those of the best mean ranks.

    Returns
    -------
    plotly.graph_objects.Figure
        Filled marks are within the critical difference of the best mean rank: not surely worse than it.

    Raises
    ------
    EvaluationError
        If a column is missing, a method is in a panel twice, or there is no rank.
    """
    what = "figure of mean ranks"
    numeric = ["mean_rank", "n_splits", "n_methods", "critical_difference", "friedman_p"]
    rows = with_value(checked(ranks, what, ["endpoint", "metric", "method"], numeric), "mean_rank", what)
    once(rows, ["endpoint", "metric", "method"], what)
    parts = list(rows.groupby(["endpoint", "metric"], sort=False))
    titles = [
        heading_of(
            str(endpoint),
            f"{metric}; Friedman p = {number(part['friedman_p'].iloc[0])}",
            f"{len(part)} methods, n = {number(part['n_splits'].iloc[0])} splits, critical difference {number(part['critical_difference'].iloc[0])}",
            width=36,
        )
        for (endpoint, metric), part in parts
    ]
    shown = min(keep, max(len(part) for _, part in parts))
    down, across = -(-len(parts) // 2), min(2, len(parts))
    each, lines = 20 * shown + 16, LINE * max(title.count("<br>") + 1 for title in titles) + 12
    axis = 60
    total = each * down + (lines + axis) * (down - 1)
    figure = make_subplots(
        rows=down,
        cols=across,
        horizontal_spacing=0.3 if across > 1 else 0,
        vertical_spacing=(lines + axis) / total if down > 1 else 0,
        subplot_titles=titles,
        specs=[[{} if r * across + c < len(parts) else None for c in range(across)] for r in range(down)],
    )
    figure.update_annotations(font={"size": 13})
    for i, (_, part) in enumerate(parts):
        at = {"row": i // across + 1, "col": i % across + 1}
        best, distance = part["mean_rank"].min(), part["critical_difference"].iloc[0]
        kept = part.sort_values(["mean_rank", "method"]).head(keep)
        near = kept["mean_rank"] <= best + distance
        names = [label(short(name, 40)) for name in kept["method"]]
        figure.add_trace(
            go.Scatter(
                x=kept["mean_rank"],
                y=names,
                mode="markers",
                marker={
                    "color": "#0072B2",
                    "size": 9,
                    "symbol": ["circle" if one else "circle-open" for one in near],
                    "line": {"width": 2},
                },
                hovertext=[
                    f"{label(r.method)}<br>mean rank {number(r.mean_rank)} of {number(r.n_methods)}, n = {number(r.n_splits)} splits"
                    for r in records(kept)
                ],
                hoverinfo="text",
                showlegend=False,
            ),
            **at,
        )
        figure.add_shape(
            type="rect", x0=best, x1=best + distance, y0=-0.6, y1=shown - 0.4, line={"width": 0}, fillcolor=RULE, opacity=0.45, layer="below", **at
        )  # fmt: skip
        figure.update_xaxes(
            title="mean rank (1: best)",
            range=[0.5, max(kept["mean_rank"].max(), best + distance) + 0.5],
            nticks=7,
            **at,
        )
        figure.update_yaxes(
            type="category", categoryorder="array", categoryarray=names[::-1], range=[len(kept) - shown - 0.6, len(kept) - 0.4],
            showgrid=False, ticks="", tickfont={"size": 11}, dtick=1, **at,
        )  # fmt: skip
    marker = {"color": "#0072B2", "size": 9, "line": {"width": 2}}
    legend_keys(
        figure,
        [
            ("within the critical difference of the best mean rank", {**marker, "symbol": "circle"}),
            ("behind it", {**marker, "symbol": "circle-open"}),
        ],
    )
    subtitle = (
        f"Ranks within each split, averaged; the {shown} best mean ranks of each endpoint metric. Critical difference: Nemenyi, 0.05, as if splits "
        "were independent, which they are not: true ones are larger. Methods that are undefined in a split are left out."
    )
    dressed(figure, "Mean ranks", subtitle, total, above=lines + 34, below=axis)
    legend_above(figure, total, lines + 34)
    return figure.update_layout(margin={"l": 230})


def benchmark_costs(costs: pd.DataFrame, methods: pd.DataFrame) -> go.Figure:
    """Seconds of a split against the numbers that were trained, one mark per method.

    Parameters
    ----------
    costs
        `method`, `split`, `fit_seconds`, `predict_seconds`, `forward_seconds`, `n_parameters`, `peak_bytes`, `status`.
    methods
        `method` and `group`.

    Returns
    -------
    plotly.graph_objects.Figure
        Medians over splits, both axes logarithmic; a key of numbers names the methods.

    Raises
    ------
    EvaluationError
        If a column is missing, or no method has a time.
    """
    what = "figure of costs"
    numeric = ["fit_seconds", "predict_seconds", "forward_seconds", "n_parameters", "peak_bytes"]
    rows = checked(costs, what, ["method", "status"], numeric)
    rows["seconds"] = rows["fit_seconds"] + rows["predict_seconds"] + rows["forward_seconds"]
    rows = with_value(rows, "seconds", what)
    group = dict(zip(methods["method"], methods["group"], strict=True))
    middle = rows.groupby("method", sort=False)[["seconds", *numeric]].median().reset_index()
    middle["n"] = rows.groupby("method", sort=False).size().to_numpy()
    middle = middle.sort_values("seconds", kind="stable").reset_index(drop=True)
    middle["mark"] = [str(i + 1) for i in range(len(middle))]
    figure = go.Figure(
        go.Scatter(
            # A method without any trained number has a place on a logarithmic axis too.
            x=np.maximum(middle["n_parameters"], 1),
            y=middle["seconds"],
            mode="markers+text",
            text=middle["mark"],
            textfont={"size": 10, "color": ON_FILL},
            marker={
                "size": 19,
                "color": "rgba(255, 255, 255, 0.9)",
                "line": {"width": 2.5, "color": [group_color(str(group.get(name, ""))) for name in middle["method"]]},
            },
            hovertext=[
                f"{label(r.method)}<br>{number(r.seconds)} s a split: fit {number(r.fit_seconds)}, answer {number(r.predict_seconds)}, forward passes "
                f"{number(r.forward_seconds)}<br>{number(r.n_parameters)} trained numbers, {number(r.peak_bytes / 2**20)} MiB above the start<br>"
                f"medians of n = {number(r.n)} splits"
                for r in records(middle)
            ],
            hoverinfo="text",
            showlegend=False,
        )
    )
    figure.update_xaxes(type="log", title="trained numbers (medians over splits)")
    figure.update_yaxes(type="log", title="seconds a split")
    key = [
        f"<b>{r.mark}</b> <span style='color:{QUIET}'>{line}</span>"
        if i == 0
        else f"<span style='color:{QUIET}'>{line}</span>"
        for r in records(middle)
        for i, line in enumerate(wrapped(f"{r.method}: {number(r.seconds, 2)} s", 48))
    ]
    total = max(420, 16 * len(key) + 20)
    figure.add_annotation(
        x=1, xref="paper", xanchor="left", xshift=16, y=1, yref="paper", yanchor="top", text="<br>".join(key), showarrow=False, align="left",
        font={"size": 11.5},
    )  # fmt: skip
    groups = dict.fromkeys(str(group.get(name, "")) for name in rows["method"])
    marks = [
        (label(name), {"size": 10, "color": "white", "line": {"width": 2.5, "color": group_color(name)}})
        for name in groups
    ]
    legend_keys(figure, marks)
    subtitle = (
        f"Fit, answer and forward passes of scGPT over the cells of a split (none for methods that need none); medians over n = "
        f"{span(middle['n'])} splits on one machine. Frozen weights are not counted as trained."
    )
    dressed(figure, "What a split costs", subtitle, total, above=36, below=60)
    legend_above(figure, total, 36)
    return figure.update_layout(margin={"r": 330})
