"""How much do the docstrings say? Per folder: documented parameters, and how many are described in four words or fewer.

    python experiments/docstrings.py
    python experiments/docstrings.py workbench/factors workbench/stats.py --list

Source is parsed, never imported. The exit status is 1 where something is thin.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

WORDS = 5
DESCRIBED = ("Parameters", "Other Parameters", "Attributes")
BLOCKS = (*DESCRIBED, "Returns", "Yields", "Raises")
REFERENCE = re.compile(r"As in `{1,2}~?([\w.]+)`{1,2}\.?")
KINDS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Entry(NamedTuple):
    """Names that share one description: ``n, seed`` above an indented text."""

    names: tuple[str, ...]
    text: str


class Documented(NamedTuple):
    """A function, method or class with a docstring that has sections."""

    place: str
    name: str
    private: bool
    sections: tuple[str, ...]
    entries: tuple[Entry, ...]

    @property
    def has_private_block(self) -> bool:
        """Whether something private has a block of parameters, results or errors; a private class may list attributes."""
        return self.private and any(title != "Attributes" for title in self.sections)


def sections_of(docstring: str) -> Iterator[tuple[str, list[str]]]:
    """Title and lines of each section: a line, then a line of as many dashes."""
    lines = docstring.splitlines()
    heads = [i for i in range(len(lines) - 1) if lines[i] and re.fullmatch("-{3,}", lines[i + 1].strip())]
    for start, stop in pairwise([*heads, len(lines)]):
        yield lines[start].strip(), lines[start + 2 : stop]


def entries_of(lines: list[str]) -> Iterator[Entry]:
    """Entries of a section: names on an unindented line (a type after a colon is dropped), their text indented below."""
    names: tuple[str, ...] = ()
    text: list[str] = []
    for line in [*lines, "end"]:
        if line.strip() and not line.startswith(" "):
            if names:
                yield Entry(names, " ".join(text))
            names, text = tuple(name.strip(" *") for name in line.split(" :")[0].split(",")), []
        elif line.strip():
            text.append(line.strip())


def documented(path: Path) -> Iterator[Documented]:
    """All functions, methods and classes of a file whose docstring has a section."""

    def walk(node: ast.AST, prefix: str, private: bool) -> Iterator[Documented]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, KINDS):
                yield from walk(child, prefix, private)
                continue
            hidden = private or (child.name.startswith("_") and not child.name.endswith("__"))
            name, is_class = prefix + child.name, isinstance(child, ast.ClassDef)
            sections = {t: lines for t, lines in sections_of(ast.get_docstring(child) or "") if t in BLOCKS}
            if sections:
                entries = (entry for title in DESCRIBED for entry in entries_of(sections.get(title, [])))
                yield Documented(f"{path}:{child.lineno}", name, hidden, tuple(sections), tuple(entries))
            # What stands inside of a function is its own business.
            yield from walk(child, f"{name}.", hidden or not is_class)

    yield from walk(
        ast.parse(path.read_text(encoding="utf-8")), "", path.name.startswith("_") and path.stem != "__init__"
    )


def says_something(
    name: str, text: str, known: dict[str, list[Documented]], seen: frozenset[str] = frozenset()
) -> bool:
    """Whether a description has five words, or is a mere reference to a place where the same name is described so.

    A reference may lead on to another one, and not back.
    """
    reference = REFERENCE.fullmatch(text)
    if reference is None:
        return len(text.split()) >= WORDS
    target = reference[1].rsplit(".", 1)[-1]
    if target in seen:
        return False
    texts = [entry.text for found in known.get(target, []) for entry in found.entries if name in entry.names]
    return any(says_something(name, one, known, seen | {target}) for one in texts)


def files_of(path: Path) -> list[Path]:
    """Python files of a folder, or the file itself."""
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, default=[Path("workbench")], help="folders or files")
    parser.add_argument("--list", action="store_true", help="name each thin description and each private block")
    arguments = parser.parse_args()
    # References may lead to any file of the package.
    files = {file for path in [Path("workbench"), *arguments.paths] for file in files_of(path)}
    read = {file: list(documented(file)) for file in sorted(files)}
    known: dict[str, list[Documented]] = {}
    for found in (one for every in read.values() for one in every):
        known.setdefault(found.name.rsplit(".", 1)[-1], []).append(found)
    counts: dict[str, list[int]] = {}
    for file in dict.fromkeys(file for path in arguments.paths for file in files_of(path)):
        count = counts.setdefault(str(file.parent), [0, 0, 0])
        for found in read[file]:
            if found.has_private_block:
                count[2] += 1
                if arguments.list:
                    print(f"{found.place} {found.name} is private and has {', '.join(found.sections)}")
            if found.private:
                continue
            for entry in found.entries:
                thin = [name for name in entry.names if not says_something(name, entry.text, known)]
                count[0] += len(entry.names)
                count[1] += len(thin)
                if thin and arguments.list:
                    print(f"{found.place} {found.name} {', '.join(thin)}: {entry.text}")
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    width = max(map(len, counts))
    print(f"{'':{width}}  parameters  in four words or fewer  private blocks")
    for folder, (n, thin, blocks) in counts.items():
        print(f"{folder:{width}}  {n:10}  {thin:22}  {blocks:14}")
    sys.exit(any(counts["all"][1:]))


if __name__ == "__main__":
    main()
