"""Who attends to whom: mean attention between named genes, by groups of cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from jaxtyping import Int
from torch import Tensor

from workbench.ablation.sites import HEAD, Ablation, Site, site
from workbench.cells.genes import MIN_SHARE
from workbench.cells.panel import choose_panel
from workbench.errors import EvaluationError, HookError
from workbench.models import CellModel
from workbench.models.devices import sums_type
from workbench.models.load import as_model
from workbench.models.tokens import Tokens
from workbench.tools.common import check_cells, check_slot, column, known_genes, passes, put

ALL = "all cells"
_COMMON = 20


def attention(
    adata: AnnData,
    model: CellModel | str | Path,
    heads: str | Sequence[str],
    *,
    source: str | Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    groupby: str | None = None,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    progress: bool = True,
    key_added: str | None = None,
) -> pd.DataFrame | None:
    """Mean attention from target genes, which read, to source genes, which are read, over the cells that express both.

    Parameters
    ----------
    adata, model, batch_size, max_tokens, seed, min_gene_share, progress
        As in `workbench.embed`.
    heads
        Head or heads, such as ``L2H3``.
    source
        Genes that are attended to (keys), as the cells or the model spell them; the 20 seen in most cells when None.
    target
        Genes that attend (queries); those of `source` when None.
    groupby
        Column of ``obs`` with groups of cells, which are averaged apart; cells without a value are left out. None for one group.
    key_added
        Write the means of one head over all cells into ``adata.varp`` under this name, a sparse matrix of target by source genes, and
        return nothing.

    Returns
    -------
    pandas.DataFrame or None
        One row per head, group, target and source: ``attention`` (mean over cells), ``sd`` (over cells), ``even`` (what the same cells would
        give if each attended evenly to all it reads), ``ratio`` (attention / even) and ``n_cells``. NaN where no cell expresses both.

    Raises
    ------
    HookError
        If a head does not exist.
    GeneMatchError
        If a gene is not measured or not known to the model.

    Examples
    --------
    >>> import numpy as np
    >>> import workbench
    >>> from anndata import AnnData
    >>> model = workbench.plant_head().model
    >>> cells = AnnData(np.random.default_rng(0).poisson(2.0, (20, 60)).astype(np.float32))
    >>> cells.var_names = model.vocabulary.genes
    >>> table = workbench.attention(cells, model, "L2H3", source="GENE000", target=["GENE001", "GENE002"], progress=False)
    >>> table[["head", "target", "source"]].to_numpy().tolist()
    [['L2H3', 'GENE001', 'GENE000'], ['L2H3', 'GENE002', 'GENE000']]
    """
    check_slot(adata, "varp", key_added)
    model = as_model(model)
    places = _heads(model, heads)
    if key_added is not None and (groupby is not None or len(places) != 1):
        raise EvaluationError("adata.varp takes one head and all cells: leave out groupby, and name one head.")
    tokenizer = model.tokenizer(adata, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share)
    check_cells(tokenizer, adata.obs_names)
    keys = known_genes(tokenizer, choose_panel(adata, tokenizer.match, _COMMON) if source is None else source)
    queries = keys if target is None else known_genes(tokenizer, target)
    labels = np.full(len(adata), ALL, dtype=object) if groupby is None else column(adata, groupby)
    groups = [name for name in dict.fromkeys(sorted(labels)) if name]
    number = {name: i for i, name in enumerate(groups)}
    of_cell = {name: number.get(label, -1) for name, label in zip(adata.obs_names, labels, strict=True)}
    sums = _Sums(model, places, len(groups), list(queries.values()), list(keys.values()))

    def work(batch: Tokens) -> None:
        which = torch.tensor([of_cell[cell] for cell in batch.cell_ids], device=model.device)
        hooks = {place.hook.replace("hook_z", "hook_pattern") for place in places}
        _, cache = model.run_with_cache(batch, names_filter=sorted(hooks), outputs=(), return_cache_object=False)
        sums.add(batch, which, cache)

    with torch.no_grad():
        for _ in passes(model, tokenizer, work, batch_size, progress, "attention"):
            pass
    table = sums.table(groups, list(queries), list(keys))
    if key_added is None:
        return table
    columns = _columns(tokenizer.match.place, tokenizer.match.genes)
    rows, cols = (
        [columns[known[name]] for name in table[side]] for side, known in (("target", queries), ("source", keys))
    )
    value = sp.csr_matrix((table["attention"].fillna(0), (rows, cols)), shape=(adata.n_vars, adata.n_vars))
    about = {"head": str(places[0]), "rows": "target", "columns": "source", "model": model.fingerprint()}
    put(adata, "varp", key_added, value, about, key_added)
    return None


def _heads(model: CellModel, heads: str | Sequence[str]) -> list[Site]:
    places = [site(one) for one in ([heads] if isinstance(heads, str) else heads)]
    for place in places:
        if place.kind != HEAD:
            raise HookError(f"Attention is of heads, such as L2H3; found '{place}'.")
        Ablation(place).check(model.config, model.vocabulary)
    if not places:
        raise HookError("No head was named; name one, such as L2H3.")
    return list(dict.fromkeys(places))


def _columns(place: Int[np.ndarray, " column"], genes: Sequence[str]) -> dict[str, int]:
    """First column of each gene."""
    used = np.flatnonzero(place >= 0)
    _, first = np.unique(place[used], return_index=True)
    return dict(zip(genes, used[first].tolist(), strict=True))


class _Sums:
    """Sums over cells of attention between chosen genes, its square, and 1 / tokens; on the model's device."""

    def __init__(
        self, model: CellModel, places: Sequence[Site], n_groups: int, queries: Sequence[str], keys: Sequence[str]
    ) -> None:
        self.places, device, wide = places, model.device, sums_type(model.device)
        self.ids = [torch.as_tensor(model.vocabulary.encode(genes), device=device) for genes in (queries, keys)]
        shape = (n_groups + 1, len(queries), len(keys))  # the last group takes the cells of none
        self.n, self.even = (torch.zeros(shape, dtype=wide, device=device) for _ in range(2))
        self.sum, self.square = (torch.zeros((len(places), *shape), dtype=wide, device=device) for _ in range(2))

    def add(self, batch: Tokens, group: Tensor, cache: dict[str, Tensor]) -> None:
        group = torch.where(group < 0, len(self.n) - 1, group)
        real = batch.genes
        found, at = [], []
        for ids in self.ids:
            same = (batch.gene_ids[:, None] == ids[:, None]) & real[:, None]  # cell, gene asked for, position
            found.append(same.any(2))
            at.append(same.int().argmax(2))
        both = (found[0][:, :, None] & found[1][:, None]).to(self.n.dtype)
        cells = torch.arange(len(batch), device=both.device)[:, None, None]
        self.n.index_add_(0, group, both)
        self.even.index_add_(0, group, both / (~batch.padding).sum(1)[:, None, None])
        for i, place in enumerate(self.places):
            pattern = cache[f"blocks.{place.layer}.attn.hook_pattern"][:, place.head]
            seen = pattern[cells, at[0][:, :, None], at[1][:, None]].to(self.n.dtype) * both
            self.sum[i].index_add_(0, group, seen)
            self.square[i].index_add_(0, group, seen**2)

    def table(self, groups: Sequence[str], queries: Sequence[str], keys: Sequence[str]) -> pd.DataFrame:
        n, even = (x[:-1].cpu().double().numpy() for x in (self.n, self.even))
        total, square = (x[:, :-1].cpu().double().numpy() for x in (self.sum, self.square))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, even = total / n, even / n
            sd = np.where(n > 1, np.sqrt(np.maximum(square - n * mean**2, 0) / (n - 1)), np.nan)
        rows = pd.MultiIndex.from_product(
            [list(map(str, self.places)), groups, queries, keys], names=["head", "group", "target", "source"]
        ).to_frame(index=False)
        every = {"attention": mean, "sd": sd, "even": even, "ratio": mean / even, "n_cells": n}
        return rows.assign(**{name: np.broadcast_to(x, mean.shape).ravel() for name, x in every.items()}).astype(
            {"n_cells": int}
        )
