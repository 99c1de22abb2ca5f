"""The simulated campaigns behind docs/calibration.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("calibration")


def test_splits_hold_out_what_the_design_says(script):
    for design in script.DESIGNS:
        held = script.splits_of(design, np.random.default_rng(0))
        assert held.shape == (abs(design.splits), design.units) and (held.sum(1) == design.held).all()
        assert len(np.unique(held, axis=0)) == len(held), "no two are the same"
        if design.splits < 0 or design.held == 1:
            assert (held.sum(0) == 1).all()


def test_a_campaign_is_judged_by_every_test_and_the_better_representation_is_above(script):
    rng = np.random.default_rng(1)
    rows = [script.campaign(script.DESIGNS[2], 0.0, True, rng) for _ in range(20)]
    assert all(0 < row[test] <= 1 for row in rows for test in script.TESTS)
    assert np.mean([row["difference"] for row in rows]) > 0.01
    assert all(row["corrected_detectable"] > 0 and row["spread"] > 0 for row in rows)


def test_the_page_has_a_line_for_every_test_design_and_interaction(script):
    text = (ROOT / "docs" / "calibration.md").read_text()
    wanted = len(script.DESIGNS) * len(script.INTERACTIONS)
    assert all(text.count(f"| {name} |") == wanted for name in script.TESTS.values())
    assert all(f"## {design.name}\n" in text for design in script.DESIGNS)


def test_the_page_begins_as_the_script_makes_it_and_its_links_name_every_other_page(script):
    text = (ROOT / "docs" / "calibration.md").read_text()
    head = script.HEAD.format(n=script.CAMPAIGNS, error=1.96 * np.sqrt(0.05 * 0.95 / script.CAMPAIGNS))
    assert text.startswith(head)
    others = {page.name for page in (ROOT / "docs").glob("calibration_*.md")}
    assert all(f"({name})" in head for name in others) and len(others) == 6


def test_the_test_that_marks_go_by_holds_its_band_where_donors_differ_as_real_ones_do(script):
    """3 to 6 % of true nulls, within the chance of 1,000 campaigns; folds that do not overlap may call fewer."""
    text = (ROOT / "docs" / "calibration.md").read_text()
    name, chance = script.TESTS["corrected"], 1.96 * np.sqrt(0.05 * 0.95 / script.CAMPAIGNS)
    for design in script.DESIGNS:
        part = text.split(f"## {design.name}\n")[1].split("\n## ")[0]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines()]
        called = {row[1]: float(row[3].strip("%")) / 100 for row in rows if row[0] == name}
        assert set(called) == set(script.INTERACTIONS)
        overlapping = design.splits * design.held > design.units
        for interaction in ("none", "some") if design.signal else ("none",):
            assert (0.03 if overlapping else 0) - chance <= called[interaction] <= 0.06 + chance
