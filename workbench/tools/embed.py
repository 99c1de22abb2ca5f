"""The cell embedding of a model, and the latent of an exported algorithm, as a slot of an AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from workbench.cells.genes import MIN_SHARE
from workbench.errors import HookError, ShapeError, unknown_name
from workbench.models import CellModel
from workbench.models.load import as_model
from workbench.models.outputs import CELL_STYLES, CLS, need_cell, pool
from workbench.models.tokens import Tokens
from workbench.operators.algorithm import Algorithm
from workbench.operators.apply import LATENT
from workbench.tools.common import as_cells, check_cells, check_slot, passes, put

EMBEDDING = "X_scgpt"


def embed(
    adata: AnnData,
    model: CellModel | str | Path,
    *,
    layer: int | None = None,
    cell_style: str | None = None,
    normalise: bool = True,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    progress: bool = True,
    key_added: str | None = None,
) -> AnnData | None:
    """Cell embedding of each cell, which scGPT's own embedding task gives on the same tokens.

    Parameters
    ----------
    adata
        Cells, as `workbench.load` gives them or as they were read; counts or normalised values.
    model
        Model, or the path of its checkpoint folder.
    layer
        Layer after which the embedding is taken, from 0, or from the end where negative; the last when None.
    cell_style
        ``cls`` (the residual stream of ``<cls>``), ``avg-pool`` (the mean over positions) or ``w-pool`` (weighted by the binned values, of
        length 1); the checkpoint's own when None.
    normalise
        Give rows the length 1, as scGPT's embedding task does.
    batch_size
        Cells per pass, at most; 16 by default. Changes results by rounding only.
    max_tokens
        Longest sequence with ``<cls>``, of longer cells a sample of genes is read; the checkpoint's own when None.
    seed
        Seed of that sample and of the ties of the binning, with the name of each cell.
    min_gene_share
        Smallest share of the cells' genes that the model must know.
    progress
        Show a progress bar on stderr.
    key_added
        Write into ``adata.obsm`` under this name and return nothing, as scanpy does; by default the cells are left alone.

    Returns
    -------
    AnnData or None
        Copy of the cells with ``obsm["X_scgpt"]`` (cell, d_model), float32, and the settings in ``uns["X_scgpt"]``.

    Raises
    ------
    CellsError
        If a cell expresses none of the genes that the model knows.
    GeneMatchError
        If too few genes are known.
    OutputError
        If ``obsm`` holds something of that name that the workbench has not made.

    Examples
    --------
    >>> import numpy as np
    >>> import workbench
    >>> from anndata import AnnData
    >>> model = workbench.plant_head().model
    >>> cells = AnnData(np.random.default_rng(0).poisson(2.0, (20, 60)).astype(np.float32))
    >>> cells.var_names = model.vocabulary.genes
    >>> workbench.embed(cells, model, progress=False).obsm["X_scgpt"].shape
    (20, 32)
    """
    check_slot(adata, "obsm", key_added)
    model = as_model(model)
    style, after = _place(model, layer, cell_style)
    tokenizer = model.tokenizer(adata, seed=seed, max_tokens=max_tokens, min_gene_share=min_gene_share)
    check_cells(tokenizer, adata.obs_names)

    def work(batch: Tokens) -> np.ndarray:
        cell = _cell(model, batch, style, after).float()
        return (torch.nn.functional.normalize(cell, dim=1) if normalise else cell).cpu().numpy()

    with torch.no_grad():
        found = np.concatenate(list(passes(model, tokenizer, work, batch_size, progress, "embed")))
    about = {
        "layer": after - 1,
        "cell_style": style,
        "normalised": normalise,
        "seed": seed,
        "model": model.fingerprint(),
    }
    return put(adata, "obsm", EMBEDDING, found, about, key_added)


def latent(
    adata: AnnData,
    algorithm: Algorithm | str | Path,
    *,
    min_coverage: float | None = None,
    key_added: str | None = None,
) -> AnnData | None:
    """Latent of each cell by an exported algorithm; neither torch nor the model is needed.

    Parameters
    ----------
    adata
        Cells, as `workbench.load` gives them or as they were read.
    algorithm
        Algorithm, or the folder that a run has left it in.
    min_coverage
        Smallest share of the algorithm's genes that must be measured, above 0; the algorithm's own limit when None.
    key_added
        As in `embed`.

    Returns
    -------
    AnnData or None
        Copy of the cells with ``obsm["X_workbench"]`` (cell, k), float32; NaN in cells that express none of its genes.

    Raises
    ------
    GeneMatchError
        If fewer genes are measured.
    CellsError
        If the scale of the values cannot be known; `workbench.load` takes it.

    Examples
    --------
    >>> import numpy as np
    >>> import workbench
    >>> from anndata import AnnData
    >>> cells = AnnData(np.array([[3.0, 1.0]]))
    >>> cells.var_names = ["CD3D", "MS4A1"]
    >>> known = workbench.Algorithm(("CD3D", "MS4A1"), np.eye(2), np.zeros(2), {}, {})
    >>> workbench.latent(workbench.load(cells, values="counts"), known).obsm["X_workbench"].round(2)
    array([[8.92, 7.82]], dtype=float32)
    """
    check_slot(adata, "obsm", key_added)
    known = algorithm if isinstance(algorithm, Algorithm) else Algorithm.from_pretrained(Path(algorithm).expanduser())
    found = known.transform(as_cells(adata), min_coverage).astype(np.float32)
    about: dict[str, Any] = {"n_genes": len(known.genes)}
    if not isinstance(algorithm, Algorithm):
        about["algorithm"] = str(algorithm)
    return put(adata, "obsm", LATENT, found, about, key_added)


def _place(model: CellModel, layer: int | None, cell_style: str | None) -> tuple[str, int]:
    """How and after how many layers the embedding is taken; refused before any pass."""
    n = model.config.n_layers
    if layer is not None and not -n <= layer < n:
        raise HookError(f"There is no layer {layer}: this model has layers 0 to {n - 1}.")
    if cell_style is None:
        need_cell(model.outputs)
    style = cell_style or model.config.cell_style
    if style not in CELL_STYLES:
        raise ShapeError(unknown_name("cell style", style, CELL_STYLES))
    if style == CLS:
        need_cell(model.outputs if model.config.cell_style == CLS else ("cell",))
    return style, n if layer is None else layer % n + 1


def _cell(model: CellModel, batch: Tokens, style: str, after: int) -> Tensor:
    if after == model.config.n_layers and style == model.config.cell_style:
        return cast(Tensor, model(batch).cell)
    return pool(model(batch, stop_at_layer=after).residual, batch.values, batch.padding, style)
