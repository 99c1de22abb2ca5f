"""Sparse dictionaries by layer: what they explain beside a gene's name alone, what the model does with them, and what their features are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, refusal
from workbench.figures.facets import Place, facets
from workbench.figures.marks import SERIES, interval, line_of, marks
from workbench.figures.style import ACCENT, INK, NULL, NULL_EDGE, QUIET, counted, dressed, label, number, span

OWN, GENE = "dictionary", "gene id alone"
_PLACE = ("hook", "kind")
_CONTROLS = {"untrained": "random weights", "shuffled": "dealt anew within genes"}
# Colour and mark of codes and controls, those that are drawn first in front.
_LOOKS = (
    ("#CC6677", "square"),
    ("#117733", "diamond"),
    ("#AA4499", "triangle-up"),
    ("#999933", "cross"),
    ("#44AA99", "star"),
    ("#882255", "x"),
)
_LOWEST = -1.5


def dictionary_variance(summary: pd.DataFrame, codes: pd.DataFrame) -> go.Figure:
    """Variance explained after each layer: the dictionary beside a gene's name alone, simpler codes and controls.

    Parameters
    ----------
    summary
        Table ``dictionary_summary`` of ``workbench dictionary``: a row per hook, source and seed.
    codes
        Table ``dictionary_codes`` of it: a row per hook and code.

    Returns
    -------
    plotly.graph_objects.Figure
        For each kind of hook a facet with the variance explained, and one with what is explained beyond each gene's mean, where the gene's name
        alone is 0.

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    what = "figure of variance explained"
    numeric = ["layer", "variance_explained", "within_genes"]
    ours = checked(
        summary, what, [*_PLACE, "source"], [*numeric, "seed", "within_low", "within_high", "n_rows", "n_cells"]
    )
    others = checked(codes, what, [*_PLACE, "code"], [*numeric, "l0"])
    ours, others = _on_axis(ours), _on_axis(others)
    measures = ("variance_explained", "variance explained"), ("within_genes", "beyond each gene's mean")
    drawn = [(kind, *one) for kind in dict.fromkeys(ours["kind"]) for one in measures]
    drawn = [one for one in drawn if ours.loc[ours["kind"] == one[0], one[1]].notna().any()]
    figure, places, total = facets(
        _titles([(kind, title) for kind, _, title in drawn]), 300, 2, 84, spacing=0.09, shared_rows=False
    )
    seeds = sorted(ours.loc[ours["source"] == "model", "seed"].unique())
    for i, ((kind, column, title), at) in enumerate(zip(drawn, places, strict=True)):
        mine, beside = ours[ours["kind"] == kind], others[(others["kind"] == kind) & (others["code"] != OWN)]
        for j, (code, part) in enumerate(beside.groupby("code", sort=False)):
            if code == GENE and column == "within_genes":
                continue
            look = (INK, "circle") if code == GENE else _LOOKS[(j - 1) % len(_LOOKS)]
            line = _line(part, column, title, str(code), look, i == 0, "dot" if code == GENE else "solid")
            rank, width = (2, 2.4) if code == GENE else (1000, 1)
            figure.add_trace(line.update(line={"width": width}, legendrank=rank), **at)
        for j, (source, part) in enumerate(mine[mine["source"] != "model"].groupby("source", sort=False)):
            name = f"dictionary, {_CONTROLS.get(str(source), str(source))}"
            figure.add_trace(
                _line(
                    part,
                    column,
                    title,
                    name,
                    (NULL_EDGE, ("circle-open", "square-open")[j % 2]),
                    i == 0,
                    ("dash", "dot")[j % 2],
                ),
                **at,
            )
        for seed in seeds[1:]:
            part = mine[(mine["source"] == "model") & (mine["seed"] == seed)]
            ring = {"symbol": "circle-open", "size": 12, "color": ACCENT}
            hover = [
                f"dictionary, seed {number(seed)}, {_at(r)}<br>{title} {number(getattr(r, column))}"
                for r in records(part)
            ]
            figure.add_trace(
                marks(
                    part["at"], part[column], hover, marker=ring, name="other seeds", legend=i == 0 and seed == seeds[1]
                ),
                **at,
            )
        part = mine[(mine["source"] == "model") & (mine["seed"] == seeds[0])]
        bars = {}
        if column == "within_genes":
            bars = {"error_y": interval(part.rename(columns={"within_low": "low", "within_high": "high"}), column)}
        own = _line(part, column, title, OWN, SERIES[0], i == 0, "solid")
        figure.add_trace(own.update(line={"width": 3}, legendrank=1, **bars), **at)
        if column == "within_genes" and GENE in set(beside["code"]):
            figure.add_hline(y=0, line={"color": INK, "width": 2, "dash": "dot"}, **at)
        _layers(figure, mine, at)
        lowest = min(float(np.nanmin(mine[column])), 0)
        figure.update_yaxes(range=[max(lowest - 0.08, _LOWEST), 1.04], **at)
    subtitle = (
        f"On held-out cells, n = {span(ours['n_rows'])} rows of {span(ours['n_cells'])} cells; every code has about as many active numbers as the dictionary "
        f"({number(others.loc[others['code'] == OWN, 'l0'].median())}). Beyond each gene's mean: 0 is what a gene's name alone explains; bars: 95 % over cells; nothing under "
        f"{_LOWEST} is shown."
    )
    return dressed(figure, "What a dictionary explains, beside a gene's name", subtitle, total, above=112, legend=True)


