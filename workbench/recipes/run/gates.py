"""The gates in a run: the frozen specification on the run's own anchors, as one internal panel, with controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from workbench.evidence.anchor_pool import Pool
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.evidence.gates import Gate, evaluate, expected_to_fail
from workbench.figures.requests import Request
from workbench.recipes.gates.panels import INTERNAL
from workbench.recipes.gates.tasks import gate_rows, unmet
from workbench.recipes.run.chain import CONTROL_NAMES, Chain
from workbench.recipes.run.evidence import BIASED
from workbench.recipes.run.section import Section, read_table, setting
from workbench.settings import RunGatesConfig

TABLE, CONTROLS_TABLE = "gates", "gate_controls"


def gates_stage(chain: Chain, settings: RunGatesConfig, folder: Path) -> dict[str, Any]:
    """The configured feature map and every control through the gates.

    Parameters
    ----------
    chain
        The run.
    settings
        Draws of the null beside the holdouts.
    folder
        Of the stage.
    """
    anchors, own = chain.anchors(), chain.config.adaptor.name
    panel, tables = chain.adata.uns["workbench"]["name"], []
    for name in tqdm((own, *CONTROL_NAMES), unit="feature map", desc="gates"):
        if name == own and chain.config.adaptor.feature_map == "topk":
            gates = [Gate(gate, "not applicable", note=BIASED) for gate in GATES[:-1]]
        else:
            matrix = chain.feature_map() if name == own else chain.control(name)
            pool = Pool.of_panel(anchors.centroids @ matrix, anchors)
            refits = settings.refits if name == own else 0
            gates = evaluate(pool, chain.ruler, chain.adaptor(), seed=chain.config.seed, refits=refits)
        tables.append(gate_rows([*gates, expected_to_fail({})], panel, INTERNAL, name))
    tables[0].to_csv(chain.tables / f"{TABLE}.csv", index=False)
    pd.concat(tables[1:]).to_csv(chain.tables / f"{CONTROLS_TABLE}.csv", index=False)
    return {"spec": SPEC.hash, "unmet": unmet(tables[0], GATES)}


def gates_section(chain: Chain) -> Section:
    """What the report says of the gates.

    Parameters
    ----------
    chain
        The run.
    """
    tables = {name: read_table(chain, name) for name in (TABLE, CONTROLS_TABLE)}
    gates = tables[TABLE]
    beside = [
        f"{name} {(rows['status'] == 'pass').sum()}"
        for name, rows in tables[CONTROLS_TABLE].groupby("operator", sort=False)
    ]
    said = ", ".join(f"{row.gate} ({row.value:.3g})" for row in gates.itertuples() if row.status == "fail")
    passed = int((gates["status"] == "pass").sum())
    counted = f"{passed} of {len(gates)} pass{f'; failing: {said}' if said else ''} (spec {SPEC.hash})"
    answer = f"Gates on these anchors: {counted}; passed by the controls: {', '.join(beside)}."
    skipped = [
        {"what": f"Gate '{row.gate}'", "why": str(row.note)}
        for row in gates.itertuples()
        if row.status == "not applicable"
    ]
    caption = (
        f"The seven gates, fixed before any run (spec {SPEC.hash}), on the anchors of this run as one internal panel; a gate that cannot "
        f"be computed is no pass. {setting(chain)}"
    )
    return Section([Request("gates", caption)], tables, [answer], skipped, facts={"Gates": counted})


def card_gates(chain: Chain) -> list[dict[str, Any]]:
    """Gates as the model card holds them; none where the run has no such section.

    Parameters
    ----------
    chain
        The run.
    """
    if chain.config.gates is None:
        return []
    table = read_table(chain, TABLE)
    columns = ("gate", "status", "value", "rule", "threshold", "sd", "n", "unit", "null_high", "p", "note", "spec")
    rows = table[list(columns)].itertuples(index=False, name=None)
    return [{name: None if pd.isna(value) else value for name, value in zip(columns, row, strict=True)} for row in rows]
