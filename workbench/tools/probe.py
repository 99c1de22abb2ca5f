"""What can be read linearly after each layer, beside expression itself, the model before training, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.capture import capture
from workbench.capture.pooled import FRONT, PooledSink
from workbench.cells.expression import panel_expression
from workbench.cells.formats import check_anndata
from workbench.cells.genes import MIN_SHARE
from workbench.cells.groups import make_folds, make_groups
from workbench.cells.panel import choose_panel
from workbench.evidence.probing import ProbeTarget, describe_probe, label_target, probe_scores
from workbench.models import CellModel
from workbench.models.load import as_model
from workbench.tools.common import as_cells, check_cells, column, layers_of

MODEL, UNTRAINED, EXPRESSION = "model", "untrained model", "expression"
PANEL = 1200
_READ = 200


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
    check_anndata(adata)
    model = as_model(model)
    wanted = layers_of(model, layers)
    donors = column(adata, "donor") if "donor" in adata.obs else None
    names = adata.obs_names.to_numpy(dtype=str)
    tokenizer = model.tokenizer(adata, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share)
    panel = choose_panel(adata, tokenizer.match, PANEL)
    target = label_target(_values(adata, labels), labels, names, donors, folds, seed)
    check_cells(tokenizer, adata.obs_names)
    x = panel_expression(as_cells(adata), panel).toarray()
    targets = [target]
    if expression:
        most = np.argsort(-(x > 0).sum(0), kind="stable")[:_READ]
        every = np.arange(len(adata))
        fold = make_folds(make_groups(names, donors, folds, seed), np.zeros(len(adata)), folds, seed)
        targets.append(ProbeTarget("expression", "expression", x[:, most], fold, every))
    streams = {
        who: _streams(one, tokenizer, wanted, batch_size, progress)
        for who, one in ((MODEL, model), (UNTRAINED, model.untrained(seed)))
    }
    rows = []
    for one in targets:
        base = probe_scores(x, one, model.config.d_model, seed)
        described = describe_probe(base, None, one, folds)
        rows.append({"reads": one.name, "features": EXPRESSION, "layer": np.nan, "pool": "", **described})
        for who, found in streams.items():
            for (layer, pool), features in found.items():
                own = probe_scores(features, one, None, seed)
                rows.append(
                    {
                        "reads": one.name,
                        "features": who,
                        "layer": layer,
                        "pool": pool,
                        **describe_probe(own, base, one, folds),
                    }
                )
    return pd.DataFrame(rows).assign(folds_of="cells" if donors is None else "donors")


def _values(adata: AnnData, labels: str) -> np.ndarray:
    """A column as numbers, NaN where there is none, or else as text, empty where there is none."""
    text, values = column(adata, labels), adata.obs[labels]
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return values.to_numpy(dtype=float) if number else text


def _streams(
    model: CellModel, tokenizer: Any, layers: Sequence[int], batch_size: int | None, progress: bool
) -> dict[tuple[int, str], np.ndarray]:
    """Residual stream in front of the first layer and after others: that of ``<cls>``, and the mean over genes."""
    names = {FRONT: -1, **{f"blocks.{layer}.hook_resid_post": layer for layer in layers}}
    sink = PooledSink()
    capture(model, tokenizer, list(names), sink, batch_size=batch_size, progress=progress)
    return {(names[name], pool): stream for (name, pool), stream in sink.streams().items()}
