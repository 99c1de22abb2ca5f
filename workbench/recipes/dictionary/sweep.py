"""The stages that ask what features cause: effects, estimates of all, edges between hooks, and steering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.dictionaries.causing import feature_attribution, feature_effects
from workbench.dictionaries.circuits import feature_circuit
from workbench.dictionaries.dictionary import Dictionary
from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.errors import EvaluationError, HookError
from workbench.recipes.dictionary.config import SteeringConfig
from workbench.recipes.dictionary.context import TRAIN, DictionaryContext, where
from workbench.recipes.dictionary.judge import apart, together
from workbench.recipes.dictionary.swept import asked_of, chosen_features, firing_features, pairs_of_hooks, swept_hooks
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg
from workbench.tools.steer import steer

EFFECTS, ESTIMATES, EDGES, STEERING = "feature_effects", "feature_attribution", "feature_circuits", "feature_steering"
# The tables of each stage, whose name is that of the first.
SWEPT = {
    EFFECTS: (EFFECTS,),
    ESTIMATES: (ESTIMATES, "feature_agreement"),
    EDGES: (EDGES, "feature_edges"),
    STEERING: (STEERING,),
}
DIFFERENCE = "difference of means"
_OF_EDGES = (
    ("source_hook", "target_hook", "pairs", "share_found", "n_null", "smallest_q", "exact_pairs", "spearman", "slope", "degree_rate", "degree_rate_raw"),
    ("source_hook", "source", "target_hook", "target", "strength", "sd", "n_cells", "source_rate", "target_rate", "adjusted", "p", "q", "found", "exact"),
)  # fmt: skip


def effects_stage(context: DictionaryContext, folder: Path, _: Results) -> Result:
    """Change the tested features of each hook one at a time, beside features that are alike; tasks that are done are kept.

    Parameters
    ----------
    context
        Run whose dictionaries lie on the disk.
    folder
        Folder of the stage, with a sweep for each hook.
    _
        Results of the trainings, which are read from the disk.

    Returns
    -------
    dict
        ``features``: those that were tested, by hook.
    """
    asked, tables, tested = asked_of(context), [], {}
    for hook, dictionary in _dictionaries(context).items():
        tested[hook] = chosen_features(context, hook, dictionary)
        found = feature_effects(
            context.model, context.held_cells, dictionary, tested[hook], null_draws=asked.alike, folder=folder / hook,
            backend=context.backend, **_changes(context),
        )  # fmt: skip
        tables.append(found.assign(hook=hook))
    context.write({EFFECTS: _in_front(pd.concat(tables, ignore_index=True))})
    return {"features": tested}


def estimates_stage(context: DictionaryContext, folder: Path, _: Results) -> Result:
    """Estimate the effects of all features of each hook by gradients, and ablate some of them exactly.

    Parameters
    ----------
    context
        Run whose dictionaries lie on the disk.
    folder
        Folder of the stage, with a sweep of the exact ones for each hook.
    _
        Results of the trainings, which are read from the disk.

    Returns
    -------
    dict
        ``hooks``, whose features were estimated.
    """
    tables, agreements = [], []
    for hook, dictionary in _dictionaries(context).items():
        found = feature_attribution(
            context.model, context.held_cells, dictionary, check=asked_of(context).check, folder=folder / hook,
            backend=context.backend, **_changes(context),
        )  # fmt: skip
        tables.append(found.table.assign(hook=hook))
        agreements.append(found.agreement.assign(hook=hook))
    both = (pd.concat(parts, ignore_index=True) for parts in (tables, agreements))
    context.write(dict(zip(SWEPT[ESTIMATES], map(_in_front, both), strict=True)))
    return {"hooks": list(swept_hooks(context))}


def circuits_stage(context: DictionaryContext, folder: Path, _: Results) -> Result:
    """Look for edges from the features of each hook to some of the next, a task for each pair of hooks.

    Parameters
    ----------
    context
        Run whose dictionaries lie on the disk.
    folder
        Folder of the stage; finished tasks in it are kept.
    _
        Results of the trainings, which are read from the disk.

    Returns
    -------
    dict
        ``pairs`` of hooks, and ``skipped``: those between which no edge could be looked for, and why.
    """
    pairs = pairs_of_hooks(context)
    tasks = [Task(f"{one} {other}", (context.handle, one, other)) for one, other in pairs]
    rows = run_sweep(folder / "sweep", {"pairs": len(tasks)}, tasks, circuit_task, context.backend)
    why = rows["why"].fillna("") != ""
    columns = dict(zip(SWEPT[EDGES], _OF_EDGES, strict=True))
    found = apart(rows[~why], columns)
    if why.all():
        found = {name: pd.DataFrame(columns=list(wanted)) for name, wanted in columns.items()}
    found["feature_edges"] = found["feature_edges"].astype({"source": int, "target": int, "found": bool})
    context.write(found)
    skipped = [f"From {row.source_hook} to {row.target_hook}: {row.why}" for row in rows[why].itertuples()]
    return {"pairs": [list(pair) for pair in pairs], "skipped": skipped}


def circuit_task(handle: Handle, one: str, other: str) -> pd.DataFrame:
    """Edges from the features of one hook to some of another.

    Parameters
    ----------
    handle
        Opens the run in this process.
    one, other
        Full names of the hooks, the earlier one first.

    Returns
    -------
    DataFrame
        Rows of the tables of the stage, see `together`, with ``why`` (empty where edges were looked for).
    """
    context = handle.open()
    asked, seed, about = asked_of(context), context.config.seed, {"source_hook": one, "target_hook": other}
    low, high = (context.dictionary(TRAIN, hook) for hook in (one, other))
    drawn = generator(seed, "targets of edges", other).permutation(high.width)
    drawn = drawn[np.isin(drawn, firing_features(context, high))][: asked.targets]
    try:
        found = feature_circuit(
            context.model, context.held_cells, low, high, sorted(drawn.tolist()), check=asked.check, null_draws=asked.mixtures,
            n_cells=asked.n_cells, seed=seed, min_gene_share=context.config.data.min_gene_share,
        )  # fmt: skip
    except EvaluationError as error:
        # Trainings of hours lie behind this, and a dictionary of which hardly a feature fires is a result.
        return together({EDGES: pd.DataFrame([{**about, "why": str(error)}])})
    summary = pd.DataFrame([found.summary]).rename(columns={"found": "share_found"})
    tables = (summary.assign(**about), found.edges)
    return together(dict(zip(SWEPT[EDGES], tables, strict=True)), why="")


def steering_stage(context: DictionaryContext, folder: Path, results: Results) -> Result:
    """Steer cells between labels along each tested feature and the difference of means, a task for each.

    Parameters
    ----------
    context
        Run whose dictionaries lie on the disk.
    folder
        Folder of the stage; finished tasks in it are kept.
    results
        Result of the effects, which says which features are tested.

    Returns
    -------
    dict
        ``skipped``: directions that cells could not be steered along, and why.
    """
    tasks = []
    for i, contrast in enumerate(asked_of(context).steering):
        for hook, features in results[EFFECTS]["features"].items():
            means = [None] if hook.endswith("hook_resid_post") else []
            for feature in (*means, *features):
                tasks.append(Task(f"{i}/{hook}/{feature}", (context.handle, contrast, hook, feature)))
    rows = run_sweep(folder / "sweep", {"directions": len(tasks)}, tasks, steering_task, context.backend)
    why = rows["why"] != ""
    skipped = [f"{row.along} of {row.hook}: {row.why}" for row in rows[why].itertuples()]
    found = rows[~why].drop(columns="why").reset_index(drop=True)
    features = found["along"] != DIFFERENCE
    for _, at in found[features].groupby(["hook", "target", "source", "dose", "measure"]).groups.items():
        found.loc[at, "q"] = benjamini_hochberg(found.loc[at, "p"].to_numpy())
    context.write({STEERING: found})
    return {"skipped": skipped}


def steering_task(handle: Handle, contrast: SteeringConfig, hook: str, feature: int | None) -> pd.DataFrame:
    """Where cells go along one direction, or why they cannot be steered along it.

    Parameters
    ----------
    handle
        Opens the run in this process.
    contrast
        Labels, doses and random directions.
    hook, feature
        Full name of the hook, and number of the feature; None for the difference of means of its layer.

    Returns
    -------
    DataFrame
        Rows of `steer`, with ``hook``, ``along``, ``target``, ``source``, ``q`` (NaN here) and ``why`` (empty where cells were steered).
    """
    context = handle.open()
    about = {"hook": hook, "along": DIFFERENCE if feature is None else f"F{feature}"}
    about |= {"target": contrast.target, "source": contrast.source}
    layer = int(hook.split(".")[1])
    try:
        found = steer(
            context.held_cells,
            context.model,
            source=contrast.source,
            target=contrast.target,
            layer=layer if feature is None else None,
            direction=None if feature is None else (context.dictionary(TRAIN, hook), feature),
            doses=contrast.doses,
            null_draws=contrast.draws,
            n_cells=asked_of(context).n_cells,
            seed=context.config.seed,
            min_gene_share=context.config.data.min_gene_share,
        )
    except (EvaluationError, HookError) as error:
        # A feature that is silent in these cells, or a hook whose features are no directions of the stream.
        return pd.DataFrame([{**about, "q": np.nan, "why": str(error)}])
    table = found.assign(**about, q=np.nan, why="")
    return table[[*about, *(name for name in table if name not in about)]]


# The stages of this part: their work, and whether it reads labels of the cells.
STAGES: Mapping[str, tuple[Callable[..., Result], bool]] = {
    EFFECTS: (effects_stage, True),
    ESTIMATES: (estimates_stage, True),
    EDGES: (circuits_stage, False),
    STEERING: (steering_stage, True),
}


def inputs_of(context: DictionaryContext, stage: str) -> dict[str, Any]:
    """What a stage of this part depends on, beside the trained dictionaries.

    Parameters
    ----------
    context
        Run that was asked for causes.
    stage
        Name of one of `STAGES`.
    """
    uses = {
        EFFECTS: {"features", "how", "amount", "n_cells", "alike"},
        ESTIMATES: {"how", "amount", "n_cells", "check"},
        EDGES: {"n_cells", "check", "targets", "mixtures"},
        STEERING: {"n_cells", "steering"},
    }
    given = asked_of(context).model_dump(mode="json", include=uses[stage])
    given |= {"hooks": list(swept_hooks(context)), "seed": context.config.seed}
    if STAGES[stage][1]:
        given |= {name: context.labels(name) for name in ("cell_type", "donor")}
    return given


def _dictionaries(context: DictionaryContext) -> dict[str, Dictionary]:
    return {hook: context.dictionary(TRAIN, hook) for hook in swept_hooks(context)}


def _changes(context: DictionaryContext) -> dict[str, Any]:
    """What is done to features, and in which cells."""
    asked, config = asked_of(context), context.config
    return {
        "how": asked.how,
        "amount": asked.amount,
        "n_cells": asked.n_cells,
        "seed": config.seed,
        "min_gene_share": config.data.min_gene_share,
    }


def _in_front(table: pd.DataFrame) -> pd.DataFrame:
    """The table with hook, kind and layer as its first columns."""
    place = pd.DataFrame([where(hook) for hook in table["hook"]], index=table.index)
    return place.join(table.drop(columns=list(place), errors="ignore"))
