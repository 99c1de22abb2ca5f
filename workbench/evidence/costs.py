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
    whole = whole.assign(split_seconds=whole["fit_seconds"] + whole["predict_seconds"])
    sums = {
        "splits": ("method", "size"),
        "split_seconds": ("split_seconds", "sum"),
        "once_seconds": ("once_seconds", "first"),
    }
    means = {"n_parameters": ("n_parameters", "mean"), "peak_bytes": ("peak_bytes", "max")}
    table = whole.groupby("method", sort=False).agg(**sums, **means).reset_index().astype({"peak_bytes": int})
    table["cells_seconds"] = np.where(table["method"].isin(list(forwarded)), forward * n_cells, 0.0)
    table["total_seconds"] = table["split_seconds"] + table["cells_seconds"] + table["once_seconds"]
    table = table.merge(methods[["method", "group"]], on="method", how="left")
    base = table[table["method"] == ours]
    given = table["split_seconds"] + table["cells_seconds"]
    for name, values in (
        ("times_ours", table["total_seconds"]),
        ("times_ours_given", given),
        ("parameters_times_ours", table["n_parameters"]),
    ):
        table[name] = values / values[base.index[0]] if len(base) else np.nan
    seconds = ["split_seconds", "cells_seconds", "once_seconds", "total_seconds", "times_ours", "times_ours_given"]
    return table[["method", "group", "splits", *seconds, "n_parameters", "parameters_times_ours", "peak_bytes"]]
