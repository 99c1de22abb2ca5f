"""How operators of cells are made: what cells are fed as, how maps are pooled over cells, and which way they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench.errors import ArtifactError

SCGPT: Literal["scgpt"] = "scgpt"
PAPER: Literal["paper"] = "paper"
MEAN: Literal["mean"] = "mean"
SUM: Literal["sum"] = "sum"
QUERY_KEY: Literal["query x key"] = "query x key"
KEY_QUERY: Literal["key x query"] = "key x query"
Input = Literal["scgpt", "paper"]
Pooling = Literal["mean", "sum"]
Orientation = Literal["query x key", "key x query"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Convention:
    """Under which convention operators were averaged over cells; what differs in any part of it is never mixed.

    Attributes
    ----------
    convention
        What cells are fed as. ``scgpt``: scGPT's own input, binned and with ``<cls>``. ``paper``: cells restricted to the
        panel, log1p of counts per 10,000 without bins, no ``<cls>``, as the operators of arXiv:2603.10261 were most likely
        made; no input that scGPT was trained on.
    over_cells
        ``mean`` over the cells in which both genes are tokens, or the plain ``sum``.
    orientation
        ``query x key``: rows are query genes; or the transpose.
    sums
        Float type in which maps are added up.

    Examples
    --------
    >>> from workbench.operators.convention import Convention
    >>> Convention().label, Convention("paper", "sum").label
    ('scgpt', 'paper, sum over cells')
    """

    convention: Input = SCGPT
    over_cells: Pooling = MEAN
    orientation: Orientation = QUERY_KEY
    sums: Precision = "float32"

    @property
    def label(self) -> str:
        """Name in tables, captions and cards: the input, and what else is not the default."""
        more = [
            *(["sum over cells"] if self.over_cells == SUM else []),
            *([self.orientation] if self.orientation != QUERY_KEY else []),
            *([f"{self.sums} sums"] if self.sums != "float32" else []),
        ]
        return ", ".join([self.convention, *more])

    @property
    def is_default(self) -> bool:
        """Whether it is scGPT's own input, averaged, in rows of queries."""
        return self == Convention()

    def told(self) -> dict[str, str]:
        """Its parts by name, JSON-ready."""
        return asdict(self)

    @classmethod
    def read(cls, told: Mapping[str, Any] | None) -> Convention:
        """Convention as `told` gave it.

        Parameters
        ----------
        told
            Parts by name; None, for files from before there were conventions, is the default.

        Raises
        ------
        ArtifactError
            If a part is unknown: the file is of a later workbench.
        """
        try:
            return cls(**(told or {}))
        except TypeError as error:
            raise ArtifactError(
                f"The convention {told} has parts that this workbench does not know; update it."
            ) from error

    def check(self, other: Convention, what: str) -> None:
        """Refuse to mix two conventions.

        Parameters
        ----------
        other
            The convention that was found.
        what
            What it was found of, as the subject of the sentence, such as ``"The operator"``.

        Raises
        ------
        ArtifactError
            If it is another.
        """
        if self != other:
            raise ArtifactError(
                f"{what} is of the convention '{other.label}', not of '{self.label}': operators of two conventions are never mixed. "
                "Make them anew under the one that is wanted, in a folder of its own."
            )
