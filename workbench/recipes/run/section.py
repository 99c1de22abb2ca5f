"""A part of a report: figures, tables and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from workbench.engine.provenance import describe_model
from workbench.figures.requests import Request, read_tables
from workbench.recipes.run.chain import Chain


@dataclass(frozen=True)
class Section:
    """What a part of a run adds to the report.

    Attributes
    ----------
    figures
        What is to be drawn.
    tables
        By name.
    answers
        Sentences for the summary.
    skipped
        ``what`` and ``why``.
    cautions
        What could be wrong.
    facts
        Lines for the summary's list, by name.
    """

    figures: list[Request] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Section]) -> Section:
        """Several parts as one, in their order.

        Parameters
        ----------
        parts
            Sections; a name in two of them is the later one's.
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


def read_table(chain: Chain, name: str) -> pd.DataFrame:
    """A table that a stage left.

    Parameters
    ----------
    chain
        The run.
    name
        Of the table.
    """
    return read_tables(chain.out, [name])[name]


def setting(chain: Chain) -> str:
    """Model and data of a run, for captions.

    Parameters
    ----------
    chain
        The run.
    """
    model = describe_model(chain.model, chain.config.checkpoint)
    return f"Model: {model}. Data: {chain.adata.uns['workbench']['name']}, {len(chain.obs)} cells."