def dictionary_losses(losses: pd.DataFrame) -> go.Figure:
    """Loss of the model recovered with the dictionary in place of the activation, beside the gene's mean.

    Parameters
    ----------
    losses
        Table ``dictionary_losses`` of ``workbench dictionary``: a row per hook, metric and what stands in the place.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet for each metric and what it is measured against; 1 is the intact model.

    Raises
    ------
    EvaluationError
        If a column is missing, or nothing could be judged.
    """
    what = "figure of losses"
    rows = checked(
        losses, what, [*_PLACE, "metric", "replaced_by"], ["layer", "loss", "recovered_zero", "recovered_mean"]
    )
    rows = _on_axis(rows[rows["replaced_by"].isin((OWN, GENE))])
    against = ("recovered_zero", "against zero"), ("recovered_mean", "against the mean")
    drawn = [
        (kind, metric, column, title)
        for kind in dict.fromkeys(rows["kind"])
        for metric in dict.fromkeys(rows["metric"])
        for column, title in against
        if np.isfinite(rows.loc[(rows["kind"] == kind) & (rows["metric"] == metric), column]).any()
    ]
    if not drawn:
        raise refusal(what, "no loss could be recovered.")
    titles = _titles([(kind, f"{metric.replace('_', ' ')}, {title}") for kind, metric, _, title in drawn])
    figure, places, total = facets(titles, 210, 4, 84, spacing=0.06, shared_rows=False)
    for i, ((kind, metric, column, title), at) in enumerate(zip(drawn, places, strict=True)):
        own = rows[(rows["kind"] == kind) & (rows["metric"] == metric)]
        for name, look, dash in ((GENE, (INK, "circle"), "dot"), (OWN, SERIES[0], "solid")):
            part = own[own["replaced_by"] == name]
            if len(part):
                figure.add_trace(_line(part, column, f"recovered {title}", name, look, i == 0, dash), **at)
        figure.add_hline(y=1, line={"color": QUIET, "width": 1}, **at)
        _layers(figure, own, at)
        lowest = float(np.nanmin(own[column]))
        figure.update_yaxes(range=[max(min(lowest, 0.5) - 0.05, -1), 1.06], nticks=5, **at)
    subtitle = (
        "1: the model loses nothing with the reconstruction in the place of the activation; 0: it loses as much as with an activation of zero, or its "
        "mean. Nothing under -1 is shown. After the last layer nothing reads genes, so that the cell shift is undefined there."
    )
    return dressed(figure, "What the model does with the dictionary in place", subtitle, total, above=56, legend=True)


