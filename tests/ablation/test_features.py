"""Features of a spliced dictionary as places that are ablated: the sweep is that of hooks, and bad places are refused."""

from __future__ import annotations

import pytest
import torch
from fixtures_dictionaries import HOOK, NEXT, random_dictionary
from helpers import make_tokens, tiny_model

from workbench.ablation import Ablation, Site, ablated
from workbench.ablation.edits import Edits
from workbench.ablation.exact import exact_sweep
from workbench.ablation.sites import site
from workbench.dictionaries.splicing import edit_features
from workbench.errors import HookError

Z, MLP_OUT, PRE = "blocks.1.attn.hook_z", "blocks.2.hook_mlp_out", "blocks.1.hook_resid_pre"


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=2)


@pytest.fixture(scope="module")
def placed(model):
    return {
        HOOK: random_dictionary(model),
        Z: random_dictionary(model, Z, inner=(4, 4)),
        MLP_OUT: random_dictionary(model, MLP_OUT),
        PRE: random_dictionary(model, PRE),
    }


def test_a_feature_has_a_label():
    place = site(f"{HOOK}.F17")
    assert place == Site(1, "feature", at=HOOK, feature=17) and str(place) == f"{HOOK}.F17"
    assert place.hook == f"{HOOK}.hook_features"
    assert Ablation(f"{HOOK}.F17", "clamp", amount=2).key == f"{HOOK}.F17 clamp 2"
    assert Ablation(f"{HOOK}.F1", "scale", amount=2) != Ablation(f"{HOOK}.F1", "scale", amount=3)


@pytest.mark.parametrize("outputs", [("cell",), ("cell", "expression")])
def test_a_sweep_of_features_is_that_of_hooks_on_them(model, placed, outputs):
    tokens = make_tokens()
    labels = [
        f"{HOOK}.F3",
        f"{PRE}.F2",
        f"{Z}.F5",
        f"{MLP_OUT}.F7",
        (f"{HOOK}.F3", f"{HOOK}.F4"),
        (f"{HOOK}.F3", f"{MLP_OUT}.F1"),
    ]
    ways = [("zero", None, {"scale": 0}), ("scale", 3.0, {"scale": 3}), ("clamp", 1.5, {"value": 1.5})]
    with model.spliced(placed, error=True):
        for how, amount, edit in ways:
            grid = [Ablation(label, how, amount=amount) for label in labels]
            swept = dict(exact_sweep(model, tokens, grid, Edits(model, tokens, grid, None), outputs))
            for i, one in enumerate(grid):
                hooks = [(place.hook, edit_features([place.feature], **edit)) for place in one.sites]
                with model.hooks(hooks):
                    want = model(tokens, outputs=outputs)
                with ablated(model, one):
                    same = model(tokens, outputs=outputs)
                for name in outputs:
                    real = ~tokens.padding if name == "expression" else slice(None)
                    for found in (swept[i], same):
                        assert torch.allclose(getattr(found, name)[real], getattr(want, name)[real], atol=1e-4)
            assert not torch.allclose(swept[0].cell, swept[None].cell, atol=1e-4)
    assert torch.is_grad_enabled()


def test_a_dictionary_in_front_of_a_block_is_part_of_every_pass(model, placed):
    tokens = make_tokens()
    with model.spliced({PRE: placed[PRE]}):
        grid = [Ablation("L0H1"), Ablation("L1H1"), Ablation("L2.mlp")]
        swept = dict(exact_sweep(model, tokens, grid, Edits(model, tokens, grid, None)))
        for i, one in enumerate(grid):
            with ablated(model, one):
                assert torch.allclose(swept[i].cell, model(tokens).cell, atol=1e-4)


def test_what_is_no_ablation_of_a_feature_is_refused(model, placed):
    tokens = make_tokens()
    for how, more, said in (
        ("mean", {}, "by 'mean'"),
        ("clamp", {}, "amount is given"),
        ("zero", {"amount": 1.0}, "amount is given"),
    ):
        with pytest.raises(HookError, match=said):
            Ablation(f"{HOOK}.F1", how, **more)
    with pytest.raises(HookError, match="for features alone"):
        Ablation("L1H1", "scale", amount=2)
    with pytest.raises(HookError, match="go by themselves"):
        Ablation((f"{HOOK}.F1", "L1H1"))
    with pytest.raises(HookError, match="No dictionary is spliced in"):
        Edits(model, tokens, [Ablation(f"{HOOK}.F1")], None)
    with model.spliced(placed, error=True), pytest.raises(HookError, match="features 0 to 23, but 24"):
        Edits(model, tokens, [Ablation(f"{HOOK}.F24")], None)
    with model.spliced(placed, error=True), pytest.raises(HookError, match="No dictionary is spliced in"):
        Edits(model, tokens, [Ablation(f"{NEXT}.F1")], None)
