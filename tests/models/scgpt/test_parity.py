"""The hooked model against scGPT 0.2.4's own `TransformerModel`, on the same random weights."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    LAYOUTS,
    N_LAYERS,
    STYLES,
    checkpoint_args,
    greatest_difference,
    in_layout,
    make_tokens,
    make_upstream,
    require_upstream,
    upstream_activations,
    vocabulary_ids,
    write_checkpoint,
)

from workbench.models.scgpt.checkpoint import from_upstream, load_checkpoint, save_checkpoint
from workbench.models.tokens import Tokens

TOLERANCE = 1e-5
OUTPUTS = ("cell", "expression", "mvc", "classes")
VARIANTS = {
    "batch labels": {"use_batch_labels": True, "num_batch_labels": 3},
    "domain norm": {"domain_spec_batchnorm": "dsbn", "num_batch_labels": 3},
    "domain norm and batch labels": {"use_batch_labels": True, "num_batch_labels": 3, "domain_spec_batchnorm": True},
    "batch norm": {"domain_spec_batchnorm": "batchnorm"},
    "batch norm and batch labels": {
        "use_batch_labels": True,
        "num_batch_labels": 3,
        "domain_spec_batchnorm": "batchnorm",
    },
    "zero probability": {"explicit_zero_prob": True},
    "zero probability and batch labels": {"explicit_zero_prob": True, "use_batch_labels": True, "num_batch_labels": 3},
    "concat query": {"mvc_decoder_style": "concat query"},
    "sum query": {"mvc_decoder_style": "sum query"},
    "detached query": {"mvc_decoder_style": "inner product, detach"},
    "no mvc": {"do_mvc": False},
    "one class layer": {"nlayers_cls": 1},
    "discriminator": {"do_dab": True, "num_batch_labels": 3},
}


def labels_of(options):
    # Upstream takes the first cell's domain for the whole batch, so the cells here share one; plain batch norm asks for
    # labels and does not look at them.
    return [2] * 5 if options.get("domain_spec_batchnorm") or options.get("use_batch_labels") else None


def assert_equals_upstream(ours, theirs, tokens, tolerance=TOLERANCE):
    wanted = upstream_activations(theirs, tokens)
    outputs = [name for name in OUTPUTS if name in wanted]
    fast = ours(tokens, outputs=outputs)
    eager, cache = ours.run_with_cache(tokens, outputs=outputs)
    for name, value in wanted.items():
        found = [cache[name]] if "hook_" in name else [getattr(fast, name), getattr(eager, name)]
        # Outputs and residuals to the tolerance, absolute; what is added before a norm may be large (scaled values reach
        # hundreds), so there it is relative to the largest number.
        bound = tolerance if "resid" in name or "hook_" not in name else tolerance * max(1.0, float(value.abs().max()))
        for tensor in found:
            assert greatest_difference(tensor, value, tokens.padding) < bound, name
    assert {f"blocks.{i}.hook_resid_post" for i in range(N_LAYERS)} <= set(wanted)


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_and_every_residual_equal_upstream(eager_upstream, tmp_path, layout, style, padded):
    theirs = make_upstream(eager_upstream, style)
    folder = write_checkpoint(tmp_path, in_layout(theirs.state_dict(), layout), checkpoint_args(style))
    ours = load_checkpoint(folder)
    assert ours.report.layout == layout
    assert not (ours.report.unexpected or ours.report.mismatched)
    assert_equals_upstream(ours, theirs, make_tokens(padded=padded, style=style))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_equal_upstream(eager_upstream, tmp_path, variant):
    options = VARIANTS[variant]
    theirs = make_upstream(eager_upstream, seed=1, **options)
    tokens = make_tokens(labels=labels_of(options))
    assert_equals_upstream(load_checkpoint(write_checkpoint(tmp_path, theirs.state_dict())), theirs, tokens)
    live = from_upstream(theirs, vocabulary_ids())
    assert_equals_upstream(live, theirs, tokens)
    assert live.report.source == "live model" and not live.report.unexpected


@pytest.mark.parametrize("cell_style", ["cls", "avg-pool", "w-pool"])
def test_cell_styles_equal_upstream_without_padding(eager_upstream, tmp_path, cell_style):
    theirs = make_upstream(eager_upstream, seed=2, cell_emb_style=cell_style)
    folder = write_checkpoint(tmp_path, theirs.state_dict(), checkpoint_args(cell_emb_style=cell_style))
    tokens = make_tokens(padded=False)
    assert_equals_upstream(load_checkpoint(folder), theirs, tokens)
    assert_equals_upstream(from_upstream(theirs, vocabulary_ids()), theirs, tokens)


def test_each_cell_of_a_mixed_batch_gets_its_own_domain(eager_upstream):
    theirs = make_upstream(eager_upstream, use_batch_labels=True, num_batch_labels=3, domain_spec_batchnorm="dsbn")
    ours = from_upstream(theirs, vocabulary_ids())
    tokens = make_tokens(labels=[0, 1, 2, 1, 0])
    mixed = ours(tokens, outputs=OUTPUTS)
    for i in range(5):
        alone = upstream_activations(theirs, tokens[i : i + 1])
        n = int((~tokens.padding[i]).sum())
        assert (mixed.cell[i] - alone["cell"][0]).abs().max() < TOLERANCE
        assert (mixed.expression[i, :n] - alone["expression"][0, :n]).abs().max() < TOLERANCE
        assert (mixed.mvc[i, :n] - alone["mvc"][0, :n]).abs().max() < TOLERANCE


def test_values_above_512_are_clamped_as_upstream_clamps_them(eager_upstream):
    theirs = make_upstream(eager_upstream)
    tokens = make_tokens()
    tokens = Tokens(tokens.gene_ids, torch.where(tokens.values > 25, 1e4, tokens.values), tokens.padding)
    assert_equals_upstream(from_upstream(theirs, vocabulary_ids()), theirs, tokens)


def test_double_precision_equals_upstream(eager_upstream, tmp_path):
    theirs = make_upstream(eager_upstream, seed=4)
    ours = load_checkpoint(write_checkpoint(tmp_path, theirs.state_dict()), dtype=torch.float64)
    assert ours.dtype == torch.float64
    assert_equals_upstream(ours, theirs.double(), make_tokens().to("cpu", torch.float64), tolerance=1e-12)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "variant", ["plain", "batch labels", "zero probability", "concat query", "sum query", "no mvc"]
)
def test_upstream_strictly_loads_what_save_checkpoint_writes(eager_upstream, tmp_path, style, variant):
    options = VARIANTS.get(variant, {})
    ours = from_upstream(make_upstream(eager_upstream, style, seed=5, **options), vocabulary_ids())
    folder = save_checkpoint(ours, tmp_path / "saved")
    theirs = make_upstream(eager_upstream, style, seed=6, **options)
    theirs.load_state_dict(torch.load(folder / "best_model.pt", weights_only=True), strict=True)
    tokens = make_tokens(style=style, labels=labels_of(options))
    assert_equals_upstream(ours, theirs, tokens)
    assert_equals_upstream(load_checkpoint(folder), theirs, tokens)


def test_a_live_model_is_copied_and_left_as_it_is(upstream):
    theirs = make_upstream(upstream)
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = from_upstream(theirs)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())
    assert all(parameter.requires_grad for parameter in theirs.parameters())
    assert ours.vocabulary.decode([3]) == ["token_3"] and ours.vocabulary.pad_id == vocabulary_ids()["<pad>"]


def test_a_live_pre_norm_model_is_refused(upstream):
    from workbench.errors import CheckpointError

    theirs = make_upstream(upstream)
    theirs.norm_scheme = "pre"
    with pytest.raises(CheckpointError, match="pre_norm"):
        from_upstream(theirs)


@pytest.mark.parametrize("in_ci", [True, False], ids=["ci", "elsewhere"])
def test_without_the_oracle_parity_fails_in_ci_and_skips_elsewhere(monkeypatch, in_ci):
    import importlib.util
    import sys

    monkeypatch.delitem(sys.modules, "scgpt", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("CI", "1") if in_ci else monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.fail.Exception if in_ci else pytest.skip.Exception, match="pip install --no-deps scgpt"):
        require_upstream("model.model")
