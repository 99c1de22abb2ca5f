"""The measured comparisons at toy size: both sides agree, the report is complete, a difference is refused."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import require_sae_lens, require_upstream

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
    "bounds",
}
TOKENS = {"cells": 12, "genes": 300, "expressed": 80, "max_tokens": 60, "batch": 5, "path": None, "threads": 1}
MAPS = {"cells": 5, "genes": 40, "expressed": 25, "panel": 40, "width": 16, "max_tokens": 30, "batch": 2, "threads": 1}
HEADS = {"cells": 4, "reference": 6, "genes": 40, "expressed": 25, "width": 16, "max_tokens": 30, "threads": 1}


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
    for name in ("common", "heads"):
        sys.modules.pop(name, None)


def measured(module, sizes, toy):
    from common import measure_here

    both = {name: measure_here(side, sizes, toy) for name, side in module.SIDES.items()}
    return {name: figures for name, (figures, _) in both.items()}, {name: result for name, (_, result) in both.items()}


def check_report(report, *more):
    assert KEYS | set(more) <= set(report)
    for name, bound in report["bounds"].items():
        assert name in report and re.fullmatch(r"at (least|most) [0-9.]+", bound)
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


@pytest.mark.parametrize("batch, peer_batch", [pytest.param(1, 1, marks=pytest.mark.slow), (3, 2)])
def test_ablation_compares_equal_work(script, batch, peer_batch):
    ablation = script("ablation")
    sizes = {**HEADS, "batch": batch, "peer_batch": peer_batch}
    figures, results = measured(ablation, sizes, ablation.TOY)
    report = ablation.report(figures, results, {**sizes, "repetitions": 1})
    check_report(report, "more")
    assert results["ours"]["effects"].shape == (12, 8, 4) and (results["peer"]["effects"] > 0).all()
    assert report["sizes"]["max_tokens"] == results["peer"]["lengths"].max()
    results["peer"]["effects"][2, 1, 3] *= 1.5
    with pytest.raises(SystemExit, match="differ by up to"):
        ablation.report(figures, results, {**sizes, "repetitions": 1})
    for side in results.values():
        side["effects"][:] = 0
    with pytest.raises(SystemExit, match="of the largest, 0; nothing was compared"):
        ablation.report(figures, results, {**sizes, "repetitions": 1})


@pytest.mark.slow
def test_attribution_is_held_against_effects_that_agree(script):
    attribution = script("attribution")
    sizes = {**HEADS, "batch": 2, "peer_batch": 3}
    figures, results = measured(attribution, sizes, attribution.TOY)
    report = attribution.report(figures, results, {**sizes, "repetitions": 1})
    check_report(report, "more", "exact")
    assert report["more"]["Spearman of estimate and effect, heads"] > 0.5
    assert report["more"]["the workbench's exact sweep, seconds"] == report["exact"]["seconds"]
    results["exact"]["effects"][11, 7] += np.abs(results["peer"]["effects"]).max()
    with pytest.raises(SystemExit, match="differ by up to"):
        attribution.report(figures, results, {**sizes, "repetitions": 1})


def test_what_sharing_passes_can_give_has_a_limit(script):
    script("ablation")
    from heads import multiplications, shared_layers

    assert shared_layers() == 97 * 12 / (11 + 8 * sum(range(11)))
    # Where attention over long cells is all, nothing but whole layers counts.
    assert multiplications(np.array([10**9]), 64) == pytest.approx(shared_layers(), rel=1e-4)
    assert 2 < multiplications(np.array([300, 200]), 512) < shared_layers()


@pytest.mark.slow
def test_measures_in_fresh_processes(script):
    capture = script("capture")
    from common import measure

    figures, results = measure(
        str(FOLDER / "capture.py"), [[name] for name in capture.SIDES], MAPS, capture.TOY, outer=1
    )
    check_report(capture.report(figures, results, {**MAPS, "repetitions": 1}))


def test_peak_growth_sees_what_is_allocated_and_freed(script):
    from common import PeakGrowth

    with PeakGrowth() as peak:
        block = np.ones(64 * 2**20, dtype=np.uint8)
        del block
    if Path("/proc/self/clear_refs").exists():
        assert 60 * 2**20 < peak.bytes < 96 * 2**20


def test_manifold_compares_equal_work(script):
    pytest.importorskip("skdim")
    manifold = script("manifold")
    sizes = {**manifold.SIZES, "points": 300, "threads": 1}
    figures, results = measured(manifold, sizes, manifold.TOY)
    report = manifold.report(figures, results, {**sizes, "repetitions": 1})
    check_report(report, "more", "greatest_difference")
    assert report["greatest_difference"] < 1e-9 and report["sizes"]["points"] == 300
    results["peer"]["values"][manifold.PARTS.index("TwoNN")] *= 1.001
    with pytest.raises(SystemExit, match="differ in TwoNN by a share of 0.000999"):
        manifold.report(figures, results, {**sizes, "repetitions": 1})


def test_manifold_says_how_to_install_its_peer(script, monkeypatch, capsys):
    manifold = script("manifold")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        manifold.require_peer()
    assert stop.value.code == 2 and "pip install scikit-dimension==0.5.0" in capsys.readouterr().err


def test_geometry_compares_equal_work(script):
    pytest.importorskip("scfoundry")
    geometry = script("geometry")
    sizes = {**geometry.TOY, "layers": 2, "threads": 1}
    figures, results = measured(geometry, sizes, geometry.TOY)
    report = geometry.report(figures, results, {**sizes, "repetitions": 1})
    check_report(report, "more", "greatest_difference")
    assert report["greatest_difference"] < 1e-5 and results["ours"]["values"].shape == (2, len(geometry.FIGURES))
    results["peer"]["values"][1, list(geometry.FIGURES.values()).index("pr")] *= 1.001
    with pytest.raises(SystemExit, match="differ in pr by a share of 0.000999"):
        geometry.report(figures, results, {**sizes, "repetitions": 1})


def test_geometry_runs_by_itself_and_says_how_to_install_its_peer(script, monkeypatch, capsys):
    geometry = script("geometry")
    monkeypatch.setattr(geometry, "script", lambda: None)
    ready = geometry.prepare({**geometry.TOY, "threads": 1})
    values = geometry.finish(ready, geometry.ours(ready))["values"]
    assert values.shape == (1, len(geometry.FIGURES)) and np.isfinite(values).all() and not ready[0].exists()
    with pytest.raises(SystemExit) as stop:
        geometry.require_peer()
    assert stop.value.code == 2 and "pip install --no-deps scfoundry==0.2.1" in capsys.readouterr().err


def test_apply_is_checked_on_both_sides(script):
    apply = script("apply")
    sizes = {**apply.SIZES, **apply.TOY, "threads": 1}
    figures, results = measured(apply, sizes, apply.TOY)
    report = apply.report(figures, results, {**sizes, "repetitions": 1})
    check_report(report, "share_of_limit", "share_of_reading", "memory_growth", "limit")
    results["ours"]["latent"][3, 2] += 1
    with pytest.raises(SystemExit, match="differs from the dense product"):
        apply.report(figures, results, {**sizes, "repetitions": 1})


def test_campaign_compares_the_same_cells_and_splits(script):
    campaign = script("campaign")
    sizes = {**campaign.TOY, "threads": 1}
    figures, results = measured(campaign, sizes, campaign.TOY)
    report = campaign.report(figures, results, {**sizes, "repetitions": 1})
    check_report(report, "ratio_with_export", "export")
    assert report["sizes"]["layers"] == 12 and report["ratio_with_export"] < report["ratio"]
    results["ours"]["chance"] = results["ours"]["chance"][1:]
    with pytest.raises(SystemExit, match="answer for other cells"):
        campaign.report(figures, results, {**sizes, "repetitions": 1})


def test_dictionaries_are_trained_alike_by_both_steps(script):
    require_sae_lens()
    dictionaries = script("dictionaries")
    sizes = {**dictionaries.SIZES, **dictionaries.TOY, "threads": 1}
    figures, results = measured(dictionaries, sizes, dictionaries.TOY)
    for name in figures:
        figures[name]["best_per_process"] = [figures[name]["seconds"]] * 2
    report = dictionaries.report(figures, results, {**sizes, "repetitions": 2})
    check_report(report, "times_passes", "passes", "greatest_difference")
    assert report["sizes"]["steps"] > 2 and report["times_passes"] > 1
    results["ours"]["explained"][1] -= 0.01
    with pytest.raises(SystemExit, match="differ by 0.0"):
        dictionaries.report(figures, results, {**sizes, "repetitions": 2})


def test_startup_compares_whole_processes(script, tiny_checkpoint, monkeypatch):
    startup = script("startup")
    assert startup.PEER == ("-c", "import torch")
    monkeypatch.setattr(startup, "PEER", ("-c", "import json"))  # a process as well, in a tenth of the time
    report = startup.compare(tiny_checkpoint, 1)
    check_report(report, "more")
    assert report["ours"]["runs"] == 1 and report["more"]["workbench --help, ratio"] < report["ratio"]
    with pytest.raises(SystemExit, match="inspect nowhere failed \\(2\\)"):
        startup.start(*startup.command("inspect", "nowhere"))


def test_adaptor_fits_end_at_optima_as_deep(script):
    adaptor = script("adaptor")
    sizes = {**adaptor.SIZES, "anchors": 20, "features": 40, "stages": 5, "k": 3, "fits": 3, "threads": 1}
    figures, results = measured(adaptor, sizes, adaptor.TOY)
    check_report(adaptor.report(figures, results, {**sizes, "repetitions": 1}), "more")
    results["ours"]["gradient"][1] = 1e-4
    with pytest.raises(SystemExit, match="ends at a gradient of 0.0001"):
        adaptor.report(figures, results, {**sizes, "repetitions": 1})


FAKE = """import sys, time
if __name__ == "__main__":
    assert sys.argv[1:] == ["--json"]
    BODY
