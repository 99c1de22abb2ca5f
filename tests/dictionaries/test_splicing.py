"""A spliced model computes with reconstructions at genes, has hooks on features, and is itself again afterwards."""

from __future__ import annotations

import pytest
import torch
from fixtures_dictionaries import HOOK, NEXT, random_dictionary
from helpers import make_tokens, tiny_model

from workbench.ablation import Ablation, ablated
from workbench.ablation.edits import Edits
from workbench.ablation.exact import exact_sweep
from workbench.ablation.reference import build_reference, needed_hooks
from workbench.capture import MemorySink, capture
from workbench.dictionaries.splicing import edit_features, spliced
from workbench.errors import HookError, ShapeError

FEATURES, LATER = f"{HOOK}.hook_features", f"{NEXT}.hook_features"


@pytest.fixture
def tokens():
    return make_tokens()


@pytest.fixture(scope="module")
def dictionary(model):
    return random_dictionary(model)


def cached(model, tokens, names):
    _, cache = model.run_with_cache(tokens, names_filter=names, return_cache_object=False)
    return cache


def test_genes_get_the_reconstruction_and_cls_and_padding_stay(model, dictionary, tokens):
    before = cached(model, tokens, [HOOK])[HOOK]
    with model.spliced({HOOK: dictionary}):
        cache = cached(model, tokens, [HOOK, f"{HOOK}.hook_in", FEATURES])
    genes = tokens.genes
    assert torch.equal(cache[f"{HOOK}.hook_in"], before)
    assert torch.equal(cache[FEATURES], dictionary.encode(before))
    assert torch.equal(cache[HOOK][genes], dictionary(before)[genes])
    assert torch.equal(cache[HOOK][~genes], before[~genes])


def test_with_the_error_term_nothing_changes(model, dictionary, tokens):
    outputs = ("cell", "expression")
    intact = model(tokens, outputs=outputs)
    with model.spliced({HOOK: dictionary, NEXT: random_dictionary(model, NEXT, architecture="jumprelu")}, error=True):
        same = model(tokens, outputs=outputs)
    with model.spliced({HOOK: dictionary}):
        other = model(tokens, outputs=outputs)
    assert torch.allclose(same.cell, intact.cell, atol=1e-5) and torch.allclose(
        same.expression, intact.expression, atol=1e-4
    )
    assert not torch.allclose(other.cell, intact.cell, atol=1e-2)


def test_it_is_the_intact_model_again(model, dictionary, tokens):
    names, mark, cell = list(model.hook_dict), model.fingerprint(), model(tokens).cell
    with pytest.raises(RuntimeError, match="here"), model.spliced({HOOK: dictionary}):
        assert model.fingerprint() != mark  # so that nothing is kept under the intact model's name
        raise RuntimeError("here")
    assert list(model.hook_dict) == names and model.fingerprint() == mark and torch.equal(model(tokens).cell, cell)


def test_an_ablated_feature_takes_its_part_away_and_leaves_the_error(model, dictionary, tokens):
    x = cached(model, tokens, [HOOK])[HOOK]
    features = dictionary.encode(x)
    feature = int(features[tokens.genes].sum(0).argmax())
    with (
        model.spliced({HOOK: dictionary}, error=True),
        model.hooks([(FEATURES, edit_features([feature], scale=0))]),
    ):
        found = cached(model, tokens, [HOOK])[HOOK]
    want = x - features[..., feature, None] * dictionary.W_dec[feature]
    assert torch.allclose(found[tokens.genes], want[tokens.genes], atol=1e-5)


def test_features_are_captured_without_cls_as_any_activation(model, dictionary, cells):
    sink = MemorySink()
    with model.spliced({HOOK: dictionary}):
        capture(model, cells, [FEATURES], sink, progress=False)
    found = sink.result()
    assert found.values[FEATURES].shape == (len(found.gene_ids), 24)
    assert ((found.values[FEATURES] > 0).sum(1) <= 3).all()


def test_a_value_that_was_put_in_is_overwritten_at_the_next_layer(model, dictionary, tokens):
    """Set at one layer, a feature of the next is what the model makes of it; to hold it, set it there, too."""
    later = random_dictionary(model, NEXT)
    hold = edit_features([0], value=2.0)

    def features(hooks):
        with model.spliced({HOOK: dictionary, NEXT: later}, error=True), model.hooks(hooks):
            cache = cached(model, tokens, [FEATURES, LATER])
        return cache[FEATURES][tokens.genes][:, 0], cache[LATER][tokens.genes][:, 0]

    first, second = features([(FEATURES, hold)])
    assert (first == 2).all() and not (second == 2).any()
    first, second = features([(FEATURES, hold), (LATER, hold)])
    assert (first == 2).all() and (second == 2).all()


