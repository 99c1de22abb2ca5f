"""The first sentences of a geometry's report and its controls, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from workbench.engine.section import Control, Opening
from workbench.figures.style import number
from workbench.geometry.space_draws import BASELINE, MODEL
from workbench.recipes.geometry.config import PERMUTED, THINNED, UNTRAINED
from workbench.recipes.geometry.context import SOURCES
from workbench.recipes.geometry.measures import STREAM

_QUESTION = "Layer by layer, does what the model encodes keep expression's neighbourhoods better than PCA or an untrained network does?"
# A measure in which more is better, and one that says nothing of better or worse.
FAITHFUL, DIMENSION = "R_NX", ("TwoNN", "raw")


def opening(table: pd.DataFrame, of: str, donors: int) -> Opening:
    """What a geometry found, in five sentences.

    Parameters
    ----------
    table
        Table ``geometry`` of the run.
    of
        What the neighbours of expression are of.
    donors
        Number of donors; 0 where the cells name none.
    """
    rows, scope = faithful(table)
    own = rows[(rows["source"] == MODEL) & (rows["hook"] == STREAM)]
    if own.empty:
        return Opening(
            _QUESTION, "No layer could be compared with expression on these cells.", step="Give more cells a batch."
        )
    best, last = (own.iloc[int(own[column].argmax())] for column in ("value", "layer"))
    pca = _of(rows, lambda r: r["hook"].str.startswith("PCA"))
    untrained = _of(
        rows, lambda r: (r["source"] == SOURCES[UNTRAINED]) & (r["hook"] == STREAM) & (r["layer"] == best["layer"])
    )
    compared = [(name, other) for name, other in (("random weights", untrained), ("PCA", pca)) if other is not None]
    said = [f"{_than(best, other)} {name} ({number(other, 2)})" for name, other in compared]
    found = f"the stream keeps a share of neighbours beyond chance (R_NX, {scope}) of {number(best['value'], 2)} at its best, {where(best['layer'])}"
    answer = f"{', '.join(said)}: {found}." if said else f"{found}; nothing stands beside it."
    answer = answer[0].upper() + answer[1:]
    sure = f"n = {number(best['n'])} cells, 95 % {number(best['low'], 2)} to {number(best['high'], 2)} over {'donors' if donors > 1 else 'cells'}; 0 is chance. Last layer: {number(last['value'], 2)}."
    change = (
        "Other cells could: all figures depend on their number, so compare spaces of the same cells alone."
        if of.startswith("Pearson")
        else f"Counts could: the neighbours are of {of}."
    )
    if donors < 2:
        change = f"{change[:-1]}; with no donors, intervals say nothing of other people."
    step = "Lay an embedding of your own beside it with --set data.embeddings=[X_scVI]; the linear probe below says which layer keeps the cell types."
    return Opening(_QUESTION, answer, sure, change, step)


def faithful(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Rows of R_NX at one size of neighbourhood, the middle of those that were asked for.

    Parameters
    ----------
    table
        Table ``geometry`` of the run.

    Returns
    -------
    rows, scope
        Rows that have a value, and their scope; no row where nothing was compared with expression.
    """
    rows = table[(table["measure"] == FAITHFUL) & table["scope"].str.fullmatch(r"k = \d+") & table["value"].notna()]
    scopes = sorted(rows["scope"].unique(), key=lambda scope: int(scope[4:]))
    scope = scopes[len(scopes) // 2] if scopes else ""
    return rows[rows["scope"] == scope], scope


def where(layer: float) -> str:
    """A place in the model, in words.

    Parameters
    ----------
    layer
        Number of the layer; -1 in front of the first.
    """
    return "in front of layer 0" if layer < 0 else f"after layer {layer:.0f}"


def controls(table: pd.DataFrame, passes: Sequence[str], skipped: Mapping[str, str]) -> list[Control]:
    """On how many layers the model's stream keeps more of expression's neighbourhoods than each control.

    Parameters
    ----------
    table
        Table ``geometry`` of the run.
    passes
        Controls that were passed through the model.
    skipped
        Why others were not, by their keys in the configuration.
    """
    rows, _ = faithful(table)
    own = rows[(rows["source"] == MODEL) & (rows["hook"] == STREAM)].set_index("layer")
    found = []
    for name in (UNTRAINED, PERMUTED, THINNED):
        beside = rows[(rows["source"] == SOURCES[name]) & (rows["hook"] == STREAM)].set_index("layer")
        both = own.index.intersection(beside.index)
        if name not in passes or not len(both):
            found.append(Control(SOURCES[name], skipped.get(name, "not judged"), 0, 0))
            continue
        held = int((own.loc[both, "low"] > beside.loc[both, "value"]).sum())
        found.append(Control(SOURCES[name], f"less faithful after {held} of {len(both)} layers", held, len(both)))
    for name in rows.loc[rows["source"] == BASELINE, "hook"].unique():
        if not name.startswith("PCA"):
            continue
        value = float(rows.loc[rows["hook"] == name, "value"].iloc[0])
        held = int((own["low"] > value).sum())
        found.append(Control(name, f"less faithful than {held} of {len(own)} layers", held, len(own)))
    return found


def _than(best: pd.Series, other: float) -> str:
    return "better than" if best["low"] > other else "worse than" if best["high"] < other else "no better or worse than"


def _of(rows: pd.DataFrame, chosen: object) -> float | None:
    part = rows[chosen(rows)]  # type: ignore[operator]
    return float(part["value"].iloc[0]) if len(part) and np.isfinite(part["value"].iloc[0]) else None
