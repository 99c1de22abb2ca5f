"""What a forward pass returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from workbench.errors import CheckpointError

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


def need_cell(outputs: Sequence[str]) -> None:
    """Refuse a model without a cell embedding, before any pass.

    Parameters
    ----------
    outputs
        `CellModel.outputs` of the model that is asked.

    Raises
    ------
    CheckpointError
        If ``cell`` is not among them.
    """
    if "cell" not in outputs:
        raise CheckpointError(
            "The checkpoint has no cell embedding, which this work needs: a perturbation fine-tune has no <cls>. Say cell_emb_style: "
            "avg-pool in its args.json for the mean over genes, or use another checkpoint."
        )
