"""The first sentences of a run's report and its controls, from tables made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from openings import told

from workbench.operators.controls import CODE, IDENTITY, PERMUTED
from workbench.recipes.run.context import ANCHOR_CONTROLS
from workbench.recipes.run.opening import above_plain, extract_controls, extract_opening, factors_opening, on

METRICS = ["balanced accuracy", "macro-F1", "AUROC"]


def tables(ours=0.76, plain=0.83, kinds=("random",), readouts=(-0.1, -0.1, -0.1), q=0.5, p=0.02, n_null=40):
    """Holdouts of the operator, of plain expression and of drawn controls; differences of readouts to plain expression."""
    rows = []
    for kind in (*kinds, "donor" if "donor" not in kinds else "branch"):
        there = {"status": "ok" if kind in kinds else "not applicable: no donors", "n_splits": 8.0, "sd": 0.09}
        for name, value in (("drift", ours), (IDENTITY, plain), (CODE, 0.5)):
            drawn = {"p_draws": 0.04 if name == CODE else np.nan}
            null = {"p": p if n_null else np.nan, "n_null": n_null}
            rows.append({"operator": name, "holdout": kind, "spearman": value, **there, **drawn, **null})
    added = [
        {"endpoint": "stage", "metric": m, "control": on(c), "difference": d, "q": q, "detectable": 0.08}
        for m, d in zip(METRICS, readouts, strict=False)
        for c in (IDENTITY, PERMUTED)
    ]
    read = [
        {"endpoint": "stage", "metric": m, "representation": on(name), "value": value, "status": "ok"}
        for m, d in zip(METRICS, readouts, strict=False)
        for name, value in (("drift", 0.6 + d), (IDENTITY, 0.6))
    ]
    columns = ["endpoint", "metric", "representation", "value", "status"]
    return {
        "holdouts": pd.DataFrame(rows),
        "added": pd.DataFrame(added, columns=["endpoint", "metric", "control", "difference", "q", "detectable"]),
        "readouts": pd.DataFrame(read, columns=columns),
        "heads": pd.DataFrame({"n_anchors": [48]}),
    }


def opened(donors=0, **changes):
    return told(extract_opening("drift", "Do they?", 700, donors, tables(**changes)))


def test_nothing_is_added():
    said = opened()
    assert (
        "Operator 0.76 against 0.83 for plain expression on held-out anchors (rank correlation, 8 splits, sd 0.09)"
        in said
    )
    assert "the model's heads add nothing here." in said
    assert "700 cells in 48 anchors; relabelled stages rarely do as well (p 0.02, 40 draws)" in said
    assert "must differ by about 0.08" in said and "--set data.donor=COLUMN" in said


def test_the_p_is_said_of_what_it_is_of():
    found = tables()
    found["holdouts"]["without_sequencing"] = 0.69
    said = told(extract_opening("drift", "Do they?", 700, 0, found))
    assert (
        "relabelled stages rarely do as well as 0.69, which is without what follows sequencing (p 0.02, 40 draws)"
        in said
    )


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"readouts": (0.1, 0.1, 0.1), "q": 0.01}, "surely above it on 3 of 3 readouts"),
        ({"readouts": (0.1, -0.1, 0.1), "q": 0.01}, "surely above it on 2 and below it on 1 of 3 readouts"),
        ({"readouts": (-0.1, -0.1, -0.1), "q": 0.01, "ours": 0.9}, "surely below it on 3 of 3 readouts"),
        ({"readouts": (0.1, -0.1, 0.1), "q": 0.5}, "above it on 2 of 4 measures, on none surely"),
        ({"readouts": (0.1, -0.1, 0.1), "q": np.nan}, "above it on 2 of 4 measures, which no test could judge"),
        ({"readouts": (), "ours": 0.9}, "above it on 1 of 1 measures, which no test could judge"),
    ],
)
def test_what_the_heads_add(changes, verdict):
    assert verdict in opened(**changes)


def test_donors_change_what_is_said_and_what_is_to_be_done():
    said = opened(donors=6, kinds=("random", "donor"))
    assert "on held-out donors" in said and "all 6 come from one data set" in said and "workbench ablate" in said
    assert "workbench gates" in opened(donors=6, kinds=("donor",), readouts=(0.1,), q=0.01)
    assert "often do as well (p 0.4" in opened(donors=6, kinds=("donor",), p=0.4)
    assert "no null was drawn" in opened(n_null=0)


def test_what_was_tried_on_other_studies_is_said_the_worst_first():
    assert "The algorithm was tried on no other study" in opened()
    rows = pd.DataFrame(
        [
            ("A", "algorithm", 0.8),
            ("A", "logistic regression", 0.7),
            ("B", "algorithm", 0.5),
            ("B", "logistic regression", 0.6),
        ],
        columns=["study", "method", "accuracy"],
    )
    said = told(extract_opening("drift", "Do they?", 700, 0, {**tables(), "transfers": rows}))
    assert "Of the transfers (2) the algorithm did worst on B: 0.50 right, logistic regression 0.60." in said


def test_without_holdouts_the_readouts_are_the_answer():
    said = opened(kinds=())
    assert "Of 3 measures the operator is above plain expression on 0, and no holdout could be judged" in said
    assert "relabelled" not in said


def test_nothing_judged():
    said = opened(kinds=(), readouts=())
    assert "Nothing could be judged on these cells" in said and "anchors.min_cells" in said
    assert above_plain("drift", tables(kinds=(), readouts=())) == (0, 0)
    assert {one.state for one in extract_controls("drift", tables(kinds=(), readouts=()))} == {"open"}


def test_controls_are_judged_by_readouts_or_else_by_draws():
    found = {one.name: one for one in extract_controls("drift", tables(readouts=(0.1, -0.1, 0.1), q=0.01))}
    assert len(found) == len(ANCHOR_CONTROLS)
    assert found[f"{IDENTITY} (plain expression)"].text == "beaten on 2 of 3 readouts"
    assert (found[PERMUTED].state, found[CODE].text) == ("holds", "beaten on 1 of 1 holdouts")
    lost = {one.name: one for one in extract_controls("drift", tables(readouts=()))}
    assert lost[f"{IDENTITY} (plain expression)"].state == "falls" and lost[PERMUTED].state == "open"
    won = {one.name: one for one in extract_controls("drift", tables(readouts=(), ours=0.9))}
    assert (won[f"{IDENTITY} (plain expression)"].state, won[f"{IDENTITY} (plain expression)"].text) == (
        "open",
        "above on 1 of 1 holdouts, untested",
    )


@pytest.mark.parametrize(("status", "state"), [("pass", "holds"), ("fail", "falls"), ("not applicable", "open")])
def test_the_null_ruler_is_a_control_where_gates_were_judged(status, state):
    gates = pd.DataFrame({"gate": ["null ruler"], "status": [status]})
    last = extract_controls("drift", {**tables(), "gates": gates})[-1]
    assert (last.name, last.state) == ("null ruler", state)


def factors(q):
    return pd.DataFrame({"factor": range(len(q)), "how": "mean", "q": q})


def compaction(lost):
    return pd.DataFrame(
        {"variant": ["reference", "rank 8", "rank 64"], "value": [0.7, 0.6, 0.7], "bytes": [9e6, 1024.0, 2048.0]}
        | {"lost": lost, "detectable": [np.nan, 0.05, 0.05]}
    )


def test_what_taking_a_head_apart_found():
    done = {"head": "L0H2", "n_splits": 20, "null_draws": 400}
    said = told(factors_opening("What?", {"factors": factors([0.01, 0.01, 0.9])}, {}, done))
    assert "2 of 3 factors of head L0H2 are surely needed" in said and "below 0.0025" in said
    assert "None of 2 factors of head L0H2 is surely needed" in told(
        factors_opening("What?", {"factors": factors([0.5, 0.9])}, {}, done)
    )


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ([False, True, False], "The smallest form without a sure loss is rank 64 (2 KiB)."),
        ([False, False, False], "The smallest form without a sure loss is rank 8 (1 KiB)."),
        ([False, True, True], "Every smaller form surely loses on some readout."),
    ],
)
def test_what_smaller_forms_lose(lost, said):
    found = told(factors_opening("What?", {"compaction": compaction(lost)}, {"n_splits": 20}, {}))
    assert said in found and "a loss under about 0.05 would be missed" in found
    both = {"compaction": compaction(lost), "factors": factors([0.01])}
    told(factors_opening("What?", both, {"n_splits": 20}, {"head": "L0H2", "n_splits": 20, "null_draws": 400}))


def test_no_smaller_form_judged():
    table = compaction([False] * 3).assign(value=np.nan)
    assert "No smaller form could be judged." in told(
        factors_opening("W?", {"compaction": table}, {"n_splits": 20}, {})
    )
