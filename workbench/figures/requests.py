"""The figures of one run: what it asked the gallery for, its index, and drawing them from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.errors import EvaluationError, OutputError, unknown_name
from workbench.figures.gallery import GALLERY, Entry, Tables
from workbench.files import read_json, write_json

INDEX = "index.json"


@dataclass(frozen=True)
class Request:
    """A figure as a run asks for it.

    Attributes
    ----------
    name
        Of its files.
    caption
        Model, data, n, spread and null.
    entry
        Name in the gallery; the figure's own when empty.
    options
        For the drawing, JSON-ready.
    """

    name: str
    caption: str
    entry: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def of(self) -> Entry:
        """The entry of the gallery."""
        return GALLERY[self.entry or self.name]


def drawn(requests: Sequence[Request], tables: Tables) -> tuple[dict[str, go.Figure], dict[str, str]]:
    """Draw figures; what cannot be drawn from the tables as they are is left out.

    Parameters
    ----------
    requests
        What is asked for.
    tables
        Tables by name.

    Returns
    -------
    figures
        By name.
    missing
        Those that could not be drawn, and why.
    """
    figures, missing = {}, {}
    for request in requests:
        lacking = [name for name in request.of.tables if name not in tables]
        if lacking:
            missing[request.name] = f"tables/{', tables/'.join(f'{name}.csv' for name in lacking)} is not there"
            continue
        try:
            figures[request.name] = _draw(request.of, tables, request.options)
        except EvaluationError as error:
            missing[request.name] = str(error)
    return figures, missing


def _draw(entry: Entry, tables: Tables, options: Mapping[str, Any]) -> go.Figure:
    wanted = (*entry.tables, *entry.optional)
    return entry.draw({name: tables[name] for name in wanted if name in tables}, **options)


def write_index(out: Path, requests: Sequence[Request], command: str) -> None:
    """Write ``figures/index.json``: what `regenerate` needs beside the tables.

    Parameters
    ----------
    out
        Folder of the run.
    requests
        The figures of the run.
    command
        The command that makes the tables.
    """
    entries = {
        one.name: {"entry": one.entry or one.name, "options": dict(one.options), "caption": one.caption}
        for one in requests
    }
    write_json(out / "figures" / INDEX, {"command": command, "figures": entries})


def requests_of(out: Path) -> list[Request]:
    """Figures of a run: those of its index, or, where it has none, one of each entry whose tables are there.

    Parameters
    ----------
    out
        Folder of the run.

    Raises
    ------
    OutputError
        If the folder holds no tables.
    """
    there = {path.stem for path in (out / "tables").glob("*.csv")}
    if not there:
        raise OutputError(f"'{out}' holds no tables/*.csv; give the folder that a run wrote.")
    index = out / "figures" / INDEX
    if not index.is_file():
        caption = "Drawn from the tables alone; the run left no caption."
        return [Request(name, caption) for name, entry in GALLERY.items() if set(entry.tables) <= there]
    known = read_json(index)["figures"]
    return [Request(name, one["caption"], one["entry"], one["options"]) for name, one in known.items()]


def chosen(requests: Sequence[Request], names: Sequence[str]) -> list[Request]:
    """Those of some names; a name of the gallery stands for all figures of that entry.

    Parameters
    ----------
    requests
        Figures of a run.
    names
        All where there are none.

    Raises
    ------
    OutputError
        If the run has no such figure.
    """
    for name in names:
        if not any(name in (one.name, one.entry) for one in requests):
            known = [one.name for one in requests]
            why = f" The gallery has it, from {', '.join(GALLERY[name].tables)}.csv." if name in GALLERY else ""
            raise OutputError(f"This run has no figure '{name}'.{why} {unknown_name('figure', name, known)}")
    return [one for one in requests if not names or {one.name, one.entry} & set(names)]


def read_tables(out: Path, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Tables of a run; only an empty field is missing, a label such as "NA" is a label.

    Parameters
    ----------
    out
        Folder of the run.
    names
        Those that are not there are left out.
    """
    paths = {name: out / "tables" / f"{name}.csv" for name in names}
    return {
        name: pd.read_csv(path, keep_default_na=False, na_values=[""]) for name, path in paths.items() if path.is_file()
    }


def regenerated(out: Path, requests: Sequence[Request]) -> tuple[dict[str, go.Figure], dict[str, str]]:
    """Draw figures of a run from its tables alone.

    Parameters
    ----------
    out
        Folder of the run.
    requests
        From `requests_of`.

    Returns
    -------
    figures, missing
        As `drawn` gives them.
    """
    names = {name for request in requests for name in (*request.of.tables, *request.of.optional)}
    return drawn(requests, read_tables(out, sorted(names)))
