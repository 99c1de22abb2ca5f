"""How far the held-out evidence hangs on the settings of the adaptor: its width k, and alpha and beta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.checks import checked, each_once, known_name, records, undrawn, with_value
from workbench.figures.evidence import holdout_order
from workbench.figures.facets import heading_of, list_undrawn
from workbench.figures.heatmap import colors_of, heat_trace
from workbench.figures.marks import SERIES, line_of, mean_sd, spread
from workbench.figures.style import INK, dressed, label, number, span

WIDTH = "k"
WEIGHTS = "alpha x beta"
_FITS = ("stress", "trustworthiness")
_HOLDOUT_HEIGHT, _FIT_HEIGHT, _CELL = 260, 170, 40
_BETWEEN = 100
_ABOVE = 64


def sensitivity(table: pd.DataFrame) -> go.Figure:
    """Held-out Spearman correlation over the width of the latent, and over the weights of the adaptor's objective.

    Parameters
    ----------
    table
        One row per setting and holdout: `swept` ("k" or "alpha x beta": what differs between its rows), `k`, `alpha`,
        `beta` (NaN where it was fitted), `holdout`, `spearman`, `sd`, `n_splits`, and of the fit `stress` and
        `trustworthiness`.

    Returns
    -------
    plotly.graph_objects.Figure
        Over k a line per holdout with sd bars, and stress and trustworthiness beneath; over alpha and beta a map per
        holdout, all on one scale. A part whose sweep is not in the table is left out.

    Raises
    ------
    EvaluationError
        If a column is missing, a sweep is unknown, a setting is there twice, or no correlation is finite.
    """
    what = "figure of sensitivity"
    numeric = ["k", "alpha", "beta", "spearman", "sd", "n_splits", *_FITS]
    rows = checked(table, what, ["swept", "holdout"], numeric)
    for name in dict.fromkeys(rows["swept"]):
        known_name("sweep", name, (WIDTH, WEIGHTS), what)
    rows["setting"] = [
        f"k = {number(r.k)}" if r.swept == WIDTH else f"alpha {number(r.alpha)}, beta {_beta(r.beta)}"
        for r in records(rows)
    ]
    each_once(rows, ["swept", "setting", "holdout"], what)
    drawn = with_value(rows, "spearman", what)
    drawn["hover"] = [
        f"{label(r.holdout)} holdout<br>k = {number(r.k)}, alpha = {number(r.alpha)}, beta = {_beta(r.beta)}<br>Spearman "
        f"{mean_sd(r.spearman, r.sd, r.n_splits, 'splits')}<br>stress {number(r.stress)}, "
        f"trustworthiness {number(r.trustworthiness)}"
        for r in records(drawn)
    ]
    holdouts = holdout_order(drawn["holdout"].sort_values())
    widths, weights = (drawn[drawn["swept"] == name] for name in (WIDTH, WEIGHTS))
    figure, total = _facets(widths, weights, holdouts)
    if len(widths):
        _lines(figure, widths, holdouts)
    if len(weights):
        _maps(figure, weights, holdouts, 1 if widths.empty else 3)
    ends = drawn.groupby("holdout")["spearman"].agg(["min", "max"])
    parts = [f"{name}: {number(ends['min'][name])} to {number(ends['max'][name])}" for name in holdouts]
    subtitle = (
        f"Mean Spearman of held-out latent and ruler distances over n = {span(drawn['n_splits'])} splits; sd over them "
        f"{span(drawn['sd'].round(3))} (bars; in the maps on hover). beta: ruler units per radian. Range over all settings: "
        f"{'; '.join(parts)}. No null is drawn here: what a "
        "setting is chosen by must not be what it is judged by."
    )
    above = _ABOVE if len(widths) else 40
    dressed(figure, "Sensitivity to the settings of the adaptor", subtitle, total, above=above, below=64, legend=True)
    return list_undrawn(figure, undrawn(rows, drawn, ["setting"], "holdout", "no split has a value"))


def _beta(value: float) -> str:
    return "fitted" if np.isnan(value) else number(value)


def _betas(values: pd.Series) -> str:
    return "fitted" if values.isna().all() else span(values)


def _facets(widths: pd.DataFrame, weights: pd.DataFrame, holdouts: Sequence[str]) -> tuple[go.Figure, int]:
    """Empty facets in the rows that are needed, and their pixels with what is between them."""
    # Two columns a map, so that the two facets of the fit can share the width evenly.
    columns = len(holdouts)
    heights: list[int] = []
    titles: list[str] = []
    specs: list[list[dict[str, int] | None]] = []
    if len(widths):
        half = [{"colspan": columns}, *[None] * (columns - 1)]
        heights += [_HOLDOUT_HEIGHT, _FIT_HEIGHT]
        specs += [[{"colspan": 2 * columns}, *[None] * (2 * columns - 1)], [*half, *half]]
        fixed = f"alpha = {span(widths['alpha'])}, beta = {_betas(widths['beta'])}"
        titles += [heading_of("Held-out correlation over the width k", fixed, width=60)]
        titles += [heading_of(f"{name} over the width k", width=60) for name in _FITS]
    if len(weights):
        heights += [_CELL * max(weights["alpha"].nunique(), 3)]
        specs += [[{"colspan": 2}, None] * columns]
        titles += [heading_of(f"{name} holdout", f"k = {span(weights['k'])}", width=26) for name in holdouts]
    total = sum(heights) + _BETWEEN * (len(heights) - 1)
    figure = make_subplots(
        rows=len(heights),
        cols=2 * columns,
        specs=specs,
        row_heights=heights,
        horizontal_spacing=min(0.06, 0.3 / (2 * columns)),
        vertical_spacing=_BETWEEN / total if len(heights) > 1 else 0,
        subplot_titles=titles,
    )
    return figure.update_annotations(font={"size": 13}), total


def _lines(figure: go.Figure, rows: pd.DataFrame, holdouts: Sequence[str]) -> None:
    def line(own: pd.DataFrame, value: str, i: int, **look: Any) -> go.Scatter:
        named = {"name": label(f"{holdouts[i]} holdout"), "showlegend": value == "spearman"}
        return line_of(own["k"], own[value], own["hover"], SERIES[i % len(SERIES)], **named, **look)

    for i, name in enumerate(holdouts):
        own = rows[rows["holdout"] == name].sort_values("k")
        around = spread(own["sd"], color=SERIES[i % len(SERIES)][0], thickness=1.4)
        figure.add_trace(line(own, "spearman", i, error_y=around), row=1, col=1)
    halves = (1, len(holdouts) + 1)
    for column, fit in zip(halves, _FITS, strict=True):
        at = {"row": 2, "col": column}
        known = rows[np.isfinite(rows[fit])].sort_values("k")
        # The fit to all anchors is the same whatever is held out elsewhere: then one line says it.
        if known.groupby("k")[fit].agg(np.ptp).max() <= 1e-12:
            one = known.drop_duplicates("k")
            figure.add_trace(line_of(one["k"], one[fit], one["hover"], (INK, "circle"), name=fit, legend=False), **at)
        else:
            for i, name in enumerate(holdouts):
                figure.add_trace(line(known[known["holdout"] == name], fit, i), **at)
        figure.update_yaxes(nticks=5, **at)
        figure.update_xaxes(title="width k of the latent", **at)
    sd = rows["sd"].fillna(0.0)
    low, high = float((rows["spearman"] - sd).min()), float((rows["spearman"] + sd).max())
    figure.update_yaxes(title="Spearman", range=[min(0.0, low) - 0.02, max(1.0, high) + 0.02], row=1, col=1)
    figure.update_xaxes(title="width k of the latent", row=1, col=1)
    if rows["k"].nunique() <= 12:
        for row, column in ((1, 1), *((2, half) for half in halves)):
            figure.update_xaxes(tickvals=sorted(set(rows["k"])), row=row, col=column)


def _maps(figure: go.Figure, rows: pd.DataFrame, holdouts: Sequence[str], row: int) -> None:
    shared = replace(colors_of(rows["spearman"], "Spearman", factor=1), decimals=2)
    alphas = [number(value) for value in sorted(set(rows["alpha"]))]
    betas = list(dict.fromkeys(_beta(value) for value in rows["beta"].sort_values()))
    cells = rows.assign(
        row=rows["alpha"].map(number), column=rows["beta"].map(_beta), value=rows["spearman"], bold=False
    )
    for i, name in enumerate(holdouts):
        at = {"row": row, "col": 2 * i + 1}
        own = cells[cells["holdout"] == name]
        figure.add_trace(heat_trace(own, alphas, betas, shared, bar=i == 0), **at)
        figure.update_xaxes(title="beta", type="category", showgrid=False, ticks="", **at)
        figure.update_yaxes(type="category", showgrid=False, ticks="", showticklabels=i == 0, **at)
    figure.update_yaxes(title="alpha", row=row, col=1)
    low, high = figure.get_subplot(row, 1).yaxis.domain
    bar = {"len": high - low, "lenmode": "fraction", "y": low, "yanchor": "bottom"}
    figure.data[-len(holdouts)].colorbar.update(bar)
