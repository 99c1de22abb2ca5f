"""The paper's figures beside those of a run, as a page of the documentation.

    python experiments/paper_table.py artifacts/hematopoiesis --docs docs/paper.md

Reads what the run left (`tables/`, `metrics.json`, `manifest.json`) and computes nothing; the run needs `expected: paper_figures.yaml`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.errors import ArtifactError, WorkbenchError
from workbench.files import read_json, write_text
from workbench.operators.controls import IDENTITY

ABSENT, TABLE = "not in this run", "a table, no single figure"
# Columns that the sd and n of their row belong to; elsewhere these are of another number in the same row.
SPREAD = {
    ("holdouts", "spearman"),
    ("sensitivity", "spearman"),
    ("readouts", "value"),
    ("factors", "impact"),
    ("factor_subsets", "value"),
}
ALPHA = 0.05


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run with published figures (expected:)")
    parser.add_argument("--docs", type=Path, help="write the page there; it is printed otherwise")
    arguments = parser.parse_args()
    try:
        made = page(arguments.run)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if arguments.docs:
        print(write_text(arguments.docs, made))
    else:
        print(made)
    return 0


def page(run: Path) -> str:
    """The page of a run.

    Parameters
    ----------
    run
        Its folder.

    Raises
    ------
    ArtifactError
        If it has no table of published figures.
    """
    if not (run / "tables" / "expected.csv").is_file():
        raise ArtifactError(
            f"'{run}' has no tables/expected.csv, so there is nothing to compare; run a configuration with "
            "'expected: paper_figures.yaml', such as experiments/hematopoiesis.yaml, to its end."
        )
    expected = read(run, "expected")
    return PAGE.format(
        figures=figures(expected),
        found=int(expected["found"].notna().sum()),
        total=len(expected),
        beside=beside(run),
        **setting(run),
    )


def read(run: Path, name: str) -> pd.DataFrame:
    """A table of the run, empty where it has none; only an empty field is missing.

    Parameters
    ----------
    run, name
        Folder of the run, and of the table.
    """
    file = run / "tables" / f"{name}.csv"
    return pd.read_csv(file, keep_default_na=False, na_values=[""]) if file.is_file() else pd.DataFrame()


def setting(run: Path) -> dict[str, str]:
    """Model, data and provenance of a run, in words.

    Parameters
    ----------
    run
        Its folder.
    """
    made, stages = read_json(run / "manifest.json"), read_json(run / "metrics.json")["stages"]
    config, cells, heads = made["config"], stages["cells"], read(run, "heads")
    shape = f", {heads['layer'].max() + 1} layers x {heads['head'].max() + 1} heads" if len(heads) else ""
    donors = "with donors" if config["data"].get("donor") else "no donors"
    return {
        "name": str(config["name"]),
        "model": f"{made['checkpoint'].get('release') or Path(config['checkpoint']).name}{shape}",
        "data": f"{config['data']['name']}, {cells['n_cells']:,} cells, {cells['n_panel']:,} genes, {donors}",
        "operator": f"{config['operator']}, {config['adaptor']['feature_map']}",
        "seed": str(made["seed"]),
        "version": f"{made['workbench']}, code {made['code'][:8]}",
    }


def figures(expected: pd.DataFrame) -> str:
    """A row per published figure.

    Parameters
    ----------
    expected
        The run's table of that name.
    """
    lines = ["| figure | published | found here | from |", "|---|---|---|---|"]
    for row in expected.to_dict("records"):
        lines.append("| " + " | ".join(plain(part) for part in (*claim(row), str(row["from"]))) + " |")
    return "\n".join(lines)


def claim(row: dict[str, Any]) -> tuple[str, str, str]:
    """What was published and what was found, in words.

    Parameters
    ----------
    row
        Of the table of published figures.
    """
    if pd.isna(row["found"]):
        return row["claim"], number(row["published"]), TABLE if str(row["from"]).startswith("tables/") else ABSENT
    table, _, column = str(row["from"]).partition(".csv, ")
    own = (table, column) in SPREAD and pd.notna(row["sd"])
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
(arXiv:2603.10261) are of whole-human scGPT, 12 layers x 8 heads, on Tabula Sapiens. Neither ships with this project, and none of these figures
has been reproduced. What this page shows is that every one of them has a place in a run, or why not. The figures and where each is looked up are in
[paper_figures.yaml](../experiments/paper_figures.yaml); the page is made, not written:

    workbench run experiments/{name}.yaml --out artifacts/{name}
    python experiments/paper_table.py artifacts/{name} --docs docs/paper.md

| | published | here |
|---|---|---|
| model | scGPT, whole-human, 12 layers x 8 heads | {model} |
| data | Tabula Sapiens | {data} |
| operator | attention, drift | {operator} |

Seed {seed}; workbench {version}. sd over splits or folds, n of them.

## Figures

{found} of {total} have a counterpart in this run. "Endpoints lost" counts endpoint metrics with q at most 0.05 against the full operator; the paper has 8,
how many a run has depends on its labels (7 on `pbmc68k`).

{figures}

## Beside them, in the same run

No figure above says anything of the model without its controls. Rank correlation of latent angles with the ruler on held-out anchors; the null
relabels the stages and fits again, its bound is the 97.5 % quantile.

{beside}
"""


if __name__ == "__main__":
    raise SystemExit(main())
