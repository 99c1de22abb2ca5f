"""Every cohort under each reading of a holdout and of a correlation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.errors import EvaluationError
from workbench.evidence.anchor_set import anchors_of
from workbench.evidence.gate_table import INTERNAL, ZERO_SHOT
from workbench.evidence.readings import FROZEN, frozen_readings, holdout_readings, reading_rows
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.maps import WHOLE, anchors_under


def readings_stage(context: GatesContext, folder: Path, results: Results) -> Result:
    """Judge every cohort under each reading, with the configured feature map and with plain expression and a code beside it.

    Parameters
    ----------
    context
        Gate run with its cohorts and operators.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Results of the stages before it, whose files are read instead.

    Returns
    -------
    dict
        ``n``, the number of rows.
    """
    tasks = [
        Task(f"{cohort} | {operator}", (context.handle, cohort, operator))
        for cohort in context.config.cohorts
        for operator in WHOLE
    ]
    rows = run_sweep(folder / "sweep", {}, tasks, readings_of, context.backend)
    context.write({"readings": rows})
    return {"n": len(rows)}


def readings_of(handle: Handle, cohort: str, operator: str) -> pd.DataFrame:
    """Readings of one cohort under one feature map, a row each.

    Parameters
    ----------
    handle
        Opens the gate run in this process.
    cohort
        Name of the cohort, as configured. A zero-shot cohort has no holdouts of its own, and the internal one no adaptor of
        another.
    operator
        Name of the feature map, as `anchors_under` knows it.
    """
    context: GatesContext = handle.open()
    config, role = context.config, context.config.cohorts[cohort].role
    drawn: Any = {"refits": config.head_refits, "seed": config.seed}
    rows: list[dict[str, Any]] = []
    if role != ZERO_SHOT:
        own = anchors_under(context, cohort, role, operator)
        rows += holdout_readings(own, context.ruler, context.adaptor(), **drawn)
    if role != INTERNAL:
        both = anchors_under(context, cohort, ZERO_SHOT, operator)
        try:
            rows += frozen_readings(
                both, anchors_of(context.cohorts[cohort]), context.ruler, context.adaptor(), **drawn
            )
        except EvaluationError as error:
            rows.append({"measure": FROZEN, "status": f"not applicable: {error}"})
    return reading_rows(rows, cohort=cohort, role=role, operator=operator)
