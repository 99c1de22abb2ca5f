"""What features cause: exact effects of ablating, clamping or scaling them, and estimates of all of them by gradients."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from jaxtyping import Float
from torch import Tensor

from workbench import __version__
from workbench.ablation.ablate import make_study
from workbench.ablation.attribution import AGREE, check_metric, scoring
from workbench.ablation.edits import Edits
from workbench.ablation.effects import bootstrap_weights, cell_means, interval
from workbench.ablation.grid import identity
from workbench.ablation.metrics import Metric
from workbench.ablation.nulls import ALPHA
from workbench.ablation.settings import SweepConfig
from workbench.ablation.sites import FEATURE, Ablation, Site, site
from workbench.ablation.study import Study
from workbench.ablation.sweeping import Found, sweep
from workbench.cells.genes import MIN_SHARE
from workbench.dictionaries.alike import compare_features, draw_alike, feature_usage
from workbench.dictionaries.dictionary import Dictionary
from workbench.dictionaries.splicing import spliced
from workbench.engine.sweep import Backend
from workbench.errors import HookError
from workbench.models import CellModel
from workbench.models.load import as_model
from workbench.models.outputs import Outputs
from workbench.seeds import generator
from workbench.stats import spearman

_DEFAULT, _WITH_GRADIENT = ("cell_shift", "label_loss"), ("masked_error", "label_loss")


def feature_effects(
    model: CellModel | str | Path,
    cells: AnnData,
    dictionary: Dictionary,
    features: Sequence[int] | None = None,
    *,
    how: str = "zero",
    amount: float | None = None,
    metrics: Sequence[str | Metric] | None = None,
    null_draws: int = 100,
    within: float = 2.0,
    n_cells: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    folder: str | Path | None = None,
    backend: Backend | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Change features one at a time, keep what the dictionary leaves out, and say what that does, beside features that are alike.

    Parameters
    ----------
    model, cells
        The intact model, and cells as `workbench.load` returns them; never changed.
    dictionary
        Dictionary of a hook of a block with a row per gene, or a transcoder.
    features
        Numbers of the features that are tested, chosen without a look at effects on these cells; all that fire there when None.
    how
        What is done to a feature at every gene: ``zero``, ``clamp`` (set to `amount`) or ``scale`` (multiplied by `amount`).
    amount
        Activation that a feature is set to, or factor; of the last two ways alone.
    metrics
        As `ablate` takes them; ``cell_shift`` by default, and ``label_loss`` where the cells have labels enough.
    null_draws
        Features drawn for each one as its null, at most, of those that are alike.
    within
        Factor within which firing rate and activation norm of such a feature lie, above 1.
    n_cells, seed, min_gene_share
        Cells drawn by seed and name (all when None), the one seed of everything that is drawn, and the smallest share of genes in the
        vocabulary.
    folder, backend
        Where finished work is kept, and who does it, as in `ablate`.
    **settings
        Further settings of `StudyConfig`, by their keys there, such as ``batch_size`` (without a part in the result).

    Returns
    -------
    pandas.DataFrame
        A row per metric and feature: ``metric``, ``unit``, ``worse``, ``ablation`` (label of the place), ``how``, ``amount``, ``kind``, ``layer``,
        ``feature``, ``rate``, ``norm`` (see `feature_usage`), ``effect``, ``low``, ``high``, ``sd``, ``se``, ``n_cells`` (as in `effect_table`);
        ``n_alike`` (features that are alike), ``n_null`` (drawn of them), ``null_rate``, ``null_norm`` (their geometric means), ``null_mean``,
        ``null_low``, ``null_high`` (of their effects), ``null_se`` (root mean square of their standard errors), ``ratio`` (size of the effect over
        the root mean square of theirs), ``p`` (see the notes), ``smallest_p`` (1 / (1 + n_null)), ``q`` (Benjamini-Hochberg over the features of a metric) and ``beyond``
        (q at most 0.05, and an interval without 0).

    Raises
    ------
    HookError
        If the dictionary is of another model or of no block, a feature does not exist, or the way and the amount do not go together.
    OutputError
        If the folder holds another sweep; the difference is said.

    Notes
    -----
    p is the share of the null, and of itself, with an effect of that size. The effect of a feature may scatter over cells more than theirs (``se`` above
    ``null_se``), and then it is larger by chance of the cells: so each of theirs is moved by chance of what it scatters more, see `nulls.p_among`.

    The null is other features of the same dictionary. So of all features at once p is a rank, and none of them can have a small q: what
    can come out is said on stderr. A few features, named beforehand, can be told from all others.

    Examples
    --------
    >>> feature_effects(model, cells, dictionary, features=[17, 30], n_cells=100)  # doctest: +SKIP
    """
    model = as_model(model)
    check_dictionary(model, dictionary)
    study, asked = make_study(
        model, cells, (), metrics=metrics, n_cells=n_cells, seed=seed, min_gene_share=min_gene_share, **settings
    )
    usage = feature_usage(model, dictionary, study.tokens, study.batch_size)
    tested = _chosen(features, dictionary, usage)
    drawn = draw_alike(usage, tested, null_draws, within, seed)
    every = draw_alike(usage, tested, dictionary.width, within, seed)
    swept = sorted({*tested, *(int(k) for others in drawn.values() for k in others)})
    grid = _grid(dictionary, swept, how, amount)
    backend = backend or Backend()
    found = _sweep(study, dictionary, grid, folder, backend)
    table = compare_features(found.effects, swept, drawn, draws=asked.bootstrap, seed=seed, groups=study.donors_by_name)
    _say_reach(table, backend.progress)
    own = usage.set_index("feature")
    about = pd.DataFrame(
        {
            "feature": tested,
            "rate": own.loc[tested, "rate"].to_numpy(),
            "norm": own.loc[tested, "norm"].to_numpy(),
            "n_alike": [len(every[k]) for k in tested],
            "null_rate": [_geometric(own.loc[drawn[k], "rate"]) for k in tested],
            "null_norm": [_geometric(own.loc[drawn[k], "norm"]) for k in tested],
        }
    )
    table = table.merge(about, on="feature", how="left")
    place = {int(one.sites[0].feature): one for one in grid}
    table["ablation"] = [str(place[k]) for k in table["feature"]]
    table["how"], table["amount"], table["kind"] = how, np.nan if amount is None else amount, FEATURE
    table["layer"] = grid[0].sites[0].layer
    table["unit"] = table["metric"].map({metric.name: metric.unit for metric in study.metrics})
    table["worse"] = table["metric"].map({metric.name: metric.worse for metric in study.metrics})
    front = ["metric", "unit", "worse", "ablation", "how", "amount", "kind", "layer", "feature", "rate", "norm"]
    return table[[*front, *(name for name in table.columns if name not in front)]]


