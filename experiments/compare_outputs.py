"""Compare the tables of two output folders: the same rows, the same text, and numbers within a tolerance.

    python experiments/compare_outputs.py OLD NEW --tolerance 1e-9 --rename panel=cohort --skip runtime

Exits with 1 where a table is missing on either side or anything differs. Seconds and bytes are a matter of the machine: columns
whose names say so are left out and named.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.engine.tables import read_table

OF_THE_MACHINE = ("seconds", "peak_bytes", "times_ours", "per_cell")


def compare(
    old: Path, new: Path, tolerance: float, rename: Mapping[str, str], skip: tuple[str, ...] = ()
) -> pd.DataFrame:
    """One row per table: what differs, and by how much at most.

    Parameters
    ----------
    old, new
        Output folders with ``tables/``.
    tolerance
        Largest difference of two numbers, absolute where they are below 1 and relative above.
    rename
        Words of the old folder's table and column names, and of values that are one of them, and what stands for them in the new.
    skip
        Tables that are not compared.
    """
    names = {renamed(path.stem, rename): path for path in (old / "tables").glob("*.csv") if path.stem not in skip}
    others = {path.stem: path for path in (new / "tables").glob("*.csv") if path.stem not in skip}
    rows = []
    for name in sorted(set(names) | set(others)):
        if name not in names or name not in others:
            found = {"largest": np.nan, "status": f"only in {'the new' if name in others else 'the old'} folder"}
        else:
            found = difference(read_table(names[name]), read_table(others[name]), tolerance, rename)
        rows.append({"table": name, **found})
    return pd.DataFrame(rows)


def difference(
    one: pd.DataFrame, other: pd.DataFrame, tolerance: float, rename: Mapping[str, str]
) -> dict[str, object]:
    """Largest difference of two tables, and a status: ``same``, or what is not.

    Parameters
    ----------
    one, other
        Tables; columns may stand in another order, rows may not.
    tolerance, rename
        As in `compare`.
    """
    one = one.rename(columns=lambda name: renamed(str(name), rename))
    kept = [name for name in one if not any(word in name for word in OF_THE_MACHINE)]
    there = {name for name in other if not any(word in name for word in OF_THE_MACHINE)}
    if set(kept) != there or len(one) != len(other):
        lacking = sorted(set(kept) ^ there)
        return {"largest": np.nan, "status": f"{len(one)} and {len(other)} rows; columns of one only: {lacking}"}
    largest, wrong = 0.0, []
    for name in kept:
        a, b = one[name], other[name]
        if all(pd.api.types.is_numeric_dtype(x) and not pd.api.types.is_bool_dtype(x) for x in (a, b)):
            x, y = a.to_numpy(float), b.to_numpy(float)
            both = np.isfinite(x) & np.isfinite(y)
            own = float((np.abs(x - y)[both] / np.maximum(1, np.abs(x[both]))).max(initial=0))
            largest = max(largest, own)
            if (
                own > tolerance
                or not (np.isnan(x) == np.isnan(y)).all()
                or (x[~both & ~np.isnan(x)] != y[~both & ~np.isnan(y)]).any()
            ):
                wrong.append(f"{name} (by {own:.2g})")
        else:
            text = [column.map(lambda v: "" if pd.isna(v) else str(v)).tolist() for column in (a, b)]
            if [renamed(value, rename) for value in text[0]] != [renamed(value, rename) for value in text[1]]:
                wrong.append(f"{name} (text)")
    return {"largest": largest, "status": "differs: " + ", ".join(wrong) if wrong else "same"}


def renamed(text: str, rename: Mapping[str, str]) -> str:
    """A text with words replaced.

    Parameters
    ----------
    text
        Any.
    rename
        Words and what stands for them.
    """
    for word, instead in rename.items():
        text = text.replace(word, instead)
    return text


def main() -> int:
    """Compare, print, and say by the exit status whether all is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-9)
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW")
    parser.add_argument("--skip", action="append", default=["runtime"], metavar="TABLE")
    given = parser.parse_args()
    rename = dict(pair.split("=", 1) for pair in given.rename)
    table = compare(given.old, given.new, given.tolerance, rename, tuple(given.skip))
    print(table.to_string(index=False))
    different = int((table["status"] != "same").sum())
    print(f"{len(table) - different} of {len(table)} tables are the same within {given.tolerance:g}.")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
