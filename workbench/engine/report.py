"""The report of a run: one page that works offline, and every figure beside it as HTML and JSON."""

from __future__ import annotations

import base64
import gzip
import html
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from workbench.engine.section import STATES, Control
from workbench.engine.tables import read_tables
from workbench.errors import OutputError
from workbench.figures import page
from workbench.figures.requests import Request, drawn, write_index
from workbench.figures.style import number
from workbench.files import write_text

REQUIRED = ("title", "opening", "answers", "model", "data")
# What a row of a known table is, for the count of things in the facts.
UNITS = {"latent": "cells", "heads": "heads", "distances": "pairs of stages"}
ROWS_SHOWN = 200
PLOTLY_FILE = "plotly.min.js"
# No button that offers to send a figure to a server, none that selects points for nothing.
_CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d"],
}
LONG_CELL = 40
_ABOUT_TABLES = """<p class="note">A click on a header, or Enter on it, sorts by that column.
<span class="on-paper">On paper, at most 40 rows of each.</span></p>"""


def write_report(
    out: Path,
    summary: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, go.Figure],
    *,
    explorer: str = "",
) -> Path:
    """Write `report.html`, and per figure `figures/NAME.html` and `figures/NAME.json`.

    The report holds plotly.js once and loads nothing; the pages in `figures/` share `figures/plotly.min.js`.

    Parameters
    ----------
    out
        Output folder; the report and ``figures/`` are written into it.
    summary
        `title`, `opening` (a `section.Opening`), `answers` (list), `model`, `data`; for every figure a text in `captions`
        (model, data, n, spread, null) and the command that makes it in `commands`; optional: `controls` (list of
        `section.Control`), `shows` (name of the figure under the opening), `n`, `facts` (such as gates and controls, one line
        each), `algorithm`, `skipped` (list of `what` and `why`), `cautions` (list), `provenance` (pairs of key and value). All
        plain text.
    tables
        Tidy tables by name; the whole of each is expected at `tables/NAME.csv`, the report shows the first rows.
    figures
        Figures by name; a name may hold letters, digits, `_` and `-`.
    explorer
        HTML from `workbench.explorer.page.explorer_fragment`, put in as it is.

    Returns
    -------
    pathlib.Path
        The report.

    Raises
    ------
    OutputError
        If the summary lacks something, a name cannot be a file name, or the folder cannot be written.
    """
    _check(summary, tables, figures)
    divs = write_figures(out, figures, summary.get("captions", {}))
    shown = summary.get("shows", "")
    # Under the opening a caption is folded; the other figures have theirs open.
    drawn = {
        name: _figure(name, divs[name], figures[name], summary, "" if name == shown else " open") for name in figures
    }
    folds = _folds(summary, tables, {name: one for name, one in drawn.items() if name != shown}, explorer)
    content = page.REPORT.substitute(
        title=_text(summary["title"]),
        plotly=_packed_plotly() if figures else "",
        opening="\n".join(
            f"<div><dt>{_text(label)}</dt><dd>{_text(sentence)}</dd></div>"
            for label, sentence in summary["opening"].lines.items()
        ),
        shown=f'<section id="shown" aria-label="The answer as a figure">\n{drawn[shown]}\n</section>'
        if shown in drawn
        else "",
        controls=_controls(summary.get("controls", ())),
        contents="\n".join(_contents(one) for one in folds),
        folds="\n".join(
            page.FOLD.substitute(id=one.id, heading=_text(one.heading), count=one.size, body=one.body) for one in folds
        ),
    )
    return write_text(out / "report.html", content)


def report_run(
    out: Path,
    summary: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame],
    requests: Sequence[Request],
    *,
    explorer: str = "",
) -> Path:
    """Draw the figures that a run asks for, write what `workbench figures` needs to draw them again, and the report.

    Parameters
    ----------
    out
        Folder of the run, with ``tables/``.
    summary
        As in `write_report`, with `command`, which makes the tables, in place of `captions` and `commands`.
    tables
        As in `write_report`.
    requests
        The figures that are asked for, in their order.
    explorer
        As in `write_report`.
    """
    again = shlex.join(["workbench", "figures", str(out), "--only"])
    commands = {
        one.name: f"{again} {one.name}   # from {', '.join(f'tables/{name}.csv' for name in one.of.tables)}\n{summary['command']}"
        for one in requests
    }
    wanted = {name for one in requests for name in (*one.of.tables, *one.of.optional)}
    figures, missing = drawn(requests, {**read_tables(out, sorted(wanted - set(tables))), **tables})
    write_index(out, requests, summary["command"])
    skipped = [{"what": f"Figure '{name}'", "why": why} for name, why in missing.items()]
    more = {
        "captions": {one.name: one.caption for one in requests},
        "commands": commands,
        "skipped": [*summary.get("skipped", ()), *skipped],
    }
    return write_report(out, {**summary, **more}, tables, figures, explorer=explorer)


