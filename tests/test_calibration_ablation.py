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


@pytest.mark.parametrize("world", ["SCATTER", "NOTHING", "BOTH"])
def test_heads_that_only_scatter_more_are_not_called(script, monkeypatch, world):
    monkeypatch.setattr(script, "BOOTSTRAP", 100)
    tables = [script.heads(getattr(script, world), np.random.default_rng(i)) for i in range(6)]
    assert sum((table["p"] <= 0.05).sum() for table in tables) <= 17 and not any(t["beyond"].any() for t in tables)


def test_the_page_holds_the_band_where_it_says_so_and_names_where_it_does_not(script):
    text = (ROOT / "docs" / "calibration_ablation.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    share = {(row[0], row[1]): [float(cell.rstrip("%")) for cell in row[3:8] if cell] for row in rows if "%" in row[3]}
    for world in (*script.HEAD_WORLDS[:5], script.CHANCE, script.LOOSE):
        assert 3 <= share[world, "all"][0] <= 7 and share[world, "all"][3] <= 7
        assert 92 <= share[world, "all"][4] <= 98, "intervals over cells and donors hold the truth"
    for world in (script.REAL, script.HARD, script.BACKED, script.LARGEST):
        assert 3 <= share[world, "others"][0] <= 7
    assert min(share[world, "that do"][2] for world in (script.REAL, script.BACKED, script.LARGEST)) >= 80
    assert 7 < share[script.GROWS, "all"][0] < 9 and "a little too many" in text
    # What is not found is said to be too small to be found.
    said = {row[0]: float(row[8]) for row in rows if row[1] == "that do"}
    assert said[script.HARD] > 1 > said[script.REAL] and share[script.HARD, "that do"][2] < 80
