"""Every example in a docstring of the package runs as it stands, and gives what it says.

An example starts from nothing, as where a reader pastes it: it imports what it uses. One that needs a checkpoint, a run or
a notebook says ``# doctest: +SKIP`` on each of its lines.
"""

from __future__ import annotations

import ast
import doctest
from pathlib import Path

import pytest

import workbench

PACKAGE = Path(workbench.__file__).parent
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def examples() -> list[doctest.DocTest]:
    """Read from the source: functions behind a decorator have examples too."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if ">>>" not in source:
            continue
        place = path.relative_to(PACKAGE.parent)
        module = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        for node in (node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)):
            line = getattr(node, "lineno", 1)
            name = f"{module}.{getattr(node, 'name', '__doc__')}"
            test = doctest.DocTestParser().get_doctest(ast.get_docstring(node) or "", {}, name, str(place), line)
            if any(not example.options.get(doctest.SKIP) for example in test.examples):
                found.append(test)
    return found


EXAMPLES = examples()


def test_there_are_examples():
    assert len(EXAMPLES) >= 30


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_an_example_gives_what_it_says(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert not failed, "".join(said)
    assert not list(tmp_path.iterdir()), "An example leaves files behind."
