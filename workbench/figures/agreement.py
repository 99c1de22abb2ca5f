"""How far the latents of two rulers agree, beside rulers that say nothing."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records
from workbench.figures.forest import Facet, forest, order_of
from workbench.figures.marks import NULL_KEY, POINT
from workbench.figures.style import label, number

_CKA = "debiased CKA"


def rulers_agreement(table: pd.DataFrame) -> go.Figure:
    """Debiased CKA and mean principal angle of every two latents, on each kind of points, with the null of either ruler.

    Parameters
    ----------
    table
        Table ``agreement`` of a run of several rulers: ``ruler``, ``other``, ``points``, ``measure``, ``value``, ``null_of``, ``null_mean``,
        ``null_low``, ``null_high``, ``n_null``, ``p``, ``n_points``.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per measure; a row per pair, kind of points and ruler that has no meaning under the null.

    Raises
    ------
    EvaluationError
        If the table lacks a column, or has no row.
    """
    numbers = ["value", "null_mean", "null_low", "null_high", "n_null", "p", "n_points"]
    rows = checked(table, "figure of two rulers", ["ruler", "other", "points", "measure", "null_of"], numbers)
    several = len(rows.drop_duplicates(["ruler", "other"])) > 1
    rows["row"] = [
        f"{f'{r.ruler}, {r.other}: ' if several else ''}{r.points} (n = {r.n_points:.0f}), {r.null_of} without meaning"
        for r in records(rows)
    ]
    rows["hover"] = [
        f"{label(r.ruler)} and {label(r.other)} on {r.n_points:.0f} {label(r.points)}<br>{label(r.measure)} {number(r.value)}<br>"
        f"{label(r.null_of)} without meaning: {number(r.null_low)} to {number(r.null_high)}, p {number(r.p)} ({r.n_null:.0f} draws)"
        for r in records(rows)
    ]
    rows["filled"], rows["null_from"] = rows["p"] <= 0.05, rows["null_low"]
    rows["text"], rows["sd"] = [number(value, 3) for value in rows["value"]], float("nan")
    facets = []
    for measure, own in rows.groupby("measure", sort=False):
        similar = measure == _CKA
        low = float(own[["null_low", "value"]].min().min())
        # So that what lies near 1 can be told apart.
        pad = 0.06 * (1 - low) + 0.002
        limits = [low - pad, 1 + pad] if similar else [0, 92]
        title = "debiased CKA, 1: the same" if similar else "mean principal angle in degrees, 0: the same"
        facets.append(Facet("", own, {"title": {"text": title, "standoff": 6}, "range": limits}))
    pairs = " and ".join(dict.fromkeys([*rows["ruler"].map(str), *rows["other"].map(str)]))
    subtitle = (
        f"{pairs}, on the same points. Grey: the one beside {rows['n_null'].max():.0f} draws of the other whose ruler has no meaning, the adaptor "
        "fitted anew, 2.5 to 97.5 %."
    )
    keys = [
        ("p ≤ 0.05: more alike than the null", {**POINT, "symbol": "circle"}),
        ("p > 0.05", {**POINT, "symbol": "circle-open"}),
        ("rulers without meaning", NULL_KEY),
    ]
    return forest(facets, order_of(rows), "How far the latents of rulers agree", subtitle, keys, across=2)
