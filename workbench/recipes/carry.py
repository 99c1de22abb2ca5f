"""`carry_out`: what a command of the shell does, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.engine.config import make_config, read_config
from workbench.engine.recipe import Executed, execute
from workbench.engine.sweep import Backend
from workbench.errors import ConfigError, unknown_name
from workbench.table import COMMANDS


def carry_out(
    command: str,
    config: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    changes: Sequence[str] = (),
    backend: Backend | None = None,
) -> Executed:
    """Carry out a command that takes a configuration, as ``workbench COMMAND CONFIG --out OUT`` does from the shell.

    Parameters
    ----------
    command
        Name of the command: ``run``, ``ablate``, ``gates``, ``factors``, ``benchmark`` or ``pretrain``.
    config
        YAML file, or its keys and values in a mapping; sections are mappings in it.
    out
        Output folder. Finished stages in it whose inputs and code are unchanged are kept; an interrupted one goes on.
    changes
        ``"key=value"`` or ``"section.key=value"`` instead of what the file says, as ``--set`` takes them.
    backend
        Who does the tasks of its sweeps; one after the other in this process by default.

    Returns
    -------
    Executed
        Output folder, ``opening`` (the first sentences of the report), ``results`` of the stages, and ``context``, whose
        ``read("effects")`` gives a table of the run by name.

    Raises
    ------
    ConfigError
        If there is no such command, a key is unknown, a value has the wrong type, or no section says what to do.
    OutputError
        As `execute` does.

    Examples
    --------
    >>> import workbench
    >>> run = workbench.carry_out("ablate", "experiments/ablation_blood_mini.yaml", "my_run")  # doctest: +SKIP
    >>> run.context.read("effects")  # doctest: +SKIP
    """
    working = {name: one.work for name, one in COMMANDS.items() if one.work}
    if command not in working:
        raise ConfigError(unknown_name("command", command, list(working)))
    work, out = working[command], Path(out).expanduser()
    kind = work.load_config()
    if isinstance(config, Mapping):
        if changes:
            raise ConfigError("changes are for a file; put the values into the mapping.")
        made = make_config(kind, **config)
    else:
        made = read_config(config, kind, changes)
    work.check(made)
    if "out" in kind.model_fields:
        made = made.model_copy(update={"out": out})
    return execute(work.load_recipe(), made, out, backend, work.parts)
