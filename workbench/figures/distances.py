"""Ruler against latent: does the angle between two stages grow with their distance in development."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, refusal
from workbench.figures.facets import legend_on_top
from workbench.figures.marks import Look, marks, spread
from workbench.figures.style import ACCENT, INK, OUTLINE, dressed, label, number, span

# With more pairs than this, spread is in the hover text only: bars would hide the points.
BARS_LIMIT = 120


def ruler_against_latent(table: pd.DataFrame) -> go.Figure:
    """Scatter of the ruler's distance against the angular distance in the latent, one mark per pair of stages.

    Parameters
    ----------
    table
        One row per pair of stages: `stage_a`, `stage_b`, `ruler`, `latent`, `latent_sd`, `n_pairs` (pairs of anchors).

    Returns
    -------
    plotly.graph_objects.Figure
        Marks with an area by `n_pairs` and no jitter, and the mean at each ruler distance, weighted by `n_pairs`.

    Raises
    ------
    EvaluationError
        If a column is missing, or no pair has both distances.
    """
    pairs = checked(table, "distance figure", ["stage_a", "stage_b"], ["ruler", "latent", "latent_sd", "n_pairs"])
    drawn = pairs[np.isfinite(pairs["ruler"]) & np.isfinite(pairs["latent"]) & (pairs["n_pairs"] > 0)]
    if drawn.empty:
        raise refusal("distance figure", "no row has 'ruler', 'latent' and 'n_pairs' above zero.")
    # Large marks first, so that small ones lie on top and can be pointed at.
    drawn = drawn.sort_values(["n_pairs", "stage_a", "stage_b"], ascending=[False, True, True])
    hover = [
        f"{label(row.stage_a)} – {label(row.stage_b)}<br>ruler {number(row.ruler)}<br>"
        f"latent {number(row.latent)} ± {number(row.latent_sd)} (sd)<br>n = {number(row.n_pairs)} anchor pairs"
        for row in records(drawn)
    ]
    around = spread(drawn["latent_sd"], color="rgba(31, 78, 121, 0.35)", thickness=1, width=0)
    around["visible"] = len(drawn) <= BARS_LIMIT
    area = {"sizemode": "area", "sizeref": 2.0 * drawn["n_pairs"].max() / 22.0**2, "sizemin": 4}
    marker = {
        "color": ACCENT,
        "opacity": 0.65,
        "line": {"color": OUTLINE, "width": 0.6},
        "size": drawn["n_pairs"],
        **area,
    }
    named: Look = {"name": "pair of stages", "legend": True}
    figure = go.Figure(marks(drawn["ruler"], drawn["latent"], hover, error_y=around, marker=marker, **named))
    by_ruler = drawn.groupby("ruler")
    mean = by_ruler.apply(lambda g: float(np.average(g["latent"], weights=g["n_pairs"])), include_groups=False)
    look: Look = {
        "line": {"color": INK, "width": 1.5, "dash": "dot"},
        "marker": {"symbol": "line-ew-open", "size": 16, "color": INK, "line": {"width": 2}},
        "text": [f"{number(n)} anchor pairs" for n in by_ruler["n_pairs"].sum()],
    }
    named = {"name": "mean at that ruler distance", "legend": True}
    said = "ruler %{x}<br>mean latent %{y:.3f}<br>n = %{text}"
    figure.add_trace(marks(mean.index, mean, said, mode="lines+markers", **named, **look))
    lost = len(pairs) - len(drawn)
    subtitle = (
        f"n = {len(drawn):,} pairs of stages, {number(drawn['n_pairs'].sum())} pairs of anchors; area: anchor pairs "
        f"({span(drawn['n_pairs'])})"
        + ("; bars: sd over anchor pairs" if len(drawn) <= BARS_LIMIT else "")
        + (f"; {lost} pairs without a distance are not drawn" if lost else "")
        + ". Pairs that share a stage are not independent."
    )
    dressed(figure, "Latent angular distance against the ruler", subtitle, 400, above=30)
    figure.update_xaxes(title="ruler: distance of the two stages in development", rangemode="tozero")
    figure.update_yaxes(title="latent angular distance", rangemode="tozero")
    return legend_on_top(figure)
