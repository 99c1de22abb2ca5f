"""The look-ups of experiments/paper_figures.yaml against the tables that a command leaves."""

from __future__ import annotations

from pathlib import Path

from workbench.engine.tables import read_table, table_path
from workbench.evidence.expected import read_expected

FIGURES = Path(__file__).parents[1] / "experiments" / "paper_figures.yaml"
# Columns whose values are words of the package, not of the data.
OURS = ("measure", "reading", "operator", "gate", "how", "swept", "space", "side", "holdout")


def faults(command: str, out: Path) -> list[str]:
    """Figures of a command that name a table, a column or a word that it does not write.

    Parameters
    ----------
    command
        The command whose figures are looked at.
    out
        Folder of a finished run of it, of any size.
    """
    found, asked = [], [one for one in read_expected(FIGURES)[1] if one["command"] == command]
    assert asked
    for one in asked:
        if not table_path(out, one["table"]).is_file():
            found.append(f"{one['claim']}: no table {one['table']}")
            continue
        table, where = read_table(table_path(out, one["table"])), one.get("where", {})
        wanted = [one["column"]] if isinstance(one["column"], str) else one["column"]
        if not set(wanted) & set(table) or not set(where) <= set(table):
            found.append(f"{one['claim']}: {one['table']} has no column {wanted} or {list(where)}")
        for column in set(where) & set(OURS) & set(table):
            values = where[column] if isinstance(where[column], list) else [where[column]]
            words = set(map(str, table[column]))
            if not words & set(map(str, values)) and not (column == "holdout" and "donor" in str(values)):
                found.append(f"{one['claim']}: {column} of {one['table']} is none of {values} but {sorted(words)[:9]}")
    return found
