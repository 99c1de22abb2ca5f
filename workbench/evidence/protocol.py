"""What a method of the benchmark gets and what it gives: a training side with labels, cells without any, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from workbench.cells.placed import PlacedCells
from workbench.evidence.ruler import Ruler
from workbench.operators.operator import OperatorSource
from workbench.operators.readout import Endpoint

# What a method says of the depth without labels but those of the earliest stage; beside "depth", which is read out.
PSEUDOTIME = "pseudotime"


@dataclass(frozen=True)
class Training:
    """The training side of a split: everything that a method may be fitted on.

    Attributes
    ----------
    cells
        Cells with labels on the panel that was chosen on this side, each with a place on the ruler: stage, donor and
        tissue as far as the data name them, counts where there are any, embeddings of the frozen model by name (``cls``
        and ``average`` after the last layer, ``average 0`` and so on after each).
    endpoints
        What is asked, with the targets of these cells.
    seed
        The one seed of the campaign.
    operators, untrained
        Gene-space operators of every head on the panel, averaged over cells of the training side; and those of a model of
        the same shape that was never trained. None where the campaign has no checkpoint's operators.
    """

    cells: PlacedCells
    endpoints: tuple[Endpoint, ...]
    seed: int
    operators: OperatorSource | None = None
    untrained: OperatorSource | None = None

    @property
    def ruler(self) -> Ruler:
        """The ruler that the cells are placed on."""
        assert self.cells.ruler is not None
        return self.cells.ruler


@dataclass(frozen=True)
class Trial:
    """A split as methods meet it: what they are fitted on, and held-out cells that they are judged by.

    Attributes
    ----------
    train
        Everything that a method may be fitted on.
    truth
        The held-out cells with their labels, on the panel of the training side; no method sees them like this.
    endpoints
        What is asked about the held-out cells, with what is right about them.
    """

    train: Training
    truth: PlacedCells
    endpoints: tuple[Endpoint, ...]

    @property
    def test(self) -> PlacedCells:
        """The held-out cells without their labels, as a method is given them."""
        return self.truth.without_labels()


@dataclass(frozen=True)
class Prediction:
    """What a method predicts of cells about one endpoint.

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
class Predictions:
    """What a method predicts of cells.

    Attributes
    ----------
    of
        Predictions by the name of the endpoint, and `PSEUDOTIME`; what the method does not predict is absent.
    latent
        Its coordinates of the cells, for what is judged without labels; None where it has none.
    """

    of: Mapping[str, Prediction]
    latent: Float[np.ndarray, "cell width"] | None = None


class Fitted(Protocol):
    """A method after it was fitted. One that holds a process of its own has a method ``close`` beside these."""

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted on the training side, readouts among them; frozen weights are none."""

    def predict(self, cells: PlacedCells) -> Predictions:
        """Predictions and latent of cells, each from that cell alone.

        Parameters
        ----------
        cells
            Cells on the panel of the training side, without labels; the test side, as a rule.
        """


class Method(Protocol):
    """A method of the benchmark. It is fitted on a training side and sees a test side only in `Fitted.predict`."""

    def fit(self, train: Training) -> Fitted:
        """Fit.

        Parameters
        ----------
        train
            Everything that it may be fitted on; nothing of the test side is in it.

        Raises
        ------
        NotRunError
            Where it cannot be run on such data or on this machine; the reason is put into the table.
        """


class NotRunError(Exception):
    """A method that cannot be run: its package is not installed, the data hold no counts, and so on. Never a crash."""


class OutOfTimeError(Exception):
    """A method that was stopped because it ran out of its time budget."""
