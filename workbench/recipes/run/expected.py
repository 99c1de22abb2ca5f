"""Published figures beside what a run found: printed, never asserted."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from workbench.errors import ConfigError
from workbench.figures.requests import read_tables
from workbench.recipes.run.chain import Chain
from workbench.recipes.run.section import Section

_KEYS = {"claim", "published", "table", "where", "column", "best", "elsewhere"}
# The columns that a table's sd is the sd of; sizes have neither sd nor n.
_WITH_SD = {"spearman", "value", "impact"}
_SIZES = {"bytes", "parameters"}


def side_by_side(chain: Chain, made: Collection[str]) -> Section:
    """A table of published figures and the run's own.

    Parameters
    ----------
    chain
        A run whose tables are written; its ``expected`` names a YAML file with ``source`` and ``figures``: each has a
        ``claim``, the ``published`` number, and either ``table``, ``where`` (column: value) and ``column`` of the run, with
        ``best: true`` for the largest of several rows, or ``elsewhere`` (what else gives it).
    made
        Names of the tables that are of this configuration.

    Raises
    ------
    ConfigError
        If the file cannot be read or is not of that form.
    """
    assert chain.config.expected is not None
    table, said = expected_table(chain.config.expected, chain.out, made)
    return Section(tables={"expected": table}, answers=[said])


def expected_table(path: Path, out: Path, made: Collection[str] | None = None) -> tuple[pd.DataFrame, str]:
    """The table ``expected`` of a run, which is also written, and a sentence about it.

    Parameters
    ----------
    path
        As ``expected`` in `side_by_side`.
    out
        Folder of a run whose tables are written.
    made
        Names of the tables that are of this configuration; any that lie there when None.
    """
    source, figures = read_expected(path)
    rows = [_row(out, figure, made) for figure in figures]
    table = pd.DataFrame(rows, columns=["claim", "published", "found", "sd", "n", "from"])
    found = int(table["found"].notna().sum())
    said = (
        f"Published figures ({source}) stand beside those of this run in the table 'expected': {found} of {len(table)} have a "
        "counterpart here. Where model, cells or panel differ from the publication's, a difference says nothing about it."
    )
    table.to_csv(out / "tables" / "expected.csv", index=False)
    return table, said


def read_expected(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Source and figures of such a file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ConfigError
        If it cannot be read or is not of that form.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
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


def _row(out: Path, figure: dict[str, Any], made: Collection[str] | None) -> dict[str, Any]:
    row = {"claim": figure["claim"], "published": figure["published"]}
    if "elsewhere" in figure:
        return {**row, "from": figure["elsewhere"]}
    name, column = figure["table"], figure["column"]
    if not (out / "tables" / f"{name}.csv").is_file() or (made is not None and name not in made):
        return {**row, "from": f"not made in this run: {name}.csv"}
    part = read_tables(out, [name])[name]
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
