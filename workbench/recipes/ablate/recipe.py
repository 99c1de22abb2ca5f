"""``workbench ablate`` as a recipe: a sweep of ablations, and what it says of the heads."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from workbench.ablation.grid import describe_grid
from workbench.ablation.sites import Ablation
from workbench.ablation.study import Study
from workbench.ablation.sweeping import make_tasks, peak_bytes
from workbench.engine.plan import Expected, Load
from workbench.engine.recipe import Recipe
from workbench.engine.stages import Stage
from workbench.recipes.ablate import tables
from workbench.recipes.ablate.context import AblationContext
from workbench.recipes.ablate.sections import report
from workbench.recipes.ablate.sweep import sweep_stage
from workbench.recipes.loads import seconds_per_cell
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


def expects(context: AblationContext) -> Expected:
    """Tasks, memory and time of the sweep, and its grid; without pairs, attribution and contrasts.

    Parameters
    ----------
    context
        Configuration of the ablation, and its study, which is prepared for this.
    """
    config, study, grid = context.config, context.study, context.grid
    n, tasks, passes = (
        len(study.tokens),
        make_tasks(len(study.tokens), study, grid, config.sweep.block),
        _passes(study, grid),
    )
    seconds = seconds_per_cell(study.model, study.tokens[: min(8, n)]) * passes * n
    seconds *= 2 if any(m.masked for m in study.metrics) and not all(m.masked for m in study.metrics) else 1
    sweep = Load(
        n,
        round(passes * n),
        len(tasks),
        peak_bytes(study, grid),
        seconds=seconds,
        basis="a guess from one pass over a few cells",
    )
    return Expected({"sweep": sweep}, _grid_text(context))


RECIPE = Recipe("ablate", AblationContext, stages, report, expects=expects)


def _grid_text(context: AblationContext) -> str:
    """The grid, and what can be told from so many draws and pairs."""
    config, study, grid = context.config, context.study, context.grid
    table, shape, heads = describe_grid(grid), context.model.config, len(context.heads)
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
    counts = table.assign(null=np.where(table["null"] >= 0, "null draws", "ablations"))
    shown = counts.groupby(["how", "kind", "null"]).size().rename("number").reset_index().to_string(index=False)
    first = table.loc[table["null"] < 0, ["places", "how", "kind"]].head(12).to_string(index=False)
    return "\n".join([
        f"\n{len(grid)} ablations of {len(study.tokens)} cells, judged by {', '.join(study.names)}:\n{shown}",
        f"\nThe first of them:\n{first}\n",
        *filter(None, said),
    ])  # fmt: skip


def _passes(study: Study, grid: list[Ablation]) -> float:
    n = study.model.config.n_layers
    return 2 + sum((n - one.first_layer - 0.5) / n for one in grid)
