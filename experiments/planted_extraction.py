"""Are planted factors and programs found, and do the controls lose? A table over worlds.

    python experiments/planted_extraction.py --jobs 2 --out artifacts/planted_extraction --docs docs/planted_extraction.md

Finished worlds are kept: the same command goes on where it was stopped. Everything here is planted; nothing is real.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.engine.code import code_of
from workbench.engine.sweep import Backend, Task, run_sweep
from workbench.files import write_text
from workbench.planted.factor_proof import FOUND, PLANTED, factor_recovery
from workbench.planted.proof import OPERATORS
from workbench.stats import benjamini_hochberg, paired_wilcoxon

FIRST_SEED = 300  # 200 was looked at while this was made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("artifacts/planted_extraction"))
    parser.add_argument("--docs", type=Path, help="also write the table as a page of the documentation")
    parser.add_argument("--seeds", type=int, default=20, help="worlds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    arguments = parser.parse_args()
    backend = Backend("sequential" if arguments.jobs == 1 else "loky", arguments.jobs)
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    tasks = [Task(f"{seed} {kind}", (seed, kind)) for seed in seeds for kind in OPERATORS]
    found = run_sweep(arguments.out / "worlds", {"code": code_of(factor_recovery)}, tasks, factor_recovery, backend)
    page = text(found, arguments.seeds)
    write_text(arguments.out / "worlds.csv", found.to_csv(index=False))
    for place in (arguments.out / "planted_extraction.md", arguments.docs):
        if place:
            write_text(place, page)
    print(page)


def text(found: pd.DataFrame, n_seeds: int) -> str:
    """The page.

    Parameters
    ----------
    found
        Rows of `factor_recovery`.
    n_seeds
        As given to the command.
    """
    tables = "\n\n".join(f"### `{kind}`\n\n{table(part)}" for kind, part in found.groupby("operator", sort=False))
    return PAGE.format(
        command=f"python experiments/planted_extraction.py --seeds {n_seeds} --docs docs/planted_extraction.md",
        n=found["seed"].nunique(),
        first=found["seed"].min(),
        last=found["seed"].max(),
        found=FOUND,
        tables=tables,
    )


def table(part: pd.DataFrame) -> str:
    """One kind of operator: a row per feature map.

    Parameters
    ----------
    part
        Rows of one kind.
    """
    scores = part.pivot(index="seed", columns="feature_map", values="residualised")
    others = [name for name in part["feature_map"].unique() if name != PLANTED]
    p = {name: paired_wilcoxon((scores[PLANTED] - scores[name]).dropna().to_numpy()) for name in others}
    q = dict(zip(others, benjamini_hochberg(np.array([p[name] for name in others])), strict=True))
    lines = [
        "| feature map | planted factors found | matched one to one | programs found | decoys found | residualised correlation | planted head above it |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, own in part.groupby("feature_map", sort=False):
        above = "" if name == PLANTED else f"{(scores[PLANTED] > scores[name]).sum()} of {len(scores)}, q {q[name]:.2g}"
        lines.append(
            f"| {name} | {share(own, 'factors_found', 'n_programs')} | {share(own, 'matched', 'n_programs')} "
            f"| {share(own, 'programs_found', 'n_programs')} | {share(own, 'decoys_found', 'n_decoys')} "
            f"| {own['residualised'].mean():.2f} (sd {own['residualised'].std():.2f}) | {above} |"
        )
    return "\n".join(lines)


def share(own: pd.DataFrame, count: str, of: str) -> str:
    """A share over all worlds, with the least of one world.

    Parameters
    ----------
    own
        Rows of a feature map.
    count, of
        Columns.
    """
    if own[count].isna().all():
        return "no factors"
    return f"{own[count].sum() / own[of].sum():.2f} (least {(own[count] / own[of]).min():.2f})"


PAGE = """# The planted world: factors, programs and controls

Everything on this page is planted; see [planted_world.md](planted_world.md) for the world. One head of a checkpoint encodes how near six
branches are; its operator is a sum of six factors over the branches' programs, known in closed form. The command:

    {command}

{n} worlds (seeds {first} to {last}). Of the planted head, of another head with the same norms, and of controls made from the planted
operator or from the cells: how many of the planted factors lie in the span of the first six found (at least {found} of their length; factors
of nearly equal strength rotate into each other, so one-to-one matches are the harder count); in how many of the six programs some
factor is enriched (q at most 0.05, gene sets of the programs among decoys: nuisance sets that vary together and background); and the
correlation of latent with ruler on donors that the adaptor was not fitted on, donor and tissue regressed out, against the planted
head by a paired two-sided Wilcoxon test over worlds (Benjamini-Hochberg over feature maps).

{tables}

p of a program is beside random directions of the cells' expression. Programs are still no proof of the model: the factors of the cells' own gene
correlation are about some of them without any model, and an operator whose rows were permuted about all, on the side that was not. Of another head, which
reads the same embedding, few are found. What only the planted head has is its factors. Random directions with the head's own row norms follow the ruler as well as the planted head or better, so the last columns test how much each gene
counts, not which genes are tied together; the factors do test that.
"""


if __name__ == "__main__":
    main()
