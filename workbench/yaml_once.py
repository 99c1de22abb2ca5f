"""YAML in which every key is given once; the usual reader takes the last of several, without a word."""

from __future__ import annotations

from typing import Any

import yaml


class TwiceError(yaml.YAMLError):
    """A mapping gives a key twice; the text says which, and in which lines."""

    def __repr__(self) -> str:
        return f"it gives {self}"


class _Once(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the compiled one, ten times as fast
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise TwiceError(f"'{key.value}' twice (lines {lines[key.value]} and {key.start_mark.line + 1})")
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """What a text in YAML says.

    Parameters
    ----------
    text
        Content of a file, or of a value on the command line.

    Raises
    ------
    TwiceError
        If a mapping gives a key twice.
    yaml.YAMLError
        If the text is no YAML.
    """
    return yaml.load(text, _Once)
