"""Weights of all layers at once, under the names of transformer-lens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.models.scgpt.components import Block
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.embedding import Embed

if TYPE_CHECKING:
    from transformer_lens import FactoredMatrix


class Matrices(nn.Module):
    """Part of `HookedScGPT`: what its weights are called elsewhere. Those of attention are copies, one matrix per head."""

    config: ModelConfig
    embed: Embed

    def block(self, layer: int) -> Block:
        """See `HookedScGPT.block`."""
        raise NotImplementedError

    def stacked(self, name: str) -> Float[Tensor, "layer head ..."]:
        """One attention weight of all layers and heads.

        Parameters
        ----------
        name
            As in `Block.weight`.
        """
        return torch.stack([self.block(layer).weight(name) for layer in range(self.config.n_layers)])

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights of all heads, acting on the right of a row vector."""
        return self.stacked("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights of all heads."""
        return self.stacked("W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights of all heads."""
        return self.stacked("W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of all heads."""
        return self.stacked("W_O")

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases of all heads."""
        return self.stacked("b_Q")

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases of all heads."""
        return self.stacked("b_K")

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases of all heads."""
        return self.stacked("b_V")

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Output bias of each layer's attention, which no head owns."""
        return torch.stack([self.block(layer).attn.out.bias for layer in range(self.config.n_layers)])

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """Weights into the MLPs."""
        return torch.stack([self.block(layer).mlp.linear1.weight.T for layer in range(self.config.n_layers)])

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """Weights out of the MLPs."""
        return torch.stack([self.block(layer).mlp.linear2.weight.T for layer in range(self.config.n_layers)])

    @property
    def W_E(self) -> Float[Tensor, "token d_model"]:
        """Gene table, before its LayerNorm; what enters the model of a gene is `gene_embedding`."""
        return self.embed.gene.embedding.weight

    @property
    def QK(self) -> FactoredMatrix:
        """W_Q W_K^T of all heads, (layer, head, d_model, d_model), kept as its two factors; biases and scale are left out."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """W_V W_O of all heads, (layer, head, d_model, d_model), kept as its two factors."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_V, self.W_O)
