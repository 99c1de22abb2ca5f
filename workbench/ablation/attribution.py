"""All heads at once by gradients: a first-order estimate of what ablating each would do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from workbench.ablation.edits import Edits
from workbench.ablation.metrics import Metric, Run, at_least_single
from workbench.ablation.sites import Ablation, all_heads
from workbench.ablation.study import Study
from workbench.errors import EvaluationError, HookError
from workbench.models import CellModel
from workbench.models.devices import Fitting
from workbench.models.outputs import Outputs
from workbench.models.tokens import Tokens
from workbench.seeds import generator
from workbench.stats import spearman

AGREE = 0.9
METHODS = ("gradient", "second order", "integrated gradients")
DRAWS = 2


def attribute(
    study: Study,
    metric: Metric,
    rows: Sequence[int],
    how: str = "mean",
    *,
    draws: int = 0,
    steps: int = 0,
    batch_size: int | None = None,
    bar: tqdm | None = None,
) -> Float[np.ndarray, "layer head cell"]:
    """Estimated effect of ablating each head, per cell.

    With z a head's activation and d its change by the ablation, the plain estimate is sum(d * dm/dz) over genes, at the
    intact model (attribution patching: Nanda 2023). One forward and one backward pass serve all heads. A model that was
    trained on the metric lies near a minimum of it, where first-order effects cancel over cells; then more is needed:

    - `draws`: adds the second-order term d H d / 2 of every head, without the terms between heads. All heads of all
      layers move at once by s d / 2, with random signs s per cell and head; s (g(+) - g(-)) / 2 at d, with g the gradient
      at the moved point and at its mirror image, has that term as its expectation, because the signs of different heads
      are independent (simultaneous perturbation: Spall 1992, Hutchinson 1989). Two passes a draw. It means something on
      average over cells, not for one cell.
    - `steps`: the gradient averaged over that many points between z and z + d, all heads of a layer moving together while
      other layers stay (integrated gradients; midpoint rule). `steps` passes a layer.

    Parameters
    ----------
    study
        Model, cells and references that it is judged on.
    metric
        A metric whose gradient at the intact model means something.
    rows
        Numbers of the cells, each once.
    how
        What is put in its place: ``zero``, ``mean`` or ``resample``.
    draws
        Random signs per cell; 0 for no second-order term.
    steps
        Points of the integral; 0 for no integral.
    batch_size
        Cells per pass; the study's when None.
    bar
        Progress bar that goes on by one for each cell; none by default.

    Raises
    ------
    EvaluationError
        If the metric is not differentiable.
    HookError
        For a way of ablating that has no replacement value.
    """
    if draws and steps:
        raise EvaluationError("Either the second-order term (draws) or the integral (steps), not both.")
    check_metric(metric)
    if how not in ("zero", "mean", "resample"):
        raise HookError(f"Attribution estimates zero, mean and resample ablations, not '{how}'.")
    model, fitting = study.model, study.fitting if batch_size is None else Fitting(batch_size)
    ablations = all_heads(model.config, how, study.seed)

    def work(start: int, stop: int) -> np.ndarray:
        part = np.asarray(rows[start:stop])
        tokens, target, mask, edits = study.batch(part, ablations, masked=metric.masked)
        defined: list[Tensor] = []
        score = scoring(metric, part, tokens, target, mask, defined)
        estimate = _gradients(model, tokens, edits, ablations, metric.needs, score, _signs(study, tokens, draws), steps)
        return estimate.masked_fill_(~defined[0], torch.nan).cpu().numpy()

    parts = []
    for part in fitting.parts(len(rows), work):
        parts.append(part)
        if bar is not None:
            bar.update(part.shape[2])
    return np.concatenate(parts, axis=2)


def check_metric(metric: Metric) -> None:
    """Refuse a metric whose gradient at the intact model says nothing.

    Parameters
    ----------
    metric
        Metric that is to be attributed.

    Raises
    ------
    EvaluationError
        If it is not differentiable, or needs all cells at once.
    """
    if not metric.differentiable or metric.together:
        raise EvaluationError(
            f"Attribution needs a differentiable metric, and '{metric.name}' is none: it has no gradient, or one of 0 "
            "at the intact model. Use the exact sweep for it, or a loss such as 'label_loss'."
        )


def scoring(
    metric: Metric, rows: np.ndarray, tokens: Tokens, target: Tensor | None, mask: Tensor | None, defined: list[Tensor]
) -> Callable[[Outputs], Tensor]:
    """A metric as one number whose gradient is taken: its sum over the cells that have it.

    Parameters
    ----------
    metric, rows
        Metric, and numbers of the cells in the study.
    tokens, target, mask
        Batch of these cells, as `Study.batch` gives it.
    defined
        Takes whether each cell has the metric, at each call.
    """

    def score(out: Outputs) -> Tensor:
        # The intact outputs are the ones that the gradient is taken at, held fixed.
        fixed = replace(out, **{k: x.detach() for k, x in vars(out).items() if x is not None})
        values = metric.function(Run(out, fixed, rows, tokens, target, mask))
        defined.append(values.detach().isfinite())
        return torch.where(defined[-1], values, 0).sum()

    return score


def _gradients(
    model: CellModel,
    tokens: Tokens,
    edits: Edits,
    ablations: Sequence[Ablation],
    needs: Sequence[str],
    score: Callable[[Outputs], Tensor],
    signs: Float[Tensor, "draw cell layer head"],
    steps: int,
) -> Tensor:
    """Estimates of all heads, (layer, head, cell)."""
    n_layers, n_heads = model.config.n_layers, model.config.n_heads
    found = torch.zeros(n_layers, n_heads, len(tokens), device=model.device)

    def change(layer: int, z: Tensor) -> Tensor:
        here = ablations[layer * n_heads :][:n_heads]
        each = [edits.replaced(z[:, :, h], one, one.sites[0]) for h, one in enumerate(here)]
        return torch.stack(each, dim=2) - z

    if not steps:
        states = _activations_with_gradients(model, tokens, needs, score)
        with torch.no_grad():
            moves = [change(layer, z) for layer, z in enumerate(states)]
            for layer, z in enumerate(states):
                found[layer] = _slope(moves[layer], z).T.float()
        for sign in signs:
            for side in (1, -1):
                shifts = [side / 2 * sign[:, None, layer, :, None] * move for layer, move in enumerate(moves)]
                for layer, z in enumerate(_activations_with_gradients(model, tokens, needs, score, shifts)):
                    slope = _slope(moves[layer], z) * sign[:, layer]
                    found[layer] += (side / (2 * len(signs)) * slope).T.float()
        return found
    streams = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, outputs=(), names_filter=streams)
    for layer, stream in enumerate(streams):
        total: Tensor | None = None
        for step in range(steps):
            kept: list[Tensor] = []

            def move(
                z: Tensor, hook: object, layer: int = layer, step: int = step, kept: list[Tensor] = kept
            ) -> Tensor:
                delta = change(layer, z)
                kept[:] = [delta, (z + (step + 0.5) / steps * delta).detach().requires_grad_()]
                return kept[1]

            with torch.enable_grad(), model.hooks([(f"blocks.{layer}.attn.hook_z", move)]):
                score(model(tokens, outputs=needs, start_at_layer=layer, residual=cache[stream])).backward()
            part = _slope(*kept).T / steps
            total = part if total is None else total + part
        assert total is not None
        found[layer] = total.float()
    return found


def _slope(move: Tensor, z: Tensor) -> Float[Tensor, "cell head"]:
    """What a move of ``hook_z`` does to the score by the gradient in its ``grad``."""
    assert z.grad is not None
    return (at_least_single(move) * z.grad).sum((1, 3))


def _activations_with_gradients(
    model: CellModel,
    tokens: Tokens,
    needs: Sequence[str],
    score: Callable[[Outputs], Tensor],
    shifts: Sequence[Tensor] = (),
) -> list[Any]:
    """``hook_z`` of every layer, shifted where asked, with the gradient of the score in its ``grad``."""
    kept: list[Any] = []

    def leaf(x: Tensor, hook: object) -> Tensor:
        return x.detach().requires_grad_()  # the weights want no gradient, so the graph starts here

    def keep(z: Tensor, hook: object) -> Tensor:
        z = z + shifts[len(kept)] if shifts else z
        z.retain_grad()
        kept.append(z)
        return z

    with torch.enable_grad(), model.hooks([("blocks.0.hook_resid_pre", leaf), ("blocks.*.attn.hook_z", keep)]):
        score(model(tokens, outputs=needs)).backward()
    return kept


def _signs(study: Study, tokens: Tokens, draws: int) -> Float[Tensor, "draw cell layer head"]:
    """Random signs by seed and cell name, so that they depend on nothing else."""
    shape = (draws, study.model.config.n_layers, study.model.config.n_heads)
    each = [generator(study.seed, "signs", name).choice([-1.0, 1.0], size=shape) for name in tokens.cell_ids]
    return torch.as_tensor(np.stack(each, axis=1)).to(tokens.values)


def compare_attribution(
    estimate: Float[np.ndarray, "layer head cell"],
    exact: Float[np.ndarray, "layer head cell"],
    metric: str,
    method: str,
) -> tuple[pd.DataFrame, float]:
    """Estimated beside exact mean effects, and their rank correlation; a warning where they disagree.

    Parameters
    ----------
    estimate, exact
        Effects per cell, of the same cells.
    metric, method
        Names that the table has for both.

    Returns
    -------
    table, rho
        One row per head: ``metric``, ``method``, ``layer``, ``head``, ``estimated``, ``exact``; and Spearman's rho over
        heads of the size and sign of the effects.
    """
    a, b = np.nanmean(estimate, axis=2), np.nanmean(exact, axis=2)
    rho = spearman(a.ravel(), b.ravel())
    if not rho >= AGREE:
        more = ", or add the second-order term (draws=2 or more)" if method == METHODS[0] else ""
        warnings.warn(
            f"Attribution by {method} ranks heads unlike the exact sweep for '{metric}' (Spearman {rho:.2f} over "
            f"{a.size} heads, {AGREE} wanted): trust the exact effects{more}.",
            stacklevel=2,
        )
    layer, head = (index.ravel() for index in np.indices(a.shape))
    columns = {"metric": metric, "method": method, "layer": layer, "head": head}
    return pd.DataFrame({**columns, "estimated": a.ravel(), "exact": b.ravel()}), rho
