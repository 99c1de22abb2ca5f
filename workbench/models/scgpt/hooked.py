"""scGPT with a hook point on everything it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.errors import ShapeError, unknown_name
from workbench.models.hooking import HookedModel
from workbench.models.outputs import OUTPUTS, Outputs, pool
from workbench.models.protocol import CellTokenizer
from workbench.models.scgpt.components import Block
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.decoders import ClassDecoder, MVCDecoder
from workbench.models.scgpt.embedding import Embed, NormedEmbedding
from workbench.models.scgpt.matrices import Matrices
from workbench.models.scgpt.parts import make_parts
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

    from workbench.models.load import LoadReport


class HookedScGPT(Matrices, HookedModel):
    """scGPT's transformer, hooked; the arithmetic is upstream's `TransformerModel` in evaluation mode.

    Parameters
    ----------
    config
        Shape of the model, and which decoders it has.
    vocabulary
        Tokens with their rows of the gene embedding.
    report
        How it was read, when it was read from a checkpoint.

    Notes
    -----
    ================================  ================================  =============================================
    Hook                              Shape                             Where it sits
    ================================  ================================  =============================================
    ``embed.hook_gene``               cell, gene, d_model               after the gene encoder's LayerNorm
    ``embed.hook_value``              cell, gene, d_model               after the value encoder's LayerNorm
                                                                        (cell, gene, 1: the value, when ``scaling``)
    ``blocks.L.hook_resid_pre``       cell, gene, d_model               input of block L: after norm2 of block L-1,
                                                                        in block 0 the sum of gene and value
    ``blocks.L.attn.hook_q|k|v``      cell, gene, head, d_head          with bias; q is not yet scaled
    ``blocks.L.attn.hook_scores``     cell, head, query, key            scaled, -inf where the key is padding
    ``blocks.L.attn.hook_pattern``    cell, head, query, key            after softmax; rows sum to 1
    ``blocks.L.attn.hook_z``          cell, query, head, d_head         pattern times v
    ``blocks.L.attn.hook_result``     cell, query, head, d_model        z through W_O, without the output bias
    ``blocks.L.hook_attn_out``        cell, gene, d_model               with output bias, before the sum and norm1
    ``blocks.L.hook_resid_mid``       cell, gene, d_model               after the sum and norm1
    ``blocks.L.mlp.hook_pre|post``    cell, gene, d_mlp                 before and after the ReLU
    ``blocks.L.hook_mlp_out``         cell, gene, d_model               before the sum and norm2
    ``blocks.L.hook_resid_post``      cell, gene, d_model               after the sum and norm2
    ``hook_cell``                     cell, d_model                     cell embedding, not normalised
    ================================  ================================  =============================================

    A row of ``pattern`` at a padding query is computed but means nothing; nothing else attends to it. Scores, pattern and
    result are computed where somebody listens, see `use_pattern`.
    """

    architecture = "scGPT"
    config: ModelConfig
    embed: Embed
    blocks: nn.ModuleList
    batch_encoder: NormedEmbedding | None
    decoder: nn.Module | None
    mvc_decoder: MVCDecoder | None
    cls_decoder: ClassDecoder | None
    hook_cell: nn.Module

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, report: LoadReport | None = None) -> None:
        super().__init__(config, vocabulary, report)
        for name, part in make_parts(config, vocabulary.ids[config.pad_token]).items():
            setattr(self, name, part)
        self.setup()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs that the checkpoint has the decoders for, of ``cell``, ``expression``, ``mvc`` and ``classes``."""
        absent: dict[str, Any] = {"expression": self.decoder, "mvc": self.mvc_decoder, "classes": self.cls_decoder}
        if self._without_cell:
            absent |= dict.fromkeys(("cell", "mvc", "classes"))
        return tuple(name for name in OUTPUTS if absent.get(name, self) is not None)

    @property
    def _without_cell(self) -> bool:
        """Whether the cell embedding would be that of ``<cls>``, which perturbation fine-tunes do not have."""
        return self.config.perturbation and self.config.cell_style == "cls"

    def use_pattern(self, on: bool = True) -> None:
        """Compute scores, pattern and each head's result in every pass, or only where somebody listens to them.

        For libraries whose listeners PyTorch does not know of, such as nnsight. Results differ by float rounding only; a
        pass takes more time and memory.

        Parameters
        ----------
        on
            False for the fused path again, which the model has at first.
        """
        for layer in range(self.config.n_layers):
            self.block(layer).attn.eager = on

    def tokenizer(
        self,
        cells: Any,
        *,
        seed: int = 0,
        max_tokens: int | None = None,
        min_gene_share: float | None = None,
        panel: Sequence[str] | None = None,
    ) -> CellTokenizer:
        """Tokens of cells for this checkpoint.

        Parameters
        ----------
        cells
            AnnData as `workbench.load` returns it; never changed. A column ``batch`` of ``obs``, where there is one, holds
            the batches, see `batch_table`.
        seed
            For the ties of the binning and the sample of genes, together with the cell's name.
        max_tokens
            Longest sequence with ``<cls>``; the checkpoint's own when None.
        min_gene_share
            Smallest share of the genes that must be in the vocabulary; `MIN_SHARE` when None.
        panel
            Genes of the convention ``paper``, which restricts cells to them (`PaperTokenizer`); None for scGPT's own input.

        Returns
        -------
        Tokenizer
            With ``match`` (which genes are used) and ``values`` (what the values look like).

        Raises
        ------
        CellsError
            For no cells, repeated cell names, impossible values or batches that are no numbers.
        GeneMatchError
            If too few genes match.
        CheckpointError
            If the checkpoint was not trained on binned values.
        """
        # A checkpoint can be read where anndata and numba cannot be imported, as `workbench doctor` does.
        from workbench.cells.formats import check_anndata
        from workbench.models.scgpt.paper_tokens import PaperTokenizer
        from workbench.models.scgpt.tokenizer import MIN_SHARE, Tokenizer

        check_anndata(cells)
        given: dict[str, Any] = {
            "seed": seed,
            "max_tokens": max_tokens,
            "batch_column": "batch" if "batch" in cells.obs else None,
            "min_gene_share": MIN_SHARE if min_gene_share is None else min_gene_share,
        }
        if panel is not None:
            return PaperTokenizer(cells, self.config, self.vocabulary, panel, **given)
        return Tokenizer(cells, self.config, self.vocabulary, **given)

    def gene_embedding(self, ids: Int[Tensor, " gene"]) -> Float[Tensor, "gene d_model"]:
        """Embedding of genes after the gene encoder's LayerNorm.

        Parameters
        ----------
        ids
            Token ids of genes, on the model's device.
        """
        return self.embed.gene(ids)

    def block(self, layer: int) -> Block:
        """One encoder layer.

        Parameters
        ----------
        layer
            Number of the layer, from 0.
        """
        return cast(Block, self.blocks[layer])

    def forward(
        self,
        tokens: Tokens | AnnData,
        *,
        outputs: Sequence[str] = ("cell",),
        start_at_layer: int = 0,
        stop_at_layer: int | None = None,
        residual: Float[Tensor, "cell gene d_model"] | None = None,
    ) -> Outputs:
        """Run the model.

        Parameters
        ----------
        tokens
            A batch of cells: tokens, moved to the model's device and float type where they are of another, or an AnnData of a
            few cells.
        outputs
            What to compute after the last block, of ``cell``, ``expression``, ``mvc`` and ``classes``.
        start_at_layer
            First block to run; above 0, `residual` must be that block's ``hook_resid_pre``.
        stop_at_layer
            Stop before this block and return its input as ``Outputs.residual``; nothing else is computed.
        residual
            Residual stream to start from; with `start_at_layer` 0 it replaces the embedding.

        Returns
        -------
        Outputs

        Raises
        ------
        ShapeError
            If ids lie outside the vocabulary, shapes do not fit, or batch labels are needed and absent.
        """
        n_layers = self.config.n_layers
        stop = n_layers if stop_at_layer is None else stop_at_layer
        if not 0 <= start_at_layer <= stop <= n_layers:
            raise ShapeError(
                f"start_at_layer {start_at_layer} and stop_at_layer {stop_at_layer} do not fit the model's {n_layers} "
                "layers: 0 <= start <= stop <= layers."
            )
        for name in outputs:
            if name not in OUTPUTS:
                raise ShapeError(unknown_name("output", name, OUTPUTS))
        tokens = self.to_tokens(tokens)
        self._check_tokens(tokens)
        padded = tokens.facts.padded
        tokens = tokens.to(self.device, self.dtype)
        padding = tokens.padding if padded else None
        if residual is None:
            if start_at_layer:
                raise ShapeError(
                    f"start_at_layer={start_at_layer} needs `residual`, the hook_resid_pre of that block; pass it."
                )
            x = self.embed(tokens.gene_ids, tokens.values, tokens.batch_labels, tokens.flags)
        else:
            expected = (*tokens.gene_ids.shape, self.config.d_model)
            if tuple(residual.shape) != expected:
                raise ShapeError(f"The residual has shape {tuple(residual.shape)}, but the tokens ask for {expected}.")
            x = residual.to(self.device, self.dtype)
        for block in list(self.blocks)[start_at_layer:stop]:
            x = block(x, padding)
        if stop_at_layer is not None:
            return Outputs(residual=x)
        return self.decode(x, tokens, outputs)

    def decode(self, x: Float[Tensor, "cell gene d_model"], tokens: Tokens, outputs: Sequence[str]) -> Outputs:
        """What comes after the last block.

        Parameters
        ----------
        x
            Last residual stream. Without ``expression`` among the outputs, and with cell style ``cls``, its first
            position is enough.
        tokens
            Batch that the stream is of, on the model's device.
        outputs
            As in `forward`.
        """
        batch, wanted = None, frozenset(outputs)
        if self.batch_encoder is not None:
            batch = self.batch_encoder(tokens.batch_labels)
        found: dict[str, Tensor | None] = {}
        cell = x[:, 0]
        if wanted & {"cell", "mvc", "classes"}:
            if tokens.without_cls:
                raise ShapeError(
                    "These tokens are of the convention 'paper', which is for operators only: unbinned values and no <cls>. scGPT was not "
                    "trained to embed such cells. Use scGPT's own input (capture.convention: scgpt)."
                )
            if self._without_cell:
                raise ShapeError(
                    "A perturbation fine-tune has no <cls> and so no cell embedding; ask for outputs=('expression',), or say "
                    "cell_emb_style: avg-pool in args.json."
                )
            found["cell"] = cell = self.hook_cell(self.pool(x, tokens.values, tokens.padding))
        if "expression" in wanted:
            decoder = self._need(self.decoder, "expression")
            stream = x if batch is None else torch.cat([x, batch[:, None].expand(-1, x.shape[1], -1)], dim=2)
            more = (tokens.values,) if self.config.perturbation else ()
            found["expression"], found["expression_zero"] = decoder(stream, *more)
        if "mvc" in wanted:
            decoder = self._need(self.mvc_decoder, "mvc")
            query = cell if batch is None else torch.cat([cell, batch], dim=1)
            found["mvc"], found["mvc_zero"] = decoder(query, self.embed.gene(tokens.gene_ids))
        if "classes" in wanted:
            found["classes"] = self._need(self.cls_decoder, "classes")(cell)
        return Outputs(residual=x, **found)

    def _need(self, decoder: nn.Module | None, name: str) -> nn.Module:
        if decoder is None:
            raise ShapeError(
                f"The checkpoint holds no decoder for '{name}'; ask for other outputs or another checkpoint."
            )
        return decoder

    def pool(
        self,
        x: Float[Tensor, "cell gene d_model"],
        values: Float[Tensor, "cell gene"],
        padding: Bool[Tensor, "cell gene"],
    ) -> Float[Tensor, "cell d_model"]:
        """Cell embedding from the last residual stream, in the checkpoint's cell style.

        Parameters
        ----------
        x, values, padding
            As in `workbench.models.outputs.pool`.
        """
        return pool(x, values, padding, self.config.cell_style)

    def _check_tokens(self, tokens: Tokens) -> None:
        if not tokens.gene_ids.numel():
            raise ShapeError("There are no tokens to run on: the batch is empty. Check the selection of cells.")
        facts = tokens.facts
        low, high = facts.lowest, facts.highest
        if low < 0 or high >= self.config.n_tokens:
            raise ShapeError(
                f"Token ids go from {low} to {high}, but the embedding has {self.config.n_tokens} rows; "
                "tokenise with this checkpoint's own vocabulary."
            )
        if self.config.perturbation != (tokens.flags is not None):
            raise ShapeError(
                "A perturbation fine-tune needs Tokens.flags, which say for each gene whether it is perturbed, and other checkpoints "
                "take none. Tokenise with this checkpoint's own tokeniser."
            )
        if facts.starts_padded:
            raise ShapeError("A cell has padding at position 0, where <cls> belongs; put padding at the end.")
        n_labels = max(self.config.n_batches, self.config.norm_domains if self.config.norm_domains > 1 else 0)
        if n_labels:
            labels = tokens.batch_labels
            if labels is None or facts.labels is None or facts.labels[0] < 0 or facts.labels[1] >= n_labels:
                raise ShapeError(
                    f"This checkpoint was trained with {n_labels} batches: tokens need batch_labels from 0 to "
                    f"{n_labels - 1} (found {'none' if labels is None else sorted(set(labels.tolist()))})."
                )
