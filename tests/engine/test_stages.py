"""Stages: kept while nothing they depend on has changed, done again when it has, and gone on with after an interruption."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest

from workbench.engine import stages
from workbench.engine.record import key_of, stands_on
from workbench.engine.stages import Stage, StageRunner, run_all, wanted
from workbench.engine.tables import read_table, table_path, types_path, write_table
from workbench.files import read_json, write_json, write_text


class Interrupted(BaseException):
    """As a KeyboardInterrupt would come."""


class Work:
    """Leaves a file behind for every time it is called, and may break after that."""

    def __init__(self, result=None, breaks=False):
        self.calls, self.found, self.given, self.result, self.breaks = 0, [], [], result or {"n": 1}, breaks

    def __call__(self, folder, results):
        self.found.append(sorted(p.name for p in folder.iterdir()))
        self.given.append(dict(results))
        self.calls += 1
        (folder / f"call-{self.calls}").touch()
        if self.breaks:
            raise Interrupted
        return self.result


def run(tmp_path, work, inputs=1, name="one", **more):
    runner = StageRunner(tmp_path)
    return runner.run(Stage(name, work, inputs, **more)), runner


# Kept, or done again


def test_an_unchanged_stage_is_kept(tmp_path, capsys):
    work = Work({"n": 3, "list": [1.5, None], "nested": {"a": "b"}})
    first, _ = run(tmp_path, work, {"seed": 1})
    again, runner = run(tmp_path, work, {"seed": 1})
    assert work.calls == 1 and first == again == {**work.result, "key": first["key"]}
    assert runner.reused == {"one": True} and runner.seconds["one"] >= 0 and runner.peak["one"] > 1e6
    assert "[one] done in" in (said := capsys.readouterr().err) and "[one] unchanged, kept" in said
    done = read_json(tmp_path / "stages" / "one" / "done.json")
    assert done["key"] == first["key"] and done["result"] == work.result and done["peak_bytes"] > 1e6


@pytest.mark.parametrize("inputs", [{"seed": 2}, {"seed": 1, "more": None}, ["key"], None])
def test_a_stage_whose_inputs_changed_is_done_again(tmp_path, inputs):
    work = Work()
    first, _ = run(tmp_path, work, {"seed": 1})
    second, runner = run(tmp_path, work, inputs)
    assert work.calls == 2 and first["key"] != second["key"] and runner.reused == {"one": False}
    run(tmp_path, work, {"seed": 1})
    assert work.calls == 3, "only the last result lies there"


def test_the_order_of_inputs_by_name_does_not_matter(tmp_path):
    work = Work()
    run(tmp_path, work, {"a": 1, "b": [1, 2]})
    run(tmp_path, work, {"b": (1, 2), "a": np.int64(1)})
    assert work.calls == 1
    run(tmp_path, work, {"a": 1, "b": [2, 1]})
    assert work.calls == 2


def test_a_stage_is_done_again_after_its_code_changed(tmp_path, monkeypatch):
    work = Work()
    run(tmp_path, work)
    monkeypatch.setattr(stages, "code_of", lambda work: "other")
    run(tmp_path, work)
    assert work.calls == 2


def test_a_declared_version_stands_for_the_code(tmp_path, monkeypatch):
    work = Work()
    run(tmp_path, work, version=3)
    monkeypatch.setattr(stages, "code_of", lambda work: "other")
    run(tmp_path, work, version=3)
    assert work.calls == 1
    run(tmp_path, work, version=4)
    assert work.calls == 2


def test_two_stages_do_not_share_a_key_or_a_folder(tmp_path):
    one, other = run(tmp_path, Work(), name="one")[0], run(tmp_path, Work(), name="two")[0]
    assert one["key"] != other["key"] and sorted(os.listdir(tmp_path / "stages")) == ["one", "two"]


def test_results_are_the_same_whether_kept_or_fresh(tmp_path):
    work = Work({"n": np.int64(3), "nan": np.nan, "pair": (1, 2), "path": tmp_path, "array": np.arange(2)})
    fresh, kept = run(tmp_path, work)[0], run(tmp_path, work)[0]
    assert fresh == kept and work.calls == 1
    assert (fresh["n"], fresh["nan"], fresh["pair"], fresh["array"]) == (3, None, [1, 2], [0, 1])


# What stages read of each other


def two(tmp_path, seed=0, other="a", after=("first",)):
    works, runner = (Work({"found": seed}), Work()), StageRunner(tmp_path)
    run_all(runner, [Stage("first", works[0], {"seed": seed}), Stage("second", works[1], other, after=after)])
    return runner, works


def test_stages_depend_on_those_before_by_their_keys(tmp_path):
    assert two(tmp_path)[0].reused == {"first": False, "second": False}
    assert two(tmp_path)[0].reused == {"first": True, "second": True}
    assert two(tmp_path, other="b")[0].reused == {"first": True, "second": False}
    assert two(tmp_path, seed=1, other="b")[0].reused == {"first": False, "second": False}


def test_a_stage_that_comes_after_none_does_not_depend_on_any(tmp_path):
    two(tmp_path, after=())
    assert two(tmp_path, seed=1, after=())[0].reused == {"first": False, "second": True}


def test_work_is_given_the_results_of_those_before_and_of_no_other(tmp_path):
    works, runner = (Work({"n": 5}), Work({"n": 6}), Work()), StageRunner(tmp_path)
    listed = [Stage("a", works[0]), Stage("b", works[1]), Stage("c", works[2], after=("b",))]
    run_all(runner, listed)
    assert works[2].given == [{"b": runner.results["b"]}] and runner.results["b"]["n"] == 6
    run_all(again := StageRunner(tmp_path), listed)
    assert again.results == runner.results and [work.calls for work in works] == [1, 1, 1]


def test_inputs_can_be_made_of_results(tmp_path):
    def go(n):
        works, runner = (Work({"n": n, "noise": time.time()}), Work()), StageRunner(tmp_path)
        later = Stage("later", works[1], lambda results: {"n": results["first"]["n"]})
        run_all(runner, [Stage("first", works[0], n), later])
        return runner.reused

    assert go(1) == {"first": False, "later": False} and go(1) == {"first": True, "later": True}
    # Another first stage that says the same leaves the later one as it is.
    write_json(tmp_path / "stages" / "first" / "done.json", {"key": "another"})
    assert go(1) == {"first": False, "later": True}
    assert go(2) == {"first": False, "later": False}


def test_a_part_takes_what_it_comes_after_with_it():
    def stage(name, part, *after):
        return Stage(name, lambda folder, results: {}, after=after, part=part)

    listed = [
        stage("base", ""),
        stage("train", "one", "base"),
        stage("judge", "two", "train"),
        stage("page", "three", "judge"),
        stage("other", "four"),
    ]
    assert [one.name for one in wanted(listed, ("two",))] == ["base", "train", "judge"]
    assert [one.name for one in wanted(listed, ("four",))] == ["base", "other"] and wanted(listed, ()) == listed


def test_parts_that_are_not_asked_for_are_kept_or_left_out(tmp_path):
    def go(parts, seed=0):
        works, runner = (Work(), Work(), Work()), StageRunner(tmp_path)
        listed = [
            Stage("always", works[0], seed),
            Stage("early", works[1], after=("always",), part="early"),
            Stage("late", works[2], after=("early",), part="late"),
        ]
        run_all(runner, listed, parts)
        return {name: runner.reused.get(name) for name in ("always", "early", "late")}

    assert go(["early"]) == {"always": False, "early": False, "late": None}
    assert go(["late"]) == {"always": True, "early": True, "late": False}
    assert go(["early"]) == {"always": True, "early": True, "late": True}
    # What stands on something else now is not reported.
    assert go(["early"], seed=1) == {"always": False, "early": False, "late": None}
    assert go([], seed=1) == {"always": True, "early": True, "late": False}


# What they leave


def left(n=1):
    """Work that leaves a table, and a file beside it."""

    def work(folder, results):
        work.calls += 1
        out = folder.parent.parent
        write_table(table_path(out, "numbers"), pd.DataFrame({"name": ["NA", "01"], "n": [n, n]}))
        write_text(out / "algorithm" / "card.md", f"{n}\n")
        return {"n": n}

    work.calls = 0
    return work


def run_left(tmp_path, work, inputs=1):
    return run(tmp_path, work, inputs, tables=("numbers",), files=("algorithm/card.md",))


def test_what_a_stage_is_beside_counts_where_it_was_done_and_is_not_done_for_it(tmp_path, capsys):
    def told(folder, results):
        return {"read": sorted(results)}

    def done(seed, *parts):
        listed = [
            Stage("first", Work(), 1, part="early"),
            Stage("extra", Work(), seed, part="extra"),
            Stage("last", told, 1, after=("first",), beside=("extra",), part="last"),
        ]
        runner = StageRunner(tmp_path)
        run_all(runner, listed, parts)
        return runner

    assert done(1, "last").results["last"]["read"] == ["first"] and not (tmp_path / "stages" / "extra").exists()
    assert done(1, "last").reused["last"]
    assert not done(1, "extra").reused["extra"]
    capsys.readouterr()
    assert done(1, "last").results["last"]["read"] == ["extra", "first"]
    assert "to make if what is before them changes: last" in capsys.readouterr().err
    assert done(1, "last").reused["last"] and done(1).reused["last"]
    assert done(2, "last").results["last"]["read"] == ["first"]  # of other inputs: it counts as never done
    assert done(2).results["last"]["read"] == ["extra", "first"]
    states = {
        one.name: one
        for one in done(2).states(
            [Stage("extra", Work(), 3), Stage("last", told, 1, after=("extra",), beside=("gone",))]
        )
    }
    assert states["last"].state == "to make"


def test_what_a_stage_left_is_kept_with_it(tmp_path, capsys):
    work = left()
    run_left(tmp_path, work)
    _, runner = run_left(tmp_path, work)
    assert work.calls == 1 and runner.reused == {"one": True} and "was" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tables/numbers.csv", lambda path: path.write_text("name,n\nNA,7\n"), "tables/numbers.csv was changed"),
        ("tables/numbers.csv", lambda path: path.write_bytes(path.read_bytes()[:-3]), "tables/numbers.csv was changed"),
        ("tables/numbers.csv", lambda path: path.unlink(), "tables/numbers.csv was removed"),
        ("algorithm/card.md", lambda path: path.write_text("another\n"), "algorithm/card.md was changed"),
        ("algorithm/card.md", lambda path: path.unlink(), "algorithm/card.md was removed"),
    ],
    ids=["edited", "cut", "removed", "file edited", "file removed"],
)
def test_what_was_changed_by_hand_is_said_and_made_again(tmp_path, capsys, name, change, said):
    work = left(3)
    run_left(tmp_path, work)
    before = (tmp_path / name).read_bytes()
    change(tmp_path / name)
    capsys.readouterr()
    _, runner = run_left(tmp_path, work)
    assert work.calls == 2 and runner.reused == {"one": False} and (tmp_path / name).read_bytes() == before
    assert f"[one] {said} since this stage wrote it; made again\n" in capsys.readouterr().err
    run_left(tmp_path, work)
    assert work.calls == 2 and "unchanged, kept" in capsys.readouterr().err


def test_what_was_changed_by_hand_is_kept_where_inputs_changed_as_well(tmp_path, capsys):
    run_left(tmp_path, left(3))
    card = tmp_path / "algorithm" / "card.md"
    card.write_text("My notes.\n")
    run_left(tmp_path, work := left(3), 2)
    assert work.calls == 1 and card.read_text() != "My notes.\n"
    assert card.with_name("card.md.changed").read_text() == "My notes.\n"
    assert "[one] what algorithm/card.md holds now is kept as card.md.changed" in capsys.readouterr().err
    # What nobody touched is no notes of anybody's.
    run_left(tmp_path, left(3), 3)
    assert [path.name for path in tmp_path.rglob("*.changed")] == ["card.md.changed"]


def test_types_that_were_removed_from_beside_a_table_are_made_again(tmp_path, capsys):
    work = left()
    run_left(tmp_path, work)
    types_path(table_path(tmp_path, "numbers")).unlink()
    run_left(tmp_path, work)
    assert work.calls == 2 and "numbers.types.json was removed" in capsys.readouterr().err
    assert read_table(table_path(tmp_path, "numbers"))["name"].tolist() == ["NA", "01"]


def test_tables_that_only_the_work_can_tell_count_too(tmp_path, capsys):
    def work(folder, results):
        write_table(table_path(tmp_path, "extra"), pd.DataFrame({"n": [1]}))
        return {"tables": ["extra"]}

    first, runner = run(tmp_path, work)
    assert [path.name for path in Stage("one", work, 1).left(tmp_path, first)] == ["extra.csv", "extra.types.json"]
    assert runner.results["one"]["tables"] == ["extra"]
    assert run(tmp_path, work)[1].reused == {"one": True}
    table_path(tmp_path, "extra").unlink()
    assert run(tmp_path, work)[1].reused == {"one": False} and "extra.csv was removed" in capsys.readouterr().err


def test_a_changed_table_makes_no_other_stage_again(tmp_path):
    work, after = left(), Work()
    listed = [Stage("one", work, 1, tables=("numbers",)), Stage("two", after, 1, after=("one",))]
    run_all(StageRunner(tmp_path), listed)
    table_path(tmp_path, "numbers").write_text("name,n\nx,1\n")
    run_all(runner := StageRunner(tmp_path), listed)
    assert runner.reused == {"one": False, "two": True} and after.calls == 1, "what is made again has the same key"


def test_a_table_that_the_work_did_not_write_is_said(tmp_path):
    with pytest.raises(OSError, match="numbers.csv"):
        run(tmp_path, Work(), tables=("numbers",))
    assert not (tmp_path / "stages" / "one" / "done.json").exists()


def test_the_times_of_the_stages_are_a_table(tmp_path):
    _, runner = run(tmp_path, Work())
    table = runner.runtime()
    assert table["stage"].tolist() == ["one"] and (table["peak_bytes"] > 1e6).all()
    pd.testing.assert_frame_equal(read_table(table_path(tmp_path, "runtime")), table)


# Interruptions


def test_an_interrupted_stage_is_done_again_in_the_same_folder_and_finds_what_it_left(tmp_path):
    breaks, works = Work(breaks=True), Work()
    with pytest.raises(Interrupted):
        run(tmp_path, breaks)
    assert not (tmp_path / "stages" / "one" / "done.json").exists()
    run(tmp_path, works)
    assert "call-1" in works.found[0]
    run(tmp_path, works)
    assert works.calls == 1


def test_what_an_interruption_left_is_no_good_for_other_inputs(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, Work(breaks=True))
    work = Work()
    run(tmp_path, work, 2)
    assert "call-1" not in work.found[0]


def test_an_interrupted_rerun_does_not_bring_the_old_result_back(tmp_path):
    run(tmp_path, Work())
    with pytest.raises(Interrupted):
        run(tmp_path, Work(breaks=True), 2)
    work = Work()
    run(tmp_path, work)
    assert work.calls == 1, "its files may have been overwritten"


def test_a_stage_that_stands_on_an_interrupted_one_is_done_again(tmp_path):
    works = Work(), Work()
    listed = [Stage("low", works[0], 1), Stage("high", works[1], 1, after=("low",))]
    run_all(StageRunner(tmp_path), listed)
    with pytest.raises(Interrupted):
        run_all(StageRunner(tmp_path), [Stage("low", Work(breaks=True), 2), listed[1]])
    run_all(runner := StageRunner(tmp_path), [Stage("low", works[0], 2), listed[1]])
    assert runner.reused == {"low": False, "high": False}


@pytest.mark.parametrize("text", ["{", "", "[]", "null", '{"key": 3}'])
def test_a_cut_control_file_means_that_the_stage_is_done_again(tmp_path, text):
    for name in ("done.json", "begun.json"):
        run(tmp_path, Work())
        (tmp_path / "stages" / "one" / name).write_text(text)
        if name == "begun.json":
            (tmp_path / "stages" / "one" / "done.json").unlink()
        work = Work()
        run(tmp_path, work)
        assert work.calls == 1
        run(tmp_path, work)
        assert work.calls == 1


def test_a_control_file_of_another_shape_means_that_the_stage_is_done_again(tmp_path):
    first, _ = run(tmp_path, Work())
    write_json(tmp_path / "stages" / "one" / "done.json", {"key": first["key"]})
    work = Work()
    run(tmp_path, work)
    assert work.calls == 1


def test_a_killed_process_is_gone_on_with(tmp_path):
    script = textwrap.dedent(
        f"""
        import os, signal
        from pathlib import Path
        from workbench.engine.stages import Stage, StageRunner, run_all, wanted

        def first(folder, results):
            (Path({str(tmp_path)!r}) / "calls").open("a").write("first\\n")
            return {{}}

        def second(folder, results):
            half = folder / "half"
            (Path({str(tmp_path)!r}) / "calls").open("a").write(f"second {{half.exists()}}\\n")
            if not half.exists():
                half.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return {{}}

        listed = [Stage("first", first, 1), Stage("second", second, 1, after=("first",))]
        run_all(StageRunner(Path({str(tmp_path / "out")!r})), listed)
        """
    )
    codes = [subprocess.run([sys.executable, "-c", script], capture_output=True).returncode for _ in range(3)]
    assert codes[0] != 0 and codes[1:] == [0, 0]
    assert (tmp_path / "calls").read_text().splitlines() == ["first", "second False", "second True"]


# What other modules ask of a folder


def test_the_key_of_a_stage_is_that_of_what_it_holds_now(tmp_path):
    assert key_of(tmp_path, "one") == ""
    done, _ = run(tmp_path, Work())
    assert key_of(tmp_path, "one") == done["key"]
    with pytest.raises(Interrupted):
        run(tmp_path, Work(breaks=True), 2)
    assert key_of(tmp_path, "one") not in ("", done["key"])
    for name in ("begun.json", "done.json"):
        (tmp_path / "stages" / "one" / name).write_text("{")
    assert key_of(tmp_path, "one") == ""


def test_whether_a_result_stands_on_what_is_there(tmp_path):
    def go(inputs, *names, work=None):
        runner = StageRunner(tmp_path)
        listed = {
            "lower": Stage("lower", lambda folder, results: {}, inputs),
            "upper": Stage("upper", work or (lambda folder, results: {}), 1, after=("lower",)),
        }
        for name in names:
            runner.run(listed[name])

    assert stands_on(tmp_path, "upper", "lower")  # the folder does not say
    go("a", "lower", "upper")
    assert stands_on(tmp_path, "upper", "lower")
    go("b", "lower")
    assert not stands_on(tmp_path, "upper", "lower")
    with pytest.raises(Interrupted):
        go("b", "lower", "upper", work=Work(breaks=True))
    assert not stands_on(tmp_path, "upper", "lower")
    go("b", "lower", "upper")
    assert stands_on(tmp_path, "upper", "lower")


def test_peak_memory_is_in_bytes():
    assert 1e7 < stages.peak_memory() < 1e12


def test_peak_memory_is_said_where_there_is_no_resource_module(monkeypatch):
    from types import SimpleNamespace

    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=12345))
    monkeypatch.setattr(stages.sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(stages.psutil, "Process", lambda: process)
    assert stages.peak_memory() == 12345