def test_ablations_work_in_a_spliced_model(model, dictionary, cells):
    """Their reference cells run through it as well, whose genes stand elsewhere."""
    tokens, others = model.tokenizer(cells).tokens(0, 3), model.tokenizer(cells).tokens(3, 9)
    for ablation in (Ablation("L2H1"), Ablation("L2H1", "mean"), Ablation("L0H1", "resample")):
        reference = None if ablation.how == "zero" else others
        with model.spliced({HOOK: dictionary}, error=True), ablated(model, ablation, reference):
            found = model(tokens).cell
        with ablated(model, ablation, reference):
            assert torch.allclose(found, model(tokens).cell, atol=1e-4)


def test_an_exact_sweep_of_a_spliced_model_is_that_of_its_hooks(model, dictionary, cells):
    """It runs the layers one by one, behind passes of other cells that ablated values are taken from."""
    tokens, others = model.tokenizer(cells).tokens(0, 3), model.tokenizer(cells).tokens(3, 9)
    ablations = [Ablation("L0H1", "resample"), Ablation("L2H1", "zero")]
    with model.spliced({HOOK: dictionary}):
        reference = build_reference(model, others, needed_hooks(ablations))
        swept = dict(exact_sweep(model, tokens, ablations, Edits(model, tokens, ablations, reference)))
        for number, ablation in enumerate(ablations):
            with ablated(model, ablation, reference):
                assert torch.allclose(swept[number].cell, model(tokens).cell, atol=1e-4)
    assert not torch.allclose(swept[None].cell, model(tokens).cell, atol=1e-2)


def test_gradients_reach_features(model, dictionary, tokens):
    with model.spliced({HOOK: dictionary}, error=True):
        _, cache = model.run_with_cache(
            tokens, names_filter=[FEATURES], incl_bwd=True, loss=lambda out: out.cell.sum(), return_cache_object=False
        )
    assert cache[f"{FEATURES}_grad"].shape == cache[FEATURES].shape and cache[f"{FEATURES}_grad"].abs().sum() > 0


def test_heads_cells_and_transcoders(model, tokens):
    z = "blocks.1.attn.hook_z"
    heads = random_dictionary(model, z, inner=(4, 4))
    of_cells = random_dictionary(model, "hook_cell")
    before = cached(model, tokens, [z, "hook_cell"])
    with model.spliced({z: heads}):
        found = cached(model, tokens, [z])
    assert torch.allclose(found[z][tokens.genes], heads(before[z])[tokens.genes])
    with model.spliced({"hook_cell": of_cells}):
        assert torch.equal(model(tokens).cell, of_cells(before["hook_cell"]))
    read, write = "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"
    across = random_dictionary(model, read, architecture="transcoder", target=write)
    source = cached(model, tokens, [read])[read]
    with model.spliced({read: across}):
        found = cached(model, tokens, [write])
    assert torch.equal(found[write][tokens.genes], across(source)[tokens.genes])
    with model.spliced({read: across}, error=True):
        assert torch.allclose(model(tokens).cell, before["hook_cell"], atol=1e-5)


def test_what_cannot_be_spliced_is_refused(model, dictionary, tokens):
    with pytest.raises(HookError, match="but is asked for at"), model.spliced({NEXT: dictionary}):
        pass
    with pytest.raises(HookError, match="this model has"), spliced(tiny_model(seed=5), {HOOK: dictionary}):
        pass
    with (
        model.spliced({HOOK: dictionary}),
        pytest.raises(HookError, match="spliced already"),
        model.spliced({HOOK: dictionary}),
    ):
        pass
    with pytest.raises(ShapeError, match="Call the model"), model.spliced({HOOK: dictionary}):
        model.block(1)(torch.zeros(2, 5, 16), None)
    with pytest.raises(HookError, match="one of scale and value"):
        edit_features([1])
    with (
        pytest.raises(HookError, match="features 0 to 23"),
        model.spliced({HOOK: dictionary}),
        model.hooks([(FEATURES, edit_features([24], scale=0))]),
    ):
        model(tokens)
