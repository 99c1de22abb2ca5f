"""How many dimensions, how isotropic, how faithful to expression and whose variance: of embeddings and of every layer, beside baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from workbench.capture import capture
from workbench.capture.pooled import FRONT, PooledSink
from workbench.cells.genes import MIN_SHARE
from workbench.errors import CellsError, EvaluationError, HookError, unknown_name
from workbench.geometry.reference import make_reference
from workbench.geometry.space_draws import BASELINE, COLUMNS, MODEL, RANDOM
from workbench.geometry.space_tables import measure_space
from workbench.models import CellModel
from workbench.models.load import as_model
from workbench.seeds import order_of
from workbench.tools.common import as_cells, check_cells, column, layers_of

HOOKS = ("resid_post", "attn_out", "mlp_out")


def measure_geometry(
    adata: AnnData,
    what: str | Sequence[str] | Mapping[str, Any] | CellModel = (),
    *,
    model: CellModel | str | Path | None = None,
    layers: str | Sequence[int] = "all",
    hooks: Sequence[str] = HOOKS,
    cell_type: str | None = "cell_type",
    batch: str | None = "batch",
    donor: str | None = "donor",
    ks: Sequence[int] = (15, 30, 50),
    n_draws: int = 200,
    convention: str = "",
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    progress: bool = True,
) -> pd.DataFrame:
    """Geometry of embeddings, and of every layer of a model, beside that of expression, PCA and the model before training.

    Parameters
    ----------
    adata
        Cells, as `workbench.load` gives them or as they were read; counts, or normalised values, which are then said to be no counts.
    what
        Key or keys of ``obsm``; or embeddings by name: a table of which the index names cells is put in the cells' order. Or the model.
    model
        Model, or the path of its checkpoint folder, whose layers are read; none when None.
    layers
        ``all``, or numbers of layers from 0.
    hooks
        What is read of each: ``resid_post`` (residual stream behind it), ``attn_out``, ``mlp_out``; each for ``<cls>`` and as mean over genes.
    cell_type, batch, donor
        Columns of ``obs``; a default that is not there is left out, and the batch is then the donor. Neighbours are searched inside batches.
    ks
        Neighbourhood sizes of R_NX, each smaller than a batch.
    n_draws, convention
        As in `geometry.space_tables.measure_space`.
    batch_size, max_tokens, seed, min_gene_share, progress
        As in `workbench.embed`; the seed is that of draws and of random weights, too.

    Returns
    -------
    pandas.DataFrame
        ``source`` (``model``, ``random weights`` or ``baseline``), ``layer`` (-1 in front of the first), ``hook`` (and how tokens were pooled; or the
        name of an embedding), and the columns of `geometry.space_tables.measure_space`: ``measure``, ``scope``, ``value``, ``low``,
        ``high``, ``n``, ``note``. A space that cannot be measured has one row, ``not measured``, whose note says why.

    Raises
    ------
    CellsError
        If a key or column is not there (near matches are listed), an embedding holds NaN, or is of other cells.
    EvaluationError
        If no batch has enough cells for the neighbours.
    HookError
        If a layer or hook does not exist.

    Notes
    -----
    Expression is the leading 512 principal components of the Pearson residuals of 2,000 genes, and PCA the first 50 of them; where there are no counts,
    both are of log-normalised values.

    Examples
    --------
    >>> import numpy as np
    >>> import workbench
    >>> from anndata import AnnData
    >>> cells = workbench.load(AnnData(np.random.default_rng(0).poisson(2.0, (80, 60)).astype(np.float32)), values="counts")
    >>> cells.obsm["X_mine"] = np.random.default_rng(1).normal(size=(80, 5))
    >>> table = workbench.geometry(cells, "X_mine", n_draws=0)
    >>> table["hook"].unique().tolist()
    ['X_mine', 'expression', 'PCA, 50 components']
    """
    cells = as_cells(adata)
    if isinstance(what, CellModel):
        if model is not None:
            raise CellsError("Two models are given, one in the place of keys of obsm; give one.")
        model, what = what, ()
    embeddings = _embeddings(adata, what)
    if model is None and not embeddings:
        raise CellsError("Nothing to measure: name a key of obsm, or give a model.")
    read = None if model is None else as_model(model)
    kind, block, who = _labels(adata, cell_type, batch, donor)
    places = {} if read is None else _places(read, layers, hooks)
    order = order_of(seed, cells.obs_names, "part of cells")
    reference = make_reference(cells, block, k=max(ks), seed=seed)

    def measured(source: str, layer: float, hook: str, points: np.ndarray) -> pd.DataFrame:
        try:
            table = measure_space(
                points, expression=reference.expression, cell_type=kind, batch=block, donor=who, ks=ks, n_draws=n_draws, convention=convention,
                order=order, seed=seed,
            ).table  # fmt: skip
        except EvaluationError as error:
            nothing = ("not measured", "", np.nan, np.nan, np.nan, len(points), str(error))
            table = pd.DataFrame([nothing], columns=COLUMNS)
        return table.assign(source=source, layer=layer, hook=hook)[["source", "layer", "hook", *table.columns]]

    found = []
    if read is not None:
        tokenizer = read.tokenizer(adata, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share)
        check_cells(tokenizer, cells.obs_names)
        for source, one in ((MODEL, read), (RANDOM, read.untrained(seed))):
            sink = PooledSink()
            capture(one, tokenizer, list(places), sink, batch_size=batch_size, progress=progress)
            streams = sink.streams()
            for name, pool in sorted(streams, key=lambda key: (places[key[0]], key)):
                layer, hook = places[name]
                found.append(measured(source, layer, f"{hook} {pool}", streams.pop((name, pool))))
    baselines = {**embeddings, **reference.baselines()}
    found += [measured(BASELINE, np.nan, name, points) for name, points in baselines.items()]
    return pd.concat(found, ignore_index=True)


def _embeddings(cells: AnnData, what: str | Sequence[str] | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Embeddings by name, in the order of the cells; refused before any work."""
    if isinstance(what, Mapping):
        given = dict(what)
    else:
        given = {}
        for name in [what] if isinstance(what, str) else what:
            if name not in cells.obsm:
                raise CellsError(unknown_name("key of obsm", name, map(str, cells.obsm)))
            given[name] = cells.obsm[name]
    return {name: _embedding(cells, name, value) for name, value in given.items()}


