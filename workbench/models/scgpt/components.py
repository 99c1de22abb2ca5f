"""The parts of scGPT, each with hook points on what it computes.

scGPT is post-norm: a block adds, then normalises. ``hook_resid_pre`` of a block is therefore the normalised output of
the block before (or the plain sum of gene and value embeddings in block 0), ``hook_resid_mid`` sits after the first
LayerNorm and ``hook_resid_post`` after the second, while ``hook_attn_out`` and ``hook_mlp_out`` are what is added
before each of them. The residual stream is rescaled at every norm, so contributions of layers do not sum to its end.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from workbench.errors import HookError, unknown_name
from workbench.models.places import HookPlace, is_listened
from workbench.models.scgpt.config import ModelConfig

ATTENTION_WEIGHTS = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")


class Attention(nn.Module):
    """Multi-head self-attention over the genes of a cell; padding is never a key.

    The fused fast path runs unless somebody listens to scores or pattern, or `HookedScGPT.use_pattern` is on. In training there is no dropout inside the
    attention (upstream has some): it would rule out the fused path, and inference has none.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.n_heads, self.d_head = config.n_heads, config.d_head
        self.qkv = nn.Linear(d, 3 * d)
        self.out = nn.Linear(d, d)
        self.hook_q = HookPlace()  # [cell, query, head, d_head]
        self.hook_k = HookPlace()  # [cell, key, head, d_head]
        self.hook_v = HookPlace()  # [cell, key, head, d_head]
        self.hook_scores = HookPlace()  # [cell, head, query, key], scaled, -inf where the key is padding
        self.hook_pattern = HookPlace()  # [cell, head, query, key], rows sum to 1
        self.hook_z = HookPlace()  # [cell, query, head, d_head]
        self.hook_result = HookPlace()  # [cell, query, head, d_model], without the output bias
        self.eager = False

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        """Query weights per head, acting on the right of a row vector."""
        return self._split(0)

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        """Key weights per head."""
        return self._split(1)

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        """Value weights per head."""
        return self._split(2)

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        """Output weights per head."""
        return rearrange(self.out.weight, "d (head e) -> head e d", head=self.n_heads)

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"]:
        """Query bias per head."""
        return self._bias(0)

    @property
    def b_K(self) -> Float[Tensor, "head d_head"]:
        """Key bias per head."""
        return self._bias(1)

    @property
    def b_V(self) -> Float[Tensor, "head d_head"]:
        """Value bias per head."""
        return self._bias(2)

    def _bias(self, which: int) -> Tensor:
        return self.qkv.bias.view(3, self.n_heads, self.d_head)[which]

    def _split(self, which: int) -> Tensor:
        return rearrange(self.qkv.weight, "(three head e) d -> three head d e", three=3, head=self.n_heads)[which]

    def mix(
        self, x: Float[Tensor, "cell gene d_model"], padding: Bool[Tensor, "cell gene"] | None, keep: int | None = None
    ) -> Float[Tensor, "cell query head d_head"]:
        """Pattern times values, ``hook_z``.

        Parameters
        ----------
        x
            Residual stream before the block.
        padding
            True at padding; None when the batch has none.
        keep
            Compute the first so many queries only (all positions are keys); None for all.
        """
        heads = rearrange(self.qkv(x), "cell gene (three head e) -> three cell gene head e", three=3, head=self.n_heads)
        q, k, v = self.hook_q(heads[0][:, :keep]), self.hook_k(heads[1]), self.hook_v(heads[2])
        if self.eager or is_listened(self.hook_scores) or is_listened(self.hook_pattern):
            pattern = self.hook_pattern(self.hook_scores(self.scores(q, k, padding)).softmax(-1))
            z = rearrange(pattern @ v.transpose(1, 2), "cell head gene e -> cell gene head e")
        else:
            mask = None if padding is None else ~padding[:, None, None, :]
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
        return self.hook_z(z)

    def scores(
        self,
        q: Float[Tensor, "cell query head d_head"],
        k: Float[Tensor, "cell key head d_head"],
        padding: Bool[Tensor, "cell key"] | None,
    ) -> Float[Tensor, "cell head query key"]:
        """What the softmax over keys makes a pattern of; minus infinity where the key is padding.

        Parameters
        ----------
        q, k
            Queries, all or some of them, and all keys: ``hook_q`` and ``hook_k``.
        padding
            True at padding; None when the batch has none.
        """
        scores = (q.transpose(1, 2) / math.sqrt(self.d_head)) @ k.permute(0, 2, 3, 1)
        return scores if padding is None else scores.masked_fill(padding[:, None, None, :], -torch.inf)

    def project(self, z: Float[Tensor, "cell query head d_head"]) -> Float[Tensor, "cell query d_model"]:
        """Sum of all heads' results and the output bias.

        Parameters
        ----------
        z
            What `mix` gave, possibly edited.
        """
        if self.eager or is_listened(self.hook_result):
            result = self.hook_result(einsum(z, self.W_O, "cell gene head e, head e d -> cell gene head d"))
            return result.sum(2) + self.out.bias
        return self.out(rearrange(z, "cell gene head e -> cell gene (head e)"))


