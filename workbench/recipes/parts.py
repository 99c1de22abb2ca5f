"""A command in parts that share work, such as one part per ruler: stages of their own, tables under each other, sentences under a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from workbench.engine.section import Opening, Section
from workbench.engine.stages import Result, Results, Stage
from workbench.engine.tables import table_path, types_path


class OfWhole(Protocol):
    """A context that is a part of another."""

    whole: Any
    out: Path

    def staged(self, name: str) -> str:
        """Name of a stage of the part as the whole has it."""

    def read(self, name: str) -> pd.DataFrame:
        """A table of the part."""


def own_stage(stage: Stage, part: OfWhole) -> Stage:
    """A stage of one part as the whole command has it: its name says whose it is, and what it leaves lies in the part's folder.

    Parameters
    ----------
    stage
        The stage as if the part were the whole command.
    part
        Part that it belongs to.
    """
    paths = [table_path(part.out, name) for name in stage.tables]
    files = [*paths, *map(types_path, paths), *(part.out / file for file in stage.files)]
    inside = tuple(file.relative_to(part.whole.out).as_posix() for file in files)
    after = tuple(part.staged(name) for name in stage.after)
    return replace(stage, name=part.staged(stage.name), after=after, tables=(), files=inside)


def joining(context: Any, own: Mapping[str, Sequence[Stage]], column: str) -> list[Stage]:
    """Stages that put the tables of all parts under each other, called as the stages that left them.

    Parameters
    ----------
    context
        Context of the whole command, with its ``parts`` by name.
    own
        Stages of each part, before `own_stage`.
    column
        Column of the tables that says of which part a row is.
    """
    left: dict[str, dict[str, list[str]]] = {}
    asked: dict[str, str] = {}
    for name, stages in own.items():
        for stage in stages:
            asked.setdefault(stage.name, stage.part)
            for table in stage.tables:
                left.setdefault(stage.name, {}).setdefault(table, []).append(name)
    found = []
    for stage_name, tables in left.items():
        of = dict.fromkeys(name for names in tables.values() for name in names)
        after = tuple(context.parts[name].staged(stage_name) for name in of)
        work = partial(joined_stage, context, tables, column)
        found.append(Stage(stage_name, work, (), after, tuple(tables), part=asked[stage_name]))
    return found


def joined_stage(context: Any, tables: Mapping[str, Sequence[str]], column: str, _: Path, __: Results) -> Result:
    """Put tables of all parts under each other.

    Parameters
    ----------
    context
        Context of the whole command, whose parts have left the tables.
    tables
        Names of the parts that have left each table.
    column
        Column that says of which part a row is.
    _, __
        Folder of the stage and results of those before it, of which neither is needed.

    Returns
    -------
    dict
        ``parts``, by name of the table.
    """
    context.write(
        {table: stacked({name: context.parts[name].read(table) for name in of}, column) for table, of in tables.items()}
    )
    return {"parts": {table: list(of) for table, of in tables.items()}}


def stacked(tables: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """Tables under each other, with a first column that says of which part a row is.

    Parameters
    ----------
    tables
        Table of each part by its name; a column of that name in it is replaced.
    column
        Name that the first column gets.
    """
    parts = []
    for name, table in tables.items():
        rest = table.drop(columns=column, errors="ignore")
        rest.insert(0, column, name)
        parts.append(rest)
    return pd.concat(parts, ignore_index=True)


def results_of(results: Results, part: OfWhole, names: Sequence[str]) -> dict[str, Result]:
    """Results of the stages of a part, by the names that they have in it.

    Parameters
    ----------
    results
        Results of all stages of the whole command.
    part
        Part that is asked for.
    names
        Stages that it may have.
    """
    return {name: results[part.staged(name)] for name in names if part.staged(name) in results}


def told_of(whole: Mapping[str, Section], openings: Mapping[str, Opening], column: str) -> list[Section]:
    """What parts add to a report: every sentence, figure and fact says of which part it is; tables stand under each other.

    Parameters
    ----------
    whole
        What each part says, as if it were the whole command.
    openings
        First sentences of each part.
    column
        What a part is, such as ``ruler``; the column of its tables.
    """
    everybody = [set(one.cautions) for one in whole.values()]
    # Cautions of all parts are said once.
    common = (
        [text for text in next(iter(whole.values())).cautions if all(text in one for one in everybody)] if whole else []
    )
    sections = [Section(cautions=common)]
    for name, own in whole.items():
        figures = [
            replace(
                one,
                name=f"{one.name}-{name}",
                entry=one.entry or one.name,
                caption=f"{column.capitalize()}: {name}. {one.caption}",
                rows={column: name},
            )
            for one in own.figures
        ]
        opening = openings[name]
        answers = [f"{name}: {text}" for text in (opening.question, opening.answer, opening.sure, *own.answers) if text]
        skipped = [(f"{name}: {what}", why) for what, why in own.skipped]
        cautions = [f"{name}: {text}" for text in own.cautions if text not in common]
        facts = {f"{key} ({name})": text for key, text in own.facts.items()}
        sections.append(Section(figures, {}, answers, skipped, cautions, facts))
    names = dict.fromkeys(table for one in whole.values() for table in one.tables)
    tables = {
        table: stacked({name: one.tables[table] for name, one in whole.items() if table in one.tables}, column)
        for table in names
    }
    return [*sections, Section(tables=tables)]