def write_figures(out: Path, figures: Mapping[str, go.Figure], captions: Mapping[str, str]) -> dict[str, str]:
    """Write `figures/NAME.html` and `figures/NAME.json` per figure; the pages share one plotly.js.

    Parameters
    ----------
    out
        Output folder; the report and ``figures/`` are written into it.
    figures, captions
        Figures and the texts under them, by the name of the figure.

    Returns
    -------
    dict of str to str
        The part of each page that holds the figure.
    """
    folder = out / "figures"
    if figures:
        write_text(folder / PLOTLY_FILE, get_plotlyjs())
    divs = {name: _div(name, figure) for name, figure in figures.items()}
    for name, figure in figures.items():
        alt = _alt(name, figure, captions)
        parts = {"title": _text(_heading(name)), "plotly": PLOTLY_FILE, "alt": alt, "figure": divs[name]}
        write_text(folder / f"{name}.html", page.FIGURE_PAGE.substitute(parts))
        write_text(folder / f"{name}.json", figure.to_json())
    return divs


def _check(summary: Mapping[str, Any], tables: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    missing = [key for key in REQUIRED if not summary.get(key)]
    if missing:
        raise OutputError(f"The report cannot be written: its summary lacks {', '.join(map(repr, missing))}.")
    if isinstance(summary["answers"], str):
        raise OutputError("The report cannot be written: 'answers' of its summary is one string, not a list of lines.")
    for name in (*figures, *tables):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise OutputError(
                f"The report cannot be written: '{name}' is no name for a file; use letters, digits, '_' and '-'."
            )
    for part in ("captions", "commands"):
        lacking = [name for name in figures if not summary.get(part, {}).get(name)]
        if lacking:
            raise OutputError(
                f"The report cannot be written: '{part}' of its summary lacks {', '.join(map(repr, lacking))}."
            )


class _Fold(NamedTuple):
    """A part of the page that is closed at first, with the figures that the contents name."""

    id: str
    heading: str
    size: object
    body: str
    figures: Sequence[str] = ()


def _folds(
    summary: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], figures: Mapping[str, str], explorer: str
) -> list[_Fold]:
    skipped, cautions = summary.get("skipped", ()), summary.get("cautions", ())
    facts = f'<dl class="facts">\n{_facts(summary, tables)}\n</dl>'
    drawn = "\n".join(figures.values()) or "<p>No other figure was drawn.</p>"
    shown = "\n".join(_table(name, table) for name, table in tables.items())
    every = [
        _Fold("findings", "All findings", len(summary["answers"]), _findings(summary["answers"])),
        _Fold("facts", "Model, data and n", "", facts),
        _Fold("figures", "Figures", len(figures), drawn, list(figures)),
        _Fold("explorer-fold", "Explorer", "", explorer),
        _Fold("skipped", "What was skipped, and why", len(skipped), _skipped(skipped)),
        _Fold("cautions", "What could be wrong with this", len(cautions), _list(cautions, "Nothing was noted.")),
        _Fold("tables", "Tables", len(tables), f"{_ABOUT_TABLES}\n{shown}" if tables else "<p>No table was made.</p>"),
        _Fold("provenance", "Provenance", "", _provenance(summary.get("provenance", ()))),
    ]
    return [one for one in every if one.body]


def _contents(fold: _Fold) -> str:
    inner = "".join(f'<li><a href="#figure-{name}">{_text(_heading(name))}</a></li>' for name in fold.figures)
    count = f' <span class="count">{fold.size}</span>' if fold.size != "" else ""
    named = f'<ul aria-label="Figures">{inner}</ul>' if inner else ""
    return f'<li><a href="#{fold.id}">{_text(fold.heading)}</a>{count}{named}</li>'


def _controls(controls: Sequence[Control]) -> str:
    if not controls:
        return ""
    marks = [
        f'<li class="{one.state}" title="{_text(STATES[one.state][1])}"><span class="mark" aria-hidden="true">'
        f'{STATES[one.state][0]}</span><span class="unseen">{one.state}: </span><b>{_text(one.name)}</b>: {_text(one.text)}</li>'
        for one in controls
    ]
    used = [state for state in STATES if any(one.state == state for one in controls)]
    legend = "; ".join(f"{STATES[state][0]} {STATES[state][1]}" for state in used)
    return page.CONTROLS.substitute(marks="\n".join(marks), legend=_text(legend))


