"""Checks of a table before it is drawn: columns, numbers, rows that are there twice, names that are not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workbench.errors import EvaluationError, unknown_name


def refusal(figure: str, why: str) -> EvaluationError:
    """Error of a figure that cannot be drawn, to be raised.

    Parameters
    ----------
    figure
        Name of what was to be drawn, such as ``head map``.
    why
        Rest of the sentence, with its full stop.
    """
    return EvaluationError(f"The {figure} cannot be drawn: {why}")


def checked(
    table: pd.DataFrame,
    figure: str,
    text: Sequence[str] = (),
    numeric: Sequence[str] = (),
    *,
    once: Sequence[str] = (),
) -> pd.DataFrame:
    """Check a table before it is drawn, and copy the columns that are asked for.

    Parameters
    ----------
    table
        Tidy table, one row per thing that is drawn; not changed. Columns that are not asked for are dropped.
    figure
        Name of what is to be drawn, for the error.
    text, numeric
        Columns that must be there; those of `numeric` must hold numbers (NaN allowed).
    once
        Columns of text of which each combination may be there once; not checked when empty.

    Returns
    -------
    pandas.DataFrame
        The columns, with text as str and numbers as float, and a fresh index.

    Raises
    ------
    EvaluationError
        If a column is missing, a number is none, there is no row, or a combination is there twice.
    """
    missing = [f"'{column}'" for column in (*text, *numeric) if column not in table.columns]
    if missing:
        raise refusal(figure, f"its table lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}.")
    if table.empty:
        raise refusal(figure, "its table has no rows.")
    out = table[[*text, *numeric]].reset_index(drop=True).copy()
    for column in text:
        out[column] = [("" if pd.isna(value) else str(value)) for value in out[column]]
    for column in numeric:
        try:
            out[column] = pd.to_numeric(out[column]).astype(float)
        except (TypeError, ValueError) as error:
            raise refusal(figure, f"its column '{column}' holds something that is no number.") from error
    if once:
        each_once(out, once, figure)
    return out


def each_once(rows: pd.DataFrame, keys: Sequence[str], figure: str) -> None:
    """Refuse a table in which something that has one place has several rows.

    Parameters
    ----------
    rows
        Table from `checked`, with the columns `keys`.
    keys
        Columns of text that name a place.
    figure
        Name of what is to be drawn, for the error.

    Raises
    ------
    EvaluationError
        If a combination of `keys` is there twice.
    """
    twice = rows.duplicated(list(keys))
    if twice.any():
        first = ", ".join(f"{key} '{rows.loc[twice, key].iloc[0]}'" for key in keys)
        raise refusal(figure, f"{first} is there more than once. Pass one row of each.")


def with_value(rows: pd.DataFrame, column: str, figure: str) -> pd.DataFrame:
    """Rows whose number is finite.

    Parameters
    ----------
    rows
        Table from `checked` that holds `column`.
    column
        Column of numbers that the figure draws.
    figure
        Name of what is to be drawn, for the error.

    Raises
    ------
    EvaluationError
        If there is none.
    """
    kept = rows[np.isfinite(rows[column])]
    if kept.empty:
        raise refusal(figure, f"no row has a finite '{column}'.")
    return kept.copy()


def check_finite(rows: pd.DataFrame, column: str, figure: str) -> None:
    """Refuse a column without any number.

    Parameters
    ----------
    rows
        A checked table that holds `column`.
    column
        Column of numbers, one of which at least has to be finite.
    figure
        Name of what is to be drawn, for the error.

    Raises
    ------
    EvaluationError
        If no number is finite.
    """
    if not np.isfinite(rows[column]).any():
        raise refusal(figure, f"'{column}' holds no finite number.")


def known_name(kind: str, name: str, names: Iterable[str], figure: str) -> None:
    """Refuse a name that is not among those that there are, and list these.

    Parameters
    ----------
    kind
        Word for what the names are of, such as ``metric``.
    name, names
        Name that was asked for, and all that there are.
    figure
        Name of what is to be drawn, for the error.

    Raises
    ------
    EvaluationError
        If `name` is not among `names`.
    """
    if name not in (there := list(dict.fromkeys(names))):
        raise EvaluationError(f"The {figure} cannot be drawn. {unknown_name(kind, name, there)}")


def chosen(rows: pd.DataFrame, column: str, name: str | None, figure: str, kind: str = "") -> pd.DataFrame:
    """Rows of one name of a column.

    Parameters
    ----------
    rows
        Table from `checked` that holds `column`.
    column
        Column of text that names what is chosen.
    name
        Value of that column to keep; the first that is there when None.
    figure
        Name of what is to be drawn, for the error.
    kind
        Word for what the column names, for the error; the column's own name when empty.

    Raises
    ------
    EvaluationError
        If no row has that name.
    """
    name = rows[column].iloc[0] if name is None else name
    known_name(kind or column, name, rows[column], figure)
    return rows[rows[column] == name].copy()


def records(table: pd.DataFrame) -> Iterator[Any]:
    """Rows of a checked table, with a column as attribute.

    Parameters
    ----------
    table
        Table from `checked`; its column names must be identifiers to be read.
    """
    yield from table.itertuples()


def undrawn(rows: pd.DataFrame, drawn: pd.DataFrame, place: Sequence[str], kind: str, why: str) -> list[str]:
    """One sentence for every place where rows are left out.

    Parameters
    ----------
    rows, drawn
        All rows, and those that are drawn, by the same index.
    place
        Columns that say where a row belongs.
    kind
        Column that tells the rows of a place apart.
    why
        Reason, the same for all rows that are left out; ends each sentence.
    """
    lost = rows.drop(index=drawn.index)
    notes: dict[str, list[str]] = {}
    for at, part in lost.groupby(list(place), sort=False):
        whole = set(part[kind]) == set(rows.loc[(rows[list(place)] == list(at)).all(axis=1), kind])
        who = f"every {kind}" if whole else ", ".join(f"'{name}'" for name in part[kind])
        notes.setdefault(who, []).append(", ".join(map(str, at)))
    return [f"{'; '.join(places)} ({who}): {why}" for who, places in notes.items()]