@dataclass(frozen=True)
class Attribution:
    """Estimated effects of all features, and how far they are to be trusted.

    Attributes
    ----------
    table
        A row per metric and feature: ``metric``, ``feature``, ``rate``, ``norm``, ``estimated`` with ``low``, ``high`` (95 % bootstrap over cells or
        donors), ``n_cells``, and ``exact`` where it was swept, NaN elsewhere.
    agreement
        A row per metric: ``n_features`` (swept, drawn at random), ``n_cells``, ``spearman`` (of estimated with exact effects) and ``slope`` (of
        exact on estimated effects through the origin; 1 where they agree).
    """

    table: pd.DataFrame
    agreement: pd.DataFrame


def feature_attribution(
    model: CellModel | str | Path,
    cells: AnnData,
    dictionary: Dictionary,
    *,
    how: str = "zero",
    amount: float | None = None,
    metrics: Sequence[str | Metric] | None = None,
    check: int = 40,
    n_cells: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
    folder: str | Path | None = None,
    backend: Backend | None = None,
    **settings: Any,
) -> Attribution:
    """Estimate the effects of all features by one backward pass per batch and metric, and check some of them exactly.

    With a a feature's activation and d its change, the estimate is sum(d * dm/da) over genes, at the intact model with the error
    term kept (attribution patching: Nanda 2023). It is first order: silent on metrics that the model is at an extremum of, as
    ``cell_shift``, which is refused.

    Parameters
    ----------
    model, cells, dictionary, how, amount, n_cells, seed, min_gene_share, folder, backend
        As in `feature_effects`.
    metrics
        Metrics with a gradient; ``masked_error`` by default, and ``label_loss`` where the cells have labels enough.
    check
        Features that are swept exactly, too, drawn at random among those that fire.
    **settings
        Further settings of `StudyConfig`, by their keys there.

    Raises
    ------
    EvaluationError
        If a metric has no gradient.
    HookError
        As in `feature_effects`.

    Examples
    --------
    >>> feature_attribution(model, cells, dictionary, n_cells=100).agreement  # doctest: +SKIP
    """
    model = as_model(model)
    check_dictionary(model, dictionary)
    study, asked = make_study(
        model, cells, (), metrics=metrics, n_cells=n_cells, seed=seed, min_gene_share=min_gene_share,
        default=_WITH_GRADIENT, **settings,
    )  # fmt: skip
    for metric in study.metrics:
        check_metric(metric)
    usage = feature_usage(model, dictionary, study.tokens, study.batch_size)
    firing = np.flatnonzero(usage["rate"] > 0)
    sample = np.sort(generator(seed, "exact").permutation(firing)[:check]).tolist()
    grid = _grid(dictionary, sample or [0], how, amount)
    with spliced(model, {dictionary.hook: dictionary}, error=True):
        estimates = {
            metric.name: estimate_features(study, metric, grid[0])[:, study.by_name] for metric in study.metrics
        }
    exact = _sweep(study, dictionary, grid, folder, backend or Backend()).effects if sample else {}
    weights = bootstrap_weights(len(study.tokens), asked.bootstrap, seed, study.donors_by_name)
    tables, agreement = [], []
    for name, values in estimates.items():
        ends = np.array([interval(row, weights) for row in values])
        table = usage.assign(
            metric=name,
            estimated=cell_means(values),
            low=ends[:, 0],
            high=ends[:, 1],
            n_cells=np.isfinite(values).sum(1),
        )
        table["exact"] = np.nan
        if sample:
            table.loc[sample, "exact"] = cell_means(exact[name])
        tables.append(table)
        agreement.append(_agreement(name, table.loc[sample]))
    order = ["metric", "feature", "rate", "norm", "estimated", "low", "high", "n_cells", "exact"]
    return Attribution(pd.concat(tables, ignore_index=True)[order], pd.DataFrame(agreement))


