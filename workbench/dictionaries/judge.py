"""A dictionary judged on held-out cells: what it explains, what its features are, and what the model does with it in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from jaxtyping import Float, Int
from torch import Tensor

from workbench.ablation.metrics import Run, cell_shift, mask_values, masked_error
from workbench.dictionaries.baselines import baselines
from workbench.dictionaries.dictionary import Dictionary
from workbench.dictionaries.feeding import Reader, Rows, together
from workbench.dictionaries.judging import (
    describe_features,
    explained_interval,
    gene_means,
    recovered,
    summarise,
    variance_explained,
)
from workbench.dictionaries.splicing import in_place
from workbench.models import CellModel
from workbench.models.tokens import Tokens
from workbench.seeds import order_of
from workbench.tools.common import column, passes

_CHUNK = 8192
OWN = "dictionary"


@dataclass(frozen=True)
class Judgement:
    """What was found of a dictionary on held-out cells.

    Attributes
    ----------
    summary
        As `summarise` gives it, with ``within_low`` and ``within_high`` (95 % interval of ``within_genes`` over donors where there are two or more, else over
        cells), ``gene_id`` (variance explained by each gene's mean), ``n_rows``, ``n_cells`` and ``n_donors`` (0 where cells were drawn).
    codes
        The dictionary beside codes of as many numbers, see `baselines`: ``code``, ``l0``, ``variance_explained``, ``within_genes``.
    features
        A row per feature, see `describe_features`, with ``gene``, the symbol of the top gene.
    losses
        What the model does with something else in the activation's place: ``metric``, ``replaced_by`` (intact, dictionary, gene id alone,
        mean, zero), ``loss`` (mean over cells), ``recovered_zero`` and ``recovered_mean`` (see `recovered`).
    """

    summary: dict[str, Any]
    codes: pd.DataFrame
    features: pd.DataFrame
    losses: pd.DataFrame


def judge(
    model: CellModel,
    cells: AnnData,
    dictionary: Dictionary,
    train: AnnData,
    *,
    n_cells: int = 200,
    seed: int = 0,
    mask_share: float = 0.25,
    draws: int = 200,
    min_gene_share: float | None = None,
    progress: bool = True,
) -> Judgement:
    """Judge a dictionary on cells that it was not trained on, beside what is simpler.

    Parameters
    ----------
    model
        The model that it was trained on.
    cells
        Cells that were held out of the training.
    dictionary
        Dictionary of one hook, or a transcoder; that is judged by what it decodes to.
    train
        Cells that it was trained on, from which the simpler codes are learnt.
    n_cells
        Cells of either kind that are looked at, drawn by seed and name; activations of all of them are held in memory.
    seed
        Seed of draws, masks and starts.
    mask_share
        Share of a cell's values that are masked for the masked-expression error.
    draws
        Draws of held-out donors, or cells, of the interval of ``within_genes``.
    min_gene_share
        Smallest share of genes in the vocabulary, as in `CellModel.tokenizer`.
    progress
        Show cells a second on stderr.

    Raises
    ------
    HookError
        If the dictionary is of another model.
    """
    dictionary.check(model)
    held, known = drawn_cells(cells, n_cells, seed), drawn_cells(train, n_cells, seed)
    rows, fitted = (gather(model, dictionary, one, seed, min_gene_share) for one in (held, known))
    summary, table = describe(dictionary, rows, fitted, model, donors=donors_of(held), draws=draws, seed=seed)
    target, l0 = dictionary.origin.target, max(1, round(summary["l0"]))
    (x, before), (genes, fitted_genes) = (
        [one.values[target].cpu().numpy() for one in (rows, fitted)],
        [one.genes.cpu().numpy() for one in (rows, fitted)],
    )
    n_tokens, mean = model.config.n_tokens, before.mean(0)
    means = gene_means(before, fitted_genes, n_tokens) if genes.min(initial=0) >= 0 else None
    own = pd.DataFrame(
        [{"code": OWN, **{name: summary[name] for name in ("l0", "variance_explained", "within_genes")}}]
    )
    simple = baselines(before, fitted_genes, x, genes, width=dictionary.width, k=l0, n_tokens=n_tokens, seed=seed)
    losses = loss_recovered(
        model,
        held,
        dictionary,
        mean,
        means,
        mask_share=mask_share,
        seed=seed,
        min_gene_share=min_gene_share,
        progress=progress,
    )
    return Judgement(summary, pd.concat([own, simple], ignore_index=True), table, losses)


def describe(
    dictionary: Dictionary,
    rows: Rows,
    fitted: Rows,
    model: CellModel,
    *,
    donors: Int[np.ndarray, " cell"] | None = None,
    draws: int = 200,
    seed: int = 0,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """What a dictionary explains of held-out rows, and what its features are: the first half of `judge`, without other codes.

    Parameters
    ----------
    dictionary
        Dictionary of one of the hooks of the rows.
    rows, fitted
        Activations of held-out cells, and of those trained on, from which means are taken.
    model
        Model that they are of, for its tokens.
    donors
        Number of the donor of each held-out cell, as `donors_of` gives it; cells are drawn when None.
    draws, seed
        Draws of donors or cells of the interval, and their seed.

    Returns
    -------
    tuple
        ``summary`` and ``features`` of a `Judgement`.
    """
    target, n_tokens = dictionary.origin.target, model.config.n_tokens
    x, before = (one.values[target].cpu().numpy() for one in (rows, fitted))
    features, found = encoded(dictionary, rows)
    genes, mean = rows.genes.cpu().numpy(), before.mean(0)
    explained = variance_explained(x, found, mean)
    within = alone = low = high = float("nan")
    table = describe_features(features, np.maximum(genes, 0), rows.levels.cpu().numpy(), n_tokens)
    if genes.min(initial=0) >= 0:
        named = gene_means(before, fitted.genes.cpu().numpy(), n_tokens)[genes]
        within, alone = variance_explained(x, found, named), variance_explained(x, named, mean)
        units = rows.cells.cpu().numpy()
        units = units if donors is None else donors[units]
        low, high = explained_interval(x, found, named, units, draws=draws, seed=seed)
        table["gene"] = [model.vocabulary.token(int(i)) if i >= 0 else "" for i in table["top_gene"]]
    else:
        table[["top_gene", "top_share", "n_genes", "level_r"]], table["gene"] = np.nan, ""
    summary = {
        **summarise(table, explained, within),
        **{"within_low": low, "within_high": high, "gene_id": alone},
        **{"n_rows": len(rows), "n_cells": len(np.unique(rows.cells.cpu().numpy()))},
        "n_donors": 0 if donors is None else len(np.unique(donors)),
    }
    return summary, table


def gather(
    model: CellModel, dictionary: Dictionary, cells: AnnData, seed: int = 0, min_gene_share: float | None = None
) -> Rows:
    """Activations of all cells at a dictionary's hook (and that which a transcoder decodes to), in memory.

    Parameters
    ----------
    model, dictionary
        Model, and a dictionary of one of its hooks.
    cells
        As many as fit into memory.
    seed, min_gene_share
        Seed and smallest share of genes that the tokeniser takes.
    """
    tokenizer = model.tokenizer(cells, seed=seed, min_gene_share=min_gene_share)
    hooks = list(dict.fromkeys((dictionary.hook, dictionary.origin.target)))
    return together(list(Reader(model, tokenizer, hooks).read(range(len(tokenizer)))))


def encoded(dictionary: Dictionary, rows: Rows) -> tuple[sp.csr_matrix, Float[np.ndarray, "row width"]]:
    """Features of rows, zeros left out, and what they decode to.

    Parameters
    ----------
    dictionary
        Dictionary of one of the hooks of the rows.
    rows
        Activations, as `gather` gives them.
    """
    parts, found = [], []
    x = rows.values[dictionary.hook]
    inner = dictionary.origin.inner or (x.shape[1],)
    own = dictionary.to(x.device)
    with torch.no_grad():
        for start in range(0, len(x), _CHUNK):
            features = own.encode(x[start : start + _CHUNK].unflatten(1, inner))
            parts.append(sp.csr_matrix(features.cpu().numpy()))
            found.append(own.decode(features).flatten(1).cpu().numpy())
    return sp.csr_matrix(sp.vstack(parts)), np.concatenate(found)


def loss_recovered(
    model: CellModel,
    cells: AnnData,
    dictionary: Dictionary,
    mean: Float[np.ndarray, " width"],
    means: Float[np.ndarray, "token width"] | None,
    *,
    mask_share: float = 0.25,
    seed: int = 0,
    min_gene_share: float | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """What the model loses with something else in the place of an activation, at genes alone; ``<cls>`` stays.

    Parameters
    ----------
    model, cells, dictionary
        As in `judge`.
    mean
        Mean activation over all rows of the cells trained on.
    means
        Mean activation of each token id; None for hooks with a row per cell.
    mask_share, seed, min_gene_share, progress
        The same as `judge` takes them.

    Returns
    -------
    DataFrame
        As `Judgement.losses` has it. Metrics are ``cell_shift`` and, where the checkpoint decodes expression, ``masked_error``.
    """
    target = dictionary.origin.target
    tokenizer = model.tokenizer(cells, seed=seed, min_gene_share=min_gene_share)
    metrics = [cell_shift()] if "cell" in model.outputs else []
    metrics += [masked_error()] if "expression" in model.outputs else []
    needs = tuple(dict.fromkeys(name for metric in metrics for name in metric.needs))
    put: dict[str, Callable[[Tokens], Tensor]] = {}
    if means is not None:
        by_token = torch.as_tensor(means, device=model.device, dtype=model.dtype)
        put["gene id alone"] = lambda tokens: by_token[tokens.gene_ids]
    flat = torch.as_tensor(mean, device=model.device, dtype=model.dtype)
    put |= {"mean": lambda tokens: flat, "zero": lambda tokens: torch.zeros_like(flat)}
    names, there = ("intact", OWN, *put), dictionary.to(model.device)

    def work(batch: Tokens) -> np.ndarray:
        found = np.full((len(names), len(metrics), len(batch)), np.nan)
        for m, metric in enumerate(metrics):
            shown, value, masked = (
                mask_values(batch, model.config, mask_share, seed) if metric.masked else (batch, None, None)
            )
            shown = Tokens(shown.gene_ids, shown.values, shown.padding, shown.cell_ids, shown.batch_labels, batch.flags)
            intact = model(shown, outputs=needs)
            for i, name in enumerate(names):
                outputs = intact
                if name == OWN:
                    with in_place(model, {dictionary.hook: there}, error=False):
                        outputs = model(shown, outputs=needs)
                elif name in put:
                    with model.hooks([(target, _replacing(put[name](shown), shown))]):
                        outputs = model(shown, outputs=needs)
                found[i, m] = metric.function(Run(outputs, intact, np.arange(len(batch)), shown, value, masked)).cpu()
        return found

    with torch.no_grad():
        parts = list(passes(model, tokenizer, work, progress=progress, what="losses"))
    means_of = np.nanmean(np.concatenate(parts, axis=2), axis=2)
    rows = []
    for m, metric in enumerate(metrics):
        value = dict(zip(names, means_of[:, m].tolist(), strict=True))
        for name in names:
            against = [recovered(value["intact"], value[name], value[other]) for other in ("zero", "mean")]
            rows.append((metric.name, name, value[name], *against))
    return pd.DataFrame(rows, columns=["metric", "replaced_by", "loss", "recovered_zero", "recovered_mean"])


def _replacing(new: Tensor, tokens: Tokens) -> Callable[..., Tensor]:
    """A hook that puts flattened values in the place of an activation at genes."""

    def hook(x: Tensor, hook: Any) -> Tensor:
        if x.ndim == 2:
            return new.expand_as(x)
        wide = new.unflatten(-1, x.shape[2:]) if x.ndim > 3 else new
        return torch.where(tokens.genes.reshape(*x.shape[:2], *(1,) * (x.ndim - 2)), wide, x)

    return hook


def donors_of(cells: AnnData) -> Int[np.ndarray, " cell"] | None:
    """Number of each cell's donor; None where the cells name fewer than two, or leave one out.

    Parameters
    ----------
    cells
        Cells as `workbench.load` returns them.
    """
    names = column(cells, "donor") if "donor" in cells.obs else np.array([""])
    known, numbers = np.unique(names.astype(str), return_inverse=True)
    return numbers if len(known) > 1 and "" not in known else None


def drawn_cells(cells: AnnData, most: int, seed: int) -> AnnData:
    """As many of the cells as are wanted, by seed and name; all of them where there are no more.

    Parameters
    ----------
    cells
        Cells that are drawn from, in any order.
    most, seed
        Number of cells at most, and the seed of the draw.
    """
    if cells.n_obs <= most:
        return cells
    return cells[np.sort(order_of(seed, cells.obs_names, "cell")[:most])]
