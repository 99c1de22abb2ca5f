"""Worlds in which a wrong instrument fails: what each instrument finds there, and what it cannot.

    python experiments/planted_harder.py artifacts/planted_harder --docs docs/planted_harder.md

Circuits are wired by hand into checkpoints (redundant heads, many heads, an MLP, two layers in series); graphs are planted where expression
itself fails, over several heads, or where there is a batch instead.
Killed, it goes on where it was; five minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from workbench.ablation.ablate import effects_of, make_study
from workbench.ablation.attribution import attribute
from workbench.ablation.grid import make_grid
from workbench.ablation.pairs import interactions
from workbench.ablation.settings import SweepConfig
from workbench.ablation.sweeping import sweep
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.evidence.screen import score_head
from workbench.files import write_text
from workbench.operators.adaptor import LETAdaptor
from workbench.operators.weight_operators import weight_operators
from workbench.planted.cells import REMOVED, WorldShape, make_world, planted_cells
from workbench.planted.checkpoint import plant_world
from workbench.planted.circuits import CELLS, CIRCUITS, HEADS, LAYERS, circuit
from workbench.planted.proof import placed_cells
from workbench.seeds import generator
from workbench.stats import permutation_p

SEEDS = range(400, 404)

# Circuits.


def mechanism(kind: str, seed: int) -> pd.DataFrame:
    """What ablation, pairs, attribution and a probe of expression find of a circuit, one row.

    Parameters
    ----------
    kind, seed
        As `circuit` takes them.
    """
    model, cells, wires = circuit(kind, seed)
    carriers = sorted(wire.name for wire in wires)
    rng, names = generator(seed, "harder pairs"), [f"L{i}H{j}" for i in range(LAYERS) for j in range(HEADS)]
    own = (carriers[0], carriers[-1])
    across = [(a, b) for a in names for b in names if a < b and a[:2] != b[:2] and (a, b) != own]
    drawn = [across[i] for i in sorted(rng.permutation(len(across))[:40].tolist())]
    settings = SweepConfig(
        layers=True, null_draws=20, sites=(tuple(carriers), *((own,) if len(carriers) > 2 else ()), *drawn)
    )
    grid = make_grid(model, settings, seed)
    study, _ = make_study(model, cells, grid, metrics=("label_loss",), n_cells=None, seed=seed, min_gene_share=0.5)
    with tempfile.TemporaryDirectory() as folder:
        found = sweep(study, grid, 64, Path(folder), Backend(), {"kind": kind, "seed": seed})
    table = effects_of(study, grid, found, 200).set_index("ablation")
    values = dict(
        zip(
            [str(one) for one in grid if one.rotation is None],
            [v for one, v in zip(grid, found.effects["label_loss"], strict=True) if one.rotation is None],
            strict=True,
        )
    )
    pairs = {pair: values["+".join(pair)] for pair in (own, *drawn)} if "+".join(own) in values else {}
    heads, row = table[table["kind"] == "head"], {"world": kind, "seed": seed, "n": len(carriers)}
    if pairs:
        both = interactions(values, pairs, random=drawn, draws=200, seed=seed).iloc[0]
        row |= {"interaction": both["interaction"], "pair_p": both["p"]}
    estimate = attribute(study, study.metrics[0], range(CELLS), "mean", draws=2).mean(2).ravel()
    order = [names[i] for i in np.argsort(-estimate)]
    x = np.log1p(cells.X.toarray())
    probe = cross_val_score(LogisticRegression(C=0.1, max_iter=2000), x, cells.obs["cell_type"], cv=4).mean()
    others = heads.drop(index=carriers)
    row |= {
        "one": heads.loc[carriers, "effect"].mean(),
        "other": others["effect"].abs().max(),
        "found": int(heads.loc[carriers, "beyond"].sum()),
        "false": int(others["beyond"].sum()),
        "together": table.loc["+".join(carriers), "effect"],
        "mlp": table[table["kind"] == "mlp"]["effect"].max(),
        "mlp_first": table[table["kind"] == "mlp"]["effect"].idxmax(),
        "attributed": sum(name in order[: len(carriers)] for name in carriers),
        "probe": probe,
    }
    return pd.DataFrame([row])


# Graphs over genes, read off the weights.

LOUD, SPREAD, BATCH, BATCH_NAMED = (
    "nuisance drowns the graph in expression",
    "the same, and the graph lies in three heads among much that cancels",
    "no graph; each branch its own batch",
    "the same, the batch named as tissue",
)
GRAPHS = (LOUD, SPREAD, BATCH, BATCH_NAMED)
_SHAPE = WorldShape(
    branches=("erythroid", "monocyte", "B", "T"),
    stages_per_branch=4,
    genes_per_program=10,
    n_nuisance=6,
    genes_per_nuisance=6,
    n_background=20,
)
_DRAWS = 19


def graphs(kind: str, seed: int) -> pd.DataFrame:
    """The screen's correlation of heads, of sums of heads and of expression, and p of the best head, one row.

    Parameters
    ----------
    kind
        One of `GRAPHS`.
    seed
        Seed of world and checkpoint.
    """
    shape = replace(_SHAPE, stage_nuisance=2.0, donor_nuisance=2.5) if kind in (LOUD, SPREAD) else _SHAPE
    world, signal = make_world(seed, shape=shape), {"signal": REMOVED} if kind in (BATCH, BATCH_NAMED) else {}
    planted = plant_world(world, seed, n_layers=2, n_heads=4, d_model=64, layer=0, head=0)
    matrices = weight_operators(planted.model, world.genes, "qk").dense().reshape(8, len(world.genes), -1)
    names = ["the planted head"]
    if kind == SPREAD:
        left, size, right = np.linalg.svd(matrices[0])
        parts = [left[:, at] * size[at] @ right[at] for at in (slice(0, 2), slice(2, 4), slice(4, None))]
        noise = [2 * one * np.linalg.norm(matrices[0]) / np.linalg.norm(one) for one in matrices[4:7]]
        middle = np.mean(noise, 0)
        # What the three hold beside the graph is twice as large as it, and cancels in their sum.
        matrices[:3] = [part + one - middle for part, one in zip(parts, noise, strict=True)]
        names = ["one of three"] * 3
    sides = []
    for donors in (("D1", "D2", "D3"), ("D4", "D5", "D6")):
        cells = planted_cells(world, donors, **signal)
        if kind in (BATCH, BATCH_NAMED):
            cells = _batched(cells, world.ruler, seed, kind == BATCH_NAMED)
        sides.append(placed_cells(world, cells))

    def score(matrix: np.ndarray, refits: int = 0) -> tuple[float, float]:
        row, null = score_head(matrix, *sides, world.ruler, LETAdaptor(k=4), refits=refits, seed=seed)
        return row["residualised"], permutation_p(row["residualised"], null)

    every = [score(matrix)[0] for matrix in matrices]
    own = every[: len(names)]
    best = int(np.argmax(every))
    expression, p_expression = score(np.eye(len(world.genes)), _DRAWS)
    together, p_together = score(matrices[: len(names)].sum(0), _DRAWS)
    row = {
        "world": kind,
        "seed": seed,
        "carrier": max(own),
        "other": max(every[len(names) :]),
        "first": best < len(names),
    }
    row |= {"p_best": score(matrices[best], _DRAWS)[1], "together": together, "p_together": p_together}
    return pd.DataFrame([row | {"expression": expression, "p_expression": p_expression}])


def _batched(cells: AnnData, ruler: object, seed: int, named: bool) -> AnnData:
    """Counts thinned gene by gene, in a way that all cells of a branch share."""
    branch = np.array(ruler.branches)[[ruler.stages.index(name) for name in cells.obs["cell_type"]]]
    out, rng = cells.copy(), generator(seed, "harder batch", str(cells.obs["donor"].iloc[0]))
    effect = {
        name: generator(seed, "batch of a branch", name).normal(0, 0.7, cells.n_vars) for name in sorted(set(branch))
    }
    kept = np.exp([effect[name] - effect[name].max() for name in branch])
    out.X = sp.csr_matrix(rng.binomial(cells.X.toarray().astype(int), kept).astype(np.float32))
    if named:
        out.obs["tissue"] = branch
    return out


# The page.


def circuits_table(rows: pd.DataFrame) -> str:
    """Markdown: a line for each circuit, means over worlds.

    Parameters
    ----------
    rows
        Rows of `mechanism`.
    """
    lines = [
        "| circuit (heads that carry it) | one of them off (nats) | found beyond their null | all off | pair beyond the sum, p | largest other head | largest MLP | attribution ranks them first | probe of expression |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, own in rows.groupby("world", sort=False):
        n, worlds = int(own["n"].iloc[0]), len(own)
        pair = f"{own['interaction'].mean():+.3f}, p {own['pair_p'].median():.3f} (median)"
        numbers = [f"{own['one'].mean():.3f}", f"{own['found'].sum()} of {n * worlds}; others {own['false'].sum()}"]
        numbers += [f"{own['together'].mean():.2f}", pair, f"{own['other'].max():.3f}", f"{own['mlp'].mean():.2f}"]
        numbers += [f"{own['attributed'].sum()} of {n * worlds}", f"{own['probe'].mean():.2f}"]
        lines.append(f"| {kind} ({n}) | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def graphs_table(rows: pd.DataFrame) -> str:
    """Markdown: a line for each graph, means over worlds and how many have p at most 0.05.

    Parameters
    ----------
    rows
        Rows of `graphs`.
    """
    lines = [
        "| world | best head that carries it | comes first of 8 | best other head | their sum (p <= 0.05) | expression (p <= 0.05) |",
        "|---|---|---|---|---|---|",
    ]
    for kind, own in rows.groupby("world", sort=False):

        def called(what: str, own: pd.DataFrame = own) -> str:
            return f"{own[what].mean():.2f} ({(own[f'p_{what}'] <= 0.0501).sum()} of {len(own)})"

        numbers = [f"{own['carrier'].mean():.2f}", f"{own['first'].sum()} of {len(own)}", f"{own['other'].mean():.2f}"]
        lines.append(f"| {kind} | " + " | ".join([*numbers, called("together"), called("expression")]) + " |")
    return "\n".join(lines)


PAGE = """# Harder planted worlds: where a wrong instrument fails

