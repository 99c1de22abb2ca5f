"""How often the remaining tests of reports call nothing, what their intervals hold, and what they find: simulated worlds, one page.

    python experiments/calibration_others.py artifacts/calibration_others --docs docs/calibration_others.md
    python experiments/calibration_others.py FOLDER --docs docs/calibration_others.md --only features names

Stability of factors, what heads write, agreement of rulers, patching, steering, probes, readouts of a run, and features of a
dictionary. Arrays are drawn and handed to the functions that a command calls; patching and steering pass cells through small
models with one planted head. Killed, it goes on where it was. An hour on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from calibration_others_models import (
    ALIKE,
    APART,
    DONORS,
    NOTHING,
    OUTPUT,
    RAISED,
    patched,
    steered,
    steered_intervals,
)
from calibration_others_worlds import (
    ALONE,
    BESIDE_MORE,
    BOTH,
    BY_DONOR,
    CELLS,
    DO_ALIKE,
    DO_MORE,
    EIGHT_DONORS,
    FEW,
    FIRST,
    GAUSSIAN,
    IN_DONORS,
    MODULES,
    MORE,
    NEITHER,
    NOISY,
    NUMBERS,
    READ,
    ROWS,
    SAME,
    SCATTER,
    STRONG,
    TIES,
    TOGETHER,
    TURNED,
    UNITS,
    Rows,
    agreeing,
    changed,
    explained,
    named,
    probed,
    read_out,
    stable,
    written,
)
from scipy.stats import binomtest

from workbench.engine.sweep import Task, run_sweep
from workbench.files import write_text
from workbench.seeds import generator

ALPHA, BLOCK = 0.05, 20


@dataclass(frozen=True)
class Part:
    """Worlds of one kind, how many of each, and whether the number of the block is needed (of the model that they share)."""

    made: Callable[..., Rows]
    worlds: tuple[str, ...]
    n: int
    numbered: bool = False


PARTS = {
    "stability": Part(stable, (FEW, NOISY, MORE), 1000),
    "writing": Part(written, (GAUSSIAN, ROWS, TURNED, TIES), 1000),
    "agreement": Part(agreeing, (NEITHER, FIRST, BOTH, SAME), 1000),
    "patching": Part(patched, (ALIKE, APART, DONORS), 1000, numbered=True),
    "steering": Part(steered, (ALIKE, NOTHING, RAISED, OUTPUT), 1000, numbered=True),
    "steering intervals": Part(steered_intervals, (RAISED,), 1000, numbered=True),
    "probe": Part(probed, (CELLS, IN_DONORS, BY_DONOR, NUMBERS, READ), 1000),
    "readouts": Part(read_out, (CELLS, IN_DONORS, BY_DONOR, READ), 1000),
    "features": Part(changed, (DO_ALIKE, EIGHT_DONORS, SCATTER, BESIDE_MORE, DO_MORE), 1000),
    "names": Part(named, (ALONE, TOGETHER, STRONG, MODULES), 1000),
    "explained": Part(explained, tuple(UNITS), 1000),
}


def block(part: str, world: str, number: int) -> pd.DataFrame:
    """Some worlds, a row for each test or interval.

    Parameters
    ----------
    part
        A key of `PARTS`.
    world
        One of its worlds.
    number
        Number of the block.
    """
    one, rows = PARTS[part], []
    for i in range(number * BLOCK, (number + 1) * BLOCK):
        rng = generator(0, "calibration of others", part, world, str(i))
        made = one.made(world, rng, *([number] if one.numbered else []))
        rows += [{"part": part, "world": world, "draw": i, **found} for found in made]
    columns = ["part", "world", "draw", "what", "p", "q", "low", "high", "value", "truth"]
    return pd.DataFrame(rows).reindex(columns=columns).astype(dict.fromkeys(columns[4:], float))


def share(hit: pd.Series) -> str:
    """A share with its 95 % interval (Wilson), as if its parts were independent; empty where there is none.

    Parameters
    ----------
    hit
        What is counted.
    """
    if not len(hit):
        return ""
    low, high = binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
    return f"{hit.mean():.1%} ({100 * low:.1f} to {100 * high:.1f})"


def table(rows: pd.DataFrame) -> str:
    """The table of a part, a line for each world and what was tested.

    Parameters
    ----------
    rows
        Rows of `block` of this part.
    """
    found = []
    for (world, what), own in rows.groupby(["world", "what"], sort=False):
        p, q, ends = (own.loc[own[name].notna()] for name in ("p", "q", "low"))
        # Without a known truth it is the mean over worlds.
        truth = ends["truth"].fillna(ends["value"].mean())
        some = (q["q"] <= ALPHA).groupby(q["draw"]).any()
        cells = [share(p["p"] <= ALPHA), share(q["q"] <= ALPHA), share(some)]
        found.append(
            {
                "world": world,
                "of": what.replace("|", ""),
                "n": f"{len(own):,}",
                **dict(zip((f"p <= {ALPHA}", f"q <= {ALPHA}", "worlds with one at q"), cells, strict=True)),
                "interval holds the truth": share((ends["low"] <= truth) & (truth <= ends["high"])),
            }
        )
    shown = pd.DataFrame(found)
    shown = shown.loc[:, (shown != "").any()]
    lines = [shown.columns, ["---"] * shown.shape[1], *shown.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(rows: pd.DataFrame, old: str = "") -> str:
    """The page, from the rows of all worlds, or of some parts and the page as it was.

    Parameters
    ----------
    rows
        As `block` gives them.
    old
        Page whose sections stay where there are no rows of a part; empty for none.
    """
    kept = {part.split("\n", 1)[0]: f"\n## {part}" for part in old.split("\n## ")[1:]}
    text = HEAD
    for name in PARTS:
        own = rows[rows["part"] == name]
        before, after = SAID[name]
        if not len(own):
            text += kept.get(before.split("\n", 1)[0], "")
            continue
        n = own["draw"].nunique()
        error = 1.96 * np.sqrt(ALPHA * (1 - ALPHA) / n)
        text += f"\n## {before.format(n=f'{n:,}', error=f'{error:.1%}')}\n\n{table(own)}\n\n{after}\n"
    return text


HEAD = """# Calibration: what else is reported

