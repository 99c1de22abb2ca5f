"""``workbench benchmark``: a campaign of methods x splits x endpoints, with statistics, costs and a report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from workbench.engine.stages import StageRunner
from workbench.engine.sweep import Backend
from workbench.recipes.benchmark.chain import BenchmarkChain
from workbench.recipes.benchmark.config import BenchmarkConfig
from workbench.recipes.benchmark.report import report_stage


def run_benchmark(config: BenchmarkConfig, out: Path, backend: Backend | None = None) -> Path:
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
    Path
        The folder, with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/`` and ``figures/``.
    """
    chain, runner = BenchmarkChain(config, out, backend or Backend()), StageRunner(out)

    def tables(*names: str) -> list[Path]:
        return [chain.tables / f"{name}.csv" for name in names]

    results: dict[str, dict[str, Any]] = {}
    cells = results["cells"] = runner.run("cells", chain.inputs(), chain.cells_stage)
    asked = config.model_dump(mode="json", include={"capture", "operator", "checkpoint"})
    given = [cells["key"], chain.model.fingerprint(), asked]
    model = results["operators"] = runner.run("operators", given, chain.model_stage)
    results["untrained"] = runner.run("untrained", [model["key"]], chain.untrained_stage)
    judged = config.model_dump(
        mode="json", include={"anchors", "adaptor", "cell_heads", "methods", "ours", "peers", "seed"}
    )
    judged["found"] = chain.found()
    leaks: list[str] = []
    if config.audit:
        audit = results["audit"] = runner.run("audit", [model["key"], judged], chain.audit_stage, tables("audit"))
        leaks = audit["leaks"]
    work = partial(chain.campaign_stage, leaks, model["seconds"])
    left = tables("scores", "costs", "methods", "splits")
    campaign = results["campaign"] = runner.run("campaign", [model["key"], judged, leaks], work, left)
    derived = tables("summary", "comparisons", "tally", "ranks")
    results["statistics"] = runner.run(
        "statistics", [campaign["key"], config.ours, config.seed], chain.statistics_stage, derived
    )
    report_stage(chain, runner, results)
    return out
