"""A fitted readout as plain arrays: what an exported algorithm carries, applied with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

ARRAYS = ("weights", "offset", "hidden_weights", "hidden_offset")


@dataclass(frozen=True)
class Readout:
    """A readout of the latent; which of its arrays there are is what makes it linear, of two classes, or of a number.

    Attributes
    ----------
    weights, offset
        Input by output, and output. One output column means two classes, or a number when there are no classes. The
        input is the latent, or the hidden layer where there is one.
    classes
        Class names; empty for a number.
    hidden_weights, hidden_offset
        Latent by hidden unit, and hidden unit, of one layer of ReLUs; None for a linear readout.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.readout_weights import Readout
    >>> readout = Readout(np.array([[2.0]]), np.array([0.0]), ("no", "yes"))
    >>> readout.predict(np.array([[-1.0], [1.0]])).tolist(), readout.n_parameters
    (['no', 'yes'], 2)
    """

    weights: Float[np.ndarray, "input output"]
    offset: Float[np.ndarray, " output"]
    classes: tuple[str, ...]
    hidden_weights: Float[np.ndarray, "k hidden"] | None = None
    hidden_offset: Float[np.ndarray, " hidden"] | None = None

    @property
    def n_parameters(self) -> int:
        """Numbers that were fitted."""
        return sum(array.size for array in self.arrays().values())

    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays by name, those that are None left out."""
        return {name: array for name in ARRAYS if (array := getattr(self, name)) is not None}

    def output(self, z: Float[np.ndarray, "cell k"]) -> Float[np.ndarray, "cell output"]:
        """Logits, or the number.

        Parameters
        ----------
        z
            Latent of cells, one row each, of the width that the readout was fitted on.
        """
        if self.hidden_weights is not None:
            z = np.maximum(z @ self.hidden_weights + self.hidden_offset, 0)
        return z @ self.weights + self.offset

    def probabilities(self, z: Float[np.ndarray, "cell k"]) -> Float[np.ndarray, "cell class"]:
        """Probability of each class, every class taken to be as frequent as every other.

        Parameters
        ----------
        z
            Latent of cells, as in `output`; the readout must have classes.
        """
        return softmax(self.output(z))

    def predict(self, z: Float[np.ndarray, "cell k"]) -> np.ndarray:
        """Most probable class, or the number.

        Parameters
        ----------
        z
            Latent of cells, as in `output`; each row is judged by itself.
        """
        if not self.classes:
            return self.output(z)[:, 0]
        return np.array(self.classes)[self.probabilities(z).argmax(1)]


def cooled(readout: Readout, temperature: float) -> Readout:
    """The readout with its logits divided by a temperature.

    Parameters
    ----------
    readout
        Readout of classes, linear or with a hidden layer; not changed.
    temperature
        Temperature above 0; above 1 it makes probabilities less sure, and at 1 nothing changes.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.readout_weights import Readout, cooled
    >>> sure = Readout(np.array([[4.0]]), np.array([0.0]), ("no", "yes"))
    >>> cooled(sure, 4.0).probabilities(np.array([[1.0]])).round(2).tolist()
    [[0.27, 0.73]]
    """
    return replace(readout, weights=readout.weights / temperature, offset=readout.offset / temperature)


def most_probable(logits: Float[np.ndarray, "cell output"]) -> Int[np.ndarray, " cell"]:
    """Number of the most probable class of each cell; a single column is that of the second of two classes, against 0.

    Parameters
    ----------
    logits
        As `softmax` takes them, a row for each cell.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.readout_weights import most_probable
    >>> most_probable(np.array([[-1.0], [2.0]])).tolist(), most_probable(np.array([[3.0, 1.0, 4.0]])).tolist()
    ([0, 1], [2])
    """
    return logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).astype(int)


def softmax(logits: Float[np.ndarray, "cell output"]) -> Float[np.ndarray, "cell class"]:
    """Probabilities of logits; a single column is that of the second of two classes, against 0.

    Parameters
    ----------
    logits
        Finite numbers, however large: the greatest of each row is taken off first.

    Examples
    --------
    >>> import numpy as np
    >>> from workbench.operators.readout_weights import softmax
    >>> softmax(np.array([[0.0], [1000.0]])).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    logits = logits - logits.max(1, keepdims=True)
    exponential = np.exp(logits)
    return exponential / exponential.sum(1, keepdims=True)
