"""The command line. Heavy libraries are imported by the command that needs them, so that --help stays quick."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.arguments import make_parser
from workbench.errors import WorkbenchError, unknown_name
from workbench.table import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Arguments; those of the process when None.

    Returns
    -------
    int
        0 when all went well; 1 when a required gate did not pass, something required is broken, a known answer of the release is
        missed or a figure that was asked for cannot be drawn; 2 when the input was at fault or the disk is full; 3 when the workbench is at fault; 130 when
        interrupted, 143 when terminated. With `argv` given, a fault of the workbench is raised.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    parser, known = make_parser(COMMANDS)
    arguments, wrong = _read(parser, known, given)
    if arguments is None:
        print(f"workbench: {wrong}", file=sys.stderr)
        return 2
    try:
        if argv is None:
            signal.signal(signal.SIGTERM, _terminate)
        if not sys.stderr.isatty():
            # A log takes a line for each time that a bar is drawn.
            os.environ.setdefault("TQDM_MININTERVAL", "10")
        return arguments.run(arguments)
    except WorkbenchError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        again = (
            "goes on from the last save"
            if COMMANDS[arguments.command].work
            else "starts again, and nothing was left half-written"
        )
        terminated = isinstance(error, _Terminated)
        print(f"{'Terminated' if terminated else 'Interrupted'}; the same command {again}.", file=sys.stderr)
        return 143 if terminated else 130
    except BrokenPipeError:
        # The reader of a pipe has seen enough; nothing more is to be written at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from workbench.files import is_full

        if is_full(error):
            print(
                f"OutputError: The disk is full ({error}). Make room, and give the same command again.", file=sys.stderr
            )
            return 2
        if argv is not None:
            raise
        traceback.print_exc()
        print("This is a fault of the workbench, not of your input: please report the lines above.", file=sys.stderr)
        return 3


class _Terminated(KeyboardInterrupt):
    """Asked to end by a system or a scheduler, which is handled as Ctrl-C is."""


def _terminate(*_: Any) -> None:
    raise _Terminated


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
