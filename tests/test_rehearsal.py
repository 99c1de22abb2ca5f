"""The dress rehearsal: its checkpoint and atlas are of the real kind, its figures are those of the commands, and it goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from helpers import load_script

from workbench.cells.datasets import CellMapping, load
from workbench.engine.code import hash_of
from workbench.engine.config import read_config
from workbench.evidence.ruler import load_ruler
from workbench.files import digest, hash_file
from workbench.models import load_model
from workbench.recipes.run.config import RunConfig

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
SCRIPT = EXPERIMENTS / "rehearsal.py"
TINY = 1_500  # genes


@pytest.fixture
def script(monkeypatch):
    """Load one of the rehearsal's files, which find one another in their folder."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return load_script


@pytest.fixture
def world(script):
    return script("rehearsal_world")


def test_the_checkpoint_has_the_layout_of_the_release(world, tmp_path):
    shape = world.Shape(2, 2, 16, TINY, 50)
    folder = world.write_checkpoint(tmp_path / "model", 0, shape)
    model = load_model(folder)
    assert model.report.layout == "Wqkv" and list(model.report.ignored) == ["flag_encoder.weight"]
    ids = json.loads((folder / "vocab.json").read_text())
    assert [ids[name] for name in ("<pad>", "<cls>", "<eoc>")] == [TINY, TINY + 1, TINY + 2] and len(ids) == TINY + 3
    before = (folder / "best_model.pt").stat().st_mtime_ns
    world.write_checkpoint(folder, 0, shape)
    assert (folder / "best_model.pt").stat().st_mtime_ns == before, "what is there stays"
    assert world.write_checkpoint(tmp_path / "again", 0, shape) != folder
    assert load_model(tmp_path / "again").fingerprint() == model.fingerprint()


def test_a_vocabulary_of_the_released_size_has_as_many_suffixed_names(world):
    names = world.gene_symbols(world.N_GENES)
    assert len(set(names)) == len(names) == 60_694 and sum("_ENSG" in name for name in names) == 1_363


@pytest.mark.shared_data("real_scgpt/args.json")
def test_settings_have_the_keys_of_the_release(world, shared_data):
    released = json.loads((shared_data / "real_scgpt" / "args.json").read_text())
    assert list(world.ARGS) == list(released)
    shape = (
        "embsize",
        "nheads",
        "nlayers",
        "d_hid",
        "n_bins",
        "max_seq_len",
        "pad_value",
        "mask_value",
        "fast_transformer",
    )
    assert {name: world.ARGS[name] for name in shape} == {name: released[name] for name in shape}


def test_the_atlas_has_the_schema_of_tabula_sapiens_and_the_same_cells_in_every_size(world, tmp_path):
    paths = [world.write_atlas(tmp_path / f"{n}.h5ad", 3, n, TINY) for n in (300, 40)]
    mapping = CellMapping(
        layer="raw", gene_column="feature_name", cell_type="cell_type", donor="donor_id", tissue="tissue"
    )
    large, small = (load(path, mapping, backed=True) for path in paths)
    assert (large.X[:40] != small.X[:]).nnz == 0 and (large.obs[:40] == small.obs).all(axis=None)
    counts = large.X[:]
    assert counts.data.min() >= 1 and (counts.data % 1 == 0).all()
    shown = load(paths[0], backed=True).X[:]
    total = counts.sum(1)
    assert np.allclose(np.expm1(shown.toarray()), counts.toarray() * (1e4 / np.asarray(total)), rtol=1e-4)
    assert load(paths[0]).var_names.str.startswith("ENSG").all() and large.var_names.is_unique
    placed, unplaced = load_ruler("hematopoiesis").place(large.obs["cell_type"])
    assert unplaced == [world.OTHER] and len(set(placed[placed >= 0])) > 10
    assert 10 < large.obs["donor"].nunique() <= 21 and 15 < large.obs["tissue"].nunique() <= 27
    genes = np.diff(counts.indptr)
    assert np.std(np.log(total)) > 0.3 and genes.min() > 20 and genes.max() < TINY


COMMAND = """
import sys, time
said = lambda text: print(text, file=sys.stderr, flush=True)
said("[run] paper.yaml -> out: starting ...")
time.sleep(0.3)
for name, size in (("large", 150), ("small", 1)):
    said(f"[{name}] ...")
    held = bytearray(size * 2**20)
    if name == "small":
        for n in (0, 2, 4):
            print(f"\\rcapture (~1 KiB): {n * 25}%|  | {n}/4 [00:0{n}<00:00]", end="", file=sys.stderr, flush=True)
            time.sleep(0.3)
        said("")
    del held
    said(f"[{name}] done in 0.1 s")
time.sleep(float(sys.argv[1]))
print("the answer")
"""


