"""How often tests of ablated heads and of pairs call nothing, what their intervals hold, and what they find: simulated sweeps, one page.

    python experiments/calibration_ablation.py artifacts/calibration_ablation --docs docs/calibration_ablation.md

Effects per cell are drawn and handed to the functions that a sweep calls, at the size of the shipped one: 24 heads with 20 random
changes each, 160 cells; 8 pairs beside 160 random ones. Killed, it goes on where it was. Twelve minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workbench.ablation.effects import effect_table
from workbench.ablation.pairs import interactions
from workbench.engine.sweep import Task, run_sweep
from workbench.files import write_text
from workbench.seeds import generator

HEADS, DRAWS, CELLS, DONORS, MATTER = 24, 20, 160, 8, 6
TESTED, RANDOM, REDUNDANT = 8, 160, 2
WORLDS, BLOCK, BOOTSTRAP = 150, 25, 1000
ALIKE, SCATTER, NOTHING, OF_DONORS, BOTH, REAL, HARD = (
    "heads do what random changes do",
    "the same, and scatter four times as much over cells",
    "nothing does anything on average, and heads scatter four times as much",
    "the same as the first, cells of 8 donors that differ",
    "the same as the second, cells of 8 donors that differ four times as much for heads",
    "6 of 24 heads do four times as much",
    "6 of 24 heads do four times as much, and all heads scatter four times as much",
)
HEAD_WORLDS = (ALIKE, SCATTER, NOTHING, OF_DONORS, BOTH, REAL, HARD)
WIDE = (SCATTER, NOTHING, BOTH, HARD)
CHANCE, GROWS, LOOSE, BACKED, LARGEST = (
    "pairs do what random pairs do",
    "the same, but interactions grow with heads, and the largest are tested",
    "the same as the first, and tested pairs scatter four times as much over cells",
    "2 of 8 pairs back each other up",
    "2 of 8 pairs back each other up, interactions grow with heads, and the largest are tested",
)
PAIR_WORLDS = (CHANCE, GROWS, LOOSE, BACKED, LARGEST)
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
    matters = np.arange(HEADS) < (MATTER if world in (REAL, HARD) else 0)
    size = np.exp(0.7 * rng.normal(size=HEADS))
    own = rng.normal(1, 0.3, HEADS)[:, None] + _OVER_CHANGES * rng.normal(size=(HEADS, 1 + DRAWS))
    own[:, 0] += 3 * matters * np.sign(own[:, 0])
    own *= world != NOTHING
    heavy = rng.standard_t(5, size=(HEADS, 1 + DRAWS, CELLS)) / np.sqrt(5 / 3)
    wide = np.where(np.arange(1 + DRAWS) == 0, 4.0 if world in WIDE else 1.0, 1.0)[:, None]
    donor = np.arange(CELLS) % DONORS if world in (OF_DONORS, BOTH) else None
    values = own[:, :, None] + wide * _OVER_CELLS * heavy
    if donor is not None:
        values += wide * _OVER_DONORS * rng.normal(size=(HEADS, 1 + DRAWS, DONORS))[:, :, donor]
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
    grows = np.ones(n)
    if world in (GROWS, LARGEST):
        # The largest are tested, and their size says nothing of which of them matter.
        order = np.argsort(-size)
        size = size[np.concatenate([rng.permutation(order[:TESTED]), np.sort(order[TESTED:])])]
        grows = size
    matters = np.arange(n) < (REDUNDANT if world in (BACKED, LARGEST) else 0)
    relative = (0.3 * rng.standard_t(5, n) + 2.0 * matters) * grows
    scatter = np.where((np.arange(n) < TESTED) & (world == LOOSE), 4.0, 1.0)
    names = [(f"A{i}", f"B{i}") for i in range(n)]
    singles, both = {}, {}
    for (a, b), scale, own, wide in zip(names, size, relative, scatter, strict=True):
        singles[a], singles[b] = scale * (1 + 0.5 * rng.normal(size=(2, CELLS)))
        both[a, b] = singles[a] + singles[b] + scale * (own + 2 * wide * rng.normal(size=CELLS))
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
            who = "that do" if matters else "others" if own["world"].iloc[0] in (REAL, HARD, BACKED, LARGEST) else "all"
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

So p keeps its level whether or not heads scatter over cells, or over donors, more than random changes do: each random change is moved by chance of what the head scatters
more (`ablation.nulls.p_among`). Without that 19 % and 60 % of the heads of the second and third world had p <= 0.05. Heads that do four times as much are found (sixth line); where they
scatter four times as much as well (last line), half of them are, and the sweep says so: in the last column, 1 would be a head of just the size that is said to be found four times in
five, and above 1 it is smaller than that. Where some heads do something, q lets a share of all calls be false, so that some other head is called in one sweep of seven. Intervals
over 8 donors hold what they say, stretched to Student's t.

## Pairs beyond the sum

8 pairs beside 160 random ones, 160 cells; p compares the interaction, over what a random pair of that size and scatter does, with that of the random pairs.

{pairs}

So the test keeps its level where pairs are alike, and where tested ones scatter more over cells. Where interactions grow faster than heads and the largest heads are those that are
tested, it calls a little too many (second line; a third had p <= 0.05 before that growth was taken from the random pairs, `ablation.nulls.usual_size`), since the largest pairs lie
at the edge of what it is fitted to. `growth` in a sweep's table says how much there is of it ([ablation](ablation.md)).
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
