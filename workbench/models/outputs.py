"""What a forward pass returns."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

OUTPUTS = ("cell", "expression", "mvc", "classes")


@dataclass(frozen=True)
class Outputs:
    """What a forward pass returns; what was not asked for is None.

    Attributes
    ----------
    residual
        Last residual stream, after the last layer; meaningless at padding.
    cell
        Cell embedding in the checkpoint's cell style, not normalised.
    expression, mvc
        Predicted binned value of each gene, from its own stream and from the cell embedding.
    expression_zero, mvc_zero
        Predicted probability of a zero, for checkpoints that model it.
    classes
        Logits of the classes that the checkpoint was fine-tuned on.
    """

    residual: Float[Tensor, "cell gene d_model"]
    cell: Float[Tensor, "cell d_model"] | None = None
    expression: Float[Tensor, "cell gene"] | None = None
    expression_zero: Float[Tensor, "cell gene"] | None = None
    mvc: Float[Tensor, "cell gene"] | None = None
    mvc_zero: Float[Tensor, "cell gene"] | None = None
    classes: Float[Tensor, "cell n_classes"] | None = None
