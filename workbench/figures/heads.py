"""The head map: how well each head alone orders held-out anchors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import EvaluationError
from workbench.figures.style import INK, checked, dressed, number, records, span

# Blue to red through white (ColorBrewer RdBu): told apart with any colour vision, and zero is paper.
SCALE = ("#2166AC", "#4393C3", "#92C5DE", "#D1E5F0", "#F7F7F7", "#FDDBC7", "#F4A582", "#D6604D", "#B2182B")
ALPHA = 0.05


def head_map(table: pd.DataFrame, controls: Mapping[str, float] | None = None) -> go.Figure:
    """Heatmap of the held-out Spearman correlation of every head, layer by head.

    Parameters
    ----------
    table
        One row per head: `layer`, `head`, `spearman`, `sd`, `n_splits`, `n_anchors`, `null_high`, `p`, `q`
        (Benjamini-Hochberg over heads). A head without a row stays blank.
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
    """
    numeric = ["layer", "head", "spearman", "sd", "n_splits", "n_anchors", "null_high", "p", "q"]
    heads = checked(table, "head map", numeric=numeric)
    if not np.isfinite(heads["spearman"]).any():
        raise EvaluationError("The head map cannot be drawn: 'spearman' holds no finite number.")
    if heads[["layer", "head"]].isna().any(axis=None):
        raise EvaluationError("The head map cannot be drawn: 'layer' or 'head' is missing in a row.")
    twice = heads.duplicated(["layer", "head"])
    if twice.any():
        layer, head = heads.loc[twice, ["layer", "head"]].astype(int).iloc[0]
        raise EvaluationError(f"The head map cannot be drawn: layer {layer} head {head} has more than one row.")

    layers = list(range(int(heads["layer"].min()), int(heads["layer"].max()) + 1))
    columns = list(range(int(heads["head"].min()), int(heads["head"].max()) + 1))
    z = np.full((len(layers), len(columns)), np.nan)
    text = np.full(z.shape, "", dtype=object)
    hover = np.full(z.shape, "", dtype=object)
    for row in records(heads):
        at = int(row.layer) - layers[0], int(row.head) - columns[0]
        z[at] = row.spearman
        value = f"{row.spearman:z.2f}" if np.isfinite(row.spearman) else "–"
        text[at] = f"<b>{value}</b>" if row.q <= ALPHA else value
        hover[at] = (
            f"layer {int(row.layer)}, head {int(row.head)}<br>Spearman {number(row.spearman)} ± {number(row.sd)} "
            f"(sd over n = {number(row.n_splits)} splits)<br>n = {number(row.n_anchors)} anchors<br>"
            f"null, upper bound {number(row.null_high)}<br>p = {number(row.p)}, q = {number(row.q)}"
        )
    # Categories, so that a missing head is a gap and every layer and head has its tick.
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=[str(h) for h in columns],
            y=[str(i) for i in layers],
            text=text,
            texttemplate="%{text}",
            textfont={"size": 13 if len(columns) <= 12 else 10},
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
            hoverongaps=False,
            colorscale=[[i / (len(SCALE) - 1), color] for i, color in enumerate(SCALE)],
            zmin=-1,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar={
                "title": {"text": "Spearman", "side": "right", "font": {"size": 13}},
                "thickness": 14,
                "tickvals": [-1, -0.5, 0, 0.5, 1],
            },
        )
    )
    best = heads.iloc[int(heads["spearman"].argmax())]
    x, y = int(best["head"]) - columns[0], int(best["layer"]) - layers[0]
    figure.add_shape(type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5, line={"color": INK, "width": 2.5})

    found = int((heads["q"] <= ALPHA).sum())
    beside = "; ".join(f"{name} {number(value)}" for name, value in (controls or {}).items())
    subtitle = (
        f"n = {len(heads)} heads, {span(heads['n_anchors'])} anchors, {span(heads['n_splits'])} splits. "
        f"Bold: q ≤ {ALPHA} (Benjamini-Hochberg over heads), {found} of {len(heads)}; frame: best head, "
        f"layer {int(best['layer'])} head {int(best['head'])}. "
        f"Null, upper bound: {span(heads['null_high'])}. "
        + (f"Controls on the same anchors: {beside}." if beside else "No controls were given.")
    )
    dressed(figure, "Held-out Spearman of each head alone with the ruler", subtitle, max(180, 38 * len(layers)))
    figure.update_xaxes(title="head", type="category", showgrid=False, showline=False, ticks="")
    figure.update_yaxes(title="layer", type="category", showgrid=False, showline=False, ticks="")
    return figure
