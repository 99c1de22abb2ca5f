"""The list of seeded faults holds for the package as it is, and its page has each of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import load_script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("seeded_faults")


def test_each_fault_changes_one_place_of_a_module_that_has_tests(script):
    assert len(script.FAULTS) >= 40 and len(set(script.FAULTS)) == len(script.FAULTS)
    for fault in script.FAULTS:
        text = (ROOT / "workbench" / fault.module).read_text(encoding="utf-8")
        assert script.text_with(fault, ROOT) != text and script.tests_of(fault, ROOT)


def test_a_text_that_is_not_there_once_is_said(script, tmp_path):
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "a.py").write_text("x = 1\ny = 1\n")
    with pytest.raises(SystemExit, match="has '= 1' 2 times, not once"):
        script.text_with(script.Fault("a.py", "= 1", "= 2", "two for one"), tmp_path)


@pytest.mark.parametrize(
    ("status", "said", "found", "by"), [(1, "FAILED a/b.py::test_it - x", True, "test_it"), (0, "", False, "")]
)
def test_a_fault_is_put_in_for_its_tests_alone(script, tmp_path, monkeypatch, status, said, found, by):
    path = tmp_path / "workbench" / "a.py"
    path.parent.mkdir()
    path.write_text("x = 1\n")
    seen = []

    def ran(command, **options):
        seen.append((path.read_text(), options["cwd"]))
        return SimpleNamespace(returncode=status, stdout=said, stderr="")

    monkeypatch.setattr(subprocess, "run", ran)
    result = script.run(script.Fault("a.py", "1", "2", "two for one"), tmp_path)
    assert seen == [("x = 2\n", tmp_path)] and path.read_text() == "x = 1\n"
    assert (result["found"], result["by"]) == (found, by)


def test_tests_that_do_not_run_are_no_finding(script, tmp_path, monkeypatch):
    (tmp_path / "workbench").mkdir()
    (tmp_path / "workbench" / "a.py").write_text("x = 1\n")
    broken = SimpleNamespace(returncode=4, stdout="no such file", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: broken)
    with pytest.raises(SystemExit, match="did not run \\(4\\)"):
        script.run(script.Fault("a.py", "1", "2", "two for one"), tmp_path)


def test_the_page_has_every_fault_and_nine_in_ten_are_found(script):
    lines = (ROOT / "docs" / "seeded_faults.md").read_text(encoding="utf-8").splitlines()
    _, *rows = [line for line in lines if line.startswith("| `")]
    for fault, row in zip(script.FAULTS, rows, strict=True):
        assert row.startswith(f"| `{fault.module}` | {fault.what} | ")
    assert sum("**nothing**" not in row for row in rows) >= 0.9 * len(rows)
