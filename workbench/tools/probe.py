"""What can be read linearly after each layer, beside expression itself, the model before training, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import Float, Int
from scipy.special import gammaln
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline

from workbench.capture import capture
from workbench.capture.pooled import FRONT, PooledSink
from workbench.cells.expression import panel_expression
from workbench.cells.genes import MIN_SHARE
from workbench.cells.groups import make_folds, make_groups
from workbench.cells.panel import choose_panel
from workbench.errors import EvaluationError
from workbench.models import CellModel
from workbench.operators.readout import DoubleScaler, score, score_many
from workbench.operators.readout import probe as untrained_readout
from workbench.seeds import generator
from workbench.stats import corrected_difference, null_summary
from workbench.tools.common import as_cells, as_model, check_cells, column, layers_of

MODEL, UNTRAINED, EXPRESSION = "model", "untrained model", "expression"
_DRAWS = 1000
_PANEL = 1200
_READ = 200
# Logarithm of the largest float.
_LARGEST = 709.0


def probe(
    adata: AnnData,
    model: CellModel | str | Path,
    labels: str = "cell_type",
    *,
    layers: str | Sequence[int] = "all",
    folds: int = 5,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    progress: bool = True,
) -> pd.DataFrame:
    """How well a linear probe reads a label from the residual stream after each layer, on cells that it was not fitted on.

    Parameters
    ----------
    adata, model, batch_size, max_tokens, seed, min_gene_share, progress
        As in `workbench.embed`. A column ``donor``, as `workbench.load` names it, makes folds of whole donors.
    labels
        Column of ``obs``. Text and categories are classes; numbers are regressed. Cells without a value are left out, as are classes with
        fewer cells than two a fold.
    layers
        ``all``, or numbers of layers from 0, of which the stream behind each is read; the embedding in front of them always is.
    folds
        Number of folds, of which each is judged by a probe fitted on the others.

    Returns
    -------
    pandas.DataFrame
        One row per layer and way of pooling: ``reads`` (the label), ``features`` (model, untrained model or expression), ``layer`` (-1 in front of
        the first), ``pool`` (``cls`` or ``mean`` over genes), ``metric``, ``value`` (mean over folds), ``sd``, ``null_mean``, ``null_high`` (97.5 % quantile)
        and ``p`` (held-out cells relabelled, 1,000 draws), ``p_least`` (no p can be smaller), ``difference`` from expression with ``low``, ``high``,
        ``p_difference`` (Nadeau and Bengio), ``n_cells``, ``n_folds`` (those with a value; one number alone in a fold has none), ``folds_of``,
        ``relabelled`` (``cells in folds``, ``cells in donors`` or ``donors``) and ``n_relabellings``.

    Raises
    ------
    EvaluationError
        If fewer than two classes are left, or only one where a fold is held out.
    HookError
        If a layer does not exist.

    Notes
    -----
    Expression is log-normalised, on the 1,200 matched genes seen in most cells, by as many principal components of the training cells as the
    model is wide.

    The null gives the labels of held-out cells to other cells of their fold. Where folds are of donors it stays within each donor, because
    cells of one donor are alike. A label that no donor has two values of is given to other donors as a whole: then ``n_relabellings`` is the
    number of different ways to do so, and with few donors no p can be small. What is said of one fold was learned from the labels of the others,
    so that chance agrees over folds: of a score that is linear in the labels of both sides each pair of folds counts twice. The null is therefore taken
    the square root of two wider about its mean than draws of one fold after the other are. On planted cells without an effect at most one p in twenty
    is 0.05 or less (measured in the tests).

    Examples
    --------
    >>> import numpy as np
    >>> import workbench
    >>> from anndata import AnnData
    >>> model = workbench.plant_head().model
    >>> cells = AnnData(np.random.default_rng(0).poisson(2.0, (20, 60)).astype(np.float32))
    >>> cells.var_names = model.vocabulary.genes
    >>> cells.obs["half"] = ["a", "b"] * 10
    >>> table = workbench.probe(workbench.load(cells, values="counts", cell_type="half"), model, layers=[3], folds=2, progress=False)
    >>> table["features"].unique().tolist()
    ['expression', 'model', 'untrained model']
    """
    return _read(
        adata, model, labels, layers, folds, batch_size, max_tokens, seed, min_gene_share, progress, expression=False
    )


def lens(
    adata: AnnData,
    model: CellModel | str | Path,
    labels: str = "cell_type",
    *,
    layers: str | Sequence[int] = "all",
    folds: int = 5,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    progress: bool = True,
) -> pd.DataFrame:
    """What each layer knows: a label, and the expression of the cell's own genes, by linear probes.

    scGPT has no unembedding that could be applied to every layer, so that a probe takes its place.

    Parameters
    ----------
    adata, model, labels, layers, folds, batch_size, max_tokens, seed, min_gene_share, progress
        As in `workbench.probe`.

    Returns
    -------
    pandas.DataFrame
        The table of `workbench.probe`, and rows that read ``expression``: the share of the variance over held-out cells of the log-normalised
        expression of 200 genes that ridge regression gives back (0: no better than each gene's mean). No null was drawn of these; the untrained
        model and principal components of expression itself stand beside them.

    Examples
    --------
    >>> table = workbench.lens(workbench.load("pbmc68k"), "artifacts/scgpt-blood-mini")  # doctest: +SKIP
    >>> workbench.figures.layer_probes(table)  # doctest: +SKIP
    """
    return _read(
        adata, model, labels, layers, folds, batch_size, max_tokens, seed, min_gene_share, progress, expression=True
    )


@dataclass(frozen=True)
class _Target:
    """What is read from the cells that have it."""

    name: str
    kind: str  # classes, depth (a number) or expression (several numbers)
    values: np.ndarray
    fold: Int[np.ndarray, " cell"]
    rows: Int[np.ndarray, " cell"]
    donor: np.ndarray | None = None

    @property
    def whole(self) -> bool:
        """Whether no donor has two values, so that only whole donors can be relabelled."""
        return self.donor is not None and not (pd.Series(self.values).groupby(self.donor).nunique() > 1).any()

    @property
    def blocks(self) -> np.ndarray:
        """Block of each cell, inside which cells are relabelled."""
        return self.fold if self.donor is None else self.donor

    def relabellings(self) -> float:
        """Number of different relabellings, at most the largest float."""
        units = pd.DataFrame({"block": self.blocks, "value": self.values})
        if self.whole:
            units = units.drop_duplicates().assign(block=0)
        # All orders of a block, but for those of equal values among themselves.
        orders, same = (gammaln(units.value_counts(list(by)) + 1).sum() for by in (["block"], ["block", "value"]))
        return float(np.exp(min(orders - same, _LARGEST)).round())


def _read(
    adata: AnnData,
    model: CellModel | str | Path,
    labels: str,
    layers: str | Sequence[int],
    folds: int,
    batch_size: int | None,
    max_tokens: int | None,
    seed: int,
    min_gene_share: float,
    progress: bool,
    expression: bool,
) -> pd.DataFrame:
    model = as_model(model)
    wanted = layers_of(model, layers)
    donors = column(adata, "donor") if "donor" in adata.obs else None
    names = adata.obs_names.to_numpy(dtype=str)
    tokenizer = model.tokenizer(adata, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share)
    panel = choose_panel(adata, tokenizer.match, _PANEL)
    target, kind_of_folds = _target(adata, labels, names, donors, folds, seed)
    check_cells(tokenizer, adata.obs_names)
    x = panel_expression(as_cells(adata), panel).toarray()
    targets = [target]
    if expression:
        most = np.argsort(-(x > 0).sum(0), kind="stable")[:_READ]
        every = np.arange(len(adata))
        fold = make_folds(make_groups(names, donors, folds, seed), np.zeros(len(adata)), folds, seed)
        targets.append(_Target("expression", "expression", x[:, most], fold, every))
    streams = {
        who: _streams(one, tokenizer, wanted, batch_size, progress)
        for who, one in ((MODEL, model), (UNTRAINED, model.untrained(seed)))
    }
    rows = []
    for one in targets:
        base = _scores(x, one, model.config.d_model, seed)
        described = _described(base, None, one, folds)
        rows.append({"reads": one.name, "features": EXPRESSION, "layer": np.nan, "pool": "", **described})
        for who, found in streams.items():
            for (layer, pool), features in found.items():
                own = _scores(features, one, None, seed)
                rows.append(
                    {
                        "reads": one.name,
                        "features": who,
                        "layer": layer,
                        "pool": pool,
                        **_described(own, base, one, folds),
                    }
                )
    return pd.DataFrame(rows).assign(folds_of=kind_of_folds)


def _target(
    adata: AnnData, labels: str, names: np.ndarray, donors: np.ndarray | None, folds: int, seed: int
) -> tuple[_Target, str]:
    text = column(adata, labels)
    values = adata.obs[labels]
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    known = np.isfinite(values.to_numpy(dtype=float)) if number else text != ""
    if not number:
        classes, counts = np.unique(text[known], return_counts=True)
        kept = classes[counts >= 2 * folds]
        if len(kept) < 2:
            raise EvaluationError(
                f"{len(kept)} of {len(classes)} values of '{labels}' have {2 * folds} cells or more, two a fold; a probe needs two such classes. "
                "Take more cells, fewer folds, or a coarser column."
            )
        known &= np.isin(text, kept)
    # By name: the order of the cells decides no draw.
    rows = np.flatnonzero(known)[np.argsort(names[known], kind="stable")]
    if len(rows) < 2 * folds:
        raise EvaluationError(f"{len(rows)} cells have a value of '{labels}'; {folds} folds need {2 * folds} at least.")
    own = None if donors is None else donors[rows]
    groups = make_groups(names[rows], own, None, seed)
    if donors is not None and len(groups) < folds:
        raise EvaluationError(
            f"Folds hold out whole donors, and the cells are of {len(groups)}. Give cells of more donors"
            f"{f', folds={len(groups)},' if len(groups) > 1 else ','} or drop the column 'donor' to hold out cells."
        )
    fold = make_folds(groups, np.zeros(len(rows)) if number else text[rows], folds, seed)
    found = values.to_numpy(dtype=float)[rows] if number else text[rows]
    for k in np.unique(fold):
        if not number and len(only := np.unique(found[fold != k])) < 2:
            raise EvaluationError(
                f"Outside one of the {folds} folds every cell has the {labels} '{only[0]}', so that a probe would learn nothing there. Take "
                "more folds, or more donors."
            )
    kind = "depth" if number else "classes"
    return _Target(labels, kind, found, fold, rows, own), "cells" if donors is None else "donors"


def _streams(
    model: CellModel, tokenizer: Any, layers: Sequence[int], batch_size: int | None, progress: bool
) -> dict[tuple[int, str], np.ndarray]:
    """Residual stream in front of the first layer and after others: that of ``<cls>``, and the mean over genes."""
    names = {FRONT: -1, **{f"blocks.{layer}.hook_resid_post": layer for layer in layers}}
    sink = PooledSink()
    capture(model, tokenizer, list(names), sink, batch_size=batch_size, progress=progress)
    return {(names[name], pool): stream for (name, pool), stream in sink.streams().items()}


def _scores(
    features: Float[np.ndarray, "cell feature"], target: _Target, components: int | None, seed: int
) -> dict[str, Any]:
    """Held-out scores by fold, and what was said of each cell."""
    x, values = features[target.rows], []
    said = np.empty(target.values.shape, target.values.dtype)
    for k in np.unique(target.fold):
        train, test = target.fold != k, target.fold == k
        fit, judged = x[train], x[test]
        if components is not None:
            pca = PCA(min(components, *fit.shape), svd_solver="covariance_eigh").fit(fit)
            fit, judged = pca.transform(fit), pca.transform(judged)
        if target.kind == "expression":
            readout = make_pipeline(DoubleScaler(), RidgeCV(np.logspace(-2, 4, 7)))
        else:
            readout = untrained_readout(target.kind, seed=seed)
        said[test] = readout.fit(fit, target.values[train]).predict(judged)
        truth = target.values[test]
        if target.kind == "expression":
            around = ((truth - target.values[train].mean(0)) ** 2).sum()
            values.append({"variance explained": 1 - ((truth - said[test]) ** 2).sum() / around})
        else:
            values.append(score(target.kind, truth, said[test]))
    metric = next(iter(values[0]))
    return {"metric": metric, "values": np.array([one[metric] for one in values]), "said": said}


def _described(found: dict[str, Any], base: dict[str, Any] | None, target: _Target, folds: int) -> dict[str, Any]:
    # A fold of one value alone has no rank correlation.
    values = found["values"][known := np.isfinite(found["values"])]
    row = {"metric": found["metric"], "value": values.mean() if len(values) else np.nan}
    row["sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
    null = dict.fromkeys(("null_mean", "null_high", "p", "p_least", "n_relabellings"), float("nan"))
    relabelled = ""
    if target.kind != "expression":
        drawn, n = null_summary(row["value"], _null(found["said"], target)), target.relabellings()
        null = {name: drawn[name] for name in ("null_mean", "null_high")}
        # Draws may miss the labels as they are, which are one of so many relabellings.
        least = 1 / min(1 + _DRAWS, n)
        null |= {"p": np.maximum(drawn["p"], least), "p_least": least, "n_relabellings": n}
        relabelled = "donors" if target.whole else f"cells in {'folds' if target.donor is None else 'donors'}"
    names = ("difference", "low", "high", "p")
    apart = dict.fromkeys(names, float("nan"))
    if base is not None:
        lead = values - base["values"][known]
        apart |= {k: v for k, v in corrected_difference(lead[np.isfinite(lead)], 1 / folds).items() if k in names}
    difference = {("p_difference" if name == "p" else name): apart[name] for name in names}
    sizes = {"n_cells": len(target.rows), "n_folds": len(values)}
    return {**row, **null, **difference, **sizes, "relabelled": relabelled}


def _null(said: np.ndarray, target: _Target) -> Float[np.ndarray, " draw"]:
    """Mean score over folds where the labels of judged cells, or of their donors, are dealt anew; see the notes of `probe`."""
    names, truth = np.unique(target.values, return_inverse=True)
    if target.kind == "classes":
        # A readout says no other class than these.
        said = np.searchsorted(names, said)
    donors, first, of_donor = np.unique(target.blocks, return_index=True, return_inverse=True)
    if target.whole:
        dealt = _dealt(truth[first], "donors")
    scores = []
    for k in np.unique(target.fold):
        test = np.flatnonzero(target.fold == k)
        draws = np.empty((_DRAWS, len(test)), dtype=truth.dtype)
        for block in np.unique(of_donor[test]):
            here = of_donor[test] == block
            draws[:, here] = dealt[:, [block]] if target.whole else _dealt(truth[test[here]], str(donors[block]))
        of = draws if target.kind == "classes" else names[draws]
        scores.append(next(iter(score_many(target.kind, of, said[None, test]).values())))
    each = np.array(scores)
    known = np.isfinite(each)
    mean = np.where(known, each, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
    middle = np.nanmean(mean) if np.isfinite(mean).any() else np.nan
    return middle + np.sqrt(2) * (mean - middle)


def _dealt(truth: Int[np.ndarray, " unit"], block: str) -> Int[np.ndarray, "draw unit"]:
    return generator(0, "probe null", block).permuted(np.tile(truth, (_DRAWS, 1)), axis=1)
