"""A command as data, and the one way to carry it out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from workbench.engine.config import absolute
from workbench.engine.context import Context
from workbench.engine.folder import RESOLVED, check_folder, claim, hold
from workbench.engine.plan import Expected, Plan, make_plan
from workbench.engine.provenance import describe_model, manifest, pairs
from workbench.engine.section import Report, Section
from workbench.engine.stages import Results, Stage, StageRunner, run_all, wanted
from workbench.engine.sweep import Backend, check_backend
from workbench.figures.requests import Request
from workbench.files import write_json, write_text
from workbench.models.devices import describe_device


@dataclass(frozen=True)
class Recipe:
    """A command that does long work.

    Attributes
    ----------
    name
        Name of the command; an output folder belongs to it.
    context
        Makes what its stages share of configuration, output folder and backend: its type, as a rule.
    stages
        Lists its stages, given the context. What can be refused is refused here, before any work.
    report
        Says what was found, given the context and the results of the stages by name.
    files
        What it writes into the output folder beside what every command writes; such files of other origin are refused.
    expects
        Says what its stages have to do, given the context, without doing it; nothing is known by default.
    """

    name: str
    context: Callable[[Any, Path, Backend | None], Context]
    stages: Callable[[Any], list[Stage]]
    report: Callable[[Any, Results], Report]
    files: tuple[str, ...] = ()
    expects: Callable[[Any], Expected] = lambda _: Expected()


@dataclass(frozen=True)
class Executed:
    """What `execute` did.

    Attributes
    ----------
    out
        Output folder, with ``report.html``, ``metrics.json``, ``manifest.json``, ``tables/`` and ``figures/``.
    results
        What the stages returned, by name.
    seconds
        Time of each stage; of one that was kept, the time that it once took.
    context
        What the stages shared; its data stay loaded.
    opening
        The first sentences of the report.
    """

    out: Path
    results: Results
    seconds: dict[str, float]
    context: Any
    opening: tuple[str, ...]


def execute(
    recipe: Recipe,
    config: BaseModel,
    out: Path,
    backend: Backend | None = None,
    parts: Sequence[str] = (),
    trust: bool = False,
) -> Executed:
    """Carry out a command: its stages, then its report from their tables.

    Parameters
    ----------
    recipe
        The command that is carried out.
    config
        Its typed configuration, as `read_config` makes it.
    out
        Output folder. Finished stages in it whose inputs and code are unchanged are kept; an interrupted one goes on.
    backend
        Who does the tasks of its sweeps; one after the other in this process by default.
    parts
        Parts of the command to do; all when empty. What other parts left is kept and reported where it still holds.
    trust
        Whether files of finished stages are believed by their size; else their content is compared with its hash, which takes
        a few seconds a gigabyte.

    Raises
    ------
    ConfigError
        If the device is not there, or the backend cannot be used.
    OutputError
        If the folder cannot be written, is of an older layout or another command, holds files of other origin, or another
        process works in it.
    """
    check_folder(out, recipe.name, recipe.files)
    check_backend(backend or Backend())
    with ExitStack() as stack:
        # What is refused leaves no folder behind, so a new one is made, and held, after the stages are known.
        if known := out.is_dir():
            stack.enter_context(hold(out))
        context = recipe.context(config, out, backend)
        print(f"[device] {describe_device(context.device, context.config.dtype)}", file=sys.stderr)
        stages = recipe.stages(context)
        if not known:
            stack.enter_context(hold(out))
        claim(out, recipe.name, recipe.files)
        write_text(out / RESOLVED, yaml.safe_dump(absolute(config), sort_keys=False))
        runner = StageRunner(out, trust)
        run_all(runner, stages, parts)
        opening = write_results(recipe, context, runner)
    return Executed(out, runner.results, dict(runner.seconds), context, opening)


def plan(
    recipe: Recipe,
    config: BaseModel,
    out: Path,
    backend: Backend | None = None,
    parts: Sequence[str] = (),
    trust: bool = False,
) -> Plan:
    """What `execute` would do with the same arguments, without doing it: no stage is begun, and nothing is written.

    Model and cells are read for it, and files of finished stages compared with their hashes.

    Parameters
    ----------
    recipe, config, out, backend, parts, trust
        As in `execute`.

    Raises
    ------
    WorkbenchError
        Whatever `execute` would refuse before any work, but for a folder that another process works in, which is said.
    """
    check_folder(out, recipe.name, recipe.files)
    check_backend(backend or Backend())
    context = recipe.context(config, out, backend)
    print(f"[device] {describe_device(context.device, context.config.dtype)}", file=sys.stderr)
    states = StageRunner(out, trust).states(wanted(recipe.stages(context), parts))
    return make_plan(recipe.name, out, states, recipe.expects(context))


def write_results(recipe: Recipe, context: Context, runner: StageRunner) -> tuple[str, ...]:
    """Write ``metrics.json``, ``manifest.json``, ``figures/`` and ``report.html`` from the tables of finished stages.

    Parameters
    ----------
    recipe
        The command that is carried out.
    context
        What its stages shared; says what the report is of.
    runner
        Runner that has done or kept its stages.

    Returns
    -------
    tuple of str
        The first sentences of the report.
    """
    from workbench.engine.report import report_run

    out, report = context.out, recipe.report(context, runner.results)
    whole = Section.joined(report.sections)
    results = {name: {k: v for k, v in result.items() if k != "key"} for name, result in runner.results.items()}
    tables = {name: table.to_dict("records") for name, table in whole.tables.items() if name not in report.left_out}
    skipped = [{"what": what, "why": why} for what, why in whole.skipped]
    opening = tuple(report.opening.lines.values())
    write_json(out / "metrics.json", {"opening": opening, "stages": results, **tables, "skipped": skipped})
    stages = {
        name: {"seconds": seconds, "kept": runner.reused[name], "key": runner.results[name]["key"]}
        for name, seconds in runner.seconds.items()
    }
    made_from = manifest(absolute(context.config), context.model, context.content, stages)
    write_json(out / "manifest.json", made_from)
    summary = {
        "title": report.title,
        "opening": report.opening,
        "controls": report.controls,
        "shows": report.shows,
        "answers": whole.answers or ["Nothing was judged."],
        "model": describe_model(context.model, context.checkpoint),
        "data": report.data,
        "n": report.n,
        "skipped": skipped,
        "cautions": [*context.cautions, *whole.cautions],
        "facts": whole.facts,
        "algorithm": report.algorithm,
        "command": shlex.join(["workbench", recipe.name, str(out / RESOLVED), "--out", str(out)]),
        "provenance": pairs(made_from),
    }
    shown = {**whole.tables, "runtime": runner.runtime()}
    figures = [*whole.figures, Request("runtime", "This run on one machine.")]
    figures = [replace(one, caption=f"{one.caption} {context.setting}") for one in figures]
    report_run(out, summary, shown, figures, explorer=report.explorer)
    return opening
