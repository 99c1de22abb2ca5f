"""What each command does: it takes its parsed arguments, prints what it found, and returns the exit status.

The status is 0 unless the docstring says otherwise; input at fault is a `WorkbenchError`, which `cli.main` prints.
Heavy libraries are imported by the command that needs them, after its configuration has been read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.arguments import completion_script
from workbench.console import columns, fitted
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from workbench.engine.recipe import Executed
    from workbench.engine.sweep import Backend

Arguments = argparse.Namespace


def _answer(arguments: Arguments, told: Callable[[], Any], text: Callable[[], str]) -> None:
    """With ``--json`` one JSON value and nothing else, otherwise a text; only the one that is asked for is made."""
    print(json.dumps(told(), indent=2, ensure_ascii=False) if arguments.json else fitted(text(), columns()))


def _configured(arguments: Arguments) -> Any:
    from workbench.engine.config import read_config

    def others() -> dict[str, Any]:
        return {name: command.work.load_config() for name, command in arguments.table.items() if command.work}

    work = arguments.table[arguments.command].work
    kind = work.load_config()
    device = arguments.device and (f"[{arguments.device}]" if "," in arguments.device else arguments.device)
    more = [f"{key}={value}" for key, value in (("device", device), ("dtype", arguments.dtype)) if value is not None]
    config = read_config(arguments.config, kind, [*arguments.set, *more], others)
    work.check(config)
    return config


def _carried_out(arguments: Arguments, config: Any) -> Executed:
    """A command's recipe, carried out in the folder that is asked for, or in one named after the configuration."""
    return _with_recipe(arguments, config, "execute")


def _with_recipe(arguments: Arguments, config: Any, what: str) -> Any:
    """``execute`` a command's recipe, or ``plan`` what that would do."""
    own = "out" in type(config).model_fields
    out = arguments.out or (config.out if own else Path("artifacts") / config.name)
    config = config.model_copy(update={"out": out}) if own else config
    # What comes first takes seconds to import.
    print(f"[{arguments.command}] {arguments.config} -> {out}: starting ...", file=sys.stderr, flush=True)
    backend, work = _backend(arguments), arguments.table[arguments.command].work
    from workbench.engine import recipe

    only = vars(arguments).get("only")
    return getattr(recipe, what)(
        work.load_recipe(), config, out, backend, (only,) if only else work.parts, arguments.trust
    )


Carries = Callable[[Arguments, Any], int]


def _working(do: Carries) -> Callable[[Arguments], int]:
    """A command with a configuration: what carries it out, or with ``--dry-run`` what says what that would do."""

    @wraps(do)
    def either(arguments: Arguments) -> int:
        config = _configured(arguments)
        if not arguments.dry_run:
            return do(arguments, config)
        plan = _with_recipe(arguments, config, "plan")
        from workbench.engine.plan import plan_text, plan_told

        _answer(arguments, lambda: plan_told(plan), lambda: plan_text(plan))
        return 0

    return either


def _backend(arguments: Arguments) -> Backend:
    from workbench.engine.sweep import Backend

    given = vars(arguments)
    if (jobs := given.get("jobs", 1)) < 1 and jobs != -1:
        raise ConfigError(f"--jobs is {jobs}; give the number of workers, or -1 for one per core.")
    return Backend(given.get("backend", "sequential"), jobs, given.get("address"))


@_working
def carry_out(arguments: Arguments, config: Any) -> int:
    """Carry out a command's recipe and say where the report is; what a command does that has nothing else to say."""
    done = _carried_out(arguments, config)
    return _report(arguments, done, tables=str(done.out / "tables"))


def _report(arguments: Arguments, done: Executed, **more: Any) -> int:
    report = str(done.out / "report.html")
    said = [*done.opening, f"Report: {report}"]
    _answer(arguments, lambda: {"report": report, **more, "seconds": done.seconds}, lambda: "\n".join(said))
    return 0


def doctor(arguments: Arguments) -> int:
    """Say what works here; 1 where something that is required does not."""
    from workbench.doctor import diagnose, diagnosis_text, told

    print("[doctor] importing all that is required and reading checkpoints ...", file=sys.stderr)
    diagnosis = diagnose(arguments.checkpoint)
    _answer(arguments, lambda: told(diagnosis), lambda: diagnosis_text(diagnosis))
    return 0 if diagnosis.works else 1


def inspect(arguments: Arguments) -> int:
    """Say what a checkpoint folder holds."""
    from workbench.models.inspection import describe, describe_text

    description = describe(arguments.path)
    _answer(arguments, lambda: description, lambda: describe_text(description))
    return 0