def _apart(text: str, mark: str) -> list[str]:
    """Parts of a text between marks that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and text.startswith(mark, i):
            parts.append(text[start:i])
            start = i + len(mark)
    return [*parts, text[start:]]


def _findings(lines: Sequence[object]) -> str:
    """Findings, a sentence a line; a sentence that lists things with semicolons becomes a list."""
    items = []
    for line in lines:
        said = []
        for sentence in re.split(r"(?<=\.)\n", re.sub(r"\. (?=[A-Z])", ".\n", str(line))):
            lead, colon, listed = sentence.partition(": ")
            parts = _apart(listed, "; ")
            said.append(
                f"<p>{_text(lead)}:</p>\n<ul>\n{_items(parts)}\n</ul>"
                if colon and len(parts) > 2
                else f"<p>{_text(sentence)}</p>"
            )
        items.append(f"<li>{''.join(said)}</li>")
    return f'<ul class="findings">\n{chr(10).join(items)}\n</ul>'


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _heading(name: str) -> str:
    words = re.sub(r"[_-]+", " ", name).strip()
    return words[:1].upper() + words[1:]


def _items(lines: Iterable[object]) -> str:
    return "\n".join(f"<li>{_text(line)}</li>" for line in lines)


def _list(lines: Sequence[object], otherwise: str) -> str:
    return f"<ul>\n{_items(lines)}\n</ul>" if lines else f"<p>{_text(otherwise)}</p>"


def _facts(summary: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> str:
    counted = "; ".join(f"{len(tables[name]):,} {unit}" for name, unit in UNITS.items() if name in tables)
    facts = {
        "Model": summary["model"],
        "Data": summary["data"],
        "n": summary.get("n") or counted,
        **summary.get("facts", {}),
        "Exported algorithm": summary.get("algorithm"),
    }
    lines = [f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items() if value]
    skipped = summary.get("skipped", ())
    names = "; ".join(str(item["what"]) for item in skipped) or "nothing"
    lines.append(f'<dt><a href="#skipped">Skipped</a></dt><dd>{_text(names)}</dd>')
    return "\n".join(lines)


def _skipped(skipped: Sequence[Mapping[str, str]]) -> str:
    if not skipped:
        return "<p>Nothing was skipped.</p>"
    items = "\n".join(f"<li><strong>{_text(item['what'])}</strong>: {_text(item['why'])}</li>" for item in skipped)
    return f"<ul>\n{items}\n</ul>"


def _provenance(pairs: Sequence[tuple[object, object]]) -> str:
    if not pairs:
        return "<p>No provenance was recorded.</p>"
    rows = (f'<tr><th scope="row">{_text(key)}</th><td>{_text(value)}</td></tr>' for key, value in pairs)
    return page.PROVENANCE.substitute(rows="\n".join(rows))


@cache
def _packed_plotly() -> str:
    """plotly.js, gzipped, as text: a third of its size."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _div(name: str, figure: go.Figure) -> str:
    # Plotly writes `<`, `>` and `/` of the data as \u escapes, so no label can end the script.
    return plotly.io.to_html(
        figure, config=_CONFIG, include_plotlyjs=False, full_html=False, div_id=f"plot-{name}", default_width="100%"
    )


def _alt(name: str, figure: go.Figure, captions: Mapping[str, str]) -> str:
    # The title of a figure is plotly's small HTML: its first line, without marks, is the alternative text's start.
    title = (figure.layout.title.text or _heading(name)).split("<br>")[0]
    plain = html.unescape(re.sub(r"<[^>]*>", "", title))
    return _text(f"{plain}. {captions[name]}")


def _figure(name: str, div: str, figure: go.Figure, summary: Mapping[str, Any], opened: str) -> str:
    return page.FIGURE.substitute(
        name=name,
        open=opened,
        heading=_text(_heading(name)),
        alt=_alt(name, figure, summary["captions"]),
        # The page's own script runs it, once the figure is in view.
        figure=re.sub("<script[^>]*>", '<script type="text/plain" class="drawing">', div, count=1),
        caption=_text(summary["captions"][name]),
        command=_text(summary["commands"][name]),
    )


def _table(name: str, table: pd.DataFrame) -> str:
    shown = table.head(ROWS_SHOWN)
    columns = [(str(column), *_cells(shown[column])) for column in table.columns]
    head = "\n".join(
        f'<th scope="col" aria-sort="none"{kind}><button type="button">{_text(column)}</button></th>'
        for column, kind, _ in columns
    )
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in zip(*(cells for *_, cells in columns), strict=True))
    size = f"{len(table):,} rows" if len(table) == len(shown) else f"the first {len(shown)} of {len(table):,} rows"
    note = f"{size}; the whole table: tables/{name}.csv"
    return page.TABLE.substitute(name=name, heading=_text(_heading(name)), note=_text(note), head=head, body=body)


def _cells(column: pd.Series) -> tuple[str, list[str]]:
    """Class of a column and its cells; a number keeps its full value for sorting."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return ' class="number"', [
            f'<td class="number" data-value="{"" if pd.isna(v) else repr(float(v))}">{number(float(v), 4)}</td>'
            for v in column
        ]
    texts = ["" if pd.isna(v) else str(v) for v in column]
    opened = ['<td class="long">' if len(t) > LONG_CELL else "<td>" for t in texts]
    return "", [f"{tag}{_text(t)}</td>" for tag, t in zip(opened, texts, strict=True)]