def _embedding(cells: AnnData, name: str, value: Any) -> np.ndarray:
    if isinstance(value, pd.DataFrame):
        if not value.index.is_unique or (absent := cells.obs_names.difference(value.index)).size:
            why = (
                f"lacks {absent.size} of the {cells.n_obs} cells (first: '{absent[0]}')"
                if value.index.is_unique
                else "names a cell twice"
            )
            raise CellsError(f"The embedding '{name}' {why}; give it a row per cell, indexed by obs_names.")
        value = value.loc[cells.obs_names]
    points = np.asarray(value.toarray() if sp.issparse(value) else value)
    if points.ndim != 2 or len(points) != cells.n_obs or points.dtype.kind not in "fiu":
        raise CellsError(
            f"The embedding '{name}' has the shape {points.shape} and values of type {points.dtype}; it needs a row of numbers for each of "
            f"{cells.n_obs} cells."
        )
    bad = np.flatnonzero(~np.isfinite(points).all(1))
    if len(bad):
        raise CellsError(
            f"The embedding '{name}' holds NaN or infinite values in {len(bad)} of {cells.n_obs} cells (first: '{cells.obs_names[bad[0]]}'); leave these "
            "cells out."
        )
    return points.astype(np.float64)


def _labels(
    cells: AnnData, cell_type: str | None, batch: str | None, donor: str | None
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Cell types, batches and donors; a default that is not there is none, another name is refused."""
    found = [
        None if name is None or (name == default and default not in cells.obs) else column(cells, name)
        for name, default in ((cell_type, "cell_type"), (batch, "batch"), (donor, "donor"))
    ]
    if found[1] is None and batch is not None:
        found[1] = found[2]
    return found[0], found[1], found[2]


def _places(model: CellModel, layers: str | Sequence[int], hooks: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Layer and short name of each hook point to read."""
    for hook in hooks:
        if hook not in HOOKS:
            raise HookError(unknown_name("hook", hook, HOOKS))
    places = {f"blocks.{layer}.hook_{hook}": (layer, hook) for layer in layers_of(model, layers) for hook in hooks}
    return places | ({FRONT: (-1, "resid_post")} if "resid_post" in hooks else {})
