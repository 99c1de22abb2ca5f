"""All comparisons of this folder, one after the other at their default sizes, in one table: what each measures, and whether its bound holds.

Writes the table between the two comments in docs/performance.md, and ends with 1 where a bound is missed or a script fails. With names of
scripts it runs those alone and only prints. A script states its bounds itself, under `bounds` in what it prints with `--json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import operator
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- the table of `make bench` -->", "<!-- its end -->"
LIMIT = 900
_HEAD = "| `experiments/performance/` | ratio | memory ratio | bound | met |\n|---|---|---|---|---|"
_HOLDS = {"at least": operator.ge, "at most": operator.le}


def scripts(folder: Path) -> list[Path]:
    """Files of the folder that are run, by name: this one and those that only others import are none.

    Parameters
    ----------
    folder
        Where they lie.
    """
    return sorted(
        path for path in folder.glob("*.py") if path.name != "bench.py" and "__main__" in path.read_text("utf-8")
    )


def row(script: Path, limit: float) -> tuple[str, bool]:
    """Run one script.

    Parameters
    ----------
    script
        File.
    limit
        Seconds after which it is ended.

    Returns
    -------
    line, met
        Its line of the table, and whether it ended well and all its bounds hold.
    """
    try:
        done = subprocess.run([sys.executable, str(script), "--json"], capture_output=True, text=True, timeout=limit)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return _line(script, f"failed ({done.returncode}): {said}")
        found = json.loads(done.stdout)
        asked, met = [], True
        for name, bound in found.get("bounds", {}).items():
            sense, _, value = bound.rpartition(" ")
            met &= _HOLDS[sense](found[name], float(value))
            asked.append(f"{name.replace('_', ' ')} {bound}: {found[name]:.3g}")
        memory = f"{found['memory_ratio']:.3g}" if "memory_ratio" in found else ""
        return _line(script, "; ".join(asked) or "none stated", f"{found['ratio']:.3g}", memory, met)
    except subprocess.TimeoutExpired:
        return _line(script, f"not done within {limit:g} s")
    except (KeyError, ValueError) as error:
        return _line(script, f"what it printed is no comparison: {error!r}")


def _line(script: Path, bound: str, ratio: str = "", memory: str = "", met: bool = False) -> tuple[str, bool]:
    cells = [f"`{script.name}`", ratio, memory, bound.replace("|", "/"), "yes" if met else "no"]
    return f"| {' | '.join(cells)} |", met


def machine() -> str:
    """When and where: date, processor or card, and the versions that figures hang on."""
    import torch

    said = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.partition(":")[2].strip() for line in said.splitlines() if line.startswith("model name")]
    on = f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()
    if torch.cuda.is_available():
        on += f", {torch.cuda.get_device_name()}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    return (
        f"`make bench` of {datetime.date.today().isoformat()} on {on}; Python {platform.python_version()}, {versions}."
    )


def written(page: str, table: str) -> str:
    """A page with the table between its two comments.

    Parameters
    ----------
    page
        Text, with both comments once.
    table
        What comes between them; what stood there goes.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"The page has no place for the table: a line {BEGIN!r} and, below it, a line {END!r}.")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="scripts to run, such as capture.py (default: all, and the page is written)"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the scripts lie")
    parser.add_argument("--page", type=Path, default=PAGE, help="page that the table is written to")
    parser.add_argument("--limit", type=float, default=LIMIT, help=f"seconds that a script may take (default: {LIMIT})")
    options = parser.parse_args()
    chosen = [options.folder / name for name in options.names] or scripts(options.folder)
    page = options.page.read_text("utf-8")
    written(page, "")  # before hours of work
    rows = []
    for script in chosen:
        rows.append(row(script, options.limit))
        print(rows[-1][0], file=sys.stderr, flush=True)
    table = "\n".join([machine(), "", _HEAD, *(line for line, _ in rows)])
    if options.names:
        print(table)
    else:
        options.page.write_text(written(page, table), "utf-8")
    sys.exit(not all(met for _, met in rows))


if __name__ == "__main__":
    main()
