"""What a command would do, said before anything is done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from workbench.engine.plan import Expected, Load, make_plan, plan_text, plan_told
from workbench.engine.recipe import Recipe, plan
from workbench.engine.stages import Stage, StageRunner, run_all
from workbench.errors import OutputError


def work(folder, results):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.bin").write_bytes(b"123")
    return {"n": 3}


def stages(cells=1, seed=0):
    return [
        Stage("read", work, {"cells": cells, "seed": 0}, version=1),
        Stage("fit", work, {"seed": seed}, ("read",), version=1),
        Stage("follow", work, lambda results: results["fit"]["n"], version=1),
    ]


@pytest.fixture
def out(tmp_path):
    run_all(StageRunner(tmp_path / "out"), stages())
    return tmp_path / "out"


def planned(out, listed, **loads):
    return make_plan("count", out, StageRunner(out).states(listed), Expected(loads))


def states(found):
    return [(one.state.state, one.state.why) for one in found.stages]


def test_of_a_new_folder_nothing_is_known_and_nothing_is_made(tmp_path):
    found = planned(tmp_path / "a" / "out", stages())
    assert states(found) == [("to make", ""), ("to make", ""), ("depends", "depends on read, fit")]
    assert found.unknown == ["read", "fit", "follow"] and not (tmp_path / "a").exists()
    assert "Time not known: read, fit, follow; no such stage has been run here." in plan_text(found)


def test_what_is_finished_is_kept_and_takes_no_time(out):
    found = planned(out, stages())
    assert states(found) == [("kept", "")] * 3 and found.seconds == 0 and not found.to_do
    assert "All stages are kept" in plan_text(found)


def test_why_a_stage_is_made_again(out):
    code = [Stage(one.name, one.work, one.inputs, one.after, version=2) for one in stages()]
    assert states(planned(out, stages(cells=2))) == [
        ("to make", "others than before: cells"),
        ("to make", "others than before: stage read"),
        ("depends", "depends on read, fit"),
    ]
    assert states(planned(out, stages(seed=1)))[:2] == [("kept", ""), ("to make", "others than before: seed")]
    assert states(planned(out, code))[0] == ("to make", "others than before: code")
    (out / "stages" / "read" / "x.bin").write_bytes(b"124")
    # What is made again of the same inputs makes nothing after it again.
    why = "stages/read/x.bin was changed"
    assert states(planned(out, stages())) == [("to make", why), ("kept", ""), ("depends", "depends on read")]


def test_what_was_planned_is_what_is_done(out, capsys):
    (out / "stages" / "read" / "x.bin").unlink()
    runner = StageRunner(out)
    run_all(runner, stages())
    assert runner.reused == {"read": False, "fit": True, "follow": True}
    assert (
        "[stages] kept: fit; to make: read; to make if what is before them changes: follow" in capsys.readouterr().err
    )


def test_time_is_the_last_one_here_or_an_estimate_of_what_is_left(out, tmp_path):
    load = Load(cells=7, passes=14, tasks=4, memory=2**30, disk=2**20, seconds=100, basis="a guess")
    found = planned(out, stages(cells=2), read=load)
    assert found.stages[0].seconds < 5 and found.stages[0].basis == "when it was last made here"
    (out / "stages" / "read" / "done.json").unlink()
    for name in ("a", "b"):
        path = out / "stages" / "read" / "sweep" / "rows" / f"{name}.0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = planned(out, stages(), read=load)
    assert states(found)[0] == ("goes on", "") and found.stages[0].done == 2 and found.stages[0].seconds == 50
    said = plan_text(found)
    for part in (
        "2 of 4 done",
        "14 cells through a model",
        "at most 1.0 GiB",
        "about 1.0 MiB",
        "50 s for read (a guess)",
    ):
        assert part in said
    told = plan_told(found)["dry_run"]
    assert told["stages"][0]["tasks"] == 4 and told["stages"][0]["tasks_done"] == 2 and told["time_not_known"] == []


def test_a_plan_is_refused_where_the_command_is_and_leaves_nothing(tmp_path):
    def context(config, out, backend):
        return SimpleNamespace(device="cpu", config=SimpleNamespace(dtype="float32"))

    recipe = Recipe("count", context, lambda _: stages(), lambda *_: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.engine.recipe.describe_device", lambda *_: "cpu")
        found = plan(recipe, None, tmp_path / "out")
    assert [one.state.name for one in found.stages] == ["read", "fit", "follow"] and not (tmp_path / "out").exists()
    (tmp_path / "out" / "tables").mkdir(parents=True)
    with pytest.raises(OutputError, match="did not make"):
        plan(recipe, None, tmp_path / "out")
