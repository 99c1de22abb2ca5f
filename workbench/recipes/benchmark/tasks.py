"""The stages of methods on splits: the audit that none depends on the cells that it is judged on, and the campaign."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.cells.placed import PlacedCells
from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.evidence.audit import REFUSED, audit, replaced_by_noise
from workbench.evidence.endpoints import ALL, judge, unjudged
from workbench.evidence.measure import attempted
from workbench.evidence.methods import Listed
from workbench.evidence.protocol import Training, Trial
from workbench.operators.operator import OnPanel
from workbench.operators.readout import endpoints
from workbench.operators.store import StoredOperators
from workbench.recipes.benchmark.context import BenchmarkContext
from workbench.recipes.benchmark.splits import INTERNAL, TRANSFER, Holdout, panel_of, split_of

COST = "cost"
COSTS = ("fit_seconds", "predict_seconds", "forward_seconds", "n_parameters", "peak_bytes", "n_train", "n_test")


def make_trial(context: BenchmarkContext, holdout: Holdout, cells: PlacedCells | None = None) -> Trial:
    """Both sides of a split: everything that is chosen or averaged for them is so on the training side.

    Parameters
    ----------
    context
        Campaign whose cells and operators are on the disk.
    holdout
        What the split holds out, and which cohort it judges.
    cells
        Cells in the place of the internal ones, for the audit; those themselves when None.

    Raises
    ------
    EvaluationError
        If either side is left without a cell that has a place on the ruler.
    """
    config, cells = context.config, context.cohorts[INTERNAL] if cells is None else cells
    judged = context.cohorts[holdout.cohort] if holdout.kind == TRANSFER else cells
    split = split_of(holdout, cells, judged, config.splits.per_stage, config.seed)
    panel = panel_of(holdout, cells, judged, config.panel.size)

    def on_panel(source: StoredOperators) -> OnPanel:
        place = {gene: i for i, gene in enumerate(source.genes)}
        # Of noise another panel may be chosen, which the audit has to find: genes that nobody captured are no error here.
        return OnPanel(source.leaving(split.held), np.array([place[gene] for gene in panel if gene in place]))

    train, truth = cells.take(split.train).on_panel(panel), judged.take(split.test).on_panel(panel)
    asked = [tuple(endpoints(side.stage, context.ruler, context.present)) for side in (train, truth)]
    sources = on_panel(context.operators), on_panel(context.untrained)
    return Trial(Training(train, asked[0], config.seed, *sources), truth, asked[1])


@lru_cache(maxsize=2)
def trial_of(context: BenchmarkContext, holdout: Holdout) -> Trial:
    """As `make_trial`; the last two are remembered, because methods ask for them one after the other.

    Parameters
    ----------
    context, holdout
        Campaign and split, as `make_trial` takes them.
    """
    return make_trial(context, holdout)


def audit_stage(context: BenchmarkContext, folder: Path, _: Results) -> Result:
    """Fit every method once more with the held-out cells replaced by noise, a task each.

    Parameters
    ----------
    context
        Campaign with its cells and operators.
    folder
        Folder of the stage; finished methods in it are kept.
    _
        Results of the stages before it, whose files are read instead.

    Returns
    -------
    dict
        ``leaks``, the methods that depend on the cells that they are judged on, or of which that cannot be known.
    """
    first = context.holdouts[0]
    tasks = [Task(name, (context.handle, first, name, one)) for name, one in context.methods.items()]
    rows = run_sweep(folder / "sweep", {"methods": len(tasks)}, tasks, audit_task, context.backend)
    context.write({"audit": rows})
    return {"leaks": rows.loc[rows["status"].isin(REFUSED), "method"].tolist()}


def audit_task(handle: Handle, holdout: Holdout, name: str, listed: Listed) -> pd.DataFrame:
    """Whether a method depends on the cells that it is judged on.

    It is fitted twice: as the data are, and with the held-out cells replaced by noise under wrong labels before anything
    is chosen or fitted. Both must predict the same of the cells as they are; and what is predicted of every other cell
    alone must be what is predicted of it among all.

    Parameters
    ----------
    handle
        Opens the campaign in this process.
    holdout
        The split, which is no transfer.
    name, listed
        The method by its name, and itself.

    Returns
    -------
    DataFrame
        One row: ``method``, ``split``, and what `audit` finds.
    """
    context: BenchmarkContext = handle.open()
    cells = context.cohorts[INTERNAL]
    noisy = replaced_by_noise(cells, np.flatnonzero(~cells.outside(holdout.units)), context.config.seed)
    found = audit(listed, trial_of(context, holdout), make_trial(context, holdout, noisy).train)
    return pd.DataFrame([{"method": name, "split": holdout.name, **found}])


def campaign_stage(context: BenchmarkContext, folder: Path, results: Results) -> Result:
    """Fit and judge every method on every split, a task each.

    Parameters
    ----------
    context
        Campaign with its cells and operators.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Results of the stages before it, of which the seconds of the operators count.

    Returns
    -------
    dict
        ``n_tasks``, ``n_methods``, and ``forwarded``, the methods that need forward passes over the cells.
    """
    methods, model = context.methods, results["operators"]
    refused = refused_methods(context)
    tasks = [
        Task(
            f"{holdout.name}|{name}",
            (context.handle, holdout, name, one, model["forward_seconds_per_cell"], refused.get(name, "")),
        )
        for holdout in context.holdouts
        for name, one in methods.items()
    ]
    rows = run_sweep(folder / "sweep", {"tasks": len(tasks)}, tasks, benchmark_task, context.backend)
    once = [name for name, one in methods.items() if one.shared]
    scores, costs = scores_and_costs(rows, once, model["seconds"])
    listed = pd.DataFrame([_method(name, one, costs) for name, one in methods.items()])
    held = pd.DataFrame([_split(context, holdout, costs) for holdout in context.holdouts])
    context.write({"scores": scores, "costs": costs, "methods": listed, "splits": held})
    forwarded = [name for name, one in methods.items() if one.forward]
    return {"n_tasks": len(tasks), "n_methods": len(methods), "forwarded": forwarded}


def refused_methods(context: BenchmarkContext) -> dict[str, str]:
    """Methods that the audit has caught, and why each is not judged; none where it is switched off.

    Parameters
    ----------
    context
        Campaign after its audit, whose table is read.
    """
    if not context.config.audit:
        return {}
    rows = context.read("audit")
    rows = rows[rows["status"].isin(REFUSED)]
    return dict(zip(rows["method"], rows["status"].map(REFUSED), strict=True))


def benchmark_task(
    handle: Handle, holdout: Holdout, name: str, listed: Listed, forward: float, refused: str
) -> pd.DataFrame:
    """A method on a split: its scores and what they cost, one row each.

    Parameters
    ----------
    handle
        Opens the campaign in this process.
    holdout
        What the split holds out.
    name, listed
        The method by its name, and itself.
    forward
        Seconds of a forward pass over one cell.
    refused
        Why the method is not run after what the audit has found; empty where it is run.

    Returns
    -------
    DataFrame
        As ``scores.csv``, and rows of the endpoint ``cost`` whose metrics are columns of ``costs.csv``. Whatever goes wrong in
        a method is a row as well.
    """
    context: BenchmarkContext = handle.open()
    trial = trial_of(context, holdout)
    predictions, costs, status = (None, {}, refused) if refused else attempted(listed, trial, forward)
    if predictions is None:
        rows = unjudged(trial.endpoints, status)
    else:
        train = trial.train
        rows = judge(predictions, trial.truth, trial.endpoints, trained=train.endpoints, seed=train.seed)
    sizes = {"n_train": len(trial.train.cells), "n_test": len(trial.truth)}
    spent = {"scope": ALL, "endpoint": COST, "better": "lower", "n_cells": 0, "status": status}
    rows += [{**spent, "metric": metric, "value": float(value)} for metric, value in {**costs, **sizes}.items()]
    where = {"method": name, "split": holdout.name, "kind": holdout.kind, "data": trial.truth.name}
    return pd.DataFrame([{**where, **row} for row in rows])


def scores_and_costs(rows: pd.DataFrame, once: Sequence[str], seconds: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tidy table of a campaign, taken apart.

    Parameters
    ----------
    rows
        Rows of all tasks, in their order.
    once
        Methods that stand on operators which were captured once for all splits.
    seconds
        Seconds that this capture took.

    Returns
    -------
    scores, costs
        One row per value, and one per method and split.
    """
    is_cost = rows["endpoint"] == COST
    scores = rows[~is_cost].reset_index(drop=True)
    wide = rows[is_cost].pivot(index=["method", "split"], columns="metric", values="value").reindex(columns=list(COSTS))
    status = rows[is_cost].groupby(["method", "split"])["status"].first()
    costs = wide.join(status).reset_index()
    # In the order of the tasks.
    order = {key: i for i, key in enumerate(zip(rows["method"], rows["split"], strict=True))}
    costs = costs.iloc[np.argsort([order[key] for key in zip(costs["method"], costs["split"], strict=True)])]
    costs["once_seconds"] = np.where(costs["method"].isin(list(once)), seconds, 0.0)
    columns = ["method", "split", *COSTS[:3], "once_seconds", *COSTS[3:], "status"]
    return scores, costs[columns].reset_index(drop=True)


