"""The stage that names: genes, cell types, donors and programs of every feature, beside random directions of the cells."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workbench.dictionaries.judge import drawn_cells, encoded, gather
from workbench.dictionaries.naming import activity_by_label, leading_donor, name_features
from workbench.engine.context import Handle
from workbench.engine.stages import Result, Results
from workbench.engine.sweep import Task, run_sweep
from workbench.factors.gene_sets import load_gene_sets
from workbench.recipes.dictionary.config import SHUFFLED
from workbench.recipes.dictionary.context import MODEL, TRAIN, DictionaryContext, where
from workbench.recipes.dictionary.judge import apart, together
from workbench.tools.common import column

_PLACE = ("hook", "kind", "layer")
_COLUMNS = {
    "dictionary_names": (
        *_PLACE, "feature", "genes", "n_list", "program", "odds", "overlap", "p_urn", "p", "q", "named", "ranked_program", "ranked_score",
        "ranked_p", "ranked_q", "regulator", "regulator_overlap", "regulator_p", "regulator_q", "regulated", "cell_type", "cell_type_lift",
        "donor", "donor_share", "one_donor",
    ),
    "dictionary_genes": (*_PLACE, "feature", "rank", "gene", "mean", "firings", "lift"),
    "dictionary_cells": (*_PLACE, "feature", "rank", "cell", "mean", "firings", "cell_type", "donor"),
    "dictionary_types": (*_PLACE, "feature", "label", "mean", "density"),
    "dictionary_naming": (*_PLACE, "source", "method", "features", "named", "rule", "rule_random"),
}  # fmt: skip
NAMED = (*_COLUMNS, "dictionary_terms")


def name_stage(context: DictionaryContext, folder: Path, _: Results) -> Result:
    """Name the features of every dictionary, a task each; of the untrained model only the shares named are kept.

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
        ``labels``: which of cell type and donor the cells name; ``sets``, name of the collection.
    """
    stages = [TRAIN, *(one.stage for one in context.trainings if one.source not in (MODEL, SHUFFLED))]
    tasks = [Task(f"{stage}/{hook}", (context.handle, stage, hook)) for stage in stages for hook in context.hooks]
    rows = run_sweep(folder / "sweep", {"dictionaries": len(tasks)}, tasks, name_task, context.backend)
    labels = [name for name in ("cell_type", "donor") if context.column(name)]
    absent = {"cell_type": ("cell_type", "cell_type_lift"), "donor": ("donor", "donor_share", "one_donor")}
    gone = [one for name, columns in absent.items() if name not in labels for one in columns]
    assert context.config.names is not None
    methods = {"ranked_": context.config.names.ranked_draws > 0, "regulat": context.config.names.network is not None}
    gone += [
        one
        for one in _COLUMNS["dictionary_names"]
        for begin, there in methods.items()
        if one.startswith(begin) and not there
    ]
    found = apart(rows, _COLUMNS)
    names = found["dictionary_names"].drop(columns=gone, errors="ignore")
    found["dictionary_names"] = names.astype({one: bool for one in ("named", "regulated", "one_donor") if one in names})
    terms = rows[(rows["table"] == "dictionary_terms")].dropna(axis=1, how="all").drop(columns="table")
    context.write({**found, "dictionary_terms": terms.reset_index(drop=True)})
    return {"labels": labels, "sets": load_gene_sets(context.config.names.sets).name}


def name_task(handle: Handle, stage: str, hook: str) -> pd.DataFrame:
    """Names of one dictionary's features.

    Parameters
    ----------
    handle
        Opens the run in this process.
    stage, hook
        Stage of the training that has left the dictionary, and the full name of its hook.

    Returns
    -------
    DataFrame
        Rows of the tables of `NAMED`, see `together`.
    """
    context = handle.open()
    asked, seed, share = context.config.names, context.config.seed, context.config.data.min_gene_share
    source = MODEL if stage == TRAIN else stage
    model, dictionary = context.model_of(source), context.dictionary(stage, hook)
    cells = drawn_cells(context.held_cells, context.config.judge.n_cells, seed)
    named = name_features(
        model,
        cells,
        dictionary,
        load_gene_sets(asked.sets),
        cell_type=context.column("cell_type"),
        n_top=asked.n_top,
        draws=asked.draws,
        ranked_draws=asked.ranked_draws,
        network=asked.network,
        seed=seed,
        min_gene_share=share,
    )
    about = {**where(hook), "source": source}
    tables = {"dictionary_naming": named.summary}
    if source != MODEL:
        return together(tables, **about)
    features = named.features
    if context.column("donor"):
        rows = gather(model, dictionary, context.drawn, seed, share)
        donors = column(context.drawn, "donor")[rows.cells.cpu().numpy()]
        features = features.join(leading_donor(encoded(dictionary, rows)[0], donors))
    if context.column("cell_type"):
        rows = gather(model, dictionary, cells, seed, share)
        types = column(cells, "cell_type")[rows.cells.cpu().numpy()]
        tables["dictionary_types"] = activity_by_label(encoded(dictionary, rows)[0], types)
    active = named.cells
    for label in filter(context.column, ("cell_type", "donor")):
        active[label] = active["cell"].map(dict(zip(cells.obs_names, column(cells, label), strict=True)))
    tables |= {"dictionary_cells": active, "dictionary_names": features, "dictionary_genes": named.genes}
    if hook == context.hooks[0]:
        # The same of every hook: the panel is that of the cells.
        tables["dictionary_terms"] = named.terms
    return together(tables, **about)
