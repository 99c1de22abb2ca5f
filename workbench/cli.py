"""The command line. Heavy libraries are imported by the command that needs them, so that --help stays quick."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench import __version__
from workbench.errors import ConfigError, WorkbenchError

if TYPE_CHECKING:
    from workbench.sweep import Backend


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="workbench", description="A mechanistic-interpretability research workbench for scGPT."
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    inspect = commands.add_parser(
        "inspect",
        help="say what a checkpoint folder holds and whether it can be read",
        description="Say what a checkpoint folder holds. Example: workbench inspect artifacts/scgpt-blood-mini",
    )
    inspect.add_argument("path", help="folder with args.json, vocab.json and best_model.pt")
    inspect.add_argument("--json", action="store_true", help="print one JSON object")
    inspect.set_defaults(run=_inspect)

    pretrain = commands.add_parser(
        "pretrain",
        help="train a scGPT-format checkpoint on cells",
        description="Train a scGPT-format checkpoint; go on where an interrupted training stopped. "
        "Example: workbench pretrain experiments/pretrain_blood_mini.yaml --set settings.steps=100 --out /tmp/mini",
    )
    _config_arguments(pretrain, "checkpoint folder (the configuration's own when absent)")
    pretrain.set_defaults(run=_pretrain)

    run = commands.add_parser(
        "run",
        help="run the chain: cells to operators, adaptor, readout, algorithm and report",
        description="Run the chain; finished stages whose inputs are unchanged are not run again. "
        "Example: workbench run experiments/demo.yaml --out artifacts/demo --set adaptor.k=6",
    )
    _config_arguments(run, "folder of the run (artifacts/NAME when absent)")
    _backend_arguments(run)
    run.set_defaults(run=_run, parts=("extract", "factors"))
    extract = commands.add_parser(
        "extract",
        help="the first part of a run: heads, controls, readouts, and the small algorithm",
        description="Extract the small algorithm, with the evidence for and against it. "
        "Example: workbench extract experiments/hematopoiesis.yaml --out artifacts/hematopoiesis",
    )
    _config_arguments(extract, "folder of the run (artifacts/NAME when absent)")
    extract.set_defaults(run=_run, parts=("extract",), backend="sequential", jobs=1, address=None)
    factors = commands.add_parser(
        "factors",
        help="the second part of a run: compaction, factors and gene programs",
        description="Take the operator apart: smaller feature maps, factors, what breaks without them, gene programs. Goes on in the "
        "folder of an extraction. Example: workbench factors experiments/hematopoiesis.yaml --out artifacts/hematopoiesis --jobs 2 "
        "--backend loky",
    )
    _config_arguments(factors, "folder of the run (artifacts/NAME when absent)")
    _backend_arguments(factors)
    factors.set_defaults(run=_run, parts=("factors",))
    ablate = commands.add_parser(
        "ablate",
        help="sweep ablations over heads, with nulls, and report which heads matter for what",
        description="Sweep ablations over heads; finished tasks are not done again, and several processes may share a folder. "
        "Example: workbench ablate experiments/ablation_blood_mini.yaml --out artifacts/ablation --backend loky --jobs 2",
    )
    _config_arguments(ablate, "folder of the sweep (artifacts/NAME when absent)")
    _backend_arguments(ablate)
    ablate.add_argument("--dry-run", action="store_true", help="print the grid and an estimate of the time, and stop")
    ablate.set_defaults(run=_ablate)
    gates = commands.add_parser(
        "gates",
        help="put panels of cells through the seven gates, screen all heads, and report",
        description="Put panels of cells through the seven gates; finished work is not done again. Exits with 1 where a "
        "required gate does not pass. Example: workbench gates experiments/gates_blood_mini.yaml --out artifacts/gates",
    )
    _config_arguments(gates, "folder of the run (artifacts/NAME when absent)")
    _backend_arguments(gates)
    gates.add_argument("--json", action="store_true", help="print the table of gates as JSON")
    gates.set_defaults(run=_gates)
    apply = commands.add_parser(
        "apply",
        help="apply an exported algorithm to an h5ad of any size",
        description="Apply an exported algorithm: latent, labels with probabilities and pseudotime go to a new h5ad without the "
        "matrix. Example: workbench apply artifacts/demo/algorithm my_cells.h5ad --out my_cells.labels.h5ad",
    )
    apply.add_argument("algorithm", help="folder of the algorithm, such as artifacts/demo/algorithm")
    apply.add_argument("cells", help="h5ad with gene symbols; counts or log-normalised values")
    apply.add_argument("--out", type=Path, help="new file (CELLS.workbench.h5ad when absent); never overwritten")
    apply.add_argument("--values", default="X", help="where the values are: X, raw, or the name of a layer")
    apply.add_argument("--gene-column", help="column of var with gene symbols (the index when absent)")
    apply.add_argument(
        "--min-coverage", type=float, default=0.5, help="smallest share of the genes that must be measured"
    )
    apply.add_argument("--json", action="store_true", help="print one JSON object")
    apply.set_defaults(run=_apply)
    return parser


def _backend_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", default="sequential", help="sequential, loky (processes), threading or dask")
    parser.add_argument("--jobs", type=int, default=1, help="workers of the backend (-1: one per core)")
    parser.add_argument("--address", help="scheduler of a Dask cluster, for --backend dask")


def _backend(arguments: argparse.Namespace) -> Backend:
    from workbench.sweep import Backend

    if arguments.jobs == 0:
        raise ConfigError("--jobs is 0; give the number of workers, or -1 for one per core.")
    return Backend(arguments.backend, arguments.jobs, arguments.address)


def _config_arguments(parser: argparse.ArgumentParser, out_help: str) -> None:
    parser.add_argument("config", help="YAML configuration")
    parser.add_argument("--out", type=Path, help=out_help)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key; may be given more than once"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.

    Returns
    -------
    int
        0 when all went well, 1 when a required gate did not pass, 2 when the input was at fault, 130 when interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the last save.", file=sys.stderr)
        return 130


def _inspect(arguments: argparse.Namespace) -> int:
    from workbench.model.inspection import describe, describe_text

    description = describe(arguments.path)
    print(json.dumps(description, indent=2) if arguments.json else describe_text(description))
    return 0


def _pretrain(arguments: argparse.Namespace) -> int:
    from workbench.config import read_config
    from workbench.settings import PretrainConfig

    config = read_config(arguments.config, PretrainConfig, arguments.set)
    # The heavy import last, so that a mistake in the configuration is said at once.
    from workbench.pretrain import pretrain

    out = pretrain(config, arguments.out or config.out)
    print(f"Checkpoint and model card: {out}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from workbench.config import read_config
    from workbench.settings import RunConfig

    config = read_config(arguments.config, RunConfig, arguments.set)
    if arguments.parts == ("factors",) and config.compaction is None and config.factors is None:
        raise ConfigError(
            f"'{arguments.config}' has neither a section 'compaction' nor a section 'factors', so nothing would be taken apart; add one, "
            "it may be empty: --set factors={}"
        )
    backend = _backend(arguments)
    from workbench.runs.run import run

    out = run(config, arguments.out or Path("artifacts") / config.name, parts=arguments.parts, backend=backend)
    print(f"Report: {out / 'report.html'}")
    return 0


def _ablate(arguments: argparse.Namespace) -> int:
    from workbench.config import read_config
    from workbench.settings import AblationConfig

    config = read_config(arguments.config, AblationConfig, arguments.set)
    backend = _backend(arguments)
    from workbench.ablation.report import ablate_and_report, dry_run

    out = arguments.out or Path("artifacts") / config.name
    if arguments.dry_run:
        print(dry_run(config, out))
        return 0
    print(f"Report: {ablate_and_report(config, out, backend)}")
    return 0


def _gates(arguments: argparse.Namespace) -> int:
    from workbench.config import read_config
    from workbench.settings import GatesConfig

    config = read_config(arguments.config, GatesConfig, arguments.set)
    backend = _backend(arguments)
    from workbench.gates.run import gates_text, run_gates

    result = run_gates(config, arguments.out or Path("artifacts") / config.name, backend)
    print(result.gates.to_json(orient="records", indent=2) if arguments.json else gates_text(result))
    return 1 if result.unmet else 0


def _apply(arguments: argparse.Namespace) -> int:
    from workbench.cells.datasets import CellMapping
    from workbench.extractor.apply import apply_file

    mapping = CellMapping(values=arguments.values, gene_column=arguments.gene_column)
    done = apply_file(
        arguments.algorithm, arguments.cells, arguments.out, mapping=mapping, min_coverage=arguments.min_coverage
    )
    if arguments.json:
        told = {"out": str(done.out), "n_cells": done.n_cells, "coverage": done.coverage, "seconds": done.seconds}
        print(json.dumps(told))
    else:
        print(f"{done.n_cells} cells, {done.coverage:.0%} of the genes measured, {done.seconds:.1f} s: {done.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
