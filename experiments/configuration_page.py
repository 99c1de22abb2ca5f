"""Every key of every command, from the models of the configurations, as a page of the documentation.

    python experiments/configuration_page.py --docs docs/configuration.md

A test fails where the page is not the one that this prints.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from workbench.engine.keys import Key, keys_of, value_text
from workbench.files import write_text
from workbench.table import COMMANDS

PAGE = """# Configuration

Every command that does long work takes one YAML file. To start one, print it with every key, its default and its meaning, and keep what you change:

    workbench config run > mine.yaml

A key that is unknown, given twice, or of another command is refused before any work, with the near match or the name of that command. `--set` overrides a key
for one run, `workbench run mine.yaml --set adaptor.k=6 --set "stages.cluster 1=B"`; its values are read as YAML, and of a key that is given more than once the
last one counts. Paths in a file are relative to that file, those of `--set` to the working folder. A *name or path* is a path where it holds a slash or such a
file exists. A section that is absent by default is switched on by its key, which may be empty: `factors: {{}}`. What a command was told, overrides included and
paths absolute, it leaves as `resolved.yaml` in its output folder; that file runs as it is.

## In an editor

Editors with the YAML language server (VS Code, Neovim, JetBrains and others) complete keys and show their meaning by a JSON schema. Write it once, and name it in the
first line of a configuration:

    workbench config run --schema > run.schema.json

```yaml
# yaml-language-server: $schema=run.schema.json
checkpoint: ../artifacts/scgpt-blood-mini
```

This page is made from the same models by `experiments/configuration_page.py`.

{commands}

## Sections

What stands under a key that holds a section, in whichever command.

{sections}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=Path, help="write the page there; it is printed otherwise")
    arguments = parser.parse_args()
    print(write_text(arguments.docs, page()) if arguments.docs else page())
    return 0


def page() -> str:
    """The page: a table per kind of configuration, and one per section."""
    kinds: dict[type, list[str]] = {}
    for name, command in COMMANDS.items():
        if command.work:
            kinds.setdefault(command.work.load_config(), []).append(name)
    sections: dict[str, tuple[str, Key]] = {}
    for kind, names in kinds.items():
        for key in nested(keys_of(kind)):
            taken = key.name in (heading for heading, _ in sections.values())
            sections.setdefault(key.section[0], (f"{key.name} of {names[0]}" if taken else key.name, key))
    commands = [
        f"## workbench {' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)}\n\n"
        f"{str(kind.__doc__).split(': ', 1)[-1].capitalize()}\n\n{table(keys_of(kind), sections)}"
        for kind, names in kinds.items()
    ]
    texts = [f"### {name}\n\n{key.section[1]}\n\n{table(key.keys, sections)}" for name, key in sections.values()]
    return PAGE.format(commands="\n\n".join(commands), sections="\n\n".join(texts))


def nested(keys: Sequence[Key]) -> Iterator[Key]:
    """Keys that hold sections, each before those inside it."""
    for key in keys:
        if key.keys:
            yield key
            yield from nested(key.keys)


def table(keys: Sequence[Key], sections: dict[str, tuple[str, Key]]) -> str:
    """A row per key."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        default = "required" if key.required else "absent" if key.absent else f"`{value_text(key.default)}`"
        kind = key.type
        if key.keys:
            heading = sections[key.section[0]][0].replace(" ", "-")
            kind = f"[{key.type}](#{heading})"
            default = default if key.required or key.absent else "its defaults"
        lines.append(f"| `{key.name}` | {kind} | {default} | {plain(key.meaning)} |")
    return "\n".join(lines)


def plain(text: str) -> str:
    """Text for a field of a table."""
    return re.sub(r"(<\w+>|--\w+)", r"`\1`", text.replace("|", r"\|"))


if __name__ == "__main__":
    raise SystemExit(main())