Everything on this page is planted. In [the planted world](planted_world.md) expression itself and a random matrix do almost as well as the planted head, so that
little can go wrong there. Here something does. {n} worlds of each kind, seeds {first} to {last}. The command, which goes on where it was stopped:

    python experiments/planted_harder.py artifacts/planted_harder --docs docs/planted_harder.md

## Circuits

Checkpoints of 3 layers x 4 heads in which the label reaches the cell embedding in a known way; {cells} cells of two classes; mean ablation, loss of a fixed probe of the label (0.69 nats is
knowing nothing). Pairs are compared with 40 others, so that no p is below 0.024. Through an MLP the label is whether two sets of genes go together: heads bring both, an MLP joins them.

{circuits}

Heads outside a circuit write where the label is not read, so that none can be called by chance: these worlds test what is missed, and [calibration](calibration_ablation.md) what is
called for nothing. By the table:

| instrument | finds | cannot |
|---|---|---|
| heads off, one at a time | every head of a circuit, each beside its null, and the first of two in series as well as the last | say that redundant or divided heads matter: the loss hardly changes, and a ranking by size shows nothing |
| pairs beyond the sum | two redundant heads, and two in series (less than the sum) | six heads that share a signal: no pair of them is more than its sum |
| all of a set off | all of them | find the set: it has to be named |
| MLPs off | the MLP that joins | tell what it joins |
| attribution, second order | the same heads as ablation | more than ablation does |
| a linear probe of expression | what is linear in expression | whether two sets go together; the cell embedding holds it |

