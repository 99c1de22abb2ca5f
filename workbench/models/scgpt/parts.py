"""All parts of a scGPT model by name: what its tensors are compared with, and what the hooked model is made of."""

from __future__ import annotations

from torch import nn

from workbench.models.places import HookPlace
from workbench.models.scgpt.components import Block
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.decoders import AffineDecoder, ClassDecoder, ExpressionDecoder, MVCDecoder
from workbench.models.scgpt.embedding import Embed, NormedEmbedding


def make_parts(config: ModelConfig, pad_id: int) -> dict[str, nn.Module | None]:
    """Parts of a model with new weights, drawn in the order of computation.

    Parameters
    ----------
    config
        Shape of the model, which says which parts there are.
    pad_id
        Row of the padding token in the gene embedding.

    Returns
    -------
    dict
        Modules by the name that they have in `HookedScGPT`; None where the model has no such part.
    """
    c = config
    d_in = c.d_model * (2 if c.n_batches else 1)
    return {
        "embed": Embed(c, pad_id),
        "blocks": nn.ModuleList(Block(c) for _ in range(c.n_layers)),
        "batch_encoder": NormedEmbedding(c.n_batches, c.d_model) if c.n_batches else None,
        "decoder": _expression(c, d_in) if c.has_expression else None,
        "mvc_decoder": MVCDecoder(d_in, c.d_model, c.mvc_style, c.zero_probability) if c.mvc_style else None,
        "cls_decoder": ClassDecoder(c.d_model, c.n_classes, c.n_layers_cls) if c.n_classes else None,
        "hook_cell": HookPlace(),
    }


def _expression(c: ModelConfig, d_in: int) -> nn.Module:
    if c.perturbation:
        return AffineDecoder(c.d_model, c.zero_probability)
    return ExpressionDecoder(d_in, c.d_model, c.zero_probability)
