"""What instruments find in a small model that was trained on cells of a known program, beside the same model before training.

    python experiments/planted_learned.py artifacts/planted_learned --docs docs/planted_learned.md

Killed, it goes on where it was; five minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from workbench.ablation.ablate import effects_of, make_study
from workbench.ablation.grid import make_grid
from workbench.ablation.settings import SweepConfig
from workbench.ablation.study import intact_cells
from workbench.ablation.sweeping import sweep
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.evidence.screen import score_head
from workbench.files import write_text
from workbench.models.scgpt.pretraining import prepare, train
from workbench.operators.adaptor import LETAdaptor
from workbench.planted.cells import WorldShape, make_world, planted_cells
from workbench.planted.checkpoint import PlantedModel
from workbench.planted.proof import EXTERNAL, INTERNAL, operators_of, placed_cells
from workbench.pretrain_settings import PretrainSettings

FIRST_SEED = 400
STEPS = 1000
SHAPE = WorldShape(
    branches=("erythroid", "monocyte", "B", "T"),
    stages_per_branch=4,
    genes_per_program=10,
    n_nuisance=6,
    genes_per_nuisance=6,
    n_background=20,
    cells_per_group=12,
    signal=2.5,
    nuisance=0.5,
)
_STATES = ("before training", "trained")


def learned(seed: int, steps: int) -> pd.DataFrame:
    """What instruments find in a small model before training and after it, and in expression, a row each.

    Parameters
    ----------
    seed
        Seed of world, cells and training.
    steps
        Steps of the training.
    """
    world = make_world(seed, shape=SHAPE)
    cells = planted_cells(world, ("D1", "D2", "D3", "D4", "D5", "D6"))
    settings = PretrainSettings(
        n_layers=2,
        n_heads=4,
        dropout=0.0,
        steps=steps,
        batch_size=32,
        genes_per_cell=100,
        learning_rate=2e-3,
        validate_every=steps,
        seed=seed,
    )
    data, program, rows = prepare(cells, settings), world.program, []
    sides = [placed_cells(world, cells[np.isin(cells.obs["donor"], own)].copy()) for own in (EXTERNAL, INTERNAL)]
    internal, external = sides[1], sides[0]
    same = program[:, None] == program
    pairs = np.triu_indices(len(program), 1)
    pairs = tuple(at[(program[pairs[0]] >= 0) & (program[pairs[1]] >= 0)] for at in pairs)

    def told(nearness: np.ndarray) -> float:
        return float(roc_auc_score(same[pairs], nearness[pairs]))

    def screened(matrix: np.ndarray) -> float:
        return score_head(matrix, internal, external, world.ruler, LETAdaptor(k=4), refits=0, seed=seed)[0][
            "residualised"
        ]

    def probed(x: np.ndarray) -> float:
        folds = GroupKFold(6).split(x, groups=cells.obs["donor"])
        fit = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        branch = np.array(world.ruler.branches)[[world.ruler.stages.index(name) for name in cells.obs["cell_type"]]]
        return float(cross_val_score(fit, x, branch, cv=list(folds), scoring="balanced_accuracy").mean())

    for state, n in zip(_STATES, (1, steps), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            model, curve = train(data, settings.model_copy(update={"steps": n, "validate_every": n}), Path(folder))
        ids = model.vocabulary.encode(world.genes)
        gene = model.embed.gene(torch.as_tensor(ids)).numpy()
        gene = gene - gene.mean(0)
        gene /= np.linalg.norm(gene, axis=1, keepdims=True)
        planted = PlantedModel(model, world, 0, 0, np.zeros((len(program), 1)), False)
        heads = operators_of(planted, cells[np.isin(cells.obs["donor"], INTERNAL)].copy(), "attention").reshape(
            8, len(program), -1
        )
        tied = [
            told(one + one.T)
            for one in np.log(np.maximum(heads, 1e-9)) - np.log(np.maximum(heads.mean(1, keepdims=True), 1e-9))
        ]
        grid = make_grid(model, SweepConfig(layers=True, null_draws=10), seed)
        study, _ = make_study(model, cells, grid, metrics=("masked_error",), n_cells=64, seed=seed, min_gene_share=0.5)
        with tempfile.TemporaryDirectory() as folder:
            table = effects_of(study, grid, sweep(study, grid, 64, Path(folder), Backend(), {"state": state}), 500)
        kinds = table.groupby("kind")
        rows.append(
            {
                "of": state,
                "error": curve[-1]["held_out_expression"],
                "genes": told(gene @ gene.T),
                "attention": max(tied, key=lambda value: abs(value - 0.5)),
                "screen": max(map(screened, heads)),
                "branch": probed(intact_cells(model, model.tokenizer(cells).tokens(), batch_size=64)),
                "head": kinds.get_group("head")["effect"].max(),
                "beyond": int(kinds.get_group("head")["beyond"].sum()),
                "mlp": kinds.get_group("mlp")["effect"].max(),
                "layer": kinds.get_group("attention")["effect"].max(),
            }
        )
    x = np.log1p(1e4 * cells.X.toarray() / np.maximum(cells.X.toarray().sum(1, keepdims=True), 1))
    own = {"genes": told(np.corrcoef(x.T)), "screen": screened(np.eye(len(program))), "branch": probed(x)}
    rows.append({"of": "expression", **own})
    return pd.DataFrame(rows).assign(seed=seed)


def learned_table(rows: pd.DataFrame) -> str:
    """Markdown: instruments downwards, the model before and after training and expression beside each other.

    Parameters
    ----------
    rows
        Rows of `learned`.
    """
    shown = {
        "error": ("masked error on held-out cells (bins squared)", 0),
        "genes": ("gene embedding: genes of one program nearer (AUROC)", 2),
        "attention": ("attention: the head that ties genes of one program most, or least (AUROC)", 2),
        "branch": ("cell embedding: branch on other donors (balanced accuracy, 4 branches)", 2),
        "screen": ("screen: best of 8 heads, or plain expression (correlation)", 2),
        "head": ("ablation: largest harm by one head (bins squared)", 2),
        "beyond": ("ablation: heads beyond their null, of 8", 1),
        "layer": ("ablation: largest harm by one attention layer", 2),
        "mlp": ("ablation: largest harm by one MLP", 2),
    }
    states = list(dict.fromkeys(rows["of"]))
    lines = [f"| instrument | {' | '.join(states)} |", "|---|" + "---|" * len(states)]
    for column, (said, digits) in shown.items():
        cells = []
        for state in states:
            values = rows.loc[rows["of"] == state, column].dropna()
            cells.append(
                f"{values.mean():.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"
                if len(values)
                else ""
            )
        lines.append(f"| {said} | {' | '.join(cells)} |")
    return "\n".join(lines)


PAGE = """# A planted program that a model has learned

