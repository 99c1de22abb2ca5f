"""The keys of a configuration as data, for commented files, the documentation and error messages."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml
from pydantic import BaseModel

from workbench.settings import NAME_OR_PATH

# How a key that holds sections holds them.
ONE, NAMED, LISTED = "section", "sections by name", "list of sections"
PATH = "path"
# A space that no line is broken at.
_WIDTH, _FIXED = 110, "\N{NO-BREAK SPACE}"
_PLACEHOLDERS = {PATH: "PATH", "text": "TEXT"}


@dataclass(frozen=True)
class Key:
    """A key of a configuration.

    Attributes
    ----------
    name
        The key itself, without the sections that it stands in.
    type
        What it takes, in words.
    meaning
        Sentence from the field's description.
    default
        JSON-ready value where the configuration says nothing; None also where a value has to be given.
    required
        Whether a value has to be given.
    form
        Of a key that holds sections: ``section``, ``sections by name`` or ``list of sections``; empty for any other.
    section
        Name and docstring of the model of these sections; empty for any other key.
    keys
        Keys of each of these sections.
    file
        ``path`` where the value is a file, ``name or path`` where it may also name something that ships, of a list each of its values;
        else empty.
    """

    name: str
    type: str
    meaning: str
    default: Any
    required: bool = False
    form: str = ""
    section: tuple[str, str] = ("", "")
    keys: tuple[Key, ...] = ()
    file: str = ""

    @property
    def absent(self) -> bool:
        """Whether the default leaves its sections out."""
        return bool(self.keys) and not self.default

    def sections(self, value: Any) -> Iterator[Any]:
        """The sections in what a configuration gives for this key, whether they are valid or not.

        Parameters
        ----------
        value
            What stands there; nothing is found where it has another form.
        """
        if self.form == ONE:
            yield value
        elif self.form == NAMED and isinstance(value, dict):
            yield from value.values()
        elif self.form == LISTED and isinstance(value, list):
            yield from value


@lru_cache
def keys_of(kind: type[BaseModel]) -> tuple[Key, ...]:
    """Keys of a configuration, from the JSON schema of its model.

    Parameters
    ----------
    kind
        Type of the configuration, such as `RunConfig`.
    """
    schema = kind.model_json_schema()
    return _keys(schema, schema.get("$defs", {}), {})


def schema_text(kind: type[BaseModel], title: str) -> str:
    """JSON schema of a configuration, for editors that complete and check YAML.

    Parameters
    ----------
    kind
        Type of the configuration, such as `RunConfig`.
    title
        Name under which editors show the schema.
    """
    schema = {**kind.model_json_schema(), "$schema": "https://json-schema.org/draft/2020-12/schema", "title": title}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def commented_yaml(kind: type[BaseModel], title: str) -> str:
    """A configuration as YAML: every key with its meaning, its type and its default.

    Parameters
    ----------
    kind
        Type of the configuration, such as `RunConfig`.
    title
        First line, what this configures.

    Returns
    -------
    str
        YAML that reads back to the defaults. Required keys and sections that are absent by default are switched off by
        a ``#`` right before the key; lines of explanation have a space after theirs.
    """
    head = (
        f"{title}. Keys without a mark hold their defaults; leave out what you do not change. A # right before a "
        "key switches it off: remove the # of a required key and fill it in; remove those of a section and of its "
        "keys to have it."
    )
    return "\n".join([*_comment(head, ""), "", *_lines(keys_of(kind), "", off=False)])


def _lines(keys: tuple[Key, ...], indent: str, off: bool) -> list[str]:
    lines: list[str] = []
    for key in keys:
        switched = off or key.required or key.absent
        lines += _comment(_said(key), indent)
        start = f"{indent}{'#' if switched else ''}{key.name}:"
        if not key.keys:
            lines.append(f"{start} {_value(key)}")
        elif key.form == ONE:
            lines += [start, *_lines(key.keys, indent + "  ", switched)]
        elif key.form == NAMED:
            lines += [start, f"{indent}  #NAME:", *_lines(key.keys, indent + "    ", off=True)]
        else:
            item = _lines(key.keys, indent + "    ", off=True)
            dash = next(i for i, line in enumerate(item) if line.startswith(f"{indent}    #{key.keys[0].name}:"))
            item[dash] = f"{indent}  #- {item[dash].lstrip(' #')}"
            lines += [start, *item]
        if not indent:
            lines.append("")
    return lines


def _said(key: Key) -> str:
    what = "Required. " if key.required else "Absent by default. " if key.absent else ""
    return what + key.meaning + ("" if key.keys else f" ({key.type.replace(' ', _FIXED)})")


def value_text(value: Any) -> str:
    """A JSON-ready value as YAML on one line.

    Parameters
    ----------
    value
        A default, JSON-ready, of any type.
    """
    return yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True).strip()[1:-1]


def _value(key: Key) -> str:
    if not key.required:
        return value_text(key.default)
    return _PLACEHOLDERS.get(key.type) or key.type.removeprefix("one of ").split(", ")[0]


def _comment(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(text, _WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}".replace(_FIXED, " ") for line in lines]


def _keys(model: Mapping[str, Any], defs: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[Key, ...]:
    """Keys of a model; what the section that holds it gives by default comes before the model's own defaults."""
    required = model.get("required", ())
    return tuple(
        _key(name, {**part, "default": given.get(name, part.get("default"))}, defs, name in required)
        for name, part in model["properties"].items()
    )


