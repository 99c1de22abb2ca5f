"""How often tests of ablated heads and of pairs call nothing, what their intervals hold, and what they find: simulated sweeps, one page.

    python experiments/calibration_ablation.py artifacts/calibration_ablation --docs docs/calibration_ablation.md

Effects per cell are drawn and handed to the functions that a sweep calls, at the size of the shipped one: 24 heads with 20 random
changes each, 160 cells; 8 pairs beside 160 random ones. Killed, it goes on where it was. Six minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.ablation.effects import effect_table, interactions
from workbench.engine.sweep import Task, run_sweep
from workbench.files import write_text
from workbench.seeds import generator

HEADS, DRAWS, CELLS, DONORS, MATTER = 24, 20, 160, 8, 6
TESTED, RANDOM, REDUNDANT = 8, 160, 2
WORLDS, BLOCK, BOOTSTRAP = 150, 25, 1000
ALIKE, SCATTER, NOTHING, OF_DONORS, REAL = (
    "heads do what random changes do",
    "the same, and scatter four times as much over cells",
    "nothing does anything on average, and heads scatter four times as much",
    "the same as the first, cells of 8 donors that differ",
    "6 of 24 heads do four times as much",
)
HEAD_WORLDS = (ALIKE, SCATTER, NOTHING, OF_DONORS, REAL)
CHANCE, GROWS, BACKED = (
    "pairs do what random pairs do",
    "the same, but interactions grow with heads, and the largest are tested",
    "2 of 8 pairs back each other up",
)
PAIR_WORLDS = (CHANCE, GROWS, BACKED)
# In units of what a random change does on average: spread over changes, over cells, and over donors.
_OVER_CHANGES, _OVER_CELLS, _OVER_DONORS = 0.5, 3.0, 1.0


def _grid() -> pd.DataFrame:
    rows = [
        {"places": f"L{h // 4}H{h % 4}", "how": "mean", "kind": "head", "layer": h // 4, "head": h % 4, "null": null}
        for h in range(HEADS)
        for null in range(-1, DRAWS)
    ]
    return pd.DataFrame(rows).assign(key=[f"{row['places']} {row['null']}" for row in rows])


def heads(world: str, rng: np.random.Generator) -> pd.DataFrame:
    """A table of effects of one simulated sweep, with the truth of each head.

    Parameters
    ----------
    world
        One of `HEAD_WORLDS`.
    rng
        Draws everything.

    Returns
    -------
    DataFrame
        As of `effect_table`, with ``true`` (mean effect over all cells there could be) and ``matters``.
    """
    matters = np.arange(HEADS) < (MATTER if world == REAL else 0)
    size = np.exp(0.7 * rng.normal(size=HEADS))
    own = rng.normal(1, 0.3, HEADS)[:, None] + _OVER_CHANGES * rng.normal(size=(HEADS, 1 + DRAWS))
    own[:, 0] += 3 * matters * np.sign(own[:, 0])
    own *= world != NOTHING
    heavy = rng.standard_t(5, size=(HEADS, 1 + DRAWS, CELLS)) / np.sqrt(5 / 3)
    over_cells = (
        np.where(np.arange(1 + DRAWS) == 0, 4.0 if world in (SCATTER, NOTHING) else 1.0, 1.0)[:, None] * _OVER_CELLS
    )
    donor = np.arange(CELLS) % DONORS if world == OF_DONORS else None
    values = own[:, :, None] + over_cells * heavy
    if donor is not None:
        values += _OVER_DONORS * rng.normal(size=(HEADS, 1 + DRAWS, DONORS))[:, :, donor]
    values = (size[:, None, None] * values).reshape(-1, CELLS)
    table = effect_table({"metric": values}, _grid(), draws=BOOTSTRAP, seed=int(rng.integers(2**31)), groups=donor)
    return table.assign(true=size * own[:, 0], matters=matters)


def pairs(world: str, rng: np.random.Generator) -> pd.DataFrame:
    """A table of interactions of one simulated sweep, with the truth of each pair.

    Parameters
    ----------
    world
        One of `PAIR_WORLDS`.
    rng
        Draws everything.

    Returns
    -------
    DataFrame
        As of `interactions`, of the pairs that are tested, with ``true`` and ``matters``.
    """
    n = TESTED + RANDOM
    size = np.exp(0.7 * rng.normal(size=n))
    if world == GROWS:
        size[:TESTED] = np.sort(size)[-TESTED:]
    matters = np.arange(n) < (REDUNDANT if world == BACKED else 0)
    relative = 0.3 * rng.standard_t(5, n) * (size if world == GROWS else 1) + 2.0 * matters
    names = [(f"A{i}", f"B{i}") for i in range(n)]
    singles, both = {}, {}
    for (a, b), scale, own in zip(names, size, relative, strict=True):
        singles[a], singles[b] = scale * (1 + 0.5 * rng.normal(size=(2, CELLS)))
        both[a, b] = singles[a] + singles[b] + scale * (own + 2 * rng.normal(size=CELLS))
    table = interactions(singles, both, random=names[TESTED:], draws=BOOTSTRAP, seed=int(rng.integers(2**31)))
    return table.assign(true=size * relative, matters=matters)[:TESTED]


def block(world: str, number: int) -> pd.DataFrame:
    """Some sweeps of a world, a row for each head or pair that is tested.

    Parameters
    ----------
    world
        One of `HEAD_WORLDS` or `PAIR_WORLDS`.
    number
        Number of the block.
    """
    made, parts = heads if world in HEAD_WORLDS else pairs, []
    for i in range(number * BLOCK, (number + 1) * BLOCK):
        table = made(world, generator(0, "calibration of ablation", world, str(i)))
        effect = table["effect"] if "effect" in table else table["interaction"]
        kept = table[["low", "high", "p", "q", "beyond", "detectable", "true", "matters"]]
        parts.append(kept.assign(effect=effect, world=world, draw=i))
    return pd.concat(parts, ignore_index=True)


def lines(rows: pd.DataFrame, worlds: Sequence[str]) -> list[str]:
    """A line of the table for each world, and for those that matter and those that do not.

    Parameters
    ----------
    rows
        Rows of `block`, of all worlds.
    worlds
        Worlds in their order.
    """
    made = []
    for world in worlds:
        for matters, own in rows[rows["world"] == world].groupby("matters"):
            held = ((own["low"] <= own["true"]) & (own["true"] <= own["high"])).mean()
            some = own.groupby("draw")["beyond"].any().mean()
            shares = [(own["p"] <= 0.05).mean(), (own["q"] <= 0.05).mean(), own["beyond"].mean()]
            said = f"{(own['detectable'] / own['true'].abs()).median():.2f}" if matters else ""
            who = "that do" if matters else "others" if own["world"].iloc[0] in (REAL, BACKED) else "all"
            cells = [
                world,
                who,
                f"{len(own):,}",
                *(f"{share:.1%}" for share in shares),
                f"{some:.1%}",
                f"{held:.1%}",
                said,
            ]
            made.append("| " + " | ".join(cells) + " |")
    return made


def page(rows: pd.DataFrame) -> str:
    """The page, from the rows of all worlds.

    Parameters
    ----------
    rows
        As `block` gives them.
    """
    n = int(rows.groupby("world")["draw"].nunique().min())
    head = "| {} | {} | n | p <= 0.05 | q <= 0.05 | beyond | worlds with one beyond | interval holds the truth | detectable over true size |"
    rule = "|---|---|---|---|---|---|---|---|---|"
    return PAGE.format(
        n=n,
        error=1.96 * np.sqrt(0.05 * 0.95 / n),
        heads="\n".join([head.format("world", "heads"), rule, *lines(rows, HEAD_WORLDS)]),
        pairs="\n".join([head.format("world", "pairs"), rule, *lines(rows, PAIR_WORLDS)]),
    )


PAGE = """# Calibration: ablated heads and pairs

