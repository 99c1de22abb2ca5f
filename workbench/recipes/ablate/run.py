"""A whole ablation: grid, sweep, effects, pairs, attribution and contrasts, in a notebook or from a configuration."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from workbench.ablation.attribution import AGREE, DRAWS, METHODS, attribute, compare_attribution
from workbench.ablation.build import Prepared, prepare
from workbench.ablation.effects import interactions, reliability, top_heads
from workbench.ablation.grid import make_grid, make_pairs, random_pairs
from workbench.ablation.metrics import Metric
from workbench.ablation.patching import activation_patching
from workbench.ablation.sites import HEAD, Ablation, Site, site
from workbench.ablation.sweeping import FromConfig, Opener, opened, sweep_effects
from workbench.cells.genes import MIN_SHARE
from workbench.engine.config import make_config
from workbench.engine.sweep import Backend
from workbench.errors import EvaluationError, unknown_name
from workbench.files import digest
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.settings import AblationConfig, ContrastConfig, StudyConfig, SweepConfig


def ablate(
    model: HookedScGPT,
    cells: AnnData,
    sites: str | Sequence[str | Site] = "heads",
    *,
    how: str = "mean",
    metrics: Sequence[str | Metric] = ("cell_shift", "label_loss"),
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
        The model.
    cells
        As `datasets.load` returns them.
    sites
        ``heads`` (every one), or labels: ``L2H1``, ``L2.attention``, ``L2.mlp``, ``L0.gene.CD3E``. Null draws are made for
        ``heads`` only.
    how
        ``zero``, ``mean`` or ``resample``.
    metrics
        Names as in `StudyConfig`, or a `Metric` of your own.
    null_draws
        Random-direction draws per head.
    n_cells
        Cells, drawn by seed and name; all when None.
    seed
        The one seed.
    min_gene_share
        Smallest share of the cells' genes that must be in the vocabulary.
    folder
        Where finished work is kept; the same call goes on there. Nothing is kept when None.
    backend
        Other than one task after the other, in this process.
    **settings
        Further settings of `StudyConfig`.

    Returns
    -------
    pandas.DataFrame
        As `effect_table` makes it, with ``unit``.

    Examples
    --------
    >>> ablate(model, cells, n_cells=100).sort_values("ratio").tail()
    """
    named = tuple(m for m in metrics if isinstance(m, str))
    own = [m for m in metrics if isinstance(m, Metric)]
    study = make_config(StudyConfig, metrics=named, cells=n_cells, **settings)
    every = isinstance(sites, str) and sites == "heads"
    wanted = () if every else tuple(str(site(s)) for s in ([sites] if isinstance(sites, str) else sites))
    sweep = make_config(SweepConfig, how=(how,), heads=every, sites=wanted, null_draws=null_draws if every else 0)
    grid = make_grid(model, sweep, seed)
    prepared = prepare(model, cells, study, grid, seed=seed, min_gene_share=min_gene_share, extra=own)
    return sweep_effects(prepared, grid, study, sweep, Path(folder) if folder else None, backend or Backend())[0]


@dataclass(frozen=True)
class AblationResult:
    """What `run_ablation` found.

    Attributes
    ----------
    prepared, cells, grid
        Study, all cells, and ablations.
    tables
        By name: ``effects``, and where asked for ``interactions``, ``attribution``, ``agreement``, ``transfer``.
    seconds
        Time of each part.
    skipped
        What was not done, and why.
    """

    prepared: Prepared
    cells: AnnData
    grid: list[Ablation]
    tables: dict[str, pd.DataFrame]
    seconds: Mapping[str, float]
    skipped: Mapping[str, str]


def run_ablation(config: AblationConfig, out: Path, backend: Backend) -> AblationResult:
    """Everything that an ablation configuration asks for.

    Parameters
    ----------
    config
        What to do.
    out
        Folder of the run; finished tasks in it are kept.
    backend
        How to run tasks.
    """
    opener = FromConfig(config.model_dump_json())
    seconds: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        seconds[name], clock = time.perf_counter() - clock, time.perf_counter()

    prepared, grid, cells = opened(opener)
    refuse_early(config, prepared)
    skipped = dict(prepared.notes)
    lap("preparation")
    effects, found = sweep_effects(prepared, grid, config.study, config.sweep, out / "sweep", backend, opener)
    tables = {"effects": effects}
    lap("sweep")
    if not config.sweep.heads:
        wanted = {"interactions": config.sweep.pairs_of_top > 0, "attribution": config.attribution}
        skipped |= {name: "the sweep leaves out the heads (sweep.heads)" for name, here in wanted.items() if here}
    if config.sweep.pairs_of_top and config.sweep.heads:
        tables["interactions"] = _pairs(config, prepared, grid, effects, found, out, backend, opener)
        lap("pairs")
    if config.attribution and config.sweep.heads:
        usable = [m for m in prepared.study.metrics if m.differentiable and m.name not in prepared.per_label]
        if usable:
            tables["attribution"], tables["agreement"] = _attributions(config, prepared, grid, found, usable)
            lap("attribution")
        else:
            skipped["attribution"] = "none of the metrics is differentiable"
    if config.contrasts:
        parts = [_contrast(config, prepared, contrast) for contrast in config.contrasts]
        tables["transfer"] = pd.concat(parts, ignore_index=True)
        lap("contrasts")
    return AblationResult(prepared, cells, grid, tables, seconds, skipped)


