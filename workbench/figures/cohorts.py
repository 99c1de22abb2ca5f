"""Gates on every cohort side by side: does what holds inside hold outside, and without the model."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import EvaluationError
from workbench.figures.panels import Panel, point_panels
from workbench.figures.style import checked, label, number, records, span

SHOWN = ("trustworthiness", "random holdout", "donor holdout", "branch holdout")
MODEL = "model"


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
        A plot per gate; a row per cohort and feature map, controls with an open mark.

    Raises
    ------
    EvaluationError
        If a column is missing, or none of these gates has a value.
    """
    what, text = "figure of cohorts", ["cohort", "role", "gate", "status", "unit", "operator"]
    numeric = ["value", "threshold", "sd", "n", "null_mean", "null_high", "p"]
    both = pd.concat([gates.assign(operator=MODEL), controls], ignore_index=True)
    rows = checked(both, what, text, numeric)
    rows = rows[rows["gate"].isin(SHOWN) & rows["value"].notna()]
    if rows.empty:
        raise EvaluationError(f"The {what} cannot be drawn: none of {', '.join(SHOWN)} has a value.")
    rows["row"] = [f"{r.cohort} ({r.role}): {r.operator}" for r in records(rows)]
    rows["null_from"] = rows["null_mean"]
    rows["hover"] = [
        f"{label(r.row)}<br>{label(r.gate)} {number(r.value)}, asked {number(r.threshold)}: <b>{r.status}</b><br>sd {number(r.sd)}, "
        f"n = {number(r.n)} {label(r.unit)}<br>null {number(r.null_mean)}, upper bound {number(r.null_high)}; p = {number(r.p)}"
        for r in records(rows)
    ]
    names = [
        (cohort, operator) for cohort in dict.fromkeys(rows["cohort"]) for operator in dict.fromkeys(rows["operator"])
    ]
    kept = {(r.cohort, r.operator): r.row for r in records(rows)}
    order = [kept[name] for name in names if name in kept]
    panels = [
        Panel(
            f"{gate}, at least {span(part['threshold'])}",
            f"n = {span(part['n'])} {', '.join(dict.fromkeys(part['unit']))}",
            "trustworthiness" if gate == SHOWN[0] else "Spearman",
            part,
            (min(0.0, float((part["value"] - part["sd"].fillna(0)).min()) - 0.05), 1.04),
        )
        for gate in SHOWN
        if len(part := rows[rows["gate"] == gate])
    ]
    return point_panels(
        panels,
        order,
        "Gates 1 to 4 on every cohort",
        "Mean ± sd over the units above each plot; grey: the null, from its mean to its upper bound, where it was drawn. Open marks: "
        "controls without the model.",
        columns=2,
        baselines=[row for (_, operator), row in kept.items() if operator != MODEL],
    )
