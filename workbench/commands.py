"""What each command does, from its parsed arguments to its exit status.

Heavy libraries are imported by the command that needs them, after its configuration has been read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError

if TYPE_CHECKING:
    from workbench.engine.sweep import Backend

Arguments = argparse.Namespace


def answer(arguments: Arguments, told: Callable[[], Any], text: Callable[[], str]) -> None:
    """Print what a command found: with ``--json`` one JSON value and nothing else, otherwise a text.

    Parameters
    ----------
    arguments
        With ``json``.
    told, text
        Both forms; only the one that is asked for is made.
    """
    print(json.dumps(told(), indent=2, ensure_ascii=False) if arguments.json else text())


def doctor(arguments: Arguments) -> int:
    """Say what works here; 1 where something that is required does not.

    Parameters
    ----------
    arguments
        ``checkpoint`` and ``json``.
    """
    from workbench.doctor import diagnose, diagnosis_text, told

    print("[doctor] importing torch and reading checkpoints ...", file=sys.stderr)
    diagnosis = diagnose(arguments.checkpoint)
    answer(arguments, lambda: told(diagnosis), lambda: diagnosis_text(diagnosis))
    return 0 if diagnosis.works else 1


def inspect(arguments: Arguments) -> int:
    """Say what a checkpoint folder holds.

    Parameters
    ----------
    arguments
        ``path`` and ``json``.
    """
    from workbench.models.scgpt.inspection import describe, describe_text

    description = describe(arguments.path)
    answer(arguments, lambda: description, lambda: describe_text(description))
    return 0


def pretrain(arguments: Arguments) -> int:
    """Train a checkpoint.

    Parameters
    ----------
    arguments
        ``config``, ``set``, ``out`` and ``json``.
    """
    from workbench.engine.config import read_config
    from workbench.settings import PretrainConfig

    config = read_config(arguments.config, PretrainConfig, arguments.set)
    # The heavy import last, so that a mistake in the configuration is said at once.
    from workbench.recipes.pretrain import pretrain

    out = pretrain(config, arguments.out or config.out)
    files = {"checkpoint": str(out), "card": str(out / "README.md"), "training": str(out / "training.json")}
    answer(arguments, lambda: files, lambda: f"Checkpoint and model card: {out}")
    return 0


def run(arguments: Arguments) -> int:
    """Run the chain, or one of its parts.

    Parameters
    ----------
    arguments
        ``config``, ``set``, ``out``, ``parts``, ``json`` and those of the backend.
    """
    from workbench.engine.config import read_config
    from workbench.settings import RunConfig

    config = read_config(arguments.config, RunConfig, arguments.set)
    if arguments.parts == ("factors",) and config.compaction is None and config.factors is None:
        raise ConfigError(
            f"'{arguments.config}' has neither a section 'compaction' nor a section 'factors', so nothing would be taken apart; add one, "
            "it may be empty: --set factors={}"
        )
    backend = _backend(arguments)
    from workbench.recipes.run.run import run

    out = run(config, _out(arguments, config.name), parts=arguments.parts, backend=backend)

    def told() -> dict[str, Any]:
        seconds = _seconds(out)
        algorithm = str(out / "algorithm") if "algorithm" in seconds else None
        files = {"report": str(out / "report.html"), "metrics": str(out / "metrics.json"), "algorithm": algorithm}
        return {**files, "seconds": seconds}

    answer(arguments, told, lambda: f"Report: {out / 'report.html'}")
    return 0


def ablate(arguments: Arguments) -> int:
    """Sweep ablations, or say what a sweep would do.

    Parameters
    ----------
    arguments
        ``config``, ``set``, ``out``, ``dry_run``, ``json`` and those of the backend.
    """
    from workbench.engine.config import read_config
    from workbench.settings import AblationConfig

    config = read_config(arguments.config, AblationConfig, arguments.set)
    backend, out = _backend(arguments), _out(arguments, config.name)
    from workbench.recipes.ablate.report import ablate_and_report, dry_run

    if arguments.dry_run:
        said = dry_run(config, out)
        answer(arguments, lambda: {"dry_run": said}, lambda: said)
        return 0
    report = ablate_and_report(config, out, backend)
    files = {"report": str(report), "tables": str(out / "tables")}
    answer(arguments, lambda: {**files, "seconds": _seconds(out)}, lambda: f"Report: {report}")
    return 0


def gates(arguments: Arguments) -> int:
    """Put panels through the gates; 1 where a required gate does not pass.

    Parameters
    ----------
    arguments
        ``config``, ``set``, ``out``, ``json`` and those of the backend.
    """
    from workbench.engine.config import read_config
    from workbench.settings import GatesConfig

    config = read_config(arguments.config, GatesConfig, arguments.set)
    backend = _backend(arguments)
    from workbench.recipes.gates.run import gates_text, run_gates

    result = run_gates(config, _out(arguments, config.name), backend)
    # By way of pandas, which writes null for what is undefined.
    answer(arguments, lambda: json.loads(result.gates.to_json(orient="records")), lambda: gates_text(result))
    return 1 if result.unmet else 0


def benchmark(arguments: Arguments) -> int:
    """Run a campaign of methods, splits and endpoints.

    Parameters
    ----------
    arguments
        ``config``, ``set``, ``out``, ``json`` and those of the backend.
    """
    from workbench.engine.config import read_config
    from workbench.recipes.benchmark.config import BenchmarkConfig

    config = read_config(arguments.config, BenchmarkConfig, arguments.set)
    backend = _backend(arguments)
    from workbench.files import read_json
    from workbench.recipes.benchmark.run import run_benchmark

    out = run_benchmark(config, _out(arguments, config.name), backend)

    def told() -> dict[str, Any]:
        tally = read_json(out / "metrics.json")["tally"]
        files = {"report": str(out / "report.html"), "tables": str(out / "tables")}
        return {**files, "ours": config.ours, "tally": tally, "seconds": _seconds(out)}

    answer(arguments, told, lambda: f"Report: {out / 'report.html'}")
    return 0


def figures(arguments: Arguments) -> int:
    """List the figures of a run, or draw them again from its tables; 1 where one that was asked for cannot be drawn.

    Parameters
    ----------
    arguments
        ``folder``, ``list``, ``only``, ``format``, ``dark`` and ``json``.
    """
    from workbench.figures.again import draw_again, listing, listing_text

    if arguments.list:
        rows = listing(arguments.folder)
        answer(arguments, lambda: rows, lambda: listing_text(rows))
        return 0
    only = [name for names in arguments.only for name in names.split(",")]
    written, missing = draw_again(arguments.folder, only, arguments.format.split(","), dark=arguments.dark)
    lines = [*map(str, written), *(f"missing: {name}: {why}" for name, why in missing.items())]
    answer(
        arguments, lambda: {"written": [str(path) for path in written], "missing": missing}, lambda: "\n".join(lines)
    )
    return 1 if missing else 0


def apply(arguments: Arguments) -> int:
    """Apply an exported algorithm to a file of cells.

    Parameters
    ----------
    arguments
        ``algorithm``, ``cells``, ``out``, ``values``, ``gene_column``, ``min_coverage`` and ``json``.
    """
    from workbench.cells.datasets import CellMapping
    from workbench.operators.apply import apply_file

    mapping = CellMapping(values=arguments.values, gene_column=arguments.gene_column)
    done = apply_file(
        arguments.algorithm, arguments.cells, arguments.out, mapping=mapping, min_coverage=arguments.min_coverage
    )
    told = {"out": str(done.out), "n_cells": done.n_cells, "coverage": done.coverage, "seconds": done.seconds}
    shares = f"{done.n_cells} cells, {done.coverage:.0%} of the genes measured"
    answer(arguments, lambda: told, lambda: f"{shares}, {done.seconds:.1f} s: {done.out}")
    return 0


def completion(arguments: Arguments) -> int:
    """Print the script by which a shell completes commands, options, files and folders.

    Parameters
    ----------
    arguments
        ``shell``.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError(
            "Shell completion needs the package shtab, which is not installed: pip install shtab"
        ) from error
    from workbench.cli import BACKEND, BACKENDS, CELLS, CONFIG, FOLDER, parsers

    parser, commands = parsers()
    kinds = {
        # A line each: fish takes a line for one candidate.
        BACKEND: shtab.cmd(f"printf '%s\\n' {' '.join(BACKENDS)}"),
        # zsh takes one pattern in brackets for a qualifier of files.
        CELLS: {**shtab.glob("*.h5ad"), "zsh": "_files -g '*.h5ad'"},
        CONFIG: shtab.glob("*.yaml", "*.yml"),
        FOLDER: shtab.DIRECTORY,
    }
    for one in commands.values():
        # The short help of the list of commands is then shown, not the first line of a paragraph.
        one.description = None
    for one in (parser, *commands.values()):
        for action in one._actions:
            if (kind := getattr(action, "complete", None)) is not None:
                action.complete = kinds[kind]  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return 0


def _out(arguments: Arguments, name: str) -> Path:
    return arguments.out or Path("artifacts") / name


def _backend(arguments: Arguments) -> Backend:
    from workbench.engine.sweep import Backend

    if arguments.jobs == 0:
        raise ConfigError("--jobs is 0; give the number of workers, or -1 for one per core.")
    return Backend(arguments.backend, arguments.jobs, arguments.address)


def _seconds(out: Path) -> dict[str, float]:
    """Seconds of each stage of a run; of a stage that was kept, those that it once took."""
    from workbench.files import read_json

    return {name: stage["seconds"] for name, stage in read_json(out / "manifest.json")["stages"].items()}
