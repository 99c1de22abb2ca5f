"""The measured comparisons at toy size: both sides agree, the report is complete, a difference is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import require_upstream

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "performance"
KEYS = {
    "ratio",
    "cpu_ratio",
    "memory_ratio",
    "ours",
    "peer",
    "peer_name",
    "sizes",
    "versions",
    "threads",
    "repetitions",
    "agree",
}
TOKENS = {"cells": 12, "genes": 300, "expressed": 80, "max_tokens": 60, "batch": 5, "path": None, "threads": 1}
MAPS = {"cells": 5, "genes": 40, "expressed": 25, "panel": 40, "width": 16, "max_tokens": 30, "batch": 2, "threads": 1}


@pytest.fixture
def script(monkeypatch):
    """Load a script under a name of its own."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        spec = importlib.util.spec_from_file_location(f"performance_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("common", None)


def measured(module, sizes, toy):
    from common import measure_here

    both = {name: measure_here(side, sizes, toy) for name, side in module.SIDES.items()}
    return {name: figures for name, (figures, _) in both.items()}, {name: result for name, (_, result) in both.items()}


def check_report(report, *more):
    assert KEYS | set(more) <= set(report)
    assert report["agree"] and report["ratio"] > 0 and report["memory_ratio"] > 0
    for side in (report["ours"], report["peer"]):
        assert side["seconds"] > 0 and side["peak_bytes"] > 0
    assert json.loads(json.dumps(report)) == report


def test_tokenise_compares_equal_work(script):
    require_upstream("preprocess")
    tokenise = script("tokenise")
    figures, results = measured(tokenise, TOKENS, tokenise.TOY)
    report = tokenise.report(figures, results, {**TOKENS, "repetitions": 1})
    check_report(report, "binning_only_ratio")
    assert report["sizes"]["data"] == "synthetic" and 0 < report["sizes"]["share_sampled"] < 1
    assert (results["ours"]["lengths"] == results["peer"]["lengths"]).all()
    results["ours"]["bins"][3] += 30
    with pytest.raises(SystemExit, match="a bin that its value does not fall in"):
        tokenise.report(figures, results, {**TOKENS, "repetitions": 1})


def test_tokenise_says_how_to_install_its_peer(script, monkeypatch, capsys):
    tokenise = script("tokenise")
    monkeypatch.delitem(sys.modules, "scgpt", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        tokenise.upstream("preprocess")
    assert stop.value.code == 2
    assert "pip install --no-deps scgpt==0.2.4" in capsys.readouterr().err


@pytest.mark.parametrize("panel", [40, 15], ids=["all genes", "some genes"])
def test_capture_compares_equal_work(script, panel):
    capture = script("capture")
    sizes = {**MAPS, "panel": panel}
    figures, results = measured(capture, sizes, capture.TOY)
    check_report(capture.report(figures, results, {**sizes, "repetitions": 1}), "greatest_difference")
    results["peer"]["mean"][2, 1, 3, 4] += 0.01
    with pytest.raises(SystemExit, match="differ by up to 0.01"):
        capture.report(figures, results, {**sizes, "repetitions": 1})


@pytest.mark.slow
def test_measures_in_fresh_processes(script):
    capture = script("capture")
    from common import measure

    figures, results = measure(str(FOLDER / "capture.py"), [["ours"], ["peer"]], MAPS, capture.TOY, outer=1)
    check_report(capture.report(figures, results, {**MAPS, "repetitions": 1}))


def test_peak_growth_sees_what_is_allocated_and_freed(script):
    from common import PeakGrowth

    with PeakGrowth() as peak:
        block = np.ones(64 * 2**20, dtype=np.uint8)
        del block
    if Path("/proc/self/clear_refs").exists():
        assert 60 * 2**20 < peak.bytes < 96 * 2**20
