"""The first sentences of a campaign's report and its controls, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from workbench.engine.section import Control, Opening
from workbench.evidence.methods import BASELINE, COMPACT, CONTROL, LAYERS
from workbench.recipes.benchmark.splits import HOLDOUT

Tables = Mapping[str, pd.DataFrame]


def _first(tables: Tables, name: str) -> pd.DataFrame:
    """Rows of the first kind of split, which the first figures show."""
    table, splits = tables[name], tables["splits"]
    if not len(splits):
        return table.iloc[:0]
    return table[(table["kind"] == splits["kind"].iloc[0]) & (table["data"] == splits["data"].iloc[0])]


def _rivals(tables: Tables) -> pd.DataFrame:
    """Methods that were judged beside ours, the forms of our own heads and the layers of the model apart."""
    group = tables["methods"].set_index("method")["group"]
    tally = _first(tables, "tally")
    of = tally["wins"] + tally["ties"] + tally["losses"]
    tally = tally.assign(of=of, group=tally["method"].map(group))
    return tally[(of > 0) & ~tally["group"].isin([COMPACT, LAYERS])]


def opening(tables: Tables, ours: str, transfer: bool) -> Opening:
    """What a campaign found on its first kind of split, in five sentences.

    Parameters
    ----------
    tables
        ``splits``, ``methods``, ``summary``, ``comparisons`` and ``tally`` of the campaign.
    ours
        The method that every other one is compared with.
    transfer
        Whether cells of other cohorts were judged, too.
    """
    question = f"On held-out cells, where is {ours} better than other methods, and where worse?"
    rivals, donors = _rivals(tables), HOLDOUT in set(tables["splits"]["kind"])
    if not len(rivals):
        return Opening(
            question,
            f"Nothing could be compared: no other method was judged beside {ours}.",
            change="Other methods could, or more cells.",
            step="Ask for more methods with --set methods=[]; the list of what was skipped says what each lacked.",
        )
    ahead, behind = int((rivals["wins"] > rivals["losses"]).sum()), int((rivals["wins"] < rivals["losses"]).sum())
    hardest: Any = rivals.iloc[int((rivals["losses"] - rivals["wins"]).to_numpy().argmax())]
    answer = (
        f"Of {len(rivals)} methods {ours} wins more than it loses against {ahead}, and loses more against {behind}; hardest: "
        f"{hardest['method']} ({hardest['wins']} wins, {hardest['ties']} ties, {hardest['losses']} losses)."
    )
    splits = _first(tables, "splits")
    summary = _first(tables, "summary")
    sd = summary.loc[summary["method"] == ours, "sd"].median()
    sure = f"{len(splits)} splits ({splits['kind'].iloc[0]}{f', sd {sd:.2g}' if pd.notna(sd) else ''})"
    tested = _first(tables, "comparisons")
    if tested["q"].notna().any():
        sizes = tested["detectable"].dropna()
        missed = f"; a difference under about {sizes.median():.2g} would come out as a tie" if len(sizes) else ""
        sure += f"; a win has q at most 0.05{missed}"
    else:
        sure += "; too few of them for a test, so that all are ties"
    if not donors:
        change, step = (
            "Donors could: these cells name none, and splits share people.",
            "Name the column of donors with --set data.donor=COLUMN and run again.",
        )
    else:
        change = "Another study could: donors were held out, but the methods were fitted within one study."
        step = "Judge cells of another study: add them under 'transfer' in the configuration, and run again."
    if transfer and donors:
        change = "Other labels could: they come with the data, and favour methods that see the same values."
        step = "Look method by method at the differences, and choose by the measures that your question needs."
    return Opening(question, answer, f"{sure}.", change, step)


def controls(tables: Tables) -> list[Control]:
    """Each control and plain baseline, and on how many measures ours is surely above it.

    Parameters
    ----------
    tables
        Tables of the campaign, as `opening` takes them.
    """
    rivals, found = _rivals(tables), []
    for row in rivals[rivals["group"].isin([CONTROL, BASELINE])].to_dict("records"):
        text = (
            f"beaten on {row['wins']} of {row['of']} measures" if row["wins"] else f"not beaten ({row['of']} measures)"
        )
        lost = f", worse on {row['losses']}" if row["losses"] else ""
        found.append(Control(row["method"], f"{text}{lost}", row["wins"], row["of"]))
    return found
