"""The grid of a sweep: which ablations, with which null draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pandas as pd

from workbench.ablation.settings import SweepConfig
from workbench.ablation.sites import ATTENTION, HEAD, MLP, Ablation, Site, all_heads, site
from workbench.ablation.study import Study
from workbench.errors import EvaluationError
from workbench.files import digest
from workbench.models import CellModel
from workbench.seeds import generator


def make_grid(model: CellModel, settings: SweepConfig, seed: int) -> list[Ablation]:
    """Every ablation of a sweep, with its null draws.

    Parameters
    ----------
    model
        Model whose layers and heads are listed.
    settings
        What the sweep ablates, and how.
    seed
        Seed of the partners that are resampled.
    """
    config, grid = model.config, []
    for how in settings.how:
        single = all_heads(config, how, seed) if settings.heads else []
        grid += single
        layers = product(range(config.n_layers), (ATTENTION, MLP)) if settings.layers else ()
        grid += [Ablation((Site(layer, kind),), how, seed=seed) for layer, kind in layers]
        grid += [
            Ablation(tuple(map(site, [label] if isinstance(label, str) else label)), how, seed=seed)
            for label in settings.sites
        ]
        grid += [
            Ablation(one.sites, how, seed=seed, rotation=draw) for one in single for draw in range(settings.null_draws)
        ]
    if not grid:
        raise EvaluationError("The grid is empty; switch on `heads` or `layers`, or name `sites`.")
    twice = [name for name, n in Counter(one.key for one in grid).items() if n > 1]
    if twice:
        raise EvaluationError(
            f"The grid names '{twice[0]}' twice; name each of `how` and `sites` once, and no head in `sites` that `heads` brings."
        )
    for one in grid:
        one.check(config, model.vocabulary)
    return grid


def make_pairs(heads: Sequence[str], how: str, seed: int) -> list[Ablation]:
    """Every pair of some heads.

    Parameters
    ----------
    heads
        Labels of heads, such as ``L2H1``, each once.
    how, seed
        As in `Ablation`.
    """
    return [Ablation(tuple(map(site, pair)), how, seed=seed) for pair in combinations(sorted(heads), 2)]


def draw_pairs(pairs: Sequence[Ablation], n: int, seed: int) -> list[Ablation]:
    """Some of the pairs, drawn at random.

    Parameters
    ----------
    pairs
        Pairs to draw from, in the order of `make_pairs`.
    n
        Number of pairs wanted; all where there are no more.
    seed
        Seed of the draw of pairs.
    """
    order = generator(seed, "random pairs").permutation(len(pairs))[:n]
    return [pairs[i] for i in sorted(order.tolist())]


def describe_grid(grid: Sequence[Ablation]) -> pd.DataFrame:
    """The grid as a table, one row per ablation.

    Parameters
    ----------
    grid
        The ablations, in the order of the rows.
    """
    rows: list[dict[str, Any]] = []
    for one in grid:
        first = one.sites[0]
        single = len(one.sites) == 1
        rows.append(
            {
                "key": one.key,
                "places": str(one),
                "how": one.how,
                "kind": first.kind if single else "set",
                "layer": first.layer if single else -1,
                "head": first.head if single and first.kind == HEAD else -1,
                "null": -1 if one.rotation is None else one.rotation,
            }
        )
    return pd.DataFrame(rows)


def identity(study: Study, grid: Sequence[Ablation], block: int) -> dict[str, Any]:
    """What the rows of a sweep depend on, for its folder to remember or a stage to be keyed by.

    Parameters
    ----------
    study
        Cells, metrics and references that rows depend on.
    grid
        Ablations, null draws among them.
    block
        Number of cells in a task, at most.

    Returns
    -------
    dict
        JSON-ready. Cells per pass and draws of the bootstrap are no part of it.
    """
    tokens, obs = study.tokens, study.obs
    reference = None if study.reference is None else list(study.reference.tokens.cell_ids)
    # Probes read the labels, and a ruler the stages; nothing else reads what the cells are called.
    read = [*(("cell_type", "fold") if "fold" in obs else ()), *(("stage",) if "stage" in obs else ())]
    batches = [] if tokens.batch_labels is None else [tokens.batch_labels.numpy()]
    return {
        "checkpoint": study.model.fingerprint(),
        "cells": digest(tokens.gene_ids.numpy(), tokens.values.numpy(), list(tokens.cell_ids), *batches),
        "labels": digest({name: obs[name].astype(str).tolist() for name in read}),
        "reference cells": digest(reference),
        "metrics": list(study.names),
        "ablations": {"number": len(grid), "hash": digest([one.key for one in grid])},
        "mask_share": study.mask_share,
        "seed": study.seed,
        "cells per task": block,
    }
