"""Steering: push cells along a direction of the residual stream, or a feature's, and see where they go, at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from jaxtyping import Float
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from workbench.ablation.effects import bootstrap_weights, interval
from workbench.ablation.metrics import at_least_single
from workbench.cells.genes import MIN_SHARE
from workbench.errors import CellsError, EvaluationError, HookError, ShapeError
from workbench.models import CellModel
from workbench.models.devices import Fitting
from workbench.models.load import as_model
from workbench.models.outputs import need_cell
from workbench.models.tokens import Tokens
from workbench.operators.readout import probe as untrained_readout
from workbench.seeds import generator, key
from workbench.stats import permutation_p
from workbench.tools.common import column, rows_of

if TYPE_CHECKING:
    from workbench.dictionaries.dictionary import Dictionary

MOVED, PROBABILITY, OTHERS, ERROR, DISTANCE = (
    "moved",
    "probability of source",
    "probability of other labels",
    "expression error",
    "distance from real cells",
)
# What source cells are expected to have more of than random directions give; of the others no direction is.
_TESTED = (MOVED, PROBABILITY)
FEWEST = 10


def steer(
    adata: AnnData,
    model: CellModel | str | Path,
    *,
    source: str | Sequence[str],
    target: str | Sequence[str],
    groupby: str = "cell_type",
    layer: int | None = None,
    direction: Float[np.ndarray, " d_model"] | tuple[Dictionary, int] | None = None,
    doses: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
    null_draws: int = 20,
    n_cells: int | None = 50,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
    min_gene_share: float = MIN_SHARE,
) -> pd.DataFrame:
    """Add a direction to every token of target cells behind one layer, and judge it by cells that it was not made from.

    Parameters
    ----------
    adata, model, batch_size, max_tokens, seed, min_gene_share
        As in `workbench.embed`.
    source, target, groupby
        Label or labels of the cells that are steered to, and of those that are steered; the column of ``obs`` that holds them.
    layer
        Layer behind which the direction is added, from 0; the middle one when None, and that of its hook for a feature.
    direction
        Direction of the residual stream; the difference between the mean streams over genes of source and target cells when None. Or a
        dictionary and the number of a feature: what it writes, times its mean activation where it fires in the cells that directions are made
        from, is added at the hook that the dictionary writes.
    doses
        Multiples of the direction that are added. At 1 a difference of means takes one mean to the other, in this layer, and a feature is as
        active everywhere as it is on average where it fires, beside what it is already.
    null_draws
        Random directions of the same length, the null: mixtures of what cells of one label differ by.
    n_cells
        Cells of each side, at most, drawn by seed and name; all when None. Half of the source cells and a third of the target cells make the
        direction, the other half and another third the axis and the probe; the last third is steered.

    Returns
    -------
    pandas.DataFrame
        One row per dose and measure, dose 0 included: ``value`` (mean over cells) with ``low`` and ``high`` (95 % bootstrap over cells, over
        donors where there are such), ``null_mean``, ``null_low``, ``null_high`` (mean and range of the random directions), ``p`` (one-sided, of `moved`
        and the probability of source), ``n_cells``, ``n_null``, ``layer``, ``norm`` (length of the direction). Measures: ``moved`` (share of the way
        between the mean cell embeddings), ``probability of source`` and ``probability of other labels`` (by a linear probe of intact cells),
        ``expression error`` (of the model's own predictions, bins squared) and ``distance from real cells`` (to the nearest intact cell, over the median
        distance of these to each other): side effects.

    Raises
    ------
    CellsError
        If a label does not exist, both sides share cells, or a side has fewer than 10.
    HookError
        If the layer does not exist, or the dictionary is of another model, layer or width, or has no such feature.
    ShapeError
        If the direction has another length than the stream.
    EvaluationError
        If the feature never fires in these cells, no dose was given, or cells of one label are all the same.

    Notes
    -----
    scGPT normalises after each sum, so that doses far above 1 leave little but the direction itself in the stream.

    Where two groups differ by chance alone, their difference goes along what cells differ by, and so does the axis. So the axis is taken from
    other cells than the direction, and random directions are mixtures of what cells of one label differ by, each less its label's mean in the
    stream: numbers drawn anew for each coordinate would go less far. A large p says that a direction is no more than those. How often p is small:
    `experiments/calibration_others.py`.

    Examples
    --------
    >>> table = workbench.steer(cells, model, source="CD14+ Monocyte", target="Dendritic")  # doctest: +SKIP
    >>> workbench.figures.dose_curves(table)  # doctest: +SKIP
    """
    labels = column(adata, groupby)
    sides = [rows_of(labels, side, adata.obs_names, n_cells, seed) for side in (source, target)]
    if set(sides[0]) & set(sides[1]):
        raise CellsError("Source and target share cells; name labels that exclude each other.")
    for name, rows in zip(("source", "target"), sides, strict=True):
        if len(rows) < FEWEST:
            raise CellsError(
                f"The {name} has {len(rows)} cells; steering needs {FEWEST}, some to make a direction and others to judge it."
            )
    asked = sorted({float(dose) for dose in doses} - {0.0})
    if not asked or not np.isfinite(asked).all():
        raise EvaluationError("No dose was given; name finite multiples of the direction, such as doses=(1, 2).")
    model = as_model(model)
    read: dict[str, Any] = {"seed": seed, "max_tokens": max_tokens, "min_gene_share": min_gene_share}
    need_cell(model.outputs)
    n = model.config.n_layers
    at = n // 2 if layer is None else layer
    if not -n <= at < n:
        raise HookError(f"There is no layer {layer}: this model has layers 0 to {n - 1}.")
    at, hook = at % n, f"blocks.{at % n}.hook_resid_post"
    if isinstance(direction, tuple):
        at, hook = _place(model, *direction, layer)
    # Parts by name, so that the order of the file means nothing.
    names = adata.obs_names
    (make_source, judge_source), (make_target, judge_target, pushed) = (
        [np.sort(part) for part in np.array_split(sorted(rows, key=lambda i: key(seed, "half", str(names[i]))), n)]
        for rows, n in zip(sides, (2, 3), strict=True)
    )
    others = [
        i for i in rows_of(labels, sorted(set(labels) - {""}), names, None, seed) if i not in {*sides[0], *sides[1]}
    ]
    others = sorted(sorted(others, key=lambda i: key(seed, "cell", str(names[i])))[: 4 * len(judge_source)])
    run = _Run(model, hook, batch_size)
    made = [run.intact(model.to_tokens(adata[rows], **read)) for rows in (make_source, make_target)]
    if isinstance(direction, tuple):
        along = run.written(model.to_tokens(adata[[*make_source, *make_target]], **read), *direction)
    elif direction is None:
        along = made[0]["stream"].mean(0) - made[1]["stream"].mean(0)
    else:
        along = np.asarray(direction, dtype=np.float64)
        if along.shape != (model.config.d_model,) or not np.isfinite(along).all() or not along.any():
            raise ShapeError(
                f"The direction has shape {along.shape}; give {model.config.d_model} finite numbers, not all 0."
            )
    judging = [part for part in (judge_source, judge_target, others) if len(part)]
    real = [run.intact(model.to_tokens(adata[rows], **read)) for rows in judging]
    kinds = np.repeat(["source", "target", "other"][: len(real)], [len(one["cell"]) for one in real])
    judge = _Judge(np.concatenate([one["cell"] for one in real]), kinds)
    tokens = model.to_tokens(adata[pushed], **read)
    donors = pd.factorize(column(adata, "donor")[pushed])[0] if "donor" in adata.obs else None
    norm = float(np.linalg.norm(along))
    within = np.concatenate([one["stream"] - one["stream"].mean(0) for one in made])
    if null_draws and np.linalg.norm(within) <= 1e-6 * max(np.linalg.norm(one["stream"]) for one in made):
        raise EvaluationError(
            f"At '{hook}' cells of one label are all the same, so that there are no directions to compare with. Take other cells, or a later layer."
        )
    turned = []
    for draw in range(null_draws):
        random = generator(seed, "steer", str(draw)).standard_normal(len(within)) @ within
        turned.append(random * norm / np.linalg.norm(random))
    order = np.argsort(np.array(tokens.cell_ids), kind="stable")
    weights = bootstrap_weights(len(tokens), 1000, seed, None if donors is None else donors[order])
    measured: list[dict[str, Any]] = []
    for dose in (0.0, *asked):
        own = judge.measures(run.steered(tokens, dose * along))
        null = [judge.measures(run.steered(tokens, dose * one)) for one in turned] if dose else []
        for measure, value in own.items():
            low, high = interval(value[order], weights)
            drawn = np.array([one[measure].mean() for one in null])
            ends = (drawn.mean(), drawn.min(), drawn.max()) if len(drawn) else (np.nan,) * 3
            p = permutation_p(float(value.mean()), drawn) if len(drawn) and measure in _TESTED else np.nan
            measured.append(
                {"dose": dose, "measure": measure, "value": float(value.mean()), "low": low, "high": high}
                | dict(zip(("null_mean", "null_low", "null_high"), map(float, ends), strict=True))
                | {"p": p, "n_cells": len(tokens), "n_null": len(drawn), "layer": at, "norm": norm}
            )
    return pd.DataFrame(measured)


def _place(model: CellModel, dictionary: Dictionary, feature: int, layer: int | None) -> tuple[int, str]:
    """Layer and hook that a feature is written to."""
    from workbench.dictionaries.causing import check_dictionary

    check_dictionary(model, dictionary)
    hook, width = dictionary.origin.target, dictionary.directions.shape[1]
    at = int(hook.split(".")[1])
    if layer is not None and layer % model.config.n_layers != at:
        raise HookError(f"The dictionary is of '{hook}', but layer {layer} was asked for; leave layer out.")
    if width != model.config.d_model or (len(dictionary.origin.inner) > 1 and not dictionary.transcodes):
        raise HookError(
            f"A direction at '{hook}' has the shape {dictionary.origin.inner}, and one of the stream has {model.config.d_model} numbers; take a dictionary "
            "of the stream, or of what is added to it."
        )
    if not 0 <= feature < dictionary.width:
        raise HookError(
            f"The dictionary of '{hook}' has features 0 to {dictionary.width - 1}, but {feature} was asked for."
        )
    return at, hook


class _Run:
    """Passes of a model, intact or steered."""

    def __init__(self, model: CellModel, hook: str, batch_size: int) -> None:
        self.model, self.hook, self.batch_size = model, hook, batch_size
        self.outputs = ("cell", *(("expression",) if "expression" in model.outputs else ()))

    def intact(self, tokens: Tokens) -> dict[str, np.ndarray]:
        """Cell embedding, and mean over genes of the stream behind the layer."""

        def work(batch: Tokens) -> tuple[Tensor, Tensor]:
            out, cache = self.model.run_with_cache(batch, names_filter=self.hook, return_cache_object=False)
            keep = batch.to(self.model.device).genes.float()
            stream = cache[self.hook].float()
            return out.cell, (stream * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)

        with torch.no_grad():
            cell, stream = (
                at_least_single(torch.cat(side)).cpu().double().numpy()
                for side in zip(*Fitting(self.batch_size).batches(tokens, work), strict=True)
            )
        return {"cell": cell, "stream": stream}

    def written(self, tokens: Tokens, dictionary: Dictionary, feature: int) -> Float[np.ndarray, " d_model"]:
        """What a feature writes on average where it fires."""
        own = dictionary.to(self.model.device)

        def work(batch: Tokens) -> tuple[float, int]:
            names = {"names_filter": dictionary.hook, "return_cache_object": False}
            _, cache = self.model.run_with_cache(batch, outputs=(), **names)
            fired = own.encode(cache[dictionary.hook])[batch.genes.to(self.model.device)][:, feature].double()
            return float(fired.sum()), int((fired > 0).sum())

        with torch.no_grad():
            total, times = map(sum, zip(*Fitting(self.batch_size).batches(tokens, work), strict=True))
        if not times:
            raise EvaluationError(
                f"Feature {feature} fires at no gene of the {len(tokens)} cells that directions are made from, so it has no size to steer by; take "
                "another feature, or other cells."
            )
        return own.directions[feature].double().cpu().numpy() * total / times

    def steered(self, tokens: Tokens, along: Float[np.ndarray, " d_model"]) -> dict[str, np.ndarray]:
        """Cell embedding, and error of the predicted values, with something added to every token behind the layer."""
        push = torch.as_tensor(along)

        def work(batch: Tokens) -> tuple[Tensor, ...]:
            batch = batch.to(self.model.device, self.model.dtype)
            hook = (self.hook, lambda x, hook: x + push.to(x))
            with self.model.hooks([hook]):
                out = self.model(batch, outputs=self.outputs)
            found = (at_least_single(out.cell),)  # type: ignore[arg-type]
            if out.expression is None:
                return found
            wrong = torch.where(batch.genes, (out.expression - batch.values) ** 2, 0).float()
            return *found, wrong.sum(1) / batch.genes.sum(1)

        with torch.no_grad():
            parts = [
                torch.cat(side).cpu().double().numpy()
                for side in zip(*Fitting(self.batch_size).batches(tokens, work), strict=True)
            ]
        return dict(zip(("cell", "error"), parts, strict=False))


class _Judge:
    """Measures of steered cells, from intact cells alone."""

    def __init__(self, cell: Float[np.ndarray, "cell d_model"], kinds: np.ndarray) -> None:
        self.start = cell[kinds == "target"].mean(0)
        self.axis = cell[kinds == "source"].mean(0) - self.start
        if np.linalg.norm(self.axis) <= 1e-6 * np.linalg.norm(self.start):
            raise EvaluationError("Both groups have the same mean cell embedding, so there is nowhere to steer to.")
        self.probe = untrained_readout("classes").fit(cell, kinds)
        self.near = NearestNeighbors(n_neighbors=2).fit(cell)
        self.typical = float(np.median(self.near.kneighbors(cell)[0][:, 1])) or 1.0

    def measures(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        cell = found["cell"]
        chance = dict(zip(self.probe.classes_, self.probe.predict_proba(cell).T, strict=True))
        measured = {MOVED: (cell - self.start) @ self.axis / (self.axis @ self.axis), PROBABILITY: chance["source"]}
        if "other" in chance:
            measured[OTHERS] = chance["other"]
        if "error" in found:
            measured[ERROR] = found["error"]
        return measured | {DISTANCE: self.near.kneighbors(cell, n_neighbors=1)[0][:, 0] / self.typical}
