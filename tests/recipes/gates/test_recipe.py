"""``workbench gates`` from files to report, on a small planted world."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager

import anndata as ad
import pandas as pd
import pytest
import yaml
from damage import assert_undamaged
from fixtures_gates import SMALL
from processes import kill_once
from published import faults

from workbench.cli import main
from workbench.engine.config import read_config
from workbench.engine.recipe import execute
from workbench.engine.sweep import Backend
from workbench.engine.tables import read_table
from workbench.errors import ConfigError, EvaluationError
from workbench.evidence.gate_spec import GATES, NULL_RULER, SPEC
from workbench.files import write_text
from workbench.operators.controls import CODE, IDENTITY
from workbench.planted.folder import write_world
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.gates.context import GatesContext
from workbench.recipes.gates.maps import CONTROLS, DRAWN, MODEL, NEGATIVES, PER_ANCHOR, WHOLE
from workbench.recipes.gates.recipe import RECIPE, gates_text, stages

QUICK = ("adaptor.steps=25", "adaptor.k=4", "refits=1", "head_refits=2", "control_draws=2")


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


def run_gates(config, out, backend=None):
    return execute(RECIPE, config, out, backend)


def unmet(done):
    return done.results["verdict"]["unmet"]


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    return run_gates(settings(config), tmp_path_factory.mktemp("run"))


@pytest.mark.slow
def test_damage_to_any_file_of_finished_gates_is_found(config, done, tmp_path):
    assert_undamaged(done.out, tmp_path / "out", lambda out: bool(unmet(run_gates(settings(config), out))))


def gates(result):
    return read_table(result.out / "tables" / "gates.csv")


# What is found and written


def test_all_seven_gates_pass_on_every_cohort_but_the_doomed_one(done):
    assert unmet(done) == []
    for (cohort, role), own in gates(done).groupby(["cohort", "role"]):
        statuses = own.set_index("gate")["status"].to_dict()
        if role == "expected to fail":
            assert "fail" in statuses.values() and len(statuses) == 5
        else:
            assert list(statuses) == list(GATES) and set(statuses.values()) == {"pass"}, cohort
    assert set(gates(done)["spec"]) == {SPEC.hash}


def test_the_screen_puts_the_planted_head_first_with_controls_beside_it(done):
    heads = read_table(done.out / "tables" / "screen.csv")
    controls = read_table(done.out / "tables" / "screen_controls.csv")
    assert (heads["layer"].iloc[0], heads["head"].iloc[0]) == (0, 1) and len(heads) == 2
    assert controls["operator"].tolist() == list(CONTROLS)
    # A code per label does as well as the truth: labels of both cohorts are all that the screen asks for.
    others = controls[controls["operator"] != CODE]
    assert heads["residualised"].iloc[0] > others["residualised"].max()
    assert heads["low"].iloc[0] < heads["residualised"].iloc[0] < heads["high"].iloc[0]


def test_every_figure_of_the_paper_is_looked_up_where_gates_write_it(done):
    assert faults("gates", done.out) == []


def test_readings_stand_beside_the_gates_and_are_said(done):
    rows, table = read_table(done.out / "tables" / "readings.csv"), gates(done)
    own = rows[(rows["operator"] == MODEL) & (rows["measure"] == "branch holdout") & (rows["role"] == "internal")]
    against = own.loc[own["reading"].str.contains("all others"), "value"].iloc[0]
    assert against == pytest.approx(
        table[(table["role"] == "internal") & (table["gate"] == "branch holdout")]["plain"].iloc[0]
    )
    assert set(rows["operator"]) == set(WHOLE) and set(rows["cohort"]) == set(table["cohort"])
    frozen = rows[rows["measure"] == "adaptor of the internal cohort"]
    assert "internal" not in set(frozen["role"]) and frozen.groupby(["cohort", "operator"]).size().eq(3).all()
    assert "random holdout, as it may be read: 20% held out" in (done.out / "report.html").read_text(encoding="utf-8")


def test_random_controls_are_drawn_and_the_code_per_label_meets_every_gate_once(done):
    draws = read_table(done.out / "tables" / "control_draws.csv")
    controls = read_table(done.out / "tables" / "controls.csv")
    assert list(dict.fromkeys(draws["operator"])) == [*CONTROLS, *NEGATIVES]
    for operator, own in draws.groupby("operator"):
        assert own["draw"].nunique() == (2 if operator in DRAWN else 1)
        asked = own[(own["gate"] == NULL_RULER) & own["value"].notna()]
        assert len(asked) == (3 if operator in WHOLE else 0), "once on each cohort but the doomed one"
        assert own.loc[(own["gate"] == NULL_RULER) & own["value"].isna(), "note"].str.startswith("asked of").all()
    mean = draws.groupby(["cohort", "operator", "gate"])["value"].mean()
    pd.testing.assert_series_equal(controls.set_index(mean.index.names)["value"].sort_index(), mean)
    with_null = controls[controls["null_mean"].notna() & (controls["rule"] == ">=")]
    assert with_null["margin"].to_numpy() == pytest.approx(with_null["value"] - with_null["null_mean"])
    assert {CODE, *WHOLE} - {MODEL} <= set(with_null["operator"])
    code = controls[(controls["operator"] == CODE) & (controls["cohort"] == "external")].set_index("gate")
    assert (code.loc[["random holdout", "donor holdout"], "passed"] == 2).all() and code.loc[NULL_RULER, "n_draws"] == 1
    nothing = controls[(controls["operator"] == PER_ANCHOR) & (controls["gate"] == "blocked permutation")]
    assert (nothing["passed"] == 0).all() and (nothing["n_draws"] == 2).all()


def test_margins_and_what_they_are_beside_is_written_and_said(done):
    table = gates(done)
    known = table[table["null_mean"].notna() & (table["rule"] == ">=")]
    assert len(known) > 10 and known["margin"].to_numpy() == pytest.approx(known["value"] - known["null_mean"])
    report = (done.out / "report.html").read_text(encoding="utf-8")
    above = (known["null_mean"] > known["threshold"]).any()
    assert above == ("itself above the threshold of 0.20" in report)
    for said in (
        "value beside the mean of its null: trustworthiness",
        "on pairs of different cell types only: random holdout",
    ):
        assert said in report
    assert (
        "inside branches" in report and f"Draws that pass on &#x27;internal&#x27;, of {CODE}: trustworthiness" in report
    )
    assert "interval over donors" in report and "3 donors are judged; at least 5 are needed" in report


def test_everything_a_reader_needs_is_written_and_says_planted(done):
    report = (done.out / "report.html").read_text(encoding="utf-8")
    metrics = json.loads((done.out / "metrics.json").read_text())
    made_from = json.loads((done.out / "manifest.json").read_text())
    stages = metrics["stages"]
    assert stages["gates"]["spec"] == SPEC.hash and stages["verdict"]["unmet"] == [] and len(metrics["gates"]) == 26
    assert "planted-checkpoint-3" in report and "planted world, seed 3 (graph)" in report
    assert "planted, not real" in report and SPEC.hash in report and "All required gates pass" in report
    assert made_from["config"]["seed"] == 3
    names = {"gates", "screen", "dimension", "trust", "elbow", "distances", "trajectories"}
    assert names <= {path.stem for path in (done.out / "figures").iterdir()}


@pytest.mark.slow
def test_the_effective_configuration_gives_the_same_run(done, tmp_path):
    again = run_gates(read_config(done.out / "resolved.yaml", GatesConfig), tmp_path / "again")
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
    assert stages["cohorts"]["kept"] and stages["operators"]["kept"] and not stages["gates"]["kept"]
    assert not gates(other)["value"].equals(gates(done)["value"])


@pytest.mark.slow
def test_workers_change_nothing(config, done, tmp_path):
    again = run_gates(settings(config), tmp_path / "run", Backend("threading", 2))
    pd.testing.assert_frame_equal(gates(again), gates(done))
    for name in ("screen", "screen_controls"):
        one, other = (read_table(r.out / "tables" / f"{name}.csv") for r in (again, done))
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
    sweep = tmp_path / "killed" / "stages" / "gates" / "sweep"
    kill_once(lambda: sweep.is_dir() and sum(path.is_file() for path in sweep.rglob("*")) > 3, command)
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


def absolute_paths(config):
    """What a configuration says, so that it holds from anywhere."""
    raw = yaml.safe_load(config.read_text())
    raw["checkpoint"] = str(config.parent / raw["checkpoint"])
    for cohort in raw["cohorts"].values():
        cohort["data"]["name"] = str(config.parent / cohort["data"]["name"])
    return raw


@contextmanager
def of_few_controls():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.recipes.gates.gates.CONTROLS", (IDENTITY, CODE))
        patch.setattr("workbench.recipes.gates.screen.CONTROLS", (IDENTITY, CODE))
        patch.setattr("workbench.recipes.gates.gates.NEGATIVES", (PER_ANCHOR,))
        yield


@pytest.fixture
def few_controls():
    """Of the controls, plain expression and the code per label: for runs that are about something else."""
    with of_few_controls():
        yield


@pytest.fixture
def alone(config, tmp_path):
    """The same with its internal cohort only."""
    raw = absolute_paths(config)
    raw["cohorts"] = {"internal": raw["cohorts"]["internal"]}
    return write_text(tmp_path / "alone.yaml", yaml.safe_dump(raw))


def test_status_and_json_of_a_run_that_does_not(alone, few_controls, tmp_path, capsys):
    more = ("screen=false", "cohorts.internal.data.donor=null")
    assert main([*arguments(alone, tmp_path / "run", *more), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    status = {(row["cohort"], row["gate"]): row["status"] for row in rows}
    assert status["internal", "donor holdout"] == "not applicable"
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "internal: donor holdout (not applicable)" in report
    passed = [row["gate"] for row in rows if row["status"] == "pass"]
    assert {row["gate"] for row in rows if row["status"] != "pass"} == {"donor holdout", "expected to fail"}
    required = f"required=[{', '.join(map(repr, passed))}]"
    assert main(arguments(alone, tmp_path / "run", *more, required)) == 0
    assert "Not applicable:" in capsys.readouterr().out


def test_without_a_doomed_cohort_gate_seven_is_not_applicable(alone, few_controls, tmp_path):
    result = run_gates(settings(alone), tmp_path / "run")
    assert unmet(result) == ["internal: expected to fail (not applicable)"]
    report = (result.out / "report.html").read_text(encoding="utf-8")
    assert "no cohort is external" in report and "no cohort is expected to fail" in report
    assert not (result.out / "tables" / "screen.csv").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("required=[trustwothiness]", "did you mean 'trustworthiness'"),
        ("cohorts.external.data.name={folder}/internal.h5ad", "'internal' and 'external' share"),
        ("cohorts.external.role=internal", "2 cohorts are internal"),
        ("ruler=hematopoesis", "did you mean 'hematopoiesis'"),
        ("trajectories=[B, monocytes]", "Unknown branch 'monocytes': did you mean 'monocyte'"),
        ("cohorts.external.rule=external", "Unknown key 'cohorts.external.rule': did you mean"),
        ("anchors.min_cells=5000", "Cohort 'internal': 0 anchors of 0 stages remain"),
        ("cohorts.internal.select.donor=[D1, D9]", "Cohort 'internal' selects"),
    ],
)
def test_what_is_wrong_is_one_line(config, folder, tmp_path, capsys, more, said):
    assert main(arguments(config, tmp_path / "run", more.format(folder=folder))) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[")]
    assert len(lines) == 1 and said in lines[0]


@pytest.mark.slow
def test_attention_operators_come_from_the_internal_cells(config, tmp_path):
    result = run_gates(settings(config, "operator=attention", "screen=false"), tmp_path / "run")
    assert set(gates(result)["cohort"]) == {"internal", "external", "zero_shot", "off_graph"}
    found = gates(result).set_index(["cohort", "gate"])["status"]
    assert found["external", "branch holdout"] == "pass" and found["off_graph", "branch holdout"] == "fail"


def test_paths_of_cohorts_are_relative_to_the_file(config, folder):
    read = settings(config)
    assert read.cohorts["external"].data.name == str(folder / "external.h5ad")
    with pytest.raises(ConfigError, match="role"):
        settings(config, "cohorts.external.role=outer")


def test_nothing_of_the_users_is_changed(config, folder, done):
    """The run came before; a second world in the same place is written from the same seed."""
    before = {path.name: path.read_bytes() for path in folder.glob("*.h5ad")}
    with pytest.raises(EvaluationError):
        run_gates(settings(config, "required=[nothing]"), done.out)
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.h5ad")}


def test_the_screen_is_made_again_when_another_cohort_is_the_first_external_one(config, tmp_path):
    raw = absolute_paths(config)
    external = raw["cohorts"]["external"]
    halves = {name: {**external, "select": {"donor": donors}} for name, donors in (("x", ["D4"]), ("y", ["D5", "D6"]))}
    screened, made = [], []
    for order in (("x", "y"), ("y", "x"), ("y", "x")):
        raw["cohorts"] = {"internal": raw["cohorts"]["internal"], **{name: halves[name] for name in order}}
        path = write_text(tmp_path / "gates.yaml", yaml.safe_dump(raw, sort_keys=False))
        context = GatesContext(settings(path), tmp_path / "run")
        screened.append(context.external)
        keys = {}
        for stage in stages(context):
            keys[stage.name] = {"key": stage.key(keys)}
        made.append(keys["screen"]["key"])
    assert screened == ["x", "y", "y"] and made[0] != made[1] == made[2]


# Names


@pytest.fixture(scope="module")
def named(config, tmp_path_factory):
    """Cohorts that are called as numbers and missing values are; one has no donors, so that a required gate is not met."""
    raw, place = absolute_paths(config), tmp_path_factory.mktemp("named")
    given = raw["cohorts"]
    del given["external"]["data"]["donor"]
    cohorts = {"1e5": given["internal"], "NA": given["external"], "None": given["off_graph"]}
    path = write_text(place / "gates.yaml", yaml.safe_dump({**raw, "cohorts": cohorts}, sort_keys=False))
    with of_few_controls():
        return path, place / "run", main(arguments(path, place / "run"))


def test_a_cohort_called_na_counts_as_any_other(named, few_controls, capsys):
    path, out, status = named
    assert status == 1, "donor holdout is required and cannot be computed"
    for name in ("gates", "controls", "cohorts"):
        table = read_table(out / "tables" / f"{name}.csv")
        assert set(table["cohort"]) == {"1e5", "NA", "None"}
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Required gates that did not pass: NA: donor holdout (not applicable)" in report
    assert "All required gates pass" not in report and "nan (" not in report
    for said in (
        "Cohort &#x27;NA&#x27;: 5 gates pass, 1 fail, 1 not applicable",
        "Cohort &#x27;None&#x27; (expected to fail)",
    ):
        assert said in report
    assert "1e5 (internal)" in report and "NA (external)" in report and "NA: donor holdout" in report
    metrics = json.loads((out / "metrics.json").read_text())
    # Of twelve anchors little is left once sequencing is regressed out of them.
    assert metrics["stages"]["verdict"]["unmet"] == [
        "NA: donor holdout (not applicable)",
        "NA: blocked permutation (fail)",
    ]
    assert {row["cohort"] for row in metrics["gates"]} == {"1e5", "NA", "None"}
    for figure in ("gates", "cohorts"):
        drawn = (out / "figures" / f"{figure}.json").read_text(encoding="utf-8")
        assert all(name in drawn for name in ("1e5", "NA", "None"))
    capsys.readouterr()
    assert main([*arguments(path, out), "--json"]) == 1
    assert {row["cohort"] for row in json.loads(capsys.readouterr().out)} == {"1e5", "NA", "None"}
    said = gates_text(read_table(out / "tables" / "gates.csv"), metrics["stages"]["verdict"]["unmet"], out)
    assert "Not passed, though required: NA: donor holdout (not applicable); NA: blocked permutation (fail)." in said
    assert "  NA, donor holdout: No holdout can be made: the data name no donors." in said


def test_figures_of_such_cohorts_are_drawn_again_from_their_tables(named, capsys):
    out = named[1]
    before = (out / "figures" / "gates.json").read_bytes()
    (out / "figures" / "gates.json").unlink()
    assert main(["figures", str(out), "--only", "gates"]) == 0
    assert (out / "figures" / "gates.json").read_bytes() == before


def test_a_dry_run_counts_gates_and_heads_and_makes_nothing(config, tmp_path, capsys):
    given = [part for one in QUICK for part in ("--set", one)]
    assert main(["gates", str(config), *given, "--out", str(tmp_path / "out"), "--dry-run", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["dry_run"]["stages"]}
    read, cohorts = settings(config), len(settings(config).cohorts)
    assert found["gates"]["tasks"] == cohorts * len((MODEL, *CONTROLS, *NEGATIVES)) and "screen" in found
    assert found["screen"]["tasks"] == 2 + len(CONTROLS) and found["cohorts"]["cells"] > 0
    # These operators are made of the weights alone.
    assert read.operator != "attention" and found["operators"]["passes"] == 0 and found["operators"]["seconds"] is None
    assert found["operators"]["disk"] > 0 and not (tmp_path / "out").exists()
