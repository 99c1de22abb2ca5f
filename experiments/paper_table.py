r"""The paper's figures beside those of runs, as a page of the documentation.

    python experiments/paper_table.py --run artifacts/hematopoiesis --gates artifacts/gates_paper_mini \
        --benchmark artifacts/benchmark --manifold artifacts/second_manifold --docs docs/paper.md

Reads what the runs left (`tables/`, `metrics.json`, `manifest.json`) and computes nothing. A figure that no run fills, and of which
experiments/paper_figures.yaml does not say what it needs, is a fault: the command names it and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from workbench.engine.config import read_config
from workbench.engine.tables import there
from workbench.errors import ArtifactError, WorkbenchError
from workbench.evidence.expected import look_up, read_expected
from workbench.files import read_json, write_text
from workbench.operators.controls import IDENTITY
from workbench.table import COMMANDS as KNOWN

EXPERIMENTS = Path(__file__).parent
FIGURES = EXPERIMENTS / "paper_figures.yaml"
# Of the machine, not of the run.
ELSEWHERE = ("checkpoint", "device", "expected", "peers.python")
COMMANDS = ("run", "gates", "benchmark", "manifold")
# Columns that the sd and n of their row belong to; elsewhere these are of another number in the same row.
SPREAD = {
    ("holdouts", "spearman"),
    ("sensitivity", "spearman"),
    ("readouts", "value"),
    ("readings", "value"),
    ("adaptor_heads", "value"),
    ("summary", "value"),
    ("factors", "impact"),
    ("factor_subsets", "value"),
}
ALPHA = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for command in COMMANDS:
        parser.add_argument(
            f"--{command}", type=Path, required=True, help=f"folder of a finished run of workbench {command}"
        )
    parser.add_argument("--figures", type=Path, default=FIGURES, help="file of published figures; that of the paper")
    parser.add_argument("--docs", type=Path, help="write the page there; it is printed otherwise")
    arguments = parser.parse_args()
    try:
        made = page({command: getattr(arguments, command) for command in COMMANDS}, arguments.figures)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if arguments.docs:
        print(write_text(arguments.docs, made))
    else:
        print(made)
    return 0


def page(runs: Mapping[str, Path], published: Path = FIGURES) -> str:
    """The page of a run of each command.

    Parameters
    ----------
    runs
        Folder of each by its command.
    published
        File of published figures.

    Raises
    ------
    ArtifactError
        If a folder holds no finished run of its command, or a figure is neither found nor known to need what is not there.
    """
    for command, folder in runs.items():
        found = read_json(folder / "workbench.json").get("recipe") if (folder / "workbench.json").is_file() else None
        if found != command or not (folder / "metrics.json").is_file():
            raise ArtifactError(
                f"'{folder}' holds {f'a run of workbench {found}' if found else 'no run'}, and --{command} needs a finished one of workbench "
                f"{command}; run it to its end."
            )
    source, wanted = read_expected(published)
    rows = [{**look_up(one, runs[one["command"]], there(runs[one["command"]])), **one} for one in wanted]
    lost = [row["claim"] for row in rows if pd.isna(row.get("found")) and not row.get("needs")]
    if lost:
        raise ArtifactError(
            f"{len(lost)} published figures have no counterpart in these runs, though none is said to need what is not there: {'; '.join(lost[:5])}. "
            "Mend where they are looked up, or say what they need."
        )
    return PAGE.format(
        source=source,
        commands="\n".join(f"    {command_of(command, folder)}" for command, folder in runs.items()),
        runs="\n".join(setting(command, folder) for command, folder in runs.items()),
        figures=figures(rows),
        found=sum(pd.notna(row.get("found")) for row in rows),
        total=len(rows),
        beside=beside(runs["run"]),
    )


def command_of(command: str, folder: Path) -> str:
    """The command that makes a run again: its configuration, and what was set otherwise.

    Parameters
    ----------
    command, folder
        Command and its folder.

    Raises
    ------
    ArtifactError
        If no configuration of experiments/ has the name of the run.
    """
    config = read_json(folder / "manifest.json")["config"]
    named = [
        file for file in sorted(EXPERIMENTS.glob("*.yaml")) if f"name: {config['name']}\n" in file.read_text("utf-8")
    ]
    if not named:
        raise ArtifactError(
            f"No configuration in experiments/ is called '{config['name']}', as the run in '{folder}' is."
        )
    usual = flat(read_config(named[0], KNOWN[command].work.load_config()).model_dump(mode="json"))
    # A section that is null here is no key there.
    other = {key: value for key, value in flat(config).items() if usual.get(key, ...) != value and key not in ELSEWHERE}
    settings = "".join(f" --set {quoted(key, value)}" for key, value in other.items())
    return f"workbench {command} experiments/{named[0].name}{settings} --out artifacts/{command}"


def quoted(key: str, value: Any) -> str:
    """A setting as the command line takes it, in quotes where it has a space.

    Parameters
    ----------
    key, value
        Key and value, as the manifest has them.
    """
    told = yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]
    return f'"{key}={told}"' if " " in told else f"{key}={told}"


def flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Keys of a configuration, with those above them in front.

    Parameters
    ----------
    config
        Nested keys and values.
    before
        Name in front of each key.
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def read(run: Path, name: str) -> pd.DataFrame:
    """A table of the run, empty where it has none; only an empty field is missing.

    Parameters
    ----------
    run, name
        Folder of the run, and of the table.
    """
    file = run / "tables" / f"{name}.csv"
    return pd.read_csv(file, keep_default_na=False, na_values=[""]) if file.is_file() else pd.DataFrame()


def setting(command: str, folder: Path) -> str:
    """Model, data and provenance of a run, as a row.

    Parameters
    ----------
    command, folder
        Command and its folder.
    """
    made = read_json(folder / "manifest.json")
    config = made["config"]
    model = made["checkpoint"].get("release") or Path(config["checkpoint"]).name
    data = f"{config['data']['name']}, {'with donors' if config['data'].get('donor') else 'no donors'}"
    operator = f"{config['operator']}, {config['adaptor']['feature_map']}"
    version = f"{made['workbench']}, code {made['code'][:8]}"
    return f"| {command} | {plain(model)} | {plain(data)} | {operator} | {made['seed']} | {version} |"


def figures(rows: list[dict[str, Any]]) -> str:
    """A row per published figure.

    Parameters
    ----------
    rows
        Published figures with what was found of each.
    """
    lines = ["| figure | published | found here | from |", "|---|---|---|---|"]
    for row in rows:
        found = pd.notna(row.get("found"))
        whence = f"{row['command']}: {row['from']}" if found else f"{row['command']}: {row['table']}.csv"
        lines.append("| " + " | ".join(plain(part) for part in (*claim(row), whence)) + " |")
    return "\n".join(lines)


def claim(row: dict[str, Any]) -> tuple[str, str, str]:
    """What was published and what was found, in words.

    Parameters
    ----------
    row
        Published figure with what was found of it.
    """
    if pd.isna(row.get("found")):
        return row["claim"], number(row["published"]), f"needs {row['needs']}"
    table, _, column = str(row["from"]).partition(".csv, ")
    own = (table, column) in SPREAD and pd.notna(row.get("sd"))
    spread = f" (sd {number(row['sd'])}, n = {row['n']:.0f})" if own else ""
    return row["claim"], number(row["published"]), number(row["found"]) + spread


def number(value: Any) -> str:
    """Three figures; large numbers whole.

    Parameters
    ----------
    value
        A number, or a text that is left as it is.
    """
    try:
        given = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{given:,.0f}" if abs(given) >= 1000 else f"{given:.3g}"


def plain(text: str) -> str:
    """Text for a field of a table.

    Parameters
    ----------
    text
        Any.
    """
    return text.replace("|", r"\|")


def beside(run: Path) -> str:
    """What the same run says of the controls, without which no figure above says anything of the model.

    Parameters
    ----------
    run
        Its folder.
    """
    holdouts, added = read(run, "holdouts"), read(run, "added")
    if holdouts.empty:
        return "This run has no holdouts, so no control stands beside these figures."
    fine = holdouts[holdouts["status"] == "ok"]
    names = list(dict.fromkeys(fine["holdout"]))
    lines = [
        "| feature map | " + " | ".join(f"{name} holdout" for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for operator, rows in fine.groupby("operator", sort=False):
        fields = []
        for name in names:
            one = rows[rows["holdout"] == name]
            fields.append(held(one.iloc[0]) if len(one) else "not applicable")
        lines.append(f"| {plain(str(operator))} | " + " | ".join(fields) + " |")
    return "\n".join([*lines, "", *against(added)])


def held(row: pd.Series) -> str:
    """One holdout, with its spread and null.

    Parameters
    ----------
    row
        Of the table of holdouts.
    """
    spread = f" (sd {row['sd']:.2f}, n = {row['n_splits']:.0f})" if pd.notna(row["sd"]) else ""
    if pd.notna(row.get("n_draws")):
        between = f"{row['draws_low']:.2f} to {row['draws_high']:.2f} in {row['n_draws']:.0f} draws"
        return f"{row['spearman']:.2f}{spread}; {between}, p of the operator among them {row['p_draws']:.2g}"
    return f"{row['spearman']:.2f}{spread}; null up to {row['null_high']:.2f}, p {row['p']:.2g}"


def against(added: pd.DataFrame) -> list[str]:
    """On how many endpoint metrics the operator is above plain expression.

    Parameters
    ----------
    added
        The run's table of that name.
    """
    rows = added[added["control"].str.contains(IDENTITY, regex=False)] if len(added) else added
    if rows.empty:
        return []
    sure = rows["q"] <= ALPHA
    better, worse = int((sure & (rows["difference"] > 0)).sum()), int((sure & (rows["difference"] < 0)).sum())
    return [
        f"Readouts of held-out cells: against the same adaptor on plain expression the operator is above on "
        f"{int((rows['difference'] > 0).sum())} of {len(rows)} endpoint metrics ({better} above and {worse} below with q at most {ALPHA})."
    ]


PAGE = """# The paper's figures beside ours

