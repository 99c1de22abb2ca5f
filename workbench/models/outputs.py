"""What a forward pass returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.errors import CheckpointError

OUTPUTS = ("cell", "expression", "mvc", "classes")
CLS, MEAN, WEIGHTED = CELL_STYLES = ("cls", "avg-pool", "w-pool")


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


def pool(
    x: Float[Tensor, "cell gene d_model"],
    values: Float[Tensor, "cell gene"],
    padding: Bool[Tensor, "cell gene"],
    style: str,
) -> Float[Tensor, "cell d_model"]:
    """Cell embedding from a residual stream.

    Padding is left out, where upstream's ``avg-pool`` and ``w-pool`` count it; without padding they agree.

    Parameters
    ----------
    x, values, padding
        Residual stream, values and padding of the same tokens.
    style
        ``cls``, ``avg-pool`` or ``w-pool``, as `workbench.embed` says.
    """
    if style == CLS:
        return x[:, 0]
    keep = (~padding).to(x.dtype)
    if style == MEAN:
        return (x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    return torch.nn.functional.normalize((x * (values * keep)[..., None]).sum(1), dim=1)
