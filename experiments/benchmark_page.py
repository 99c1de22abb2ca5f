"""Campaigns as a page of the documentation: every method on every endpoint metric, wins and losses alike.

    python experiments/benchmark_page.py artifacts/benchmark_pbmc68k artifacts/benchmark_kang --docs docs/benchmark.md

Reads what `workbench benchmark` left (`tables/`, `manifest.json`) and computes nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.engine.tables import read_table, table_path
from workbench.errors import ArtifactError, WorkbenchError
from workbench.evidence.statistics import cautions
from workbench.files import read_json, write_text

TABLES = ("summary", "comparisons", "tally", "splits", "scores", "methods", "campaign_costs")
SHORT = {"balanced accuracy": "BA", "calibration error": "ECE", "macro-F1": "F1", "|Spearman|": "rho"}
MARK = {"win": "+", "loss": "−"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of campaigns")
    parser.add_argument("--docs", type=Path, help="write the page there; it is printed otherwise")
    arguments = parser.parse_args()
    try:
        made = page(arguments.runs)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if arguments.docs:
        print(write_text(arguments.docs, made))
    else:
        print(made)
    return 0


def page(runs: list[Path]) -> str:
    """The page of some campaigns.

    Parameters
    ----------
    runs
        Their folders.

    Raises
    ------
    ArtifactError
        If a table is missing.
    """
    parts = [HEAD]
    for run in runs:
        tables = {}
        for name in TABLES:
            if not table_path(run, name).is_file():
                raise ArtifactError(f"'{run}' has no tables/{name}.csv; run `workbench benchmark` to its end first.")
            tables[name] = read_table(table_path(run, name))
        parts.append(campaign(tables, read_json(run / "manifest.json")))
    return "\n".join(parts)


HEAD = """# Benchmark

Made by `experiments/benchmark_page.py` from campaigns as they came out; `workbench benchmark` makes these. The model in all of them is the mini
checkpoint (6 layers x 4 heads), so nothing here speaks of the real scGPT. It was trained, without labels, on cells of six of the eight and of five of the six donors of the two
larger sets below ([pretraining](pretraining.md)), and on none of `pbmc68k`.

How to read a table: mean over splits; **ours** is the row `anchor head`. A `+` beside a value says that ours is better than that method on this
metric, a `−` that it is worse, each with q <= 0.05 (over splits, corrected for the cells that they share, see
[calibration](calibration.md); Benjamini-Hochberg over the metrics of a method); no mark: no sure difference. A transfer is one split: there it is a
t-test over donors, and clusters and donor leakage have no value by donor and no test. A dash:
undefined, or not predicted by the method. There is no overall winner, and none is computed. Values are
`tables/summary.csv` of a campaign, marks and differences `tables/comparisons.csv`, wins, ties and losses `tables/tally.csv`. Seconds are of two slow cores that did other work
beside: compare their order of magnitude only.

Metrics: BA is balanced accuracy, F1 its macro average, ECE the expected calibration error (better when low), rho the rank correlation with
the depth on the ruler, read out; for pseudotime the same without any label but those of the earliest stage, by Palantir or diffusion pseudotime; clusters ARI is the agreement of Leiden clusters of the representation with the stages; donor leakage is how well a
linear probe finds the donor once stage means are taken out, 0 by chance (better when low). Methods: LET is the linear adaptor of the paper;
the anchor head is LET on the configured operator, fitted to mean profiles of groups of cells (anchors), the cell head the same trained on cells, the
hybrid heads that with terms for the topology of the stages; [Extraction](extraction.md) says more of these and of the controls, and
`tables/methods.csv` of a campaign has a line on each method. "Hard sparse, 16 x (60 + 60)" keeps 16 factors of a head with 60 genes read
and 60 written each. Costs: "with operators at hand" leaves out their capture, which is done once for all splits; trained numbers are the
parameters that a method fits.

