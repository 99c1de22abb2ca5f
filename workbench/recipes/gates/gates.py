"""Every cohort through the gates, with the configured feature map and with controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from workbench.cells.anchors import Anchors
from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.evidence.anchor_set import AnchorSet, anchors_of
from workbench.evidence.gate_spec import SPEC, TO_FAIL
from workbench.evidence.gate_table import ZERO_SHOT, gate_rows, unmet, with_gate_seven
from workbench.evidence.gates import evaluate, first_five
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.maps import CONTROLS, MODEL, matrix_of


def gates_stage(context: GatesContext, folder: Path, results: Results) -> Result:
    """Judge every cohort under every feature map, a task each.

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
        ``spec``, the hash of what was asked.
    """
    tasks = [
        Task(f"{cohort} | {operator}", (context.handle, cohort, operator))
        for cohort in context.config.cohorts
        for operator in (MODEL, *CONTROLS)
    ]
    rows = with_gate_seven(run_sweep(folder / "sweep", {"spec": SPEC.hash}, tasks, gates_of, context.backend))
    own = rows["operator"] == MODEL
    context.write({"gates": rows[own].drop(columns="operator"), "controls": rows[~own]})
    return {"spec": SPEC.hash}


def gates_of(handle: Handle, cohort: str, operator: str) -> pd.DataFrame:
    """Gates 1 to 6 of a cohort (1 to 5 where it is expected to fail), one row each.

    Parameters
    ----------
    handle
        Opens the gate run in this process.
    cohort
        Name of the cohort that is judged, as configured.
    operator
        Name of the feature map, as `matrix_of` knows it.
    """
    context: GatesContext = handle.open()
    config, matrix = context.config, matrix_of(context, operator)
    role = config.cohorts[cohort].role

    def features(name: str) -> tuple[np.ndarray, Anchors]:
        anchors = anchors_of(context.cohorts[name])
        return anchors.centroids @ matrix, anchors

    if role == ZERO_SHOT:
        anchors = AnchorSet.frozen(features(context.internal), features(cohort))
    else:
        anchors = AnchorSet.of_cohort(*features(cohort))
    judge = first_five if role == TO_FAIL else evaluate
    refits = config.refits if operator == MODEL else 0
    gates = judge(anchors, context.ruler, context.adaptor(), seed=config.seed, refits=refits)
    return gate_rows(gates, cohort, role, operator)


def verdict_stage(context: GatesContext, folder: Path, results: Results) -> Result:
    """Say which required gates did not pass: apart from the gates, so that asking for others judges nothing again.

    Parameters
    ----------
    context
        Gate run whose table of gates was written.
    folder
        Folder of the stage; nothing is put there.
    results
        Results of the stages before it, whose files are read instead.

    Returns
    -------
    dict
        ``unmet``, as `gate_table.unmet` gives it.
    """
    return {"unmet": unmet(context.read("gates"), context.config.required)}
