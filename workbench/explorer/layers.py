"""Geometry of every layer in the explorer: what ``workbench geometry`` measured, and its maps of cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from workbench.evidence.contrasts import OFF_RULER
from workbench.evidence.ruler import Ruler
from workbench.explorer.heads import short
from workbench.explorer.maps import NO_LABEL, branches_of, cell_map, label_groups
from workbench.figures.checks import checked, records, refusal
from workbench.figures.style import number
from workbench.geometry.space_draws import BASELINE, MODEL

# There are two maps for each layer, and a page holds them all.
MAP_CELLS = 1000
FIRST = "R_NX"


def layer_measures(table: pd.DataFrame) -> dict[str, Any]:
    """Measures of every space by layer, as the page's script draws them.

    Parameters
    ----------
    table
        Table ``geometry`` of ``workbench geometry`` or `workbench.geometry`.

    Returns
    -------
    dict
        ``model`` and ``baseline`` (how these sources are called), ``hooks`` of the model, ``first`` (the measure that is shown first) and
        ``measures``: each a ``name`` and ``rows`` of source, hook, layer (None: a baseline), value, low, high (None: no interval) and number of cells.

    Raises
    ------
    EvaluationError
        If a column is missing, or no row is of the model.
    """
    what = "geometry of the explorer"
    text, numeric = ["source", "hook", "measure", "scope"], ["layer", "value", "low", "high", "n"]
    rows = checked(table, what, text, numeric)
    hooks = list(dict.fromkeys(rows.loc[rows["source"] == MODEL, "hook"]))
    if not hooks:
        raise refusal(what, "its table has no row of the model.")
    measures: list[dict[str, Any]] = []
    for (measure, scope), own in rows.groupby(["measure", "scope"], sort=False):
        own = own[np.isfinite(own["value"]) & own["layer"].notna() | (own["source"] == BASELINE)]
        if not (own["source"] == MODEL).any():
            continue  # of part of the cells only, or of baselines alone
        shown = [
            [r.source, r.hook, short(r.layer), short(r.value), short(r.low), short(r.high), short(r.n)]
            for r in records(own)
        ]
        measures.append({"name": f"{measure}, {scope}" if scope else str(measure), "rows": shown})
    first = next((i for i, one in enumerate(measures) if one["name"].startswith(FIRST)), 0)
    return {"model": MODEL, "baseline": BASELINE, "hooks": hooks, "first": first, "measures": measures}


def layer_maps(table: pd.DataFrame, ruler: Ruler | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Maps of the same cells after each layer.

    Parameters
    ----------
    table
        Table ``maps`` of ``workbench geometry``, names read as text.
    ruler
        Ruler whose branches the colours stand for; without one all cells have the same.
    seed
        Seed of the drawing where there are more than `MAP_CELLS` cells; the same cells are drawn on every map.
    """
    rows = checked(
        table, "maps", ["hook", "cell_id", "cell_type"], ["layer", "umap_1", "umap_2", "trustworthiness", "k"]
    )
    rows = rows.assign(cell_type=rows["cell_type"].replace("", NO_LABEL))
    names = sorted(set(rows["cell_type"]))
    groups = label_groups(branches_of(names, ruler) if ruler else dict.fromkeys(names, OFF_RULER), ruler)
    maps = []
    for (_, hook), own in rows.groupby(["layer", "hook"], sort=False):
        layer = float(own["layer"].iloc[0])
        place = "in front of the first layer" if layer < 0 else f"after layer {layer:.0f}"
        trust, k = own["trustworthiness"].iloc[0], own["k"].iloc[0]
        note = f"Trustworthiness of the map {number(trust)} at k = {k:.0f}." if np.isfinite(trust) else ""
        maps.append(
            cell_map(
                f"layer {layer:.0f} {hook}",
                f"{hook} {place}, UMAP",
                f"{note} Only neighbourhoods can be read from a UMAP, not distances.".strip(),
                ("UMAP 1", "UMAP 2"),
                own[["umap_1", "umap_2"]].to_numpy(dtype=np.float64),
                own["cell_id"].astype(str).tolist(),
                own["cell_type"].tolist(),
                groups,
                seed=seed,
                limit=MAP_CELLS,
            )
        )
    return maps
