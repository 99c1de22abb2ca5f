"""A report in parts: what each part of a command adds to it, and the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from workbench.figures.requests import Request

# States of a control: sign, word, and what it means; a sign stands beside every colour.
HOLDS, PARTLY, FALLS, OPEN = "holds", "partly", "falls", "open"
STATES = {
    HOLDS: ("\u2713", "the result stands out from this control on more than half of what was judged"),
    PARTLY: ("~", "the result stands out on half of it or less"),
    FALLS: ("\u2717", "the result does not stand out from this control"),
    OPEN: ("\u2013", "not judged"),
}


@dataclass(frozen=True)
class Opening:
    """The first sentences of a report, for somebody who reads no more; at most 35 words each.

    Attributes
    ----------
    question, answer
        What was asked, and what was found.
    sure
        n, spread and null, and the smallest difference that could have been found; empty where nothing was judged.
    change
        What could change the answer.
    step
        What to do next: a command or an option.
    """

    question: str
    answer: str
    sure: str = ""
    change: str = ""
    step: str = ""

    @property
    def lines(self) -> dict[str, str]:
        """Sentences by what they say, in their order; empty ones are left out."""
        said = {
            "Question": self.question,
            "Answer": self.answer,
            "How sure": self.sure,
            "What could change it": self.change,
            "What to do next": self.step,
        }
        return {label: sentence for label, sentence in said.items() if sentence}


@dataclass(frozen=True)
class Control:
    """What a result has to stand out from, and how often it does.

    Attributes
    ----------
    name
        Name of the control, as tables have it.
    text
        What was found, in a few words.
    held, of
        On how many of the measures that could be judged the result stands out from it.
    """

    name: str
    text: str
    held: int
    of: int

    @property
    def state(self) -> str:
        """Key of `STATES`."""
        if self.of == 0:
            return OPEN
        return FALLS if self.held == 0 else HOLDS if 2 * self.held > self.of else PARTLY


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
        Sentences that say what was found, one finding each.
    skipped
        What was not done, and why.
    cautions
        Sentences on what could be wrong.
    facts
        Lines for the list of facts, by name.
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
    title, opening
        Headline, and the sentences under it.
    data
        Where the cells are from, and how many of what there are.
    sections
        Parts of the report, in their order.
    controls
        What the answer has to stand out from, one mark each.
    shows
        Name of the figure that shows the answer; empty where there is none.
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
    opening: Opening
    data: str
    sections: Sequence[Section]
    controls: Sequence[Control] = ()
    shows: str = ""
    n: str = ""
    algorithm: str = ""
    explorer: str = ""
    left_out: tuple[str, ...] = ()
