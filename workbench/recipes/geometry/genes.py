"""The stage of genes: what the axes of their mean residual vectors go with, beyond expression level."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.engine.stages import Result, Results
from workbench.errors import ConfigError
from workbench.factors.gene_sets import load_gene_sets
from workbench.files import digest, hash_file
from workbench.recipes.geometry.config import GenesConfig
from workbench.recipes.geometry.context import GeometryContext
from workbench.tools.gene_geometry import gene_geometry
from workbench.tools.gene_inputs import read_edges

TABLES = ("gene_spectrum", "gene_axes", "gene_edges", "gene_terms", "gene_lists")


def gene_inputs(context: GeometryContext, asked: GenesConfig) -> dict[str, Any]:
    """What the stage depends on beside cells and weights; files that cannot be read are refused here.

    Parameters
    ----------
    context
        Geometry of which nothing was done.
    asked
        Section ``genes`` of its configuration.

    Raises
    ------
    ConfigError
        If a file cannot be read.
    EvaluationError
        If a network has no edge between two genes of these cells.
    """
    sets = None if asked.sets is None else load_gene_sets(asked.sets)
    for path in [one.path for one in asked.edges.values()] + ([asked.covariates] if asked.covariates else []):
        if not path.is_file():
            raise ConfigError(f"The table of genes '{path}' does not exist; check the path.")
    if asked.edges:
        read_edges(_edges(asked), context.tokenizer(context.cells).match.genes)
    if asked.covariates:
        _covariates(asked.covariates)
    return {
        **asked.model_dump(mode="json", include={"axes", "min_cells", "null_draws"}),
        "sets": None if sets is None else digest(sets.name, sets.sets, sets.sources),
        "edges": {name: hash_file(one.path) for name, one in asked.edges.items()},
        "covariates": hash_file(asked.covariates) if asked.covariates else None,
    }


def genes_stage(context: GeometryContext, folder: Path, _: Results) -> Result:
    """Pass the cells through the model and through random weights, and test sets and networks on the axes of genes.

    Parameters
    ----------
    context
        Geometry whose cells are loaded.
    folder
        Not used: everything goes to tables.
    _
        Results of other stages, of which none is needed.

    Returns
    -------
    dict
        ``notes``, what was left out, in sentences.
    """
    asked, spaces = context.config.genes, context.config.spaces
    assert asked is not None
    found = gene_geometry(
        context.cells,
        context.model,
        sets=asked.sets,
        edges=_edges(asked) if asked.edges else None,
        covariates=_covariates(asked.covariates) if asked.covariates else None,
        layers=spaces.layers,
        n_axes=asked.axes,
        draws=asked.null_draws,
        min_cells=asked.min_cells,
        batch_size=spaces.batch_size,
        max_tokens=spaces.max_tokens,
        seed=context.config.seed,
        min_gene_share=context.config.data.min_gene_share,
        progress=context.backend.progress,
    )
    tables = (found.spectrum, found.axes, found.edges, found.terms, found.edge_lists)
    context.write(dict(zip(TABLES, tables, strict=True)))
    return {"notes": list(found.notes)}


def _edges(asked: GenesConfig) -> dict[str, pd.DataFrame | str | Path]:
    return {name: one.path for name, one in asked.edges.items()}


@cache
def _covariates(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=0, keep_default_na=True, na_values=[""])
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The table of covariates '{path}' cannot be read ({' '.join(str(error).split())[:100]})."
        ) from error