**Other data and another, far smaller model: agreement is not expected, and a difference says nothing about the paper.** The published figures
are of {source} (12 layers x 8 heads). Neither ships with this project, and none of these figures has been reproduced. What this page shows is that
every one of them has a place in a run, or what it needs. The figures and where each is looked up are in
[paper_figures.yaml](../experiments/paper_figures.yaml); the page is made, not written, by one command from the runs of four:

{commands}
    python experiments/paper_table.py --run artifacts/run --gates artifacts/gates --benchmark artifacts/benchmark \\
        --manifold artifacts/manifold --docs docs/paper.md

With the paper's own checkpoint and cells the same runs are those of `paper.yaml`, `gates_paper.yaml` and `benchmark_paper.yaml`.

| command | model | data | operator | seed | version |
|---|---|---|---|---|---|
| published | scGPT, whole-human | Tabula Sapiens | attention, drift | - | - |
{runs}

## Figures

{found} of {total} have a counterpart in these runs; of the others it is said what they need. "Endpoints lost" counts endpoint metrics with q at most 0.05
against the full operator, corrected for shared cells; the paper has 8, how many a run has depends on its labels (7 on `pbmc68k`). Where the paper does
not say what a figure is of, both readings stand below each other. Seconds are of a busy machine.

{figures}

## Beside them, in the same run

No figure above says anything of the model without its controls. Rank correlation of latent angles with the ruler on held-out anchors; the null
relabels the stages and fits again, its bound is the 97.5 % quantile. Of random controls the mean of several draws.

{beside}
"""


if __name__ == "__main__":
    raise SystemExit(main())
