"""Exported algorithms on labelled cells of other studies, with genes left out and counts thinned: what is lost, and whether they say so.

Each run (`workbench extract CONFIG --out RUN`) was trained on one study. Its algorithm is tried on every study of another group, whole and with
genes or counts taken away, beside logistic regression, principal components and ranks, which are fitted on the same training cells and the genes
that both measure. Nothing is fitted on the other study. An algorithm that loses more than 0.05 accuracy against logistic regression should have
said that it is not fit; how often it does, and how often it says so without need, is the table `said.csv`.

    $(make -s python) experiments/transfers.py RUN [RUN ...] --studies STUDIES.yaml --out OUT [--docs docs/transfers.md]

STUDIES.yaml: by the name of a study `group` (studies of one group share donors and are never crossed), `data` (as in a configuration) and
`stages`. A run belongs to the study whose name is that of its configuration.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import yaml
from tqdm import tqdm

from workbench.cells.expression import scale_of
from workbench.cells.placed import PlacedCells, place_cells
from workbench.cells.thinning import thinned
from workbench.engine.config import load_cells, make_config
from workbench.evidence.peers import peer_methods
from workbench.evidence.protocol import Fitted, Method, Prediction, Predictions, Training
from workbench.evidence.ruler import load_ruler
from workbench.evidence.transfers import ALIGNED, FILLED, MOST_LOSS, OURS, STAGE, UNALIGNED, YARDSTICKS, transfer
from workbench.files import write_text
from workbench.operators.algorithm import Algorithm
from workbench.operators.calibration import fit_readout
from workbench.operators.readout import endpoints
from workbench.seeds import generator, order_of
from workbench.settings import DataConfig

GENES, COUNTS, DRAWS, CELLS = (1.0, 0.8, 0.6, 0.4), (1.0, 0.5, 0.25, 0.1), 2, 500


PEERS = ("CellTypist", "scTOP")
PLAIN = "plain latent"


@dataclass
class Once:
    """A method that is fitted once on the same genes of the same training cells."""

    method: Method
    fitted: dict[tuple[str, ...], Fitted] = field(default_factory=dict)

    def fit(self, train: Training) -> Fitted:
        """See `Method`."""
        if train.cells.genes not in self.fitted:
            self.fitted[train.cells.genes] = self.method.fit(train)
        return self.fitted[train.cells.genes]


@dataclass(frozen=True)
class Plain:
    """The algorithm's latent as it is without all that was added for other studies: absent genes are zero, readouts have seen whole cells only."""

    algorithm: Algorithm
    train: PlacedCells

    n_parameters = 0

    def fit(self, train: Training) -> Plain:
        """See `Method`; the genes of the training side are those of the algorithm, whatever the other study measures."""
        return self

    def predict(self, cells: PlacedCells) -> Predictions:
        """See `Fitted`."""
        known = self.algorithm
        stages = next(one for one in endpoints(self.train.stage, self.train.ruler) if one.name == STAGE)
        readout = fit_readout(np.asarray(self.train.expression @ known.matrix) + known.offset, stages)
        rows = [known.genes.index(gene) for gene in cells.genes]
        z = np.asarray(cells.expression @ known.matrix[rows]) + known.offset
        return Predictions({STAGE: Prediction(readout.classes, readout.probabilities(z))}, z)


def fewer_genes(cells: Any, genes: tuple[str, ...], share: float, seed: int, draw: int) -> Any:
    """Cells without some of an algorithm's genes, by a draw of genes by name."""
    there = [gene for gene in genes if gene in set(cells.var_names)]
    gone = {there[i] for i in order_of(seed, there, "left out", str(draw))[round(share * len(there)) :]}
    return cells[:, ~cells.var_names.isin(gone)].copy()


