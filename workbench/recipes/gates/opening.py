"""The first sentences of a gate run's report and its controls, from its tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from workbench.engine.section import Control, Opening
from workbench.evidence.donor_interval import FEWEST_DONORS
from workbench.evidence.gate_spec import DONOR, NULL_RULER, RANDOM, TO_FAIL
from workbench.evidence.gate_table import INTERNAL
from workbench.figures.style import counted
from workbench.operators.controls import IDENTITY

_OPEN = "not applicable"


def opening(question: str, gates: pd.DataFrame, controls: pd.DataFrame, unmet: Sequence[str]) -> Opening:
    """What a gate run found, in five sentences.

    Parameters
    ----------
    question
        First sentence, which names the operator and the ruler.
    gates, controls
        Gates of every cohort, and those of the controls.
    unmet
        Required gates that did not pass, as `gate_table.unmet` gives them.
    """
    asked = gates[gates["role"] != TO_FAIL]
    passed, failed = ((asked["status"] == status) for status in ("pass", "fail"))
    judged = int(passed.sum() + failed.sum())
    if not judged:
        return Opening(
            question,
            "No gate could be judged on these cells.",
            "The list of what was skipped says what each gate lacked.",
            "More cells of each label could: gates need several anchors of several stages.",
            "Give more cells, or smaller anchors: --set anchors.min_cells=3.",
        )
    own = asked[asked["role"] == INTERNAL].set_index("gate")
    worst = asked.loc[failed, "gate"].value_counts().index
    tally = (
        f"{passed.sum()} of {judged} gates that could be judged pass on {counted(asked['cohort'].nunique(), 'cohort')}"
    )
    named = f"{', '.join(worst[:2])}{' and more' if len(worst) > 2 else ''}"
    lead = f"No: gate {named} {'fail' if len(worst) > 1 else 'fails'}; {tally}" if len(worst) else f"Yes: {tally}"
    plain = _stands_out(own, controls, IDENTITY)
    same = f", {'and' if len(worst) else 'but'} plain expression passes them as well"
    answer = f"{lead}{same if plain.of and not plain.held else ''}."
    donors = int(asked["n_donors"].max()) if asked["n_donors"].notna().any() else 0
    return Opening(question, answer, _sure(own), _change(plain, donors), _step(asked, donors, unmet))


def _sure(own: pd.DataFrame) -> str:
    """The hardest holdout of the internal cohort beside its null."""
    for gate in (DONOR, RANDOM):
        row: Any = own.loc[gate] if gate in own.index else {"value": None}
        if pd.notna(row["value"]):
            spread = f", sd {row['sd']:.2f}" if pd.notna(row["sd"]) else ""
            null = "no null was drawn"
            if row["n_null"] > 0:
                null = f"relabelled stages {row['null_mean']:.2f} (p {row['p']:.2g}, {counted(row['n_null'], 'draw')})"
            return f"{gate[0].upper()}{gate[1:]} {row['value']:.2f} ({row['n']:.0f} {row['unit']}{spread}); {null}."
    return "No holdout of the internal cohort could be judged."


def _change(plain: Control, donors: int) -> str:
    if plain.of and not plain.held:
        return (
            "A task could that plain expression does not do: passing gates does not show that the model is the reason."
        )
    if donors < FEWEST_DONORS:
        return f"More donors could: an interval over donors needs {FEWEST_DONORS}, and these cohorts have {donors or 'none'}."
    return "Another study could: the gates speak of these cohorts alone."


def _step(asked: pd.DataFrame, donors: int, unmet: Sequence[str]) -> str:
    if not donors:
        return "Name the column of donors with --set data.donor=COLUMN and run again."
    if (asked["role"] == INTERNAL).all():
        return "Add a cohort of another study with the role external, and run again."
    if unmet:
        return "Do not use this latent as a ruler yet; ask single heads with workbench ablate."
    return "Export it with workbench extract, and compare with other methods by workbench benchmark."


def _stands_out(own: pd.DataFrame, controls: pd.DataFrame, name: str) -> Control:
    """How many of the gates that the model passes on the internal cohort a control does not pass."""
    rows = controls[(controls["role"] == INTERNAL) & (controls["operator"] == name)].set_index("gate")
    known = own.index[own["status"] == "pass"].intersection(rows.index[rows["status"] != _OPEN])
    held = int((rows.loc[known, "status"] != "pass").sum())
    shown = f"{name} (plain expression)" if name == IDENTITY else name
    text = (
        f"fails {held} of the model's {len(known)} passes" if held else f"passes all {len(known)} that the model passes"
    )
    return Control(shown, text if len(known) else "no gate to compare", held, len(known))


def marks(gates: pd.DataFrame, controls: pd.DataFrame) -> list[Control]:
    """Each control on the internal cohort, then the null ruler and the cohorts that are expected to fail.

    Parameters
    ----------
    gates, controls
        Gates of every cohort, and those of the controls.
    """
    own = gates[gates["role"] == INTERNAL].set_index("gate")
    found = [_stands_out(own, controls, str(name)) for name in controls["operator"].unique()]
    for gate in (NULL_RULER, TO_FAIL):
        status = gates.loc[(gates["gate"] == gate) & (gates["role"] != TO_FAIL), "status"]
        judged = status[status != _OPEN]
        passed = int((judged == "pass").sum())
        name = gate if gate == NULL_RULER else f"cohorts {gate}"
        text = f"passes on {passed} of {counted(len(judged), 'cohort')}" if len(judged) else "not judged"
        found.append(Control(name, text, passed, len(judged)))
    return found
