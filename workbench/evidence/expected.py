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

_KEYS = {"claim", "published", "table", "where", "column", "best", "elsewhere"}
# The columns that a table's sd is the sd of; sizes have neither sd nor n.
_WITH_SD = {"spearman", "value", "impact"}
_SIZES = {"bytes", "parameters"}


def expected_table(path: Path, out: Path, made: Collection[str]) -> tuple[pd.DataFrame, str]:
    """The table ``expected`` of a command, which is also written, and a sentence about it.

    Parameters
    ----------
    path
        YAML file with ``source`` and ``figures``: each has a ``claim``, the ``published`` number, and either ``table``,
        ``where`` (column: value) and ``column`` of the command's tables, with ``best: true`` for the largest of several
        rows, or ``elsewhere`` (what else gives it).
    out
        Output folder, whose tables are read and in which ``tables/expected.csv`` is written.
    made
        Names of the tables that are of this configuration; what else lies in the folder is not looked at.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not of that form.
    """
    source, figures = read_expected(path)
    rows = [_row(out, figure, made) for figure in figures]
    table = pd.DataFrame(rows, columns=["claim", "published", "found", "sd", "n", "from"])
    found = int(table["found"].notna().sum())
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
        YAML file, as `expected_table` takes it.

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
        whole = isinstance(figure, dict) and {"claim", "published"} <= set(figure) <= _KEYS
        if not whole or ("elsewhere" in figure) == ("table" in figure):
            raise ConfigError(
                f"'{path}' has a figure that is not of the form claim, published, and table, where, column or elsewhere: {figure}."
            )
    return str(raw["source"]), figures


def _row(out: Path, figure: dict[str, Any], made: Collection[str]) -> dict[str, Any]:
    row = {"claim": figure["claim"], "published": figure["published"]}
    if "elsewhere" in figure:
        return {**row, "from": figure["elsewhere"]}
    name, column = figure["table"], figure["column"]
    if name not in made or not table_path(out, name).is_file():
        return {**row, "from": f"not made in this run: {name}.csv"}
    part = read_table(table_path(out, name))
    for key, value in figure.get("where", {}).items():
        part = part[_equal(part[key], value)] if key in part else part.iloc[:0]
    if part.empty or column not in part:
        return {**row, "from": f"no such row in {name}.csv"}
    first = part.sort_values(column, ascending=False, kind="stable").iloc[0] if figure.get("best") else part.iloc[0]
    n = next((first[key] for key in ("n_splits", "n_folds", "n_anchors") if key in part and column not in _SIZES), None)
    sd = first.get("sd") if column in _WITH_SD else None
    return {**row, "found": first[column], "sd": sd, "n": n, "from": f"{name}.csv, {column}"}


def _equal(column: pd.Series, value: Any) -> pd.Series:
    """Numbers as numbers: a whole number that stands beside a missing one is read as 4.0."""
    if isinstance(value, (int, float)) and pd.api.types.is_numeric_dtype(column):
        return column == value
    return column.astype(str) == str(value)