## Graphs

The graph of blood stages is planted in `qk` operators of one head of 8, as in the planted world, at four branches. Expression is drowned by nuisance, by which cell types
differ as well; or the graph is divided over three heads, each of which holds twice as much beside it that cancels in their sum; or there is no graph, and each
branch is a batch of its own in all donors. Screen on three other donors, {draws} relabellings, none of p below 0.05.

{graphs}

So (the table) the screen finds a head where expression knows nothing of the graph. Where the graph is divided it still puts one of the three heads first, but hardly above heads that hold nothing:
that a head comes first does not say that the graph is its own. Their sum has what one head had. Where a batch
goes with the branches, expression follows a ruler without any program, and heads that read everything follow expression: regressing out the batch's own name from pairs takes little of
it away. No test on such cells can tell a batch from biology. What library size alone does: [calibration](calibration_depth.md). A model that has learned,
instead of being wired: [here](planted_learned.md).
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make all worlds, and write the page.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path)
    given = parser.parse_args(argv)
    found = {}
    for work, kinds in ((mechanism, CIRCUITS), (graphs, GRAPHS)):
        tasks = [Task(f"{kind} {seed}", (kind, seed)) for kind in kinds for seed in SEEDS]
        found[work.__name__] = run_sweep(given.folder / work.__name__, {"cells": CELLS}, tasks, work)
    text = PAGE.format(
        n=len(SEEDS), first=SEEDS[0], last=SEEDS[-1], cells=CELLS, draws=_DRAWS,
        circuits=circuits_table(found["mechanism"]), graphs=graphs_table(found["graphs"]),
    )  # fmt: skip
    write_text(given.docs, text) if given.docs else print(text)


if __name__ == "__main__":
    main()
