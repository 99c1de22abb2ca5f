"""From cells to tokens: gene ids, per-cell quantile bins, and a keyed sample of genes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData

from workbench.cells.genes import MIN_SHARE, GeneMatch, gene_names, match_genes
from workbench.cells.matrix import ValuesReport, check_block, describe_values, row_block
from workbench.errors import CellsError, CheckpointError
from workbench.files import digest
from workbench.models.scgpt.binning import hash_genes, token_rows
from workbench.models.scgpt.config import ModelConfig
from workbench.models.tokens import Tokens
from workbench.models.vocabulary import Vocabulary
from workbench.seeds import key

_BLOCK = 512
_WORKERS = 2


class Tokenizer:
    """Tokens of a dataset's cells for one checkpoint.

    What a cell becomes depends on the seed, its name and its values only, never on batch, order or worker.

    Parameters
    ----------
    adata
        Cells; read row by row, never changed and never made dense as a whole. Backed files work.
    config, vocabulary
        Configuration and vocabulary of the checkpoint.
    seed
        For the ties of the binning and the sample of genes.
    max_tokens
        Longest sequence with ``<cls>``; None for the checkpoint's own.
    gene_column
        Column of ``adata.var`` with gene symbols; None for the index.
    batch_column
        Column of ``adata.obs`` with the checkpoint's batch index, for checkpoints that need one.
    min_share
        Smallest share of genes that must be in the vocabulary.

    Attributes
    ----------
    match
        `GeneMatch`: which genes are used, which are not.
    values
        `ValuesReport`: what the values look like. Binning by quantiles makes counts, normalised and logged values
        equal up to ties, so all three are taken.

    Raises
    ------
    CellsError
        For no cells, repeated cell names, or impossible values.
    GeneMatchError
        If too few genes match.
    CheckpointError
        If the checkpoint was not trained on binned values.
    """

    def __init__(
        self,
        adata: AnnData,
        config: ModelConfig,
        vocabulary: Vocabulary,
        *,
        seed: int = 0,
        max_tokens: int | None = None,
        gene_column: str | None = None,
        batch_column: str | None = None,
        min_share: float = MIN_SHARE,
    ) -> None:
        if config.input_style != "binned":
            raise CheckpointError(
                f"The checkpoint was trained on input_style '{config.input_style}'; only binned input can be tokenised, "
                "because feeding a model values it was not trained on gives numbers that mean nothing."
            )
        if adata.shape[0] == 0:
            raise CellsError("The selection holds no cell; check the filter that made it.")
        if not adata.obs_names.is_unique:
            twice = adata.obs_names[adata.obs_names.duplicated()][0]
            raise CellsError(
                f"Cell names must be unique because they key the random numbers; '{twice}' occurs more than once. "
                "Call adata.obs_names_make_unique() on your copy."
            )
        self.adata, self.config, self.vocabulary, self.seed = adata, config, vocabulary, seed
        self.max_tokens = config.max_tokens if max_tokens is None else max_tokens
        if self.max_tokens < 2:
            raise CellsError(f"max_tokens is {self.max_tokens}; at least <cls> and one gene are needed.")
        self.match: GeneMatch = match_genes(gene_names(adata, gene_column), vocabulary, min_share)
        self.values: ValuesReport = describe_values(adata.X)
        self._ids = vocabulary.encode(self.match.genes)
        self._hashes = hash_genes(self._ids)
        self._cell_ids = adata.obs_names.to_numpy(dtype=str)
        self._labels: np.ndarray | None = None
        if batch_column is not None:
            if batch_column not in adata.obs:
                raise CellsError(
                    f"The cells have no batch column '{batch_column}' in obs; it holds {list(adata.obs.columns)}."
                )
            try:
                self._labels = adata.obs[batch_column].to_numpy(dtype=np.int64)
            except (TypeError, ValueError) as error:
                raise CellsError(
                    f"The batch column '{batch_column}' must hold the checkpoint's batch numbers, from 0 ({error}); "
                    "number the batches as they were when the checkpoint was trained."
                ) from error
        column = np.full(adata.shape[1], -1, dtype=np.int64)
        column[self.match.columns] = np.arange(len(self.match.columns))
        self._column = column

    def __len__(self) -> int:
        return self.adata.shape[0]

    def lengths(self) -> np.ndarray:
        """Tokens of each cell, with ``<cls>``.

        Returns
        -------
        ndarray of int64, shape (cell,)
        """
        parts = [
            np.diff(self._matched(start, min(start + _BLOCK, len(self))).indptr)
            for start in range(0, len(self), _BLOCK)
        ]
        return np.minimum(np.concatenate(parts) + 1, self.max_tokens)

    def tokens(self, start: int = 0, stop: int | None = None) -> Tokens:
        """Tokens of consecutive cells.

        Parameters
        ----------
        start, stop
            Row range; all cells by default.

        Returns
        -------
        Tokens
            Padded to the longest of them; genes in matrix order.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        if stop <= start:
            raise CellsError(f"Rows {start} to {stop} hold no cell; check the selection.")
        block = self._matched(start, stop)
        cell_ids = self._cell_ids[start:stop]
        check_block(block, cell_ids)
        arrays = tokenise_rows(
            block,
            self._ids,
            self._hashes,
            cell_ids,
            config=self.config,
            vocabulary=self.vocabulary,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        labels = None if self._labels is None else torch.from_numpy(self._labels[start:stop].copy())
        gene_ids, values, padding = (torch.from_numpy(array) for array in arrays)
        return Tokens(gene_ids, values, padding, tuple(cell_ids.tolist()), labels)

    def fingerprint(self) -> str:
        """Hash of what decides the tokens: settings, names, and the values of the first and last cells.

        Returns
        -------
        str
            32 hex digits.
        """
        ends = [self._matched(0, min(64, len(self))), self._matched(max(0, len(self) - 64), len(self))]
        values = [part for block in ends for part in (block.data.astype(np.float32), block.indices.astype(np.int64))]
        labels = None if self._labels is None else self._labels.tolist()
        settings = [self.seed, self.max_tokens, list(self.match.genes), self._cell_ids.tolist(), labels]
        return digest(settings, *values)

    def batches(self, size: int = 32, start: int = 0, stop: int | None = None) -> Iterator[Tokens]:
        """Batches of consecutive cells.

        Parameters
        ----------
        size
            Cells per batch; the last one may hold fewer.
        start, stop
            Row range; all cells by default.
        """
        stop = len(self) if stop is None else stop
        starts = iter(range(start, stop, size))
        # The compiled parts release the GIL, so the next batches are made while the caller uses this one.
        with ThreadPoolExecutor(_WORKERS) as pool:
            waiting = deque(pool.submit(self.tokens, at, min(at + size, stop)) for at in islice(starts, 2 * _WORKERS))
            while waiting:
                batch = waiting.popleft().result()
                waiting.extend(pool.submit(self.tokens, at, min(at + size, stop)) for at in islice(starts, 1))
                yield batch

    def _matched(self, start: int, stop: int) -> sp.csr_matrix:
        """Rows over the matched genes only."""
        block: Any = row_block(self.adata.X, start, stop)
        if len(self.match.columns) == self.adata.shape[1]:
            return block
        column = self._column[block.indices]
        keep = column >= 0
        indptr = np.concatenate([[0], np.cumsum(keep)])[block.indptr]
        return sp.csr_matrix((block.data[keep], column[keep], indptr), shape=(stop - start, len(self.match.columns)))


def tokenise_rows(
    block: sp.csr_matrix,
    column_ids: np.ndarray,
    column_hashes: np.ndarray,
    cell_ids: Any,
    *,
    config: ModelConfig,
    vocabulary: Vocabulary,
    max_tokens: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bin and sample the rows of a CSR block, pad them to one length, and put ``<cls>`` first.

    Parameters
    ----------
    block
        Values > 0 over the matched genes.
    column_ids
        Token id of each column.
    column_hashes
        What `hash_genes` gives for these ids.
    cell_ids
        Name of each row, which its random numbers go by.
    config, vocabulary
        Configuration and vocabulary of the checkpoint.
    max_tokens
        Longest sequence with ``<cls>``; of longer cells a sample of genes is taken.
    seed
        Seed of ties and samples, together with the names.

    Returns
    -------
    gene_ids, values, padding
        int64, float32 and bool, each (row, length).
    """
    keys = np.array([key(seed, "tokens", str(cell)) for cell in cell_ids], dtype=np.uint64)
    indptr, columns = block.indptr.astype(np.int64), block.indices
    data = np.ascontiguousarray(block.data, dtype=np.float32)
    shape = (len(keys), min(int(np.diff(indptr).max()), max_tokens - 1) + 1)
    gene_ids, values, padding = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.bool_)
    token_rows(
        data,
        indptr,
        columns,
        column_ids,
        column_hashes,
        keys,
        # n_bins counts "not expressed" as bin 0, so there are n_bins - 1 edges, from the smallest value to the largest.
        np.linspace(0, 1, config.n_bins - 1),
        vocabulary.cls_id,
        vocabulary.pad_id,
        np.float32(config.pad_value),
        gene_ids,
        values,
        padding,
    )
    return gene_ids, values, padding
