"""The command line. Heavy libraries are imported by the command that needs them, so that --help stays quick."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import __version__, commands
from workbench.errors import WorkbenchError, unknown_name

# What the shell completes an argument with.
BACKEND, CELLS, CONFIG, FOLDER = "backend", "cells", "config", "folder"
BACKENDS = ("sequential", "loky", "threading", "dask")
SHELLS = ("bash", "zsh", "fish")
_RUN_FOLDER = "folder of the run (artifacts/NAME when absent)"
# Commands that save while they work, and take that up again.
_GO_ON = ("run", "extract", "factors", "ablate", "gates", "benchmark", "pretrain")


def build_parser() -> argparse.ArgumentParser:
    """Parser of all commands."""
    return parsers()[0]


def parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Parser of all commands, and the parser of each by its name."""
    parser = argparse.ArgumentParser(
        prog="workbench",
        description="A mechanistic-interpretability research workbench for scGPT.",
        epilog=_examples(
            "workbench doctor",
            "workbench inspect artifacts/scgpt-blood-mini",
            "workbench run experiments/demo.yaml --out artifacts/demo",
        )
        + "\n\nMore about each: workbench COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"workbench {__version__}")
    # Not required: that no command was given is said in a sentence of our own.
    all_commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], help: str, description: str, *examples: str, **more: Any
    ) -> argparse.ArgumentParser:
        one = all_commands.add_parser(
            name,
            help=help,
            description=textwrap.fill(description, 79),
            epilog=_examples(*examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(run=run, **more)
        return one

    doctor = add(
        "doctor",
        commands.doctor,
        "say what works on this machine and what each optional feature lacks",
        "Say what works on this machine: versions, devices, memory, disk, checkpoints, and what each optional feature needs. "
        "Exits with 1 where something that is required is broken, or a checkpoint cannot be read.",
        "workbench doctor",
        "workbench doctor --checkpoint artifacts/scgpt-blood-mini --json",
    )
    _completed(
        doctor, FOLDER, "--checkpoint", help="a checkpoint folder to try, beside the one that ships", metavar="PATH"
    )
    _json(doctor)
    inspect = add(
        "inspect",
        commands.inspect,
        "say what a checkpoint folder holds and whether it can be read",
        "Say what a checkpoint folder holds: configuration, heads, vocabulary, and what was and was not read.",
        "workbench inspect artifacts/scgpt-blood-mini",
    )
    _completed(inspect, FOLDER, "path", help="folder with args.json, vocab.json and best_model.pt")
    _json(inspect)
    pretrain = add(
        "pretrain",
        commands.pretrain,
        "train a scGPT-format checkpoint on cells",
        "Train a scGPT-format checkpoint; go on where an interrupted training stopped.",
        "workbench pretrain experiments/pretrain_blood_mini.yaml --set settings.steps=100 --out /tmp/mini",
    )
    _config(pretrain, "checkpoint folder (the configuration's own when absent)")
    run = add(
        "run",
        commands.run,
        "run the chain: cells to operators, adaptor, readout, algorithm and report",
        "Run the chain; finished stages whose inputs are unchanged are not run again.",
        "workbench run experiments/demo.yaml --out artifacts/demo --set adaptor.k=6",
        "workbench run experiments/hematopoiesis.yaml --backend loky --jobs 2 --json",
        parts=("extract", "factors"),
    )
    _config(run, _RUN_FOLDER)
    _backend(run)
    extract = add(
        "extract",
        commands.run,
        "the first part of a run: heads, controls, readouts, and the small algorithm",
        "Extract the small algorithm, with the evidence for and against it.",
        "workbench extract experiments/hematopoiesis.yaml --out artifacts/hematopoiesis",
        parts=("extract",),
        backend="sequential",
        jobs=1,
        address=None,
    )
    _config(extract, _RUN_FOLDER)
    factors = add(
        "factors",
        commands.run,
        "the second part of a run: compaction, factors and gene programs",
        "Take the operator apart: smaller feature maps, factors, what breaks without them, gene programs. Goes on in the "
        "folder of an extraction.",
        "workbench factors experiments/hematopoiesis.yaml --out artifacts/hematopoiesis --jobs 2 --backend loky",
        parts=("factors",),
    )
    _config(factors, _RUN_FOLDER)
    _backend(factors)
    ablate = add(
        "ablate",
        commands.ablate,
        "sweep ablations over heads, with nulls, and report which heads matter for what",
        "Sweep ablations over heads; finished tasks are not done again, and several processes may share a folder.",
        "workbench ablate experiments/ablation_blood_mini.yaml --out artifacts/ablation --backend loky --jobs 2",
    )
    _config(ablate, "folder of the sweep (artifacts/NAME when absent)")
    _backend(ablate)
    ablate.add_argument("--dry-run", action="store_true", help="print the grid and an estimate of the time, and stop")
    gates = add(
        "gates",
        commands.gates,
        "put panels of cells through the seven gates, screen all heads, and report",
        "Put panels of cells through the seven gates; finished work is not done again. Exits with 1 where a required gate "
        "does not pass.",
        "workbench gates experiments/gates_blood_mini.yaml --out artifacts/gates",
    )
    _config(gates, _RUN_FOLDER, "print the table of gates as JSON")
    _backend(gates)
    benchmark = add(
        "benchmark",
        commands.benchmark,
        "the extracted algorithm against what else one could use, on repeated splits",
        "Methods x splits x endpoints: the extracted heads, controls, baselines, frozen scGPT and other packages, on donors "
        "that nothing was fitted on. Finished tasks are not done again, and several processes may share a folder.",
        "workbench benchmark experiments/benchmark_pbmc68k.yaml --out artifacts/benchmark",
        "workbench benchmark experiments/benchmark_kang.yaml --set data.name=kang2018_8donors.h5ad --backend loky --jobs 2",
    )
    _config(benchmark, _RUN_FOLDER, "print files and the wins, ties and losses as JSON")
    _backend(benchmark)
    figures = add(
        "figures",
        commands.figures,
        "draw the figures of a run again from its tables, or list them",
        "Draw figures again, from the tables of a run alone: no model, no cells. A figure whose table is missing is named, "
        "never drawn empty.",
        "workbench figures artifacts/demo --list",
        "workbench figures artifacts/demo --only heads --only holdouts --format html,svg",
    )
    _completed(figures, FOLDER, "folder", type=Path, help="folder of a run, an ablation, a gate run or a benchmark")
    figures.add_argument(
        "--list", action="store_true", help="name every figure, its table and its counterpart in the paper"
    )
    figures.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this figure; may be given more than once"
    )
    figures.add_argument(
        "--format", default="html", help="html, svg, png, pdf, or several with commas; images need kaleido"
    )
    figures.add_argument("--dark", action="store_true", help="images for a dark page")
    _json(figures)
    apply = add(
        "apply",
        commands.apply,
        "apply an exported algorithm to an h5ad of any size",
        "Apply an algorithm that a run has left behind: latent, labels with probabilities and pseudotime go to a new h5ad "
        "without the matrix. Neither torch nor the checkpoint is needed.",
        "workbench apply artifacts/demo/algorithm my_cells.h5ad --out my_cells.labels.h5ad",
    )
    _completed(apply, FOLDER, "algorithm", help="folder of the algorithm, such as artifacts/demo/algorithm")
    _completed(apply, CELLS, "cells", help="h5ad with gene symbols; counts or log-normalised values")
    _completed(apply, CELLS, "--out", type=Path, help="new file (CELLS.workbench.h5ad when absent); never overwritten")
    apply.add_argument("--values", default="X", help="where the values are: X, raw, or the name of a layer")
    apply.add_argument("--gene-column", help="column of var with gene symbols (the index when absent)")
    apply.add_argument(
        "--min-coverage", type=float, default=0.5, help="smallest share of the genes that must be measured"
    )
    _json(apply)
    completion = add(
        "completion",
        commands.completion,
        "print the script by which a shell completes commands, options and files",
        "Print a completion script. In bash, put it where the first example says (make the folder first) and open a new "
        "shell; in zsh, into a file _workbench in a folder of $fpath.",
        "workbench completion bash > ~/.local/share/bash-completion/completions/workbench",
        "workbench completion zsh > ~/.zfunc/_workbench",
        "workbench completion fish > ~/.config/fish/completions/workbench.fish",
    )
    completion.add_argument("shell", choices=SHELLS, help=", ".join(SHELLS))
    return parser, all_commands.choices


def _examples(*lines: str) -> str:
    return "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def _completed(parser: argparse.ArgumentParser, kind: str, *names: str, **more: Any) -> None:
    parser.add_argument(*names, **more).complete = kind  # type: ignore[attr-defined]


def _json(parser: argparse.ArgumentParser, help: str = "print one JSON object; progress stays on stderr") -> None:
    parser.add_argument("--json", action="store_true", help=help)


def _backend(parser: argparse.ArgumentParser) -> None:
    _completed(
        parser, BACKEND, "--backend", default="sequential", help="sequential, loky (processes), threading or dask"
    )
    parser.add_argument("--jobs", type=int, default=1, help="workers of the backend (-1: one per core)")
    parser.add_argument("--address", help="scheduler of a Dask cluster, for --backend dask")


def _config(parser: argparse.ArgumentParser, out_help: str, *json_help: str) -> None:
    _completed(parser, CONFIG, "config", help="YAML configuration")
    _completed(parser, FOLDER, "--out", type=Path, help=out_help)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override one key; may be given more than once"
    )
    _json(parser, *json_help)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.

    Returns
    -------
    int
        0 when all went well, 1 when a required gate did not pass or something required is broken, 2 when the input was at
        fault, 130 when interrupted.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    parser, known = parsers()
    arguments, wrong = _read(parser, known, given)
    if arguments is None:
        print(f"workbench: {wrong}", file=sys.stderr)
        return 2
    try:
        return arguments.run(arguments)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = (
            "goes on from the last save"
            if arguments.command in _GO_ON
            else "starts again, and nothing was left half-written"
        )
        print(f"Interrupted; the same command {again}.", file=sys.stderr)
        return 130


