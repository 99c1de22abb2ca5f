"""From gates to a table, and what did not pass though it was required."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.engine.tables import read_table, write_table
from workbench.evidence.gate_spec import BRANCH, GATES, NULL_RULER, PERMUTATION, RANDOM, SPEC, TO_FAIL
from workbench.evidence.gate_table import (
    EXTERNAL,
    INTERNAL,
    beside_holdouts,
    gate_rows,
    margins,
    over_draws,
    unmet,
    with_gate_seven,
)
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


# Values beside nulls, and controls over their draws


def test_a_margin_is_the_value_minus_the_mean_of_its_null_and_of_a_p_there_is_none():
    gates = [
        Gate(RANDOM, "pass", 0.78, ">=", 0.2, null_mean=0.52, n_null=20),
        Gate(BRANCH, "pass", 0.30, ">=", 0.2, null_mean=0.1, n_null=20),
        Gate(PERMUTATION, "pass", 0.0005, "<=", 0.001, null_mean=0.01, n_null=2000),
        Gate(TO_FAIL, "not applicable"),
    ]
    table = gate_rows(gates, "in", INTERNAL, "model")
    assert table["margin"].tolist()[:2] == pytest.approx([0.26, 0.2]) and table["margin"].isna().tolist()[2:] == [
        True,
        True,
    ]
    said = margins(table)
    assert "random holdout 0.78 (null 0.52, itself above the threshold of 0.20; margin 0.26)" in said
    assert said.endswith("branch holdout 0.30 (null 0.10; margin 0.20)") and margins(table.iloc[2:]) == ""


def test_what_holdouts_say_beside_their_values_is_said_where_it_is_known():
    one = Gate(RANDOM, "pass", 0.8, between=0.55, between_p=0.048, donor_low=0.4, donor_high=0.9, n_donors=6)
    other = Gate(BRANCH, "pass", 0.3, between=0.2, weighted=0.4, within=-0.1, within_weighted=0.05)
    said = beside_holdouts(gate_rows([one, other, Gate(PERMUTATION, "pass", 0.0005)], "in", INTERNAL, "model"))
    assert said == (
        "on pairs of different cell types only: random holdout 0.55, branch holdout 0.20; the same, p: random holdout 0.048; "
        "branches weighted by their anchors: 0.40; inside branches: -0.10, weighted by anchors 0.05; 95 % over donors: random holdout 0.40 to 0.90"
    )
    assert beside_holdouts(gate_rows([Gate(RANDOM, "fail", 0.1)], "in", INTERNAL, "model")) == ""


def test_draws_of_a_control_become_one_row_with_mean_spread_and_passes():
    values = np.array([0.1, 0.3, 0.5, np.nan])
    statuses = ["fail", "pass", "pass", "not applicable"]
    drawn = [
        gate_rows([Gate(RANDOM, status, value, n=20)], "in", INTERNAL, "drawn").assign(draw=draw)
        for draw, (status, value) in enumerate(zip(statuses, values, strict=True))
    ]
    fixed = gate_rows([Gate(RANDOM, "pass", 0.7, n=20)], "in", INTERNAL, "fixed").assign(draw=0)
    never = gate_rows([Gate(NULL_RULER, "not applicable", note="why")], "in", INTERNAL, "drawn").assign(draw=0)
    table = over_draws(pd.concat([*drawn, fixed, never], ignore_index=True)).set_index(["operator", "gate"])
    row = table.loc[("drawn", RANDOM)]
    assert row["value"] == pytest.approx(0.3) and row["draws_sd"] == pytest.approx(0.2) and row["n"] == 20
    assert (row["draws_low"], row["draws_high"]) == pytest.approx((0.1, 0.5))
    assert (row["n_draws"], row["passed"], row["status"]) == (3, 2, "2 of 3 pass")
    assert table.loc[("fixed", RANDOM), "status"] == "pass" and np.isnan(table.loc[("fixed", RANDOM), "draws_sd"])
    assert table.loc[("drawn", NULL_RULER), "note"] == "why" and table.loc[("drawn", NULL_RULER), "passed"] == 0


def test_gate_seven_of_a_draw_is_about_the_cohort_that_was_drawn_with_it():
    def drawn(cohort, role, statuses, draw):
        return rows(cohort, role, statuses, "control").assign(draw=draw)

    good = ["pass"] * 5
    table = with_gate_seven(
        pd.concat(
            [
                drawn("in", INTERNAL, good, 0),
                drawn("in", INTERNAL, good, 1),
                drawn("lost", TO_FAIL, ["fail", *good[1:]], 0),
                drawn("lost", TO_FAIL, good, 1),
            ],
            ignore_index=True,
        )
    )
    assert table[table["gate"] == TO_FAIL].set_index("draw")["status"].to_dict() == {0: "pass", 1: "fail"}
