"""Tables on the disk: the one way to write and to read them.

A table is a CSV that anything can open, with the types of its columns beside it. A CSV alone cannot tell the label "NA"
from a missing value, nor the label "1e5" from a number.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import ArtifactError
from workbench.files import read_json, write_json, write_text

TEXT, NUMBER, WHOLE, TRUTH = "text", "number", "whole", "truth"
FOLDER = "tables"
# Read as text also where the types of the columns are lost: donor "01" is not donor 1.
_ALWAYS_TEXT = ("cell_id", "cell_type", "donor", "tissue", "batch")


def table_path(out: Path, name: str) -> Path:
    """File of a run's table.

    Parameters
    ----------
    out
        Output folder that holds ``tables/``.
    name
        Name of the table, without ending.
    """
    return out / FOLDER / f"{name}.csv"


def types_path(path: Path) -> Path:
    """File with the column types of a table.

    Parameters
    ----------
    path
        File of the table, ending in ``.csv``.
    """
    return path.with_suffix(".types.json")


def write_table(path: Path, table: pd.DataFrame, index: str | None = None) -> Path:
    """Write a table and the types of its columns, each file in one move.

    Parameters
    ----------
    path
        File of the table, ending in ``.csv``; its folder is made.
    table
        Columns of text, numbers or truth values. Other objects are written as text.
    index
        Name under which the table's index becomes the first column; None: the index is left out.
    """
    table = table.reset_index(names=index) if index else table
    columns = {str(name): _type(table.iloc[:, i]) for i, name in enumerate(table.columns)}
    # An empty field of a text column is a missing value, but for these rows, where it is the empty label.
    empty = {name: rows for name, kind in columns.items() if kind == TEXT and (rows := _empty(table[name]))}
    write_json(types_path(path), {"columns": columns, "empty": empty})
    return write_text(path, table.to_csv(index=False, lineterminator="\n"))


def read_table(path: Path, index: str | None = None) -> pd.DataFrame:
    """Read a table as it was written: a label such as ``NA``, ``nan``, ``None`` or ``1e5`` stays a label.

    Parameters
    ----------
    path
        File of the table. Without the file of types beside it, only an empty field is missing, and a column is numeric
        where every other field is a number; cell names and standard columns of cells are text in any case.
    index
        Column that becomes the index; None: rows are numbered.

    Raises
    ------
    ArtifactError
        If the file is missing, is no CSV, or does not fit the types that it was written with.
    """
    types = read_json(types_path(path)) if types_path(path).is_file() else {"columns": {}, "empty": {}}
    try:
        if types_path(path).is_file() and not types["columns"] and not path.read_text(encoding="utf-8").strip():
            return pd.DataFrame()  # written without a column, which pandas does not read
        header = pd.read_csv(path, nrows=0).columns
        known = {name: kind for name, kind in types["columns"].items() if name in header}
        text = [name for name in header if known.get(name) in (TEXT, TRUTH)]
        text += [name for name in header if name not in known and name in _ALWAYS_TEXT]
        table = pd.read_csv(
            path,
            dtype={
                **dict.fromkeys(text, str),
                **{name: _DTYPE[kind] for name, kind in known.items() if kind in _DTYPE},
            },
            keep_default_na=False,
            na_values=[""],
            float_precision="round_trip",
        )
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("a row has more fields than the header")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"The table '{path}' cannot be read ({str(error)[:120]}); run the command that wrote it again."
        ) from error
    for name in text:
        if known.get(name) == TRUTH:
            found = table[name].map({"True": True, "False": False})
            table[name] = found.astype(bool) if found.notna().all() else found
        elif name not in known:
            table[name] = table[name].fillna("")
        else:
            missing = table[name].isna()
            empty = [row for row in types["empty"].get(name, ()) if row < len(table) and missing.iat[row]]
            table.loc[table.index[empty], name] = ""
    return table.set_index(index) if index else table


def read_tables(out: Path, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Tables of a run by name; those that are not there are left out.

    Parameters
    ----------
    out
        Output folder that holds ``tables/``.
    names
        Names of the tables, without ending.
    """
    return {name: read_table(path) for name in names if (path := table_path(out, name)).is_file()}


def there(out: Path) -> set[str]:
    """Names of the tables that lie in a run's folder.

    Parameters
    ----------
    out
        Output folder that holds ``tables/``.
    """
    return {path.stem for path in (out / FOLDER).glob("*.csv")}


def as_text(table: pd.DataFrame) -> str:
    """A table as CSV text, for a header of another file.

    Parameters
    ----------
    table
        Any; its index is left out.
    """
    return table.to_csv(index=False, lineterminator="\n")


def from_text(text: str, wanted: Sequence[str] = _ALWAYS_TEXT) -> pd.DataFrame:
    """A table from `as_text`.

    Parameters
    ----------
    text
        CSV with a header, as `as_text` writes it.
    wanted
        Columns that are text, whatever they look like; an empty field in them is the empty label.
    """
    return pd.read_csv(
        io.StringIO(text), dtype=dict.fromkeys(wanted, str), keep_default_na=False, float_precision="round_trip"
    )


# Whole numbers are read as such; a column of numbers that happen to be whole stays one of numbers.
_DTYPE: dict[str, Any] = {NUMBER: np.float64, WHOLE: np.int64}


def _type(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column.dtype):
        return TRUTH
    if pd.api.types.is_integer_dtype(column.dtype) and not column.isna().any():
        return WHOLE
    if pd.api.types.is_numeric_dtype(column.dtype):
        return NUMBER
    values = column.dropna()
    if len(values) and all(isinstance(value, bool | np.bool_) for value in values):
        return TRUTH
    if all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in values):
        return NUMBER
    return TEXT


def _empty(column: pd.Series) -> list[int]:
    return np.flatnonzero([isinstance(value, str) and value == "" for value in column]).tolist()
