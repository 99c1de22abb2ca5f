"""The stages ``effects`` and ``interactions``: tables of what single heads and pairs of them do, with intervals and nulls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workbench.ablation.ablate import effects_of
from workbench.ablation.effects import interactions, top_heads
from workbench.ablation.grid import make_pairs, random_pairs
from workbench.ablation.sites import Ablation
from workbench.engine.stages import Result, Results
from workbench.errors import EvaluationError, unknown_name
from workbench.recipes.ablate.context import AblationContext


def effects_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write the table of effects.

    Parameters
    ----------
    context
        Study, grid, and the effects per cell that its sweep has left.
    folder
        Not used: the table goes to the tables of the run.
    results
        Not read.
    """
    draws = context.config.study.bootstrap
    context.write({"effects": effects_of(context.study, context.grid, context.found("sweep"), draws)})
    return {}


def pairs_by(context: AblationContext) -> str:
    """Metric that the top heads are chosen by.

    Parameters
    ----------
    context
        Configuration and study.

    Raises
    ------
    EvaluationError
        If the study has no such metric, or the configuration asks for pairs of one head.
    """
    names, shape, settings = context.study.names, context.model.config, context.config.sweep
    n = min(settings.pairs_of_top, shape.n_layers * shape.n_heads)
    if n < 2:
        raise EvaluationError(f"A pair takes two heads, and sweep.pairs_of_top gives {n}; ask for more, or for 0.")
    metric = settings.pairs_by or names[0]
    if metric not in names:
        labels = "" if "cell_type" in context.study.obs else " The metrics of labels need data.cell_type."
        raise EvaluationError(unknown_name("metric for sweep.pairs_by", metric, names) + labels)
    return metric


def choose_pairs(context: AblationContext) -> tuple[list[Ablation], list[Ablation]]:
    """Pairs of the top heads by the table of effects, and as many pairs of heads at random.

    Parameters
    ----------
    context
        Configuration, and the table of effects of its run.
    """
    config, table = context.config, context.read("effects")
    how = config.sweep.how[0]
    heads = top_heads(table[table["how"] == how], pairs_by(context), config.sweep.pairs_of_top)
    top = make_pairs(heads, how, config.seed)
    return top, random_pairs(sorted(context.heads), top, how, config.seed)


def interactions_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write the table of interactions: what two heads do together beside the sum of what each does.

    Parameters
    ----------
    context
        Study, and the effects per cell that both sweeps have left.
    folder
        Not used: the table goes to the tables of the run.
    results
        Not read.
    """
    config, study = context.config, context.study
    top, random = choose_pairs(context)
    single, both = context.found("sweep"), context.found("pairs")

    def named(one: Ablation) -> tuple[str, str]:
        return str(one.sites[0]), str(one.sites[1])

    parts = [
        interactions(
            {head: single.effects[name][i] for head, i in context.heads.items()},
            {named(one): both.effects[name][i] for i, one in enumerate([*top, *random])},
            set(map(named, random)),
            draws=config.study.bootstrap,
            seed=config.seed,
            groups=study.donors_by_name,
        ).assign(metric=name, how=config.sweep.how[0])
        for name in study.names
    ]
    context.write({"interactions": pd.concat(parts, ignore_index=True)})
    return {}
