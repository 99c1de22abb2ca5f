"""A fitted readout as plain arrays: what an exported algorithm carries, applied with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Readout:
    """A readout of the latent.

    Attributes
    ----------
    weights, offset
        Input by output, and output. One output column means two classes, or a number when there are no classes. The
        input is the latent, or the hidden layer where there is one.
    classes
        Class names; empty for a number.
    hidden_weights, hidden_offset
        Latent by hidden unit, and hidden unit, of one layer of ReLUs; None for a linear readout.
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
        named = {
            "weights": self.weights,
            "offset": self.offset,
            "hidden_weights": self.hidden_weights,
            "hidden_offset": self.hidden_offset,
        }
        return {name: array for name, array in named.items() if array is not None}

    def output(self, z: Float[np.ndarray, "cell k"]) -> Float[np.ndarray, "cell output"]:
        """Logits, or the number.

        Parameters
        ----------
        z
            Latent.
        """
        if self.hidden_weights is not None:
            z = np.maximum(z @ self.hidden_weights + self.hidden_offset, 0)
        return z @ self.weights + self.offset

    def probabilities(self, z: Float[np.ndarray, "cell k"]) -> Float[np.ndarray, "cell class"]:
        """Probability of each class, every class taken to be as frequent as every other.

        Parameters
        ----------
        z
            Latent.
        """
        return softmax(self.output(z))

    def predict(self, z: Float[np.ndarray, "cell k"]) -> np.ndarray:
        """Most probable class, or the number.

        Parameters
        ----------
        z
            Latent.
        """
        if not self.classes:
            return self.output(z)[:, 0]
        return np.array(self.classes)[self.probabilities(z).argmax(1)]


def softmax(logits: Float[np.ndarray, "cell output"]) -> Float[np.ndarray, "cell class"]:
    """Probabilities of logits; a single column is that of the second of two classes, against 0.

    Parameters
    ----------
    logits
        Any numbers, however large.
    """
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    logits = logits - logits.max(1, keepdims=True)
    exponential = np.exp(logits)
    return exponential / exponential.sum(1, keepdims=True)
