"""Errors as sentences, and their index."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest

from workbench import errors
from workbench.errors import WorkbenchError, near_matches, unknown_name

ROOT = Path(__file__).resolve().parents[1]
INDEX = ROOT / "docs" / "errors.md"


def error_classes() -> set[str]:
    """Every exception class that the package defines, wherever it stands."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "workbench").rglob("*.py")]
    found = {
        name for source in sources for name in re.findall(r"^class ([A-Z]\w*)\(\w*(?:Error|Exception)\)", source, re.M)
    }
    assert {kind.__name__ for kind in WorkbenchError.__subclasses__()} <= found
    return found


def test_every_error_is_in_the_index():
    text = INDEX.read_text(encoding="utf-8")
    absent = [name for name in error_classes() if not re.search(rf"\b{name}\b", text)]
    assert not absent, f"docs/errors.md does not explain {', '.join(sorted(absent))}"


def test_the_index_names_no_error_that_does_not_exist():
    named = set(re.findall(r"\b[A-Z]\w*Error\b", INDEX.read_text(encoding="utf-8")))
    assert {name for name in named if not hasattr(builtins, name)} <= error_classes()


def test_every_error_is_a_workbench_error_with_a_sentence_of_its_own():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 8 and all(issubclass(kind, WorkbenchError) for kind in kinds)
    assert len({kind.__doc__ for kind in kinds}) == len(kinds)
    # Callers that know nothing of the workbench can catch what is wrong with their input.
    assert issubclass(WorkbenchError, ValueError)


def raised() -> list[tuple[str, str]]:
    """Where an error is raised with a literal message, and that message; what is put into it is one word."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value)
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) for part in node.values)
        return "X"

    found = []
    for path in sorted((ROOT / "workbench").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text(node.exc.args[0])))
    return found


def test_sentences_of_errors_are_short():
    every = raised()
    assert len(every) > 300
    long = [(at, one) for at, said in every for one in re.split(r"(?<=[.?!])\s+", said) if len(one.split()) > 30]
    assert not long, f"more than 30 words in a sentence: {long}"


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("layer", ["layers", "heads"], "did you mean 'layers'?"),
        ("LAYERS", ["layers"], "did you mean 'layers'?"),
        ("layrs", ["Layers", "layer", "heads"], "did you mean 'Layers' or 'layer'?"),
        ("zzz", ["layers"], ""),
        ("layers", [], ""),
    ],
)
def test_near_matches(name, known, expected):
    assert near_matches(name, known) == expected


def test_near_matches_lists_no_more_than_asked_for():
    known = [f"layer{i}" for i in range(9)]
    assert near_matches("layer", known, n=2).count("layer") == 2


def test_an_unknown_name_lists_near_matches_or_what_there_is():
    assert unknown_name("key", "layrs", ["layers", "heads"]) == "Unknown key 'layrs': did you mean 'layers'?"
    assert unknown_name("key", "zzz", ["a", "b"]) == "Unknown key 'zzz': known: a, b."
    assert unknown_name("key", "zzz", "abcdefghij").endswith("known: a, b, c, d, e, f, g, h, ....")
    assert unknown_name("key", "zzz", iter(())) == "Unknown key 'zzz': none exist."
