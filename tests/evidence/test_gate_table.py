"""From gates to a table, and what did not pass though it was required."""

from __future__ import annotations

import pandas as pd
import pytest

from workbench.engine.tables import read_table, write_table
from workbench.evidence.gate_spec import GATES, NULL_RULER, RANDOM, SPEC, TO_FAIL
from workbench.evidence.gate_table import EXTERNAL, INTERNAL, gate_rows, unmet, with_gate_seven
from workbench.evidence.gates import Gate


def rows(cohort, role, statuses, operator="model"):
    gates = [Gate(name, status, 0.5, note="why") for name, status in zip(GATES, statuses, strict=False)]
    return gate_rows(gates, cohort, role, operator)


def test_gate_seven_is_about_the_same_feature_map_and_stands_under_every_other_cohort():
    good, bad = ["pass"] * 6, ["fail", *["pass"] * 4]
    table = with_gate_seven(
        pd.concat(
            [
                rows("in", INTERNAL, good),
                rows("in", INTERNAL, good, "control"),
                rows("out", EXTERNAL, good),
                rows("lost", TO_FAIL, bad),
                rows("lost", TO_FAIL, ["pass"] * 5, "control"),
            ]
        )
    )
    seven = table[table["gate"] == TO_FAIL].set_index(["cohort", "operator"])["status"]
    assert seven.to_dict() == {("in", "model"): "pass", ("in", "control"): "fail", ("out", "model"): "pass"}
    assert (table["spec"] == SPEC.hash).all()
    first = table[(table["cohort"] == "in") & (table["operator"] == "model")]
    assert first["gate"].tolist() == list(GATES)


def test_required_gates_that_did_not_pass():
    statuses = ["pass", "fail", "not applicable", "pass", "pass", "pass"]
    table = with_gate_seven(pd.concat([rows("in", INTERNAL, statuses), rows("lost", TO_FAIL, ["fail"] * 5)]))
    assert unmet(table, GATES) == ["in: random holdout (fail)", "in: donor holdout (not applicable)"]
    assert unmet(table, [NULL_RULER]) == [] and unmet(table, [RANDOM]) == ["in: random holdout (fail)"]


@pytest.mark.parametrize("name", ["NA", "nan", "None", "1e5", "null", "01", "a, b", 'say "x"', "  "])
def test_a_cohort_of_any_name_counts_and_survives_its_table(tmp_path, name):
    made = with_gate_seven(
        pd.concat(
            [rows("in", INTERNAL, ["pass"] * 6), rows(name, EXTERNAL, ["pass", "fail"]), rows("no", TO_FAIL, ["fail"])]
        )
    )
    write_table(tmp_path / "gates.csv", made)
    read = read_table(tmp_path / "gates.csv")
    pd.testing.assert_frame_equal(read, made)
    assert unmet(made, GATES) == unmet(read, GATES) == [f"{name}: random holdout (fail)"]
