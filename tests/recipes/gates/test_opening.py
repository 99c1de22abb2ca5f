"""The first sentences of a gate run's report and its controls, from tables made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from openings import told

from workbench.evidence.gate_spec import GATES
from workbench.operators.controls import IDENTITY
from workbench.recipes.gates.opening import marks, opening

PASSED = dict.fromkeys(GATES[:-1], "pass")


def gates(status, cohort="internal", role="internal", donors=6, n_null=20):
    rows = []
    for gate in GATES:
        known = status.get(gate, "not applicable")
        value = np.nan if known == "not applicable" else 0.78
        rows.append({"cohort": cohort, "role": role, "gate": gate, "status": known, "value": value, "n_donors": donors})
    return pd.DataFrame(rows).assign(sd=0.14, n=20, unit="splits", null_mean=0.27, n_null=n_null, p=0.048)


def beside(status):
    return gates(status).assign(operator=IDENTITY)


def opened(own, plain=None, unmet=(), more=()):
    return told(opening("Does it?", pd.concat([own, *more]), beside(PASSED if plain is None else plain), list(unmet)))


def test_all_pass_but_plain_expression_does_too():
    said = opened(gates(PASSED))
    assert "Yes: 6 of 6 gates that could be judged pass on 1 cohort, but plain expression passes them as well." in said
    assert "Donor holdout 0.78 (20 splits, sd 0.14); relabelled stages 0.27 (p 0.048, 20 draws)." in said
    assert "does not show that the model is the reason" in said and "role external" in said


def test_all_pass_and_plain_expression_does_not():
    fewer = {**PASSED, "branch holdout": "fail"}
    said = opened(gates(PASSED), fewer, more=[gates(PASSED, "other", "external")])
    assert "pass on 2 cohorts." in said and "Another study could" in said and "workbench benchmark" in said
    assert "these cohorts have 2" in opened(gates(PASSED, donors=2), fewer)


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        (["null ruler"], "No: gate null ruler fails; 5 of 6 gates"),
        (["null ruler", "branch holdout", "random holdout"], "and more fail; 3 of 6 gates"),
    ],
)
def test_some_fail(failing, said):
    own = gates({**PASSED, **dict.fromkeys(failing, "fail")})
    assert said in opened(own, unmet=["internal: null ruler (fail)"])
    both = opened(own, unmet=["internal: null ruler (fail)"], more=[gates(PASSED, "other", "external")])
    assert "Do not use this latent as a ruler yet" in both


def test_no_gate_judged_and_no_null():
    assert "No gate could be judged" in opened(gates({}), {})
    assert "no null was drawn" in opened(gates(PASSED, n_null=0))
    said = opened(gates({"trustworthiness": "pass"}, donors=0))
    assert "No holdout of the internal cohort could be judged." in said and "data.donor=COLUMN" in said


def test_marks():
    own, plain = gates(PASSED), beside({**PASSED, "null ruler": "not applicable", "branch holdout": "5 of 20 pass"})
    found = {one.name: one for one in marks(own, plain)}
    assert found[f"{IDENTITY} (plain expression)"].text == "fails 1 of the model's 5 passes"
    assert found["null ruler"].state == "holds" and found["cohorts expected to fail"].state == "open"
    assert marks(own, beside(PASSED))[0].state == "falls" and marks(gates({}), plain)[0].state == "open"
    failed = {one.name: one for one in marks(gates({**PASSED, "null ruler": "fail"}), plain)}
    assert failed["null ruler"].state == "falls"