def _key(name: str, part: Mapping[str, Any], defs: Mapping[str, Any], required: bool) -> Key:
    form, model = _held(part)
    if not form:
        written = (part, *part.get("anyOf", ()), part.get("items") or {})
        formats = [one["format"] for one in written if one.get("format") in (PATH, NAME_OR_PATH)]
        meaning = part.get("description", "")
        return Key(name, _words(part), meaning, part["default"], required, file=formats[0] if formats else "")
    target = defs[model.rsplit("/", 1)[-1]]
    about = target.get("description", "")
    inside = _keys(target, defs, part["default"] if form == ONE and part["default"] else {})
    # The schema leaves out what says the same as the docstring of the section.
    meaning = part.get("description", about)
    return Key(name, form, meaning, part["default"], required, form, (target["title"], about), inside)


def _held(part: Mapping[str, Any]) -> tuple[str, str]:
    """In which form a field holds sections, and the reference to their model; empty where it holds none."""
    for form, inner in (
        *((ONE, one) for one in (part, *part.get("allOf", ()), *part.get("anyOf", ()))),
        (NAMED, part.get("additionalProperties")),
        (LISTED, part.get("items")),
    ):
        if isinstance(inner, dict) and "$ref" in inner:
            return form, inner["$ref"]
    return "", ""


def _words(part: Mapping[str, Any], many: bool = False) -> str:
    """What a value may be, in words; in the plural inside lists."""
    if "anyOf" in part:
        return " or ".join(_words(one, many) for one in part["anyOf"])
    if "enum" in part:
        return f"one of {', '.join(map(str, part['enum']))}"
    kind = part.get("type", "anything")
    plural = "s" if many else ""
    if kind == "string":
        return part.get("format", "text")
    if kind in ("integer", "number"):
        return f"{kind}{plural}{_bounds(part, kind == 'integer')}"
    if kind == "array" and "prefixItems" in part:
        return f"[{', '.join(_words(one) for one in part['prefixItems'])}]"
    if kind == "array":
        inner = _words(part["items"], many=True)
        return f"list{plural} of {f'({inner})' if ' or ' in inner else inner}"
    if kind == "object":
        inner = part.get("additionalProperties", True)
        return "any keys" if inner is True else f"{_words(inner, many=True)} by name"
    return {"boolean": "true or false"}.get(kind, kind)


def _bounds(part: Mapping[str, Any], whole: bool) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    above, below = part.get("exclusiveMinimum"), part.get("exclusiveMaximum")
    if whole and above is not None:
        low, above = int(above) + 1, None
    said = [("from", low), ("above", above), ("to", high), ("below", below)]
    return "".join(f" {word} {value:g}" for word, value in said if value is not None)
