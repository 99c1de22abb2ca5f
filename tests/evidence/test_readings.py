"""Readings of holdouts and correlations: the same numbers as where each was already computed, and both sides told apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from workbench.evidence.anchor_set import AnchorSet
from workbench.evidence.gate_spec import SPEC
from workbench.evidence.gates import first_five
from workbench.evidence.holdout import random_splits
from workbench.evidence.readings import (
    AGAINST,
    ALL,
    AMONG,
    LABELS,
    PLAIN,
    frozen_readings,
    holdout_readings,
    reading_rows,
)
from workbench.evidence.screen import score_anchors


@pytest.fixture(scope="module")
def own(internal, planted_matrix):
    return AnchorSet.of_cohort(internal.anchors.centroids @ planted_matrix, internal.anchors)


def test_the_readings_of_the_gates_are_the_gates_and_the_others_stand_beside(own, world, adaptor):
    found = reading_rows(holdout_readings(own, world.ruler, adaptor, refits=1, seed=0), cohort="a").set_index(
        ["measure", "reading"]
    )
    gates = {gate.gate: gate for gate in first_five(own, world.ruler, adaptor, seed=0)}
    for measure, reading in (("random holdout", "30% held out"), ("donor holdout", AMONG), ("branch holdout", AGAINST)):
        assert found.loc[(measure, reading), "value"] == pytest.approx(gates[measure].value)
    assert found.loc[("branch holdout", AMONG), "value"] == pytest.approx(gates["branch holdout"].within)
    other = found.loc[("donor holdout", AGAINST)]
    assert other["value"] != gates["donor holdout"].value and other["n"] == 3 and other["n_null"] == 1
    assert (found["status"] == "ok").all() and set(found["cohort"]) == {"a"}


def test_a_fifth_is_held_out_where_the_paper_says_so():
    sizes = {len(one.test) for one in random_splits(50, SPEC.random_splits, 0, 0.2)}
    assert sizes == {10} and {len(one.test) for one in random_splits(50, 3, 0)} == {15}


def test_without_donors_their_readings_say_so(own, world, adaptor):
    rows = holdout_readings(replace(own, donor=None), world.ruler, adaptor, refits=0, seed=0)
    said = {row["status"] for row in rows if row["measure"] == "donor holdout"}
    assert said == {"not applicable: the data name no donors"}


def test_a_frozen_adaptor_is_read_with_and_without_what_is_regressed_out(
    internal, external, planted_matrix, world, adaptor
):
    a, b = internal.anchors, external.anchors
    both = AnchorSet.frozen((a.centroids @ planted_matrix, a), (b.centroids @ planted_matrix, b))
    rows = {row["reading"]: row for row in frozen_readings(both, b, world.ruler, adaptor, refits=2, seed=0)}
    score, null, _ = score_anchors(both, b, world.ruler, adaptor, refits=2, seed=0)
    assert [rows[one]["value"] for one in (PLAIN, LABELS, ALL)] == [
        score["spearman"],
        score["residualised_labels"],
        score["residualised"],
    ]
    assert rows[ALL]["null_mean"] == pytest.approx(np.mean(null)) and rows[PLAIN]["n"] == len(b)
