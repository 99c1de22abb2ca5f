"""The stage that reads the cell type from each residual stream by a linear probe, beside expression and chance."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.cells.expression import panel_expression
from workbench.cells.panel import choose_panel
from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.errors import EvaluationError
from workbench.evidence.probing import ProbeTarget, describe_probe, label_target, probe_scores
from workbench.geometry.space_draws import MODEL
from workbench.recipes.geometry.config import UNTRAINED
from workbench.recipes.geometry.context import GeometryContext
from workbench.recipes.geometry.measures import named
from workbench.tools.common import rows_of
from workbench.tools.probe import EXPRESSION, PANEL
from workbench.tools.probe import UNTRAINED as UNTRAINED_FEATURES

LABEL = "cell_type"
# What each pass is called in the table, which is that of `workbench.probe`.
_FEATURES = {MODEL: MODEL, UNTRAINED: UNTRAINED_FEATURES}


def streams_of(results: Results) -> list[tuple[str, str]]:
    """Residual streams of the model and of random weights, as the stage and the space's name.

    Parameters
    ----------
    results
        Results of the passes, which name their spaces.
    """
    every = [(stage, name) for stage in _FEATURES if stage in results for name in results[stage]["spaces"]]
    return [(stage, name) for stage, name in every if name.split("/")[1] == "resid_post"]


def probe_stage(context: GeometryContext, folder: Path, results: Results) -> Result:
    """Probe each residual stream, a task each.

    Parameters
    ----------
    context
        Geometry whose spaces lie on the disk.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Results of the passes, which name their spaces.

    Returns
    -------
    dict
        ``skipped``: why nothing was probed, empty where it was.
    """
    try:
        target_of(context)
    except EvaluationError as error:
        context.write({"probe": pd.DataFrame(columns=["reads", "features", "layer", "pool", "metric", "value"])})
        return {"skipped": str(error)}
    spaces = [("", EXPRESSION), *streams_of(results)]
    tasks = [Task(f"{stage}/{name}", (context.handle, stage, name)) for stage, name in spaces]
    rows = run_sweep(folder / "sweep", {"spaces": len(tasks)}, tasks, probe_task, context.backend)
    context.write({"probe": rows})
    return {"skipped": ""}


def target_of(context: GeometryContext) -> ProbeTarget:
    """The cell type of the cells that are probed: all, or a draw of them by seed and name.

    Parameters
    ----------
    context
        Geometry whose cells are loaded.

    Raises
    ------
    EvaluationError
        If too few cells have a type, or they are of one donor alone.
    """
    kinds, donors, names = context.column(LABEL), context.column("donor"), context.cells.obs_names.to_numpy(dtype=str)
    if kinds is None:
        raise EvaluationError("The cells name no cell type; name its column with data.cell_type.")
    asked, drawn = context.config.measures, np.full(len(names), "", dtype=object)
    rows = rows_of(np.full(len(names), ""), "", names, asked.probe_cells, context.config.seed)
    drawn[rows] = kinds[rows]
    known = drawn != ""
    donors = None if donors is None else donors.astype(object)
    folds = asked.probe_folds if donors is None else max(2, min(asked.probe_folds, len(set(donors[known]))))
    return label_target(drawn, LABEL, names, donors, folds, context.config.seed)


def probe_task(handle: Handle, stage: str, name: str) -> pd.DataFrame:
    """Row of one space, in the form of `workbench.probe`.

    Parameters
    ----------
    handle
        Opens the geometry in this process.
    stage, name
        Stage that has left the space, and the name of the space in it; no stage for expression itself.
    """
    target, base = _beside(handle)
    folds, context = len(np.unique(target.fold)), handle.open()
    row: dict[str, Any] = {"reads": LABEL, "features": EXPRESSION, "layer": np.nan, "pool": ""}
    if stage:
        about = named(stage, name)
        row |= {"features": _FEATURES[stage], "layer": about["layer"], "pool": about["hook"].split()[-1]}
        found = probe_scores(context.space(stage, name), target, None, context.config.seed)
        row |= describe_probe(found, base, target, folds)
    else:
        row |= describe_probe(base, None, target, folds)
    return pd.DataFrame([{**row, "folds_of": "cells" if target.donor is None else "donors"}])


@lru_cache(maxsize=1)
def _beside(handle: Handle) -> tuple[ProbeTarget, dict[str, Any]]:
    """What is read, and what principal components of log-normalised expression give, as many as the model is wide."""
    context = handle.open()
    target = target_of(context)
    panel = choose_panel(context.cells, context.tokenizer(context.cells).match, PANEL)
    x = panel_expression(context.cells[target.rows], panel).toarray()
    alone = replace(target, rows=np.arange(len(x)))
    return target, probe_scores(x, alone, context.model.config.d_model, context.config.seed)
