"""What scGPT predicts with: values of genes, from each gene's own stream or from the cell embedding alone, and classes."""

from __future__ import annotations

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn


def _three_layers(d_in: int, d_model: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(d_in, d_model), nn.LeakyReLU(), nn.Linear(d_model, d_model), nn.LeakyReLU(), nn.Linear(d_model, 1)
    )


class ExpressionDecoder(nn.Module):
    """Predicted value of each gene from its own residual stream; optionally the probability of a zero."""

    def __init__(self, d_in: int, d_model: int, zero_probability: bool) -> None:
        super().__init__()
        self.fc = _three_layers(d_in, d_model)
        self.zero_logit = _three_layers(d_in, d_model) if zero_probability else None

    def forward(
        self, x: Float[Tensor, "cell gene d_in"]
    ) -> tuple[Float[Tensor, "cell gene"], Float[Tensor, "cell gene"] | None]:
        """Predict.

        Parameters
        ----------
        x
            Last residual stream, with the batch embedding beside it where there is one.
        """
        zero = None if self.zero_logit is None else self.zero_logit(x).squeeze(-1).sigmoid()
        return self.fc(x).squeeze(-1), zero


class AffineDecoder(nn.Module):
    """Predicted value of each gene after a perturbation: a factor of its value before, and a summand."""

    def __init__(self, d_model: int, zero_probability: bool) -> None:
        super().__init__()
        self.coeff_decoder = ExpressionDecoder(d_model, d_model, zero_probability)
        self.bias_decoder = ExpressionDecoder(d_model, d_model, zero_probability)

    def forward(
        self, x: Float[Tensor, "cell gene d_model"], values: Float[Tensor, "cell gene"]
    ) -> tuple[Float[Tensor, "cell gene"], Float[Tensor, "cell gene"] | None]:
        """Predict.

        Parameters
        ----------
        x
            Last residual stream, ``hook_resid_post`` of the last block.
        values
            Values that entered the model.
        """
        (factor, zero), (summand, _) = self.coeff_decoder(x), self.bias_decoder(x)
        return factor * values + summand, zero


class MVCDecoder(nn.Module):
    """Predicted value of each gene from the cell embedding alone, in scGPT's three styles."""

    def __init__(self, d_in: int, d_model: int, style: str, zero_probability: bool) -> None:
        super().__init__()
        self.style = style
        d_query = 64 if style == "concat query" else d_model
        self.gene2query = nn.Linear(d_model, d_query)
        if style == "inner product":
            self.W = nn.Linear(d_model, d_in, bias=False)
            self.W_zero_logit = nn.Linear(d_model, d_in) if zero_probability else None
        else:
            self.fc1 = nn.Linear(d_model + 64 if style == "concat query" else d_model, 64)
            self.hidden_activation = nn.PReLU()
            self.fc2 = nn.Linear(64, 1)

    def forward(
        self, cell: Float[Tensor, "cell d_in"], genes: Float[Tensor, "cell gene d_model"]
    ) -> tuple[Float[Tensor, "cell gene"], Float[Tensor, "cell gene"] | None]:
        """Predict.

        Parameters
        ----------
        cell
            Cell embedding, with the batch embedding beside it where there is one.
        genes
            Gene embeddings after their norm, as at ``embed.hook_gene``.
        """
        query = self.gene2query(genes).sigmoid()
        if self.style == "inner product":
            zero = None
            if self.W_zero_logit is not None:
                zero = einsum(self.W_zero_logit(query), cell, "cell gene d, cell d -> cell gene").sigmoid()
            return einsum(self.W(query), cell, "cell gene d, cell d -> cell gene"), zero
        if self.style == "concat query":
            hidden = torch.cat([cell[:, None].expand(-1, genes.shape[1], -1), query], dim=2)
        else:
            hidden = cell[:, None] + query
        return self.fc2(self.hidden_activation(self.fc1(hidden))).squeeze(-1), None


class ClassDecoder(nn.Module):
    """Classification head on the cell embedding."""

    def __init__(self, d_model: int, n_classes: int, n_layers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(n_layers - 1):
            layers += [nn.Linear(d_model, d_model), nn.ReLU(), nn.LayerNorm(d_model)]
        self._decoder = nn.ModuleList(layers)
        self.out_layer = nn.Linear(d_model, n_classes)

    def forward(self, cell: Float[Tensor, "cell d_model"]) -> Float[Tensor, "cell n_classes"]:
        """Class logits.

        Parameters
        ----------
        cell
            Cell embedding in the checkpoint's style.
        """
        for layer in self._decoder:
            cell = layer(cell)
        return self.out_layer(cell)
