"""The evidence: holdouts of the distances, linear readouts and gates beside controls, and what is added to each of these."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, refusal, undrawn, with_value
from workbench.figures.facets import AXIS, heading_of, lines_of, list_undrawn
from workbench.figures.forest import BESIDE, Facet, forest, mean_keys, order_of, titled, zero_axis
from workbench.figures.marks import Look, mean_sd, null_of, p_and_q, sure_keys
from workbench.figures.style import INK, label, number, span
from workbench.stats import WITHOUT

HOLDOUT_ORDER = ("random", "branch", "donor")
SHOWN = ("trustworthiness", "random holdout", "donor holdout", "branch holdout")
MODEL = "model"


def holdouts(table: pd.DataFrame, baselines: Collection[str] = ()) -> go.Figure:
    """Held-out Spearman correlation of latent and ruler, one facet per kind of holdout, one row per operator.

    Parameters
    ----------
    table
        One row per operator and holdout: `operator`, `holdout`, `spearman`, `sd`, `n_splits`, `n_pairs`, `null_mean`,
        `null_high`, `p`, `status` ("ok", or why it is undefined); `without_sequencing`, where null and p are of features without what
        follows sequencing.
    baselines
        Operators that hold nothing of the model; they get an open mark.

    Returns
    -------
    plotly.graph_objects.Figure
        Points with sd bars, the null from 0 to its upper bound; what is undefined is listed under the facets.

    Raises
    ------
    EvaluationError
        If a column is missing, or nothing is defined.
    """
    numeric = ["spearman", "sd", "n_splits", "n_pairs", "null_mean", "null_high", "p", *({WITHOUT} & set(table))]
    rows = checked(table, "holdout figure", ["operator", "holdout", "status"], numeric)
    rows = rows.rename(columns={"operator": "row", "spearman": "value"}).assign(facet=rows["holdout"], null_from=0.0)
    rows["beside"] = rows[WITHOUT] if WITHOUT in rows else np.nan
    rows["hover"] = [
        f"{label(r.row)}, {label(r.holdout)} holdout<br>Spearman {mean_sd(r.value, r.sd, r.n_splits, 'splits')}<br>"
        f"n = {number(r.n_pairs)} pairs<br>"
        + (f"without what follows sequencing {number(r.beside)}, of which are<br>" if np.isfinite(r.beside) else "")
        + f"{null_of(r)}<br>p = {number(r.p)}"
        for r in records(rows)
    ]
    drawn, notes = _defined(rows, "holdout figure", "operator", baselines)
    limits = _limits(drawn, floor=-0.05)
    parts = [
        titled(f"{name} holdout", _sizes(part, "n_pairs", "pairs", "n_splits", "splits"), "Spearman", part, limits)
        for name in holdout_order(drawn["facet"])
        for part in [drawn[drawn["facet"] == name]]
    ]
    title = "Held-out Spearman of latent and ruler distances"
    subtitle = "Mean ± sd over splits; grey: the null, from 0 to its upper bound. n: above each plot."
    keys = mean_keys(drawn)
    if drawn["beside"].notna().any():
        keys.insert(-1, ("without sequencing", BESIDE))
        subtitle += " Diamonds: of features without what follows library size and detection; the null is of these."
    return forest(parts, order_of(drawn), title, subtitle, keys, across=3, notes=notes)


def holdout_order(names: pd.Series) -> list[str]:
    """Kinds of holdouts in the order in which all figures have them; others after these, as they come.

    Parameters
    ----------
    names
        Kinds, each once or more often.
    """
    found = list(dict.fromkeys(names))
    return [name for name in HOLDOUT_ORDER if name in found] + [name for name in found if name not in HOLDOUT_ORDER]


def readouts(table: pd.DataFrame, baselines: Collection[str] = ()) -> go.Figure:
    """Linear readouts, one facet per endpoint and metric, one row per representation.

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
        Points with sd bars, the null from its mean to its upper bound; what is undefined is listed under the facets.

    Raises
    ------
    EvaluationError
        If a column is missing, or no endpoint is defined.
    """
    text = ["endpoint", "metric", "representation", "status"]
    numeric = ["value", "sd", "n_folds", "n_cells", "n_features", "null_mean", "null_high", "p"]
    rows = checked(table, "readout figure", text, numeric).rename(columns={"representation": "row"})
    rows = rows.assign(facet=rows["endpoint"] + ", " + rows["metric"], null_from=rows["null_mean"])
    rows["hover"] = [
        f"{label(r.row)}: {label(r.facet)}<br>{mean_sd(r.value, r.sd, r.n_folds, 'folds')}<br>n = {number(r.n_cells)} cells, "
        f"{number(r.n_features)} features<br>{null_of(r)}<br>p = {number(r.p)}"
        for r in records(rows)
    ]
    drawn, notes = _defined(rows, "readout figure", "representation", baselines)
    parts = [
        titled(str(name), _sizes(part, "n_cells", "cells", "n_folds", "folds"), part["metric"].iloc[0], part, limits)
        for name, part in drawn.groupby("facet", sort=False)
        for limits in [_limits(part, floor=0.0)]
    ]
    title = "Linear readouts beside their baselines"
    subtitle = "Mean ± sd over folds; grey: the null, from its mean to its upper bound. n: above each plot."
    return forest(parts, order_of(drawn), title, subtitle, mean_keys(drawn), across=2, notes=notes)


def _defined(rows: pd.DataFrame, figure: str, kind: str, baselines: Collection[str]) -> tuple[pd.DataFrame, list[str]]:
    """Rows that can be drawn, and one sentence per facet and reason for those that cannot."""
    said = rows["status"].str.strip().str.casefold() == "ok"
    ok = said & np.isfinite(rows["value"])
    lost, notes = rows[~ok].assign(reason=rows["status"].where(~said, "no value")), []
    for (facet, reason), part in lost.groupby(["facet", "reason"], sort=False):
        every = set(part["row"]) == set(rows.loc[rows["facet"] == facet, "row"])
        who = f"every {kind}" if every else ", ".join(dict.fromkeys(part["row"]))
        notes.append(f"{facet} ({who}): {reason or 'no status'}")
    if not ok.any():
        raise refusal(figure, f"no row is defined ({notes[0]}).")
    drawn = rows[ok].assign(filled=lambda t: ~t["row"].isin(list(baselines)))
    twice = drawn[drawn.duplicated(["facet", "row"])]
    if len(twice):
        raise refusal(figure, f"{kind} '{twice['row'].iloc[0]}' is in '{twice['facet'].iloc[0]}' twice.")
    return drawn, notes


def _sizes(part: pd.DataFrame, n: str, of: str, m: str, by: str) -> str:
    return f"n = {span(part[n])} {of}, {span(part[m])} {by}"


def _limits(part: pd.DataFrame, floor: float) -> tuple[float, float]:
    """Range that starts at `floor` and ends at 1 where the values allow it, and is wider where they do not."""
    sd = part["sd"].fillna(0.0)
    low = float(np.nanmin([(part["value"] - sd).min(), part["null_from"].min(), part["null_high"].min()]))
    high = float(np.nanmax([(part["value"] + sd).max(), part["null_high"].max()]))
    return min(floor, low - 0.05), max(1.04, high + 0.05)


def cohort_gates(gates: pd.DataFrame, controls: pd.DataFrame) -> go.Figure:
    """Gates 1 to 4 of every cohort, of the model's feature map and of the controls.

    Parameters
    ----------
    gates
        `cohort`, `role`, `gate`, `status`, `unit`, `value`, `threshold`, `sd`, `n`, `null_mean`, `null_high`, `p`; of the
        configured feature map.
    controls
        The same columns, and `operator`: the name of the control.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per gate; a row per cohort and feature map, controls with an open mark.

    Raises
    ------
    EvaluationError
        If a column is missing, or none of these gates has a value.
    """
    what, text = "figure of cohorts", ["cohort", "role", "gate", "status", "unit", "operator"]
    numeric = ["value", "threshold", "sd", "n", "null_mean", "null_high", "p"]
    rows = checked(pd.concat([gates.assign(operator=MODEL), controls], ignore_index=True), what, text, numeric)
    rows = rows[rows["gate"].isin(SHOWN) & rows["value"].notna()]
    if rows.empty:
        raise refusal(what, f"none of {', '.join(SHOWN)} has a value.")
    rows["row"] = [f"{r.cohort} ({r.role}): {r.operator}" for r in records(rows)]
    rows["null_from"], rows["filled"] = rows["null_mean"], rows["operator"] == MODEL
    rows["hover"] = [
        f"{label(r.row)}<br>{label(r.gate)} {number(r.value)}, asked {number(r.threshold)}: <b>{r.status}</b><br>sd {number(r.sd)}, "
        f"n = {number(r.n)} {label(r.unit)}<br>{null_of(r)}; p = {number(r.p)}"
        for r in records(rows)
    ]
    # Cohort by cohort, the feature maps of each in the same order.
    places = [list(dict.fromkeys(rows[column])) for column in ("cohort", "operator")]
    by = rows.assign(cohort_at=rows["cohort"].map(places[0].index), operator_at=rows["operator"].map(places[1].index))
    parts = [
        titled(
            f"{gate}, at least {span(part['threshold'])}",
            f"n = {span(part['n'])} {', '.join(dict.fromkeys(part['unit']))}",
            "trustworthiness" if gate == SHOWN[0] else "Spearman",
            part,
            (min(0.0, float((part["value"] - part["sd"].fillna(0)).min()) - 0.05), 1.04),
        )
        for gate in SHOWN
        if len(part := rows[rows["gate"] == gate])
    ]
    subtitle = (
        "Mean ± sd over the units above each plot; grey: the null, from its mean to its upper bound, where it was drawn. Open marks: "
        "controls, and the model on stages dealt at random; of what is drawn, the mean over draws."
    )
    order = order_of(by.sort_values(["cohort_at", "operator_at"], kind="stable"))
    return forest(parts, order, "Gates 1 to 4 on every cohort", subtitle, mean_keys(rows), across=2)


def trajectories(table: pd.DataFrame) -> go.Figure:
    """Progress along known lineages against depth, with the null of permuted depths.

    Parameters
    ----------
    table
        `lineage`, `root`, `stages`, `status`, `spearman`, `p`, `q`, `null_mean`, `null_high`, `n_anchors`, `n_depths`. Rows
        whose status is not `ok` are listed, not drawn.

    Returns
    -------
    plotly.graph_objects.Figure
        A row per lineage: its correlation, and grey for the null up to its upper bound.

    Raises
    ------
    EvaluationError
        If a column is missing, or no lineage has a value.
    """
    what, numeric = "figure of lineages", ["spearman", "p", "q", "null_mean", "null_high", "n_anchors", "n_depths"]
    rows = checked(table, what, ["lineage", "root", "stages", "status"], numeric)
    lost = [f"{row.lineage}: {row.status}" for row in records(rows) if row.status != "ok"]
    drawn = rows[(rows["status"] == "ok") & np.isfinite(rows["spearman"])]
    if drawn.empty:
        raise refusal(what, f"{'; '.join(lost) or 'no lineage has a value'}.")
    drawn = drawn.assign(row=drawn["lineage"], value=drawn["spearman"], sd=np.nan, filled=True)
    drawn["null_from"] = np.minimum(drawn["null_mean"], drawn["null_high"])
    drawn["hover"] = [
        f"{label(row.lineage)}: {label(row.stages)}<br>Spearman {number(row.spearman)}, {p_and_q(row)}<br>n = "
        f"{number(row.n_anchors)} anchors at {number(row.n_depths)} depths, from {label(row.root)}<br>null, upper bound "
        f"{number(row.null_high)}"
        for row in records(drawn)
    ]
    low = float(np.fmin(-0.1, drawn[["value", "null_mean"]].min().min())) - 0.05
    part = titled("Progress against depth", f"{span(drawn['n_anchors'])} anchors", "Spearman", drawn, (low, 1.1))
    subtitle = (
        f"n = {len(drawn)} lineages. Progress: angle from the earliest stage; the branch was left out when the adaptor was fitted. "
        f"Null: depths permuted inside blocks. Smallest q: {number(drawn['q'].min())}."
    )
    keys = mean_keys(drawn, "all anchors of the branch")
    return forest([part], list(drawn["lineage"]), "Known lineages", subtitle, keys, notes=lost)


def flat_and_ripple(table: pd.DataFrame) -> go.Figure:
    """Measures of shape, of the features and of the latent.

    Parameters
    ----------
    table
        `space`, `measure`, `note`, `value`, `null_mean`, `null_high`, `p`, `n`.

    Returns
    -------
    plotly.graph_objects.Figure
        A facet per measure, a row per space; grey is the null of the measures that have one.

    Raises
    ------
    EvaluationError
        If a column is missing, or no value is finite.
    """
    what, numeric = "figure of shape", ["value", "null_mean", "null_high", "p", "n"]
    rows = with_value(checked(table, what, ["space", "measure", "note"], numeric), "value", what)
    rows = rows.assign(row=rows["space"], sd=np.nan, null_from=rows["null_mean"], filled=True)
    rows["hover"] = [
        f"{label(r.space)}: {label(r.measure)}<br>{number(r.value)}, n = {number(r.n)} anchors<br>{null_of(r)}; p = "
        f"{number(r.p)}<br>{label(r.note)}"
        for r in records(rows)
    ]
    parts = []
    for measure, part in rows.groupby("measure", sort=False):
        # A measure is "what, of which (statistic)"; its first part is the title.
        title, _, rest = str(measure).replace(" (", ", ").rstrip(")").partition(", ")
        note = f"{rest}; n = {span(part['n'])} anchors" if rest else f"n = {span(part['n'])} anchors"
        low = part[["value", "null_mean", "null_high"]].min().min()
        parts.append(titled(title, note, "value", part, (min(0.0, low - 0.05), 1.04)))
    subtitle = (
        "One number per cloud of anchors, no spread; grey: permutation null of Moran's I, from its mean to its upper bound. The other "
        "measures have no null: compare features with latent."
    )
    return forest(parts, order_of(rows), "Geodesics, flatness and ripple", subtitle, mean_keys(rows, "value"), across=2)


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
