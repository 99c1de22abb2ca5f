"""The tables of a rehearsal: what was measured, and what the paper's number of cells would take, which is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rehearsal_watch import CLOSING, OPENING, Cost, Watched

from workbench.engine.config import read_config
from workbench.recipes.run.config import RunConfig

# Cells of the steps without a pass, in cells of the steps with one.
MORE = (15, 40)
PAPER_CELLS, PAPER_ANCHORS, HEADS, KNOWN_CELLS = 564_253, 616, 96, 600
_PASSES, _ANCHORS = ("operators", "untrained"), ("drift", "heads", "gates", "sensitivity")
_SHORT = 1.0  # seconds; shorter stages of a step are one row
MEASURED = ("step", "stage", "cells", "seconds", "processor", "each", "peak", "device", "disk")


def repeats(config: RunConfig) -> dict[str, float]:
    """How often the stages repeat what they do, in a unit of each stage's own.

    Parameters
    ----------
    config
        The configuration; of two of them the ratio is what counts.
    """
    judged, swept = config.evaluation, config.sensitivity
    of_heads = HEADS * (1 + judged.head_refits + judged.control_draws) + 1 + judged.refits
    found: dict[str, float] = {
        "heads": judged.holdouts * of_heads,
        "readouts": judged.folds * (1 + judged.control_draws),
    }
    if config.gates is not None:
        found["gates"] = 1 + config.gates.refits
    if swept is not None:
        found["sensitivity"] = judged.holdouts * (len(swept.ks) + len(swept.alphas) * len(swept.betas))
    for name in ("compaction", "factors"):
        if (section := getattr(config, name)) is not None:
            found[name] = section.splits
    return found


def measured(journal: dict[str, Any]) -> pd.DataFrame:
    """A row for each stage of each step, with the columns `MEASURED`.

    Parameters
    ----------
    journal
        What `rehearse` keeps.
    """
    rows = []
    for key, told in journal["steps"].items():
        name, cells = key.rsplit(", ", 1)
        known, disk, n = Watched.of(told), told.get("disk", {}), int(cells)
        short = {stage: cost for stage, cost in known.stages.items() if cost.seconds < _SHORT}
        several = len(short) > 1
        for stage, cost in known.stages.items():
            if not (several and stage in short):
                whole = len(known.stages) == 1
                rows.append((name, "" if whole else stage, n, *_figures(cost, n), disk.get("" if whole else stage)))
        if several:
            others = Cost(
                sum(cost.seconds for cost in short.values()),
                sum(cost.processor for cost in short.values()),
                max(cost.peak for cost in short.values()),
            )
            size = sum(disk.get(stage, 0) for stage in short) or None
            rows.append((name, f"{len(short)} shorter ones", n, *_figures(others, n), size))
    return pd.DataFrame(rows, columns=list(MEASURED))


def _figures(cost: Cost, n: int) -> tuple[float, float, float | None, int, int | None]:
    return cost.seconds, cost.processor, cost.seconds / n if n else None, cost.peak, cost.device


def line(at: Sequence[tuple[int, float]], n: int) -> float:
    """A quantity at some number of cells, on the line through two sizes; neither end nor slope of it is below zero.

    Parameters
    ----------
    at
        Cells and quantity, twice, the smaller number of cells first.
    n
        Number of cells that is asked for.
    """
    (n_1, low), (n_2, high) = at
    slope = max(0.0, (high - low) / (n_2 - n_1))
    return max(0.0, high - slope * n_2) + slope * n


def computed(journal: dict[str, Any], few: RunConfig, paper: RunConfig, n: int = PAPER_CELLS) -> pd.DataFrame:
    """What each stage would take on `n` cells with the repeats of the paper, by processor time.

    Parameters
    ----------
    journal
        What `rehearse` keeps.
    few, paper
        Configuration of the rehearsal, and the paper's.
    n
        Number of cells.

    Returns
    -------
    DataFrame
        ``stage``, ``how``, ``times`` (repeats of the paper's in those here), ``seconds`` of the processor, ``peak`` and ``disk`` in bytes.
    """
    told = {tuple(key.rsplit(", ", 1)): one for key, one in journal["steps"].items()}
    sizes = sorted(int(cells) for name, cells in told if name == "without a pass")
    without = [Watched.of(told["without a pass", str(size)]) for size in sizes]
    disks = [told["without a pass", str(size)].get("disk", {}) for size in sizes]
    more, less = repeats(paper), repeats(few)
    rows = [_of_known_answers(told)] if any(step == "known-answers" for step, _ in told) else []
    for name, own in told:
        if name in ("extract", "convention"):
            known, disk, cells = Watched.of(told[name, own]), told[name, own].get("disk", {}), int(own)
            prefix = "" if name == "extract" else "convention paper: "
            for stage in _PASSES:
                if (cost := known.stages.get(stage)) is not None and cost.passes is not None:
                    given = _of_pass(cost, disk.get(stage, 0), cells, n, few, paper)
                    rows.append((f"{prefix}{stage}", *given))
    columns = ["stage", "how", "times", "seconds", "peak", "disk"]
    if len(sizes) < len(MORE) or not all(told.get(("apply", str(size)), {}).get("done") for size in sizes):
        return pd.DataFrame(rows, columns=columns)  # a rehearsal that has not come to its end
    anchors = told["without a pass", str(sizes[1])]["anchors"]
    for stage in without[1].stages:
        costs = [one.stages.get(stage, Cost()) for one in without]
        if stage in _PASSES:
            continue
        peak = line(list(zip(sizes, (float(cost.peak) for cost in costs), strict=True)), n)
        disk = line(list(zip(sizes, (float(one.get(stage, 0)) for one in disks), strict=True)), n)
        times = more[stage] / less[stage] if stage in more and stage in less else 1.0
        if stage in _ANCHORS:
            grown = max(1.0, (PAPER_ANCHORS / anchors) ** 2)
            rows.append((stage, "anchors", times, costs[1].processor * grown * times, float(costs[1].peak), disk))
        else:
            seconds = line(list(zip(sizes, (cost.processor for cost in costs), strict=True)), n)
            rows.append((stage, "line", times, seconds * times, peak, disk))
    applied = [Watched.of(told["apply", str(size)]).stages[OPENING] for size in sizes]
    at = [list(zip(sizes, part, strict=True)) for part in zip(*((c.processor, float(c.peak)) for c in applied), strict=True)]  # fmt: skip
    left = list(zip(sizes, (float(told["apply", str(size)]["disk"][""]) for size in sizes), strict=True))
    rows.append(("apply", "line", 1.0, line(at[0], n), line(at[1], n), line(left, n)))
    return pd.DataFrame(rows, columns=columns)


def _of_pass(
    cost: Cost, disk: int, cells: int, n: int, few: RunConfig, paper: RunConfig
) -> tuple[str, float, float, float, float]:
    """A pass is done for each cell; what comes before and after it is as long for any number of them, and goes with the groups."""
    groups = (paper.capture.groups or 1) / (few.capture.groups or 1)
    share = 1.0 if cost.passes is None or not cost.seconds else min(1.0, cost.passes / cost.seconds)
    seconds = cost.processor * (share * n / cells + (1 - share) * groups)
    more = HEADS * (paper.panel.size or 0) ** 2 * 4 * ((paper.capture.groups or 1) - (few.capture.groups or 1))
    return "pass", 1.0, seconds, float(cost.peak + more), disk * groups


def _of_known_answers(told: dict[tuple[str, ...], Any]) -> tuple[str, str, float, float, float, float]:
    (cells,) = (int(own) for step, own in told if step == "known-answers")
    cost = Watched.of(told["known-answers", str(cells)]).stages[OPENING]
    return "known-answers", "600 cells", 1.0, cost.processor * max(1.0, KNOWN_CELLS / cells), float(cost.peak), 0.0


def page(journal: dict[str, Any], paper: Path) -> str:
    """The page of a rehearsal.

    Parameters
    ----------
    journal
        What `rehearse` keeps.
    paper
        The paper's configuration.
    """
    few = journal["asked"]["few"]
    own, whole = read_config(paper, RunConfig, few), read_config(paper, RunConfig)
    table, cost, machine = measured(journal), computed(journal, own, whole), journal["machine"]
    asked = journal["asked"]
    lines = [
        f"| {row.step} | {row.stage} | {row.cells:,} | {row.seconds:,.1f} | {row.processor:,.1f} | "
        f"{'' if row.each != row.each or row.each is None else f'{row.each:.3g}'} | {_bytes(row.peak)} | {_bytes(row.device)} | {_bytes(row.disk)} |"
        for row in table.itertuples()
    ]
    sums = [
        f"| {row.stage} | {row.how} | {row.times:.3g} | {row.seconds / 3600:,.2f} | {_bytes(row.peak)} | {_bytes(row.disk)} |"
        for row in cost.itertuples()
    ]
    passes = cost[cost["how"] == "pass"]
    kept = list(journal["steps"].values())
    return PAGE.format(
        **{"cells": asked["cells"], "seed": asked["seed"], "device": machine["device"], "date": machine["date"]},
        **{"cores": machine["cores"], "memory": _bytes(machine["memory"]), "system": machine["system"]},
        load=f"{machine['load']:.1f}",
        card="" if any(cost.device for one in kept for cost in Watched.of(one).stages.values()) else NO_CARD,
        restarts=sum(one["starts"] - 1 for one in kept),
        few=" ".join(few),
        state="" if journal["ended"] else NOT_ENDED.format(done=sum(one["done"] for one in kept)),
        measured="\n".join(lines),
        minutes=f"{table['seconds'].sum() / 60:,.0f}",
        computed="\n".join(sums),
        hours=f"{cost['seconds'].sum() / 3600:,.0f}",
        of_passes=f"{passes['seconds'].sum() / cost['seconds'].sum():.0%}",
        paper_cells=f"{PAPER_CELLS:,}",
        anchors=PAPER_ANCHORS,
        peak=_bytes(cost["peak"].max()),
        disk=_bytes(cost["disk"].sum()) or "not known yet",
        so_far="" if journal["ended"] else " --so-far",
        opening=OPENING,
        closing=CLOSING,
    )


def _bytes(n: float | None) -> str:
    if n is None or n != n or not n:
        return ""
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.3g} {unit}"
        n /= 1024
    return f"{n:,.1f} GiB"


NOT_ENDED = (
    "\n\n**This rehearsal has not come to its end**: {done} steps are done, the last one below is under way. What the others would take is not "
    "in the second table. The same command goes on."
)
NO_CARD = " It has no GPU, so no figure here is of one."
PAGE = """# At the real size

A dress rehearsal on **random weights and random cells**: it says what the real size costs, and nothing of biology. The checkpoint has the layout of the
released one (12 layers x 8 heads, width 512, 60,697 tokens), the cells have the schema of Tabula Sapiens (27 tissues, 21 donors, counts in `raw/X`, symbols in
`feature_name`, 1,200 tokens a cell). Each step is a command as a user gives it, in a process of its own. The page is made, not written:

    python experiments/rehearsal.py --cells {cells} --device {device} --seed {seed} --docs docs/at_scale.md{so_far}

Machine of {date}: {cores} cores, {memory} of memory, {system}, device {device}, load {load} at the end.{card}
The clock of a busy machine says little; the processor's time is what is computed with. Restarts after kills: {restarts}.{state}

## Measured

The steps of [paper.yaml](../experiments/paper.yaml) with its panel of 1,200 genes, but 32 factors of its 64 and fewer repeats: `{few}`. Steps without a pass have
operators of the weights (`operator=qk embedding=false`), on more cells. `{opening}` is what comes before the first stage (packages, weights, hashing the cells), `{closing}` what
comes after the last. Peak is the resident memory of the process in that stage, disk what the stage keeps. In all {minutes} minutes of the clock.

| step | stage | cells | seconds | processor s | s a cell | peak | device | disk |
|---|---|---|---|---|---|---|---|---|
{measured}

## Computed: {paper_cells} cells

**Not measured.** Hours of this machine's processor, with the repeats of paper.yaml: {hours} for the rows below, of which {of_passes} are passes
through the model; memory up to {peak}; disk {disk}. How:

- *pass*: the pass's own time a cell, times the cells; what comes before and after it, and memory and disk, by the groups whose sums are kept (14 there).
- *line*: through the two sizes of the steps without a pass, at {paper_cells} cells; memory and disk likewise. So far beyond both sizes a second of noise is an hour.
- *anchors*: as at the larger size, with the square of the anchors where that had fewer than the paper's {anchors}.
- *600 cells*: no more are read. All but passes are multiplied by `times`, the repeats of paper.yaml in those here, as if all of a stage were repeated: at most that.

| stage | how | times | processor hours | peak | disk |
|---|---|---|---|---|---|
{computed}
"""
