"""Output folders: whose they are is said before any work, and nothing is taken over that the workbench did not make."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml

from workbench.engine.config import read_config
from workbench.engine.context import Context
from workbench.engine.folder import LAYOUT, MARKER, OURS, RESOLVED, check_folder, check_layout, claim
from workbench.engine.recipe import Recipe, execute
from workbench.engine.section import Opening, Report, Section
from workbench.engine.stages import Stage
from workbench.engine.sweep import Backend
from workbench.errors import ConfigError, OutputError
from workbench.files import hash_file, read_json, write_json
from workbench.settings import CommandConfig

WORK: list[str] = []


class CountContext(Context):
    settings = CommandConfig
    content = "hash of the cells"
    data_name = "no cells"


def count(context, folder, results):
    WORK.append(context.config.name)
    context.write({"numbers": pd.DataFrame({"label": ["NA", "x"], "n": [1, 2]})})
    return {"n": 2}


def stages(context):
    return [Stage("count", partial(count, context), {"seed": context.config.seed}, tables=("numbers",))]


def report(context, results):
    numbers = {"numbers": context.read("numbers")}
    return Report(
        "Counted", Opening("How many?", "Two."), context.data_name, [Section(tables=numbers, answers=["Two."])]
    )


RECIPE = Recipe("count", CountContext, stages, report)


@pytest.fixture
def config(tiny_checkpoint):
    WORK.clear()
    return CommandConfig(name="mine", checkpoint=tiny_checkpoint)


def content(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder; folders by their names."""
    return {
        str(path.relative_to(folder)): hash_file(path) if path.is_file() else "folder" for path in folder.rglob("*")
    }


def refused(out, config, said):
    """Whether a folder is refused before any work, in one sentence, with nothing in it changed or added."""
    before = content(out) if out.is_dir() else None
    with pytest.raises(OutputError, match=said) as error:
        execute(RECIPE, config, out)
    assert "\n" not in str(error.value) and "--out" in str(error.value)
    assert WORK == [] and (content(out) if out.is_dir() else None) == before


def test_a_new_folder_is_made_and_marked(tmp_path, config):
    out = tmp_path / "a" / "b"
    done = execute(RECIPE, config, out)
    assert read_json(out / MARKER)["layout"] == LAYOUT and read_json(out / MARKER)["recipe"] == "count"
    assert {path.name for path in out.iterdir()} <= {MARKER, *OURS} and done.results["count"]["n"] == 2
    assert execute(RECIPE, config, out).context.read("numbers")["label"].tolist() == ["NA", "x"] and WORK == ["mine"]


