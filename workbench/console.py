"""What is printed for people: as wide as their terminal. No colour is used, so nothing depends on it."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO


def columns() -> int | None:
    """Width of the terminal that stdout goes to; None for a file or a pipe, whose lines stay whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitted(text: str, width: int | None) -> str:
    """A text whose long lines are broken between words; what is broken off stands further to the right.

    Parameters
    ----------
    text
        Lines of prose or of a table.
    width
        Most characters of a line; None leaves the text as it is. Paths and commands stay whole, so that they can be copied.
    """
    if width is None:
        return text
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        broken = textwrap.wrap(
            line, width, subsequent_indent=f"{indent}    ", break_long_words=False, break_on_hyphens=False
        )
        whole = len(line) <= width or re.match(r"\s*(/|workbench |pip )", line)
        lines += [line] if whole else broken
    return "\n".join(lines)


def aligned(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; a column without anything in it is left out.

    Parameters
    ----------
    names
        Names of the columns, in the first line.
    rows
        What stands in each row, a text for every column.
    """
    shown = [i for i in range(len(names)) if any(row[i] for row in rows)]
    widths = [max(len(row[i]) for row in (names, *rows)) for i in shown]
    return ["  ".join(f"{row[i]:<{n}}" for i, n in zip(shown, widths, strict=True)).rstrip() for row in (names, *rows)]


def size_text(n: int | None) -> str:
    """A size for people.

    Parameters
    ----------
    n
        Number of bytes; None is said to be unknown.
    """
    if n is None:
        return "unknown"
    unit, name = next((one for one in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if n >= one[0]), (1, "bytes"))
    return f"{n / unit:.1f} {name}" if unit > 1 else f"{n} bytes"


def time_text(seconds: float) -> str:
    """A time for people.

    Parameters
    ----------
    seconds
        How long it is, in seconds.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Show a warning of the same words and place once, however often it is given.

    Python means to, but forgets what it has shown whenever a library puts a filter on warnings and takes it off again.
    """
    shown: set[Any] = set()
    show = warnings.showwarning

    def once(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if (one := (str(message), category, filename, lineno)) not in shown:
            shown.add(one)
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = once
    try:
        yield
    finally:
        warnings.showwarning = show
