"""Reading configurations: one YAML file per experiment, unknown keys refused with the near match."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from workbench.errors import ConfigError, unknown_name
from workbench.settings import DataConfig

if TYPE_CHECKING:
    from anndata import AnnData

Config = TypeVar("Config", bound=BaseModel)


# Keys whose values are paths: in a file they are relative to that file, on the command line to the working folder.
# A star stands for any key.
_PATHS = (
    ("checkpoint",),
    ("out",),
    ("data", "name"),
    ("ruler",),
    ("expected",),
    ("factors", "gene_sets"),
    ("study", "ruler"),
    ("panels", "*", "data", "name"),
    ("transfer", "*", "data", "name"),
    ("peers", "python"),
)


def read_config(path: str | Path, kind: type[Config], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML configuration.

    Parameters
    ----------
    path
        The file.
    kind
        What it configures.
    overrides
        ``"key=value"`` or ``"section.key=value"``; values are read as YAML.

    Returns
    -------
    The typed, frozen configuration.

    Raises
    ------
    ConfigError
        If the file cannot be read, a key is unknown (the near match is listed), or a value has the wrong type.
    """
    file = Path(path)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"The configuration '{path}' cannot be read ({error.strerror}); check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration '{path}' is no valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"The configuration '{path}' holds a {type(raw).__name__}, not keys and values.")
    for keys in _PATHS:
        _anchor_path(raw, keys, file.parent)
    for override in overrides:
        _override(raw, override)
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind, f"The configuration '{file}' does not fit")) from error


def make_config(kind: type[Config], **values: Any) -> Config:
    """Configuration, or a part of one, from values given in Python.

    Parameters
    ----------
    kind
        What it configures.
    **values
        By key.

    Raises
    ------
    ConfigError
        As in `read_config`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentence(error, kind, "The settings do not fit")) from error


def absolute(config: BaseModel) -> dict[str, Any]:
    """The configuration as it was read, overrides included and paths absolute, so that it works from anywhere.

    Parameters
    ----------
    config
        A typed configuration.
    """
    raw = config.model_dump(mode="json")
    for keys in _PATHS:
        _anchor_path(raw, keys, Path.cwd())
    return raw


def _anchor_path(raw: dict[str, Any], keys: tuple[str, ...], base: Path) -> None:
    *parents, last = keys
    section: Any = raw
    for i, key in enumerate(parents):
        if key == "*" and isinstance(section, dict):
            for part in section.values():
                if isinstance(part, dict):
                    _anchor_path(part, keys[i + 1 :], base)
            return
        section = section.get(key) if isinstance(section, dict) else None
    if not isinstance(section, dict) or not isinstance(section.get(last), str):
        return
    # A bare word may name something that ships (a dataset, a ruler); it is a path if such a file exists.
    written = section[last]
    if keys in (("checkpoint",), ("out",), ("expected",)) or "/" in written or (base / written).exists():
        section[last] = os.path.normpath(base / written)


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
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"'--set {override}': the value is no valid YAML; quote it.") from error


def _sentence(error: ValidationError, kind: type[BaseModel], what: str) -> str:
    parts = []
    for item in error.errors()[:4]:
        where = ".".join(str(p) for p in item["loc"])
        if item["type"] == "extra_forbidden":
            fields = _fields(kind, tuple(str(p) for p in item["loc"][:-1]))
            parts.append(unknown_name("key", where, fields))
        elif item["type"] == "missing":
            parts.append(f"Key '{where}' is missing.")
        else:
            parts.append(f"Key '{where}' is {item['input']!r}: {item['msg'].lower()}.")
    return f"{what}: {' '.join(parts)}"


def _fields(kind: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    model: Any = kind
    for key in path:
        inside = not hasattr(model, "model_fields")  # a name in a mapping, or a place in a list
        model = model if inside else model.model_fields[key].annotation
        if inside or get_origin(model) is UnionType:
            model = next(part for part in get_args(model) if hasattr(part, "model_fields"))
    prefix = "".join(f"{key}." for key in path)
    return [prefix + name for name in model.model_fields]


def load_cells(data: DataConfig) -> AnnData:
    """Cells of a configuration.

    Parameters
    ----------
    data
        The ``data`` section.

    Returns
    -------
    AnnData
        As `datasets.load` makes it.
    """
    from workbench.cells.datasets import CellMapping, load

    given = {f.name: v for f in fields(CellMapping) if (v := getattr(data, f.name)) is not None}
    return load(data.name, CellMapping(**given) if given else None, backed=data.backed)
