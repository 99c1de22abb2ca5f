"""Which code a stage depends on: the modules that its work reaches by imports, without comments and docstrings."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from workbench.files import digest

PACKAGE = Path(__file__).parents[1]
# What carries results but does not make them; what configurations say is among a stage's inputs anyway.
CARRIERS = ("workbench.engine", "workbench.errors", "workbench.settings", "workbench.ablation.settings")


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


@cache
def _imports(package: str, name: str) -> tuple[str, ...]:
    file = _file(Path(package), name)
    assert file is not None
    return _imported(file.read_text(encoding="utf-8"))


@cache
def _imported(source: str) -> tuple[str, ...]:
    found: list[str] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # A name may be a module of a package, or something that a module defines.
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        # What is imported for type checkers alone is never run.
        body = node.orelse if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) else None
        waiting.extend(ast.iter_child_nodes(node) if body is None else body)
    return tuple(one for one in found if one.startswith("workbench."))


@cache
def _code(package: str, name: str) -> str:
    file = _file(Path(package), name)
    assert file is not None
    return stripped(file.read_text(encoding="utf-8"))


@cache
def stripped(source: str) -> str:
    """Source without comments, docstrings and blank lines; the same on every version of Python.

    Parameters
    ----------
    source
        Text of a module, which has to be valid Python.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            for row in range(first.lineno, (first.end_lineno or first.lineno) + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