Everything on this page is planted but the model's weights. 2 layers x 4 heads, width 64, trained for {steps:,} steps on planted cells of six donors, whose four programs are the strongest thing in
them, by scGPT's masked values. Mean over {n} worlds from seed {first} (smallest to largest). Worlds that were wired by hand: [here](planted_harder.md). The command, which goes on where it
was stopped:

    python experiments/planted_learned.py artifacts/planted_learned --docs docs/planted_learned.md

{learned}

{answer}
"""


def answer(rows: pd.DataFrame) -> str:
    """What the trained model shows, in words that follow the numbers.

    Parameters
    ----------
    rows
        Rows of `learned`.
    """
    mean = rows.groupby("of").mean(numeric_only=True)
    before, after, x = (mean.loc[name] for name in (*_STATES, "expression"))
    said = f"Training lowers the masked error from {before['error']:.0f} to {after['error']:.0f}. "
    found = {
        "the gene embedding": (after["genes"], before["genes"], 0.1),
        "attention between genes": (abs(after["attention"] - 0.5), abs(before["attention"] - 0.5), 0.1),
        "the cell embedding": (after["branch"], before["branch"], 0.1),
        "ablation of heads": (after["beyond"], before["beyond"], 0.5),
    }
    better = [name for name, (one, other, least) in found.items() if one > other + least]
    not_better = [name for name in found if name not in better]
    said += f"What it learned shows in {', '.join(better) or 'none of the instruments'}"
    said += f", and not in {', '.join(not_better)}. " if not_better else ". "
    below = after["screen"] < x["screen"]
    said += (
        f"The screen puts the best trained head at {after['screen']:.2f}, an untrained one at {before['screen']:.2f}, "
    )
    said += f"plain expression at {x['screen']:.2f}: {'it asks what a head adds to expression, and here that is nothing' if below else 'the head is above expression'}. "
    return (
        said + f"The largest MLP does {after['mlp'] / max(after['head'], 1e-9):.1f} times the harm of the largest head."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Train, look, and write the page.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--worlds", type=int, default=2)
    given = parser.parse_args(argv)
    tasks = [Task(f"{seed}", (seed, STEPS)) for seed in range(FIRST_SEED, FIRST_SEED + given.worlds)]
    rows = run_sweep(given.folder, {"steps": STEPS}, tasks, learned)
    about = {"steps": STEPS, "n": given.worlds, "first": FIRST_SEED}
    text = PAGE.format(**about, learned=learned_table(rows), answer=answer(rows))
    write_text(given.docs, text) if given.docs else print(text)


if __name__ == "__main__":
    main()
