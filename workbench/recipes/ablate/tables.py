"""The stages behind the sweep: tables of effects, of pairs of heads, of gradient estimates, and of what heads carry over."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm import tqdm

from workbench.ablation.ablate import effects_of
from workbench.ablation.attribution import AGREE, DRAWS, METHODS, attribute, compare_attribution
from workbench.ablation.effects import effect_table, over_draws, reliability, split_cells, top_heads
from workbench.ablation.grid import describe_grid, draw_pairs, identity, make_pairs
from workbench.ablation.nulls import ALPHA
from workbench.ablation.pairs import interactions
from workbench.ablation.patching import activation_patching
from workbench.ablation.sites import Ablation
from workbench.engine.stages import Result, Results
from workbench.errors import EvaluationError, unknown_name
from workbench.recipes.ablate.config import ContrastConfig
from workbench.recipes.ablate.context import AblationContext
from workbench.stats import enough_draws

# Pairs of one layer, as many as show whether about one in twenty of them is at p <= 0.05.
CONTROLS = 40


def effects_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write the table of effects.

    Parameters
    ----------
    context
        Study, grid, and the effects per cell that its sweep has left.
    folder
        Not used: the table goes to the tables of the run.
    results
        Results of other stages, of which none is needed.
    """
    draws = context.config.study.bootstrap
    table = effects_of(context.study, context.grid, context.found("sweep"), draws, context.backend.progress)
    context.write({"effects": table})
    return {}


def draws_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write the table of disjoint draws of cells: how often, and how alike, the effect of each head is found.

    Parameters
    ----------
    context
        Study, grid, and the effects per cell that its sweep has left.
    folder
        Not used: the table goes to the tables of the run.
    results
        Results of other stages, of which none is needed.
    """
    study, config, effects = context.study, context.config, context.found("sweep").effects
    donors, grid = study.donors_by_name, describe_grid(context.grid)
    number = split_cells([study.tokens.cell_ids[i] for i in study.by_name], config.draws, config.seed)
    tables = []
    n = config.draws * len(effects) * int((grid["null"] < 0).sum())
    with tqdm(total=n, unit="effect", desc="draws", disable=not context.backend.progress) as bar:
        fixed: dict[str, Any] = {"draws": config.study.bootstrap, "seed": config.seed, "bar": bar}
        for i in range(config.draws):
            here = number == i
            groups = None if donors is None else donors[here]
            values = {name: x[:, here] for name, x in effects.items()}
            tables.append(effect_table(values, grid, groups=groups, **fixed))
    context.write({"draws": over_draws(tables)})
    return {}


def heads_floor(heads: int, null_draws: int) -> str:
    """The smallest p that a head can have by its null draws, and what that does not allow to find.

    Parameters
    ----------
    heads, null_draws
        Number of heads, and of null draws of each.
    """
    if not heads or null_draws < 2:
        return ""
    least = 1 / (1 + heads * null_draws)
    enough = least * heads <= ALPHA
    alone = f"one of {heads} heads alone can{'' if enough else 'not'} reach q <= {ALPHA}"
    return f"No p of a head is below {least:.2g} ({heads * null_draws} null draws): {alone}."


def pairs_floor(pairs: int, drawn: int) -> str:
    """What random pairs of that number do not allow to find, whatever the data; empty where any pair may be significant.

    Parameters
    ----------
    pairs
        Number of pairs of top heads across layers.
    drawn
        Number of other such pairs, which they are compared with.
    """
    least = 1 / (1 + drawn)
    together = math.ceil(least * pairs / ALPHA)
    if together <= 1:
        return ""
    found = (
        f"{together} of the {pairs} pairs or more must be larger than all of these to reach q <= {ALPHA}"
        if together <= pairs
        else "no pair can be significant, whatever the data"
    )
    return f"The model has {drawn} other pairs to compare with, so that no p is below {least:.2g}: {found}; ask for fewer top heads."


def pairs_by(context: AblationContext) -> str:
    """Metric that the top heads are chosen by.

    Parameters
    ----------
    context
        Configuration and study of the ablation.

    Raises
    ------
    EvaluationError
        If the study has no such metric, the model has one layer, or the configuration asks for pairs of one head.
    """
    names, shape, settings = context.study.names, context.model.config, context.config.sweep
    n = min(settings.pairs_of_top, shape.n_layers * shape.n_heads)
    if n < 2:
        raise EvaluationError(f"A pair takes two heads, and sweep.pairs_of_top gives {n}; ask for more, or for 0.")
    if shape.n_layers < 2:
        raise EvaluationError(
            "Pairs are tested across layers, because heads of one layer cannot react to each other, and the model has one layer. "
            "Set sweep.pairs_of_top to 0."
        )
    metric = settings.pairs_by or names[0]
    if metric not in names:
        labels = "" if "cell_type" in context.study.obs else " The metrics of labels need data.cell_type."
        raise EvaluationError(
            f"{unknown_name('metric for sweep.pairs_by', metric, names)} These are the metrics of this study: add the one that is meant "
            f"to study.metrics, or choose pairs by the first of them with --set sweep.pairs_by=null.{labels}"
        )
    return metric


def choose_pairs(context: AblationContext) -> tuple[list[Ablation], list[Ablation], list[Ablation]]:
    """Pairs of the top heads, pairs at random, both across layers, and pairs of one layer as a control.

    The random ones are enough for one of the top pairs to be significant, as far as the model has them.

    Parameters
    ----------
    context
        Configuration, and the table of effects of its run.
    """
    config, table = context.config, context.read("effects")
    how, seed = config.sweep.how[0], config.seed
    heads = set(top_heads(table[table["how"] == how], pairs_by(context), config.sweep.pairs_of_top))
    within: list[Ablation] = []
    top: list[Ablation] = []
    others: list[Ablation] = []
    for one in make_pairs(sorted(context.heads), how, seed):
        same = one.sites[0].layer == one.sites[1].layer
        (within if same else top if heads.issuperset(map(str, one.sites)) else others).append(one)
    return top, draw_pairs(others, enough_draws(len(top)), seed), draw_pairs(within, CONTROLS, seed)


def interactions_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write the table of interactions: what two heads do together beside the sum of what each does.

    Parameters
    ----------
    context
        Study, and the effects per cell that both sweeps have left.
    folder
        Not used: the table goes to the tables of the run.
    results
        Results of other stages, of which none is needed.
    """
    config, study = context.config, context.study
    top, random, control = choose_pairs(context)
    single, both = context.found("sweep"), context.found("pairs")

    def named(one: Ablation) -> tuple[str, str]:
        return str(one.sites[0]), str(one.sites[1])

    parts = [
        interactions(
            {head: single.effects[name][i] for head, i in context.heads.items()},
            {named(one): both.effects[name][i] for i, one in enumerate([*top, *random, *control])},
            set(map(named, random)),
            set(map(named, control)),
            draws=config.study.bootstrap,
            seed=config.seed,
            groups=study.donors_by_name,
        ).assign(metric=name, how=config.sweep.how[0])
        for name in study.names
    ]
    context.write({"interactions": pd.concat(parts, ignore_index=True)})
    return {}