def dictionary_density(activity: pd.DataFrame) -> go.Figure:
    """How often features fire, a histogram for each hook, with those that never do and those that do at most rows.

    Parameters
    ----------
    activity
        Table ``dictionary_activity`` of ``workbench dictionary``: a row per hook and feature, with ``density``.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per hook; dead and dense features are counted in its heading.

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    what = "figure of densities"
    rows = checked(activity, what, _PLACE, ["layer", "feature", "density"])
    hooks, several = list(dict.fromkeys(rows["hook"])), rows["kind"].nunique() > 1
    alive = rows.loc[rows["density"] > 0, "density"]
    low = np.floor(np.log10(alive.min())) if len(alive) else -4.0
    edges = np.arange(low, 0.01, 0.25)
    titles, counts = [], []
    for hook in hooks:
        own = rows[rows["hook"] == hook]
        dead, dense = int((own["density"] == 0).sum()), int((own["density"] > 0.5).sum())
        titles.append(f"{label(_short(own.iloc[0], several))}: {dead} dead, {dense} dense")
        counts.append(np.histogram(np.log10(own.loc[own["density"] > 0, "density"]), edges)[0])
    figure, places, total = facets(titles, 150, 4, 96, spacing=0.045, shared_rows=False)
    ticks = np.arange(0, low - 0.5, -2)
    for found, at in zip(counts, places, strict=True):
        ends = 10**edges
        hover = [
            f"fire at {number(ends[i], 2)} to {number(ends[i + 1], 2)} of rows<br>{n} features"
            for i, n in enumerate(found)
        ]
        middle = (edges[:-1] + edges[1:]) / 2
        bar = go.Bar(
            x=middle,
            y=found,
            marker_color=ACCENT,
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
        )
        figure.add_trace(bar, **at)
        figure.update_xaxes(
            tickvals=ticks,
            ticktext=[f"{10.0**t:.6f}".rstrip("0").rstrip(".") for t in ticks],
            tickangle=0,
            title="share of rows",
            range=[low - 0.1, 0.1],
            **at,
        )
        figure.update_yaxes(range=[0, max(int(max(c.max() for c in counts)), 1) * 1.06], nticks=4, **at)
    figure.update_layout(bargap=0.05)
    subtitle = (
        f"Features by the share of held-out rows at which they fire, n = {span(rows.groupby('hook')['feature'].size())} features of each hook. Dead: never. "
        "Dense: at more than half of the rows."
    )
    return dressed(figure, "How often features fire", subtitle, total, above=30)


def dictionary_stability(matches: pd.DataFrame, stability: pd.DataFrame) -> go.Figure:
    """Whether another seed finds the same features: cosines of features matched one to one, beside random directions.

    Parameters
    ----------
    matches
        Table ``dictionary_matches`` of ``workbench dictionary``: a row per hook, other seed and feature.
    stability
        Table ``dictionary_stability`` of it: a row per hook and other seed, with ``null_median`` and ``null_high``.

    Returns
    -------
    plotly.graph_objects.Figure
        A box for each hook from the quartiles, whiskers at 5 and 95 %, and the random directions as a grey bar.

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    what = "figure of stability"
    rows = _on_axis(checked(matches, what, _PLACE, ["layer", "other", "cosine"]))
    null = _on_axis(checked(stability, what, _PLACE, ["layer", "other", "null_median", "null_high", "above_0.9"]))
    kinds = list(dict.fromkeys(rows["kind"]))
    figure, places, total = facets(
        _titles([(kind, "cosine with the partner") for kind in kinds]), 260, 2, 84, spacing=0.08, shared_rows=False
    )
    for i, (kind, at) in enumerate(zip(kinds, places, strict=True)):
        own, beside = (
            rows[rows["kind"] == kind],
            null[null["kind"] == kind].groupby("at", as_index=False).mean(numeric_only=True),
        )
        bar = go.Bar(
            x=beside["at"],
            y=beside["null_high"],
            marker={"color": NULL, "opacity": 0.55},
            width=0.72,
            name="random directions, 97.5 %",
            showlegend=i == 0,
            hovertext=[
                f"random: median {number(r.null_median)}, 97.5 % {number(r.null_high)}" for r in records(beside)
            ],
            hovertemplate="%{hovertext}<extra></extra>",
        )
        figure.add_trace(bar, **at)
        groups = [(place, part["cosine"].quantile([0.05, 0.25, 0.5, 0.75, 0.95])) for place, part in own.groupby("at")]
        box = go.Box(
            x=[place for place, _ in groups],
            **{
                name: [q.iloc[j] for _, q in groups]
                for j, name in enumerate(("lowerfence", "q1", "median", "q3", "upperfence"))
            },
            width=0.4,
            name="matched features",
            showlegend=i == 0,
            line={"color": ACCENT},
        )
        figure.add_trace(box, **at)
        _layers(figure, own, at)
        figure.update_yaxes(range=[0, 1.03], **at)
    each = rows.groupby(["hook", "other"])["cosine"].size()
    subtitle = (
        f"Each feature beside its partner in the dictionary of another seed ({counted(rows['other'].nunique(), 'other seed')}), n = {span(each)} pairs; box: quartiles, whiskers: 5 and 95 %. "
        "Grey: dictionaries of random directions with the same second moments. 1: the same feature is found again."
    )
    return dressed(figure, "Whether another seed finds the same features", subtitle, total, above=56, legend=True)


