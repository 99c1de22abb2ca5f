"""``workbench ablate`` as a recipe: a sweep of ablations, and what it says of the heads."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from workbench.ablation.grid import describe_grid
from workbench.ablation.sites import Ablation
from workbench.ablation.study import Study
from workbench.ablation.sweeping import make_tasks, peak_bytes
from workbench.engine.folder import check_folder
from workbench.engine.recipe import Recipe
from workbench.engine.stages import Stage, key_of
from workbench.engine.sweep import finished
from workbench.recipes.ablate import tables
from workbench.recipes.ablate.config import AblationConfig
from workbench.recipes.ablate.context import AblationContext
from workbench.recipes.ablate.sections import report
from workbench.recipes.ablate.sweep import sweep_stage
from workbench.stats import enough_draws


def stages(context: AblationContext) -> list[Stage]:
    """Stages of an ablation: the sweep and its table, and what the configuration asks for beside.

    Parameters
    ----------
    context
        Configuration, cells and study of the ablation.

    Returns
    -------
    list of Stage
        ``sweep``, ``effects``, and where asked for ``draws``, ``pairs``, ``interactions``, ``attribution`` and ``transfer``.

    Raises
    ------
    CheckpointError
        If the model has no cell embedding.
    EvaluationError
        For an unknown metric, a pair of one head or in one layer, or a contrast of cell types that are not there.
    """
    config, swept, spread = context.config, ("sweep",), context.spread

    def pairs() -> list[Ablation]:
        return sum(tables.choose_pairs(context), [])

    listed = [
        Stage("sweep", partial(sweep_stage, context, lambda: context.grid), context.inputs(context.grid)),
        Stage("effects", partial(tables.effects_stage, context), spread, swept, ("effects",)),
    ]
    if config.sweep.heads and config.draws > 1 and not context.no_draws:
        inputs = {**spread, "draws": config.draws}
        listed.append(Stage("draws", partial(tables.draws_stage, context), inputs, swept, ("draws",)))
    if config.sweep.heads and config.sweep.pairs_of_top:
        tables.pairs_by(context)
        both, work = ("sweep", "pairs"), partial(tables.interactions_stage, context)
        listed.append(Stage("pairs", partial(sweep_stage, context, pairs), lambda results: context.inputs(pairs())))
        listed.append(Stage("interactions", work, spread, both, ("interactions",)))
    if config.sweep.heads and config.attribution and context.differentiable:
        work = partial(tables.attribution_stage, context)
        listed.append(Stage("attribution", work, after=swept, tables=("attribution", "agreement")))
    if config.contrasts:
        inputs = tables.transfer_inputs(context)
        listed.append(Stage("transfer", partial(tables.transfer_stage, context), inputs, tables=("transfer",)))
    return listed


RECIPE = Recipe("ablate", AblationContext, stages, report)


def dry_run(config: AblationConfig, out: Path) -> str:
    """The grid, what of it is done, and an estimate of the time, without doing it.

    Parameters
    ----------
    config
        Configuration of the ablation that would be run.
    out
        Output folder of the ablation; nothing in it is made or changed.

    Raises
    ------
    WorkbenchError
        Whatever the command itself would refuse before any work.
    """
    check_folder(out, RECIPE.name)
    context = AblationContext(config, out)
    stage, folder = stages(context)[0], context.folder("sweep")
    study, grid, held = context.study, context.grid, key_of(out, stage.name)
    tasks, own = make_tasks(len(study.tokens), study, grid, config.sweep.block), held == stage.key({})
    done = len(finished(folder, {}, tasks)) if own else 0
    other = f" '{folder}' holds another sweep, which this one would replace: choose another --out to keep it."
    seconds = _seconds_per_cell(study) * _passes(study, grid) * len(study.tokens) * (1 - done / len(tasks))
    seconds *= 2 if any(m.masked for m in study.metrics) and not all(m.masked for m in study.metrics) else 1
    table = describe_grid(grid)
    shape, heads = context.model.config, len(context.heads)
    said = [tables.heads_floor(heads, config.sweep.null_draws)]
    if heads and config.draws > 1:
        each = len(study.tokens) // config.draws
        said.append(context.no_draws or f"{config.draws} disjoint draws of the cells, of {each} cells or one more.")
    if top := math.comb(min(config.sweep.pairs_of_top, heads), 2):
        within = shape.n_layers * math.comb(shape.n_heads, 2)
        top = min(top, math.comb(heads, 2) - within)
        drawn = min(enough_draws(top), math.comb(heads, 2) - within - top)
        beside = f"with {drawn} others beside and {min(within, tables.CONTROLS)} pairs of one layer as a control"
        said.append(f"Up to {top} pairs of the top heads across layers, {beside}. {tables.pairs_floor(top, drawn)}")
    more = "".join(f"\n{sentence}" for sentence in said if sentence).rstrip()
    counts = table.assign(null=np.where(table["null"] >= 0, "null draws", "ablations"))
    shown = counts.groupby(["how", "kind", "null"]).size().rename("number").reset_index().to_string(index=False)
    first = table.loc[table["null"] < 0, ["places", "how", "kind"]].head(12).to_string(index=False)
    return (
        f"{len(grid)} ablations of {len(study.tokens)} cells, judged by {', '.join(study.names)}\n{shown}\n\n"
        f"The first of them:\n{first}\n\n"
        f"{len(tasks)} tasks of up to {config.sweep.block} cells, {done} done. About {_human(seconds)} on one worker "
        "(a guess from one pass over a few cells), without pairs, attribution and contrasts. About "
        f"{peak_bytes(study, grid) / 2**30:.2f} GiB of memory a worker, beside the model."
        f"{other if held and not own else ''}{more}"
    )


def _seconds_per_cell(study: Study) -> float:
    few = study.tokens[: min(8, len(study.tokens))].to(study.model.device, study.model.dtype)
    with torch.no_grad():
        study.model(few)
        began = time.perf_counter()
        study.model(few)
    return (time.perf_counter() - began) / len(few)


def _passes(study: Study, grid: list[Ablation]) -> float:
    n = study.model.config.n_layers
    return 2 + sum((n - one.first_layer - 0.5) / n for one in grid)


def _human(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
