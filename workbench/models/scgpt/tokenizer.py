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

from workbench.cells.expression import adding_scale, on_genes
from workbench.cells.genes import MIN_SHARE, GeneMatch, gene_ids, gene_names, match_genes
from workbench.cells.matrix import check_block, row_block
from workbench.cells.scale import parse_values
from workbench.cells.values import ValuesReport, describe_values
from workbench.errors import CellsError, CheckpointError
from workbench.files import digest
from workbench.models.scgpt.batches import cell_rows
from workbench.models.scgpt.binning import bin_rows, first_fault, hash_genes, token_rows
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
        Column of ``adata.obs`` with batches, for checkpoints that need them; see `cell_rows`.
    min_gene_share
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
        min_gene_share: float = MIN_SHARE,
    ) -> None:
        if config.input_style != "binned" and not config.perturbation:
            raise CheckpointError(
                f"The checkpoint was trained on input_style '{config.input_style}'. Only binned input can be tokenised, "
                "because feeding a model values it was not trained on gives numbers that mean nothing."
            )
        if config.zero_probability and config.include_zeros is None and not config.perturbation:
            raise CheckpointError(
                "The checkpoint has decoders for the probability of a zero, as scGPT's fine-tuning on all genes gives them, and its "
                'args.json does not say whether genes without expression are tokens. Add "include_zero_gene": true where it was trained '
                "so (as scGPT's integration script does), else false."
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
        self.match: GeneMatch = match_genes(
            gene_names(adata, gene_column), vocabulary.genes, min_gene_share, gene_ids(adata)
        )
        self.values: ValuesReport = describe_values(adata.X)
        if config.perturbation:
            _check_logged(adata, self.values)
        self._scale = adding_scale(adata, self.values, self.match)
        self._ids = vocabulary.encode(self.match.genes)
        self._hashes = hash_genes(self._ids)
        self._cell_ids = adata.obs_names.to_numpy(dtype=str)
        self._labels = cell_rows(adata, batch_column, config.n_labels, config.batch_names)

    def __len__(self) -> int:
        return self.adata.shape[0]

    def lengths(self) -> np.ndarray:
        """Tokens of each cell, with ``<cls>``.

        Returns
        -------
        ndarray of int64, shape (cell,)
        """
        if self.config.perturbation or self.config.include_zeros:
            n = len(self._ids) + (not self.config.perturbation)
            return np.full(len(self), min(n, self.max_tokens), dtype=np.int64)
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
        flags = torch.zeros_like(gene_ids) if self.config.perturbation else None
        return Tokens(gene_ids, values, padding, tuple(cell_ids.tolist()), labels, flags)

    def fingerprint(self) -> str:
        """Hash of what decides the tokens: settings, names, and the values of all cells.

        Returns
        -------
        str
            32 hex digits.
        """
        blocks = (self._matched(at, min(at + _BLOCK, len(self))) for at in range(0, len(self), _BLOCK))
        values = [
            digest(block.data.astype(np.float32), block.indices.astype(np.int64), np.diff(block.indptr))
            for block in blocks
        ]
        labels = None if self._labels is None else self._labels.tolist()
        settings = [self.seed, self.max_tokens, list(self.match.genes), self._cell_ids.tolist(), labels]
        return digest(settings, values)

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
        """Rows over the matched genes only, columns of one gene added up."""
        block = row_block(self.adata.X, start, stop)
        return on_genes(block, self.match.place, len(self.match.genes), self._scale)


def _check_logged(cells: AnnData, found: ValuesReport) -> None:
    """Perturbation fine-tunes read values as they are, so these must be what they were trained on."""
    declared = cells.uns.get("workbench", {}).get("values")
    kind = found.kind if declared is None else parse_values(declared)[0]
    if kind != "log1p":
        raise CellsError(
            f"The checkpoint is a perturbation fine-tune, which reads log1p of normalised values without binning, and the values are "
            f"{declared or found}. Name a layer that holds log-normalised values (data.layer), as in training."
        )


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
    if config.perturbation:
        chosen = sample_columns(column_hashes, keys, min(block.shape[1], max_tokens))
        logged = np.take_along_axis(block.toarray().astype(np.float32), chosen, axis=1)
        return column_ids[chosen], logged, np.zeros(chosen.shape, np.bool_)
    indptr, columns = block.indptr.astype(np.int64), block.indices
    data = np.ascontiguousarray(block.data, dtype=np.float32)
    n_genes = block.shape[1] if config.include_zeros else int(np.diff(indptr).max())
    shape = (len(keys), min(n_genes, max_tokens - 1) + 1)
    gene_ids, values, padding = np.empty(shape, np.int64), np.empty(shape, np.float32), np.empty(shape, np.bool_)
    # n_bins counts "not expressed" as bin 0, so there are n_bins - 1 edges, from the smallest value to the largest.
    quantiles = np.linspace(0, 1, config.n_bins - 1)
    if config.include_zeros:
        bins = np.empty(len(data), np.float32)
        bin_rows(data, indptr, columns, column_hashes, keys, quantiles, bins)
        dense = sp.csr_matrix((bins, columns, indptr), shape=block.shape).toarray()
        chosen = sample_columns(column_hashes, keys, shape[1] - 1)
        gene_ids[:, 0], gene_ids[:, 1:] = vocabulary.cls_id, column_ids[chosen]
        values[:, 1:], padding[:] = np.take_along_axis(dense, chosen, axis=1), False
    else:
        token_rows(
            data,
            indptr,
            columns,
            column_ids,
            column_hashes,
            keys,
            quantiles,
            vocabulary.cls_id,
            vocabulary.pad_id,
            np.float32(config.pad_value),
            gene_ids,
            values,
            padding,
        )
    values[:, 0] = config.cls_value
    # A gene without expression has the bin 0, of which there is nothing to check.
    empty = padding | (values == 0)
    empty[:, 0] = False
    check_tokens(block, gene_ids, values, empty, column_ids, cell_ids, config, vocabulary)
    return gene_ids, values, padding


def sample_columns(column_hashes: np.ndarray, keys: np.ndarray, n: int) -> np.ndarray:
    """Numbers of `n` columns for each cell, in their order: all, or a sample that depends on the cell's key and the genes alone.

    Parameters
    ----------
    column_hashes
        What `hash_genes` gives for the genes.
    keys
        Key of each cell, from seed and name.
    n
        Columns to keep, at most as many as there are.

    Returns
    -------
    ndarray of int64, shape (cell, n)
    """
    if n == len(column_hashes):
        return np.tile(np.arange(n), (len(keys), 1))
    ranks = np.stack([hash_genes(column_hashes ^ key) for key in keys])
    return np.sort(np.argpartition(ranks, n, axis=1)[:, :n], axis=1)


def check_tokens(
    block: sp.csr_matrix,
    gene_ids: np.ndarray,
    values: np.ndarray,
    padding: np.ndarray,
    column_ids: np.ndarray,
    cell_ids: Any,
    config: ModelConfig,
    vocabulary: Vocabulary,
) -> None:
    """Make sure that tokens are such as the rule of the binning can give.

    Every bin of every cell is a whole number in its range and every gene occurs once. Of the first cell, every bin is one
    of those that NumPy's quantiles allow.

    Parameters
    ----------
    block, column_ids, cell_ids, config, vocabulary
        As in `tokenise_rows`.
    gene_ids, values, padding
        What was made of them, each (row, length).

    Raises
    ------
    CellsError
        If not; cell and gene are named.
    """
    row, at = first_fault(gene_ids, values, padding, config.n_bins, int(column_ids.max()) + 1)
    what = f"no bin from 1 to {config.n_bins - 1}, or its second"
    if row < 0:
        x = block.data[: block.indptr[1]].astype(np.float32)
        edges = np.quantile(x.astype(np.float64), np.linspace(0, 1, config.n_bins - 1))
        # Edges that rounding moves past a value may count or not.
        most, least = np.digitize(x, edges * (1 - 1e-6)), np.digitize(x, edges * (1 + 1e-6), right=True)
        bounds = dict(
            zip(
                column_ids[block.indices[: block.indptr[1]]].tolist(),
                zip(np.minimum(least + 1, most), most, strict=True),
                strict=True,
            )
        )
        for position in np.flatnonzero(~padding[0])[1:]:
            low, high = bounds[int(gene_ids[0, position])]
            if not low <= values[0, position] <= high:
                row, at, what = 0, position, f"none from {low} to {high}, which its quantiles allow"
                break
    if row >= 0:
        gene = {i: name for name, i in vocabulary.ids.items()}.get(int(gene_ids[row, at]), gene_ids[row, at])
        raise CellsError(
            f"Cell '{cell_ids[row]}' has the value {values[row, at]:g} for gene '{gene}', {what}. This is a fault of the "
            "workbench or of the matrix: please report it with the kind of file."
        )