def estimate_features(study: Study, metric: Metric, ablation: Ablation) -> Float[np.ndarray, "feature cell"]:
    """Estimated effect of changing each feature, per cell; NaN where a cell does not have the metric.

    Parameters
    ----------
    study
        Study whose model has the dictionary spliced in, the error term kept.
    metric
        A metric whose gradient at the intact model means something.
    ablation
        Ablation of any feature, which tells the hook, the way and the amount.
    """
    (place,) = ablation.sites

    def work(start: int, stop: int) -> np.ndarray:
        rows = np.arange(start, stop)
        tokens, target, mask, _ = study.batch(rows, (), masked=metric.masked)
        defined: list[Tensor] = []
        score = scoring(metric, rows, tokens, target, mask, defined)
        features, slope = _slopes(study.model, place, tokens, metric, score)
        change = Edits.amount(features, ablation) - features
        found = (change * slope).sum(1).T.double()
        return found.masked_fill(~defined[0], torch.nan).cpu().numpy()

    return np.concatenate(list(study.fitting.parts(len(study.tokens), work)), axis=1)


def _slopes(model: CellModel, place: Site, tokens: Any, metric: Metric, score: Any) -> tuple[Tensor, Tensor]:
    """Features of a batch, and the gradient of the score by each of them."""
    kept: list[Tensor] = []

    def leaf(x: Tensor, hook: object) -> Tensor:
        kept[:] = [x.detach().requires_grad_()]  # the weights want no gradient, so the graph starts here
        return kept[0]

    with torch.enable_grad(), model.hooks([(place.hook, leaf)]):
        out: Outputs = model(tokens, outputs=metric.needs)
        score(out).backward()
    slope = kept[0].grad
    return kept[0].detach(), torch.zeros_like(kept[0]) if slope is None else slope


