"""What of a finished run may go."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.cli import main
from workbench.engine.folder import claim
from workbench.engine.stages import Stage, StageRunner, run_all
from workbench.files import write_json, write_text


def work(out, folder, results):
    write_text(folder / "big.txt", "1234")
    write_text(out / "tables" / "t.csv", "a\n1\n")
    return {}


def listed(out):
    return [Stage("made", lambda folder, results: work(out, folder, results), files=("tables/t.csv",), version=1)]


@pytest.fixture
def out(tmp_path):
    """A finished run of one stage."""
    place = tmp_path / "out"
    claim(place, "count")
    run_all(StageRunner(place), listed(place))
    write_json(place / "manifest.json", {})
    return place


def cleaned(capsys, *arguments, status=0):
    assert main(["clean", *map(str, arguments)]) == status
    said = capsys.readouterr()
    return said.err if status else said.out


def test_what_may_go_is_listed_with_its_size_and_nothing_is_removed(out, capsys):
    said = cleaned(capsys, out)
    assert f"May go, with 'workbench clean {out} --stages': 4 bytes that stages keep." in said
    assert "made   4 bytes  0 s" in said and "Lost with them: " in said and "What still works without: " in said
    told = json.loads(cleaned(capsys, out, "--json"))
    assert told["stages"]["bytes"] == 4 and told["stages"]["by_stage"][0]["stage"] == "made"
    assert not told["stages"]["removed"] and told["bytes"] > 4 and (out / "stages" / "made" / "big.txt").is_file()


def test_stages_go_where_it_is_asked_for_and_are_made_again(out, capsys):
    (out / "stages" / "made" / "notes.txt").write_text("mine")
    assert "Removed: 4 bytes that stages keep." in cleaned(capsys, out, "--stages")
    left = {path.name for path in (out / "stages" / "made").iterdir()}
    assert left == {"begun.json", "done.json", "notes.txt"} and (out / "tables" / "t.csv").is_file()
    assert "Removed: " not in cleaned(capsys, out, "--stages")
    runner = StageRunner(out)
    assert runner.states(listed(out))[0].why == "stages/made/big.txt was removed"
    run_all(runner, listed(out))
    assert (out / "stages" / "made" / "big.txt").is_file() and not runner.reused["made"]


def test_what_was_changed_since_stays(out, capsys):
    (out / "stages" / "made" / "big.txt").write_text("notes of mine")
    cleaned(capsys, out, "--stages")
    assert (out / "stages" / "made" / "big.txt").read_text() == "notes of mine"


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("workbench.json", "is of an older layout|is no folder of the workbench"),
        ("manifest.json", "is not finished: it has no manifest.json"),
        ("stages/made/done.json", "is not finished: made"),
    ],
)
def test_what_is_not_ours_or_not_finished_is_refused(out, capsys, lacks, said):
    import re

    (out / lacks).unlink()
    error = cleaned(capsys, out, "--stages", status=2)
    assert error.startswith("OutputError: ") and re.search(said, error)
    assert (out / "stages" / "made" / "big.txt").is_file()


def test_a_folder_of_the_users_is_refused(tmp_path, capsys):
    (tmp_path / "stages").mkdir()
    assert "is no folder of the workbench" in cleaned(capsys, tmp_path, "--stages", status=2)
    assert "0 halves" in cleaned(capsys, tmp_path)


def test_an_unfinished_run_says_so(out, capsys):
    shutil.copy(out / "manifest.json", out / "notes.json")
    (out / "manifest.json").unlink()
    said = cleaned(capsys, out)
    assert "it has no manifest.json. What its stages keep is needed to go on." in said and "May go" not in said