def known_answers(arguments: Arguments) -> int:
    """Compare a checkpoint with what is known of the release; 1 where it is the release and an answer is missed."""
    from workbench.cells.datasets import CellMapping, load
    from workbench.evidence.known_answers import answers_text, check_answers

    columns = {} if arguments.cell_type is None else {"cell_type": arguments.cell_type}
    mapping = CellMapping(layer=arguments.layer, gene_column=arguments.gene_column, **columns)
    # Of an atlas some hundred cells are read.
    cells = None if arguments.cells is None else load(arguments.cells, mapping, backed=True)
    print(f"[known-answers] reading {arguments.checkpoint} ...", file=sys.stderr)
    checked = check_answers(
        arguments.checkpoint,
        cells,
        arguments.annotation,
        dictionaries=arguments.dictionaries,
        device=arguments.device,
        seed=arguments.seed,
    )
    rows = json.loads(checked.table.to_json(orient="records"))
    told = {
        "verdict": checked.verdict,
        "why": checked.why,
        "missed": checked.missed,
        "answers": rows,
        "left_out": dict(checked.left_out),
    }
    _answer(arguments, lambda: told, lambda: answers_text(checked, arguments.checkpoint))
    return 1 if checked.missed else 0


def config(arguments: Arguments) -> int:
    """Print the configuration of a command: every key with its meaning and default, or its JSON schema."""
    from workbench.engine.keys import commented_yaml, schema_text

    kind, title = arguments.table[arguments.of].work.load_config(), f"Configuration of workbench {arguments.of}"
    print(schema_text(kind, title) if arguments.schema else commented_yaml(kind, title), end="")
    return 0


@_working
def pretrain(arguments: Arguments, config: Any) -> int:
    """Train a checkpoint."""
    done = _carried_out(arguments, config)
    out = done.out
    files = {"checkpoint": str(out), "card": str(out / "README.md"), "training": str(out / "training.json")}
    _answer(arguments, lambda: files, lambda: "\n".join([*done.opening, f"Checkpoint and model card: {out}"]))
    return 0


@_working
def run(arguments: Arguments, config: Any) -> int:
    """Run from cells to algorithm and factors, or one of the two parts."""
    done = _carried_out(arguments, config)
    # Of several rulers each has its own.
    place = done.out / ("rulers" if config.rulers else "algorithm")
    algorithm = str(place) if "algorithm" in done.seconds else None
    return _report(arguments, done, metrics=str(done.out / "metrics.json"), algorithm=algorithm)


@_working
def gates(arguments: Arguments, config: Any) -> int:
    """Put cohorts through the gates; 1 where a required gate does not pass."""
    done = _carried_out(arguments, config)
    from workbench.recipes.gates.recipe import gates_text

    table, unmet = done.context.read("gates"), done.results["verdict"]["unmet"]
    # By way of pandas, which writes null for what is undefined.
    _answer(
        arguments,
        lambda: json.loads(table.to_json(orient="records")),
        lambda: "\n".join([*done.opening, gates_text(table, unmet, done.out)]),
    )
    return 1 if unmet else 0


@_working
def benchmark(arguments: Arguments, config: Any) -> int:
    """Run a campaign of methods, splits and endpoints."""
    done = _carried_out(arguments, config)
    from workbench.files import read_json

    tally = read_json(done.out / "metrics.json")["tally"]
    return _report(arguments, done, tables=str(done.out / "tables"), ours=config.ours, tally=tally)


def figures(arguments: Arguments) -> int:
    """List the figures of a run, or draw them again from its tables; 1 where one that was asked for cannot be drawn."""
    from workbench.figures.again import draw_again, listing, listing_text

    if arguments.list:
        rows = listing(arguments.folder)
        _answer(arguments, lambda: rows, lambda: listing_text(rows))
        return 0
    only = [name for names in arguments.only for name in names.split(",")]
    written, missing = draw_again(arguments.folder, only, arguments.format.split(","), dark=arguments.dark)
    lines = [*map(str, written), *(f"missing: {name}: {why}" for name, why in missing.items())]
    _answer(
        arguments, lambda: {"written": [str(path) for path in written], "missing": missing}, lambda: "\n".join(lines)
    )
    return 1 if missing else 0


def clean(arguments: Arguments) -> int:
    """Remove what killed processes left half-written in a folder, say what else may go, and remove that where it is asked for."""
    from workbench.engine.clean import clean, cleaned_text, cleaned_told

    done = clean(arguments.folder, arguments.stages)
    _answer(arguments, lambda: cleaned_told(done), lambda: cleaned_text(done))
    return 0


def apply(arguments: Arguments) -> int:
    """Apply an exported algorithm to a file of cells; with --strict 3 where it is not fit for them."""
    from workbench.cells.datasets import CellMapping
    from workbench.files import plain
    from workbench.operators.apply import apply_file, summary

    mapping = CellMapping(arguments.layer, arguments.values, arguments.gene_column, arguments.depth)
    chosen = {"min_coverage": arguments.min_coverage, "align": arguments.align}
    done = apply_file(arguments.algorithm, arguments.cells, arguments.out, mapping=mapping, **chosen)
    told = plain({**asdict(done), "out": str(done.out), "coverage": done.coverage, "fit": done.fitness.fit})
    _answer(arguments, lambda: told, lambda: summary(done))
    return 3 if arguments.strict and not done.fitness.fit else 0


def completion(arguments: Arguments) -> int:
    """Print the script by which a shell completes commands, options, files and folders."""
    print(completion_script(arguments.table, arguments.shell))
    return 0
