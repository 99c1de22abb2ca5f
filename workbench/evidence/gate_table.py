"""Gates as a table: a row per cohort and gate, gate 7 under every cohort, and what did not pass though it was required."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from workbench.evidence.gate_spec import GATES, SPEC, TO_FAIL
from workbench.evidence.gates import Gate, expected_to_fail

# What a cohort is for; the fourth role is called as the gate that it answers.
INTERNAL, EXTERNAL, ZERO_SHOT = "internal", "external", "zero shot"
NOT_APPLICABLE = "status == 'not applicable'"
_FIELDS = tuple(Gate.__dataclass_fields__)


def gate_rows(gates: Sequence[Gate], cohort: str, role: str, operator: str) -> pd.DataFrame:
    """Gates as rows, each with the hash of the spec.

    Parameters
    ----------
    gates
        Gates of one cohort under one feature map, in the order of the rows.
    cohort
        Name of the cohort; any text, ``NA`` and ``1e5`` as well.
    role
        What the cohort is for: internal, external, zero shot or expected to fail.
    operator
        Name of the feature map.

    Returns
    -------
    DataFrame
        ``cohort``, ``role``, ``operator``, the fields of `Gate`, ``spec``.
    """
    rows = [{"cohort": cohort, "role": role, "operator": operator, **asdict(gate), "spec": SPEC.hash} for gate in gates]
    return pd.DataFrame(rows)


def with_gate_seven(rows: pd.DataFrame) -> pd.DataFrame:
    """Put the answer of the cohorts that are expected to fail under every other cohort.

    Parameters
    ----------
    rows
        Rows of `gate_rows`, of all cohorts and feature maps.

    Returns
    -------
    DataFrame
        Cohorts in their order, gates in theirs.
    """
    parts = []
    for _, own in rows.groupby(["cohort", "operator"], sort=False):
        parts.append(own)
        cohort, role, operator = (str(own[column].iloc[0]) for column in ("cohort", "role", "operator"))
        if role != TO_FAIL:
            doomed = rows[(rows["role"] == TO_FAIL) & (rows["operator"] == operator)]
            failing = {str(name): _gates(part) for name, part in doomed.groupby("cohort", sort=False)}
            parts.append(gate_rows([expected_to_fail(failing)], cohort, role, operator))
    return pd.concat(parts, ignore_index=True)


def unmet(table: pd.DataFrame, required: Sequence[str]) -> list[str]:
    """Required gates that did not pass, cohort by cohort; one that is not applicable has not passed.

    Parameters
    ----------
    table
        Gates of all cohorts, of one feature map; cohorts that are expected to fail are not asked.
    required
        Names of the gates that have to pass.

    Returns
    -------
    list of str
        ``cohort: gate (status)``, by the names of the cohorts and the order of the gates.
    """
    wanted = table[(table["role"] != TO_FAIL) & table["gate"].isin(required) & (table["status"] != "pass")]
    order = {gate: i for i, gate in enumerate(GATES)}
    found = sorted(wanted.itertuples(), key=lambda row: (str(row.cohort), order[str(row.gate)]))
    return [f"{row.cohort}: {row.gate} ({row.status})" for row in found]


def passed_by(controls: pd.DataFrame) -> str:
    """How many gates each control passes, for a sentence.

    Parameters
    ----------
    controls
        Rows as `gate_rows` makes them, of one cohort under several operators; with ``draw`` where some were drawn more
        than once, and so pass from the fewest to the most.
    """
    said, controls = [], controls if "draw" in controls else controls.assign(draw=0)
    for operator, own in controls.groupby("operator", sort=False):
        passed = (own["status"] == "pass").groupby(own["draw"]).sum()
        low, high = passed.min(), passed.max()
        drawn = f" ({len(passed)} draws, mean {passed.mean():.1f})" if len(passed) > 1 else ""
        said.append(f"{operator} {low}{f' to {high}' if high > low else ''}{drawn}")
    return ", ".join(said)


def _gates(rows: pd.DataFrame) -> list[Gate]:
    return [Gate(*values) for values in rows[list(_FIELDS)].itertuples(index=False)]
