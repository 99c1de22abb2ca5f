"""One task of a campaign: a method on a split; and the audit that no method depends on the cells that it is judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from workbench.evidence.endpoints import ALL, judge, measures
from workbench.evidence.measure import Cost, measured
from workbench.evidence.methods import Listed
from workbench.evidence.protocol import Cells, Fitted, NotRunError, OutOfTimeError, Said, Training
from workbench.recipes.benchmark.bench import INTERNAL, Sides, bench_of, replaced_by_noise, sides_of
from workbench.recipes.benchmark.splits import TRANSFER

COST = "cost"
LEAKS = "it depends on the cells that it is judged on (audit)"
# Relative to the largest value: more than rounding, less than anything that matters.
_SAME = 1e-4
COSTS = ("fit_seconds", "predict_seconds", "forward_seconds", "n_parameters", "peak_bytes", "n_train", "n_test")


def benchmark_task(config: str, out: str, split: str, method: str, leaks: bool) -> pd.DataFrame:
    """A method on a split: its scores and what they cost, one row each.

    Parameters
    ----------
    config, out
        As in `bench_of`.
    split, method
        By name.
    leaks
        Whether the audit has found that the method depends on the cells that it is judged on; then it is not run.

    Returns
    -------
    DataFrame
        As ``scores.csv``, and rows of the endpoint ``cost`` whose metrics are columns of ``costs.csv``. Whatever goes wrong in
        a method is a row as well.
    """
    bench = bench_of(config, out)
    one, sides = bench.splits[split], sides_of(config, out, split)
    listed = bench.methods[method]
    said, costs, status = (None, {}, f"not run: {LEAKS}") if leaks else attempted(listed, sides, bench.forward)
    if said is None:
        rows = [
            {
                "scope": ALL,
                "endpoint": name,
                "metric": metric,
                "better": better,
                "value": np.nan,
                "n_cells": 0,
                "status": status,
            }
            for name, metric, better in measures(sides.truth.endpoints)
        ]
    else:
        rows = judge(said, sides.truth, trained=sides.train.endpoints, seed=sides.train.seed)
    sizes = {"n_train": len(sides.train.cells), "n_test": len(sides.test)}
    for name, value in {**costs, **sizes}.items():
        rows.append(
            {
                "scope": ALL,
                "endpoint": COST,
                "metric": name,
                "better": "lower",
                "value": float(value),
                "n_cells": 0,
                "status": status,
            }
        )
    data = bench.pools[one.panel if one.kind == TRANSFER else INTERNAL].name
    return pd.DataFrame([{"method": method, "split": split, "kind": one.kind, "data": data, **row} for row in rows])


def attempted(listed: Listed, sides: Sides, forward: float) -> tuple[Said | None, dict[str, float], str]:
    """What a method says of a test side and what it took; what goes wrong in it becomes a sentence.

    Parameters
    ----------
    listed
        The method.
    sides
        The split.
    forward
        Seconds of a forward pass over one cell.

    Returns
    -------
    said, costs, status
        None and no costs where it did not come to an end; the status says why.
    """
    try:
        with measured() as fit:
            fitted = listed.method.fit(sides.train)
        try:
            with measured() as predict:
                said = fitted.say(sides.test)
            fit, predict = _own(fitted, fit, predict)
        finally:
            _close(fitted)
    except NotRunError as error:
        return None, {}, f"not run: {error}"
    except OutOfTimeError as error:
        return None, {}, f"out of time: {error}"
    # One method's fault must not end a campaign of hours; it stands in the table in its own words.
    except Exception as error:
        return None, {}, f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    costs = {
        "fit_seconds": fit.seconds + getattr(fitted, "remembered_seconds", 0.0),
        "predict_seconds": predict.seconds,
        "forward_seconds": forward * (len(sides.train.cells) + len(sides.test)) if listed.forward else 0.0,
        "n_parameters": fitted.n_parameters,
        "peak_bytes": max(fit.peak_bytes, predict.peak_bytes),
    }
    return said, costs, "ok"


def _own(fitted: Fitted, fit: Cost, predict: Cost) -> tuple[Cost, Cost]:
    """Costs without the start of a process and the exchange of files, where a method knows its own."""
    seconds, peak = getattr(fitted, "seconds", None), getattr(fitted, "peak_bytes", None)
    if not seconds:
        return fit, predict
    return Cost(seconds["fit"], peak or 0), Cost(seconds["say"], peak or 0)


def _close(fitted: Fitted) -> None:
    if hasattr(fitted, "close"):
        fitted.close()


def audit_task(config: str, out: str, method: str) -> pd.DataFrame:
    """Whether a method depends on the cells that it is judged on.

    It is fitted twice on the first split with held-out cells: as the data are, and with the held-out cells replaced by noise
    under wrong labels before anything is chosen or fitted. Both must say the same of the cells as they are; and what is
    said of every other cell alone must be what is said of it among all.

    Parameters
    ----------
    config, out
        As in `bench_of`.
    method
        By name.

    Returns
    -------
    DataFrame
        One row: ``method``, ``split``, ``depends_on_test`` and ``depends_on_company`` (greatest difference over the largest
        value), ``status``: ``ok``, ``leaks`` or why it could not be audited.
    """
    bench = bench_of(config, out)
    split = next(one for one in bench.splits.values() if one.kind != TRANSFER)
    sides, pool = sides_of(config, out, split.name), bench.pools[INTERNAL]
    noisy = bench.sides(split, replaced_by_noise(pool, np.flatnonzero(~bench.inside(split)), bench.config.seed))
    return pd.DataFrame([{"method": method, "split": split.name, **audit(bench.methods[method], sides, noisy.train)}])


def audit(listed: Listed, sides: Sides, other: Training) -> dict[str, Any]:
    """Compare what a method says after being fitted on either of two training sides that should be the same.

    Parameters
    ----------
    listed
        The method.
    sides
        The split as it is.
    other
        Its training side, made from data whose test cells are noise.

    Returns
    -------
    dict
        As in `audit_task`.
    """
    undecided = {"depends_on_test": np.nan, "depends_on_company": np.nan}
    try:
        fitted = listed.method.fit(sides.train)
        try:
            whole, half = fitted.say(sides.test), fitted.say(every_other(sides.test))
        finally:
            _close(fitted)
        # The gene panel is part of what is chosen: with another one, nothing can be compared.
        if other.cells.genes != sides.train.cells.genes:
            return {"depends_on_test": np.inf, "depends_on_company": np.nan, "status": "leaks"}
        fitted = listed.method.fit(other)
        try:
            again = fitted.say(sides.test)
        finally:
            _close(fitted)
    except (NotRunError, OutOfTimeError) as error:
        return {**undecided, "status": f"not run: {error}"}
    except Exception as error:
        return {**undecided, "status": f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    on_test, on_company = _difference(whole, again), _difference(_thinned(whole), half)
    found = {"depends_on_test": on_test, "depends_on_company": on_company}
    return {**found, "status": "ok" if max(on_test, on_company) <= _SAME else "leaks"}


def every_other(cells: Cells) -> Cells:
    """Every other cell.

    Parameters
    ----------
    cells
        Any.
    """
    return replace(
        cells,
        names=cells.names[::2],
        expression=cells.expression[::2],
        counts=None if cells.counts is None else cells.counts[::2],
        embeddings={name: array[::2] for name, array in cells.embeddings.items()},
    )


def _thinned(said: Said) -> Said:
    answers = {name: replace(answer, values=answer.values[::2]) for name, answer in said.answers.items()}
    return Said(answers, None if said.latent is None else said.latent[::2])


def _difference(one: Said, other: Said) -> float:
    """Greatest difference over the largest value, of all answers."""
    if one.answers.keys() != other.answers.keys():
        return float("inf")
    worst = 0.0
    for name, answer in one.answers.items():
        a, b = answer.values, other.answers[name].values
        if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-12)))
    return worst


def scores_and_costs(rows: pd.DataFrame, once: Sequence[str], seconds: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tidy table of a campaign, taken apart.

    Parameters
    ----------
    rows
        Of all tasks.
    once
        Methods that stand on operators which were captured once for all splits.
    seconds
        What that took.

    Returns
    -------
    scores, costs
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