Made by `experiments/calibration_others.py`, with the functions that a command calls. A row of a table is a kind of world and what was tested in it; n counts tests or
intervals. In brackets the 95 % interval of a share, as if tests of a world were independent. A test that keeps its level has p at most 0.05 in 5 % where there is nothing;
an interval that is as good as it says holds the truth in 95 %.
"""
# Title and design of each part, and what its table says.
SAID = {
    "stability": (
        """Stability of factors

{n} worlds of each kind, so within {error} for chance where a row has one number per world. Two planted factors of 60 genes, whose strength differs by a fifth between groups of cells, and noise in every
pair of genes; 100 draws of the groups. The truth of a strength is that of all groups there could be. "Overlap" is the Jaccard index of the ten top genes, which the report gives as a
mean over draws, with the range of draws.""",
        """So the interval of a strength holds what it says, also where noise adds a third to the strength: draws add nearly as much again, which is taken off, and the rest is stretched to Student's t for few groups. Where
noise is large it is too wide. The range of the overlap is no interval of a mean: it holds the overlap with all cells there could be, and with another sample, a little more often than 95 %.""",
    ),
    "writing": (
        """What heads write

{n} worlds of each kind (within {error}): 24 heads, 120 genes in six programs, 240 cells of which half are judged, 999 exchanges of gene names. q is over the 24 heads.""",
        """So p keeps its level for operators that tie no gene to another, also where their rows are as strong as genes are expressed, and weak ties are found.""",
    ),
    "agreement": (
        """Agreement of rulers

{n} worlds of each kind (within {error}): two rulers over the same eight stages of five anchors, an adaptor fitted to each, and to 20 relabellings of each. With 20 draws no p is below 0.048. A report counts two rulers as
agreeing where both measures stand out from both nulls.""",
        """So p beside draws of a ruler that is not in the features keeps its level. Beside draws of one that is, it calls up to one of nine pairs that have nothing to do with each other: a latent fitted to what the
features hold lies along their strong directions, which every other latent is nearer to than to those of relabelled stages. That is why a report asks for both nulls. It is cautious
then, and misses pairs that single measures find. A single p of the table is not to be read alone.""",
    ),
    "patching": (
        """Patching, and transfer of an ablation

{n} worlds of each kind (within {error}): cells go through models of 12 heads, one of which is planted and carries what tells two groups apart; 12 cells of each group, or three donors. Twenty worlds share a model. `workbench.patch`
and the transfer of `workbench ablate` are the same function. The truth of the interval is the share between 200 cells of each group.""",
        """So p is a little cautious, and the head that carries the difference is always found. Its interval holds the truth. p takes cells as independent: where the groups are cells of other donors, and donors
differ, it finds the donors (third kind).""",
    ),
    "steering": (
        """Steering

{n} worlds of each kind (within {error}): dose 1, 40 cells, 20 random directions. In the first three kinds an untrained model, in the last one with a planted head. Random directions are mixtures of what
cells of one label differ by, of the same length; axis and probe are of other cells than the direction.""",
        """So p keeps its level where groups differ by chance alone, and where a direction that cells differ along has nothing to do with them. A direction that the model writes for the difference is found. The
