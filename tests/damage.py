"""Damage to the files of a finished run: whatever happens to one, the next run has the undamaged result or says a sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from workbench.engine.folder import MARKER
from workbench.engine.tables import read_table
from workbench.files import hash_file


def cut(data: bytes, _: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_a_bit(data: bytes, _: bytes) -> bytes:
    return data[: (at := 2 * len(data) // 3)] + bytes([data[at] ^ 1]) + data[at + 1 :] if data else b"x"


def change_a_number(data: bytes, _: bytes) -> bytes:
    """The last digit that stands there, as somebody with an editor would."""
    at = max(data.rfind(b"%d" % digit) for digit in range(10))
    return data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :] if at >= 0 else data + b"1"


def swap(_: bytes, other: bytes) -> bytes:
    return other


DAMAGES: dict[str, Callable[[bytes, bytes], bytes] | None] = {
    "cut": cut,
    "one bit": flip_a_bit,
    "one number": change_a_number,
    "another's": swap,
    "deleted": None,
}
# Written again by every run, from the tables and stages; the folder's marker is asked for by name.
AGAIN = ("report.html", "metrics.json", "manifest.json", "resolved.yaml", MARKER)


# What a clock or a meter of memory has a part in, and what an interrupted stage goes by.
_TIMED, _UNTOLD = re.compile("seconds|bytes"), re.compile("costs|begun.json")


def files_of(out: Path) -> list[Path]:
    """What stages have left, control files among them, relative to the folder."""
    found = sorted(
        path.relative_to(out) for path in out.rglob("*") if path.is_file() and path.suffix not in (".lock", ".changed")
    )
    return [
        path for path in found if path.parts[0] != "figures" and str(path) not in AGAIN and path.stem[:7] != "runtime"
    ]


def content(out: Path) -> dict[str, str]:
    """Hash of all that stages have left, without times and what an interrupted stage goes by."""

    def name_of(name: str) -> str:
        # Rows have the hash of their bytes in their names, times among them.
        return name.split(".")[0] if name.endswith(".parquet") else name

    def one(path: Path) -> str:
        if path.suffix in (".csv", ".parquet"):
            table = read_table(out / path) if path.suffix == ".csv" else pd.read_parquet(out / path)
            if "metric" in table:
                table = table[~table["metric"].astype(str).str.contains(_TIMED)]
            return table.drop(columns=[name for name in table if _TIMED.search(str(name))]).to_csv()
        if path.name != "done.json":
            return hash_file(out / path)
        done = json.loads((out / path).read_text())
        result = {key: value for key, value in done["result"].items() if "seconds" not in key}
        files = sorted(map(name_of, done["files"]))
        return json.dumps([done["key"], done["after"], result, files], sort_keys=True)

    return {name_of(str(path)): one(path) for path in files_of(out) if not _UNTOLD.search(path.name)}


def damaged(out: Path, copy: Path, file: Path, how: str, other: Path | None = None) -> Path:
    """A copy of a finished run in which one file was damaged; `other` is what is put in its place by ``another's``."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(out, copy)
    change = DAMAGES[how]
    if change is None:
        (copy / file).unlink()
    else:
        old = (out / file).read_bytes()
        new = change(old, (other or out / MARKER).read_bytes())
        (copy / file).write_bytes(new)
    return copy


def cases(out: Path) -> Iterator[tuple[Path, str]]:
    """Of each stage, of the tables and of what lies beside them, one file for each damage, another one each time."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for file in files_of(out):
        groups.setdefault(file.parts[: 2 if file.parts[0] == "stages" else 1], []).append(file)
    for files in groups.values():
        for i, how in enumerate(DAMAGES):
            yield files[i % len(files)], how


def assert_undamaged(out: Path, copy: Path, go: Callable[[Path], int]) -> None:
    """Damage one file after the other in copies of a finished run, and hold each next run against the undamaged one.

    `go` runs the same command in a folder and returns its exit status.
    """
    wanted = content(out)
    for file, how in cases(out):
        assert go(damaged(out, copy, file, how)) == 0, (file, how)
        found = content(copy)
        differ = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
        assert not differ, (file, how, differ)
