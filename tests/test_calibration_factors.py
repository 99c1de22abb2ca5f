"""The simulated worlds behind docs/calibration_factors.md, a few of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("calibration_factors")


def test_labels_mean_nothing_but_where_factors_carry_them(script):
    for kind in script.WORLDS:
        x, factors, label, group = script.necessity_world(kind, np.random.default_rng(0))
        heard = x @ factors.read - (x @ factors.read).mean(0)
        means = np.array([heard[label == c].mean(0) for c in range(script.CLASSES)])
        if kind == script.CARRIERS:
            assert (means[:, : script.CLASSES].argmax(0) == np.arange(script.CLASSES)).all() and np.diag(
                means
            ).min() > 2
        elif kind != script.DONORS:
            assert (np.abs(means) < 5 * heard.std(0) / np.sqrt((label == 0).sum())).all()
        assert set(group) == set(range(script.GROUPS))


def test_each_carrier_is_found_and_no_other_factor(script):
    found = script.necessity(script.CARRIERS, np.random.default_rng(0), draws=39).query("metric == 'mean drop'")
    carriers = found.set_index("factor")["p"].sort_index()
    assert (carriers[: script.CLASSES] == 1 / 40).all() and (carriers[script.CLASSES :] > 1 / 40).all()


def test_random_directions_have_no_hit_and_modules_are_found(script):
    for planted, least in ((False, 0), (True, 10)):
        found = script.programs(0.3, planted, np.random.default_rng(1), draws=2500)
        assert found["ORA"] - found["ORA right"] <= 2 and found["GSEA"] - found["GSEA right"] <= 2
        assert min(found["ORA right"], found["GSEA right"]) >= least and found[script.NAIVE] > 10


def test_the_page_has_every_world_and_holds_the_band(script):
    text = (ROOT / "docs" / "calibration_factors.md").read_text()
    for kind, said in script.WORLDS.items():
        lines = [line.split(" | ") for line in text.splitlines() if line.startswith(f"| {said} |")]
        share = float(lines[0][3].split("%")[0])
        assert 3 <= share <= 7 if kind != script.CARRIERS else share >= 80
    for correlation in script.CORRELATIONS:
        assert sum(line.startswith(f"| {correlation:g} |") for line in text.splitlines()) == 5
