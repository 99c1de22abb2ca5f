"""Tests of what changed, by the tree's mirror layout: `python tests/changed.py BASE` prints their paths, for `make test-changed`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]


def asked_by(names: Iterable[str], root: Path = ROOT) -> list[str]:
    """Paths of the tests of changed files, both relative to the root; what is not code has no tests.

    workbench/a/b.py has tests/a/test_b.py, or the test files beside where that would lie, the nearest folder that has any;
    a conftest.py has all tests below its folder, a module of helpers those of the files that import it.
    """
    found: set[str] = set()
    for name in map(PurePosixPath, names):
        if name.suffix != ".py" or name.parts[0] not in ("workbench", "tests"):
            continue
        if name.parts[0] == "workbench":
            mirror = PurePosixPath("tests", *name.parts[1:]).with_name(f"test_{name.name}")
            found.update(_nearest(mirror, root))
        else:
            found.update(_users(name, root))
    return sorted(one for one in found if not any(str(above) in found for above in PurePosixPath(one).parents))


def _nearest(mirror: PurePosixPath, root: Path) -> list[str]:
    if (root / mirror).is_file():
        return [str(mirror)]
    for folder in mirror.parents:
        if beside := sorted((root / folder).glob("test_*.py")):
            return [str(one.relative_to(root).as_posix()) for one in beside]
    return []


def _users(name: PurePosixPath, root: Path) -> set[str]:
    if name.name.startswith("test_"):
        return {str(name)} if (root / name).is_file() else set()
    if name.name in ("conftest.py", "__init__.py"):
        return {str(name.parent)}
    imports = re.compile(rf"^\s*(?:from|import) {re.escape(name.stem)}\b", re.MULTILINE)
    users = (one for one in (root / "tests").rglob("*.py") if imports.search(one.read_text(encoding="utf-8")))
    return {test for one in users for test in _users(PurePosixPath(one.relative_to(root).as_posix()), root)}


def changed_since(base: str, root: Path = ROOT) -> list[str]:
    """Files that differ from a commit, and those that git does not know yet."""
    commands = (["diff", "--name-only", "--relative", base, "--"], ["ls-files", "--others", "--exclude-standard"])
    return [
        line
        for command in commands
        for line in subprocess.run(
            ["git", "-c", "core.quotePath=false", *command], cwd=root, capture_output=True, text=True, check=True
        ).stdout.splitlines()
    ]


if __name__ == "__main__":
    print("\n".join(asked_by(changed_since(sys.argv[1]))))