def attribution_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write tables of attribution and its agreement; with the second-order term where the plain gradient disagrees.

    Parameters
    ----------
    context
        Study, and the effects per cell that its sweep has left.
    folder
        Not used: the tables go to those of the run.
    results
        Results of other stages, of which none is needed.
    """
    study, seed, how = context.study, context.config.seed, context.config.sweep.how[0]
    shape, found = context.model.config, context.found("sweep")
    rows, cells = list(context.heads.values()), study.by_name.tolist()
    tables, agreement = [], []
    n = len(context.differentiable) * len(cells)
    with tqdm(total=n, unit="cell", desc="attribution", disable=not context.backend.progress) as bar:
        for metric in context.differentiable:
            exact = found.effects[metric.name][rows]
            steady = reliability(exact, seed)
            for method, draws in zip(METHODS[:2], (0, DRAWS), strict=True):
                if draws:
                    bar.total += len(cells)
                began = time.perf_counter()
                estimate = attribute(study, metric, cells, how, draws=draws, bar=bar)
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


def sides(context: AblationContext, contrast: ContrastConfig) -> list[Int[np.ndarray, " cell"]]:
    """Numbers of the target cells and of the source cells of a contrast.

    Parameters
    ----------
    context
        Study whose cells have types.
    contrast
        Names of both cell types.

    Raises
    ------
    EvaluationError
        If the cells have no types, a type is not among them, or both are the same.
    """
    obs = context.study.obs
    if "cell_type" not in obs:
        raise EvaluationError("A contrast needs cell types, and the cells have none; set data.cell_type.")
    labels = obs["cell_type"].astype(str).to_numpy()
    for name in (contrast.target, contrast.source):
        if name not in labels:
            raise EvaluationError(f"Contrast: {unknown_name('cell type', name, sorted(set(labels)))}")
    if contrast.target == contrast.source:
        raise EvaluationError(f"Contrast: target and source are both '{contrast.target}'; name two cell types.")
    return [np.flatnonzero(labels == name) for name in (contrast.target, contrast.source)]


def transfer_inputs(context: AblationContext) -> dict[str, Any]:
    """What the table of transfer depends on, for the key of its stage.

    Parameters
    ----------
    context
        Configuration and study of the ablation.
    """
    every = identity(context.study, [], 0)
    same = {name: every[name] for name in ("checkpoint", "cells", "seed")}
    contrasts = [[*vars(one).values(), *sides(context, one)] for one in context.config.contrasts]
    return {**same, **context.spread, "contrasts": contrasts}


def transfer_stage(context: AblationContext, folder: Path, results: Results) -> Result:
    """Write the table of transfer, one contrast after the other.

    Parameters
    ----------
    context
        Configuration and study of the ablation.
    folder
        Not used: the table goes to the tables of the run.
    results
        Results of other stages, of which none is needed.
    """
    config, study, parts = context.config, context.study, []
    for contrast in config.contrasts:
        target, source = sides(context, contrast)
        parts.append(
            activation_patching(
                study.model,
                study.tokens.take(target.tolist()),
                study.tokens.take(source.tolist()),
                names=(contrast.target, contrast.source),
                donors=None if study.donors is None else study.donors[target],
                seed=config.seed,
                draws=config.study.bootstrap,
                batch_size=config.study.batch_size,
            )
        )
    context.write({"transfer": pd.concat(parts, ignore_index=True)})
    return {}
