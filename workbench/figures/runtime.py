"""How long the stages of a run took, and how much memory."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.checks import checked, with_value
from workbench.figures.marks import bars
from workbench.figures.style import ACCENT, NULL_EDGE, dressed, label, number

_ROW = 30


def runtime(table: pd.DataFrame) -> go.Figure:
    """Bars of seconds, and of the process's peak memory at the end of each stage.

    Parameters
    ----------
    table
        `stage`, `seconds`, `peak_bytes`, in the order of the run.

    Returns
    -------
    plotly.graph_objects.Figure
        Two columns of bars with the numbers beside them, one row per stage.

    Raises
    ------
    EvaluationError
        If a column is missing, or no time is finite.
    """
    rows = checked(table, "figure of runtime", ["stage"], ["seconds", "peak_bytes"])
    rows = with_value(rows, "seconds", "figure of runtime")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    names = [label(name) for name in rows["stage"]]
    gib = rows["peak_bytes"] / 2**30
    for column, values, color, unit in ((1, rows["seconds"], ACCENT, "s"), (2, gib, NULL_EDGE, "GiB")):
        look = {"textposition": "outside", "cliponaxis": False, "marker": {"color": color}}
        texts = [f"{number(value)} {unit}" for value in values]
        figure.add_trace(bars(values, names, "%{y}: %{text}", text=texts, **look), row=1, col=column)
        figure.update_xaxes(range=[0, 1.25 * max(float(values.max()), 1e-9)], row=1, col=column)
    total = rows["seconds"].sum()
    subtitle = (
        f"n = {len(rows)} stages, one run, {number(total)} s in all; of a stage that was kept, the time when it was made. Memory: peak of the "
        "main process so far, workers not included. Times of a shared machine say little: the ratios of experiments/performance are measured "
        "side by side."
    )
    dressed(figure, "Time and memory by stage", subtitle, max(120, _ROW * len(rows)))
    figure.update_xaxes(title="seconds", row=1, col=1)
    figure.update_xaxes(title="peak memory (GiB)", row=1, col=2)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="")
    return figure
