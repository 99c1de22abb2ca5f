"""``workbench run``: cells -> tokens -> hooked forward -> operators -> adaptor -> readout -> algorithm -> report."""

from __future__ import annotations

from pathlib import Path

from workbench.chain import Chain
from workbench.config import RunConfig
from workbench.extractor.algorithm import CARD, WEIGHTS
from workbench.run_report import report_stage
from workbench.stages import StageRunner


def run(config: RunConfig, out: Path) -> Path:
    """Run the chain.

    Parameters
    ----------
    config
        What to run.
    out
        Folder of the run; finished stages in it whose inputs are unchanged are kept.

    Returns
    -------
    Path
        The folder, with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/``, ``figures/``, ``algorithm/``.
    """
    runner = StageRunner(out)
    chain = Chain(config, out)
    cells = runner.run(
        "cells",
        [chain.inputs("data", "ruler", "stages", "panel", "seed"), config.evaluation.folds],
        chain.cells_stage,
        [chain.tables / "cells.csv"],
    )
    feature_map = config.adaptor.model_dump(include={"feature_map", "layer", "head"})
    operators = runner.run(
        "operators",
        [cells["key"], chain.model.fingerprint(), chain.inputs("capture", "seed"), feature_map],
        chain.operators_stage,
    )
    evaluation = [operators["key"], chain.inputs("anchors", "adaptor", "evaluation", "seed")]
    made = {
        name: chain.tables / f"{name}.csv" for name in ("heads", "holdouts", "readouts", "added", "latent", "distances")
    }
    runner.run("heads", evaluation, chain.heads_stage, [made["heads"], made["holdouts"]])
    readouts = runner.run("readouts", evaluation, chain.readouts_stage, [made["readouts"], made["added"]])
    files = [out / "algorithm" / WEIGHTS, out / "algorithm" / CARD, made["latent"], made["distances"]]
    algorithm = runner.run("algorithm", evaluation, chain.algorithm_stage, files)
    report_stage(chain, runner, {"cells": cells, "operators": operators, "readouts": readouts, "algorithm": algorithm})
    return out
