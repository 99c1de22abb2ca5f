"""``workbench gates`` as data: its stages, and what each of them depends on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.cells.datasets import values_hash
from workbench.console import columns
from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe
from workbench.engine.stages import Stage
from workbench.errors import EvaluationError, unknown_name
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.files import digest
from workbench.operators.operator import check_spec
from workbench.recipes.gates.cohorts import cohorts_stage
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.gates import gates_stage, verdict_stage
from workbench.recipes.gates.geometry import geometry_stage
from workbench.recipes.gates.maps import CONTROLS, MODEL, NEGATIVES, WHOLE
from workbench.recipes.gates.operators import operators_stage
from workbench.recipes.gates.readings import readings_stage
from workbench.recipes.gates.screen import screen_stage
from workbench.recipes.gates.sections import report
from workbench.recipes.loads import passes_load


def gates_text(gates: pd.DataFrame, unmet: Sequence[str], out: Path) -> str:
    """The table of gates as text, and what did not pass.

    Parameters
    ----------
    gates
        Table of this name, which the run has written.
    unmet
        Required gates that did not pass, as sentences; the stage ``verdict`` lists them.
    out
        Folder of the run, with its report.
    """
    shown = gates[
        ["cohort", "role", "gate", "value", "rule", "threshold", "null_mean", "margin", "n", "unit", "p", "status"]
    ]
    lines = shown.to_string(index=False, na_rep="-", line_width=columns(), float_format=lambda value: f"{value:.3g}")
    notes = [f"  {row.cohort}, {row.gate}: {row.note}" for row in gates.itertuples() if row.status == "not applicable"]
    said = f"Not passed, though required: {'; '.join(unmet)}." if unmet else "All required gates pass."
    more = ["Not applicable:", *notes] if notes else []
    spec = f"Gates of spec {SPEC.hash}."
    if "convention" in gates:
        spec += f" Convention of the operators: {gates['convention'].iloc[0]}."
    return "\n".join([lines, *more, spec, said, f"Report: {out / 'report.html'}"])


def stages(context: GatesContext) -> list[Stage]:
    """The stages of a gate run; what can be refused is refused here.

    Parameters
    ----------
    context
        Gate run that nothing has been done of.

    Raises
    ------
    EvaluationError
        If a required gate does not exist, the feature map is chosen by what the gates judge, a branch is unknown, two
        cohorts share a cell, or not exactly one is internal.
    CellsError
        If a cohort selects what is not there, or no cell.
    ShapeError
        If the model has no such head or layer.
    """
    config, model = context.config, context.model
    for gate in config.required:
        if gate not in GATES:
            raise EvaluationError(f"Key 'required': {unknown_name('gate', gate, GATES)}")
    if config.adaptor.feature_map == "topk":
        raise EvaluationError(
            "The topk feature map chooses its heads by the very anchors that the gates judge; use 'single' or 'drift'."
        )
    check_spec(config.adaptor.feature_map_spec(), (model.config.n_layers, model.config.n_heads))
    # But for `top`, which is of a feature map that was refused.
    adaptor = config.adaptor.model_dump(mode="json", exclude={"top"})
    fitted, both = {"adaptor": adaptor, "seed": config.seed}, ("cohorts", "operators")
    fitted_and_drawn = {**fitted, "control_draws": config.control_draws}
    judged = {**fitted_and_drawn, "refits": config.refits}
    screened = {**fitted_and_drawn, "head_refits": config.head_refits, "external": context.external}
    followed = {**fitted, "lineages": context.lineages}
    screen = Stage("screen", partial(screen_stage, context), screened, both, ("screen", "screen_controls"))
    return [
        Stage("cohorts", partial(cohorts_stage, context), cohort_inputs(context), tables=("cohorts",)),
        Stage("operators", partial(operators_stage, context), operator_inputs(context)),
        Stage("gates", partial(gates_stage, context), judged, both, ("gates", "controls", "control_draws")),
        Stage("verdict", partial(verdict_stage, context), list(config.required), ("gates",)),
        Stage(
            "readings", partial(readings_stage, context), {**fitted, "refits": config.head_refits}, both, ("readings",)
        ),
        *([screen] if config.screen and context.external is not None else []),
        Stage("geometry", partial(geometry_stage, context), followed, both),
    ]


def cohort_inputs(context: GatesContext) -> dict[str, Any]:
    """Everything that placed cells and their anchors depend on.

    Parameters
    ----------
    context
        Gate run whose cells are loaded for this.

    Returns
    -------
    dict
        JSON-ready. A mapping of labels counts by where the cells come to lie, so one that changes nothing does nothing.
    """
    config = context.config
    cohorts = {
        name: {
            "role": cohort.role,
            "data": context.cells[name].uns["workbench"]["name"],
            "content": context.hashes[name],
            "stages": digest(context.places[name][0]["stage"].to_numpy()),
            "unplaced": context.places[name][1],
            "matched": digest(context.matches[name].genes),
            "anchors": (cohort.anchors or config.anchors).model_dump(mode="json"),
        }
        for name, cohort in config.cohorts.items()
    }
    # A list: the first external cohort is the one that heads are screened on, and tables keep the order.
    return {
        "cohorts": list(cohorts.items()),
        "genes": context.genes,
        "ruler": context.ruler.fingerprint(),
        "seed": config.seed,
    }


def operator_inputs(context: GatesContext) -> dict[str, Any]:
    """Everything that the operators depend on: no label, ruler, anchor or other cohort is among it.

    Parameters
    ----------
    context
        Gate run whose internal cohort is loaded for this.

    Returns
    -------
    dict
        JSON-ready. Cells and settings of the capture are left out where the checkpoint alone makes the operators.
    """
    known = {**context.model_inputs(context.genes), "weights": context.model.fingerprint()}
    if context.config.operator != "attention":
        return known
    return {
        **known,
        **context.pass_inputs(values_hash(context.cells[context.internal]), context.read_obs, grouped=True),
    }


def expects(context: GatesContext) -> Expected:
    """What stages of a gate run have to do: a pass over the internal cohort, gates and heads that are tasks.

    Parameters
    ----------
    context
        Gate run whose cells, genes and model are read for this.
    """
    config, shape = context.config, context.model.config
    n = sum(map(len, context.cells.values()))
    tokens = context.fed(context.cells[context.internal], context.data_of(context.internal), context.genes)
    tasks = len(config.cohorts) * len((MODEL, *CONTROLS, *NEGATIVES))
    loads = {
        "cohorts": Load(n),
        "operators": passes_load(context, tokens, len(context.genes)),
        "gates": Load(n, tasks=tasks),
        "readings": Load(n, tasks=len(config.cohorts) * len(WHOLE)),
        "screen": Load(n, tasks=shape.n_layers * shape.n_heads + len(CONTROLS)),
    }
    return Expected(loads)


RECIPE = Recipe("gates", GatesContext, stages, report, expects=expects)