class MLP(nn.Module):
    """Feed-forward part of a block: linear, ReLU, linear."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.d_model, config.d_mlp)
        self.linear2 = nn.Linear(config.d_mlp, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.hook_pre = HookPlace()  # [cell, gene, d_mlp], before the ReLU
        self.hook_post = HookPlace()  # [cell, gene, d_mlp], after the ReLU

    def forward(self, x: Float[Tensor, "cell gene d_model"]) -> Float[Tensor, "cell gene d_model"]:
        """Apply to each gene alone.

        Parameters
        ----------
        x
            Stream behind the first norm, ``hook_resid_mid``.
        """
        return self.linear2(self.dropout(self.hook_post(F.relu(self.hook_pre(self.linear1(x))))))


class Block(nn.Module):
    """One post-norm encoder layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # Set in the order of computation, which is the order in which hooks are listed.
        self.hook_resid_pre = HookPlace()  # [cell, gene, d_model], the block's input (after norm2 of the block before)
        self.attn = Attention(config)
        self.hook_attn_out = HookPlace()  # [cell, gene, d_model], with output bias, before the sum and norm1
        self.hook_resid_mid = HookPlace()  # [cell, gene, d_model], after norm1
        self.mlp = MLP(config)
        self.norm1 = nn.LayerNorm(config.d_model, eps=1e-5)
        self.norm2 = nn.LayerNorm(config.d_model, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)
        self.hook_mlp_out = HookPlace()  # [cell, gene, d_model], before the sum and norm2
        self.hook_resid_post = HookPlace()  # [cell, gene, d_model], after norm2

    def forward(
        self, x: Float[Tensor, "cell gene d_model"], padding: Bool[Tensor, "cell gene"] | None
    ) -> Float[Tensor, "cell gene d_model"]:
        """Run the layer.

        Parameters
        ----------
        x
            Residual stream that enters the layer.
        padding
            True at padding; None when the batch has none.
        """
        x = self.hook_resid_pre(x)
        mid = self.after_attention(x, self.project(self.mix(x, padding)))
        return self.after_mlp(mid, self.feed_forward(mid))

    def mix(
        self, x: Float[Tensor, "cell gene d_model"], padding: Bool[Tensor, "cell gene"] | None, keep: int | None = None
    ) -> Float[Tensor, "cell query head d_head"]:
        """See `Attention.mix`."""
        return self.attn.mix(x, padding, keep)

    def pattern(
        self,
        q: Float[Tensor, "cell query head d_head"],
        k: Float[Tensor, "cell key head d_head"],
        padding: Bool[Tensor, "cell key"] | None,
    ) -> Float[Tensor, "cell head query key"]:
        """Attention pattern of these queries.

        Parameters
        ----------
        q, k, padding
            As `Attention.scores` takes them, of this block.
        """
        return self.attn.scores(q, k, padding).softmax(-1)

    def project(self, z: Float[Tensor, "cell query head d_head"]) -> Float[Tensor, "cell query d_model"]:
        """See `Attention.project`."""
        return self.attn.project(z)

    def after_attention(
        self, x: Float[Tensor, "cell query d_model"], out: Float[Tensor, "cell query d_model"]
    ) -> Float[Tensor, "cell query d_model"]:
        """Sum of stream and attention, then the first norm.

        Parameters
        ----------
        x
            Input of the block, at the positions of `out`.
        out
            What the attention adds, from `project`.
        """
        return self.hook_resid_mid(self.norm1(x + self.dropout(self.hook_attn_out(out))))

    def feed_forward(self, mid: Float[Tensor, "cell query d_model"]) -> Float[Tensor, "cell query d_model"]:
        """What the MLP adds.

        Parameters
        ----------
        mid
            Stream behind the first norm, from `after_attention`.
        """
        return self.mlp(mid)

    def after_mlp(
        self, mid: Float[Tensor, "cell query d_model"], out: Float[Tensor, "cell query d_model"]
    ) -> Float[Tensor, "cell query d_model"]:
        """Sum of stream and MLP, then the second norm.

        Parameters
        ----------
        mid
            Stream behind the first norm, from `after_attention`.
        out
            What the MLP adds, from `feed_forward`.
        """
        return self.hook_resid_post(self.norm2(mid + self.dropout(self.hook_mlp_out(out))))

    def weight(self, name: str) -> Float[Tensor, "head ..."]:
        """One attention weight of all heads, acting on the right of a row vector.

        Parameters
        ----------
        name
            ``W_Q``, ``W_K`` or ``W_V`` (head, d_model, d_head), ``W_O`` (head, d_head, d_model), or ``b_Q``, ``b_K`` or ``b_V``
            (head, d_head).

        Raises
        ------
        HookError
            If it is none of these.
        """
        if name not in ATTENTION_WEIGHTS:
            raise HookError(unknown_name("attention weight", name, ATTENTION_WEIGHTS))
        return getattr(self.attn, name)
