"""What the package asks of a model of cells, so that a second architecture needs no other change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.models.outputs import Outputs
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

    from workbench.cells.genes import GeneMatch
    from workbench.cells.values import ValuesReport
    from workbench.models.load import LoadReport


@dataclass(frozen=True)
class ModelShape:
    """What the package reads from a model's configuration; an architecture adds its own fields.

    Attributes
    ----------
    n_tokens
        Rows of the gene embedding (vocabulary size).
    d_model, n_layers, n_heads, d_mlp
        Width, depth, heads per layer and feed-forward width.
    cell_style
        How the cell embedding is made; ``cls``: position 0 of the last stream, from which all but ``expression`` is decoded.
    mask_value
        Value that stands for a masked gene.
    """

    n_tokens: int
    d_model: int
    n_layers: int
    n_heads: int
    d_mlp: int
    cell_style: str = "cls"
    mask_value: float = -1.0

    @property
    def d_head(self) -> int:
        """Width of one head, ``d_model / n_heads``."""
        return self.d_model // self.n_heads

    @property
    def d_vocab(self) -> int:
        """Rows of the gene embedding, under transformer-lens's name."""
        return self.n_tokens

    def facts(self) -> dict[str, str]:
        """Further lines of ``workbench inspect``, by their first word."""
        return {}


@runtime_checkable
class Block(Protocol):
    """One layer that can be run in parts; ``after_mlp`` of the last part is the next layer's input.

    ``z = mix(x)``, ``out = project(z)``, ``mid = after_attention(x, out)``, ``mlp = feed_forward(mid)`` and
    ``after_mlp(mid, mlp)``. Norms and sums lie inside the parts: before a part in a pre-norm model, behind it in a
    post-norm one. Each part passes what it computes through the block's hook points.
    """

    def mix(
        self, x: Float[Tensor, "cell gene d_model"], padding: Bool[Tensor, "cell gene"] | None, keep: int | None = None
    ) -> Float[Tensor, "cell query head d_head"]:
        """Attention pattern times values, ``attn.hook_z``.

        Parameters
        ----------
        x
            Input of the block, all positions.
        padding
            True at padding, which is never a key; None when the batch has none.
        keep
            Compute the first so many queries only; None for all.
        """

    def pattern(
        self,
        q: Float[Tensor, "cell query head d_head"],
        k: Float[Tensor, "cell key head d_head"],
        padding: Bool[Tensor, "cell key"] | None,
    ) -> Float[Tensor, "cell head query key"]:
        """Attention pattern of some queries over all keys, as ``attn.hook_pattern`` of an unhooked model has it.

        Parameters
        ----------
        q, k
            What ``attn.hook_q`` (all positions or some) and ``attn.hook_k`` (all positions) see.
        padding
            True at padding, which is never a key; None when the batch has none.
        """

    def project(self, z: Float[Tensor, "cell query head d_head"]) -> Float[Tensor, "cell query d_model"]:
        """Sum over heads of what each writes, with the output bias: ``hook_attn_out``.

        Parameters
        ----------
        z
            What `mix` gave, as it was or edited.
        """

    def after_attention(
        self, x: Float[Tensor, "cell query d_model"], out: Float[Tensor, "cell query d_model"]
    ) -> Float[Tensor, "cell query d_model"]:
        """Residual stream between attention and MLP, ``hook_resid_mid``.

        Parameters
        ----------
        x
            Input of the block at the positions of `out`.
        out
            What `project` gave, as it was or edited.
        """

    def feed_forward(self, mid: Float[Tensor, "cell query d_model"]) -> Float[Tensor, "cell query d_model"]:
        """What the MLP adds, ``hook_mlp_out``; each position by itself.

        Parameters
        ----------
        mid
            Stream that `after_attention` gave, possibly its first positions.
        """

    def after_mlp(
        self, mid: Float[Tensor, "cell query d_model"], out: Float[Tensor, "cell query d_model"]
    ) -> Float[Tensor, "cell query d_model"]:
        """Output of the block, ``hook_resid_post``.

        Parameters
        ----------
        mid
            Stream between attention and MLP, from `after_attention`.
        out
            What `feed_forward` gave, as it was or edited.
        """

    def weight(self, name: str) -> Float[Tensor, "head ..."]:
        """One attention weight of all heads, acting on the right of a row vector.

        Parameters
        ----------
        name
            ``W_Q``, ``W_K`` or ``W_V`` (head, d_model, d_head), ``W_O`` (head, d_head, d_model) or ``b_Q``
            (head, d_head).
        """


@runtime_checkable
class CellTokenizer(Protocol):
    """Cells of one data set as a model reads them; what a cell becomes depends on seed, name and values only."""

    @property
    def match(self) -> GeneMatch:
        """Which genes of the data are used, and which are not."""

    @property
    def values(self) -> ValuesReport:
        """What the values of the data look like."""

    def __len__(self) -> int:
        """Number of cells."""

    def lengths(self) -> np.ndarray:
        """Tokens of each cell, ``<cls>`` included: int64, (cell,)."""

    def tokens(self, start: int = 0, stop: int | None = None) -> Tokens:
        """Tokens of consecutive cells, padded to the longest of them.

        Parameters
        ----------
        start, stop
            Row range; all cells by default.
        """

    def batches(self, size: int = 32, start: int = 0, stop: int | None = None) -> Iterator[Tokens]:
        """Batches of consecutive cells.

        Parameters
        ----------
        size
            Cells per batch; the last one may hold fewer.
        start, stop
            Row range; all cells by default.
        """

    def fingerprint(self) -> str:
        """Hash of everything that decides the tokens."""


