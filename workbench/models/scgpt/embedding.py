"""What enters scGPT's first layer: gene and value embeddings, flags, and the norm of batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.models.places import HookPlace
from workbench.models.scgpt.config import ModelConfig

_MAX_VALUE = 512.0


def _table(n: int, d_model: int) -> Tensor:
    """Numbers as PyTorch draws them for an embedding; none on the meta device, where drawing costs seconds of imports."""
    return empty if (empty := torch.empty(n, d_model)).is_meta else torch.randn(n, d_model)


class NormedEmbedding(nn.Module):
    """Embedding followed by a LayerNorm: scGPT's gene encoder, category value encoder and batch encoder."""

    def __init__(self, n: int, d_model: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n, d_model, padding_idx=padding_idx, _weight=_table(n, d_model))
        self.enc_norm = nn.LayerNorm(d_model)

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """Embed and normalise.

        Parameters
        ----------
        ids
            Row numbers of the embedding, of any shape.
        """
        return self.enc_norm(self.embedding(ids))


class ContinuousValues(nn.Module):
    """Value encoder of the ``continuous`` style: clamp at 512, two linear layers, LayerNorm."""

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, d_model)
        self.linear2 = nn.Linear(d_model, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Float[Tensor, "cell gene"]) -> Float[Tensor, "cell gene d_model"]:
        """Encode values.

        Parameters
        ----------
        values
            Binned expression; values above 512 count as 512.
        """
        hidden = F.relu(self.linear1(values.clamp(max=_MAX_VALUE).unsqueeze(-1)))
        return self.dropout(self.norm(self.linear2(hidden)))


class DomainNorm(nn.Module):
    """Batch norm after the embedding, one set of running statistics per domain (inference only).

    Upstream applies the first cell's domain to the whole batch; here each cell gets its own, so that a batch may mix
    domains. With one domain this is scGPT's plain ``bn``.
    """

    eps = 6.1e-5
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, n_domains: int, d_model: int, affine: bool) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(n_domains, d_model))
        self.register_buffer("running_var", torch.ones(n_domains, d_model))
        self.weight = nn.Parameter(torch.ones(n_domains, d_model)) if affine else None
        self.bias = nn.Parameter(torch.zeros(n_domains, d_model)) if affine else None

    def forward(
        self, x: Float[Tensor, "cell gene d_model"], domain: Int[Tensor, " cell"]
    ) -> Float[Tensor, "cell gene d_model"]:
        """Normalise each cell by the statistics of its domain.

        Parameters
        ----------
        x
            Sum of gene and value embeddings.
        domain
            Domain of each cell, from 0; ignored where there is one.
        """
        if len(self.running_var) == 1:
            domain = torch.zeros_like(domain)  # plain batch norm: batch labels serve the decoders alone
        scale = (self.running_var[domain] + self.eps).rsqrt()
        x = (x - self.running_mean[domain][:, None]) * scale[:, None]
        if self.weight is not None and self.bias is not None:
            x = x * self.weight[domain][:, None] + self.bias[domain][:, None]
        return x


class Embed(nn.Module):
    """Gene and value embeddings and their sum (their product in the ``scaling`` style)."""

    def __init__(self, config: ModelConfig, pad_id: int) -> None:
        super().__init__()
        self.gene = NormedEmbedding(config.n_tokens, config.d_model, pad_id)
        self.value: nn.Module | None = None
        if config.value_style == "continuous":
            self.value = ContinuousValues(config.d_model, config.dropout)
        elif config.value_style == "category":
            self.value = NormedEmbedding(config.n_value_bins, config.d_model)
        self.norm = DomainNorm(config.norm_domains, config.d_model, config.norm_affine) if config.norm_domains else None
        self.flag: nn.Embedding | None = None
        if config.perturbation:  # rows for genes as they are, perturbed genes and padding
            self.flag = nn.Embedding(3, config.d_model, padding_idx=2, _weight=_table(3, config.d_model))
        self.hook_gene = HookPlace()  # [cell, gene, d_model], after the gene encoder's LayerNorm
        self.hook_value = HookPlace()  # [cell, gene, d_model], after the value encoder's norm ([.., 1] when scaling)

    def forward(
        self,
        gene_ids: Int[Tensor, "cell gene"],
        values: Float[Tensor, "cell gene"],
        domain: Int[Tensor, " cell"] | None = None,
        flags: Int[Tensor, "cell gene"] | None = None,
    ) -> Float[Tensor, "cell gene d_model"]:
        """Embed tokens.

        Parameters
        ----------
        gene_ids, values
            Ids and values of a batch, as `Tokens` holds them.
        domain
            Batch-norm domain of each cell, where the checkpoint has such a norm.
        flags
            Perturbation flags, where the checkpoint has such.
        """
        gene = self.hook_gene(self.gene(gene_ids))
        if self.value is None:
            x = gene * self.hook_value(values.unsqueeze(-1))
        else:
            x = gene + self.hook_value(self.value(values.long() if isinstance(self.value, NormedEmbedding) else values))
        if self.flag is not None and flags is not None:
            x = x + self.flag(flags)
        if self.norm is not None:
            x = self.norm(x, torch.zeros_like(gene_ids[:, 0]) if domain is None else domain)
        return x