Made by `experiments/calibration_ablation.py`: {n} simulated sweeps of each world, with the functions that a sweep calls. n counts heads or pairs;
a share of worlds near 5 % is within {error:.1%} for chance. "Beyond" is what a report counts as an effect: q at most 0.05, and an interval that excludes 0.

## Heads

24 heads with 20 random changes each, 160 cells, tails of Student's t with five degrees of freedom; heads differ in size. Intervals are of the mean effect of
that very change over cells, or over donors where there are any.

{heads}

So p keeps its level where a head scatters over cells as random changes do (first line), and heads that do four times as much are found (last line). It does not
where heads scatter more: their mean over a few cells is larger by chance than that of random changes. Where nothing does anything on average (third line) the
interval takes most of these calls away, but leaves one in twenty heads, which is some head in most sweeps; where everything does something (second line) it takes none away. So
before a single head is called beyond the null, look at `sd` beside that of random changes, and at other draws of cells (`tables/draws.csv`). Intervals over 8 donors hold
what they say, stretched to Student's t. In the last column, 1 would be a head of just the size that is said to be found four times in five.

## Pairs beyond the sum

8 pairs beside 160 random ones, 160 cells; p compares the interaction over the size of both heads with that of the random pairs.

{pairs}

So the test keeps its level as long as interactions grow in proportion to the heads. Where they grow faster, and the largest heads are those that are tested, it calls
too much (second line). Whether that is so shows in a sweep's own random pairs ([ablation](ablation.md)).
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, and write the page.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--worlds", type=int, default=WORLDS)
    given = parser.parse_args(argv)
    tasks = [
        Task(f"{world} {number}", (world, number))
        for number in range(-(-given.worlds // BLOCK))
        for world in (*HEAD_WORLDS, *PAIR_WORLDS)
    ]
    text = page(run_sweep(given.folder, {"bootstrap": BOOTSTRAP}, tasks, block))
    write_text(given.docs, text) if given.docs else print(text)


if __name__ == "__main__":
    main()
