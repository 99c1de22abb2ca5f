"""Training of a checkpoint: its errors on held-out cells beside simple predictors, and its course."""

from __future__ import annotations

import re

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.checks import checked, records, with_value
from workbench.figures.facets import facets, named_rows
from workbench.figures.marks import POINT, SERIES, Look, interval, line_of, marks
from workbench.figures.style import ACCENT, QUIET, dressed, label, number, span, wrapped

_ROW = 38
_NAME = 26  # characters of a predictor's name in a line
# Columns of the course, by how they are called.
_COURSE = {
    "train_expression": "expression decoder, training cells",
    "held_out_expression": "expression decoder, held-out cells",
    "train_mvc": "MVC decoder, training cells",
    "held_out_mvc": "MVC decoder, held-out cells",
}


def masked_errors(evaluation: pd.DataFrame) -> go.Figure:
    """Squared error on masked values of held-out cells, by predictor, a facet per group of cells and share of masked values.

    Parameters
    ----------
    evaluation
        Table of ``workbench pretrain``: ``cells`` (whose they are), ``mask_ratio``, ``predictor``, ``mse``, ``low``, ``high`` (squared bins), ``gain``, ``n_cells``.

    Returns
    -------
    plotly.graph_objects.Figure
        The model's decoders filled, the predictors without a model as rings, each with its interval over cells.

    Raises
    ------
    EvaluationError
        If a column is missing, or no error is finite.
    """
    what = "figure of masked errors"
    rows = checked(evaluation, what, ["cells", "predictor"], ["mask_ratio", "mse", "low", "high", "gain", "n_cells"])
    rows = with_value(rows, "mse", what)
    groups = list(dict.fromkeys(rows["cells"]))
    asked = [(group, ratio) for group in groups for ratio in sorted(rows["mask_ratio"].unique())]
    titles = [f"{ratio:.0%} masked" if len(groups) == 1 else f"{group}, {ratio:.0%} masked" for group, ratio in asked]
    rows = rows.assign(row=[_row(name) for name in rows["predictor"]])
    names = list(dict.fromkeys(rows["row"]))
    figure, places, total = facets(titles, _ROW * len(names) + 20, 3, 84)
    for (group, ratio), at in zip(asked, places, strict=True):
        part = rows[(rows["cells"] == group) & (rows["mask_ratio"] == ratio)]
        hover = [
            f"{label(r.predictor)}<br>{number(r.mse)} bins squared<br>95 % {number(r.low)} to {number(r.high)}"
            f"<br>{r.gain:+.1%} of the gene mean's error saved<br>n = {number(r.n_cells)} cells"
            for r in records(part)
        ]
        ours = part["predictor"].str.contains("decoder")
        look: Look = {"marker": {**POINT, "symbol": ["circle" if one else "circle-open" for one in ours]}}
        bars = interval(part, "mse", color=ACCENT)
        figure.add_trace(marks(part["mse"], part["row"], hover, error_x=bars, **look), **at)
        named_rows(figure, names, at)
        figure.update_xaxes(title="squared error (bins)", nticks=5, **at)
    subtitle = (
        f"Mean over n = {span(rows['n_cells'])} held-out cells; bars: 95 % over cells. Filled: the model; rings: predictors "
        "without one, which see the same visible genes. Less is better."
    )
    return dressed(figure, "Error on masked values", subtitle, total, above=32)


def _row(predictor: str) -> str:
    """Name of a predictor's row: without what was chosen for it, which differs between facets and stands on the points."""
    return "<br>".join(wrapped(re.sub(r" \(.*|(?<= on )\d+ (?=components)", "", predictor), _NAME))


def training_course(curve: pd.DataFrame) -> go.Figure:
    """Squared error by training step.

    Parameters
    ----------
    curve
        Table of ``workbench pretrain``: ``step``, and ``train_expression``, ``train_mvc``, ``held_out_expression``, ``held_out_mvc`` (squared bins).

    Returns
    -------
    plotly.graph_objects.Figure
        A line per decoder, for cells of training and for held-out ones.

    Raises
    ------
    EvaluationError
        If a column is missing, or no error is finite.
    """
    what = "figure of the course"
    rows = with_value(checked(curve, what, [], ["step", *_COURSE]), "held_out_expression", what).sort_values("step")
    figure = go.Figure()
    for (column, name), series in zip(_COURSE.items(), SERIES, strict=True):
        hover = [f"{name}<br>step {number(r.step)}<br>{number(getattr(r, column))} bins squared" for r in records(rows)]
        figure.add_trace(line_of(rows["step"], rows[column], hover, series, name=name))
    figure.update_xaxes(title="step", rangemode="tozero")
    figure.update_yaxes(title="squared error (bins)", title_font={"color": QUIET})
    subtitle = "Training: one batch. Held out: the cells that are kept for this. A gap that grows is learning by heart."
    return dressed(figure, "Course of the training", subtitle, 300, legend=True)
