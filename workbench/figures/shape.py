"""The shape of the cloud: geodesics along it, how flat it is, and whether what is left off the plane has structure."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.panels import Panel, point_panels
from workbench.figures.style import checked, label, number, records, span, with_value


def flat_and_ripple(table: pd.DataFrame) -> go.Figure:
    """Measures of shape, of the features and of the latent.

    Parameters
    ----------
    table
        `space`, `measure`, `note`, `value`, `null_mean`, `null_high`, `p`, `n`.

    Returns
    -------
    plotly.graph_objects.Figure
        A plot per measure, a row per space; grey is the null of the measures that have one.

    Raises
    ------
    EvaluationError
        If a column is missing, or no value is finite.
    """
    what = "figure of shape"
    rows = checked(table, what, ["space", "measure", "note"], ["value", "null_mean", "null_high", "p", "n"])
    rows = with_value(rows, "value", what)
    rows["row"], rows["sd"], rows["null_from"] = rows["space"], np.nan, rows["null_mean"]
    rows["hover"] = [
        f"{label(r.space)}: {label(r.measure)}<br>{number(r.value)}, n = {number(r.n)} anchors<br>null {number(r.null_mean)}, upper bound "
        f"{number(r.null_high)}; p = {number(r.p)}<br>{label(r.note)}"
        for r in records(rows)
    ]
    panels = []
    for measure, part in rows.groupby("measure", sort=False):
        # A measure is "what, of which (statistic)"; its first part is the title.
        title, _, rest = str(measure).replace(" (", ", ").rstrip(")").partition(", ")
        note = f"{rest}; n = {span(part['n'])} anchors" if rest else f"n = {span(part['n'])} anchors"
        low = part[["value", "null_mean", "null_high"]].min().min()
        panels.append(Panel(title, note, "value", part, (min(0.0, low - 0.05), 1.04)))
    return point_panels(
        panels,
        list(dict.fromkeys(rows["row"])),
        "Geodesics, flatness and ripple",
        "One number per cloud of anchors, no spread; grey: permutation null of Moran's I, from its mean to its upper bound. The other "
        "measures have no null: compare features with latent.",
        columns=2,
        mark="value",
    )
