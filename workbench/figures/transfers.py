"""An exported algorithm on cells it was not made from: with fewer genes and counts, and on other studies."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, with_value
from workbench.figures.marks import SERIES, legend_keys, line_of, marks, spread
from workbench.figures.style import ACCENT, PALETTE, dressed, label, number

_ROW = 34
# Pixels of a legend of two rows.
_LEGEND = 62
_MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star-triangle-down", "hexagon", "x")
_COLORS = (ACCENT, *PALETTE)


def study_transfers(transfers: pd.DataFrame) -> go.Figure:
    """Accuracy of each method on each study, the algorithm's in front.

    Parameters
    ----------
    transfers
        `study`, `method`, `accuracy`, `balanced_accuracy`, `n_cells`, `coverage`, and of the algorithm `unassigned` and `fit`.

    Returns
    -------
    plotly.graph_objects.Figure
        A row per study, a mark per method; the algorithm's is a ring where it says that it is not fit.

    Raises
    ------
    EvaluationError
        If a column is missing, or no accuracy is finite.
    """
    what = "figure of transfers"
    numbers = ["accuracy", "balanced_accuracy", "n_cells", "coverage", "unassigned"]
    rows = with_value(checked(transfers, what, ["study", "method", "fit"], numbers), "accuracy", what)
    methods, studies = list(dict.fromkeys(rows["method"])), list(dict.fromkeys(rows["study"]))
    figure, looks = (
        go.Figure(),
        {name: (_COLORS[i % len(_COLORS)], _MARKS[i % len(_MARKS)]) for i, name in enumerate(methods)},
    )
    shift = dict(zip(methods, np.linspace(-0.25, 0.25, max(len(methods), 2)), strict=False))
    at = {study: len(studies) - 1 - i for i, study in enumerate(studies)}
    for row in records(rows):
        color, symbol = looks[row.method]
        fit = (
            ""
            if row.fit is None or str(row.fit) in ("", "nan")
            else f"<br>says it is {'' if str(row.fit) == 'True' else 'not '}fit for these"
        )
        hover = (
            f"{label(row.method)} on {label(row.study)}<br>right {number(row.accuracy)} of n = {number(row.n_cells)} cells"
            f"<br>balanced over stages {number(row.balanced_accuracy)}<br>{number(100 * row.coverage)} % of the genes{fit}"
        )
        ring = fit and str(row.fit) != "True"
        look = {
            "symbol": f"{symbol}-open" if ring else symbol,
            "size": 11,
            "color": color,
            "line": {"width": 2, "color": color},
        }
        figure.add_trace(marks([row.accuracy], [at[row.study] + shift[row.method]], [hover], marker=look))
    legend_keys(
        figure, [(name, {"symbol": symbol, "size": 10, "color": color}) for name, (color, symbol) in looks.items()]
    )
    figure.update_yaxes(
        tickvals=list(at.values()),
        ticktext=[label(name) for name in at],
        range=[-0.6, len(studies) - 0.4],
        showgrid=False,
    )
    figure.update_xaxes(title="share of cells whose stage is right", range=[0, 1.02])
    subtitle = (
        "Cells of other studies, one mark per method; one number each, no spread over studies. A ring: the algorithm itself says that it is "
        "not fit for the file. The other methods are fitted on the same training cells and the genes that both studies measure."
    )
    return dressed(
        figure, "On cells of other studies", subtitle, 30 + 2 * _ROW * len(studies), above=_LEGEND, legend=True
    )


def held_levels(levels: pd.DataFrame) -> go.Figure:
    """Accuracy on held-out training cells, by the share of genes and of counts that is left to them.

    Parameters
    ----------
    levels
        `kind`, `share`, `accuracy`, `sd`, `probability`, `plain_accuracy`.

    Returns
    -------
    plotly.graph_objects.Figure
        A line with its spread for fewer genes, one for fewer counts, and beside each the mean probability of the labels, and the accuracy of
        plain expression.

    Raises
    ------
    EvaluationError
        If a column is missing, or no accuracy is finite.
    """
    what = "figure of levels"
    numbers = ["share", "accuracy", "sd", "probability", "plain_accuracy"]
    rows = with_value(checked(levels, what, ["kind"], numbers), "accuracy", what)
    whole = rows[rows["share"] == 1].iloc[:1]
    figure = go.Figure()
    for (kind, part), series in zip(rows.groupby("kind", sort=False), SERIES, strict=False):
        part = part if (part["share"] == 1).any() else pd.concat([whole, part])
        part = part.sort_values("share")
        hover = [
            f"{label(kind)} left: {number(100 * r.share)} %<br>balanced accuracy {number(r.accuracy)} ± {number(r.sd)}"
            f"<br>mean probability {number(r.probability)}<br>plain expression {number(r.plain_accuracy)}"
            for r in records(part)
        ]
        look = {"name": f"accuracy, {kind}", "error_y": spread(part["sd"], color=series[0])}
        figure.add_trace(line_of(100 * part["share"], part["accuracy"], hover, series, **look))
        for column, name, dash in (
            ("probability", "probability", "dot"),
            ("plain_accuracy", "plain expression", "dash"),
        ):
            drawn = {"line": {"color": series[0], "width": 1.5, "dash": dash}, "mode": "lines"}
            figure.add_trace(line_of(100 * part["share"], part[column], hover, series, name=f"{name}, {kind}", **drawn))
    figure.update_xaxes(title="left (%)", range=[0, 104])
    figure.update_yaxes(title="balanced accuracy", rangemode="tozero")
    subtitle = (
        "Training cells that neither latent nor readout was fitted on, with genes left out at random or counts thinned; bars: sd over folds "
        "and draws. Dotted: the mean probability of the most probable class over cells, calibrated at each level; the accuracy is balanced over classes. "
        "Dashed: that of logistic regression on the expression of the same cells, the control that goes along."
    )
    return dressed(figure, "With fewer genes and fewer counts", subtitle, 300, above=_LEGEND, legend=True)
