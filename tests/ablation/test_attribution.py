"""Attribution: the derivative it claims to be, exact where the metric is linear or the integral complete."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import make_tokens, tiny_model

from workbench.ablation.attribution import attribute, compare_attribution
from workbench.ablation.edits import ablated
from workbench.ablation.metrics import (
    Metric,
    Run,
    cell_shift,
    fit_probes,
    gene_prediction,
    mask_values,
    masked_error,
    readout,
    trustworthiness,
)
from workbench.ablation.reference import build_reference
from workbench.ablation.sites import Ablation, all_heads, head
from workbench.ablation.study import Study, differences, evaluate, intact_cells
from workbench.errors import EvaluationError, HookError
from workbench.models.tokens import Tokens

N, GENE = 5, 6  # cells of 12, 10, 8, 6 and 4 tokens; three have the gene
HOWS = ("zero", "mean", "resample")


def study_of(smooth: bool = False, **shape) -> Study:
    """A double-precision study of tiny cells, with every differentiable metric; `smooth` without the blocks' ReLUs."""
    model, tokens = tiny_model(4, **shape).double(), make_tokens(N, 12, seed=6)
    if smooth:
        for block in model.blocks:
            block.mlp.linear2.weight.zero_()
    cell = intact_cells(model, tokens)
    at = np.arange(len(tokens))
    probe = fit_probes(cell, [("up", "down")[i % 2] for i in at], at // 2 % 2, least=1)
    metrics = (masked_error(), masked_error("mvc"), readout(probe, True), gene_prediction(GENE, "GENE6"))
    shown = mask_values(tokens, model.config, 0.4, 3)[0]
    references = [build_reference(model, t, ["blocks.*.attn.hook_z"]) for t in (tokens, shown)]
    return Study(model, tokens, metrics, *references, mask_share=0.4, seed=3, batch_size=3)


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of()


def replacements(study: Study, how: str, tokens: Tokens, masked: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """z and what ablating each head puts there, by layer, read off the hooked model."""
    reference = study.masked_reference if masked else study.reference
    with torch.no_grad():
        z = list(study.model.run_with_cache(tokens, names_filter="blocks.*.attn.hook_z")[1].values())
        new = [x.clone() for x in z]
        for one in all_heads(study.model.config, how, study.seed):
            layer, at = one.sites[0].layer, one.sites[0].head
            with ablated(study.model, one, reference):
                found = study.model.run_with_cache(tokens, names_filter=one.sites[0].hook)[1][one.sites[0].hook]
            new[layer][:, :, at] = found[:, :, at]
    return z, new


def seen(study: Study, metric: Metric, rows) -> tuple[Tokens, torch.Tensor | None, torch.Tensor | None]:
    tokens = study.tokens.take(rows).to("cpu", torch.float64)
    if not metric.masked:
        return tokens, None, None
    return mask_values(tokens, study.model.config, study.mask_share, study.seed)


# What the estimate is


@pytest.mark.parametrize("more", [{}, {"draws": 2}, {"steps": 2}], ids=str)
def test_estimates_of_a_model_in_half_precision_are_not_rounded_to_it(study, more):
    half = replace(study, model=tiny_model(4).to(torch.bfloat16), reference=None, masked_reference=None)
    for metric in half.metrics:
        found = attribute(half, metric, range(N), "zero", **more)
        whole = attribute(replace(half, model=study.model), metric, range(N), "zero", **more)
        known = np.isfinite(whole)
        assert (np.isfinite(found) == known).all() and np.corrcoef(found[known], whole[known])[0, 1] > 0.95
        rounded = torch.as_tensor(found[known & (found != 0)])
        assert (rounded == rounded.bfloat16()).float().mean() < 0.2


@pytest.mark.parametrize("how", HOWS)
def test_the_plain_estimate_is_the_derivative_towards_the_replacement(study, how):
    rows, eps = list(range(N)), 1e-5
    for metric in study.metrics:
        tokens, target, mask = seen(study, metric, rows)
        z, new = replacements(study, how, tokens, metric.masked)
        found = attribute(study, metric, rows, how)
        assert found.shape == (3, 4, N)

        def value(layer, at, step, metric=metric, tokens=tokens, target=target, mask=mask, z=z, new=new):
            def move(x, hook):
                x = x.clone()
                x[:, :, at] += step * (new[layer] - z[layer])[:, :, at]
                return x

            with torch.no_grad(), study.model.hooks([(f"blocks.{layer}.attn.hook_z", move)]):
                out = study.model(tokens, outputs=metric.needs)
            return metric.function(Run(out, out, np.array(rows), tokens, target, mask)).numpy()

        for layer in range(3):
            for at in range(4):
                slope = (value(layer, at, eps) - value(layer, at, -eps)) / (2 * eps)
                scale = np.nanmax(np.abs(found))
                assert np.allclose(found[layer, at], slope, rtol=1e-4, atol=1e-6 * scale, equal_nan=True)


@pytest.mark.parametrize("how", HOWS)
def test_a_metric_that_is_linear_in_the_heads_is_estimated_exactly(study, how):
    """The metric reads the last layer's ``hook_attn_out``, which is a sum over that layer's heads."""
    model, rows = study.model, list(range(N))
    direction = torch.as_tensor(np.random.default_rng(0).standard_normal(16))
    kept = {}

    def linear(run: Run) -> torch.Tensor:
        return torch.where(run.tokens.padding[..., None], 0, kept["x"] @ direction[:, None]).sum((1, 2))

    metric = Metric("linear", "", 0, linear, differentiable=True)
    z, new = replacements(study, how, study.tokens.to("cpu", torch.float64), masked=False)
    moved = torch.einsum("nghe,hed,d->ngh", new[2] - z[2], model.block(2).attn.W_O, direction)
    expected = torch.where(study.tokens.padding[..., None], 0, moved).sum(1).T.numpy()
    with model.hooks([("blocks.2.hook_attn_out", lambda x, hook: kept.__setitem__("x", x))]):
        for steps in (0, 1, 3):
            found = attribute(study, metric, rows, how, steps=steps)
            assert np.allclose(found[2], expected, rtol=1e-5, atol=1e-6), steps
    assert np.abs(expected).max() > 0.1


def exact_effects(study: Study, metric: Metric, how: str) -> np.ndarray:
    config, rows = study.model.config, range(len(study.tokens))
    ablations = all_heads(config, how, study.seed)
    found = differences(study, evaluate(study, ablations, rows), ablations)
    return found[metric.name].reshape(config.n_layers, config.n_heads, len(rows))


@pytest.mark.parametrize("how", HOWS)
def test_integrated_gradients_of_a_single_head_are_complete(how):
    """With one head a layer, the path from z to z' ends at the ablation: the integral is the effect."""
    study = study_of(smooth=True, n_heads=1, n_layers=2)
    for metric in (study.metrics[1], study.metrics[2]):
        exact = exact_effects(study, metric, how)
        many, one = (attribute(study, metric, range(N), how, steps=steps, batch_size=N) for steps in (64, 0))
        scale = np.abs(exact).max()
        assert np.abs(many - exact).max() < 1e-3 * scale, metric.name
        assert np.abs(one - exact).max() > 0.05 * scale, "where one gradient is not enough"


def test_integrated_gradients_come_near_where_the_gradient_jumps():
    """A ReLU on the way: the error falls with the width of a step, and no faster."""
    study = study_of(n_heads=1, n_layers=2)
    for metric in study.metrics:
        exact = exact_effects(study, metric, "mean")
        found = attribute(study, metric, range(N), "mean", steps=64, batch_size=N)
        assert np.array_equal(np.isnan(found), np.isnan(exact))
        error = np.abs(found - exact) / np.nanmax(np.abs(exact))
        assert np.nanmax(error) < 0.02, metric.name


def test_integrated_gradients_of_a_layer_add_up_to_the_whole_layer():
    """All heads of a layer move together, so the sum over heads is the effect of ablating them at once."""
    study = study_of(smooth=True, n_layers=2)
    metric = study.metrics[2]
    whole = [Ablation(tuple(head(layer, at) for at in range(4)), "mean") for layer in range(2)]
    together = differences(study, evaluate(study, whole, range(N)), whole)[metric.name]
    found = attribute(study, metric, range(N), "mean", steps=64, batch_size=N).sum(1)
    assert np.abs(found - together).max() < 1e-3 * np.abs(together).max()


def quadratic(kept: dict, direction: torch.Tensor) -> Metric:
    """The square of a sum over what the heads of a layer write, kept by a hook."""

    def function(run: Run) -> torch.Tensor:
        return torch.where(run.tokens.padding, 0, kept["x"] @ direction).sum(1) ** 2

    return Metric("square", "", 0, function, differentiable=True)


@pytest.mark.parametrize("n_heads,draws", [(1, 1), (1, 3), pytest.param(4, 300, marks=pytest.mark.slow)])
def test_the_second_order_term_makes_a_quadratic_metric_exact(n_heads, draws):
    """For one head whatever the signs; for several, what is between them averages out over draws."""
    study, direction, kept = study_of(n_layers=1, n_heads=n_heads), torch.linspace(-1, 2, 16, dtype=torch.float64), {}
    tokens, metric = study.tokens.to("cpu", torch.float64), quadratic(kept, direction)
    z, new = replacements(study, "mean", tokens, masked=False)
    real = ~tokens.padding[..., None]
    weights = torch.einsum("hed,d->he", study.model.block(0).attn.W_O, direction)
    before = (torch.einsum("nghe,he->ngh", z[0], weights) * real).sum((1, 2))
    before = (before + real[..., 0].sum(1) * (study.model.block(0).attn.out.bias @ direction)).numpy()
    moved = (torch.einsum("nghe,he->ngh", new[0] - z[0], weights) * real).sum(1).T.numpy()
    with study.model.hooks([("blocks.0.hook_attn_out", lambda x, hook: kept.__setitem__("x", x))]):
        first = attribute(study, metric, range(N), "mean")[0]
        second = attribute(study, metric, range(N), "mean", draws=draws)[0]
    assert np.allclose(first, 2 * before * moved, rtol=1e-5, atol=1e-5)
    exact = (before + moved) ** 2 - before**2
    between = np.abs(moved) * np.sqrt((moved**2).sum(0) - moved**2)
    assert (np.abs(second - exact) <= 4.5 * between / np.sqrt(draws) + 1e-5 * np.abs(exact).max()).all()
    assert np.abs(first - exact).max() > 0.05 * np.abs(exact).max()


def test_draws_and_steps_exclude_each_other(study):
    with pytest.raises(EvaluationError, match="not both"):
        attribute(study, study.metrics[0], [0], draws=1, steps=1)


# What it may depend on


@pytest.mark.parametrize("more", [{}, {"draws": 2}, {"steps": 2}])
def test_estimates_do_not_depend_on_batch_and_order(study, more):
    for metric in study.metrics:
        first = attribute(study, metric, range(N), "resample", **more)
        for rows, size in ((list(range(N)), 1), (list(range(N)), 64), ([4, 1, 3], 2)):
            again = attribute(study, metric, rows, "resample", batch_size=size, **more)
            assert np.allclose(again, first[:, :, rows], rtol=1e-5, atol=1e-6, equal_nan=True)


def test_the_signs_of_the_second_order_term_follow_the_seed(study):
    first, again = (attribute(study, study.metrics[2], range(N), "mean", draws=1) for _ in range(2))
    other = attribute(replace(study, seed=8), study.metrics[2], range(N), "mean", draws=1)
    assert np.array_equal(first, again) and not np.allclose(first, other)


@pytest.mark.parametrize("more", [{}, {"draws": 2}, {"steps": 2}])
def test_cells_without_a_value_have_no_estimate_and_do_no_harm(study, more):
    tokens = study.tokens
    has = ((tokens.gene_ids == GENE) & ~tokens.padding).any(1).numpy()
    assert has.sum() == 3
    found = attribute(study, study.metrics[3], range(N), "mean", **more, batch_size=N)
    assert np.isnan(found[:, :, ~has]).all() and np.isfinite(found[:, :, has]).all()
    alone = attribute(study, study.metrics[3], np.flatnonzero(has).tolist(), "mean", **more)
    assert np.allclose(found[:, :, has], alone, rtol=1e-5)
    nobody = attribute(study, study.metrics[3], np.flatnonzero(~has).tolist(), "mean", **more)
    assert np.isnan(nobody).all()


def test_nothing_is_left_behind(study):
    before = study.model.fingerprint()
    for more in ({}, {"draws": 1}, {"steps": 1}):
        attribute(study, study.metrics[0], [0, 1], "zero", **more)
    assert study.model.fingerprint() == before
    assert not any(hook.fwd_hooks for hook in study.model.hook_dict.values())
    assert all(p.grad is None and not p.requires_grad for p in study.model.parameters())


def test_single_precision_says_the_same(study):
    metric = study.metrics[2]
    double = attribute(study, metric, range(N), "mean")
    model = tiny_model(4)
    single = replace(study, model=model, reference=build_reference(model, study.tokens, ["blocks.*.attn.hook_z"]))
    assert np.allclose(attribute(single, metric, range(N), "mean"), double, rtol=1e-3, atol=1e-4 * np.abs(double).max())


# Refusals


def test_metrics_without_a_gradient_are_refused(study):
    probe_error = readout(fit_probes(np.eye(4), ["a", "b"] * 2, np.array([0, 0, 1, 1]), least=1), False)
    for metric in (cell_shift(), probe_error, trustworthiness(np.zeros((9, 2)), 3)):
        with pytest.raises(EvaluationError, match="differentiable metric.*'label_loss'"):
            attribute(study, metric, [0])
    promised = replace(trustworthiness(np.zeros((9, 2)), 3), differentiable=True)
    with pytest.raises(EvaluationError, match="differentiable metric"):
        attribute(study, promised, [0])


@pytest.mark.parametrize("how", ["direction", "patch", "shuffle"])
def test_ways_of_ablating_without_a_replacement_are_refused(study, how):
    with pytest.raises(HookError, match=f"zero, mean and resample ablations, not '{how}'"):
        attribute(study, study.metrics[0], [0], how)


# Comparison


def test_estimates_that_rank_heads_otherwise_come_with_a_warning():
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((3, 4, 6)) + 3 * rng.standard_normal((3, 4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cubed = (exact.mean(2, keepdims=True) ** 3).repeat(6, axis=2)
        table, rho = compare_attribution(cubed, exact, "m", "gradient")
    assert rho == pytest.approx(1) and len(table) == 12
    assert table["exact"].to_numpy() == pytest.approx(exact.mean(2).ravel())
    assert table[["layer", "head"]].to_numpy().tolist() == [[i, j] for i in range(3) for j in range(4)]
    assert (table["metric"] == "m").all() and (table["method"] == "gradient").all()
    for wrong in (-exact, rng.standard_normal(exact.shape), np.zeros_like(exact)):
        with pytest.warns(UserWarning, match="gradient ranks heads unlike the exact sweep for 'm'"):
            _, rho = compare_attribution(wrong, exact, "m", "gradient")
        assert not rho >= 0.9


def test_the_comparison_leaves_out_cells_without_a_value():
    exact = np.random.default_rng(0).standard_normal((2, 3, 5))
    exact[:, :, 2] = np.nan
    table, rho = compare_attribution(2 * exact, exact, "m", "gradient")
    assert rho == pytest.approx(1) and table["estimated"].to_numpy() == pytest.approx(2 * np.nanmean(exact, 2).ravel())
