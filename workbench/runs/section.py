"""A part of a report: figures, tables and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd
import plotly.graph_objects as go

from workbench.provenance import describe_model
from workbench.runs.chain import Chain


@dataclass(frozen=True)
class Section:
    """What a part of a run adds to the report.

    Attributes
    ----------
    figures, captions, tables
        By name; every figure has a caption.
    answers
        Sentences for the summary.
    skipped
        ``what`` and ``why``.
    cautions
        What could be wrong.
    """

    figures: dict[str, go.Figure] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    answers: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)

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
            whole.figures.update(part.figures)
            whole.captions.update(part.captions)
            whole.tables.update(part.tables)
            whole.answers.extend(part.answers)
            whole.skipped.extend(part.skipped)
            whole.cautions.extend(part.cautions)
        return whole


def read_table(chain: Chain, name: str) -> pd.DataFrame:
    """A table that a stage left; only an empty field is missing, a label such as "NA" is a label.

    Parameters
    ----------
    chain
        The run.
    name
        Of the table.
    """
    return pd.read_csv(chain.tables / f"{name}.csv", keep_default_na=False, na_values=[""])


def setting(chain: Chain) -> str:
    """Model and data of a run, for captions.

    Parameters
    ----------
    chain
        The run.
    """
    model = describe_model(chain.model, chain.config.checkpoint)
    return f"Model: {model}. Data: {chain.adata.uns['workbench']['name']}, {len(chain.obs)} cells."
