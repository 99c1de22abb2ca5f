"""The simulated sweeps behind docs/calibration_ablation.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("calibration_ablation")


def test_heads_that_matter_are_found_and_others_are_not(script, monkeypatch):
    monkeypatch.setattr(script, "BOOTSTRAP", 100)
    tables = [script.heads(script.REAL, np.random.default_rng(i)) for i in range(3)]
    assert all(len(table) == script.HEADS and table["matters"].sum() == script.MATTER for table in tables)
    assert all(table.loc[table["matters"], "beyond"].all() for table in tables)
    null = [script.heads(script.ALIKE, np.random.default_rng(i))["p"].to_numpy() for i in range(8)]
    # 192 tests, of which one in twenty is 10; heads of a sweep share their pool.
    assert 1 <= (np.concatenate(null) <= 0.05).sum() <= 22


def test_pairs_that_back_each_other_up_are_found(script, monkeypatch):
    monkeypatch.setattr(script, "BOOTSTRAP", 100)
    tables = [script.pairs(script.BACKED, np.random.default_rng(i)) for i in range(3)]
    assert all(len(table) == script.TESTED and not table["random"].any() for table in tables)
    assert sum(table.loc[table["matters"], "p"].le(0.05).sum() for table in tables) == 3 * script.REDUNDANT


def test_the_page_holds_the_band_where_it_says_so_and_names_where_it_does_not(script):
    text = (ROOT / "docs" / "calibration_ablation.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    share = {(row[0], row[1]): [float(cell.rstrip("%")) for cell in row[3:8] if cell] for row in rows if "%" in row[3]}
    for world in (script.ALIKE, script.OF_DONORS, script.CHANCE):
        assert 3 <= share[world, "all"][0] <= 7
    for world in (script.ALIKE, script.SCATTER, script.NOTHING, script.CHANCE, script.GROWS):
        assert 92 <= share[world, "all"][4] <= 98, "intervals over cells hold the truth"
    nothing = share[script.NOTHING, "all"]
    assert nothing[2] < 8 < nothing[1], (
        "q alone calls half of what only scatters, and the interval leaves one in twenty"
    )
    assert share[script.OF_DONORS, "all"][4] >= 92, "and so do intervals over donors"
    assert min(share[script.REAL, "that do"][2], share[script.BACKED, "that do"][2]) >= 80
    assert share[script.GROWS, "all"][0] > 7 and "calls" in text
