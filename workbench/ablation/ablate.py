"""`ablate`: from a model and cells to a table of effects in one call."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData
from tqdm import tqdm

from workbench import __version__
from workbench.ablation.build import prepare
from workbench.ablation.effects import effect_table
from workbench.ablation.grid import describe_grid, identity, make_grid
from workbench.ablation.metrics import Metric
from workbench.ablation.settings import StudyConfig, SweepConfig
from workbench.ablation.sites import Ablation, Site, site
from workbench.ablation.study import Study
from workbench.ablation.sweeping import Found, sweep
from workbench.cells.formats import check_anndata
from workbench.cells.genes import MIN_SHARE
from workbench.engine.config import make_config
from workbench.engine.sweep import Backend
from workbench.errors import EvaluationError
from workbench.models import CellModel
from workbench.models.load import as_model

_DEFAULT = ("cell_shift", "label_loss")


def ablate(
    model: CellModel | str | Path,
    cells: AnnData,
    sites: str | Sequence[str | Site] = "heads",
    *,
    how: str = "mean",
    metrics: Sequence[str | Metric] | None = None,
    null_draws: int = 20,
    n_cells: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    folder: str | Path | None = None,
    backend: Backend | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Ablate heads, or other parts, of a model, and say what that does.

    Parameters
    ----------
    model
        The intact model; never changed.
    cells
        As `datasets.load` returns them; never changed.
    sites
        ``heads`` (every one), or labels: ``L2H1``, ``L2.attention``, ``L2.mlp``, ``L0.gene.CD3E``. Null draws are made for
        ``heads`` only.
    how
        What is put in its place: ``zero``, ``mean`` or ``resample``.
    metrics
        Names as in `StudyConfig`, or a `Metric` of your own; by default ``cell_shift``, and ``label_loss`` where the cells have labels enough.
        What is left out is said on stderr.
    null_draws
        Random-direction draws per head, from 0.
    n_cells
        Number of cells, drawn by seed and name; all of them when None.
    seed
        The one seed of everything that is drawn.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.
    folder
        Where finished work is kept; the same call goes on there. Nothing is kept when None.
    backend
        Who does the tasks; one after the other in this process when None.
    **settings
        Further settings of `StudyConfig`, by their keys there.

    Returns
    -------
    pandas.DataFrame
        As `effect_table` makes it, with ``unit`` and ``fallback_share``.

    Raises
    ------
    ConfigError
        If a setting is unknown or out of range.
    OutputError
        If the folder holds another sweep; the difference is said.

    Examples
    --------
    >>> ablate(model, cells, n_cells=100).sort_values("ratio").tail()  # doctest: +SKIP
    """
    model = as_model(model)
    every = isinstance(sites, str) and sites == "heads"
    wanted = () if every else tuple(str(site(s)) for s in ([sites] if isinstance(sites, str) else sites))
    swept = make_config(SweepConfig, how=(how,), heads=every, sites=wanted, null_draws=null_draws if every else 0)
    grid = make_grid(model, swept, seed)
    study, asked = make_study(
        model, cells, grid, metrics=metrics, n_cells=n_cells, seed=seed, min_gene_share=min_gene_share, **settings
    )
    backend = backend or Backend()
    made_from = {"workbench": __version__, **identity(study, grid, swept.block)}
    with tempfile.TemporaryDirectory() as temporary:
        found = sweep(study, grid, swept.block, Path(folder or temporary).expanduser(), backend, made_from)
    return effects_of(study, grid, found, asked.bootstrap, backend.progress)


def make_study(
    model: CellModel,
    cells: AnnData,
    grid: Sequence[Ablation],
    *,
    metrics: Sequence[str | Metric] | None,
    n_cells: int | None,
    seed: int,
    min_gene_share: float,
    default: Sequence[str] = _DEFAULT,
    **settings: Any,
) -> tuple[Study, StudyConfig]:
    """Study of what was asked for in Python; what is left out of it is said on stderr.

    Parameters
    ----------
    model, cells, metrics, n_cells, seed, min_gene_share
        As in `ablate`.
    grid
        What will be ablated; decides which references are needed.
    default
        Metrics when none are named; the ones after the first are left out where the cells do not allow them.
    **settings
        Further settings of `StudyConfig`, by their keys there.
    """
    check_anndata(cells)
    wanted = default if metrics is None else metrics
    named = tuple(m for m in wanted if isinstance(m, str))
    own = [m for m in wanted if isinstance(m, Metric)]
    asked = make_config(StudyConfig, metrics=named, cells=n_cells, **settings)
    given: dict[str, Any] = {"seed": seed, "min_gene_share": min_gene_share, "extra": own}
    try:
        study = prepare(model, cells, asked, grid, **given)
    except EvaluationError as error:
        if metrics is not None:
            raise
        print(f"[ablate] {', '.join(default[1:])} is left out: {error}", file=sys.stderr)
        study = prepare(model, cells, asked.model_copy(update={"metrics": tuple(default[:1])}), grid, **given)
    for name, why in study.notes.items():
        print(f"[ablate] {name} is left out: {why}", file=sys.stderr)
    return study, asked


def effects_of(
    study: Study, grid: Sequence[Ablation], found: Found, draws: int, progress: bool = False
) -> pd.DataFrame:
    """Table of effects of a sweep.

    Parameters
    ----------
    study
        Metrics, and donors where there are any.
    grid
        Ablations, in the order in which they were swept.
    found
        What the sweep found for each cell.
    draws
        Number of bootstrap draws of each interval.
    progress
        Show a progress bar of effects on stderr.

    Returns
    -------
    pandas.DataFrame
        As `effect_table` makes it, with ``unit`` and ``fallback_share``.
    """
    worse = {metric.name: metric.worse for metric in study.metrics}
    groups = study.donors_by_name
    described = describe_grid(grid)
    n = len(found.effects) * int((described["null"] < 0).sum())
    with tqdm(total=n, unit="effect", desc="effects", disable=not progress) as bar:
        more: dict[str, Any] = {"groups": groups, "worse": worse, "bar": bar}
        table = effect_table(dict(found.effects), described, draws=draws, seed=study.seed, **more)
    table["unit"] = table["metric"].map({metric.name: metric.unit for metric in study.metrics})
    share = {(str(one), one.how): x for one, x in zip(grid, found.fallback_share, strict=True) if one.rotation is None}
    table["fallback_share"] = [share[at] for at in zip(table["ablation"], table["how"], strict=True)]
    return table