def fewer_counts(cells: Any, share: float, seed: int) -> Any:
    """Cells with a share of their counts; of log-normalised values by their smallest."""
    out = cells.copy()
    if share == 1:
        return out
    if scale_of(cells).counts:
        x = sp.csr_matrix(cells.X, copy=True)
        for i, name in enumerate(cells.obs_names):
            own = slice(x.indptr[i], x.indptr[i + 1])
            counts = x.data[own].astype(np.int64)
            x.data[own] = generator(seed, "thinned file", str(share), str(name)).binomial(counts, share)
        x.eliminate_zeros()
        out.X = x.astype(np.float32)
    else:
        names, genes = (index.to_numpy(dtype=str) for index in (cells.obs_names, cells.var_names))
        out.X = thinned(sp.csr_matrix(cells.X), share, names, genes, seed + 7).astype(np.float32)
        # What is left of a few genes does not show any more what was done to the values.
        out.uns["workbench"] = {**cells.uns["workbench"], "values": "log1p:10000"}
    return out


def tried(
    runs: list[Path],
    studies: dict[str, Any],
    on: list[str],
    seed: int,
    n: int,
    genes: tuple[float, ...],
    counts: tuple[float, ...],
    peers: Path | None,
) -> pd.DataFrame:
    """Rows of all transfers."""
    ruler, rows = load_ruler("hematopoiesis"), []
    loaded = {}
    for name in on:
        one = studies[name]
        cells = load_cells(make_config(DataConfig, **one["data"]))
        stage = place_cells(cells, ruler, one.get("stages", {}))[0]["stage"].to_numpy(dtype=int)
        placed = np.flatnonzero(stage >= 0)
        chosen = np.sort(placed[order_of(seed, cells.obs_names.to_numpy(dtype=str)[placed], "chosen")[:n]])
        loaded[name] = cells[chosen].copy(), stage[chosen]
    pairs = []
    for run in runs:
        own = yaml.safe_load((run / "resolved.yaml").read_text(encoding="utf-8"))["name"]
        pairs += [(run, own, other) for other in on if studies[other]["group"] != studies[own]["group"]]
    levels = [(share, draw) for share in genes for draw in range(1 if share == 1 else DRAWS)]
    with tqdm(total=len(pairs) * len(levels) * len(counts), unit="transfer") as bar:
        for run, own, other in pairs:
            algorithm = Algorithm.from_pretrained(run / "algorithm")
            train = PlacedCells.open(run / "stages" / "cells", ruler)
            methods = {name: Once(one) for name, one in YARDSTICKS.items()} | {PLAIN: Once(Plain(algorithm, train))}
            others = {} if peers is None else {name: Once(peer_methods(peers)[name]) for name in PEERS}
            cells, stage = loaded[other]
            for share, draw in levels:
                fewer = fewer_genes(cells, algorithm.genes, share, seed, draw)
                for of_counts in counts:
                    x = fewer_counts(fewer, of_counts, seed)
                    asked = {**methods, **(others if share == of_counts == 1 else {})}
                    found = transfer(algorithm, train, x, stage, other, yardsticks=asked, min_coverage=0.01, seed=seed)
                    more = {"trained": own, "genes": share, "draw": draw, "counts": of_counts}
                    rows += [{**more, **row} for row in found]
                    bar.update()
    return pd.DataFrame(rows)


def said(rows: pd.DataFrame) -> pd.DataFrame:
    """How often the algorithm says that it is not fit, where it loses more than is allowed and where it does not."""
    ours = rows[rows["method"] == OURS]
    parts = {"all": ours, "whole files": ours[(ours["genes"] == 1) & (ours["counts"] == 1)]}
    parts |= {
        f"genes {share:g}": ours[(ours["genes"] == share) & (ours["counts"] == 1)]
        for share in sorted(set(ours["genes"]))
        if share < 1
    }
    parts |= {f"counts {share:g}": ours[ours["counts"] == share] for share in sorted(set(ours["counts"])) if share < 1}
    out = []
    for name, part in parts.items():
        lost, no = part["loss"] > MOST_LOSS, ~part["fit"].astype(bool)
        out.append(
            {
                "files": name, "n": len(part), "accuracy": part["accuracy"].mean(), "loss": part["loss"].mean(), "worst_loss": part["loss"].max(),
                "n_lost": int(lost.sum()), "said_of_lost": (no & lost).sum() / max(lost.sum(), 1), "said_of_others": (no & ~lost).sum() / max((~lost).sum(), 1),
            }
        )  # fmt: skip
    return pd.DataFrame(out)


