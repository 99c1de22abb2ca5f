"""The evidence: holdouts of the distances, and linear readouts beside their baselines."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.errors import EvaluationError
from workbench.figures.panels import Panel, point_panels
from workbench.figures.style import checked, label, number, records, span

HOLDOUT_ORDER = ("random", "branch", "donor")


def holdouts(table: pd.DataFrame, baselines: Collection[str] = ()) -> go.Figure:
    """Held-out Spearman correlation of latent and ruler, one panel per kind of holdout, one row per operator.

    Parameters
    ----------
    table
        One row per operator and holdout: `operator`, `holdout`, `spearman`, `sd`, `n_splits`, `n_pairs`, `null_mean`,
        `null_high`, `p`, `status` ("ok", or why it is undefined).
    baselines
        Operators that hold nothing of the model; they get an open mark.

    Returns
    -------
    plotly.graph_objects.Figure
        Points with sd bars, the null from 0 to its upper bound; what is undefined is listed under the panels.

    Raises
    ------
    EvaluationError
        If a column is missing, or nothing is defined.
    """
    numeric = ["spearman", "sd", "n_splits", "n_pairs", "null_mean", "null_high", "p"]
    rows = checked(table, "holdout figure", ["operator", "holdout", "status"], numeric)
    rows = rows.rename(columns={"operator": "row", "spearman": "value"}).assign(panel=rows["holdout"], null_from=0.0)
    rows["hover"] = [
        f"{label(r.row)}, {label(r.holdout)} holdout<br>Spearman {number(r.value)} ± {number(r.sd)} (sd over "
        f"n = {number(r.n_splits)} splits)<br>n = {number(r.n_pairs)} pairs<br>null {number(r.null_mean)}, upper bound "
        f"{number(r.null_high)}<br>p = {number(r.p)}"
        for r in records(rows)
    ]
    drawn, notes = _defined(rows, "holdout figure", "operator")
    found = list(dict.fromkeys(drawn["panel"]))
    names = [h for h in HOLDOUT_ORDER if h in found] + [h for h in found if h not in HOLDOUT_ORDER]
    limits = _limits(drawn, floor=-0.05)
    panels = [
        Panel(f"{name} holdout", _sizes(part, "n_pairs", "pairs", "n_splits", "splits"), "Spearman", part, limits)
        for name in names
        for part in [drawn[drawn["panel"] == name]]
    ]
    return point_panels(
        panels,
        _order(drawn),
        "Held-out Spearman of latent and ruler distances",
        "Mean ± sd over splits; grey: the null, from 0 to its upper bound. n: above each panel.",
        columns=3,
        baselines=baselines,
        notes=notes,
    )


def readouts(table: pd.DataFrame, baselines: Collection[str] = ()) -> go.Figure:
    """Linear readouts, one panel per endpoint and metric, one row per representation.

    Parameters
    ----------
    table
        One row per endpoint, metric and representation: `endpoint`, `metric`, `representation`, `value`, `sd`,
        `n_folds`, `n_cells`, `n_features`, `null_mean`, `null_high`, `p`, `status` ("ok", or "undefined: " and why).
    baselines
        Representations that hold nothing of the model; they get an open mark.

    Returns
    -------
    plotly.graph_objects.Figure
        Points with sd bars, the null from its mean to its upper bound; what is undefined is listed under the panels.

    Raises
    ------
    EvaluationError
        If a column is missing, or no endpoint is defined.
    """
    text = ["endpoint", "metric", "representation", "status"]
    numeric = ["value", "sd", "n_folds", "n_cells", "n_features", "null_mean", "null_high", "p"]
    rows = checked(table, "readout figure", text, numeric).rename(columns={"representation": "row"})
    rows["panel"] = rows["endpoint"] + ", " + rows["metric"]
    rows["null_from"] = rows["null_mean"]
    rows["hover"] = [
        f"{label(r.row)}: {label(r.panel)}<br>{number(r.value)} ± {number(r.sd)} "
        f"(sd over n = {number(r.n_folds)} folds)<br>"
        f"n = {number(r.n_cells)} cells, {number(r.n_features)} features<br>null {number(r.null_mean)}, upper bound "
        f"{number(r.null_high)}<br>p = {number(r.p)}"
        for r in records(rows)
    ]
    drawn, notes = _defined(rows, "readout figure", "representation")
    panels = [
        Panel(str(name), _sizes(part, "n_cells", "cells", "n_folds", "folds"), part["metric"].iloc[0], part, limits)
        for name, part in drawn.groupby("panel", sort=False)
        for limits in [_limits(part, floor=0.0)]
    ]
    return point_panels(
        panels,
        _order(drawn),
        "Linear readouts beside their baselines",
        "Mean ± sd over folds; grey: the null, from its mean to its upper bound. n: above each panel.",
        columns=2,
        baselines=baselines,
        notes=notes,
    )


def _defined(rows: pd.DataFrame, figure: str, kind: str) -> tuple[pd.DataFrame, list[str]]:
    """Rows that can be drawn, and one sentence per panel and reason for those that cannot."""
    ok = (rows["status"].str.strip().str.casefold() == "ok") & np.isfinite(rows["value"])
    reasons = rows["status"].where(rows["status"].str.strip().str.casefold() != "ok", "no value")
    notes = []
    for (panel, reason), part in rows[~ok].assign(reason=reasons).groupby(["panel", "reason"], sort=False):
        every = set(part["row"]) == set(rows.loc[rows["panel"] == panel, "row"])
        who = f"every {kind}" if every else ", ".join(dict.fromkeys(part["row"]))
        notes.append(f"{panel} ({who}): {reason or 'no status'}")
    if not ok.any():
        raise EvaluationError(f"The {figure} cannot be drawn: no row is defined ({notes[0]}).")
    drawn = rows[ok]
    twice = drawn.duplicated(["panel", "row"])
    if twice.any():
        first = drawn[twice].iloc[0]
        raise EvaluationError(f"The {figure} cannot be drawn: {kind} '{first['row']}' is in '{first['panel']}' twice.")
    return drawn, notes


def _order(rows: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(rows["row"]))


def _sizes(part: pd.DataFrame, n: str, of: str, m: str, by: str) -> str:
    return f"n = {span(part[n])} {of}, {span(part[m])} {by}"


def _limits(part: pd.DataFrame, floor: float) -> tuple[float, float]:
    """Range that starts at `floor` and ends at 1 where the values allow it, and is wider where they do not."""
    sd = part["sd"].fillna(0.0)
    low = float(np.nanmin([(part["value"] - sd).min(), part["null_from"].min(), part["null_high"].min()]))
    high = float(np.nanmax([(part["value"] + sd).max(), part["null_high"].max()]))
    return min(floor, low - 0.05), max(1.04, high + 0.05)
