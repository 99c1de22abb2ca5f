"""The simulated worlds behind docs/calibration_depth.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE
from workbench.evidence.gate_spec import GATES
from workbench.evidence.ruler import load_ruler

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("calibration_depth")


def test_library_size_follows_the_ruler_where_it_is_thinned_and_there_alone(script):
    ruler, found = load_ruler("hematopoiesis"), []
    for thinned in (False, True):
        one, _ = script.made(ruler, "none", thinned, 0, script.GATE_STAGES)
        anchors = one.anchors
        found.append(np.corrcoef(ruler.depths[anchors.stage], anchors.technical[LIBRARY_SIZE])[0, 1])
        assert set(anchors.technical) == {LIBRARY_SIZE, DETECTED} and len(anchors) == 3 * script.GATE_STAGES
    assert abs(found[0]) < 0.5 and found[1] < -0.8
    assert not script.bare(one).anchors.technical


def test_without_a_program_what_follows_library_size_is_gone_once_it_is_regressed_out(script, monkeypatch):
    monkeypatch.setattr(script, "STAGES", 8)
    monkeypatch.setattr(script, "REFITS", 1)
    plain, without = (
        np.mean([script.screened("none", True, seed, known)["value"].item() for seed in range(4)])
        for known in (False, True)
    )
    assert plain > 0.12 and abs(without) < 0.12


def test_the_page_holds_the_band(script):
    """Of worlds without a program at most one in ten has p <= 0.05; four of five with one are found."""
    text = (ROOT / "docs" / "calibration_depth.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    share = {
        tuple(row[:3]): [int(n) for n in row[5].split(" of ")] for row in rows if len(row) == 6 and " of " in row[5]
    }
    for (program, thinned), (n, *_) in script.KINDS.items():
        calls, of = share[program, "yes" if thinned else "no", "donor and sequencing"]
        assert of == n and (calls <= 0.10 * n if program == "none" else calls >= 0.8 * n)
    gates = {(row[0], row[1], row[2]): row[4:7] for row in rows if len(row) == 7 and row[2] in GATES}
    # p is a test, and held to its level; a threshold is none, and is passed by less than half as many as without.
    for gate in ("random holdout", "donor holdout", "branch holdout", "blocked permutation"):
        before, passed, called = (int(n.split(" of ")[0]) for n in gates["none", "yes", gate])
        assert called <= 0.1 * script.KINDS["none", True][2] and passed < 0.5 * before