def dictionary_naming(naming: pd.DataFrame) -> go.Figure:
    """Share of features with a name, beside that of random directions of the cells, by the usual rule and by the calibrated one.

    Parameters
    ----------
    naming
        Table ``dictionary_naming`` of ``workbench dictionary``: a row per hook, source and ``method`` with ``features``, ``named``, ``rule``
        and ``rule_random``.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per kind of hook and way of naming.

    Raises
    ------
    EvaluationError
        If a column is missing.
    """
    what = "figure of names"
    rows = _on_axis(
        checked(naming, what, [*_PLACE, "source", "method"], ["layer", "features", "named", "rule", "rule_random"])
    )
    kinds = [(kind, method) for kind in dict.fromkeys(rows["kind"]) for method in dict.fromkeys(rows["method"])]
    titles = _titles([(kind, f"by {method}") for kind, method in kinds])
    figure, places, total = facets(titles, 260, 2, 84, spacing=0.08, shared_rows=False)
    drawn = (
        ("model", "rule", "usual rule", _LOOKS[0], "solid"),
        ("model", "rule_random", "usual rule on its null", (NULL_EDGE, "square-open"), "dash"),
        ("model", "named", "named beyond the null (q ≤ 0.05)", SERIES[0], "solid"),
        ("untrained", "named", "the same of random weights", (QUIET, "circle-open"), "dot"),
    )
    most = float(rows[["named", "rule", "rule_random"]].max().max())
    for i, ((kind, method), at) in enumerate(zip(kinds, places, strict=True)):
        own = rows[(rows["kind"] == kind) & (rows["method"] == method)]
        for source, column, name, look, dash in drawn:
            if len(part := own[own["source"] == source]):
                figure.add_trace(_line(part, column, "share", name, look, i == 0, dash), **at)
        _layers(figure, own, at)
        figure.update_yaxes(range=[0, 1.08 * max(most, 0.05)], tickformat=".0%", **at)
    subtitle = (
        f"n = {span(rows['features'])} features with a gene list. Usual rule: any gene set (or regulator) at q 0.05 over sets. Null: lists and rankings by "
        "random directions of the cells, leaning as much to genes expressed strongly (and often regulated). Beyond: better than these, q over features."
    )
    return dressed(figure, "How many features have a name", subtitle, total, above=56, legend=True)


def _on_axis(rows: pd.DataFrame) -> pd.DataFrame:
    """With the place of each hook on the axis; hooks without a layer stand at 0."""
    return rows.assign(at=rows["layer"].fillna(0)).sort_values("at", kind="stable").reset_index(drop=True)


def _titles(parts: Sequence[tuple[str, str]]) -> list[str]:
    several = len({kind for kind, _ in parts}) > 1
    return [label(f"{kind}: {title}" if several else title) for kind, title in parts]


def _short(row: Any, several: bool) -> str:
    if not np.isfinite(row["layer"]):
        return str(row["hook"])
    return f"layer {row['layer']:.0f}" + (f", {row['kind']}" if several else "")


def _at(row: Any) -> str:
    return label(row.hook)


def _line(
    part: pd.DataFrame, column: str, title: str, name: str, look: tuple[str, str], legend: bool, dash: str
) -> go.Scatter:
    hover = [f"{label(name)}, {_at(r)}<br>{label(title)} {number(getattr(r, column))}" for r in records(part)]
    made = line_of(part["at"], part[column], hover, look, name=label(name), legend=legend, legendgroup=name)
    return made.update(line={"dash": dash})


def _layers(figure: go.Figure, rows: pd.DataFrame, at: Place) -> None:
    ticks = sorted(rows["at"].unique())
    known = rows["layer"].notna().any()
    text = [f"{tick:.0f}" for tick in ticks] if known else [""]
    figure.update_xaxes(
        title="layer" if known else "", tickvals=ticks, ticktext=text, range=[ticks[0] - 0.45, ticks[-1] + 0.45], **at
    )
