"""The stage of the gates: the frozen specification on the run's own anchors, as one internal cohort, with controls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from tqdm import tqdm

from workbench.engine.stages import Result, Results
from workbench.evidence.anchor_set import AnchorSet
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.evidence.gate_table import INTERNAL, gate_rows, unmet
from workbench.evidence.gates import Gate, evaluate, expected_to_fail
from workbench.recipes.run.config import RunGatesConfig
from workbench.recipes.run.context import ANCHOR_CONTROLS, BIASED, RunContext

TABLES = ("gates", "gate_controls")


def gates_stage(context: RunContext, settings: RunGatesConfig, _: Path, __: Results) -> Result:
    """Put the configured feature map and every control through the gates.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read, the untrained ones too.
    settings
        Draws of the null beside the holdouts of the configured feature map.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``spec``, the hash of what was asked, and ``unmet``, as `gate_table.unmet` gives it.
    """
    anchors, adaptor, tables = context.anchors(), context.config.adaptor, []
    every = [(name, draw) for name in (adaptor.name, *ANCHOR_CONTROLS) for draw in context.draws(name)]
    for name, draw in tqdm(every, unit="feature map", desc="gates", disable=not context.backend.progress):
        own = name == adaptor.name
        if own and adaptor.feature_map == "topk":
            gates = [Gate(gate, "not applicable", note=BIASED) for gate in GATES[:-1]]
        else:
            judged = AnchorSet.of_cohort(context.anchor_features(name, draw), anchors)
            refits = settings.refits if own else 0
            gates = evaluate(judged, context.ruler, context.adaptor(), seed=context.config.seed, refits=refits)
        rows = gate_rows([*gates, expected_to_fail({})], context.cells.name, INTERNAL, name)
        tables.append(rows if own else rows.assign(draw=draw))
    context.write(dict(zip(TABLES, (tables[0], pd.concat(tables[1:])), strict=True)))
    return {"spec": SPEC.hash, "unmet": unmet(tables[0], GATES)}