def check_dictionary(model: CellModel, dictionary: Dictionary) -> None:
    """Refuse a dictionary whose features are at no block, beside one of another model.

    Parameters
    ----------
    model, dictionary
        The intact model, and the dictionary that is asked for.

    Raises
    ------
    HookError
        If it is of another model, or of a hook that is in no block.
    """
    dictionary.check(model)
    if not dictionary.origin.target.startswith("blocks."):
        raise HookError(
            f"The dictionary is of '{dictionary.origin.target}', which is in no block of the model; effects are of features in blocks, such as "
            "'blocks.2.hook_resid_post'."
        )


def _chosen(features: Sequence[int] | None, dictionary: Dictionary, usage: pd.DataFrame) -> list[int]:
    if features is None:
        return np.flatnonzero(usage["rate"] > 0).tolist()
    chosen = list(dict.fromkeys(int(k) for k in features))
    if wrong := [k for k in chosen if not 0 <= k < dictionary.width]:
        raise HookError(
            f"The dictionary of '{dictionary.hook}' has features 0 to {dictionary.width - 1}, but {wrong[0]} was asked for."
        )
    if not chosen:
        raise HookError("No feature was named; name at least one, or leave features out for all that fire.")
    return chosen


def _grid(dictionary: Dictionary, features: Sequence[int], how: str, amount: float | None) -> list[Ablation]:
    return [Ablation(site(f"{dictionary.origin.target}.F{k}"), how, amount=amount) for k in features]


def _sweep(
    study: Study, dictionary: Dictionary, grid: Sequence[Ablation], folder: str | Path | None, backend: Backend
) -> Found:
    """Effects of the grid per cell, in the order of the cells' names; finished work in the folder is kept."""
    block = SweepConfig().block
    with (
        tempfile.TemporaryDirectory() as temporary,
        spliced(study.model, {dictionary.hook: dictionary}, error=True),
    ):
        # With its weights in the fingerprint, a folder of another dictionary is refused.
        made_from = {"workbench": __version__, **identity(study, grid, block)}
        return sweep(study, grid, block, Path(folder or temporary).expanduser(), backend, made_from)


def _say_reach(table: pd.DataFrame, loud: bool) -> None:
    """That no q can be small, where it cannot."""
    one = table[table["metric"] == table["metric"].iloc[0]]
    reach = float(one["smallest_p"].min() * one["p"].notna().sum())
    if loud and reach > ALPHA:
        print(
            f"[features] {one['p'].notna().sum()} features beside {one['n_null'].max()} or fewer that are alike: a feature alone cannot have a q below "
            f"{min(1, reach):.2g}. Read the effects and p as ranks, or test fewer features, named beforehand.",
            file=sys.stderr,
        )


def _agreement(metric: str, rows: pd.DataFrame) -> dict[str, Any]:
    a, b = rows["estimated"].to_numpy(), rows["exact"].to_numpy()
    rho, square = spearman(a, b), float(a @ a)
    if len(rows) and not rho >= AGREE:
        warnings.warn(
            f"Attribution ranks features unlike exact ablation for '{metric}' (Spearman {rho:.2f} over {len(rows)} features, {AGREE} wanted): trust "
            "the exact effects.",
            stacklevel=3,
        )
    n_cells = int(rows["n_cells"].max()) if len(rows) else 0
    slope = float(a @ b) / square if square > 0 else np.nan
    return {"metric": metric, "n_features": len(rows), "n_cells": n_cells, "spearman": rho, "slope": slope}


def _geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values.to_numpy(dtype=float)).mean())) if len(values) else float("nan")
