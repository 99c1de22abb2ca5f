"""The head map: how well each head alone orders held-out anchors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.heatmap import ALPHA, SCALE, Colors, head_name, heatmap, placed
from workbench.figures.style import checked, number, records, span


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

    Examples
    --------
    >>> import pandas as pd
    >>> from workbench.figures import head_map
    >>> same = {"layer": 0, "sd": 0.05, "n_splits": 4, "n_anchors": 40, "null_high": 0.3}
    >>> table = pd.DataFrame({"head": [0, 1], "spearman": [0.6, 0.1], "p": [0.01, 0.4], "q": [0.02, 0.4], **same})
    >>> head_map(table).data[0].text.tolist()
    [['<b>0.60</b>', '0.10']]
    """
    numeric = ["layer", "head", "spearman", "sd", "n_splits", "n_anchors", "null_high", "p", "q"]
    heads = checked(table, "head map", numeric=numeric)
    cells, rows, columns = placed(heads, "spearman", "head map")
    cells["bold"] = cells["q"] <= ALPHA
    cells["hover"] = [
        f"layer {int(row.layer)}, head {int(row.head)}<br>Spearman {number(row.spearman)} ± {number(row.sd)} "
        f"(sd over n = {number(row.n_splits)} splits)<br>n = {number(row.n_anchors)} anchors<br>"
        f"null, upper bound {number(row.null_high)}<br>p = {number(row.p)}, q = {number(row.q)}"
        for row in records(heads)
    ]
    best = cells.iloc[int(np.nanargmax(cells["value"]))]
    found = int((heads["q"] <= ALPHA).sum())
    beside = "; ".join(f"{name} {number(value)}" for name, value in (controls or {}).items())
    subtitle = (
        f"n = {len(heads)} heads, {span(heads['n_anchors'])} anchors, {span(heads['n_splits'])} splits. "
        f"Bold: q ≤ {ALPHA} (Benjamini-Hochberg over heads), {found} of {len(heads)}; frame: best head, "
        f"{head_name(best)}. "
        f"Null, upper bound: {span(heads['null_high'])}. "
        + (f"Controls on the same anchors: {beside}." if beside else "No controls were given.")
    )
    title = "Held-out Spearman of each head alone with the ruler"
    return heatmap(cells, rows, columns, Colors(SCALE, (-1, 1), "Spearman"), title, subtitle, frame=best)
