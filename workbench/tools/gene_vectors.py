"""Mean residual vector of each gene behind each layer, in one pass over the cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from workbench.cells.genes import MIN_SHARE
from workbench.errors import EvaluationError
from workbench.geometry.gene_vectors import ENTRY, GeneVectors
from workbench.models import CellModel
from workbench.models.devices import sums_type
from workbench.models.load import as_model
from workbench.models.tokens import Tokens
from workbench.tools.common import check_cells, column, layers_of, passes

ALL = "all cells"


def gene_vectors(
    adata: AnnData,
    model: CellModel | str | Path,
    *,
    layers: str | Sequence[int] = "all",
    groupby: str | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    progress: bool = True,
    what: str = "gene vectors",
) -> dict[str, GeneVectors]:
    """Mean residual vector of each gene over the cells in which it is a token, behind each layer and in front of the first.

    One pass over the cells for all layers. Memory holds one sum per gene, layer and group of cells, in float64, whatever the number of
    cells: 8 bytes x genes x layers x width x groups.

    Parameters
    ----------
    adata, model, batch_size, max_tokens, seed, min_gene_share, progress
        As in `workbench.embed`.
    layers
        Layers whose output is taken, ``all`` or their numbers; the stream in front of the first comes with them, as layer -1.
    groupby
        Column of ``obs`` with groups of cells, which are averaged apart as well; cells without a value are in no group.
    what
        Word in front of the progress bar.

    Returns
    -------
    dict of str to GeneVectors
        ``all cells`` first, then each group by name. Genes are those that the cells measure and the model knows; one that is a token in
        no cell has n 0 and NaN for its mean.

    Raises
    ------
    EvaluationError
        If a group is called ``all cells``, or no cell has a group.
    HookError
        If there is no such layer.
    """
    model = as_model(model)
    names = {"blocks.0.hook_resid_pre": ENTRY}
    names |= {f"blocks.{layer}.hook_resid_post": layer for layer in layers_of(model, layers)}
    labels = np.full(len(adata), "", dtype=object) if groupby is None else column(adata, groupby)
    groups = [name for name in sorted(set(labels)) if name]
    if ALL in groups or (groupby is not None and not groups):
        wrong = f"calls a group '{ALL}', which stands for every cell" if groups else "names no group"
        raise EvaluationError(f"The column '{groupby}' {wrong}; rename it, or take another column.")
    tokenizer = model.tokenizer(adata, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share)
    check_cells(tokenizer, adata.obs_names)
    genes = tokenizer.match.genes
    number = {name: i for i, name in enumerate(groups)}
    # The last group takes the cells of none.
    of_cell = {name: number.get(label, len(groups)) for name, label in zip(adata.obs_names, labels, strict=True)}
    ids = torch.as_tensor(model.vocabulary.encode(genes), device=model.device)
    sums = _Sums(model, ids, len(names), len(groups) + 1)

    def work(batch: Tokens) -> None:
        group = torch.tensor([of_cell[cell] for cell in batch.cell_ids], device=model.device)
        _, cache = model.run_with_cache(batch, names_filter=list(names), outputs=(), return_cache_object=False)
        sums.add(batch, group, [cache[name] for name in names])

    with torch.no_grad():
        for _ in passes(model, tokenizer, work, batch_size, progress, what):
            pass
        table = model.gene_embedding(ids).double().cpu().numpy()
    n, total = sums.arrays()
    every = {ALL: (n.sum(0), total.sum(1)), **{name: (n[i], total[:, i]) for i, name in enumerate(groups)}}
    found: dict[str, GeneVectors] = {}
    for group_name, (count, added) in every.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = added / count[:, None]
        found[group_name] = GeneVectors(tuple(genes), tuple(names.values()), count, mean, table)
    return found


class _Sums:
    """Sums of streams by layer, group of cells and gene, on the model's device."""

    def __init__(self, model: CellModel, ids: Tensor, n_layers: int, n_groups: int) -> None:
        device, wide = model.device, sums_type(model.device)
        self.shape = n_groups, len(ids)
        # Padding and what is no gene go to a last row that is never read.
        self.rest = n_groups * len(ids)
        self.row = torch.full((max(model.config.n_tokens, int(ids.max()) + 1),), self.rest, device=device)
        self.row[ids] = torch.arange(len(ids), device=device)
        self.n = torch.zeros(self.rest + 1, dtype=torch.int64, device=device)
        self.sum = torch.zeros((n_layers, self.rest + 1, model.config.d_model), dtype=wide, device=device)

    def add(self, batch: Tokens, group: Tensor, streams: list[Tensor]) -> None:
        row = self.row[batch.gene_ids]
        at = torch.where(batch.genes & (row < self.rest), group[:, None] * self.shape[1] + row, self.rest).flatten()
        # Made before anything is added: where memory runs out, the same cells come again.
        wide = torch.empty((len(at), self.sum.shape[2]), dtype=self.sum.dtype, device=self.sum.device)
        ones = torch.ones_like(at)
        self.n.index_add_(0, at, ones)
        for total, stream in zip(self.sum, streams, strict=True):
            total.index_add_(0, at, wide.copy_(stream.flatten(0, 1)))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Counts by group and gene, and sums by layer, group and gene."""
        n, total = self.n[:-1].cpu().numpy(), self.sum[:, :-1].cpu().double().numpy()
        return n.reshape(self.shape), total.reshape(len(total), *self.shape, -1)
