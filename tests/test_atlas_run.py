"""The run on atlases of two sizes: at a small size it goes through without a pass, and its bounds are those of what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import load_script

from workbench.files import read_json

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return load_script("atlas_run")


def found(cells, processor, beyond):
    return {
        **{"cells": cells, "seconds": processor, "processor": processor, "operators": 2**30, "beyond": beyond},
        "stages": {"heads": (processor, processor, beyond + 2**30)},
    }


def test_bounds_are_of_the_larger_size(script):
    small, large = found(10, 20.0, 2**30), found(100, 210.0, 2 * 2**30)
    text, met = script.report([small, large])
    assert met and "| heads | 20.0 | 20.0 | 2000.00 | 2.00 |" in text and "| minutes | 3.50 | 45 |" in text
    assert "| processor time a cell over that of 10 cells | 1.05 | 1.1 |" in text
    for worse in (found(100, 230.0, 2**30), found(100, 200.0, 5 * 2**30), found(2000, 4000.0, 2**30)):
        assert not script.report([small, worse])[1]


@pytest.mark.slow
def test_a_small_atlas_is_run_without_a_pass(script, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(EXPERIMENTS.parent))
    one = script.run(tmp_path, 200, 0, small=True)
    assert one["stages"]["cells"][2] > 0 and one["operators"] == 6 * 150**2 * 4
    stages = read_json(tmp_path / "run-200" / "metrics.json")["stages"]
    assert stages["operators"]["kind"] == "qk" and "n_tokens" not in stages["operators"]
    assert script.run(tmp_path, 200, 0, small=True) == one, "what is done is not done again"
