"""Which features of one hook drive which of a later one: by gradients through the model, checked exactly on a sample.

A feature that fires often has strong edges, whatever it does, and one that fires where another does shares its edges by the way. So firing
rates are regressed out of strengths, and these are compared with those of random mixtures of the same features (`mixtures`), which read what
they write, find as much of it in the activations, fire as often, and are as strong.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.ablation.attribution import AGREE
from workbench.ablation.build import choose_cells
from workbench.ablation.nulls import ALPHA
from workbench.cells.formats import check_anndata
from workbench.cells.genes import MIN_SHARE
from workbench.dictionaries.alike import feature_usage
from workbench.dictionaries.causing import check_dictionary
from workbench.dictionaries.dictionary import Dictionary
from workbench.dictionaries.mixtures import mixtures
from workbench.dictionaries.splicing import edit_features, spliced
from workbench.errors import EvaluationError, HookError
from workbench.models import CellModel
from workbench.models.devices import Fitting
from workbench.models.load import as_model
from workbench.models.tokens import Tokens
from workbench.seeds import generator
from workbench.stats import benjamini_hochberg, spearman

Hooks = list[tuple[str | Callable, Callable]]
# Bytes of the gradients that are held at a time.
_ROOM = 2**28
# Of the strongest pairs, by strength alone, that a degree is counted from where none are tested.
_STRONGEST = 0.05


@dataclass(frozen=True)
class Circuit:
    """Edges between the features of two hooks.

    Attributes
    ----------
    edges
        A row per pair: ``source_hook``, ``source``, ``target_hook``, ``target``, ``strength`` (what the source gives to the mean activation of the target
        over genes of cells, to first order), ``sd`` (over cells), ``n_cells``, ``source_rate``, ``target_rate``, ``adjusted`` (log10 of the size of the strength over what the
        two rates let expect), ``p`` (share of pairs with mixtures, and this one, that are adjusted to as much), ``q`` (Benjamini-Hochberg over pairs), ``found`` (q at most 0.05) and ``exact``, the strength by ablation, where it was measured.
    summary
        ``pairs``, ``found`` (share of them), ``n_null`` (pairs with mixtures), ``smallest_q`` (of one pair alone), ``exact_pairs``,
        ``spearman`` and ``slope`` (of exact on estimated strengths), and ``degree_rate`` beside ``degree_rate_raw``: Spearman of a source's number of edges
        with its firing rate, by what is found and by as many of the strongest pairs (a twentieth where none are found).
    """

    edges: pd.DataFrame
    summary: dict[str, Any]


def feature_circuit(
    model: CellModel | str | Path,
    cells: AnnData,
    upstream: Dictionary,
    downstream: Dictionary,
    targets: Sequence[int] | None = None,
    *,
    check: int = 10,
    null_draws: int = 25,
    n_cells: int | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
) -> Circuit:
    """Find which features of a dictionary drive which of one further up, with all that the first leaves out kept.

    The strength of a pair is sum(a * db/da) over genes, with a the source's activation and b the sum of the target's over the genes of a
    cell, at the intact model; one backward pass per target and batch serves all sources.

    An edge is a lead, to first order. Of planted codes that have nothing to do with each other some edge has q at most 0.05 in 5 of 100 seeds;
    ablation of the source (``check``) measures it.

    Parameters
    ----------
    model, cells
        The intact model, and cells as `workbench.load` returns them; never changed.
    upstream, downstream
        Dictionaries of two hooks of blocks, the first of which the model computes first.
    targets
        Numbers of the downstream features; all that fire when None.
    check
        Upstream features, drawn at random, that are ablated, to measure all targets exactly.
    null_draws
        Random mixtures for each upstream feature. One pair alone reaches a q of 1 / `null_draws` at best.
    n_cells
        Number of cells, drawn by seed and name; all of them when None. Activations of all of them at the first hook are held in memory.
    batch_size
        Cells per pass; it has no part in the result.
    max_tokens
        Longest sequence with ``<cls>``; the checkpoint's own when None.
    seed
        The one seed of cells, draws and sample.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.

    Raises
    ------
    HookError
        If a dictionary is of another model, the second is not behind the first, or a feature does not exist.
    EvaluationError
        If fewer than two upstream features fire, or no target, or no draw was asked for.

    Notes
    -----
    The null asks whether an edge is more than features that fire as often have with the target by the way. It is not made of the
    dictionary's own features: what drives a target would stand in it, and of many pairs none could have a small q. In a residual stream a feature that is only passed on has an edge
    to its like further up.

    Examples
    --------
    >>> circuit = feature_circuit(model, cells, low, high, n_cells=100)  # doctest: +SKIP
    >>> workbench.figures.feature_graph(circuit.edges)  # doctest: +SKIP
    """
    model = as_model(model)
    check_anndata(cells)
    for one in (upstream, downstream):
        check_dictionary(model, one)
    order = list(model.hook_dict)
    if order.index(upstream.origin.target) >= order.index(downstream.hook):
        raise HookError(
            f"'{downstream.hook}' is not behind '{upstream.origin.target}', so nothing goes from one to the other; name the earlier dictionary first."
        )
    if null_draws < 1:
        raise EvaluationError(f"{null_draws} draws were asked for; p needs one at least.")
    tokenizer = model.tokenizer(
        choose_cells(cells, n_cells, seed), seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share
    )
    tokens, fitting = tokenizer.tokens(), Fitting(batch_size)
    low, high = upstream.to(model.device), downstream.to(model.device)
    usage = [feature_usage(model, one, tokens, batch_size) for one in (low, high)]
    rates = [one["rate"].to_numpy() for one in usage]
    sources = np.flatnonzero(rates[0] > 0)
    wanted = np.flatnonzero(rates[1] > 0) if targets is None else np.array(list(dict.fromkeys(targets)), dtype=int)
    if len(wanted) and not 0 <= wanted.min() <= wanted.max() < downstream.width:
        raise HookError(
            f"The dictionary of '{downstream.hook}' has features 0 to {downstream.width - 1}; name targets among these."
        )
    wanted = wanted[rates[1][wanted] > 0]
    if len(sources) < 2 or not len(wanted):
        raise EvaluationError(
            f"{len(sources)} upstream features and {len(wanted)} of the targets fire in these cells; a circuit needs two and one. Take more cells or other "
            "targets."
        )
    strength, sd, null = _strengths(model, tokens, low, high, sources, wanted, usage[0], fitting, null_draws, seed)
    own, other = np.log10(rates[0][sources])[:, None], np.log10(rates[1][wanted])[None]
    adjusted, drawn = without_rates(strength, null, own, other)
    p = pooled_p(adjusted.ravel(), drawn.ravel())
    rows, columns = (x.ravel() for x in np.indices(strength.shape))
    edges = pd.DataFrame(
        {
            "source_hook": upstream.origin.target,
            "source": sources[rows],
            "target_hook": downstream.origin.target,
            "target": wanted[columns],
            "strength": strength.ravel(),
            "sd": sd.ravel(),
            "n_cells": len(tokens),
            "source_rate": rates[0][sources][rows],
            "target_rate": rates[1][wanted][columns],
            "adjusted": adjusted.ravel(),
            "p": p,
            "q": benjamini_hochberg(p),
        }
    )
    edges["found"], edges["exact"] = edges["q"] <= ALPHA, np.nan
    sample = np.sort(generator(seed, "exact circuit").permutation(len(sources))[:check])
    if len(sample):
        exact = _exact(model, tokens, upstream, downstream, sources[sample], wanted, fitting)
        edges.loc[np.isin(rows, sample), "exact"] = exact.ravel()
    return Circuit(edges, _summary(edges, drawn.size, rates[0][sources]))


def _strengths(
    model: CellModel,
    tokens: Tokens,
    upstream: Dictionary,
    downstream: Dictionary,
    sources: Int[np.ndarray, " source"],
    targets: Int[np.ndarray, " target"],
    usage: pd.DataFrame,
    fitting: Fitting,
    draws: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Strength of each pair and its sd over cells, (source, target), and of pairs with mixtures, (draw, source, target)."""
    own = upstream.directions[torch.as_tensor(sources)]
    mixed = mixtures(model, tokens, upstream, sources, usage, fitting, draws, seed)
    n_rows, stop = int(tokens.genes.sum()), int(downstream.origin.target.split(".")[1]) + 1

    def work(batch: Tokens) -> Float[np.ndarray, "part target source"]:
        batch = batch.to(model.device, model.dtype)
        genes = batch.genes
        cell = genes.nonzero()[:, 0]
        kept: dict[str, Tensor] = {}

        def read(x: Tensor, hook: Any) -> None:
            kept["x"] = x.detach()

        def leaf(x: Tensor, hook: Any) -> Tensor:
            kept["leaf"] = x.detach().requires_grad_()  # the weights want no gradient, so the graph starts here
            return kept["leaf"]

        def encode(x: Tensor, hook: Any) -> None:
            kept["targets"] = downstream.encode(x)

        hooks: Hooks = [(upstream.hook, read), (upstream.origin.target, leaf), (downstream.hook, encode)]
        with torch.enable_grad(), model.hooks(hooks):
            model(batch, outputs=(), stop_at_layer=stop)
        x = kept["x"].flatten(2)[genes]
        active = upstream.encode(kept["x"])[genes][:, torch.as_tensor(sources)]
        found = torch.zeros(2 + draws, len(targets), len(sources), dtype=torch.float64)
        size = max(1, _ROOM // (4 * kept["leaf"].numel()))
        for at in range(0, len(targets), size):
            slopes = []
            for k in targets[at : at + size].tolist():
                with torch.enable_grad():
                    total = (kept["targets"][..., k] * genes).sum()
                slopes.append(torch.autograd.grad(total, kept["leaf"], retain_graph=True)[0].flatten(2)[genes])
            for t, slope in enumerate(slopes, at):
                each = torch.zeros(len(batch), len(sources), dtype=torch.float64, device=x.device)
                each.index_add_(0, cell, (active * (slope @ own.T)).double())
                found[0, t], found[1, t] = each.sum(0).cpu(), (each**2).sum(0).cpu()
            for draw, one in enumerate(mixed):
                fires = one.active(x)
                for t, slope in enumerate(slopes, at):
                    found[2 + draw, t] = (fires * (slope @ one.directions.T)).sum(0).double().cpu()
        return found.numpy()

    with torch.no_grad():
        parts = list(fitting.batches(tokens, work))
    total, squares, *null = np.sum(parts, axis=0)
    n = len(tokens)
    variance = np.maximum(squares - total**2 / n, 0) / max(n - 1, 1)
    return total.T / n_rows, np.sqrt(variance).T * n / n_rows, np.array(null).transpose(0, 2, 1) / n_rows


def _exact(
    model: CellModel,
    tokens: Tokens,
    upstream: Dictionary,
    downstream: Dictionary,
    sources: np.ndarray,
    targets: np.ndarray,
    fitting: Fitting,
) -> Float[np.ndarray, "source target"]:
    """What each source gives to the mean activation of each target: that of the intact model minus that without it."""
    below, above = (f"{one.origin.target}.hook_features" for one in (upstream, downstream))
    at, stop = torch.as_tensor(targets), int(downstream.origin.target.split(".")[1]) + 1

    def work(batch: Tokens) -> Tensor:
        found = []
        for change in (None, *sources.tolist()):
            hooks: Hooks = [] if change is None else [(below, edit_features([change], scale=0))]
            with model.hooks(hooks):
                _, cache = model.run_with_cache(
                    batch, outputs=(), stop_at_layer=stop, names_filter=above, return_cache_object=False
                )
            features = cache[above][..., at].double() * batch.genes.to(model.device)[..., None]
            found.append(features.sum((0, 1)))
        return found[0] - torch.stack(found[1:])

    both = {one.hook: one for one in (upstream, downstream)}
    with torch.no_grad(), spliced(model, both, error=True):
        total = torch.stack(list(fitting.batches(tokens, work))).sum(0)
    return total.cpu().numpy() / int(tokens.genes.sum())


def without_rates(
    strength: Float[np.ndarray, "source target"],
    null: Float[np.ndarray, "draw source target"],
    source_rate: Float[np.ndarray, "source 1"],
    target_rate: Float[np.ndarray, "1 target"],
) -> tuple[Float[np.ndarray, "source target"], Float[np.ndarray, "draw source target"]]:
    """Log10 of sizes, less what two firing rates let expect by a regression over the pairs of the null.

    Parameters
    ----------
    strength, null
        Strengths of pairs, and the same with mixtures; 0 has a logarithm of minus infinity.
    source_rate, target_rate
        Log10 of the firing rate of either end.

    Returns
    -------
    tuple
        The same shapes as `strength` and `null`.
    """
    with np.errstate(divide="ignore"):
        size, drawn = np.log10(np.abs(strength)), np.log10(np.abs(null))
    design = np.stack([np.ones(strength.shape), *np.broadcast_arrays(source_rate, target_rate)], axis=-1)
    # Of the draws the mean is fitted, which gives the same line as all of them where all are finite.
    known = np.isfinite(drawn)
    n = known.sum(0)
    mean = np.where(known, drawn, 0).sum(0) / np.maximum(n, 1)
    weight = np.sqrt(n)
    expected = design @ np.linalg.lstsq((design * weight[..., None]).reshape(-1, 3), (mean * weight).ravel())[0]
    return size - expected, drawn - expected


def pooled_p(observed: Float[np.ndarray, " pair"], null: Float[np.ndarray, " draw"]) -> Float[np.ndarray, " pair"]:
    """One-sided p of many values against one null, with the observed one counted.

    Parameters
    ----------
    observed, null
        Values that are large where there is something; minus infinity is as small as can be.
    """
    ordered = np.sort(null)
    larger = len(ordered) - np.searchsorted(ordered, observed - 1e-12, side="left")
    return (1 + larger) / (1 + len(ordered))


def _summary(edges: pd.DataFrame, n_null: int, rates: np.ndarray) -> dict[str, Any]:
    measured = edges[edges["exact"].notna()]
    a, b = measured["strength"].to_numpy(), measured["exact"].to_numpy()
    rho, square = spearman(a, b), float(a @ a)
    if len(measured) and not rho >= AGREE:
        warnings.warn(
            f"Gradients rank pairs of features unlike ablation (Spearman {rho:.2f} over {len(measured)} pairs, {AGREE} wanted): measure the edges that "
            "matter exactly, with `check`.",
            stacklevel=3,
        )
    found: Bool[np.ndarray, " pair"] = edges["found"].to_numpy()
    most = int(found.sum()) or max(1, round(_STRONGEST * len(edges)))
    strongest = np.zeros(len(edges), dtype=bool)
    strongest[np.argsort(-edges["strength"].abs().to_numpy(), kind="stable")[:most]] = True
    by_source = edges.assign(found=found, strongest=strongest).groupby("source", sort=True)
    degrees = [by_source[name].sum().to_numpy(dtype=float) for name in ("found", "strongest")]
    return {
        "pairs": len(edges),
        "found": float(found.mean()),
        "n_null": n_null,
        "smallest_q": min(1.0, len(edges) / (1 + n_null)),
        "exact_pairs": len(measured),
        "spearman": rho,
        "slope": float(a @ b) / square if square > 0 else float("nan"),
        "degree_rate": spearman(degrees[0], rates),
        "degree_rate_raw": spearman(degrees[1], rates),
    }
