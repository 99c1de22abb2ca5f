"""The stage that puts together what is known of each feature, and writes a page to browse for each dictionary."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.engine.stages import Result, Results
from workbench.explorer.dictionary import PAGE, Browsed, titled, write_dictionary_page
from workbench.figures.style import number
from workbench.recipes.dictionary.context import MODEL, TRAIN, DictionaryContext
from workbench.recipes.dictionary.sweep import EFFECTS
from workbench.seeds import key

__all__ = ["FEATURES", "PAGE", "features_table", "pages_stage"]

FEATURES = "dictionary_features"
_SHOWN, _NEIGHBOURS = 5, 15
_PLACE = ["hook", "kind", "layer", "feature"]


def pages_stage(context: DictionaryContext, folder: Path, results: Results) -> Result:
    """Join what judging, matching and naming found of each feature into one table, and write the pages.

    Parameters
    ----------
    context
        Run whose tables and dictionaries lie on the disk.
    folder
        Folder of the stage, in which nothing is left: pages lie beside the dictionaries.
    results
        Results of the stages before; names, matches and effects may be absent.

    Returns
    -------
    dict
        ``hooks``, those that have a page, and ``bytes``, what all pages take.
    """
    empty = pd.DataFrame({"hook": pd.Series(dtype=str)})
    names, genes, cells, types = (
        context.read(table) if "name" in results else empty
        for table in ("dictionary_names", "dictionary_genes", "dictionary_cells", "dictionary_types")
    )
    matches = context.read("dictionary_matches") if "stability" in results else empty
    effects = context.read(EFFECTS) if EFFECTS in results else empty
    table = features_table(context.read("dictionary_activity"), names, genes, matches)
    context.write({FEATURES: table})
    summary = context.read("dictionary_summary")
    summary = summary[(summary["source"] == MODEL) & (summary["seed"] == context.config.seed)].set_index("hook")
    size = 0
    bar = tqdm(context.hooks, unit="page", desc="pages", disable=not context.backend.progress)
    for hook in bar:
        dictionary, row = context.dictionary(TRAIN, hook), summary.loc[hook]
        directions = dictionary.directions.cpu().numpy()
        about = titled(
            [
                (
                    "Dictionary",
                    f"{dictionary.origin.trained_as}, {dictionary.width:,} features, {number(row['l0'])} active at a row",
                ),
                (
                    "Variance explained",
                    f"{number(row['variance_explained'])} on held-out cells; gene id alone {number(row['gene_id'])}",
                ),
                (
                    "Beyond each gene's mean",
                    f"{number(row['within_genes'], 2)} (95 % {number(row['within_low'], 2)} to {number(row['within_high'], 2)}); 0 is a gene's name alone",
                ),
                ("Data", context.data_name),
            ]
        )
        own = {
            name: one[one["hook"] == hook]
            for name, one in (
                ("features", table),
                ("genes", genes),
                ("cells", cells),
                ("types", types),
                ("effects", effects),
            )
        }
        own["features"] = own["features"].sort_values("feature")
        place = _map(directions, context.config.seed)
        shown = Browsed(f"Features of {hook}", about, **own, directions=directions, map=place)
        size += sum(path.stat().st_size for path in write_dictionary_page(shown, context.place(TRAIN, hook)))
    return {"hooks": list(context.hooks), "bytes": size}


def features_table(
    activity: pd.DataFrame, names: pd.DataFrame, genes: pd.DataFrame, matches: pd.DataFrame
) -> pd.DataFrame:
    """All that is known of each feature, a row each, those with a name first.

    Parameters
    ----------
    activity
        Table ``dictionary_activity``, a row per hook and feature.
    names, genes, matches
        Tables ``dictionary_names``, ``dictionary_genes`` and ``dictionary_matches``; without rows where features were not named or matched.

    Returns
    -------
    DataFrame
        ``hook``, ``kind``, ``layer``, ``feature``; ``genes`` (the first five with their lift); the columns of ``names``; ``top_gene`` and the other
        columns of ``activity``; ``found_again`` (smallest cosine with its partner over the other seeds).
    """
    found = activity.rename(columns={"gene": "top_gene"})
    if len(names):
        own = names.drop(columns=["genes", "kind", "layer"])
        found = found.merge(own, on=["hook", "feature"], how="left", validate="1:1")
        top = genes[genes["rank"] <= _SHOWN]
        said = [f"{gene} ({number(lift)})" for gene, lift in zip(top["gene"], top["lift"], strict=True)]
        joined = top.assign(said=said).groupby(["hook", "feature"], sort=False)["said"].agg("; ".join)
        found = found.join(joined.rename("genes"), on=["hook", "feature"])
        found["genes"] = found["genes"].fillna("")
    if len(matches):
        again = matches.groupby(["hook", "feature"])["cosine"].min().rename("found_again")
        found = found.join(again, on=["hook", "feature"])
    front = [*_PLACE, *(["genes"] if "genes" in found else [])]
    found = found[[*front, *(column for column in found if column not in front)]]
    if "named" in found:
        found = found.sort_values("named", ascending=False, kind="stable")
    return found.reset_index(drop=True)


def _map(directions: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        near = min(_NEIGHBOURS, len(directions) - 1)
        flat = UMAP(near, metric="cosine", random_state=key(seed, "map of features") % 2**32, n_jobs=1)
        return np.asarray(flat.fit_transform(directions), dtype=np.float64)
