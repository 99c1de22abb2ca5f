"""The first sentences of a report on dictionaries and its controls, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from workbench.dictionaries.baselines import ONE_HOT
from workbench.dictionaries.judge import OWN
from workbench.dictionaries.lists import LISTS
from workbench.engine.section import Control, Opening
from workbench.figures.style import number
from workbench.recipes.dictionary.config import SHUFFLED, UNTRAINED
from workbench.recipes.dictionary.context import MODEL

_QUESTION = "Do the features of a dictionary explain more of the model's activations than a gene's name alone?"
SOURCES = {UNTRAINED: "random weights", SHUFFLED: "activations dealt anew within genes"}
Tables = Mapping[str, pd.DataFrame]


def opening(tables: Tables, held_out: str) -> Opening:
    """What was found, in five sentences.

    Parameters
    ----------
    tables
        Tables of the run by name; those of parts that were not done are absent.
    held_out
        What was held out: ``donors`` or ``cells``.
    """
    if "dictionary_summary" not in tables:
        return Opening(
            _QUESTION,
            "Dictionaries were trained, and not judged yet.",
            step="Judge them: workbench dictionary judge CONFIG.",
        )
    own = first(tables["dictionary_summary"])
    judged = own[own["within_genes"].notna()]
    if judged.empty:
        return Opening(
            _QUESTION,
            "This cannot be asked here: rows of these hooks are whole cells, which have no gene.",
            f"Dictionaries explain {number(own['variance_explained'].min(), 2)} to {number(own['variance_explained'].max(), 2)} of the variance, "
            f"n = {number(own['n_rows'].min())} held-out cells.",
            step="Take hooks with a row per gene, such as hooks=[blocks.*.hook_resid_post].",
        )
    best, sure = judged.iloc[int(judged["within_genes"].argmax())], judged["within_low"] > 0
    of = f"{int(sure.sum())} of {len(judged)}"
    most = f"the share of what the name leaves is at most {number(best['within_genes'], 2)}, at {best['hook']}"
    if not sure.any():
        answer = f"No: at none of {len(judged)} hooks do they explain more than each gene's mean does; {most}."
    elif sure.all():
        least = judged.iloc[int(judged["within_genes"].argmin())]
        answer = f"Yes, at all of {len(judged)} hooks: {most}, and at least {number(least['within_genes'], 2)}, at {least['hook']}."
    else:
        answer = f"At {of} hooks they do: {most}. At the others a table of one mean per gene does as well or better."
    how = (
        f"n = {number(judged['n_cells'].min())} held-out cells, {number(judged['n_rows'].min())} rows; 95 % at the best hook "
        f"{number(best['within_low'], 2)} to {number(best['within_high'], 2)} {over(best)}, 0 is a gene's name alone."
    )
    if "dictionary_stability" in tables:
        found = tables["dictionary_stability"]["above_0.9"]
        how = f"{how[:-1]}; another seed finds {number(100 * found.mean(), 2)} % of features again."
    change = (
        "Other widths, longer training and more cells could; figures are of cells of the same donors."
        if held_out == "cells"
        else "Other widths, longer training and more donors could."
    )
    step = "Browse features by gene, cell type and program in the pages under dictionaries/, and ablate them with workbench.dictionaries."
    return Opening(_QUESTION, answer, how, change, step)


def over(row: Any) -> str:
    """What an interval is over: donors where two or more were held out, else cells.

    Parameters
    ----------
    row
        A row of the table ``dictionary_summary``, with its column ``n_donors``.
    """
    return f"over {int(row.n_donors)} donors" if row.n_donors else "over cells"


def first(summary: pd.DataFrame) -> pd.DataFrame:
    """Rows of the model's first training.

    Parameters
    ----------
    summary
        Table ``dictionary_summary`` of the run.
    """
    own = summary[summary["source"] == MODEL]
    return own[own["seed"] == own["seed"].min()]


def controls(tables: Tables) -> list[Control]:
    """At how many hooks dictionaries do better than each control and each simpler code, and how many features hold.

    Parameters
    ----------
    tables
        Tables of the run by name; what they do not hold is not judged.
    """
    if "dictionary_summary" not in tables:
        return []
    summary, codes = tables["dictionary_summary"], tables["dictionary_codes"]
    own = first(summary).set_index("hook")
    judged = own[own["within_genes"].notna()]
    better = int((judged["within_low"] > 0).sum())
    found = [Control(ONE_HOT, f"explains less at {better} of {len(judged)} hooks", better, len(judged))]
    for source, name in SOURCES.items():
        beside = summary[summary["source"] == source].set_index("hook")["within_genes"].reindex(judged.index).dropna()
        if len(beside):
            held = int((judged.loc[beside.index, "within_low"] > beside).sum())
            found.append(
                Control(name, f"explained less beyond genes at {held} of {len(beside)} hooks", held, len(beside))
            )
    for code, rows in codes[~codes["code"].isin((OWN, ONE_HOT))].groupby("code", sort=False):
        value = rows.set_index("hook")["variance_explained"]
        held = int((own.loc[value.index, "variance_explained"] > value).sum())
        found.append(Control(str(code), f"explains less at {held} of {len(value)} hooks", held, len(value)))
    if "dictionary_stability" in tables:
        table = tables["dictionary_stability"]
        n, again = int(table["n"].sum()), round(float((table["n"] * table["above_0.9"]).sum()))
        found.append(Control("another seed", f"finds {again} of {n} features again (cosine above 0.9)", again, n))
    if "dictionary_naming" in tables:
        table = tables["dictionary_naming"]
        rows = table[(table["source"] == MODEL) & (table["method"] == LISTS)]
        n, named = int(rows["features"].sum()), round(float((rows["features"] * rows["named"]).sum()))
        found.append(
            Control("random directions of the cells", f"{named} of {n} features have a name beyond them", named, n)
        )
    return found
