"""The stages that judge: every dictionary on held-out cells, a task each, and whether another seed finds the same features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.dictionaries.feeding import dealt_anew
from workbench.dictionaries.judge import describe, donors_of, drawn_cells, gather, judge
from workbench.dictionaries.judging import match_features, random_matches
from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.recipes.dictionary.config import SHUFFLED
from workbench.recipes.dictionary.context import MODEL, TRAIN, DictionaryContext, PlannedTraining, where

# Columns of each table that a task leaves, those of the hook in front; whole numbers by name.
_PLACE = ("hook", "kind", "layer")
_COLUMNS = {
    "dictionary_summary": (
        *_PLACE, "source", "seed", "variance_explained", "within_genes", "within_low", "within_high", "gene_id", "l0", "dead", "dense",
        "top_share", "one_gene", "n_rows", "n_cells", "n_donors",
    ),
    "dictionary_codes": (*_PLACE, "code", "l0", "variance_explained", "within_genes"),
    "dictionary_losses": (*_PLACE, "metric", "replaced_by", "loss", "recovered_zero", "recovered_mean"),
    "dictionary_activity": (*_PLACE, "feature", "density", "mean", "gene", "top_share", "n_genes", "level_r"),
}  # fmt: skip
_WHOLE = (
    "seed",
    "n_rows",
    "n_cells",
    "n_donors",
    "feature",
    "rank",
    "firings",
    "n_list",
    "overlap",
    "partner",
    "other",
)
JUDGED = tuple(_COLUMNS)
MATCHED = ("dictionary_stability", "dictionary_matches")


def together(tables: Mapping[str, pd.DataFrame], **about: Any) -> pd.DataFrame:
    """Tables of one task as one, with the name of each in ``table``.

    Parameters
    ----------
    tables
        Tables by name, of any columns.
    **about
        Columns that are the same in all of their rows.
    """
    parts: list[pd.DataFrame] = [table.assign(table=name, **about) for name, table in tables.items()]
    return pd.concat(parts, ignore_index=True)


def apart(rows: pd.DataFrame, columns: Mapping[str, Sequence[str]]) -> dict[str, pd.DataFrame]:
    """Tables by name out of rows that `together` made.

    Parameters
    ----------
    rows
        Rows of all tasks, as a sweep gives them.
    columns
        Columns of each table; one that no row has is left out.
    """
    found = {}
    for name, wanted in columns.items():
        part = rows[rows["table"] == name] if "table" in rows else rows
        part = part[[column for column in wanted if column in part]].reset_index(drop=True)
        found[name] = part.astype({column: int for column in part if column in _WHOLE})
    return found


def judge_stage(context: DictionaryContext, folder: Path, _: Results) -> Result:
    """Judge every dictionary, a task each: those of the model's first training in full, others without simpler codes and losses.

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
        ``n_tasks``, how many dictionaries were judged.
    """
    tasks = [
        Task(f"{one.stage}/{hook}", (context.handle, one, hook)) for one in context.trainings for hook in context.hooks
    ]
    rows = run_sweep(folder / "sweep", {"dictionaries": len(tasks)}, tasks, judge_task, context.backend)
    context.write(apart(rows, _COLUMNS))
    return {"n_tasks": len(tasks)}


def judge_task(handle: Handle, one: PlannedTraining, hook: str) -> pd.DataFrame:
    """What one dictionary is worth on held-out cells.

    Parameters
    ----------
    handle
        Opens the run in this process.
    one, hook
        Training that has left the dictionary, and the full name of its hook.

    Returns
    -------
    DataFrame
        Rows of the tables of `JUDGED`, see `together`.
    """
    context = handle.open()
    asked, seed, share = context.config.judge, context.config.seed, context.config.data.min_gene_share
    model, dictionary = context.model_of(one.source), context.dictionary(one.stage, hook)
    about = {**where(hook), "source": one.source, "seed": one.seed}
    if one.stage != TRAIN:
        rows, fitted = (
            gather(model, dictionary, drawn_cells(cells, asked.n_cells, seed), seed, share)
            for cells in (context.held_cells, context.train_cells)
        )
        if one.source == SHUFFLED:
            rows, fitted = dealt_anew(rows, seed, "held out"), dealt_anew(fitted, seed, "trained on")
        donors = donors_of(drawn_cells(context.held_cells, asked.n_cells, seed))
        summary, _ = describe(dictionary, rows, fitted, model, donors=donors, draws=asked.bootstrap, seed=seed)
        return together({"dictionary_summary": pd.DataFrame([summary])}, **about)
    found = judge(
        model,
        context.held_cells,
        dictionary,
        context.train_cells,
        n_cells=asked.n_cells,
        seed=seed,
        mask_share=asked.mask_share,
        draws=asked.bootstrap,
        min_gene_share=share,
        progress=False,
    )
    tables = (pd.DataFrame([found.summary]), found.codes, found.losses, found.features)
    return together(dict(zip(JUDGED, tables, strict=True)), **about)


def stability_stage(context: DictionaryContext, folder: Path, _: Results) -> Result:
    """Match the features of the first training with those of every other seed, a task for each hook and seed.

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
        ``seeds``, those that were compared with the first.
    """
    others = [one for one in context.trainings if one.source == MODEL and one.stage != TRAIN]
    tasks = [Task(f"{one.stage}/{hook}", (context.handle, one, hook)) for one in others for hook in context.hooks]
    rows = run_sweep(folder / "sweep", {"pairs": len(tasks)}, tasks, match_task, context.backend)
    columns = {
        "dictionary_stability": (*_PLACE, "other", "median", "above_0.7", "above_0.9", "above_null", "null_median", "null_high", "n"),
        "dictionary_matches": (*_PLACE, "other", "feature", "partner", "cosine"),
    }  # fmt: skip
    context.write(apart(rows, columns))
    return {"seeds": [one.seed for one in others]}


def match_task(handle: Handle, one: PlannedTraining, hook: str) -> pd.DataFrame:
    """Features of the first training matched one to one with those of another seed, beside random directions of the same moments.

    Parameters
    ----------
    handle
        Opens the run in this process.
    one, hook
        The other training, and the full name of the hook.

    Returns
    -------
    DataFrame
        Rows of the tables of `MATCHED`, see `together`. ``above_null`` is the share of pairs whose cosine is above 97.5 % of the random ones.
    """
    context = handle.open()
    mine, theirs = (context.dictionary(stage, hook).directions.cpu().numpy() for stage in (TRAIN, one.stage))
    features, partners, cosine = match_features(mine, theirs)
    null = random_matches(mine, theirs, context.config.seed)
    high = float(np.quantile(null, 0.975))
    summary = {
        **{"median": float(np.median(cosine)), "above_0.7": float((cosine > 0.7).mean())},
        **{"above_0.9": float((cosine > 0.9).mean()), "above_null": float((cosine > high).mean())},
        **{"null_median": float(np.median(null)), "null_high": high, "n": len(cosine)},
    }
    pairs = pd.DataFrame({"feature": features, "partner": partners, "cosine": cosine})
    return together(
        {"dictionary_stability": pd.DataFrame([summary]), "dictionary_matches": pairs}, **where(hook), other=one.seed
    )
