"""The feature maps of a gate run by name: heads, the configured one, and controls that hold nothing of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from workbench.operators.controls import gaussian
from workbench.operators.operator import head_names
from workbench.operators.store import StoredOperators

if TYPE_CHECKING:
    from workbench.recipes.gates.context import GatesContext

MODEL = "configured feature map"
CONTROLS = ("identity (x itself)", "gaussian (random matrix)")


class MeansOfHeads(StoredOperators):
    """Stored operators whose means over heads are taken head by head, in single precision.

    From sums in double precision they would differ in the seventh digit, which the fit of an adaptor turns into the third,
    and the gates' numbers would no longer be those that earlier runs had.
    """

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        heads = [(layer, head) for layer in layers for head in range(self.shape[1])]
        total = self.head(*heads[0])
        for head in heads[1:]:
            total += self.head(*head)
        return total / np.float32(len(heads))


def matrix_of(context: GatesContext, name: str) -> Float[np.ndarray, "gene feature"]:
    """Linear feature map f(x) = x F.

    Parameters
    ----------
    context
        Gate run whose operators were read.
    name
        Name of a head such as ``L0H1``, `MODEL`, or one of `CONTROLS`.
    """
    if name == MODEL:
        return context.feature_map
    if name == CONTROLS[0]:
        return np.eye(len(context.feature_map))
    if name == CONTROLS[1]:
        return gaussian(context.feature_map, context.config.seed)
    return context.operators.head(*head_names(context.operators.shape)[name])
