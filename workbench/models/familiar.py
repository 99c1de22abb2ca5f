"""What users of transformer-lens type first: a model's own names for reading, tokenising and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformer_lens import HookedRootModule

from workbench.errors import CheckpointError, VocabularyError, unknown_name
from workbench.models.protocol import ModelShape
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    from anndata import AnnData

    from workbench.models.protocol import CellTokenizer

# Not `typing.Self`, which the shape checks of the tests do not take on single methods.
Model = TypeVar("Model", bound="Familiar")


class Familiar(HookedRootModule):
    """Base of `HookedModel`."""

    config: ModelShape
    vocabulary: Vocabulary
    architecture: str

    @classmethod
    def from_pretrained(cls: type[Model], path: str | Path, **options: Any) -> Model:
        """Read a checkpoint folder.

        Parameters
        ----------
        path
            Folder, as `workbench.load_model` takes it.
        **options
            ``device`` and ``dtype``, as there.

        Raises
        ------
        CheckpointError
            If the folder holds a model of another kind.
        """
        from workbench.models.load import load_model

        model = load_model(path, **options)
        if not isinstance(model, cls):
            raise CheckpointError(
                f"'{path}' holds a {model.architecture}, no {cls.__name__}; use workbench.load_model."
            )
        return model

    @property
    def cfg(self) -> ModelShape:
        """The configuration, under transformer-lens's name."""
        return self.config

    def tokenizer(
        self, cells: Any, *, seed: int = 0, max_tokens: int | None = None, min_gene_share: float | None = None
    ) -> CellTokenizer:
        """See `CellModel.tokenizer`."""
        raise NotImplementedError

    def to_tokens(
        self,
        cells: AnnData | Tokens,
        *,
        seed: int = 0,
        max_tokens: int | None = None,
        min_gene_share: float | None = None,
    ) -> Tokens:
        """Tokens of all cells at once, on the processor; for many cells take batches of `tokenizer`.

        Parameters
        ----------
        cells
            AnnData, as `workbench.load` gives it or as it was read; tokens are given back as they are.
        seed, max_tokens, min_gene_share
            As in `tokenizer`.
        """
        if isinstance(cells, Tokens):
            return cells
        return self.tokenizer(cells, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share).tokens()

    def to_str_tokens(self, cells: AnnData | Tokens, padding: str = "<pad>") -> list[list[str]]:
        """Gene symbols of all positions, a list for each cell.

        Parameters
        ----------
        cells
            A few cells or their tokens, as `to_tokens` takes them.
        padding
            What stands where a cell has no further gene.
        """
        tokens = self.to_tokens(cells)
        ids = torch.where(tokens.padding, -1, tokens.gene_ids).tolist()
        return [[padding if i < 0 else self.vocabulary.token(i) for i in row] for row in ids]

    def to_single_token(self, gene: str) -> int:
        """Token id of a gene symbol.

        Parameters
        ----------
        gene
            Symbol in the vocabulary's spelling, or a special token such as ``<cls>``.

        Raises
        ------
        VocabularyError
            If the vocabulary does not have it; near matches are listed.
        """
        if gene not in self.vocabulary:
            raise VocabularyError(unknown_name("gene", gene, self.vocabulary.ids))
        return self.vocabulary.ids[gene]
