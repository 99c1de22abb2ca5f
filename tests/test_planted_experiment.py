"""The tables of experiments/planted_world.py, and that the page in the docs is theirs."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import load_script

from workbench.evidence.gate_spec import GATES, SPEC

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("planted_world")


def found(n=4, rank=1):
    values = ("residualised", "best_other", "identity", "dimension", "dimension_low", "dimension_high")
    more = ("overlap", "overlap_extracted", "overlap_of_others")
    row = {
        **dict.fromkeys(values + more, 0.5),
        "truth": 6,
        "planted_rank": rank,
        "planted": "L0H1",
        "gates_passed": 7,
        "gates_total": 7,
        "failed": "",
        "n_heads": 32,
        "n_anchors": 90,
        "n_cells": 900,
    }
    rows = [{**row, "seed": 200 + i, "operator": kind} for i in range(n) for kind in ("attention", "qk", "ov")]
    rows[0] |= {"gates_passed": 6, "failed": "null ruler", "planted_rank": 3, "dimension": 5.4}
    return pd.DataFrame(rows)


def null(n=10):
    statuses = {gate.replace(" ", "_") + "_status": "fail" for gate in GATES}
    values = {gate.replace(" ", "_"): 0.5 for gate in GATES}
    rows = [
        {
            **values,
            **statuses,
            "kind": kind,
            "verdict": "fail",
            "null_ruler": (i + 0.5) / n,
            "blocked_permutation": 0.001,
        }
        for i in range(n)
        for kind in ("shuffled ruler", "rewired ruler", "signal removed")
    ]
    rows[0]["verdict"] = "pass"
    return pd.DataFrame(rows)


def test_the_page_counts_what_it_is_given(script):
    page = script.text(found(), null(), argparse.Namespace(seeds=4, draws=30))
    assert "| planted head first | 3 of 4 | 4 of 4 | 4 of 4 |" in page
    assert "Missed: seed 200, attention: the planted head L0H1 came in at rank 3" in page
    assert "| above identity | 0 of 4 | 0 of 4 | 0 of 4 |" in page
    assert "3 of 4 (failed: null ruler)" in page and "within 1 in 1 of 4" in page
    assert "1 of\n30 pass all seven gates" in page and SPEC.hash in page
    uniform = next(line for line in page.splitlines() if "p of null ruler: KS" in line)
    assert float(uniform.split("|")[2]) > 0.9
    crowded = next(line for line in page.splitlines() if "p of blocked permutation: KS" in line)
    assert float(crowded.split("|")[2]) == 0


def test_what_is_not_uniform_is_said_with_its_direction(script):
    assert "gate 'blocked permutation' under signal removed" in script.uneven(null()), "all of its p are 0.001 here"
    assert "mean p 0.00, too small on average" in script.uneven(null())
    even = null(40)
    even["blocked_permutation"] = even["null_ruler"]
    assert script.uneven(even) == "Of the 3 distributions of p that have to be uniform, all are (KS p above 0.05)."
    large = even.assign(null_ruler=even["null_ruler"] ** 0.2)
    assert script.uneven(large).count("too large on average, so that the gate lets less through") == 2


def test_few_worlds_make_few_rows(script):
    assert np.isnan(float(script.spread(pd.Series([0.5])).split("sd ")[1].rstrip(")")))
    assert script.span(pd.Series([3, 1, 2])) == "1 to 3"


def test_the_page_in_the_docs_is_of_these_gates():
    page = (ROOT / "docs" / "planted_world.md").read_text(encoding="utf-8")
    assert SPEC.hash in page and "Everything on this page is planted" in page
    command = next(line.strip() for line in page.splitlines() if line.startswith("    python "))
    assert command.split()[1] == "experiments/planted_world.py" and (ROOT / command.split()[1]).exists()