def test_the_resolved_configuration_runs_again_in_its_own_folder(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    execute(RECIPE, config, Path("out"))
    again = read_config(Path("out") / RESOLVED, CommandConfig)
    assert again.checkpoint.is_absolute() and again.name == "mine"
    execute(RECIPE, again, Path("out"))
    assert WORK == ["mine"] and yaml.safe_load((tmp_path / "out" / RESOLVED).read_text())["name"] == "mine"


def test_files_of_the_users_stay_as_they_are_in_the_working_folder(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = {"config.yaml": b"name: mine\r\n# a note\n", "notes/README.md": b"\x00\xff", "cells.csv": b"a,b\n"}
    for name, data in own.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    for _ in range(2):
        execute(RECIPE, config, Path("."))
        assert all((tmp_path / name).read_bytes() == data for name, data in own.items())
    assert (tmp_path / "report.html").is_file() and (tmp_path / RESOLVED).is_file()


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_folder_with_a_file_under_one_of_our_names_is_refused(tmp_path, config, name, kind):
    (tmp_path / "own.txt").write_text("mine")
    if kind == "file":
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
    refused(tmp_path, config, f"holds {name}, which the workbench did not make and would overwrite")


def test_all_foreign_files_are_named_at_once(tmp_path, config):
    (tmp_path / "report.html").write_text("mine")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "numbers.csv").write_text("a\n1\n")
    refused(tmp_path, config, "holds report.html, tables, which")


@pytest.mark.parametrize(
    "left",
    [
        ["stages/cells/done.json", "stages/cells/begun.json", "stages/cells/panel.txt", "config.yaml", "report.html"],
        ["stages/operators/begun.json", "config.yaml"],
        ["sweep/sweep.json", "sweep/rows/ab.parquet", "config.yaml", "manifest.json", "tables/effects.csv"],
    ],
    ids=["a run", "a run that was interrupted", "an ablation"],
)
def test_a_folder_of_an_older_layout_is_said_to_be_one(tmp_path, config, left):
    for name in left:
        write_json(tmp_path / name, {"key": "k", "result": {}})
    refused(tmp_path, config, "is of an older layout of the workbench, and nothing in it was changed; choose another")
    with pytest.raises(OutputError, match="older layout"):
        check_layout(tmp_path)
    write_json(tmp_path / MARKER, {"layout": LAYOUT - 1, "recipe": "count"})
    refused(tmp_path, config, "is of an older layout")


def test_the_folder_of_another_command_is_refused(tmp_path, config):
    claim(tmp_path, "gates")
    refused(tmp_path, config, "holds the results of 'workbench gates'; choose another folder")


def test_the_folder_of_a_newer_workbench_is_refused(tmp_path, config):
    write_json(tmp_path / MARKER, {"layout": LAYOUT + 1, "recipe": "count"})
    refused(tmp_path, config, f"is of layout {LAYOUT + 1}, which is newer than this workbench's {LAYOUT}")


@pytest.mark.parametrize("found", [["a list"], {"mine": True}, "text", None])
def test_a_file_of_the_users_by_the_name_of_the_marker_is_refused(tmp_path, config, found):
    write_json(tmp_path / MARKER, found)
    refused(tmp_path, config, f"holds a {MARKER} that the workbench did not make")


def test_a_marker_that_was_cut_is_said(tmp_path, config):
    (tmp_path / MARKER).write_text('{"layout": ')
    with pytest.raises(OutputError, match=f"holds a {MARKER} that the workbench did not make, or that was cut"):
        execute(RECIPE, config, tmp_path)
    assert WORK == []


@pytest.mark.parametrize("place", ["file", "file/below", "file/below/it"])
def test_a_folder_that_cannot_be_made_is_said_at_once(tmp_path, config, place):
    (tmp_path / "file").touch()
    refused(tmp_path / place, config, "output folder '.*file.*' cannot be written .*is a file.*; choose another with")


def test_a_name_that_is_too_long_is_said_at_once(tmp_path, config):
    with pytest.raises(OutputError, match="output folder '.*y' cannot be made .*; choose another with --out"):
        execute(RECIPE, config, tmp_path / ("y" * 300))
    assert WORK == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said_at_once(tmp_path, config):
    tmp_path.chmod(0o500)
    refused(tmp_path / "out", config, "cannot be written .*may not be written")
    tmp_path.chmod(0o700)


def test_looking_at_a_folder_makes_and_changes_nothing(tmp_path):
    check_folder(tmp_path / "a" / "b", "count")
    check_layout(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_claiming_a_folder_twice_changes_nothing(tmp_path):
    claim(tmp_path, "count")
    before = content(tmp_path)
    claim(tmp_path, "count")
    assert content(tmp_path) == before


def test_a_configuration_that_cannot_be_done_leaves_no_folder(tmp_path, config):
    def refuse(context):
        raise OutputError("No; choose another with --out.")

    with pytest.raises(OutputError, match="No;"):
        execute(Recipe("count", CountContext, refuse, report), config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_that_were_removed_are_made_again(tmp_path, config):
    execute(RECIPE, config, tmp_path)
    for name in ("report.html", "metrics.json", "manifest.json", RESOLVED):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "figures")
    execute(RECIPE, config, tmp_path)
    assert WORK == ["mine"] and {"report.html", "metrics.json", "manifest.json", RESOLVED, "figures"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_a_scheduler_that_does_not_answer_leaves_no_folder(tmp_path, config):
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    with dask.config.set({"distributed.comm.timeouts.connect": 0.1}):
        with pytest.raises(ConfigError, match="No Dask scheduler answers"):
            execute(RECIPE, config, tmp_path / "out", Backend("dask", address="tcp://127.0.0.1:1"))
    assert WORK == [] and not (tmp_path / "out").exists()
