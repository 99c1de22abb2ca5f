"""The first sentences of a run's report and its controls, from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.engine.section import Control, Opening
from workbench.evidence.gate_spec import NULL_RULER
from workbench.evidence.transfers import LOGISTIC, OURS
from workbench.figures.style import counted
from workbench.operators.controls import IDENTITY
from workbench.recipes.run.context import ANCHOR_CONTROLS
from workbench.stats import WITHOUT

_ALPHA = 0.05
# The hardest holdout comes first; branches are few and differ much.
_KINDS = {"donor": "held-out donors", "random": "held-out anchors", "branch": "held-out branches"}
DONOR_STEP = "Name the column of donors with --set data.donor=COLUMN and run again."
NO_DONORS = "Donors could: these cells name none, so both sides of every split share people and technology."
Tables = Mapping[str, pd.DataFrame]


def on(name: str) -> str:
    """Name of the adaptor's latent on a feature map, as the tables of readouts have it.

    Parameters
    ----------
    name
        Feature map, such as ``x itself``.
    """
    return f"latent (LET on {name})"


def above_plain(own: str, tables: Tables) -> tuple[int, int]:
    """On how many holdouts and endpoint metrics the operator is above plain expression, and of how many.

    Parameters
    ----------
    own
        Name of the configured feature map.
    tables
        ``holdouts`` and ``readouts`` of a run.
    """
    held, read = (tables[name].query("status == 'ok'") for name in ("holdouts", "readouts"))
    wide = held.pivot_table(index="holdout", columns="operator", values="spearman")
    more = read.pivot_table(index=["endpoint", "metric"], columns="representation", values="value")
    counted = [(wide, own, IDENTITY), (more, on(own), on(IDENTITY))]
    pairs = [table[[ours, plain]].dropna() for table, ours, plain in counted if {ours, plain} <= set(table)]
    return sum(int((one.iloc[:, 0] > one.iloc[:, 1]).sum()) for one in pairs), sum(map(len, pairs))


def extract_opening(own: str, question: str, n_cells: int, donors: int, tables: Tables) -> Opening:
    """What a run found of its operator, in five sentences.

    Parameters
    ----------
    own
        Name of the configured feature map.
    question
        First sentence, which names the operator and the ruler.
    n_cells
        Number of cells that were placed on the ruler.
    donors
        Number of donors; 0 where the cells name none.
    tables
        ``holdouts``, ``readouts``, ``added`` and ``heads`` of the run; and ``transfers``, where the algorithm was tried on other studies.
    """
    wins, total = above_plain(own, tables)
    held = tables["holdouts"].query("status == 'ok'").set_index(["holdout", "operator"])
    kind = next((kind for kind in _KINDS if (kind, own) in held.index and (kind, IDENTITY) in held.index), "")
    if not total:
        return Opening(
            question,
            "Nothing could be judged on these cells: no holdout and no readout had enough of them.",
            f"{n_cells:,} cells were placed on the ruler; the list of what was skipped says what was missing.",
            "More cells of each label could: holdouts need several anchors of several stages.",
            "Give more cells, or smaller anchors: --set anchors.min_cells=3.",
        )
    added = tables["added"]
    plain = added[added["control"] == on(IDENTITY)]
    verdict = _verdict(plain, wins, total)
    answer = f"Of {total} measures the operator is above plain expression on {wins}, and no holdout could be judged: {verdict}."
    sure = f"{n_cells:,} cells"
    chance = np.nan
    if kind:
        ours: Any = held.loc[(kind, own)]
        plainly: Any = held.loc[(kind, IDENTITY)]
        spread = f", sd {ours['sd']:.2f}" if ours["n_splits"] > 1 else ""
        answer = (
            f"Operator {ours['spearman']:.2f} against {plainly['spearman']:.2f} for plain expression on "
            f"{_KINDS[kind]} (rank correlation, {ours['n_splits']:.0f} splits{spread}): {verdict}."
        )
        chance = ours["p"]
        often = "often" if chance > _ALPHA else "rarely"
        of = ours.get(WITHOUT, np.nan)
        taken = f" as {of:.2f}, which is without what follows sequencing" if np.isfinite(of) else ""
        null = f"relabelled stages {often} do as well{taken} (p {chance:.2g}, {counted(ours['n_null'], 'draw')})"
        sure += f" in {tables['heads']['n_anchors'].iloc[0]:.0f} anchors; {null if ours['n_null'] > 0 else 'no null was drawn'}"
    if len(sizes := plain["detectable"].dropna()):
        sure += f"; a readout must differ by about {sizes.median():.2g} to be noticed"
    change = f"Another study could: whole donors were held out, but all {donors} come from one data set."
    if chance > _ALPHA:
        step = "Give more cells per label, or ask whether the gates see more: workbench config gates > gates.yaml."
    elif ((plain["q"] <= _ALPHA) & (plain["difference"] > 0)).any():
        step = "Ask a second cohort: workbench config gates > gates.yaml, then workbench gates gates.yaml."
    else:
        step = "Ask what single heads do: workbench config ablate > ablate.yaml, then workbench ablate ablate.yaml."
    change = f"{change if donors else NO_DONORS} {_elsewhere(tables.get('transfers'))}"
    return Opening(question, answer, f"{sure}.", change, step if donors else DONOR_STEP)


def _elsewhere(rows: pd.DataFrame | None) -> str:
    """Where else the exported algorithm was tried, and how it did beside logistic regression."""
    if rows is None or rows.empty:
        return "The algorithm was tried on no other study (transfer)."
    ours, plain = (rows[rows["method"] == name].set_index("study")["accuracy"] for name in (OURS, LOGISTIC))
    worst = str((plain - ours).idxmax())
    told = f"{ours[worst]:.2f} right, logistic regression {plain[worst]:.2f}"
    return f"Of the transfers ({len(ours)}) the algorithm did worst on {worst}: {told}."


def _verdict(plain: pd.DataFrame, wins: int, total: int) -> str:
    """What the heads add to plain expression, by the tests of readouts where there are any."""
    better = int(((plain["q"] <= _ALPHA) & (plain["difference"] > 0)).sum())
    worse = int(((plain["q"] <= _ALPHA) & (plain["difference"] < 0)).sum())
    if wins == 0:
        return "the model's heads add nothing here"
    if better and worse:
        return f"the heads are surely above it on {better} and below it on {worse} of {len(plain)} readouts"
    if better or worse:
        return f"the heads are surely {'above' if better else 'below'} it on {better or worse} of {len(plain)} readouts"
    if plain["q"].notna().any():
        return f"above it on {wins} of {total} measures, on none surely"
    return f"above it on {wins} of {total} measures, which no test could judge"


def extract_controls(own: str, tables: Tables) -> list[Control]:
    """Each control, and on how many readouts the operator is surely above it; of one without readouts, on how many holdouts.

    Parameters
    ----------
    own
        Name of the configured feature map.
    tables
        ``holdouts`` and ``added`` of a run, and ``gates`` where they were judged.
    """
    held = tables["holdouts"].query("status == 'ok'")
    value = held.pivot_table(index="holdout", columns="operator", values="spearman")
    added, found = tables["added"].dropna(subset="q"), []
    for name in ANCHOR_CONTROLS:
        tests = added[added["control"] == on(name)]
        if len(tests):
            better = int(((tests["q"] <= _ALPHA) & (tests["difference"] > 0)).sum())
            found.append(_beaten(name, better, len(tests), "readouts"))
            continue
        drawn = held[held["operator"] == name].dropna(subset="p_draws")
        above = int((value[own] > value[name]).sum()) if {own, name} <= set(value) else 0
        if len(drawn):
            found.append(_beaten(name, int((drawn["p_draws"] <= _ALPHA).sum()), len(drawn), "holdouts"))
        elif {own, name} <= set(value):
            # Without a test, being above shows nothing; being below on all is said.
            text = f"above on {above} of {len(value)} holdouts, untested"
            found.append(Control(_named(name), text, 0, 0 if above else len(value)))
        else:
            found.append(Control(_named(name), "not judged", 0, 0))
    if "gates" in tables:
        status = str(tables["gates"].set_index("gate")["status"].get(NULL_RULER, "not applicable"))
        found.append(Control(NULL_RULER, f"gate: {status}", int(status == "pass"), int(status in ("pass", "fail"))))
    return found


def _named(name: str) -> str:
    return f"{name} (plain expression)" if name == IDENTITY else name


def _beaten(name: str, held: int, of: int, what: str) -> Control:
    text = f"beaten on {held} of {of} {what}" if held else f"not beaten ({of} {what})"
    return Control(_named(name), text, held, of)


def factors_opening(
    question: str, tables: Tables, compaction: Mapping[str, Any], factors: Mapping[str, Any]
) -> Opening:
    """What taking a head apart found, in five sentences.

    Parameters
    ----------
    question
        First sentence, which names the operator and the ruler.
    tables
        ``factors`` and ``compaction``, as far as they were made.
    compaction, factors
        What the two stages returned; empty where one was not done.
    """
    answers, sure, step = [], [], "Raise what was drawn where p is near its least: --set factors.null_draws=2000."
    if factors:
        own = tables["factors"].query("how == 'mean'")
        needed = int((own["q"] <= _ALPHA).sum())
        count = f"{needed or 'none'} of {len(own)} factors of head {factors['head']} {'is' if needed < 2 else 'are'}"
        answers.append(f"{count} surely needed by the readouts")
        sure.append(f"{factors['n_splits']} splits; no p of a factor is below {1 / (1 + factors['null_draws']):.2g}")
    if compaction:
        table = tables["compaction"]
        lost = table[table["lost"].astype(str) == "True"].groupby("variant").size()
        known = table[table["value"].notna() & (table["variant"] != "reference")].drop_duplicates("variant")
        whole = known[~known["variant"].isin(lost.index)].sort_values("bytes")
        answers.append(
            f"the smallest form without a sure loss is {whole['variant'].iloc[0]} ({whole['bytes'].iloc[0] / 1024:,.0f} KiB)"
            if len(whole)
            else "every smaller form surely loses on some readout"
            if len(known)
            else "no smaller form could be judged"
        )
        if len(sizes := table.loc[table["detectable"] > 0, "detectable"].dropna()):
            sure.append(f"a loss under about {sizes.median():.2g} would be missed ({compaction['n_splits']} splits)")
    answer = "; ".join(answers) or "nothing was judged"
    return Opening(
        question,
        f"{answer[0].upper()}{answer[1:]}.",
        f"{'; '.join(sure)}." if sure else "",
        "Other cells could: a factor is needed only by the readouts of these.",
        step if factors else "Take a head apart: --set factors={}.",
    )
