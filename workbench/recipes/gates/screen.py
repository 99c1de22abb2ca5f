"""The head screen: every head alone, and controls, from the internal to the first external cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.errors import EvaluationError
from workbench.evidence.anchor_set import anchors_of
from workbench.evidence.gate_spec import SPEC
from workbench.evidence.gate_table import ZERO_SHOT, over_draws
from workbench.evidence.screen import gate_columns, rank_heads, score_anchors, score_head
from workbench.operators.controls import CODE
from workbench.operators.operator import head_names
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.maps import CONTROLS, DRAWN, anchors_under, draws_of, matrix_of
from workbench.seeds import key


def screen_stage(context: GatesContext, folder: Path, results: Results) -> Result:
    """Screen every head and every control, a task each.

    Parameters
    ----------
    context
        Gate run with its operators, an internal and an external cohort.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Results of the stages before it, whose files are read instead.

    Returns
    -------
    dict
        ``cohort`` that heads are judged on, ``n_heads``.
    """
    names = [*head_names(context.operators.shape), *CONTROLS]
    tasks = [Task(name, (context.handle, name)) for name in names]
    rows = run_sweep(folder / "sweep", {"spec": SPEC.hash}, tasks, screen_of, context.backend)
    heads, controls = screen_tables(rows)
    context.write({"screen": heads, "screen_controls": controls})
    return {"cohort": context.external, "n_heads": len(heads)}


def screen_of(handle: Handle, operator: str) -> pd.DataFrame:
    """One feature map through the screen, a row per draw; null draws as a list in ``null``.

    Parameters
    ----------
    handle
        Opens the gate run in this process.
    operator
        Name of the feature map, as `anchors_under` knows it. Gates of what is drawn are those of the external cohort in the
        table of the controls, and are not asked again.
    """
    context: GatesContext = handle.open()
    return pd.DataFrame([_screened(context, operator, draw) for draw in draws_of(context, operator)])


def _screened(context: GatesContext, operator: str, draw: int) -> dict[str, Any]:
    assert context.external is not None
    config, fitted, judged = context.config, context.cohorts[context.internal], context.cohorts[context.external]
    ruler, adaptor = context.ruler, context.adaptor()
    row: dict[str, Any]
    # Relabellings of its own, so that the null that is pooled over heads is as many draws as it counts.
    drawn: Any = {
        "seed": key(config.seed, "screen", operator),
        "refits": 0 if operator in CONTROLS else config.head_refits,
    }
    try:
        if operator == CODE:
            both = anchors_under(context, context.external, ZERO_SHOT, operator, draw)
            row, null, _ = score_anchors(both, anchors_of(judged), ruler, adaptor, **drawn)
        else:
            matrix = matrix_of(context, operator, draw)
            row, null = score_head(matrix, fitted, judged, ruler, adaptor, **drawn)
        if operator not in DRAWN:
            row |= gate_columns(matrix, judged, ruler, adaptor, seed=config.seed)
        status = "ok"
    except EvaluationError as error:
        row, null, status = {"residualised": np.nan}, np.zeros(0), f"not applicable: {error}"
    made = {"operator": operator, "draw": draw, **row, "status": status, "spec": SPEC.hash}
    return {**made, "null": null.tolist()}


def screen_tables(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Heads ranked, and the controls beside them.

    Parameters
    ----------
    rows
        Rows of `screen_of`, of all heads and controls.

    Returns
    -------
    heads, controls
        Heads from the best on, with ``rank``, ``name``, ``layer`` and ``head``; controls with ``operator``, numbers as means over draws,
        and ``draws_sd``, ``draws_low``, ``draws_high`` of ``residualised`` over ``n_draws``.
    """
    is_control = rows["operator"].isin(CONTROLS)
    heads = rows[~is_control].drop(columns=["null", "draw"])
    place = heads["operator"].str.extract(r"L(\d+)H(\d+)").astype(int)
    heads = heads.assign(layer=place[0], head=place[1]).rename(columns={"operator": "name"})
    of_heads = np.concatenate([np.asarray(draws, dtype=float) for draws in rows.loc[~is_control, "null"]])
    table = rank_heads(heads, of_heads)
    first = [
        "rank",
        "name",
        "layer",
        "head",
        "residualised",
        "low",
        "high",
        "null_mean",
        "null_high",
        "n_null",
        "p",
        "q",
    ]
    table = table[first + [column for column in table if column not in first]]
    controls = rows[is_control].drop(columns="null")
    return table, over_draws(controls, by=("operator",), of="residualised")
