"""What library size does to the head screen and to gates 1 to 5, where it follows the ruler: without and with it regressed out.

    python experiments/calibration_depth.py artifacts/calibration_depth --docs docs/calibration_depth.md

In each world six donors have cells of stages of the blood ruler. Counts are drawn from one profile of genes, so that no gene
knows the stage, or from profiles that follow the ruler. Library size falls with the stage's depth on the ruler, or is the same
everywhere. The screen fits an adaptor to plain expression of three donors and judges it on the others; gates 1 to 5 are asked of
the first three. Killed, it goes on where it was; twenty minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE, TECHNICAL
from workbench.cells.placed import PlacedCells
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.evidence.anchor_set import AnchorSet, anchors_of
from workbench.evidence.gate_spec import GATES, SPEC
from workbench.evidence.gates import first_five
from workbench.evidence.ruler import Ruler, load_ruler
from workbench.evidence.screen import score_head
from workbench.files import write_text
from workbench.operators.adaptor import LETAdaptor
from workbench.seeds import generator
from workbench.stats import permutation_p

STAGES, GATE_STAGES, DONORS, CELLS, GENES = 12, 8, 6, 30, 300
PROGRAMS = {"none": 0.0, "follows the ruler": 0.1}
# Worlds of the screen, and of these with nothing but donors regressed out; worlds of the gates, and draws of their holdouts' null.
KINDS = {
    ("none", False): (300, 100, 20, 0),
    ("none", True): (500, 100, 250, 19),
    ("follows the ruler", False): (30, 20, 20, 0),
    ("follows the ruler", True): (100, 50, 20, 0),
}
REFITS = 19
_FEWER = replace(SPEC, random_splits=5)


def made(
    ruler: Ruler, program: str, thinned: bool, seed: int, n_stages: int = STAGES
) -> tuple[PlacedCells, PlacedCells]:
    """Cells of the donors that the adaptor is fitted on, and of those that it is judged on.

    Parameters
    ----------
    ruler
        Ruler of which the stages are some.
    program
        A name of `PROGRAMS`.
    thinned
        Whether library size falls with the stage's depth on the ruler: to a fifth from the root to its deepest leaf.
    seed
        Seed of everything.
    n_stages
        Number of stages that occur.
    """
    rng = generator(seed, "calibration of depth", program, str(thinned))
    stages = np.sort(rng.choice(len(ruler.stages), n_stages, replace=False))
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


def bare(cells: PlacedCells) -> PlacedCells:
    """Cells of whose sequencing nothing is known.

    Parameters
    ----------
    cells
        Cells with their anchors.
    """
    anchors = anchors_of(cells)
    table = anchors.table.drop(columns=list(TECHNICAL), errors="ignore")
    return replace(cells, anchors=replace(anchors, table=table))


def screened(program: str, thinned: bool, seed: int, known: bool) -> pd.DataFrame:
    """The screen's correlation of plain expression in one world, with its p.

    Parameters
    ----------
    program, thinned, seed
        As `made` takes them.
    known
        Whether library size and detected genes are known, and regressed out.
    """
    ruler = load_ruler("hematopoiesis")
    one, other = made(ruler, program, thinned, seed)
    one, other = (one, other) if known else (bare(one), bare(other))
    row, null = score_head(np.eye(GENES), one, other, ruler, LETAdaptor(), refits=REFITS, seed=seed)
    about = {"program": program, "thinned": thinned, "known": known, "seed": seed}
    return pd.DataFrame([{**about, "value": row["residualised"], "p": permutation_p(row["residualised"], null)}])


def gated(program: str, thinned: bool, seed: int, refits: int) -> pd.DataFrame:
    """Gates 1 to 5 of plain expression in one world, a row each.

    Parameters
    ----------
    program, thinned, seed
        As `made` takes them.
    refits
        Draws of the null beside each holdout.
    """
    ruler = load_ruler("hematopoiesis")
    anchors = anchors_of(made(ruler, program, thinned, seed, GATE_STAGES)[0])
    own = AnchorSet.of_cohort(anchors.centroids, anchors)
    gates = first_five(own, ruler, LETAdaptor(), seed=seed, refits=refits, spec=_FEWER)
    assert all("regressed out" in gate.note for gate in gates)
    rows = []
    for gate in gates:
        passed = [v >= gate.threshold if gate.rule == ">=" else v <= gate.threshold for v in (gate.plain, gate.value)]
        shown = {"gate": gate.gate, "value": gate.value, "plain": gate.plain, "plain_passes": passed[0]}
        p = gate.value if gate.rule == "<=" else gate.p
        rows.append({"program": program, "thinned": thinned, **shown, "passes": gate.status == "pass", "p": p})
    return pd.DataFrame(rows)


def table(rows: pd.DataFrame) -> str:
    """Markdown of means, spreads and shares of worlds with p <= 0.05.

    Parameters
    ----------
    rows
        Rows of `screened`, of all worlds.
    """
    lines = [
        "| program | library size falls along the ruler | regressed out | worlds | correlation (sd over worlds) | worlds with p <= 0.05 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (program, thinned, known), part in rows.groupby(["program", "thinned", "known"], sort=False):
        out = "donor and sequencing" if known else "donor"
        value = f"{part['value'].mean():.3f} ({part['value'].std():.3f})"
        lines.append(f"| {program} | {_said(thinned)} | {out} | {len(part)} | {value} | {_share(part['p'] <= 0.05)} |")
    return "\n".join(lines)


def gates_table(rows: pd.DataFrame) -> str:
    """Markdown of how often each gate passes, of features as they are and as the gate asks.

    Parameters
    ----------
    rows
        Rows of `gated`, of all worlds.
    """
    lines = [
        "| program | library size falls along the ruler | gate | mean as it is, regressed out | passes as it is | passes | p <= 0.05 of its null |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (program, thinned, gate), part in rows.groupby(["program", "thinned", "gate"], sort=False):
        means = f"{part['plain'].mean():.2f}, {part['value'].mean():.2f}"
        passed = f"{_share(part['plain_passes'])} | {_share(part['passes'])}"
        own = _share(part["p"] <= 0.05) if part["p"].notna().all() and gate != GATES[0] else ""
        lines.append(f"| {program} | {_said(thinned)} | {gate} | {means} | {passed} | {own} |")
    return "\n".join(lines)


def _said(thinned: bool) -> str:
    return "yes" if thinned else "no"


def _share(which: pd.Series) -> str:
    return f"{int(which.sum())} of {len(which)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, print, and write between the page's markers where one is named.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args(argv)
    screens = [
        Task(f"{program} {thinned} {known} {seed}", (program, thinned, seed, known))
        for (program, thinned), (n, n_bare, _, _) in KINDS.items()
        for known in (False, True)
        for seed in range(n if known else n_bare)
    ]
    gates = [
        Task(f"{program} {thinned} {seed}", (program, thinned, seed, refits))
        for (program, thinned), (_, _, n, refits) in KINDS.items()
        for seed in range(n)
    ]
    identity = {"spec": SPEC.hash, "stages": [STAGES, GATE_STAGES], "refits": REFITS}
    made_tables = {
        "screen": table(run_sweep(args.folder / "screen", identity, screens, screened, Backend())),
        "gates": gates_table(run_sweep(args.folder / "gates", identity, gates, gated, Backend())),
    }
    for name, text in made_tables.items():
        print(text)
        if args.docs:
            page = args.docs.read_text(encoding="utf-8")
            before, rest = page.split(f"<!-- {name} -->")
            write_text(
                args.docs,
                f"{before}<!-- {name} -->\n{text}\n<!-- end of {name} -->{rest.split(f'<!-- end of {name} -->')[1]}",
            )


if __name__ == "__main__":
    main()
