"""Which tests a change asks for."""

from __future__ import annotations

import subprocess

import pytest
from changed import asked_by, changed_since

FILES = (
    "workbench/cli.py",
    "workbench/a/b.py",
    "workbench/a/deep/c.py",
    "tests/conftest.py",
    "tests/test_cli.py",
    "tests/a/conftest.py",
    "tests/a/test_b.py",
    "tests/a/test_other.py",
)


@pytest.fixture
def tree(tmp_path):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "tests/builders.py").write_text("")
    (tmp_path / "tests/fixtures.py").write_text("def a():\n    from builders import b\n")
    (tmp_path / "tests/a/conftest.py").write_text("from fixtures import a\n")
    (tmp_path / "tests/test_cli.py").write_text("import builders\n")
    (tmp_path / "tests/a/test_b.py").write_text("from builders_of_others import c\n")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        (["workbench/a/b.py"], ["tests/a/test_b.py"]),
        (["workbench/cli.py", "tests/a/test_other.py"], ["tests/a/test_other.py", "tests/test_cli.py"]),
        # Neither has a test file of its own: those that lie nearest.
        (["workbench/a/deep/c.py"], ["tests/a/test_b.py", "tests/a/test_other.py"]),
        (["workbench/a/__init__.py"], ["tests/a/test_b.py", "tests/a/test_other.py"]),
        (["workbench/gone.py"], ["tests/test_cli.py"]),
        (["tests/a/conftest.py", "workbench/a/b.py"], ["tests/a"]),
        (["tests/conftest.py", "tests/a/test_b.py"], ["tests"]),
        (["tests/a/test_gone.py"], []),
        # By way of another helper, and of a conftest.py.
        (["tests/builders.py"], ["tests/a", "tests/test_cli.py"]),
        (["README.md", "docs/a.md", "experiments/demo.yaml", "workbench/a/page.html"], []),
        ([], []),
    ],
)
def test_changed_files_ask_for_the_tests_that_mirror_them(tree, changed, asked):
    assert asked_by(changed, tree) == asked


def test_what_git_does_not_know_yet_counts_as_changed(tree):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *words], cwd=tree, check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    assert changed_since("HEAD", tree) == []
    (tree / "workbench/cli.py").write_text("1")
    (tree / "tests/a/test_b.py").unlink()
    (tree / "tests/test_é.py").write_text("")
    assert changed_since("HEAD", tree) == ["tests/a/test_b.py", "workbench/cli.py", "tests/test_é.py"]
