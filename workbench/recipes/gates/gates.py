"""Every cohort through the gates, with the configured feature map and with controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.evidence.anchor_set import AnchorSet
from workbench.evidence.gate_spec import NULL_RULER, SPEC, TO_FAIL
from workbench.evidence.gate_table import gate_rows, over_draws, unmet, with_gate_seven
from workbench.evidence.gates import Gate, evaluate, first_five
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.maps import CONTROLS, MODEL, NEGATIVES, NOT_ASKED, WHOLE, anchors_under, draws_of


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
        for operator in (MODEL, *CONTROLS, *NEGATIVES)
    ]
    rows = with_gate_seven(run_sweep(folder / "sweep", {"spec": SPEC.hash}, tasks, gates_of, context.backend))
    own = rows["operator"] == MODEL
    drawn = rows[~own]
    controls = over_draws(drawn)
    # Of what is drawn the value is a mean over draws; the null is that of the draw which has one.
    controls["margin"] = (controls["value"] - controls["null_mean"]).where(controls["rule"] == ">=")
    gates = rows[own].drop(columns=["operator", "draw"])
    context.write({"gates": gates, "controls": controls, "control_draws": drawn})
    return {"spec": SPEC.hash}


def gates_of(handle: Handle, cohort: str, operator: str) -> pd.DataFrame:
    """Gates 1 to 6 of a cohort (1 to 5 where it is expected to fail), one row each, and of random controls each draw.

    Parameters
    ----------
    handle
        Opens the gate run in this process.
    cohort
        Name of the cohort that is judged, as configured.
    operator
        Name of the feature map, as `anchors_under` knows it.
    """
    context: GatesContext = handle.open()
    role, made = context.config.cohorts[cohort].role, []
    for draw in draws_of(context, operator):
        anchors = anchors_under(context, cohort, role, operator, draw)
        gates = _judge(context, anchors, role, whole=operator in WHOLE and draw == 0)
        made.append(gate_rows(gates, cohort, role, operator).assign(draw=draw))
    return pd.concat(made, ignore_index=True)


def _judge(context: GatesContext, anchors: AnchorSet, role: str, *, whole: bool) -> list[Gate]:
    """Gates of one draw; the null ruler, which costs more than all others together, and nulls of holdouts only on the whole."""
    config = context.config
    given: Any = (anchors, context.ruler, context.adaptor())
    options: Any = {"seed": config.seed, "refits": config.refits if whole else 0}
    if whole and role != TO_FAIL:
        return evaluate(*given, **options)
    first = first_five(*given, **options)
    return first if role == TO_FAIL else [*first, Gate(NULL_RULER, "not applicable", note=NOT_ASKED)]


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
