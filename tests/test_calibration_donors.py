"""The simulated cohorts behind docs/calibration_donors.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

from workbench.evidence.ruler import load_ruler

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("calibration_donors")


def test_cohorts_of_a_world_share_its_stages_and_donors_differ(script):
    ruler = load_ruler("hematopoiesis")
    (one, first), (other, second) = (script.cohort(ruler, 0, draw, 5, 0.5, "D") for draw in (0, 1))
    assert np.array_equal(first.stage, second.stage) and not np.allclose(one, other)
    assert len(first) == 5 * script.STAGES and len(set(first.column("donor"))) == 5
    apart = script.cohort(ruler, 1, 0, 5, 0.5, "D")[1]
    assert not np.array_equal(first.stage, apart.stage)


def test_a_cohort_is_judged_with_an_interval_around_each_value(script):
    ruler = load_ruler("hematopoiesis")
    found = script.judged(ruler, *script.cohort(ruler, 0, 0, 5, 0.0, "D"), 0)
    assert len(found) == 3 and all(-1 <= low < value < high <= 1 for value, low, high in found.values())


def test_the_page_holds_the_band(script):
    rows = [
        line.strip("| ").split(" | ")
        for line in (ROOT / "docs" / "calibration_donors.md").read_text().splitlines()
        if line.startswith("| ") and line.rstrip(" |").endswith("%")
    ]
    held = np.array([float(row[6].rstrip("%| ")) for row in rows])
    assert len(held) == 4 * len(script.DONORS) * len(script.INTERACTIONS)
    assert held.min() >= 85 and held.mean() >= 92, "of 60 cohorts of three worlds 51 at least"