def _read(
    parser: argparse.ArgumentParser, known: Mapping[str, argparse.ArgumentParser], given: Sequence[str]
) -> tuple[argparse.Namespace | None, str]:
    """The arguments, or None and the sentence that says what is wrong with them."""
    # No option before the command takes a value, so the first word that is none is the command.
    first = next((word for word in given if not word.startswith("-")), None)
    if first is not None and first not in known:
        return None, f"{unknown_name('command', first, known)} (workbench --help lists all)"
    arguments, more = parser.parse_known_args(given)
    command = " ".join(["workbench", *([first] if first else [])])
    if more and not more[0].startswith("-"):
        return None, f"'{more[0]}' is one argument too many; {command} --help says what it takes."
    if more:
        if (
            first is not None
            and given.index(more[0]) < given.index(first)
            and more[0] not in parser._option_string_actions
        ):
            return None, f"'{more[0]}' stands before the command; options come after it: {command} {more[0]}"
        options = [name for name in known.get(first or "", parser)._option_string_actions if name.startswith("--")]
        return None, f"{unknown_name('option', more[0].split('=')[0], options)} ({command} --help lists all)"
    if first is None:
        return None, "No command was given; workbench --help lists them, and workbench doctor says what works here."
    return arguments, ""


if __name__ == "__main__":
    raise SystemExit(main())
