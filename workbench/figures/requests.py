"""The figures of one run: what it asked the gallery for, its index, and drawing them from its tables alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.engine.record import damaged_tables
from workbench.engine.tables import read_tables, there
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
        Name of its files in ``figures``, without an ending.
    caption
        Sentences under the figure: model, data, n, spread and null.
    entry
        Name in the gallery; the figure's own when empty.
    options
        Arguments for the drawing beside the tables; JSON-ready.
    rows
        Column -> value that rows of the tables need to have, such as the ruler of a run of several; tables without the column are taken whole.
    """

    name: str
    caption: str
    entry: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)

    @property
    def of(self) -> Entry:
        """The entry of the gallery."""
        return GALLERY[self.entry or self.name]


def drawn(requests: Sequence[Request], tables: Tables) -> tuple[dict[str, go.Figure], dict[str, str]]:
    """Draw figures; what cannot be drawn from the tables as they are is left out.

    Parameters
    ----------
    requests
        Figures to draw, each with the entry of the gallery that draws it.
    tables
        Tables by name, as `tables/NAME.csv` holds them; those that no figure needs do no harm.

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
            figures[request.name] = _draw(request, tables)
        except EvaluationError as error:
            missing[request.name] = str(error)
    return figures, missing


def _draw(request: Request, tables: Tables) -> go.Figure:
    wanted = (*request.of.tables, *request.of.optional)
    own = {name: _rows(tables[name], request.rows) for name in wanted if name in tables}
    return request.of.draw(own, **request.options)


def _rows(table: pd.DataFrame, wanted: Mapping[str, str]) -> pd.DataFrame:
    for column, value in wanted.items():
        if column in table:
            table = table[table[column].astype(str) == value].drop(columns=column).reset_index(drop=True)
    return table


def write_index(out: Path, requests: Sequence[Request], command: str) -> None:
    """Write ``figures/index.json``: what `regenerate` needs beside the tables.

    Parameters
    ----------
    out
        Folder of the run; the index goes to its ``figures``.
    requests
        All figures of the run, drawn or not; an old index is replaced.
    command
        Command line that makes the tables, for whoever reads the index.
    """
    entries = {
        one.name: {
            "entry": one.entry or one.name,
            "options": dict(one.options),
            "caption": one.caption,
            **({"rows": dict(one.rows)} if one.rows else {}),
        }
        for one in requests
    }
    write_json(out / "figures" / INDEX, {"command": command, "figures": entries})


def requests_of(out: Path) -> list[Request]:
    """Figures of a run: those of its index, or, where it has none, one of each entry whose tables are there.

    Parameters
    ----------
    out
        Folder of a run, with its ``tables``.

    Raises
    ------
    OutputError
        If the folder holds no tables.
    """
    held = there(out)
    if not held:
        raise OutputError(f"'{out}' holds no tables/*.csv; give the folder that a run wrote.")
    index = out / "figures" / INDEX
    if not index.is_file():
        caption = "Drawn from the tables alone; the run left no caption."
        return [Request(name, caption) for name, entry in GALLERY.items() if set(entry.tables) <= held]
    known = read_json(index)["figures"]
    return [
        Request(name, one["caption"], one["entry"], one["options"], one.get("rows", {})) for name, one in known.items()
    ]


def chosen(requests: Sequence[Request], names: Sequence[str]) -> list[Request]:
    """Those of some names; a name of the gallery stands for all figures of that entry.

    Parameters
    ----------
    requests
        Figures of a run, from `requests_of`.
    names
        Names of figures or of entries of the gallery; all figures where it is empty.

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


def regenerated(out: Path, requests: Sequence[Request]) -> tuple[dict[str, go.Figure], dict[str, str]]:
    """Draw figures of a run from its tables alone.

    Parameters
    ----------
    out
        Folder of the run, whose tables are read; nothing is written. No figure is drawn of a table that was changed since.
    requests
        Figures to draw, from `requests_of` or `chosen`.

    Returns
    -------
    figures, missing
        As `drawn` gives them.
    """
    bad = damaged_tables(out)
    missing = {
        one.name: f"tables/{table}.csv was {bad[table]} since the run wrote it; give the run's command again"
        for one in requests
        for table in (*one.of.tables, *one.of.optional)
        if table in bad
    }
    sound = [one for one in requests if one.name not in missing]
    names = {name for request in sound for name in (*request.of.tables, *request.of.optional)}
    figures, lacking = drawn(sound, read_tables(out, sorted(names)))
    return figures, {**lacking, **missing}
