"""Reading configurations: one YAML file per experiment, unknown keys refused with the near match."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from workbench.engine.keys import ONE, PATH, Key, keys_of
from workbench.errors import CellsError, ConfigError, unknown_name
from workbench.settings import DataConfig
from workbench.yaml_once import TwiceError, read_yaml

if TYPE_CHECKING:
    from anndata import AnnData

Config = TypeVar("Config", bound=BaseModel)
Others = Callable[[], Mapping[str, type[BaseModel]]]


def read_config(path: str | Path, kind: type[Config], overrides: Sequence[str] = (), others: Others = dict) -> Config:
    """Read a YAML configuration; paths in it are relative to its folder, those of overrides to the working folder.

    Parameters
    ----------
    path
        YAML file with keys and values.
    kind
        Type of the configuration, which says what keys there are.
    overrides
        ``"key=value"`` or ``"section.key=value"``; values are read as YAML, and the last one of a key counts.
    others
        Gives the types of the configurations of other commands by name: of an unknown key that one of them has, the
        command is said. Asked only then.

    Returns
    -------
    The typed, frozen configuration.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown (the near match is listed) or given twice, or a value has the wrong
        type.
    """
    file = Path(path).expanduser()
    try:
        raw = read_yaml(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"The configuration '{path}' cannot be read ({error.strerror}); check the path.") from error
    except TwiceError as error:
        raise ConfigError(f"The configuration '{path}' gives {error}; leave one of them out.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration '{path}' is no valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"The configuration '{path}' holds a {type(raw).__name__}, not keys and values.")
    _change_paths(raw, keys_of(kind), partial(_anchored, base=file.parent))
    for override in overrides:
        _override(raw, override)
    _change_paths(raw, keys_of(kind), _at_home)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind, f"The configuration '{file}' does not fit", others)) from error


def make_config(kind: type[Config], **values: Any) -> Config:
    """Configuration, or a part of one, from values given in Python.

    Parameters
    ----------
    kind
        Type of the configuration, or of one of its sections.
    **values
        Value of each key that is not to have its default.

    Raises
    ------
    ConfigError
        As in `read_config`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind, "The settings do not fit", dict)) from error


def absolute(config: BaseModel) -> dict[str, Any]:
    """The configuration as it was read, overrides included and paths absolute, so that it works from anywhere.

    Parameters
    ----------
    config
        A typed configuration; its relative paths are those of the working folder.
    """
    raw = config.model_dump(mode="json")
    _change_paths(raw, keys_of(type(config)), partial(_anchored, base=Path.cwd()))
    return raw


def _change_paths(raw: Any, keys: Sequence[Key], change: Callable[[str, Key], str]) -> None:
    if not isinstance(raw, dict):
        return
    for key in keys:
        written = raw.get(key.name)
        for section in key.sections(written):
            _change_paths(section, key.keys, change)
        if key.file and isinstance(written, list):
            raw[key.name] = [change(one, key) if isinstance(one, str) else one for one in written]
        elif key.file and isinstance(written, str):
            raw[key.name] = change(written, key)


def _at_home(written: str, key: Key) -> str:
    """A path as it was given behind --set, of the working folder; shells leave the ~ of key=~/cells.h5ad as it is."""
    return os.path.expanduser(written)


def _anchored(written: str, key: Key, base: Path) -> str:
    written = os.path.expanduser(written)
    # A bare word may name something that ships (a dataset, a ruler); it is a path if such a file exists.
    named = key.file == PATH or "/" in written or os.path.exists(base / written)
    return os.path.normpath(base / written) if named else written


def _override(raw: dict[str, Any], override: str) -> None:
    name, sign, value = override.partition("=")
    if not sign or not name:
        raise ConfigError(f"'--set {override}' is not of the form key=value or section.key=value.")
    section = raw
    *parents, last = name.strip().split(".")
    for key in parents:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"'--set {override}': '{key}' is a value, not a section with keys of its own.")
    try:
        section[last] = read_yaml(value)
    except TwiceError as error:
        raise ConfigError(f"'--set {override}' gives {error}; leave one of them out.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"'--set {override}': the value is no valid YAML; quote it.") from error


def _sentence(error: ValidationError, kind: type[BaseModel], what: str, others: Others) -> str:
    parts = []
    for item in error.errors()[:4]:
        where = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden" and where in (renamed := getattr(kind, "renamed", {})):
            parts.append(f"Key '{where}' is called '{renamed[where]}' now.")
        elif item["type"] == "extra_forbidden":
            *owners, last = [name for name, other in others().items() if where in other.model_fields] or [""]
            if last:
                command = f"{', '.join(owners)} and {last}" if owners else last
                parts.append(f"Key '{where}' is one of 'workbench {command}', not of this command.")
            else:
                parts.append(unknown_name("key", where, _beside(keys_of(kind), item["loc"])))
        elif item["type"] == "missing":
            parts.append(f"Key '{where}' is missing.")
        else:
            parts.append(f"Key '{where}' is {item['input']!r}: {item['msg'].removeprefix('Value error, ').lower()}.")
    return f"{what}: {' '.join(parts)}"


def _beside(keys: Sequence[Key], place: tuple[int | str, ...]) -> list[str]:
    """The keys that there are where an unknown one stands, with the sections before them."""
    way, waiting = "", list(place[:-1])
    while waiting:
        name = str(waiting.pop(0))
        key = next(key for key in keys if key.name == name)
        keys, way = key.keys, f"{way}{name}."
        if key.form != ONE:
            way += f"{waiting.pop(0)}."
    return [way + key.name for key in keys]


def load_cells(data: DataConfig) -> AnnData:
    """Cells of a configuration.

    Parameters
    ----------
    data
        Section ``data``: a shipped dataset or a file, and what its columns mean.

    Returns
    -------
    AnnData
        As `datasets.load` makes it; what its values are is said on stderr and in its source, which reports show.
    """
    print(f"[cells] reading {data.name} ...", file=sys.stderr, flush=True)
    from workbench.cells.datasets import CellMapping, load
    from workbench.cells.expression import scale_of
    from workbench.cells.values import describe_values

    given = {f.name: v for f in fields(CellMapping) if (v := getattr(data, f.name, None)) is not None}
    cells = load(data.name, backed=data.backed, **given)
    try:
        found = scale_of(cells).said
    except CellsError:  # tokens do without it; what does not says so before any work
        found = str(describe_values(cells.X))
    print(f"[cells] {data.name}: {cells.n_obs} cells x {cells.n_vars} genes; values: {found}", file=sys.stderr)
    cells.uns["workbench"]["source"] += f"; values: {found}"
    return cells
