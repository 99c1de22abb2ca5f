"""What a command would do, said without doing it: ``--dry-run``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from workbench.console import aligned, size_text, time_text
from workbench.engine.folder import LOCK
from workbench.engine.stages import GOES_ON, KEPT, StageState


@dataclass(frozen=True)
class Load:
    """What a stage has to do, as far as it is known before; None is not known, and no number is made up.

    Attributes
    ----------
    cells
        Cells that it works on.
    passes
        Forward passes, each of one cell.
    tasks
        Tasks that are saved one by one, those that are done among them.
    memory, disk
        Bytes of memory beside the model, and bytes that it leaves.
    seconds
        Estimate of its time on one worker.
    basis
        What the estimate was made from, to follow the time in a sentence.
    """

    cells: int | None = None
    passes: int | None = None
    tasks: int | None = None
    memory: int | None = None
    disk: int | None = None
    seconds: float | None = None
    basis: str = ""


@dataclass(frozen=True)
class Expected:
    """What a recipe knows beforehand.

    Attributes
    ----------
    loads
        What stages have to do, by name of the stage; one that is left out is not known.
    said
        What there is to say beside, as text.
    """

    loads: Mapping[str, Load] = field(default_factory=dict)
    said: str = ""


@dataclass(frozen=True)
class PlannedStage:
    """A stage as it would go.

    Attributes
    ----------
    state
        Whether it is kept, goes on or is made, why, and how long it last took here.
    load
        What it has to do as a whole.
    done
        Tasks that are done already; None where it has none, or is made from the start.
    """

    state: StageState
    load: Load
    done: int | None

    @property
    def seconds(self) -> float | None:
        """Expected time: nothing for what is kept, the last time here, or the estimate; None where nothing is known."""
        if self.state.state == KEPT:
            return 0.0
        if self.state.seconds is not None or self.load.seconds is None:
            return self.state.seconds
        return self.load.seconds * (1 - (self.done or 0) / (self.load.tasks or 1))

    @property
    def basis(self) -> str:
        """What the expected time is known from; empty where it is kept, or nothing is known."""
        if self.seconds is None or self.state.state == KEPT:
            return ""
        return "when it was last made here" if self.state.seconds is not None else self.load.basis


@dataclass(frozen=True)
class Plan:
    """What a command would do.

    Attributes
    ----------
    command, out
        Name of the recipe, and its output folder.
    stages
        Those that are asked for, in their order.
    memory_free, disk_free
        Bytes of this machine, and of the disk of the output folder.
    busy
        Whether a process works in the folder, or was killed there.
    said
        What else the recipe says of it.
    """

    command: str
    out: Path
    stages: tuple[PlannedStage, ...]
    memory_free: int
    disk_free: int
    busy: bool
    said: str

    @property
    def to_do(self) -> list[PlannedStage]:
        """Stages that are not kept."""
        return [one for one in self.stages if one.state.state != KEPT]

    @property
    def seconds(self) -> float:
        """Expected time of the stages whose time is known."""
        return sum(one.seconds or 0.0 for one in self.to_do)

    @property
    def unknown(self) -> list[str]:
        """Stages that are not kept and whose time is not known."""
        return [one.state.name for one in self.to_do if one.seconds is None]


def make_plan(command: str, out: Path, states: list[StageState], expected: Expected) -> Plan:
    """Put together what is known of a command's stages.

    Parameters
    ----------
    command
        Name of the recipe, which the text names.
    out
        Its output folder, which need not exist; nothing is written there.
    states
        What will become of each stage.
    expected
        What the recipe knows of them.
    """
    stages = tuple(PlannedStage(one, expected.loads.get(one.name, Load()), _done(out, one)) for one in states)
    above = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    free = psutil.virtual_memory().available, shutil.disk_usage(above).free
    return Plan(command, out, stages, *free, (out / LOCK).is_file(), expected.said)


def _done(out: Path, state: StageState) -> int | None:
    """Tasks of an interrupted sweep whose rows are on the disk."""
    rows = list((out / "stages" / state.name).glob("**/rows/[!.]*.parquet")) if state.state == GOES_ON else []
    return len(rows) or None


def plan_told(plan: Plan) -> dict[str, Any]:
    """A plan, ready for JSON.

    Parameters
    ----------
    plan
        What `make_plan` put together; nothing is looked up again.
    """
    stages = [
        {
            **{"name": one.state.name, "state": one.state.state, "why": one.state.why},
            **{**asdict(one.load), "tasks_done": one.done, "seconds": one.seconds, "basis": one.basis},
        }
        for one in plan.stages
    ]
    about = {"command": plan.command, "out": str(plan.out), "busy": plan.busy, "said": plan.said}
    free = {"memory_free": plan.memory_free, "disk_free": plan.disk_free}
    return {"dry_run": {**about, "stages": stages, **free, "seconds": plan.seconds, "time_not_known": plan.unknown}}


def plan_text(plan: Plan) -> str:
    """A plan as text.

    Parameters
    ----------
    plan
        What `make_plan` put together; nothing is looked up again.
    """
    names = ("stage", "state", "cells", "passes", "tasks", "memory", "disk", "time", "why")
    lines = [
        f"What 'workbench {plan.command}' would do in '{plan.out}'; nothing was done or written.",
        "",
        *aligned(names, [_row(one) for one in plan.stages]),
        "",
    ]
    if plan.busy:
        lines.append(f"A process works in '{plan.out}', or was killed there: what is kept may change.")
    if not plan.to_do:
        return "\n".join([*lines, "All stages are kept; only the report is written again."])
    loads = [one.load for one in plan.to_do]
    if passes := sum(load.passes or 0 for load in loads):
        lines.append(f"Forward passes: {passes:,} cells through a model.")
    sizes = [load.memory for load in loads if load.memory is not None]
    most = (
        f"at most {size_text(max(sizes))} for a stage whose need is known, beside the model" if sizes else "not known"
    )
    lines.append(f"Memory: {most}; {size_text(plan.memory_free)} are free.")
    left = [load.disk for load in loads if load.disk is not None]
    disk = f"about {size_text(sum(left))} for the stages whose size is known" if left else "not known"
    lines.append(f"Disk: {disk}; {size_text(plan.disk_free)} are free where '{plan.out}' lies.")
    for basis in dict.fromkeys(one.basis for one in plan.to_do if one.seconds is not None):
        known = {
            one.state.name: one.seconds or 0.0 for one in plan.to_do if one.basis == basis and one.seconds is not None
        }
        lines.append(f"Time: {time_text(sum(known.values()))} for {', '.join(known)} ({basis}).")
    if plan.unknown:
        lines.append(f"Time not known: {', '.join(plan.unknown)}; no such stage has been run here.")
    return "\n".join([*lines, *([plan.said] if plan.said else [])])


def _row(one: PlannedStage) -> list[str]:
    load, todo = one.load, one.state.state != KEPT
    tasks = "" if load.tasks is None else f"{one.done or 0} of {load.tasks:,} done" if one.done else f"{load.tasks:,}"
    sizes = ["" if n is None or not todo else size_text(n) for n in (load.memory, load.disk)]
    took = "" if not todo else "not known" if one.seconds is None else time_text(one.seconds)
    counts = ["" if n is None or not todo else f"{n:,}" for n in (load.cells, load.passes)]
    return [one.state.name, one.state.state, *counts, tasks if todo else "", *sizes, took, one.state.why]
