"""What a method of the benchmark gets and what it gives: cells without labels, a training side with them, answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int, Shaped

from workbench.evidence.ruler import Ruler
from workbench.operators.operator import OperatorSource
from workbench.operators.readout import Endpoint


@dataclass(frozen=True)
class Cells:
    """Cells on the gene panel of a split. There is no label in them.

    Attributes
    ----------
    names
        Of the cells, each once.
    genes
        The panel, chosen on the training side.
    expression
        Log-normalised, cell by gene, float32; a panel gene that a dataset does not measure is 0 in it.
    counts
        Integer counts on the panel, float32; None where the data hold none.
    embeddings
        Frozen scGPT, by name: ``cls`` and ``average`` (of the gene tokens) after the last layer, and ``average 0`` and so
        on after each layer. Each cell's depends on that cell alone.
    """

    names: Shaped[np.ndarray, " cell"]
    genes: tuple[str, ...]
    expression: sp.csr_matrix
    counts: sp.csr_matrix | None = None
    embeddings: Mapping[str, Float[np.ndarray, "cell width"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Training:
    """The training side of a split: everything that a method may be fitted on.

    Attributes
    ----------
    cells
        With labels.
    stage
        Stage number of each, from 0: cells without a place on the ruler are not here.
    donor
        Of each; None where the data name none.
    ruler
        Stages, their branches, depths and distances.
    endpoints
        What is asked, with the targets of these cells.
    seed
        The one seed.
    operators, untrained
        Gene-space operators of every head on the panel, averaged over cells of the training side; and those of a model of
        the same shape that was never trained. None where the campaign has no checkpoint's operators.
    tissue, cell_type
        Of each cell, for anchors; None where the data name none.
    """

    cells: Cells
    stage: Int[np.ndarray, " cell"]
    donor: Shaped[np.ndarray, " cell"] | None
    ruler: Ruler
    endpoints: tuple[Endpoint, ...]
    seed: int
    operators: OperatorSource | None = None
    untrained: OperatorSource | None = None
    tissue: Shaped[np.ndarray, " cell"] | None = None
    cell_type: Shaped[np.ndarray, " cell"] | None = None


@dataclass(frozen=True)
class Answer:
    """What a method says of cells about one endpoint.

    Attributes
    ----------
    classes
        Names of the classes, in the order of the columns of `values`; ``("False", "True")`` for a binary endpoint, empty
        for a number.
    values
        Probability of each class; or, in a single column, a number such as a pseudotime.
    """

    classes: tuple[str, ...]
    values: Float[np.ndarray, "cell column"]


@dataclass(frozen=True)
class Said:
    """What a method says of cells.

    Attributes
    ----------
    answers
        By the name of the endpoint; one that the method has nothing to say about is absent.
    latent
        Its coordinates of the cells, for what is judged without labels; None where it has none.
    """

    answers: Mapping[str, Answer]
    latent: Float[np.ndarray, "cell width"] | None = None


class Fitted(Protocol):
    """A method after it was fitted."""

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted on the training side, readouts among them; frozen weights are none."""

    def say(self, cells: Cells) -> Said:
        """Answers and latent of cells, each from that cell alone.

        Parameters
        ----------
        cells
            Any; the test side, as a rule.
        """


class Method(Protocol):
    """A method of the benchmark. It is fitted on a training side and sees a test side only in `Fitted.say`."""

    def fit(self, train: Training) -> Fitted:
        """Fit.

        Parameters
        ----------
        train
            The training side.

        Raises
        ------
        NotRunError
            Where it cannot be run on such data or on this machine; the reason is put into the table.
        """


class NotRunError(Exception):
    """A method that cannot be run: its package is not installed, the data hold no counts, and so on. Never a crash."""


class OutOfTimeError(Exception):
    """A method that was stopped because it ran out of its time budget."""