def _method(name: str, listed: Listed, costs: pd.DataFrame) -> dict[str, Any]:
    """Row of a method in the table of methods."""
    own = costs.loc[costs["method"] == name, "status"]
    wrong = own[own != "ok"]
    status = "run"
    if len(wrong):
        some = f"run, but {len(wrong)} of {len(own)} splits: "
        status = f"{some if len(wrong) < len(own) else ''}{wrong.iloc[0]}"
    return {"method": name, "group": listed.group, "about": listed.about, "status": status}


def _split(context: BenchmarkContext, holdout: Holdout, costs: pd.DataFrame) -> dict[str, Any]:
    """Row of a split in the table of splits."""
    cells, judged = (context.cohorts[name] for name in (INTERNAL, holdout.cohort))
    held, sizes = ~cells.outside(holdout.units), costs[costs["split"] == holdout.name].iloc[0]
    tested = judged.donor if holdout.kind == TRANSFER or judged.donor is None else judged.donor[held]
    trained = 0 if cells.donor is None else len(set(cells.donor[~held].tolist()))
    return {
        "split": holdout.name,
        "kind": holdout.kind,
        "data": judged.name,
        "test_donors": "" if tested is None else "+".join(sorted(set(tested.tolist()))),
        "n_train": int(sizes["n_train"]),
        "n_test": int(sizes["n_test"]),
        "n_train_donors": trained,
        "disjoint": holdout.disjoint,
        "test_share": float(held.mean()) if holdout.units else np.nan,
    }
