"""``workbench gates``: panels and an operator in, a table of gates out, with controls and a screen of all heads beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from workbench.engine.stages import StageRunner
from workbench.engine.sweep import Backend
from workbench.evidence.gate_spec import SPEC
from workbench.recipes.gates.chain import GatesChain
from workbench.recipes.gates.report import report_stage
from workbench.settings import GatesConfig


@dataclass(frozen=True)
class GatesResult:
    """What `run_gates` found.

    Attributes
    ----------
    out
        Folder with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/`` and ``figures/``.
    gates
        One row per panel and gate.
    unmet
        Required gates that did not pass.
    """

    out: Path
    gates: pd.DataFrame
    unmet: tuple[str, ...]


def run_gates(config: GatesConfig, out: Path, backend: Backend | None = None) -> GatesResult:
    """Run a configuration.

    Parameters
    ----------
    config
        What to run.
    out
        Folder of the run; finished stages and tasks in it whose inputs are unchanged are kept.
    backend
        Who does the tasks; one after the other by default.

    Returns
    -------
    GatesResult
    """
    chain = GatesChain(config, out, backend or Backend())
    runner = StageRunner(out)
    tables = {
        name: chain.tables / f"{name}.csv" for name in ("panels", "gates", "controls", "screen", "screen_controls")
    }
    inputs = chain.inputs()
    panels = runner.run("panels", inputs, chain.panels_stage, [tables["panels"]])
    feature_map = config.adaptor.model_dump(mode="json", include={"feature_map", "layer", "head", "blocks"})
    operators = runner.run("operators", [panels["key"], feature_map], chain.operators_stage)
    judged = [operators["key"], config.adaptor.model_dump(mode="json"), chain.inputs()["graph"]]
    results = {"panels": panels, "operators": operators}
    results["gates"] = runner.run(
        "gates",
        [judged, config.refits, list(config.required)],
        chain.gates_stage,
        [tables["gates"], tables["controls"]],
    )
    if config.screen and chain.external is not None:
        results["screen"] = runner.run(
            "screen",
            [judged, config.head_refits, chain.external],
            chain.screen_stage,
            [tables["screen"], tables["screen_controls"]],
        )
    results["geometry"] = runner.run("geometry", [judged, list(config.trajectories)], chain.geometry_stage)
    report_stage(chain, runner, results)
    gates = pd.read_csv(tables["gates"], keep_default_na=False, na_values=[""])
    return GatesResult(out, gates, tuple(results["gates"]["unmet"]))


def gates_text(result: GatesResult) -> str:
    """The table of gates as text, and what did not pass.

    Parameters
    ----------
    result
        From `run_gates`.
    """
    table = result.gates
    shown = table[["panel", "role", "gate", "value", "rule", "threshold", "n", "unit", "null_high", "p", "status"]]
    lines = shown.to_string(index=False, na_rep="-", float_format=lambda value: f"{value:.3g}")
    notes = [f"  {row.panel}, {row.gate}: {row.note}" for row in table.itertuples() if row.status == "not applicable"]
    said = f"Not passed, though required: {'; '.join(result.unmet)}." if result.unmet else "All required gates pass."
    more = ["Not applicable:", *notes] if notes else []
    spec = f"Gates of spec {SPEC.hash}."
    return "\n".join([lines, *more, spec, said, f"Report: {result.out / 'report.html'}"])
