"""``workbench gates`` from files to report, on a small planted world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import anndata as ad
import pandas as pd
import pytest
import yaml
from fixtures_gates import SMALL

from workbench.cli import main
from workbench.engine.config import read_config
from workbench.engine.sweep import Backend
from workbench.errors import ConfigError, EvaluationError
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.files import write_text
from workbench.planted.folder import write_world
from workbench.recipes.gates import run as run_module
from workbench.recipes.gates.chain import GatesChain
from workbench.recipes.gates.run import run_gates
from workbench.settings import GatesConfig

QUICK = ("adaptor.steps=25", "adaptor.k=4", "refits=1", "head_refits=2")


@pytest.fixture(scope="module", autouse=True)
def quick(few_null_rulers):
    """What is tested here is the run, not the gate."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("planted")
    write_world(place, 3, SMALL, n_layers=1, n_heads=2, d_model=32, layer=0, head=1)
    return place


@pytest.fixture(scope="module")
def config(folder):
    return folder / "gates.yaml"


def settings(config, *more):
    return read_config(config, GatesConfig, [*QUICK, *more])


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    return run_gates(settings(config), tmp_path_factory.mktemp("run"))


def gates(result):
    return pd.read_csv(result.out / "tables" / "gates.csv")


# What is found and written


def test_all_seven_gates_pass_on_every_panel_but_the_doomed_one(done):
    assert done.unmet == ()
    for (panel, role), own in done.gates.groupby(["panel", "role"]):
        statuses = own.set_index("gate")["status"].to_dict()
        if role == "expected to fail":
            assert "fail" in statuses.values() and len(statuses) == 5
        else:
            assert list(statuses) == list(GATES) and set(statuses.values()) == {"pass"}, panel
    assert set(done.gates["spec"]) == {SPEC.hash}


def test_the_screen_puts_the_planted_head_first_with_controls_beside_it(done):
    heads = pd.read_csv(done.out / "tables" / "screen.csv")
    controls = pd.read_csv(done.out / "tables" / "screen_controls.csv")
    assert (heads["layer"].iloc[0], heads["head"].iloc[0]) == (0, 1) and len(heads) == 2
    assert heads["residualised"].iloc[0] > controls["residualised"].max() and len(controls) == 2
    assert heads["low"].iloc[0] < heads["residualised"].iloc[0] < heads["high"].iloc[0]