difference of means of an untrained model is not: cells of one label differ along directions that move them as far. So a large p says that a direction is no more than those, and not that
it does nothing.""",
    ),
    "steering intervals": (
        """Intervals beside steered cells

{n} worlds (within {error}): the same cells and the difference of their means at dose 1, 8 and 16 steered cells. The truth is the mean over 144 others at least, with direction, axis and probe as they are.""",
        """So an interval holds the mean over further cells in 90 to 95 %, least of a probability, which is skewed (percentiles that are not stretched: 85 to 92 % in 100 such worlds, before commit a13c454). Of another
direction, made from other cells, it says nothing.""",
    ),
    "probe": (
        """Probe and lens

{n} worlds of each kind (within {error}): 200 cells of eight donors with offsets of their own, 12 features, five folds (four where the label goes by donor). The second row is the difference from another probe, whose features are drawn in the same
way, and where the label is read carry half of it; its truth is the mean over worlds.""",
        """So p keeps its level or is cautious, and so is the test of the difference (Nadeau and Bengio), which finds one of half the effect in one world of nine; its interval holds the truth at least as often as it says. Rows of `lens` that read expression have no p; their intervals are of
the same difference.""",
    ),
    "readouts": (
        """Readouts of a run

{n} worlds of each kind (within {error}): the same cells, five folds, of whole donors where there are any; 199 relabellings. Features are fixed, where a run's were made without the labels of the fold that is judged.""",
        """So p keeps its level or is cautious. It does because the null's mean over folds is taken the square root of two wider than draws of one fold after the other are, as a probe's is, since folds learn from each
other's labels; and because labels change places inside donors, or with them where no donor has two. Of the readouts on one label the AUROC finds most, and a number that is half noise is hardly found.""",
    ),
    "features": (
        """Effects of features

{n} worlds of each kind (within {error}): 24 features, each beside 20 of 150 that are alike (100 in the fourth kind, as many as a command draws), 160 cells, tails of Student's t with five degrees of freedom. The truth is the
mean effect of that very feature. "As if they scattered alike" is the rank of its size among those of the others.""",
        """So p keeps its level, intervals over cells and over eight donors hold what they say, and features that do four times as much are found by p; whether by q hangs on the number of draws, of which 20 let no p
fall below 0.048. A feature whose effect scatters more over cells than those of its like has a larger mean by chance of the cells, and its rank alone is small too often. Each of theirs is therefore moved by
chance of that size (`ablation.nulls.p_among`). Beside 20 of them p is then hardly ever small, as one that chance may bring near takes p above 0.05; beside 100 it is at its level. Estimates by gradients have
intervals of the same kind.""",
    ),
    "names": (
        """Names of features

{n} worlds of each kind (within {error}): 12 features, 400 genes in twenty modules of twenty, which are the gene sets, and the targets of twenty regulators; 600 cells whose genes go together alike, and 199 random directions
of these. q is over the features. In the third kind modules differ in how strongly their genes are expressed, and a feature leans to that as much as to its direction.""",
        """So p keeps its level, also where genes of a set go together and where features lean to genes that are expressed strongly; overlaps are few numbers, so p of top genes and regulators is a little cautious. Each
module is found by top genes and regulators, and three of four by rankings, whose draws lean to the level at which the genes of the module are expressed. Beside exchanged genes and rewired targets, which stood in the place of this null before, most directions of the second kind had a small p. The null
is that of factors ([factors](calibration_factors.md)). A small p says that a feature's genes are nearer to a set than those of random directions of the same cells. It is not evidence that the model uses
a program: genes may be alike in the model's vectors and not in the cells, whatever it does with them.""",
    ),
    "explained": (
        """What a dictionary explains beyond gene names

{n} worlds of each kind (within {error}): donors, or cells, of 40 rows each, which differ in how much there is to explain and in how much is left; 200 draws.""",
        """So the interval holds the truth nearly as often as it says, stretched to Student's t (`workbench.stats.over_few`).""",
    ),
}


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
    parser.add_argument("--share", type=float, default=1.0, help="share of the worlds, for a first look")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, help="parts of the page to make; the others stay as they are"
    )
    given = parser.parse_args(argv)
    old = given.docs.read_text() if given.only and given.docs else ""
    tasks = [
        Task(f"{name} {world} {number}", (name, world, number))
        for name, part in PARTS.items()
        if name in (given.only or PARTS)
        for world in part.worlds
        for number in range(max(1, round(given.share * part.n / BLOCK)))
    ]
    text = page(run_sweep(given.folder, {"block": BLOCK}, tasks, block), old)
    write_text(given.docs, text) if given.docs else print(text)


if __name__ == "__main__":
    main()
