"""Commands as data, the parser that is made of them, and what a shell completes."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from workbench import __version__
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from workbench.engine.recipe import Recipe

# What the shell completes an argument with.
BACKEND, CELLS, CONFIG, FOLDER = "backend", "cells", "config", "folder"
BACKENDS = ("sequential", "loky", "threading", "dask")
SHELLS = ("bash", "zsh", "fish")
FLOATS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Argument:
    """An argument or option of a command.

    Attributes
    ----------
    names
        One name of an argument, or an option with its dashes.
    more
        What argparse is told beside: help, type, default and so on.
    completes
        What a shell completes it with; empty: argparse's choices, if there are any.
    """

    names: tuple[str, ...]
    more: Mapping[str, Any]
    completes: str = ""


def argument(*names: str, completes: str = "", **more: Any) -> Argument:
    """An argument as argparse's `add_argument` takes it, and what a shell completes it with.

    Parameters
    ----------
    *names
        Its name, or the option with its dashes.
    completes
        ``backend``, ``cells``, ``config`` or ``folder``; empty for none of them.
    **more
        What argparse is told beside.
    """
    return Argument(names, more, completes)


@dataclass(frozen=True)
class Work:
    """What a command carries out that takes a configuration; an interrupted one goes on from its last save.

    Attributes
    ----------
    config
        Where the type of its configuration is, as ``module:name``; imported when it is needed.
    recipe
        Where its recipe is, as ``module:name``.
    parts
        Parts of the recipe that are done; all when empty.
    sections
        Sections of the configuration that say what is done, one of which must be there; any configuration will do when empty.
    """

    config: str
    recipe: str
    parts: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()

    def check(self, config: BaseModel) -> None:
        """Refuse a configuration by which nothing would be done.

        Parameters
        ----------
        config
            Configuration of the type that `load_config` gives.

        Raises
        ------
        ConfigError
            If every section that says what is done is absent.
        """
        if self.sections and all(getattr(config, name) is None for name in self.sections):
            names = " and no section ".join(f"'{name}'" for name in self.sections)
            raise ConfigError(
                f"The configuration has no section {names}, so there is nothing to do. Add one, which may be empty: "
                f"{self.sections[-1]}={{}}."
            )

    def load_config(self) -> type[BaseModel]:
        """Type of its configuration."""
        return _imported(self.config)

    def load_recipe(self) -> Recipe:
        """Its recipe; imports everything that the work needs."""
        return _imported(self.recipe)


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes
    ----------
    name, help
        Its name, and its line in the list of commands.
    description
        What ``workbench NAME --help`` says first.
    run
        Does it and returns the exit status, given the parsed arguments; among them are all commands, as ``table``.
    arguments
        What it takes, in this order.
    examples
        Command lines that work as they stand in a checkout.
    work
        What it carries out, where it takes a configuration.
    """

    name: str
    help: str
    description: str
    run: Callable[[argparse.Namespace], int]
    arguments: tuple[Argument, ...]
    examples: tuple[str, ...]
    work: Work | None = None


Table = Mapping[str, Command]


def make_parser(table: Table) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Parser of all commands, and the parser of each by its name.

    Parameters
    ----------
    table
        All commands by name, in the order of ``workbench --help``.
    """
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
    for command in table.values():
        one = all_commands.add_parser(
            command.name,
            help=command.help,
            description=textwrap.fill(command.description, min(79, shutil.get_terminal_size().columns - 2)),
            epilog=_examples(*command.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.set_defaults(run=command.run, table=table)
        for given in command.arguments:
            action = one.add_argument(*given.names, **given.more)
            if given.completes:
                action.complete = given.completes  # type: ignore[attr-defined]
    return parser, all_commands.choices


def completion_script(table: Table, shell: str) -> str:
    """Script by which a shell completes commands, options, files and folders.

    Parameters
    ----------
    table
        All commands by name, which are what is completed first.
    shell
        Which shell reads the script: ``bash``, ``zsh`` or ``fish``.

    Raises
    ------
    ConfigError
        If the package that writes such scripts is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError(
            "Shell completion needs the package shtab, which is not installed: pip install shtab"
        ) from error
    parser, by_name = make_parser(table)
    kinds = {
        # A line each: fish takes a line for one candidate.
        BACKEND: shtab.cmd(f"printf '%s\\n' {' '.join(BACKENDS)}"),
        # zsh takes one pattern in brackets for a qualifier of files.
        CELLS: {**shtab.glob("*.h5ad"), "zsh": "_files -g '*.h5ad'"},
        CONFIG: shtab.glob("*.yaml", "*.yml"),
        FOLDER: shtab.DIRECTORY,
    }
    for one in by_name.values():
        # The short help of the list of commands is then shown, not the first line of a paragraph.
        one.description = None
        for action in one._actions:
            if (kind := getattr(action, "complete", None)) is not None:
                action.complete = kinds[kind]  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _examples(*lines: str) -> str:
    return "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])