def test_stages_are_told_apart_with_their_own_time_and_peak(script, capfd):
    watching = script("rehearsal_watch")
    known = watching.Watched()
    assert watching.watch([sys.executable, "-c", COMMAND, "0.2"], known, lambda: None) == 0
    assert list(known.stages) == ["opening", "large", "small", "report"]
    assert known.done and known.said == "the answer\n" and "[large] ..." in capfd.readouterr().err
    small, large = known.stages["small"], known.stages["large"]
    assert 0.5 < small.passes <= small.seconds and large.passes is None
    assert known.stages["opening"].seconds > 0.2
    if sys.platform == "linux":
        assert large.peak > 140 * 2**20 > 60 * 2**20 > small.peak
    again = watching.Watched.of(json.loads(json.dumps(known.told())))
    assert again == known


def test_what_a_killed_process_cost_is_added_to(script):
    watching = script("rehearsal_watch")
    known, saves = watching.Watched(), []

    def stop():
        saves.append(1)
        if len(saves) == 1:
            # Tests before this one in the same process may have left children of their own.
            next(one for one in psutil.Process().children() if COMMAND in one.cmdline()).kill()

    assert watching.watch([sys.executable, "-c", COMMAND, "60"], known, stop) == -signal.SIGKILL
    assert not known.done
    before = known.stages["large"].seconds, known.stages["report"].seconds
    assert watching.watch([sys.executable, "-c", COMMAND, "0"], known, lambda: None) == 0
    assert known.done and known.starts == 2
    assert known.stages["large"].seconds > before[0] and known.stages["report"].seconds >= before[1] > 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot tell a child")
