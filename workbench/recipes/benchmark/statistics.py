"""The stage that says what ours adds to each method, endpoint by endpoint, and what the whole campaign costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.engine.stages import Result, Results
from workbench.evidence.costs import campaign_costs
from workbench.evidence.statistics import compare, ranks, summarise, tally

if TYPE_CHECKING:
    from workbench.recipes.benchmark.context import BenchmarkContext

TABLES = ("summary", "comparisons", "tally", "ranks", "campaign_costs")


def statistics_stage(context: BenchmarkContext, folder: Path, results: Results) -> Result:
    """Compare ours with every other method over splits and donors; nothing is summed over endpoints into a winner.

    Parameters
    ----------
    context
        Campaign whose tables are read.
    folder
        Folder of the stage; nothing is put there.
    results
        Results of the stages before it: numbers of cells, seconds of a forward pass, and who needs one.

    Returns
    -------
    dict
        Nothing; the tables say it.
    """
    config = context.config
    scores, splits, methods, costs = (context.read(name) for name in ("scores", "splits", "methods", "costs"))
    comparisons = compare(scores, splits, config.ours)
    n_cells = sum(cohort["cells"] for cohort in results["cells"]["cohorts"].values())
    forward = results["operators"]["forward_seconds_per_cell"]
    spent = campaign_costs(costs, methods, config.ours, n_cells, forward, results["campaign"]["forwarded"])
    made = summarise(scores, methods), comparisons, tally(comparisons), ranks(scores), spent
    context.write(dict(zip(TABLES, made, strict=True)))
    return {}
