"""Stages: kept while nothing they depend on has changed, run again when it has, and gone on with after an interruption."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workbench.engine import stages
from workbench.engine.stages import StageRunner
from workbench.errors import ArtifactError, OutputError
from workbench.files import read_json


class Interrupted(BaseException):
    """As a KeyboardInterrupt would come."""


class Work:
    """Leaves a file behind for every time it is called, and may break after that."""

    def __init__(self, result=None, breaks=False):
        self.calls, self.found, self.result, self.breaks = 0, [], result or {"n": 1}, breaks

    def __call__(self, folder):
        self.found.append(sorted(p.name for p in folder.iterdir()))
        self.calls += 1
        (folder / f"call-{self.calls}").touch()
        if self.breaks:
            raise Interrupted
        return self.result


def test_an_unchanged_stage_is_kept(tmp_path, capsys):
    work = Work({"n": 3, "list": [1.5, None], "nested": {"a": "b"}})
    first = StageRunner(tmp_path).run("one", {"seed": 1}, work)
    runner = StageRunner(tmp_path)
    again = runner.run("one", {"seed": 1}, work)
    assert work.calls == 1 and first == again == {**work.result, "key": first["key"]}
    assert runner.reused == {"one": True} and runner.seconds["one"] >= 0
    assert "[one] done in" in (said := capsys.readouterr().err) and "[one] unchanged, kept" in said
    done = read_json(tmp_path / "stages" / "one" / "done.json")
    assert done["key"] == first["key"] and done["result"] == work.result and done["peak_bytes"] > 1e6


@pytest.mark.parametrize("inputs", [{"seed": 2}, {"seed": 1, "more": None}, ["key"], None])
def test_a_stage_whose_inputs_changed_is_run_again(tmp_path, inputs):
    work = Work()
    first = StageRunner(tmp_path).run("one", {"seed": 1}, work)
    runner = StageRunner(tmp_path)
    second = runner.run("one", inputs, work)
    assert work.calls == 2 and first["key"] != second["key"] and runner.reused == {"one": False}
    StageRunner(tmp_path).run("one", {"seed": 1}, work)
    assert work.calls == 3, "only the last result lies there"


def test_a_stage_is_run_again_after_the_code_changed(tmp_path, monkeypatch):
    work = Work()
    StageRunner(tmp_path).run("one", 1, work)
    monkeypatch.setattr(stages, "code_version", lambda: "other")
    StageRunner(tmp_path).run("one", 1, work)
    assert work.calls == 2


def test_stages_depend_on_those_before_by_their_keys(tmp_path):
    def go(seed, other):
        runner = StageRunner(tmp_path)
        first = runner.run("first", {"seed": seed}, Work())
        runner.run("second", [first["key"], other], Work())
        return runner.reused

    assert go(0, "a") == {"first": False, "second": False}
    assert go(0, "a") == {"first": True, "second": True}
    assert go(0, "b") == {"first": True, "second": False}
    assert go(1, "b") == {"first": False, "second": False}


def test_two_stages_do_not_share_a_key_or_a_folder(tmp_path):
    runner = StageRunner(tmp_path)
    assert runner.run("one", 1, Work())["key"] != runner.run("two", 1, Work())["key"]
    assert sorted(os.listdir(tmp_path / "stages")) == ["one", "two"]


def test_an_interrupted_stage_is_run_again_in_the_same_folder_and_finds_what_it_left(tmp_path):
    breaks, works = Work(breaks=True), Work()
    with pytest.raises(Interrupted):
        StageRunner(tmp_path).run("one", 1, breaks)
    assert not (tmp_path / "stages" / "one" / "done.json").exists()
    StageRunner(tmp_path).run("one", 1, works)
    assert "call-1" in works.found[0]
    StageRunner(tmp_path).run("one", 1, works)
    assert works.calls == 1


def test_what_an_interruption_left_is_no_good_for_other_inputs(tmp_path):
    with pytest.raises(Interrupted):
        StageRunner(tmp_path).run("one", 1, Work(breaks=True))
    work = Work()
    StageRunner(tmp_path).run("one", 2, work)
    assert "call-1" not in work.found[0]


def test_an_interrupted_rerun_does_not_bring_the_old_result_back(tmp_path):
    StageRunner(tmp_path).run("one", 1, Work())
    with pytest.raises(Interrupted):
        StageRunner(tmp_path).run("one", 2, Work(breaks=True))
    work = Work()
    StageRunner(tmp_path).run("one", 1, work)
    assert work.calls == 1, "its files may have been overwritten"


def test_a_corrupt_result_is_said(tmp_path):
    StageRunner(tmp_path).run("one", 1, Work())
    (tmp_path / "stages" / "one" / "done.json").write_text("{")
    with pytest.raises(ArtifactError, match="done.json' cannot be read as JSON"):
        StageRunner(tmp_path).run("one", 1, Work())


def test_whether_a_result_stands_on_what_is_there(tmp_path):
    runner = StageRunner(tmp_path)
    assert stages.stands_on(tmp_path, "upper", "lower")  # the folder does not say
    lower = runner.run("lower", ["a"], lambda folder: {})
    runner.run("upper", [lower["key"], 1], lambda folder: {})
    assert stages.stands_on(tmp_path, "upper", "lower")
    other = runner.run("lower", ["b"], lambda folder: {})
    assert not stages.stands_on(tmp_path, "upper", "lower")

    def fails(folder):
        raise OSError

    with pytest.raises(OSError):
        runner.run("upper", [other["key"], 1], fails)
    assert not stages.stands_on(tmp_path, "upper", "lower")
    runner.run("upper", [other["key"], 1], lambda folder: {})
    assert stages.stands_on(tmp_path, "upper", "lower")


def test_results_are_the_same_whether_kept_or_fresh(tmp_path):
    import numpy as np

    work = Work({"n": np.int64(3), "nan": np.nan, "pair": (1, 2), "path": tmp_path})
    fresh = StageRunner(tmp_path).run("one", 1, work)
    assert fresh == StageRunner(tmp_path).run("one", 1, work)
    assert fresh["n"] == 3 and fresh["nan"] is None and fresh["pair"] == [1, 2]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="The run folder '.*file.*' cannot be written .*choose another with --out"):
        StageRunner(tmp_path / place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said_at_once(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        StageRunner(tmp_path)
    tmp_path.chmod(0o700)


def test_the_probe_of_the_folder_leaves_nothing_behind(tmp_path):
    StageRunner(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == []


def test_the_code_version_is_a_hash_of_the_sources():
    assert len(stages.code_version()) == 32 and stages.code_version() == stages.code_version()


def test_every_file_that_is_installed_counts_as_source():
    root = Path(stages.__file__).parent
    there = {path.suffix[1:] for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert there <= set(stages._SOURCES)


def test_peak_memory_is_in_bytes():
    assert 1e7 < stages.peak_memory() < 1e12
