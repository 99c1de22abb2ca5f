"""The explorer without Python: a piece of a page, or a page of its own, that loads nothing."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from string import Template

from workbench.errors import OutputError
from workbench.explorer.data import ExplorerData
from workbench.files import write_text

SCRIPT = "explorer.js"

_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; connect-src 'none'; "
    "base-uri 'none'; form-action 'none'"
)


@cache
def _file(name: str) -> str:
    return (resources.files("workbench.explorer") / name).read_text(encoding="utf-8")


@cache
def script() -> str:
    """The explorer's JavaScript module, as anywidget takes it."""
    return _file(SCRIPT)


def explorer_fragment(data: ExplorerData) -> str:
    """The explorer as a section of a page, with its data and its script in it; once per page.

    It works under a policy that allows inline scripts and styles and nothing else. What needs Python is left out, and
    said to be.

    Parameters
    ----------
    data
        What is shown, from `from_run` or `from_model`.
    """
    text = json.dumps(replace(data, live=None).to_dict(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # No label can end the script, nor begin a comment in it.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Template(_file("fragment.html").rstrip("\n")).substitute(data=text, script=f"{script()}\n{_file('shim.js')}")


def write_explorer(data: ExplorerData, path: str | Path) -> Path:
    """Write the explorer as a page of its own.

    Parameters
    ----------
    data
        What is shown, from `from_run` or `from_model`.
    path
        HTML file to write; its folder is made, an explorer in its place is replaced.

    Raises
    ------
    OutputError
        If its folder cannot be written, or a file that is no explorer is there.
    """
    path = Path(path).expanduser()
    if path.is_file() and _POLICY not in path.read_text(encoding="utf-8", errors="replace"):
        raise OutputError(f"'{path}' is there already and is no explorer; it is not overwritten: choose another name.")
    title = html.escape(f"Explorer: {data.title}", quote=True)
    return write_text(
        path,
        Template(_file("page.html").replace("@policy@", _POLICY)).substitute(
            title=title, fragment=explorer_fragment(data)
        ),
    )
