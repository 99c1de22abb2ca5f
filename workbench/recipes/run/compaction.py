"""The stage of ever smaller feature maps, split by split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workbench.engine.sweep import Task, run_sweep
from workbench.factors.compaction import judge, summarise, undefined, variants
from workbench.operators.algorithm import fold
from workbench.operators.operator import head_name
from workbench.recipes.run.config import CompactionConfig
from workbench.recipes.run.context import RunContext
from workbench.recipes.run.splits import fold_pairs, head_of, split_name

if TYPE_CHECKING:
    from workbench.engine.context import Handle

TABLES = ("compaction", "compaction_lost")


def compaction_stage(
    context: RunContext, settings: CompactionConfig, folder: Path, _: Mapping[str, Any]
) -> dict[str, Any]:
    """Judge ever smaller feature maps over repeated splits, a task each.

    Parameters
    ----------
    context
        Run whose cells were placed and whose operators were read.
    settings
        Which feature maps, and how many splits.
    folder
        Folder of the stage; finished splits in it are kept.
    _
        Results of the stages before, which are read from the disk.

    Returns
    -------
    dict
        ``n_splits``, ``held_out`` (mean share of the cells), ``heads`` (how often each was chosen), ``folds_left_out``.
    """
    pairs = fold_pairs(context, settings.splits)
    tasks = [Task(split_name(pair), (context.handle, settings, pair)) for pair in pairs]
    rows = run_sweep(folder / "sweep", {"splits": len(pairs)}, tasks, compaction_split, context.backend)
    share = float(np.mean([(~context.cells.outside(pair)).mean() for pair in pairs]))
    table = summarise(rows, share)
    lost = table.groupby("variant", sort=False)["lost"].agg(lost="sum", n_metrics="size").reset_index()
    context.write(dict(zip(TABLES, (table, lost), strict=True)))
    heads = rows.drop_duplicates("split")["head"].value_counts()
    return {"n_splits": len(pairs), "held_out": share, "heads": heads.to_dict(), "folds_left_out": len(pairs[0])}


def compaction_split(handle: Handle, settings: CompactionConfig, folds: tuple[int, ...]) -> pd.DataFrame:
    """All variants on one split: feature maps, adaptor and readouts know nothing of the held-out folds.

    Parameters
    ----------
    handle
        Opens the run in this process.
    settings
        Which feature maps are judged; how many splits there are does not matter here.
    folds
        Numbers of the folds that are held out.

    Returns
    -------
    DataFrame
        A row per variant, endpoint and metric.
    """
    context: RunContext = handle.open()
    cells, config = context.cells, context.config
    head = head_of(context, settings.head, folds)
    rows = []
    for variant in variants(
        context.feature_map(folds),
        context.operators.leaving(cells.groups_in(folds)).head(*head),
        cells.genes,
        **settings.model_dump(exclude={"splits", "head"}),
        width=config.adaptor.k,
        seed=config.seed,
    ):
        about = {
            "split": split_name(folds),
            "head": head_name(*head),
            "variant": variant.name,
            "order": variant.order,
            "bytes": variant.n_bytes,
            "parameters": variant.n_weights,
            "relative_error": variant.error,
            "note": variant.note,
        }
        if variant.matrix is None:
            found = undefined(context.endpoints)
        else:
            fitted = context.fitted(variant.matrix, folds)
            encode, offset = fold(variant.matrix, fitted.encoder_, fitted.bias_)
            z = np.asarray(cells.expression @ encode) + offset
            found = judge(z, context.endpoints, ~cells.outside(folds), config.readout.hidden, config.seed)
        rows += [{**about, **row} for row in found]
    return pd.DataFrame(rows)
