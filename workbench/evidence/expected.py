"""Published figures beside what a command found: printed, never asserted."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from workbench.engine.tables import read_table, table_path, write_table
from workbench.errors import ConfigError
from workbench.yaml_once import read_yaml

_KEYS = {"claim", "published", "command", "table", "where", "column", "best", "first", "needs"}
_NEEDED = {"claim", "published", "command", "table", "column"}
# The columns that a table's sd is the sd of; sizes have neither sd nor n.
_WITH_SD = {"spearman", "value", "impact"}
_SIZES = {"bytes", "parameters"}
_COUNTS = ("n_splits", "n_folds", "n_anchors", "n")


def expected_table(path: Path, out: Path, made: Collection[str], convention: str = "") -> tuple[pd.DataFrame, str]:
    """The table ``expected`` of a command, which is also written, and a sentence about it.

    Parameters
    ----------
    path
        YAML file with ``source`` and ``figures``, as `read_expected` takes it.
    out
        Output folder, whose tables are read and in which ``tables/expected.csv`` is written.
    made
        Names of the tables that are of this configuration; what else lies in the folder is not looked at.
    convention
        Convention of the operators, which becomes a column; empty for the default, of which nothing is said.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not of that form.
    """
    source, figures = read_expected(path)
    rows = [{**look_up(figure, out, made), "needs": figure.get("needs")} for figure in figures]
    table = pd.DataFrame(rows, columns=["claim", "published", "found", "sd", "n", "from", "needs"])
    found = int(table["found"].notna().sum())
    table = table.assign(convention=convention) if convention else table
    write_table(table_path(out, "expected"), table)
    return table, (
        f"Published figures ({source}) stand beside those of this run in the table 'expected': {found} of {len(table)} have a "
        "counterpart here. Where model, cells or panel differ from the publication's, a difference says nothing about it."
    )


def read_expected(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Source and figures of a file of published figures.

    Parameters
    ----------
    path
        YAML file with ``source`` and ``figures``. Each has a ``claim``, the ``published`` number or text, and where its counterpart
        is looked up: ``command``, ``table``, ``where`` (column: value) and ``column``. Of a list of values, or of columns, the
        first counts that is there. ``best: true`` takes the largest of several rows, ``best: spearman`` the row where another column is largest,
        ``first: 3`` the texts of three. ``needs``
        says what it takes where the cells that ship do not have it.

    Raises
    ------
    ConfigError
        If it cannot be read or is not of that form.
    """
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The published figures in '{path}' cannot be read ({error}); check 'expected'.") from error
    figures = raw.get("figures") if isinstance(raw, dict) else None
    if not isinstance(figures, list) or not raw.get("source"):
        raise ConfigError(f"'{path}' holds no published figures: it needs 'source' and a list 'figures'.")
    for figure in figures:
        if not isinstance(figure, dict) or not _NEEDED <= set(figure) <= _KEYS:
            raise ConfigError(
                f"'{path}' has a figure that is not of the form claim, published, command, table, where, column: {figure}."
            )
    return str(raw["source"]), figures


def look_up(figure: dict[str, Any], out: Path, made: Collection[str]) -> dict[str, Any]:
    """The counterpart of a published figure in the tables of a run.

    Parameters
    ----------
    figure
        One of those that `read_expected` gives.
    out
        Output folder, whose tables are read.
    made
        Names of the tables that are looked at.

    Returns
    -------
    dict
        ``claim``, ``published``, ``from``; and where there is one ``found``, ``sd`` and ``n``.
    """
    row = {"claim": figure["claim"], "published": figure["published"]}
    name, columns = figure["table"], _listed(figure["column"])
    if name not in made or not table_path(out, name).is_file():
        return {**row, "from": f"not made in this run: {name}.csv of workbench {figure['command']}"}
    part = read_table(table_path(out, name))
    for key, value in figure.get("where", {}).items():
        parts = [part[_equal(part[key], one)] if key in part else part.iloc[:0] for one in _listed(value)]
        part = next((one for one in parts if len(one)), parts[-1])
    column = next((one for one in columns if one in part and part[one].notna().any()), columns[0])
    if part.empty or column not in part:
        return {**row, "from": f"no such row in {name}.csv"}
    whence = f"{name}.csv, {column}"
    if n := figure.get("first"):
        return {**row, "found": ", ".join(map(str, part[column].head(n))), "from": whence}
    if best := figure.get("best"):
        part = part.sort_values(column if best is True else best, ascending=False, kind="stable")
    chosen = part.iloc[0]
    n = next((chosen[key] for key in _COUNTS if key in part and column not in _SIZES), None)
    sd = chosen.get("sd") if column in _WITH_SD else None
    return {**row, "found": chosen[column], "sd": sd, "n": n, "from": whence}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _equal(column: pd.Series, value: Any) -> pd.Series:
    """Numbers as numbers: a whole number that stands beside a missing one is read as 4.0."""
    if isinstance(value, (int, float)) and pd.api.types.is_numeric_dtype(column):
        return column == value
    return column.astype(str) == str(value)
