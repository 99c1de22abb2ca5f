"""A report in parts: what each part of a command adds to it, and the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from workbench.figures.requests import Request


@dataclass(frozen=True)
class Section:
    """What a part of a command adds to the report.

    Attributes
    ----------
    figures
        Figures that are to be drawn; model and data are added to their captions.
    tables
        Tables by name, as they are shown.
    answers
        Sentences of the summary that say what was found.
    skipped
        What was not done, and why.
    cautions
        Sentences on what could be wrong.
    facts
        Lines for the summary's list, by name.
    """

    figures: list[Request] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Section]) -> Section:
        """Several parts as one, in their order.

        Parameters
        ----------
        parts
            Sections; of a table or fact that two of them name, the later one's counts.
        """
        whole = cls()
        for part in parts:
            whole.figures.extend(part.figures)
            whole.tables.update(part.tables)
            whole.answers.extend(part.answers)
            whole.skipped.extend(part.skipped)
            whole.cautions.extend(part.cautions)
            whole.facts.update(part.facts)
        return whole


def without_place(unplaced: Mapping[str, str], cohort: str = "") -> list[tuple[str, str]]:
    """Labels that the ruler does not know, as what was skipped.

    Parameters
    ----------
    unplaced
        What is said of each label, such as the nearest names of stages.
    cohort
        Name of the cells, where a command has several; empty otherwise.
    """
    who = f"{cohort}: cells" if cohort else "Cells"
    return [
        (f"{who} labelled '{label}'", f"the ruler does not know the label ({hint})")
        if label
        else (f"{who} without a label", "they have no stage")
        for label, hint in unplaced.items()
    ]


@dataclass(frozen=True)
class Report:
    """What a command reports.

    Attributes
    ----------
    title, question
        Headline, and the question that the command asks.
    data
        Where the cells are from, and how many of what there are.
    sections
        Parts of the report, in their order.
    n
        What was counted; empty: rows of the known tables are counted.
    algorithm
        Sentence about what was exported; empty where nothing was.
    explorer
        HTML of the explorer, put in as it is.
    left_out
        Tables too long for ``metrics.json``.
    """

    title: str
    question: str
    data: str
    sections: Sequence[Section]
    n: str = ""
    algorithm: str = ""
    explorer: str = ""
    left_out: tuple[str, ...] = ()
