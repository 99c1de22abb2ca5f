"""What a whole campaign costs with each method, beside what it costs with ours."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd


def campaign_costs(
    costs: pd.DataFrame, methods: pd.DataFrame, ours: str, n_cells: int, forward: float, forwarded: Collection[str]
) -> pd.DataFrame:
    """Seconds and parameters of each method over all splits.

    Parameters
    ----------
    costs, methods
        Tables of a campaign, as its stage leaves them.
    ours
        Name of the method that others are divided by.
    n_cells
        Cells of the campaign: each needs one forward pass for a method on embeddings, however many splits it is in.
    forward
        Seconds of a forward pass over one cell.
    forwarded
        Names of the methods that need them.

    Returns
    -------
    DataFrame
        One row per method that ran on every split: ``method``, ``group``, ``splits``, ``split_seconds`` (fit and predict, all
        splits), ``cells_seconds`` (forward passes, each cell once), ``once_seconds`` (capture of operators), ``total_seconds``,
        ``times_ours`` and ``times_ours_given`` (the latter without capture of operators, as where they are at hand; forward
        passes stay), ``n_parameters`` (mean over splits), ``parameters_times_ours``, ``peak_bytes`` (largest).
    """
    whole = costs[costs.groupby("method")["status"].transform(lambda status: (status == "ok").all())]
    rows = []
    for name, own in whole.groupby("method", sort=False):
        split, once = float((own["fit_seconds"] + own["predict_seconds"]).sum()), float(own["once_seconds"].iloc[0])
        cells = forward * n_cells if name in forwarded else 0.0
        rows.append(
            {
                "method": name,
                "splits": len(own),
                "split_seconds": split,
                "cells_seconds": cells,
                "once_seconds": once,
                "total_seconds": split + cells + once,
                "n_parameters": float(own["n_parameters"].mean()),
                "peak_bytes": int(own["peak_bytes"].max()),
            }
        )
    table = pd.DataFrame(rows, columns=list(_COLUMNS)).merge(methods[["method", "group"]], on="method", how="left")
    base = table[table["method"] == ours]
    given = table["split_seconds"] + table["cells_seconds"]
    for name, values in (
        ("times_ours", table["total_seconds"]),
        ("times_ours_given", given),
        ("parameters_times_ours", table["n_parameters"]),
    ):
        table[name] = values / values[base.index[0]] if len(base) else np.nan
    order = ["method", "group", *_COLUMNS[1:6], "times_ours", "times_ours_given"]
    return table[[*order, "n_parameters", "parameters_times_ours", "peak_bytes"]]


_COLUMNS = (
    "method", "splits", "split_seconds", "cells_seconds", "once_seconds", "total_seconds", "n_parameters", "peak_bytes",
)  # fmt: skip
