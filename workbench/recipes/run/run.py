"""``workbench run``: cells -> operators -> adaptor -> readout -> algorithm -> compaction -> factors -> report."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from workbench.engine.config import absolute
from workbench.engine.stages import StageRunner
from workbench.engine.sweep import Backend
from workbench.factors.gene_sets import load_gene_sets
from workbench.files import digest, write_text
from workbench.operators.algorithm import CARD, WEIGHTS
from workbench.recipes.run.chain import Chain
from workbench.recipes.run.compaction import compaction_stage
from workbench.recipes.run.drift import drift_stage
from workbench.recipes.run.evidence import heads_stage, readouts_stage, sensitivity_stage
from workbench.recipes.run.explorer import explorer_stage
from workbench.recipes.run.export import algorithm_stage
from workbench.recipes.run.factors import TABLES as FACTOR_TABLES
from workbench.recipes.run.factors import factors_stage
from workbench.recipes.run.gates import CONTROLS_TABLE, TABLE, gates_stage
from workbench.recipes.run.report import report_stage
from workbench.settings import RunConfig

EXTRACT, FACTORS = "extract", "factors"
Result = dict[str, Any]


@dataclass(frozen=True)
class _Stage:
    """A stage that stands on the operators: its part, its further inputs, its work, and the files it leaves."""

    name: str
    part: str
    inputs: Any
    work: Callable[[Path], Result]
    files: tuple[Path, ...]


def run(
    config: RunConfig, out: Path, *, parts: Collection[str] = (EXTRACT, FACTORS), backend: Backend | None = None
) -> Path:
    """Run the chain, or a part of it.

    Parameters
    ----------
    config
        What to run.
    out
        Folder of the run; finished stages in it whose inputs are unchanged are kept, and are in the report whatever part
        is run.
    parts
        ``extract``: heads, controls, readouts, the algorithm. ``factors``: compaction and factors. Both stand on the cells
        and operators of the run.
    backend
        Who does the splits of the second part; one after the other by default.

    Returns
    -------
    Path
        The folder, with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/``, ``figures/`` and, with the first
        part, ``algorithm/``.
    """
    runner, chain = StageRunner(out), Chain(config, out)
    write_text(out / "config.yaml", yaml.safe_dump(absolute(config), sort_keys=False))
    cells = runner.run(
        "cells",
        [chain.inputs("data", "ruler", "stages", "panel", "seed"), config.evaluation.folds],
        chain.cells_stage,
        [chain.tables / "cells.csv"],
    )
    inputs = [cells["key"], chain.model.fingerprint(), chain.inputs("capture", "operator", "seed")]
    results = {"cells": cells, "operators": runner.run("operators", inputs, chain.operators_stage)}
    stages = _stages(chain, backend or Backend())
    for stage in stages:
        given = [results["operators"]["key"], stage.inputs]
        if stage.part in parts:
            results[stage.name] = runner.run(stage.name, given, stage.work, stage.files)
        elif (kept := runner.kept(stage.name, given, stage.files)) is not None:
            results[stage.name] = kept
    made = {"cells", *(file.stem for stage in stages if stage.name in results for file in stage.files)}
    report_stage(chain, runner, results, made)
    return out


def _stages(chain: Chain, backend: Backend) -> list[_Stage]:
    """Stages of both parts that the configuration asks for, in their order."""
    config = chain.config
    judged = chain.inputs("anchors", "adaptor", "readout", "evaluation", "seed")
    evidence = [judged, chain.inputs("cell_heads")]
    whole = RunConfig.model_validate(absolute(config)).model_dump_json()

    def tables(*names: str) -> tuple[Path, ...]:
        return tuple(chain.tables / f"{name}.csv" for name in names)

    # A shallow model has no blocks to drift between, and leaves no table.
    deep = bool(config.adaptor.blocks) or chain.model.config.n_layers >= 3
    drifted = tables("drift_layers", "drift_genes") if deep else ()
    stages = [
        _Stage("untrained", EXTRACT, [], chain.untrained_stage, ()),
        _Stage("drift", EXTRACT, list(config.adaptor.blocks), partial(drift_stage, chain), drifted),
        _Stage("heads", EXTRACT, judged, partial(heads_stage, chain), tables("heads", "holdouts")),
        _Stage(
            "readouts", EXTRACT, evidence, partial(readouts_stage, chain), tables("readouts", "added", "calibration")
        ),
    ]
    if config.gates is not None:
        given = [judged, config.gates.model_dump(mode="json")]
        work = partial(gates_stage, chain, config.gates)
        stages.append(_Stage("gates", EXTRACT, given, work, tables(TABLE, CONTROLS_TABLE)))
    if config.sensitivity is not None:
        work = partial(sensitivity_stage, chain, config.sensitivity)
        given = [judged, config.sensitivity.model_dump(mode="json")]
        stages.append(_Stage("sensitivity", EXTRACT, given, work, tables("sensitivity")))
    left = (chain.out / "algorithm" / WEIGHTS, chain.out / "algorithm" / CARD, *tables("latent", "distances"))
    # The gates stand on its card.
    carded = [evidence, chain.inputs("gates")]
    stages.append(_Stage("algorithm", EXTRACT, carded, partial(algorithm_stage, chain), left))
    stages.append(_Stage("explorer", EXTRACT, evidence, partial(explorer_stage, chain), ()))
    if config.compaction is not None:
        given = [judged, config.compaction.model_dump(mode="json")]
        work = partial(compaction_stage, chain, whole, backend)
        stages.append(_Stage("compaction", FACTORS, given, work, tables("compaction", "compaction_lost")))
    if config.factors is not None:
        # The file of the user's, not its path alone.
        sets = load_gene_sets(config.factors.gene_sets)
        given = [judged, config.factors.model_dump(mode="json"), {"gene_sets": digest(sets.sets, sets.sources)}]
        work = partial(factors_stage, chain, whole, backend)
        stages.append(_Stage("factors", FACTORS, given, work, tables(*FACTOR_TABLES)))
    return stages