@runtime_checkable
class CellModel(Protocol):
    """A hooked transformer over the genes of a cell. Subclass `HookedModel`, which gives most of this.

    Hook points carry these names, whose axes `hook_shape` knows; an architecture may have more: ``hook_cell`` and, of
    each layer L, ``blocks.L.`` with ``hook_resid_pre``, ``attn.hook_q``, ``attn.hook_k``, ``attn.hook_v``,
    ``attn.hook_scores``, ``attn.hook_pattern``, ``attn.hook_z``, ``hook_attn_out``, ``hook_resid_mid``,
    ``hook_mlp_out`` and ``hook_resid_post``. Position 0 of a cell is ``<cls>``, which is no gene; `Tokens.genes` is the
    mask of those.

    It is a `torch.nn.Module` in evaluation mode. ``<cls>`` and genes have no order: position must mean nothing.
    """

    @property
    def architecture(self) -> str:
        """Name of the architecture, for titles."""

    @property
    def config(self) -> ModelShape:
        """Shape of the model; a frozen dataclass."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Gene symbols and their token ids."""

    @property
    def report(self) -> LoadReport | None:
        """How it was read; None for a model that was made in memory."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""

    @property
    def dtype(self) -> torch.dtype:
        """Float type of the weights."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Which outputs of `forward` it can compute: ``cell`` and those that it has a decoder for."""

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by name, in the order of computation."""

    def fingerprint(self) -> str:
        """Hash of the shape and of every weight, the same on every machine."""

    def untrained(self, seed: int) -> CellModel:
        """A model of the same shape and vocabulary with weights as before training.

        Parameters
        ----------
        seed
            Seed of the weights; the caller's random numbers stay as they were.
        """

    def tokenizer(
        self,
        cells: AnnData,
        *,
        seed: int = 0,
        max_tokens: int | None = None,
        min_gene_share: float | None = None,
        panel: Sequence[str] | None = None,
    ) -> CellTokenizer:
        """Tokens of cells for this model.

        Parameters
        ----------
        cells
            As `workbench.load` returns them; never changed.
        seed
            Of whatever is drawn, together with the cell's name.
        max_tokens
            Longest sequence with ``<cls>``; the checkpoint's own when None.
        min_gene_share
            Smallest share of the cells' genes that must be in the vocabulary; 30 % when None.
        panel
            Genes of the convention ``paper`` (docs/conventions.md); None for the model's own input.
        """

    def to_tokens(
        self,
        cells: AnnData | Tokens,
        *,
        seed: int = 0,
        max_tokens: int | None = None,
        min_gene_share: float | None = None,
    ) -> Tokens:
        """Tokens of all cells at once; tokens are given back as they are.

        Parameters
        ----------
        cells
            A few cells, as `tokenizer` takes them, or tokens.
        seed, max_tokens, min_gene_share
            As in `tokenizer`.
        """

    def gene_embedding(self, ids: Int[Tensor, " gene"]) -> Float[Tensor, "gene d_model"]:
        """What a gene enters the model as, before its value is added.

        Parameters
        ----------
        ids
            Token ids of genes, on the model's device.
        """

    def block(self, layer: int) -> Block:
        """One layer.

        Parameters
        ----------
        layer
            Number of the layer, from 0.
        """

    def __call__(self, tokens: Tokens, **options: Any) -> Outputs:
        """Run the model, hooks included; options as of `forward`.

        Parameters
        ----------
        tokens
            A batch of cells, on any device.
        **options
            Keyword arguments of `forward`, with its defaults.
        """

    def forward(
        self,
        tokens: Tokens,
        *,
        outputs: Sequence[str] = ("cell",),
        start_at_layer: int = 0,
        stop_at_layer: int | None = None,
        residual: Float[Tensor, "cell gene d_model"] | None = None,
    ) -> Outputs:
        """Run all layers or some of them.

        Parameters
        ----------
        tokens
            A batch, moved to the model's device and float type where it is of another.
        outputs
            What to compute after the last layer.
        start_at_layer
            First layer to run; above 0, `residual` is that layer's input.
        stop_at_layer
            Stop before this layer and return its input as ``Outputs.residual``; 0 gives the embedding.
        residual
            Residual stream to start from.
        """

    def decode(self, x: Float[Tensor, "cell gene d_model"], tokens: Tokens, outputs: Sequence[str]) -> Outputs:
        """What comes after the last layer.

        Parameters
        ----------
        x
            Last residual stream; position 0 is enough where `ModelShape.cell_style` says so.
        tokens
            The batch, on the model's device.
        outputs
            As in `forward`.
        """

    def resolve_hooks(self, names: str | Sequence[str]) -> tuple[str, ...]:
        """Names of hook points, with shell wildcards expanded, in the order of computation.

        Parameters
        ----------
        names
            Exact names or shell patterns; an error where one matches nothing.
        """

    def hooks(self, fwd_hooks: list[tuple[str | Callable, Callable]]) -> AbstractContextManager[Any]:
        """Attach hooks for the length of a ``with`` block.

        Parameters
        ----------
        fwd_hooks
            Pairs of a name or wildcard and ``function(tensor, hook=...)``.
        """

    def run_with_cache(self, *args: Any, **options: Any) -> tuple[Any, Any]:
        """Outputs of a pass, and activations by hook name, as in transformer-lens.

        Parameters
        ----------
        *args
            The tokens, as `forward` takes them.
        **options
            ``names_filter``, and those of `forward`.
        """

    def modules(self) -> Iterator[nn.Module]:
        """All parts, itself included, as in PyTorch."""
