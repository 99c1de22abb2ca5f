"""Which code a stage depends on: the modules that its work reaches by imports, without comments and docstrings."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from workbench.files import digest

PACKAGE = Path(__file__).parents[1]
# What carries results but does not make them; what configurations say is among a stage's inputs anyway.
CARRIERS = ("workbench.engine", "workbench.errors", "workbench.settings", "workbench.ablation.settings")

# Whichever begins first: a string with a # in it, or a comment with a quote. Python's own tokens took ten times as long.
_STRING_OR_COMMENT = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*"""|\'{3}(?:[^'\\]|\\.|'(?!\'\'))*\'{3}'''
    r"""|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|#[^\n]*""",
    re.DOTALL,
)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_of(work: Callable[..., Any], package: Path = PACKAGE) -> str:
    """Hash of the code that a stage's work depends on.

    Parameters
    ----------
    work
        A function, a bound method or a partial of one, defined in the package. Its module counts, and every module of
        the package that this one imports, directly or not, at the top or inside a function.
    package
        Folder of the package; the installed one by default.

    Returns
    -------
    str
        32 hex digits. Comments, docstrings, blank lines and modules that are not reached do not change it.
    """
    return hash_of([_function(work).__module__], package)


def hash_of(modules: Iterable[str], package: Path = PACKAGE) -> str:
    """Hash of modules and of all that they import from the package.

    Parameters
    ----------
    modules
        Dotted names, such as ``workbench.capture.record``.
    package
        Folder of the package; the installed one by default.
    """
    return _hash(tuple(modules), package)


@cache
def _hash(modules: tuple[str, ...], package: Path) -> str:
    return digest({name: _code(str(package), name) for name in reached(modules, package)})


def reached(modules: Iterable[str], package: Path = PACKAGE) -> tuple[str, ...]:
    """Modules of the package that some modules import, directly or not, and they themselves.

    Parameters
    ----------
    modules
        Dotted names, such as ``workbench.capture.record``.
    package
        Folder of the package; the installed one by default.

    Returns
    -------
    tuple of str
        In alphabetical order, without `CARRIERS` and the configurations of recipes.
    """
    found, waiting = set[str](), list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or _carries(name) or _file(package, name) is None:
            continue
        found.add(name)
        waiting.extend(_imports(str(package), name))
    return tuple(sorted(found))


def _function(work: Any) -> Any:
    while isinstance(work, partial):
        work = work.func
    return getattr(work, "__func__", work)


def _carries(name: str) -> bool:
    return (name.startswith("workbench.recipes.") and name.endswith("config")) or any(
        name == one or name.startswith(f"{one}.") for one in CARRIERS
    )


def _file(package: Path, name: str) -> Path | None:
    parts = name.split(".")[1:]
    for file in (package.joinpath(*parts).with_suffix(".py"), package.joinpath(*parts, "__init__.py")):
        if parts and file.is_file():
            return file
    return None


def _imports(package: str, name: str) -> tuple[str, ...]:
    return _parts(_source(package, name))[0]


def _code(package: str, name: str) -> str:
    return stripped(_source(package, name))


@cache
def _source(package: str, name: str) -> str:
    file = _file(Path(package), name)
    assert file is not None
    return file.read_text(encoding="utf-8")


def stripped(source: str) -> str:
    """Source without comments, docstrings and blank lines; the same on every version of Python.

    Parameters
    ----------
    source
        Text of a module, which has to be valid Python.
    """
    return _parts(source)[1]


@cache
def _parts(source: str) -> tuple[tuple[str, ...], str]:
    # What a module imports from the package, and its text as it is run; together, since most of the time is the parser's.
    imported, lines = list[str](), source.split("\n")
    for node, runs in _statements(ast.parse(source), True):
        if isinstance(node, ast.Import) and runs:
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and runs:
            # A name may be a module of a package, or something that a module defines.
            imported += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            for row in range(first.lineno - 1, first.end_lineno or first.lineno):
                lines[row] = ""
    for found in _STRING_OR_COMMENT.finditer(source):
        if found[0].startswith("#"):
            before = source[: found.start()]
            row, column = before.count("\n"), len(before) - before.rfind("\n") - 1
            lines[row] = lines[row][:column]
    kept = tuple(one for one in imported if one.startswith("workbench."))
    return kept, "\n".join(line.rstrip() for line in lines if line.strip())


def _statements(node: ast.AST, runs: bool) -> Iterator[tuple[ast.AST, bool]]:
    # With each: whether it is ever run, as what is imported for type checkers alone is not. Imports and docstrings are
    # statements: expressions, which are most of a tree, need no look.
    yield node, runs
    typed = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    for part in ("body", "orelse", "handlers", "finalbody", "cases"):
        inner = getattr(node, part, None)
        # The body of an expression, as of a lambda, is no list.
        for one in inner if isinstance(inner, list) else ():
            yield from _statements(one, runs and not (typed and part == "body"))