def refuse_early(config: AblationConfig, prepared: Prepared) -> None:
    """Refuse before the sweep what could not be done after it.

    Parameters
    ----------
    config, prepared
        Configuration, and its study.

    Raises
    ------
    EvaluationError
        For a pair of one head, an unknown metric to choose pairs by, or a contrast of cell types that are not there.
    """
    if config.sweep.pairs_of_top and config.sweep.heads:
        shape = prepared.study.model.config
        n = min(config.sweep.pairs_of_top, shape.n_layers * shape.n_heads)
        if n < 2:
            raise EvaluationError(f"A pair takes two heads, and sweep.pairs_of_top gives {n}; ask for more, or for 0.")
        _pairs_by(config, prepared)
    for contrast in config.contrasts:
        _sides(prepared, contrast)


def _pairs_by(config: AblationConfig, prepared: Prepared) -> str:
    names = list(prepared.metrics)
    metric = config.sweep.pairs_by or names[0]
    if metric not in names:
        labels = "" if "cell_type" in prepared.obs else " The metrics of labels need data.cell_type."
        raise EvaluationError(unknown_name("metric for sweep.pairs_by", metric, names) + labels)
    return metric


def _pairs(
    config: AblationConfig,
    prepared: Prepared,
    grid: Sequence[Ablation],
    effects: pd.DataFrame,
    found: dict[str, np.ndarray],
    out: Path,
    backend: Backend,
    opener: Opener,
) -> pd.DataFrame:
    names = list(prepared.metrics)
    how = config.sweep.how[0]
    heads = top_heads(effects[effects["how"] == how], _pairs_by(config, prepared), config.sweep.pairs_of_top)
    at = {str(one): i for i, one in enumerate(grid) if one.how == how and one.rotation is None and _is_head(one)}
    top = make_pairs(heads, how, config.seed)
    random = random_pairs(sorted(at), top, how, config.seed)
    pairs = [*top, *random]
    _, both = sweep_effects(
        prepared,
        pairs,
        config.study,
        config.sweep,
        out / f"pairs-{digest([p.key for p in pairs])[:8]}",
        backend,
        opener,
    )
    parts = []
    for name in names:
        singles = {head: found[name][i] for head, i in at.items()}
        together = {(str(p.sites[0]), str(p.sites[1])): both[name][i] for i, p in enumerate(pairs)}
        table = interactions(
            singles,
            together,
            {(str(p.sites[0]), str(p.sites[1])) for p in random},
            draws=config.study.bootstrap,
            seed=config.seed,
            groups=prepared.donors_by_name,
        )
        parts.append(table.assign(metric=name, how=how))
    return pd.concat(parts, ignore_index=True)


def _is_head(one: Ablation) -> bool:
    return len(one.sites) == 1 and one.sites[0].kind == HEAD


def _attributions(
    config: AblationConfig,
    prepared: Prepared,
    grid: Sequence[Ablation],
    found: dict[str, np.ndarray],
    metrics: Sequence[Metric],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimates beside exact effects; with the second-order term too where the plain gradient disagrees."""
    shape = prepared.study.model.config
    how = config.sweep.how[0]
    rows = [i for i, one in enumerate(grid) if one.how == how and one.rotation is None and _is_head(one)]
    cells = prepared.by_name.tolist()
    tables, agreement = [], []
    for metric in metrics:
        exact = found[metric.name][rows].reshape(shape.n_layers, shape.n_heads, -1)
        steady = reliability(exact.reshape(shape.n_layers * shape.n_heads, -1), config.seed)
        for method, draws in zip(METHODS[:2], (0, DRAWS), strict=True):
            began = time.perf_counter()
            estimate = attribute(prepared.study, metric, cells, how, draws=draws)
            seconds = time.perf_counter() - began
            with warnings.catch_warnings():
                # The table of agreement and the report say it; the second order is tried next.
                warnings.simplefilter("ignore", UserWarning)
                table, rho = compare_attribution(estimate, exact, metric.name, method)
            tables.append(table)
            line = {
                "metric": metric.name,
                "method": method,
                "how": how,
                "spearman": rho,
                "split_half": steady,
                "n_heads": len(table),
            }
            agreement.append({**line, "n_cells": len(cells), "seconds": seconds, "agrees": bool(rho >= AGREE)})
            if rho >= AGREE:
                break
    return pd.concat(tables, ignore_index=True), pd.DataFrame(agreement)


def _sides(prepared: Prepared, contrast: ContrastConfig) -> list[np.ndarray]:
    """Numbers of the target cells and of the source cells."""
    obs = prepared.obs
    if "cell_type" not in obs:
        raise EvaluationError("A contrast needs cell types, and the cells have none; set data.cell_type.")
    labels = obs["cell_type"].astype(str).to_numpy()
    sides = []
    for name in (contrast.target, contrast.source):
        if name not in labels:
            raise EvaluationError(f"Contrast: {unknown_name('cell type', name, sorted(set(labels)))}")
        sides.append(np.flatnonzero(labels == name))
    if contrast.target == contrast.source:
        raise EvaluationError(f"Contrast: target and source are both '{contrast.target}'; name two cell types.")
    return sides


def _contrast(config: AblationConfig, prepared: Prepared, contrast: ContrastConfig) -> pd.DataFrame:
    sides = _sides(prepared, contrast)
    target, source = (prepared.study.tokens.take(rows.tolist()) for rows in sides)
    return activation_patching(
        prepared.study.model,
        target,
        source,
        names=(contrast.target, contrast.source),
        donors=None if prepared.donors is None else prepared.donors[sides[0]],
        seed=config.seed,
        draws=config.study.bootstrap,
        batch_size=config.study.batch_size,
    )
