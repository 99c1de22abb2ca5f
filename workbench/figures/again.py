"""``workbench figures``: draw the figures of a run again from its tables, or list them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from workbench.engine.folder import MARKER, check_layout
from workbench.engine.report import write_figures
from workbench.engine.tables import there
from workbench.errors import OutputError, unknown_name
from workbench.figures.gallery import GALLERY
from workbench.figures.requests import INDEX, chosen, regenerated, requests_of
from workbench.figures.style import in_dark

PAGES, IMAGES = ("html",), ("svg", "png", "pdf")
_SCALE = 2  # of PNG: dots per CSS pixel


def listing(out: Path) -> list[dict[str, Any]]:
    """Every figure of the gallery: whether this run has it, and if not, why.

    Parameters
    ----------
    out
        Folder of a finished run, with its ``tables``.

    Returns
    -------
    list of dict
        ``figure`` (its name in the gallery), ``drawn`` (names of its figures in this run), ``missing`` (why there is none),
        ``shows``, ``paper``, ``tables``.
    """
    requests = requests_of(out)
    held = there(out)
    rows = []
    for name, entry in GALLERY.items():
        lacking = [table for table in entry.tables if table not in held]
        drawn = [] if lacking else [one.name for one in requests if (one.entry or one.name) == name]
        why = f"tables/{lacking[0]}.csv is not there" if lacking else "" if drawn else "the run has not asked for it"
        about = {"shows": entry.shows, "paper": entry.paper, "tables": list(entry.tables)}
        rows.append({"figure": name, "drawn": drawn, "missing": why, **about})
    return rows


def listing_text(rows: Sequence[dict[str, Any]]) -> str:
    """The listing as text.

    Parameters
    ----------
    rows
        Rows from `listing`, two or three lines each.
    """
    lines = []
    for row in rows:
        names = "" if row["drawn"] == [row["figure"]] else f" ({', '.join(row['drawn'])})"
        state = f"missing: {row['missing']}" if row["missing"] else f"drawn{names}"
        lines.append(f"{row['figure']:<16} {state}\n{'':<17}{row['shows']}")
        if row["paper"]:
            lines.append(f"{'':<17}in the paper: {row['paper']}")
    return "\n".join(lines)


def draw_again(
    out: Path, only: Sequence[str] = (), formats: Sequence[str] = PAGES, *, dark: bool = False
) -> tuple[list[Path], dict[str, str]]:
    """Draw figures of a run from its tables alone.

    Parameters
    ----------
    out
        Folder of a finished run; figures are written to ``figures`` in it.
    only
        Names of figures, or of entries of the gallery; all when empty.
    formats
        ``html`` (with the JSON beside it), ``svg``, ``png``, ``pdf``; the last three need kaleido and a Chrome or Chromium.
    dark
        Images in the colours of a dark page; pages follow the reader's theme anyway.

    Returns
    -------
    written
        The files.
    missing
        Figures that could not be drawn, and why.

    Raises
    ------
    OutputError
        If the folder holds no run, a figure or format is unknown, or images cannot be made here.
    """
    for name in formats:
        if name not in (*PAGES, *IMAGES):
            raise OutputError(unknown_name("format", name, (*PAGES, *IMAGES)))
    check_layout(out)
    drawn = out / "figures"
    if drawn.exists() and not any(mark.is_file() for mark in (out / MARKER, drawn / INDEX, drawn / "plotly.min.js")):
        raise OutputError(
            f"'{drawn}' is there, and nothing in it says that the workbench made it: its files would be overwritten. Give the folder "
            "that a run wrote, or move these figures."
        )
    requests = chosen(requests_of(out), only)
    figures, missing = regenerated(out, requests)
    written: list[Path] = []
    if set(formats) & set(PAGES):
        write_figures(out, figures, {one.name: one.caption for one in requests})
        written += [out / "figures" / f"{name}.html" for name in figures]
    for kind in (name for name in formats if name in IMAGES):
        for name, figure in figures.items():
            written.append(_image(in_dark(figure) if dark else figure, out / "figures" / f"{name}.{kind}"))
    return written, missing


def _image(figure: go.Figure, path: Path) -> Path:
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.write_image(part, format=path.suffix[1:], scale=_SCALE if path.suffix == ".png" else 1, width=1000)
    except Exception as error:  # kaleido raises what its browser raises
        part.unlink(missing_ok=True)
        said = str(error).strip().splitlines()
        raise OutputError(
            f"'{path}' cannot be made ({said[0] if said else type(error).__name__}); SVG, PNG and PDF need kaleido (pip install "
            '"scgpt-workbench[image]") and a Chrome or Chromium. The pages in figures/*.html need neither.'
        ) from error
    part.replace(path)
    return path
