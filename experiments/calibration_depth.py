"""What sequencing depth does to the head screen's correlation, with depth regressed out and without.

    python experiments/calibration_depth.py --docs docs/calibration_depth.md

In each world six donors have cells of twelve stages of the blood ruler. Counts are drawn from one profile of genes, so that no
gene knows the stage, or from profiles that follow the ruler. Depth falls with the stage's depth on the ruler, or is the same
everywhere. The adaptor is fitted to plain expression of three donors and judged on the others, as the screen does it.
Twenty minutes on one core for 40 worlds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from tqdm import tqdm

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE, TECHNICAL, Anchors
from workbench.cells.placed import PlacedCells
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.evidence.screen import score_head
from workbench.operators.adaptor import LETAdaptor
from workbench.seeds import generator
from workbench.stats import permutation_p

STAGES, DONORS, CELLS, GENES = 12, 6, 30, 300
PROGRAMS = {"none": 0.0, "follows the ruler": 0.1}


def made(ruler: Ruler, program: str, thinned: bool, seed: int) -> tuple[PlacedCells, PlacedCells]:
    """Cells of the donors that the adaptor is fitted on, and of those that it is judged on.

    Parameters
    ----------
    ruler
        Ruler of which the stages are some.
    program
        A name of `PROGRAMS`.
    thinned
        Whether depth falls with the stage's depth on the ruler: to a fifth from the root to its deepest leaf.
    seed
        Seed of everything.
    """
    rng = generator(seed, "calibration of depth", program, str(thinned))
    stages = np.sort(rng.choice(len(ruler.stages), STAGES, replace=False))
    base = rng.gamma(0.5, 1, GENES)
    # Coordinates whose distances are the square roots of the ruler's: a tree embeds so without loss.
    n, squared = len(ruler.stages), ruler.distances
    centred = -0.5 * (squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean())
    values, vectors = np.linalg.eigh(centred)
    at = vectors * np.sqrt(np.maximum(values, 0))
    profile = np.exp(PROGRAMS[program] * (at @ rng.normal(size=(n, GENES)))) * base
    profile /= profile.sum(1, keepdims=True)
    fall = np.log(5) * ruler.depths / np.max(ruler.depths) * thinned
    rows, counts = [], []
    for donor in range(DONORS):
        for stage in stages:
            library = 3000 * np.exp(-fall[stage] + 0.15 * rng.normal() + 0.3 * rng.normal(size=CELLS))
            counts.append(rng.poisson(library[:, None] * profile[stage]))
            rows += [(int(stage), f"D{donor}")] * CELLS
    x = np.concatenate(counts)
    total, obs = x.sum(1), pd.DataFrame(rows, columns=["stage", "donor"], index=[f"c{i}" for i in range(len(rows))])
    obs = obs.assign(**{LIBRARY_SIZE: np.log1p(total), DETECTED: np.log1p((x > 0).sum(1))})
    expression = sp.csr_matrix(np.log1p(1e4 * x / np.maximum(total, 1)[:, None]).astype(np.float32))
    cells = PlacedCells("made", obs, tuple(f"G{i}" for i in range(GENES)), expression, ruler)
    first = np.isin(obs["donor"], [f"D{i}" for i in range(DONORS // 2)])
    sides = [cells.take(np.flatnonzero(side)) for side in (first, ~first)]
    one, other = (replace(s, anchors=s.make_anchors(min_cells=5, parts=1, weights="equal", seed=0)) for s in sides)
    return one, other


def judged(ruler: Ruler, program: str, thinned: bool, seed: int, refits: int) -> list[dict]:
    """The screen's correlation of plain expression with its p, depth regressed out or not, one row each.

    Parameters
    ----------
    ruler, program, thinned, seed
        As `made` takes them.
    refits
        Relabellings behind each p.
    """
    one, other = made(ruler, program, thinned, seed)
    assert one.anchors is not None and other.anchors is not None
    anchors: Anchors = other.anchors
    bare = replace(other, anchors=replace(anchors, table=anchors.table.drop(columns=list(TECHNICAL), errors="ignore")))
    found = []
    for out, cells in (("donor", bare), ("donor and depth", other)):
        row, null = score_head(np.eye(GENES), one, cells, ruler, LETAdaptor(), refits=refits, seed=seed)
        value = row["residualised"]
        found.append(
            {"program": program, "thinned": thinned, "out": out, "value": value, "p": permutation_p(value, null)}
        )
    return found


def table(rows: pd.DataFrame) -> str:
    """Markdown of means, spreads and shares of worlds with p <= 0.05.

    Parameters
    ----------
    rows
        Rows of `judged`, of all worlds.
    """
    lines = [
        "| program | depth falls along the ruler | regressed out | correlation (sd over worlds) | worlds with p <= .05 |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (program, thinned, out), part in rows.groupby(["program", "thinned", "out"], sort=False):
        value, low = part["value"], (part["p"] <= 0.05).mean()
        lines.append(
            f"| {program} | {'yes' if thinned else 'no'} | {out} | {value.mean():.3f} ({value.std():.3f}) | {low:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Simulate, print, and write between the page's markers where one is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--worlds", type=int, default=40)
    parser.add_argument("--refits", type=int, default=19)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    ruler, rows = load_ruler("hematopoiesis"), []
    with tqdm(total=4 * args.worlds, unit="world") as bar:
        for program in PROGRAMS:
            for thinned in (False, True):
                for seed in range(args.worlds):
                    rows += judged(ruler, program, thinned, seed, args.refits)
                    bar.update()
    made_table = table(pd.DataFrame(rows))
    print(made_table)
    if args.docs:
        text = args.docs.read_text(encoding="utf-8")
        before, after = text.split("<!-- table -->")[0], text.split("<!-- end -->")[1]
        args.docs.write_text(f"{before}<!-- table -->\n{made_table}\n<!-- end -->{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