def test_a_command_ends_when_what_watches_it_is_killed(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {str(EXPERIMENTS)!r}); from rehearsal_watch import Watched, watch; "
        f"watch([sys.executable, '-c', {COMMAND!r}, '60'], Watched(), lambda: None)"
    )
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (children := psutil.Process(running.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        running.kill()
        running.wait()
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_memory_on_a_card_is_what_the_driver_says_of_the_process(script, tmp_path):
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\nprintf '12, 300\\n7, 5\\n12, 24\\n'\n")
    fake.chmod(0o755)
    watching = script("rehearsal_watch")
    assert watching.on_cards(str(fake), 12) == 324 * 2**20 and watching.on_cards(str(fake), 1) is None


def test_a_line_goes_through_both_sizes_and_never_falls(script):
    line = script("rehearsal_table").line
    assert line([(10, 7.0), (20, 9.0)], 110) == pytest.approx(27)
    assert line([(10, 9.0), (20, 7.0)], 1000) == 7
    assert line([(10, 1.0), (20, 4.0)], 5) == 1.5, "no part of it is below zero"


def cost(seconds, processor, peak=2**20, passes=None):
    return {"seconds": seconds, "processor": processor, "peak": peak, "device": None, "passes": passes}


def planted_journal(few):
    """Costs that are known: 2 s a cell in passes and 3 s beside them, 5 s and .01 s a cell in readouts, 10 anchors a cell."""

    def told(stages, **more):
        return {"stages": stages, "done": True, "starts": 1, "said": "", **more}

    passes = {"opening": cost(9, 9), "operators": cost(46, 83, passes=40.0), "untrained": cost(46, 83, passes=40.0)}
    made = {
        "known-answers, 40": told({"opening": cost(30, 40)}),
        "extract, 40": told(passes, disk={"operators": 100, "": 900}),
        "convention, 40": told(passes, disk={"operators": 100, "": 900}),
    }
    for n in (200, 800):
        stages = {"heads": cost(1, n / 100), "readouts": cost(1, 5 + 0.01 * n, 1000 * n), "operators": cost(1, 1)}
        made[f"without a pass, {n}"] = told(stages, disk={"readouts": 7 * n, "": 9 * n}, anchors=n // 4)
        made[f"apply, {n}"] = told({"opening": cost(1, 1 + n / 1000)}, disk={"": n})
    about = {"date": "2026-01-01", "device": "cpu", "cores": 2, "memory": 2**34, "system": "Linux", "load": 1.0}
    return {
        "asked": {"cells": 40, "device": "cpu", "seed": 0, "small": False, "few": list(few)},
        "steps": made,
        "machine": about,
        "ended": True,
    }


def test_what_is_computed_is_what_the_planted_costs_give(script, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    table, few = script("rehearsal_table"), script("rehearsal").FEW
    own, paper = (read_config(EXPERIMENTS / "paper.yaml", RunConfig, sets) for sets in (few, ()))
    rows = table.computed(planted_journal(few), own, paper, 10_000).set_index("stage")
    share = 40 / 46
    assert rows.loc["operators", "seconds"] == pytest.approx(83 * share * 10_000 / 40 + 83 * (1 - share) * 14 / 5)
    assert rows.loc["operators", "disk"] == 280 and rows.loc["known-answers", "seconds"] == 40 * 15
    times = paper.evaluation.folds * 21 / (5 * 3)
    assert rows.loc["readouts", "times"] == pytest.approx(times)
    assert rows.loc["readouts", "seconds"] == pytest.approx(times * (5 + 100)) and rows.loc["readouts", "peak"] == 1e7
    assert rows.loc["heads", "seconds"] == pytest.approx(rows.loc["heads", "times"] * 8 * (616 / 200) ** 2)
    assert rows.loc["apply", "seconds"] == pytest.approx(11) and rows.loc["apply", "disk"] == 10_000
    made = table.page(planted_journal(few), EXPERIMENTS / "paper.yaml")
    assert "**Not measured.**" in made and "nothing of biology" in made and "It has no GPU" in made
    assert "not come to its end" not in made


def test_a_rehearsal_so_far_tells_what_is_known_and_that_it_has_not_ended(script, monkeypatch):
    monkeypatch.chdir(EXPERIMENTS.parent)
    table, journal = script("rehearsal_table"), planted_journal(script("rehearsal").FEW)
    for name in ("convention, 40", "without a pass, 800", "apply, 800"):
        del journal["steps"][name]
    journal["ended"] = journal["steps"]["apply, 200"]["done"] = False
    del journal["steps"]["extract, 40"]["disk"]
    made = table.page(journal, EXPERIMENTS / "paper.yaml")
    assert "not come to its end**: 3 steps are done" in made
    rows = made.split("| stage | how |")[1]
    assert "| operators | pass |" in rows and "readouts" not in rows and "convention" not in rows


def test_every_step_of_the_papers_run_is_a_command_a_user_gives(script, tmp_path):
    every = script("rehearsal").steps(tmp_path, 40, "cpu", 0)
    assert len({step.key for step in every}) == len(every)
    answers = next(step for step in every if step.name == "known-answers")
    assert answers.says == "not the release" and answers.words[-2:] == ("--device", "cpu")
    named = [step.name for step in every]
    assert {"dry-run", "extract", "factors", "convention", "apply", "clean"} <= set(named)


def rehearse(out, *more):
    environment = {**os.environ, "PYTHONPATH": str(EXPERIMENTS.parent)}
    words = [sys.executable, str(SCRIPT), "--cells", "40", "--out", str(out), *more]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_rehearsal_that_was_killed_goes_on(tmp_path):
    running = rehearse(tmp_path / "out", "--small")
    for line in running.stderr:
        if line.startswith("[operators] done"):
            break
    running.kill()
    running.communicate()
    journal = json.loads((tmp_path / "out" / "rehearsal.json").read_text())
    finished = {key: told for key, told in journal["steps"].items() if told["done"]}
    assert "known-answers, 40" in finished and "extract, 40" not in finished
    time.sleep(1)
    running = rehearse(tmp_path / "out", "--small", "--docs", str(tmp_path / "page.md"))
    said = running.communicate()
    assert running.returncode == 0, said[1][-3000:]
    assert "min left" in said[1]
    page = (tmp_path / "page.md").read_text()
    assert (
        "Restarts after kills: 1" in page
        and "| known-answers |" in page
        and "| convention paper: operators | pass |" in page
    )
    after = json.loads((tmp_path / "out" / "rehearsal.json").read_text())["steps"]
    assert all(after[key] == told for key, told in finished.items()) and all(told["done"] for told in after.values())
    other = rehearse(tmp_path / "out")
    assert "choose another --out" in other.communicate()[1] and other.returncode == 2


@pytest.mark.slow
def test_forty_cells_at_the_released_size(tmp_path):
    # Half an hour, most of it passes, gates and readouts of 96 heads: stopped, it goes on where it was, with the same code.
    made_by = hash_of(("workbench.cli",)) + "".join(
        hash_file(path) for path in sorted(EXPERIMENTS.glob("rehearsal*.py"))
    )
    kept = EXPERIMENTS.parent / "artifacts" / "test" / f"rehearsal-{digest(made_by)[:12]}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    running = rehearse(kept, "--docs", str(tmp_path / "page.md"))
    said = running.communicate()
    assert running.returncode == 0, said[1][-3000:]
    journal = json.loads((kept / "rehearsal.json").read_text())
    assert "not the release" in journal["steps"]["known-answers, 40"]["said"]
    operators = journal["steps"]["extract, 40"]["stages"]["operators"]
    assert operators["passes"] > 10 and operators["peak"] > 2.6 * 2**30
    rows = pd.read_csv(kept / "run" / "tables" / "heads.csv")
    assert len(rows) == 96
    shutil.rmtree(kept)
