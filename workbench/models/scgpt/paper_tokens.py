"""Cells as the operators of arXiv:2603.10261 were most likely made of them: an input that scGPT was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from anndata import AnnData

from workbench.cells.expression import Logged
from workbench.errors import CellsError, CheckpointError, GeneMatchError
from workbench.files import digest
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary

_PAD_VALUE = 0.0


class PaperTokenizer(Tokenizer):
    """Tokens of the convention ``paper``: for operators only.

    A cell is restricted to the panel. Genes without expression are left out, the others are sorted by expression, the highest
    first and ties in the order of the panel. Values are log1p of counts per 10,000 over all genes, and no bins. There is no
    ``<cls>``, and padding has the value 0. The order changes nothing but which genes are cut, where there are more than fit.
    Source: the per-head export of Biodyn-AI/specialization-atlas at 058cb3c, as described in docs/conventions.md.

    Parameters
    ----------
    adata, config, vocabulary
        As in `Tokenizer`.
    panel
        Genes that cells are restricted to, in the vocabulary's spelling, each once.
    **more
        Further arguments of `Tokenizer`; the seed changes nothing, because nothing is drawn.

    Raises
    ------
    CheckpointError
        If the checkpoint takes no unbinned value, or is a perturbation fine-tune, whose values are not binned anyway.
    GeneMatchError
        If a gene of the panel is not measured or not in the vocabulary, or is named twice.
    """

    def __init__(
        self, adata: AnnData, config: ModelConfig, vocabulary: Vocabulary, panel: Sequence[str], **more: Any
    ) -> None:
        if config.perturbation or config.value_style == "category":
            kind = "a perturbation fine-tune" if config.perturbation else "of the value style 'category'"
            raise CheckpointError(
                f"The convention 'paper' feeds unbinned values in the place of bins, and the checkpoint is {kind}; use "
                "capture.convention: scgpt."
            )
        super().__init__(adata, config, vocabulary, **more)
        known = set(self.match.genes)
        absent = [gene for gene in panel if gene not in known]
        if absent or len(set(panel)) < len(panel) or not panel:
            found = (
                f"{len(absent)} of its {len(panel)} genes are not (first: {absent[0]})" if absent else "it is not so"
            )
            raise GeneMatchError(
                f"The panel of the convention 'paper' needs genes that are measured and in the vocabulary, each once; {found}. "
                "Make it with choose_panel."
            )
        self.panel = tuple(panel)
        self._ids = vocabulary.encode(self.panel)
        self._logged = Logged(adata, self.match, self.panel)

    def lengths(self) -> np.ndarray:
        """Tokens of each cell.

        Returns
        -------
        ndarray of int64, shape (cell,)
        """
        step, n = 512, len(self)
        blocks = [np.diff(self._matched(at, min(at + step, n)).indptr) for at in range(0, n, step)]
        return np.minimum(np.concatenate(blocks), self.max_tokens).astype(np.int64)

    def tokens(self, start: int = 0, stop: int | None = None) -> Tokens:
        """Tokens of consecutive cells, without ``<cls>``.

        Parameters
        ----------
        start, stop
            Row range; all cells by default.

        Raises
        ------
        CellsError
            If a cell expresses no gene of the panel, or there is no cell.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        if stop <= start:
            raise CellsError(f"Rows {start} to {stop} hold no cell; check the selection.")
        block, names = self._matched(start, stop), self._cell_ids[start:stop]
        n = np.diff(block.indptr)
        if (n == 0).any():
            raise CellsError(
                f"{int((n == 0).sum())} cells express no gene of the panel (first: '{names[n == 0][0]}'), so they have no token "
                "under the convention 'paper'; leave them out, or take a larger panel."
            )
        shape = (len(names), min(int(n.max()), self.max_tokens))
        ids = np.full(shape, self.vocabulary.pad_id, dtype=np.int64)
        values, padding = np.full(shape, _PAD_VALUE, dtype=np.float32), np.ones(shape, dtype=np.bool_)
        for row, (first, last) in enumerate(zip(block.indptr, block.indptr[1:], strict=False)):
            columns, own = block.indices[first:last], block.data[first:last]
            order = np.lexsort((columns, -own))[: shape[1]]
            ids[row, : len(order)], values[row, : len(order)] = self._ids[columns[order]], own[order]
            padding[row, : len(order)] = False
        gene_ids, shown, absent = (torch.from_numpy(array) for array in (ids, values, padding))
        labels = None if self._labels is None else torch.from_numpy(self._labels[start:stop].copy())
        return Tokens(gene_ids, shown, absent, tuple(names.tolist()), labels, without_cls=True)

    def fingerprint(self) -> str:
        """Hash of what decides the tokens, which no other convention has.

        Returns
        -------
        str
            32 hex digits.
        """
        return digest("paper", list(self.panel), super().fingerprint())

    def _matched(self, start: int, stop: int) -> Any:
        """Log-normalised expression of some cells on the panel, without zeros."""
        block = self._logged.rows(start, stop)
        block.eliminate_zeros()
        return block
