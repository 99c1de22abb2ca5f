"""The stage ``attribution``: gradient estimates beside the exact effects."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pandas as pd

from workbench.ablation.attribution import AGREE, DRAWS, METHODS, attribute, compare_attribution
from workbench.ablation.effects import reliability
from workbench.engine.stages import Result, Results
from workbench.recipes.ablate.context import AblationContext


def attribution_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write tables of attribution and its agreement; with the second-order term where the plain gradient disagrees.

    Parameters
    ----------
    context
        Study, and the effects per cell that its sweep has left.
    folder
        Not used: the tables go to those of the run.
    results
        Not read.
    """
    study, seed, how = context.study, context.config.seed, context.config.sweep.how[0]
    shape, found = context.model.config, context.found("sweep")
    rows, cells = list(context.heads.values()), study.by_name.tolist()
    tables, agreement = [], []
    for metric in context.differentiable:
        exact = found.effects[metric.name][rows]
        steady = reliability(exact, seed)
        for method, draws in zip(METHODS[:2], (0, DRAWS), strict=True):
            began = time.perf_counter()
            estimate = attribute(study, metric, cells, how, draws=draws)
            seconds = time.perf_counter() - began
            with warnings.catch_warnings():
                # The table of agreement and the report say it; the second order is tried next.
                warnings.simplefilter("ignore", UserWarning)
                each = exact.reshape(shape.n_layers, shape.n_heads, -1)
                table, rho = compare_attribution(estimate, each, metric.name, method)
            tables.append(table)
            line = {"metric": metric.name, "method": method, "how": how, "spearman": rho, "split_half": steady}
            more = {"n_heads": len(table), "n_cells": len(cells), "seconds": seconds, "agrees": bool(rho >= AGREE)}
            agreement.append({**line, **more})
            if rho >= AGREE:
                break
    context.write({"attribution": pd.concat(tables, ignore_index=True), "agreement": pd.DataFrame(agreement)})
    return {}