The cells: `pbmc68k` ships (700 cells, no donors, no counts); its splits are groups of hashed cells. `kang2018_8donors` are 8 donors of Kang et al. 2018 (GSE96583, the authors' labels),
half of whose cells were stimulated with interferon beta. `combat_pbmc_6donors` are 6 donors of the COMBAT Consortium 2022 with marker-gated labels,
gating genes removed from every panel of the two sets; its donors differ in disease, so donor and condition are confounded and nothing
here tells one from the other. Neither ships.
"""


def campaign(tables: dict[str, pd.DataFrame], manifest: dict[str, Any]) -> str:
    """Part of a campaign.

    Parameters
    ----------
    tables, manifest
        What it left.
    """
    config = manifest["config"]
    # Where the files lay is of no interest.
    tables = {
        name: t.assign(data=t["data"].map(lambda path: Path(path).name)) if "data" in t else t
        for name, t in tables.items()
    }
    splits = tables["splits"]
    lines = [f"\n## {config['name']}\n"]
    for (kind, data), own in splits.groupby(["kind", "data"], sort=False):
        donors = {name for names in own["test_donors"].dropna() for name in str(names).split("+") if name}
        who = f"{len(donors)} donors are tested" if donors else "no donors are named"
        n = len(own)
        apart = f"; {int(own['disjoint'].sum())} of them share no test cell" if n > 1 else ""
        lines.append(
            f"\n### {str(kind).capitalize()}: {data}\n\n{n} split{'s' * (n > 1)}, {who}, {_range(own['n_train'])} training and "
            f"{_range(own['n_test'])} test cells{apart}.\n"
        )
        lines.append(_values(tables, str(kind), str(data)))
    lines.append("\n### What it costs\n")
    lines.append(_costs(tables["campaign_costs"]))
    lines.append("\n### What was not run, and what to be careful with\n")
    for row in tables["methods"].itertuples():
        if row.status != "run":
            lines.append(f"- {row.method}: {row.status}")
    lines += [f"- {said}" for said in cautions(tables["scores"], splits, tables["comparisons"])]
    return "\n".join(lines) + "\n"


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low} to {high}"


def _values(tables: dict[str, pd.DataFrame], kind: str, data: str) -> str:
    def kept(name: str) -> pd.DataFrame:
        table = tables[name]
        return table[(table["kind"] == kind) & (table["data"] == data)]

    summary, outcome = kept("summary"), kept("comparisons")
    sign = {(r.method, r.endpoint, r.metric): MARK.get(r.outcome, "") for r in outcome.itertuples()}
    tally = {name: own["outcome"].value_counts() for name, own in outcome.groupby("method")}
    won = {name: " / ".join(str(n.get(what, 0)) for what in ("win", "tie", "loss")) for name, n in tally.items()}
    columns = list(dict.fromkeys(zip(summary["endpoint"], summary["metric"], strict=True)))
    defined = [place for place in columns if _place(summary, *place)["value"].notna().any()]
    short = {
        "CD4 against CD8": "CD4/CD8",
        "monocyte against dendritic": "mono/DC",
        "monocyte against macrophage": "mono/macro",
    }
    heads = [f"{short.get(endpoint, endpoint)} {SHORT.get(metric, metric)}" for endpoint, metric in defined]
    lines = ["| method | " + " | ".join(heads) + " | ours wins / ties / loses |", "|---|" + "---|" * (len(heads) + 1)]
    values = summary.set_index(["method", "endpoint", "metric"])["value"]
    for method in dict.fromkeys(summary["method"]):
        cells = []
        for place in defined:
            value = values[(method, *place)]
            mark = sign.get((method, *place), "")
            cells.append("–" if pd.isna(value) else f"{value:.2f}{' ' + mark if mark else ''}")
        lines.append(
            f"| {method} | " + " | ".join(cells) + f" | {won.get(method, '') if any(c != '–' for c in cells) else ''} |"
        )
    sd = summary.groupby(["endpoint", "metric"])["sd"].median()
    spread = ", ".join(
        f"{head} {sd[place]:.2f}" for head, place in zip(heads, defined, strict=True) if pd.notna(sd[place])
    )
    if spread:
        lines.append(f"\nSd over splits, median over methods: {spread}.")
    lost = [f"{endpoint} {metric}" for endpoint, metric in columns if (endpoint, metric) not in defined]
    if lost:
        lines.append(f"\nUndefined for every method: {', '.join(lost)}.")
    return "\n".join(lines)


def _place(summary: pd.DataFrame, endpoint: str, metric: str) -> pd.DataFrame:
    return summary[(summary["endpoint"] == endpoint) & (summary["metric"] == metric)]


def _costs(table: pd.DataFrame) -> str:
    lines = [
        "| method | s, all splits | s, forward passes | s, operators once | times ours | times ours, operators at hand | trained numbers | peak MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        lines.append(
            f"| {row.method} | {row.split_seconds:.1f} | {row.cells_seconds:.1f} | {row.once_seconds:.1f} | {row.times_ours:.2g} | "
            f"{row.times_ours_given:.2g} | {row.n_parameters:.0f} | {row.peak_bytes / 2**20:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