def test_everything_a_reader_needs_is_written_and_says_planted(done):
    report = (done.out / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((done.out / "metrics.json").read_text())
    made_from = json.loads((done.out / "manifest.json").read_text())
    assert metrics["spec"] == SPEC.hash and metrics["unmet"] == [] and len(metrics["gates"]) == 26
    assert "planted-checkpoint-3" in report and "planted world, seed 3 (graph)" in report
    assert "planted, not real" in report and SPEC.hash in report and "All required gates pass" in report
    assert made_from["config"]["seed"] == 3
    names = {"gates", "screen", "dimension", "trust", "elbow", "distances", "trajectories"}
    assert names <= {path.stem for path in (done.out / "figures").iterdir()}


@pytest.mark.slow
def test_the_effective_configuration_gives_the_same_run(done, tmp_path):
    again = run_gates(read_config(done.out / "config.yaml", GatesConfig), tmp_path / "again")
    pd.testing.assert_frame_equal(gates(again), gates(done))


# Going on


@pytest.mark.slow
def test_finished_work_is_kept_and_changed_settings_are_done_again(config, done, tmp_path):
    out = tmp_path / "run"
    run_gates(settings(config, "screen=false"), out)
    before = {path: path.stat().st_mtime_ns for path in (out / "stages").rglob("*.safetensors")}
    again = run_gates(settings(config, "screen=false"), out)
    assert before == {path: path.stat().st_mtime_ns for path in (out / "stages").rglob("*.safetensors")}
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    assert all(stage["kept"] for stage in stages.values())
    pd.testing.assert_frame_equal(gates(again), gates(done))
    other = run_gates(settings(config, "screen=false", "adaptor.k=3"), out)
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    assert stages["panels"]["kept"] and not stages["gates"]["kept"]
    assert not gates(other)["value"].equals(gates(done)["value"])


@pytest.mark.slow
def test_workers_change_nothing(config, done, tmp_path):
    again = run_gates(settings(config), tmp_path / "run", Backend("threading", 2))
    pd.testing.assert_frame_equal(gates(again), gates(done))
    for name in ("screen", "screen_controls"):
        one, other = (pd.read_csv(r.out / "tables" / f"{name}.csv") for r in (again, done))
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.slow
def test_the_order_of_cells_changes_nothing(folder, config, done, tmp_path):
    for path in folder.glob("*.h5ad"):
        ad.read_h5ad(path)[::-1].copy().write_h5ad(tmp_path / path.name)
    text = config.read_text().replace("./planted-checkpoint", f"{folder}/planted-checkpoint")
    turned = write_text(tmp_path / "gates.yaml", text)
    again = run_gates(settings(turned, "screen=false"), tmp_path / "run")
    one, other = gates(again), gates(done)
    assert one["status"].equals(other["status"])
    pd.testing.assert_series_equal(one["value"], other["value"], atol=2e-3)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(config, tmp_path):
    command = [sys.executable, "-m", "workbench.cli", "gates", str(config), "--out", str(tmp_path / "killed")]
    command += [part for setting in (*QUICK, "adaptor.steps=10") for part in ("--set", setting)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    sweep = tmp_path / "killed" / "stages" / "gates" / "sweep"
    deadline = time.monotonic() + 300
    while not (sweep.is_dir() and sum(path.is_file() for path in sweep.rglob("*")) > 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "report.html").exists()
    for name in ("killed", "whole"):
        command[command.index("--out") + 1] = str(tmp_path / name)
        subprocess.run(command, check=True, capture_output=True)
    one, other = ((tmp_path / name / "tables" / "gates.csv").read_bytes() for name in ("killed", "whole"))
    assert one == other


# The command


def arguments(config, out, *more):
    return ["gates", str(config), "--out", str(out), *(p for s in (*QUICK, *more) for p in ("--set", s))]


def test_status_and_text_of_a_run_that_passes(config, done, capsys):
    assert main(arguments(config, done.out)) == 0
    said = capsys.readouterr().out
    assert "All required gates pass." in said and f"Gates of spec {SPEC.hash}" in said and "null ruler" in said


@pytest.fixture
def alone(config, tmp_path):
    """The same with its internal panel only."""
    raw = yaml.safe_load(config.read_text())
    raw["panels"] = {"internal": raw["panels"]["internal"]}
    raw["panels"]["internal"]["data"]["name"] = str(config.parent / raw["panels"]["internal"]["data"]["name"])
    raw["checkpoint"] = str(config.parent / raw["checkpoint"])
    return write_text(tmp_path / "alone.yaml", yaml.safe_dump(raw))


def test_status_and_json_of_a_run_that_does_not(alone, tmp_path, capsys):
    more = ("screen=false", "panels.internal.data.donor=null")
    assert main([*arguments(alone, tmp_path / "run", *more), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    status = {(row["panel"], row["gate"]): row["status"] for row in rows}
    assert status["internal", "donor holdout"] == "not applicable"
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "internal: donor holdout (not applicable)" in report
    passed = [row["gate"] for row in rows if row["status"] == "pass"]
    assert {row["gate"] for row in rows if row["status"] != "pass"} == {"donor holdout", "expected to fail"}
    required = f"required=[{', '.join(map(repr, passed))}]"
    assert main(arguments(alone, tmp_path / "run", *more, required)) == 0
    assert "Not applicable:" in capsys.readouterr().out


def test_without_a_doomed_panel_gate_seven_is_not_applicable(alone, tmp_path):
    result = run_gates(settings(alone), tmp_path / "run")
    assert result.unmet == ("internal: expected to fail (not applicable)",)
    report = (result.out / "report.html").read_text(encoding="utf-8")
    assert "no panel is external" in report and "no panel is expected to fail" in report
    assert not (result.out / "tables" / "screen.csv").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("required=[trustwothiness]", "did you mean 'trustworthiness'"),
        ("panels.external.data.name={folder}/internal.h5ad", "'internal' and 'external' share"),
        ("panels.external.role=internal", "2 panels are internal"),
        ("ruler=hematopoesis", "did you mean 'hematopoiesis'"),
        ("panels.external.rule=external", "Unknown key 'panels.external.rule': did you mean"),
        ("anchors.min_cells=5000", "Panel 'internal': 0 anchors of 0 stages remain"),
        ("panels.internal.select.donor=[D1, D9]", "Panel 'internal' selects"),
    ],
)
def test_what_is_wrong_is_one_line(config, folder, tmp_path, capsys, more, said):
    assert main(arguments(config, tmp_path / "run", more.format(folder=folder))) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1 and said in lines[0]


@pytest.mark.slow
def test_attention_operators_come_from_the_internal_cells(config, tmp_path):
    result = run_gates(settings(config, "operator=attention", "screen=false"), tmp_path / "run")
    assert set(result.gates["panel"]) == {"internal", "external", "zero_shot", "off_graph"}
    found = result.gates.set_index(["panel", "gate"])["status"]
    assert found["external", "branch holdout"] == "pass" and found["off_graph", "branch holdout"] == "fail"


def test_paths_of_panels_are_relative_to_the_file(config, folder):
    read = settings(config)
    assert read.panels["external"].data.name == str(folder / "external.h5ad")
    with pytest.raises(ConfigError, match="role"):
        settings(config, "panels.external.role=outer")


def test_nothing_of_the_users_is_changed(config, folder, done):
    """The run came before; a second world in the same place is written from the same seed."""
    before = {path.name: path.read_bytes() for path in folder.glob("*.h5ad")}
    with pytest.raises(EvaluationError):
        run_gates(settings(config, "required=[nothing]"), done.out)
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.h5ad")}


def test_the_screen_is_made_again_when_another_panel_is_the_first_external_one(config, tmp_path, monkeypatch):
    raw = yaml.safe_load(config.read_text())
    raw["checkpoint"] = str(config.parent / raw["checkpoint"])
    for panel in raw["panels"].values():
        panel["data"]["name"] = str(config.parent / panel["data"]["name"])
    external = raw["panels"]["external"]
    halves = {name: {**external, "select": {"donor": donors}} for name, donors in (("x", ["D4"]), ("y", ["D5", "D6"]))}
    for stage in ("panels", "operators", "gates", "screen", "geometry"):
        monkeypatch.setattr(GatesChain, f"{stage}_stage", lambda self, folder: {"panel": self.external, "unmet": []})
    seen = []
    monkeypatch.setattr(
        run_module, "report_stage", lambda chain, runner, results: seen.append(results["screen"]["panel"])
    )
    (tmp_path / "run" / "tables").mkdir(parents=True)
    for name in ("panels", "gates", "controls", "screen", "screen_controls"):
        (tmp_path / "run" / "tables" / f"{name}.csv").write_text("gate\n")
    for order in (("x", "y"), ("y", "x"), ("y", "x")):
        raw["panels"] = {"internal": raw["panels"]["internal"], **{name: halves[name] for name in order}}
        run_gates(settings(write_text(tmp_path / "gates.yaml", yaml.safe_dump(raw, sort_keys=False))), tmp_path / "run")
    assert seen == ["x", "y", "y"]