def page(rows: pd.DataFrame, told: pd.DataFrame) -> str:
    """Tables in Markdown: whole files by method, and what is said."""
    whole = rows[(rows["genes"] == 1) & (rows["counts"] == 1)]
    names = [
        OURS,
        ALIGNED,
        UNALIGNED,
        PLAIN,
        *YARDSTICKS,
        FILLED,
        *(name for name in PEERS if name in set(rows["method"])),
    ]
    lines = [
        "| trained on | tried on | genes | cells | "
        + " | ".join(names)
        + " | unassigned | right of the others | probability | same label | fit by its own word |"
    ]
    lines += ["|" + "---|" * (len(names) + 9)]
    for (trained, study), part in whole.groupby(["trained", "study"], sort=False):
        own = part.set_index("method")
        ours = own.loc[OURS]
        values = [_shown(own, name) for name in names]
        lines.append(
            f"| {trained} | {study} | {ours['coverage']:.0%} | {ours['n_cells']} | {' | '.join(values)} | {ours['unassigned']:.0%} | "
            f"{ours['assigned_accuracy']:.2f} | {ours['probability']:.2f} | {ours['agreement']:.0%} | {'yes' if ours['fit'] else 'no'} |"
        )
    means = [f"{whole.loc[whole['method'] == name, 'accuracy'].mean():.2f}" for name in names]
    lines.append(f"| mean | | | | {' | '.join(means)} | | | | | |")
    lines += [
        "",
        "| files | n | share right | loss, mean | loss, worst | lost > 0.05 | of these said | said of the others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.files} | {r.n} | {r.accuracy:.2f} | {r.loss:+.2f} | {r.worst_loss:+.2f} | {r.n_lost} | {r.said_of_lost:.0%} | {r.said_of_others:.0%} |"
        for r in told.itertuples()
    ]
    return "\n".join(lines)


def _shown(own: pd.DataFrame, name: str) -> str:
    if name not in own.index or pd.isna(own.loc[name, "accuracy"]):
        return "-"
    return f"{own.loc[name, 'accuracy']:.2f} ({own.loc[name, 'balanced_accuracy']:.2f})"


def main() -> int:
    """Try all, write the tables, and put them into a page where one is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with an algorithm")
    parser.add_argument("--studies", type=Path, required=True, help="YAML of the studies")
    parser.add_argument("--out", type=Path, required=True, help="folder for transfers.csv and said.csv")
    parser.add_argument("--docs", type=Path, help="page whose tables are put in between its markers")
    parser.add_argument("--mark", default="transfers", help="name of the markers in that page")
    parser.add_argument("--on", nargs="+", help="names of the studies that are tried; all of the file by default")
    parser.add_argument(
        "--peers", type=Path, help="interpreter with CellTypist and scTOP (make -s peers), tried on whole files too"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cells", type=int, default=CELLS, help="cells of a study that are tried, at most")
    parser.add_argument("--quick", action="store_true", help="whole files only")
    given = parser.parse_args()
    studies = yaml.safe_load(given.studies.read_text(encoding="utf-8"))
    genes, counts = ((1.0,), (1.0,)) if given.quick else (GENES, COUNTS)
    rows = tried(given.runs, studies, given.on or list(studies), given.seed, given.cells, genes, counts, given.peers)
    told = said(rows)
    given.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(given.out / "transfers.csv", index=False)
    told.to_csv(given.out / "said.csv", index=False)
    text = page(rows, told)
    print(text)
    if given.docs is not None:
        first, last = f"<!-- {given.mark} -->", f"<!-- /{given.mark} -->"
        before, rest = given.docs.read_text(encoding="utf-8").split(first)
        write_text(given.docs, f"{before}{first}\n{text}\n{last}{rest.split(last)[1]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
