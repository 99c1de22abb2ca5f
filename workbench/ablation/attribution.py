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

from workbench.ablation.edits import Edits
from workbench.ablation.metrics import Metric, Run, mask_values
from workbench.ablation.sites import Ablation, all_heads
from workbench.ablation.study import Study
from workbench.errors import EvaluationError, HookError
from workbench.model.hooked import HookedScGPT, Outputs
from workbench.model.tokens import Tokens
from workbench.stats import spearman

AGREE = 0.9
METHODS = ("gradient", "integrated gradients")


def attribute(
    study: Study,
    metric: Metric,
    rows: Sequence[int],
    how: str = "mean",
    *,
    steps: int = 0,
    batch_size: int | None = None,
) -> Float[np.ndarray, "layer head cell"]:
    """Estimated effect of ablating each head, per cell.

    With z a head's activation and z' its replacement, the plain estimate is sum((z' - z) * dm/dz) over genes, at the
    intact model (attribution patching: Nanda 2023). One forward and one backward pass serve all heads. With `steps`, the
    gradient is averaged over that many points between z and z', all heads of a layer moving together while other layers
    stay (integrated gradients over the layer's heads; midpoint rule), which costs `steps` passes a layer.

    Parameters
    ----------
    study
        Model, cells and references.
    metric
        A differentiable one.
    rows
        Cell numbers.
    how
        ``zero``, ``mean`` or ``resample``.
    steps
        Points of the integral; 0 for the plain gradient.
    batch_size
        Cells per pass; the study's when None.

    Raises
    ------
    EvaluationError
        If the metric is not differentiable.
    HookError
        For a way of ablating that has no replacement value.
    """
    if not metric.differentiable or metric.together:
        raise EvaluationError(
            f"Attribution needs a differentiable metric, and '{metric.name}' is none (its gradient does not exist, or is 0 "
            "at the intact model); use the exact sweep for it, or a loss such as 'label loss'."
        )
    if how not in ("zero", "mean", "resample"):
        raise HookError(f"Attribution estimates zero, mean and resample ablations, not '{how}'.")
    model, size = study.model, batch_size or study.batch_size
    ablations = all_heads(model.config, how, study.seed)
    parts = []
    for start in range(0, len(rows), size):
        part = np.asarray(rows[start : start + size])
        tokens = study.tokens.take(part.tolist()).to(model.device, model.dtype)
        target = mask = None
        reference = study.reference
        if metric.masked:
            tokens, target, mask = mask_values(tokens, model.config, study.mask_share, study.seed)
            reference = study.masked_reference
        edits = Edits(model, tokens, ablations, reference)

        def score(out: Outputs, tokens=tokens, part=part, target=target, mask=mask) -> Tensor:
            # The intact outputs are the ones that the gradient is taken at, held fixed.
            fixed = replace(out, **{k: x.detach() for k, x in vars(out).items() if x is not None})
            values = metric.function(Run(out, fixed, part, tokens, target, mask))
            return torch.where(values.isfinite(), values, 0).sum()

        estimate = _gradients(model, tokens, edits, ablations, metric.needs, score, steps)
        with torch.no_grad():
            out = model(tokens, outputs=metric.needs)
            undefined = ~metric.function(Run(out, out, part, tokens, target, mask)).isfinite()
        estimate[:, :, undefined] = torch.nan
        parts.append(estimate.cpu().numpy())
    return np.concatenate(parts, axis=2)


def _gradients(
    model: HookedScGPT,
    tokens: Tokens,
    edits: Edits,
    ablations: Sequence[Ablation],
    needs: Sequence[str],
    score: Callable[[Outputs], Tensor],
    steps: int,
) -> Tensor:
    """Estimates of all heads, (layer, head, cell)."""
    n_layers, n_heads = model.config.n_layers, model.config.n_heads
    found = torch.zeros(n_layers, n_heads, len(tokens))

    def change(layer: int, z: Tensor) -> Tensor:
        here = ablations[layer * n_heads :][:n_heads]
        each = [edits.replaced(z[:, :, h], one, one.sites[0]) for h, one in enumerate(here)]
        return torch.stack(each, dim=2) - z

    if not steps:
        for layer, z in enumerate(_activations_with_gradients(model, tokens, needs, score)):
            with torch.no_grad():
                found[layer] = (change(layer, z) * z.grad).sum((1, 3)).T.float().cpu()
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
            grad = kept[1].grad
            assert grad is not None
            part = (kept[0] * grad).sum((1, 3)).T / steps
            total = part if total is None else total + part
        assert total is not None
        found[layer] = total.float().cpu()
    return found


def _activations_with_gradients(
    model: HookedScGPT, tokens: Tokens, needs: Sequence[str], score: Callable[[Outputs], Tensor]
) -> list[Any]:
    """``hook_z`` of every layer with the gradient of the score in its ``grad``."""
    kept: list[Any] = []

    def leaf(x: Tensor, hook: object) -> Tensor:
        return x.detach().requires_grad_()  # the weights want no gradient, so the graph starts here

    def keep(z: Tensor, hook: object) -> None:
        z.retain_grad()
        kept.append(z)

    with torch.enable_grad(), model.hooks([("blocks.0.hook_resid_pre", leaf), ("blocks.*.attn.hook_z", keep)]):
        score(model(tokens, outputs=needs)).backward()
    return kept


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
        For the table.

    Returns
    -------
    table, rho
        One row per head: ``metric``, ``method``, ``layer``, ``head``, ``estimated``, ``exact``; and Spearman's rho over
        heads of the size and sign of the effects.
    """
    a, b = np.nanmean(estimate, axis=2), np.nanmean(exact, axis=2)
    rho = spearman(a.ravel(), b.ravel())
    if not rho >= AGREE:
        warnings.warn(
            f"Attribution by {method} ranks heads unlike the exact sweep for '{metric}' (Spearman {rho:.2f} over "
            f"{a.size} heads, {AGREE} wanted): trust the exact effects, or try integrated gradients (steps=8).",
            stacklevel=2,
        )
    layer, head = (index.ravel() for index in np.indices(a.shape))
    columns = {"metric": metric, "method": method, "layer": layer, "head": head}
    return pd.DataFrame({**columns, "estimated": a.ravel(), "exact": b.ravel()}), rho