"""
BODIES = {
    "fast": """print('{"ratio": 18.04, "memory_ratio": 6, "bounds": {"ratio": "at least 10", "memory_ratio": "at most 6"}}')""",
    "plain": """print('{"ratio": 2}')""",
    "short": """print('{"ratio": 1.4, "memory_ratio": 6, "bounds": {"ratio": "at most 1.3"}}')""",
    "broken": "sys.exit('no | peer')",
    "endless": "time.sleep(60)",
    "wordy": "print('done')",
    "odd": """print('{"ratio": 1, "bounds": {"share": "at least 1"}}')""",
}


def benched(tmp_path, script, monkeypatch, *names, limit=60):
    """Status of a bench of fake scripts, and its page."""
    for name in names:
        (tmp_path / f"{name}.py").write_text(FAKE.replace("BODY", BODIES[name]))
    (tmp_path / "common.py").write_text("raise SystemExit(1)")
    bench = script("bench")
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n{bench.BEGIN}\nold\n{bench.END}\nAfter\n")
    given = ["bench.py", "--folder", str(tmp_path), "--page", str(page), "--limit", str(limit)]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as stop:
        bench.main()
    return stop.value.code, page.read_text()


def test_one_table_of_all_scripts_is_written_and_a_bound_that_holds_is_met(tmp_path, script, monkeypatch):
    status, page = benched(tmp_path, script, monkeypatch, "plain", "fast")
    assert status == 0 and page.startswith("# Before\n<!--") and page.endswith("-->\nAfter\n") and "old" not in page
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert table[2:] == [
        "| `fast.py` | 18 | 6 | ratio at least 10: 18; memory ratio at most 6: 6 | yes |",
        "| `plain.py` | 2 |  | none stated | yes |",
    ]
    assert f"Python {sys.version.split()[0]}, torch " in page and "numpy " in page


def test_a_bound_that_is_missed_or_a_script_that_fails_is_a_row_and_a_status(tmp_path, script, monkeypatch):
    status, page = benched(tmp_path, script, monkeypatch, "short", "broken", "wordy", "odd", "fast")
    rows = {line.split("`")[1]: line for line in page.splitlines() if ".py`" in line}
    assert status == 1 and list(rows) == ["broken.py", "fast.py", "odd.py", "short.py", "wordy.py"]
    assert rows["short.py"] == "| `short.py` | 1.4 | 6 | ratio at most 1.3: 1.4 | no |"
    assert rows["broken.py"] == "| `broken.py` |  |  | failed (1): no / peer | no |"
    assert all("what it printed is no comparison" in rows[f"{name}.py"] for name in ("wordy", "odd"))
    assert rows["fast.py"].endswith("| yes |")


def test_a_script_that_does_not_end_is_ended(tmp_path, script, monkeypatch):
    status, page = benched(tmp_path, script, monkeypatch, "endless", limit=0.5)
    assert status == 1 and "| `endless.py` |  |  | not done within 0.5 s | no |" in page


def test_a_page_without_a_place_for_the_table_is_refused_before_any_work(script):
    bench = script("bench")
    with pytest.raises(SystemExit, match="no place for the table"):
        bench.written("# A page", "table")
    assert bench.BEGIN in bench.PAGE.read_text() and bench.END in bench.PAGE.read_text()
    real = [path.stem for path in bench.scripts(FOLDER)]
    assert {"capture", "report", "startup", "tokenise"} <= set(real) and not {"bench", "common", "heads"} & set(real)
