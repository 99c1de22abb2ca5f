"""``workbench ablate`` as a recipe: a sweep of ablations, and what it says of the heads."""

from __future__ import annotations

from functools import partial

from workbench.ablation.sites import Ablation
from workbench.engine.recipe import Recipe
from workbench.engine.stages import Results, Stage
from workbench.recipes.ablate.attribution import attribution_stage
from workbench.recipes.ablate.context import AblationContext
from workbench.recipes.ablate.effects import choose_pairs, effects_stage, interactions_stage, pairs_by
from workbench.recipes.ablate.sections import report
from workbench.recipes.ablate.sweep import sweep_stage
from workbench.recipes.ablate.transfer import transfer_inputs, transfer_stage


def stages(context: AblationContext) -> list[Stage]:
    """Stages of an ablation: the sweep and its table, and what the configuration asks for beside.

    Parameters
    ----------
    context
        Configuration, cells and study.

    Returns
    -------
    list of Stage
        ``sweep``, ``effects``, and where asked for ``pairs``, ``interactions``, ``attribution`` and ``transfer``.

    Raises
    ------
    EvaluationError
        For an unknown metric, a pair of one head, or a contrast of cell types that are not there.
    """
    config = context.config
    spread = {"bootstrap": config.study.bootstrap, "donors": context.donors}

    def pairs() -> list[Ablation]:
        top, random = choose_pairs(context)
        return [*top, *random]

    def pairs_inputs(results: Results) -> object:
        return context.inputs(pairs())

    listed = [
        Stage("sweep", partial(sweep_stage, context, lambda: context.grid), context.inputs(context.grid)),
        Stage("effects", partial(effects_stage, context), spread, after=("sweep",), tables=("effects",)),
    ]
    if config.sweep.heads and config.sweep.pairs_of_top:
        pairs_by(context)
        listed += [
            Stage("pairs", partial(sweep_stage, context, pairs), pairs_inputs),
            Stage(
                "interactions",
                partial(interactions_stage, context),
                spread,
                after=("sweep", "pairs"),
                tables=("interactions",),
            ),
        ]
    if config.sweep.heads and config.attribution and context.differentiable:
        work, tables = partial(attribution_stage, context), ("attribution", "agreement")
        listed.append(Stage("attribution", work, after=("sweep",), tables=tables))
    if config.contrasts:
        work, inputs = partial(transfer_stage, context), transfer_inputs(context)
        listed.append(Stage("transfer", work, inputs, tables=("transfer",)))
    return listed


RECIPE = Recipe("ablate", AblationContext, stages, report)
