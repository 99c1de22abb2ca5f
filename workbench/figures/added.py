"""What ours adds to each control."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, undrawn, with_value
from workbench.figures.facets import AXIS, heading_of, lines_of, list_undrawn
from workbench.figures.forest import Facet, forest, zero_axis
from workbench.figures.marks import Look, p_and_q, sure_keys
from workbench.figures.style import INK, label, number, span


def added_value(table: pd.DataFrame, q: float = 0.05) -> go.Figure:
    """Forest plot of what ours adds to each control: one facet per endpoint and metric, one row per control.

    Parameters
    ----------
    table
        From `workbench.operators.controls.added_value`: `endpoint`, `metric`, `control`, `ours`, `theirs`, `difference`
        (above 0 where ours is better), `low`, `high` (95 %), `n_folds`, `p`, `q`.
    q
        Marks are filled where the q of their row is at most this.

    Returns
    -------
    plotly.graph_objects.Figure
        Points with intervals on one scale for all facets; what has no value is listed underneath.

    Raises
    ------
    EvaluationError
        If a column is missing, a control is in a facet twice, or no difference is finite.
    """
    what, place = "figure of added value", ["endpoint", "metric"]
    numeric = ["ours", "theirs", "difference", "low", "high", "n_folds", "p", "q"]
    rows = checked(table, what, [*place, "control"], numeric, once=[*place, "control"])
    drawn = with_value(rows, "difference", what)
    drawn = drawn.assign(row=drawn["control"], value=drawn["difference"], filled=drawn["q"] <= q)
    drawn["text"] = [f"{value:+z.2f}" for value in drawn["value"]]
    drawn["hover"] = [
        f"{label(r.endpoint)}, {label(r.metric)}<br>ours {number(r.ours)}, {label(r.control)} {number(r.theirs)}<br>"
        f"difference {number(r.difference)} (95 % interval {number(r.low)} to {number(r.high)})<br>n = {number(r.n_folds)} "
        f"folds<br>{p_and_q(r)}"
        for r in records(drawn)
    ]
    axis = zero_axis("ours minus control", drawn[["difference", "low", "high"]], 0.1) | {"zerolinecolor": INK}
    parts = []
    for (endpoint, metric), part in drawn.groupby(place, sort=False):
        note = f"ours {span(part['ours'].round(3))}, n = {span(part['n_folds'])} folds"
        parts.append(Facet(heading_of(str(endpoint), str(metric), note, width=26), part, axis))
    order = [name for name in dict.fromkeys(rows["control"]) if name in set(drawn["control"])]
    sides = [int((drawn["filled"] & (sign * drawn["difference"] > 0)).sum()) for sign in (1, -1)]
    subtitle = (
        f"Mean difference over n = {span(drawn['n_folds'])} folds, right of 0: ours is better. Bars: 95 % interval; none where "
        f"there are too few folds. Null: no difference (two-sided). Filled: q ≤ {q:g} (Benjamini-Hochberg over the endpoints "
        f"of a control): ours better in {sides[0]}, worse in {sides[1]} of {len(drawn)}."
    )
    grid: Look = {"across": 3, "head": lines_of([part.title for part in parts]) + 10, "above": 34, "below": AXIS}
    grid |= {"spacing": 0.035, "font": 13}
    figure = forest(parts, order, "What ours adds to each control", subtitle, sure_keys(q), **grid)
    return list_undrawn(figure, undrawn(rows, drawn, place, "control", "no fold has a value of both"))
