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
        ``cohort``, ``role``, ``operator``, the fields of `Gate`, ``margin``, ``spec``.
    """
    about = {"cohort": cohort, "role": role, "operator": operator}
    return pd.DataFrame([{**about, **asdict(gate), "margin": gate.margin, "spec": SPEC.hash} for gate in gates])


def with_gate_seven(rows: pd.DataFrame) -> pd.DataFrame:
    """Put the answer of the cohorts that are expected to fail under every other cohort.

    Parameters
    ----------
    rows
        Rows of `gate_rows`, of all cohorts and feature maps; with ``draw`` where some were drawn more than once.

    Returns
    -------
    DataFrame
        Cohorts in their order, gates in theirs.
    """
    parts, rows = [], rows if "draw" in rows else rows.assign(draw=0)
    for _, own in rows.groupby(["cohort", "operator", "draw"], sort=False):
        parts.append(own)
        draw = int(own["draw"].iloc[0])
        cohort, role, operator = (str(own[column].iloc[0]) for column in ("cohort", "role", "operator"))
        if role != TO_FAIL:
            doomed = rows[(rows["role"] == TO_FAIL) & (rows["operator"] == operator) & (rows["draw"] == draw)]
            failing = {str(name): _gates(part) for name, part in doomed.groupby("cohort", sort=False)}
            parts.append(gate_rows([expected_to_fail(failing)], cohort, role, operator).assign(draw=draw))
    return pd.concat(parts, ignore_index=True)


def over_draws(
    rows: pd.DataFrame, by: Sequence[str] = ("cohort", "operator", "gate"), of: str = "value"
) -> pd.DataFrame:
    """Controls with one row each: what was drawn more than once as the mean of its draws.

    Parameters
    ----------
    rows
        A row per control and ``draw``, with its ``status``.
    by
        Columns whose values are one row of the result, in their order.
    of
        Column whose spread over draws is given.

    Returns
    -------
    DataFrame
        Columns of `rows` but ``draw``, numbers as means over the draws that can be computed; ``draws_sd``, ``draws_low`` and
        ``draws_high``; ``n_draws``, and ``passed``, how many of them have the status ``pass``. Where draws do not agree, the
        status is ``k of n pass``. Texts are of the first.
    """
    made = []
    for _, every in rows.groupby(list(by), sort=False):
        known = every[every[of].notna()]
        own = known if len(known) else every
        row, numbers = own.iloc[[0]].drop(columns="draw"), own.drop(columns="draw").select_dtypes("number")
        passed, n = int((own["status"] == "pass").sum()), len(own)
        row = row.assign(**{str(name): numbers[name].mean() for name in numbers})
        row["status"] = own["status"].iloc[0] if own["status"].nunique() == 1 else f"{passed} of {n} pass"
        spread = {"draws_sd": own[of].std(), "draws_low": own[of].min(), "draws_high": own[of].max()}
        made.append(row.assign(**spread, n_draws=n, passed=passed))
    table = pd.concat(made, ignore_index=True)
    whole = [str(name) for name in rows.select_dtypes("integer") if name in table]
    table[whole] = table[whole].round().astype(int)
    return table


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


def margins(gates: pd.DataFrame) -> str:
    """How far values lie over the means of their nulls, and where such a mean passes the gate itself, for a sentence.

    Parameters
    ----------
    gates
        Rows as `gate_rows` makes them, of one cohort under one feature map.

    Returns
    -------
    str
        Empty where no value has a null of its own kind.
    """
    said = []
    for row in gates[gates["margin"].notna()].to_dict("records"):
        high = row["null_mean"] > row["threshold"]
        above = f", itself above the threshold of {row['threshold']:.2f}" if high else ""
        said.append(
            f"{row['gate']} {row['value']:.2f} (null {row['null_mean']:z.2f}{above}; margin {row['margin']:z.2f})"
        )
    return ", ".join(said)


def listing(rows: pd.DataFrame, text: str) -> str:
    """One text per row, for a sentence.

    Parameters
    ----------
    rows
        Rows in the order of the texts.
    text
        What is said of each, with its columns in braces.
    """
    return ", ".join(
        text.format(**{str(name): value for name, value in row.items()}) for row in rows.to_dict("records")
    )


def beside_holdouts(gates: pd.DataFrame) -> str:
    """What holdouts say beside their values, for a sentence.

    Parameters
    ----------
    gates
        Rows as `gate_rows` makes them, of one cohort under one feature map.

    Returns
    -------
    str
        Values over pairs of different types, branches from inside, and intervals over donors, as far as they are there.
    """
    said = {
        "on pairs of different cell types only": ("between", "{gate} {between:.2f}"),
        "the same, p": ("between_p", "{gate} {between_p:.3f}"),
        "branches weighted by their anchors": ("weighted", "{weighted:.2f}"),
        "inside branches": ("within", "{within:.2f}, weighted by anchors {within_weighted:.2f}"),
        "95 % over donors": ("donor_low", "{gate} {donor_low:.2f} to {donor_high:.2f}"),
    }
    found = []
    for what, (column, text) in said.items():
        if known := listing(gates[gates[column].notna()], text):
            found.append(f"{what}: {known}")
    return "; ".join(found)


def _gates(rows: pd.DataFrame) -> list[Gate]:
    return [Gate(*values) for values in rows[list(_FIELDS)].itertuples(index=False)]
