"""The exact sweep equals one pass with hooks per ablation, and does less work."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from helpers import D_MODEL, N_BINS, N_HEADS, N_LAYERS, make_tokens, tiny_model

from workbench.ablation.edits import Edits, ablated
from workbench.ablation.exact import exact_sweep
from workbench.ablation.reference import build_reference, needed_hooks
from workbench.ablation.sites import HOWS, Ablation, all_heads
from workbench.models.tokens import Tokens

C, G = 5, 14
SUBSPACE = np.random.default_rng(3).normal(size=(2, D_MODEL))
LABELS = (0, 2, 1, 1, 0)
PLACES = (
    *(f"L{layer}.{part}" for layer in range(N_LAYERS) for part in ("attention", "mlp", "gene.GENE3", "gene.<cls>")),
    "L0H1",
    "L2H3",
    ("L0H1", "L2H3"),
    ("L1H0", "L1H2"),
    ("L1H2", "L1.attention"),
    ("L2.attention", "L2.mlp"),
    ("L2H0", "L2.mlp"),
    ("L1H0", "L1.mlp", "L2.gene.GENE5"),
    ("L0.mlp", "L1.attention", "L1H2"),
    ("L0.gene.GENE3", "L0H2", "L0.mlp", "L1.gene.GENE5"),
    ("L2.gene.GENE3", "L2.gene.<cls>", "L2H1"),
)


def make(places, how, **more) -> Ablation:
    return Ablation(places, how, SUBSPACE if how == "direction" else None, **more)


def every_kind(model) -> list[Ablation]:
    found = [make(places, how) for how in HOWS for places in PLACES]
    found += [one for how in ("mean", "resample") for one in all_heads(model.config, how, seed=1)]
    found += [make("L1H2", how, rotation=draw) for how in HOWS for draw in (0, 5)]
    found += [make(["L0H0", "L1H1", "L2H3", "L2H0"], how, rotation=2) for how in HOWS]
    return found


def sweep(model, tokens, ablations, outputs, reference=None):
    return list(exact_sweep(model, tokens, ablations, Edits(model, tokens, ablations, reference), outputs))


def of_reference(model, ablations):
    other = make_tokens(6, 20, labels=(1, 1, 0, 2, 0, 2), seed=3, style=model.config.value_style)
    names = tuple(f"r{i}" for i in range(6))
    other = Tokens(other.gene_ids, other.values, other.padding, names, other.batch_labels)
    return build_reference(model, other, needed_hooks(ablations))


def distance(a: torch.Tensor, b: torch.Tensor, tokens: Tokens) -> float:
    """Largest difference, padding left out, in units of the larger values."""
    assert a.shape == b.shape
    if a.shape[:2] == tokens.padding.shape:
        a, b = a[~tokens.padding], b[~tokens.padding]
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


def compare(model, tokens, ablations, outputs) -> list[str]:
    """Assert that a sweep equals passes with hooks; returns the ablations that do not move the cell."""
    reference = of_reference(model, ablations)
    first, *rest = sweep(model, tokens, ablations, outputs, reference)
    plain = model(tokens, outputs=outputs)
    assert first[0] is None and all(torch.equal(getattr(first[1], name), getattr(plain, name)) for name in outputs)
    assert sorted(which for which, _ in rest) == list(range(len(ablations)))
    unmoved = []
    for which, found in rest:
        with ablated(model, ablations[which], reference):
            expected = model(tokens, outputs=outputs)
        for name in ("cell", "expression", "mvc", "classes"):
            if name in outputs:
                assert distance(getattr(found, name), getattr(expected, name), tokens) < 1e-5, ablations[which].key
            elif name != "cell":
                assert getattr(found, name) is None
        if distance(found.cell, plain.cell, tokens) < 1e-4:
            unmoved.append(ablations[which].key)
    return unmoved


# Equal to hooks


def test_tokens_of_another_device_are_moved_to_the_models():
    model, tokens = tiny_model().to("meta"), make_tokens(C, G)  # meta takes nothing of another device, as a GPU does
    places = ["L0H1", "L1.mlp", "L1.gene.GENE3"]
    ablations = [Ablation(place, "zero") for place in places] + [Ablation("L1H1", "zero", rotation=0)]
    found = sweep(model, tokens, ablations, ("cell", "expression"))
    assert len(found) == 5 and {out.expression.device.type for _, out in found} == {"meta"}
    with ablated(model, ablations):
        assert model(tokens).cell.device.type == "meta"


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
@pytest.mark.parametrize("outputs", [("cell",), ("cell", "expression", "mvc")], ids="+".join)
@pytest.mark.parametrize("style", ["cls", "avg-pool", "w-pool"])
def test_every_ablation_equals_a_pass_with_hooks(style, outputs, padded):
    model, tokens = tiny_model(cell_style=style), make_tokens(C, G, padded=padded, seed=2)
    assert bool(tokens.padding.any()) == padded
    # <cls> alone is where most work is left out, so all are tried there.
    whole = style == "cls" and outputs == ("cell",) and padded
    ablations = every_kind(model)[:: 1 if whole else 7]
    unmoved = compare(model, tokens, ablations, outputs)
    assert len(unmoved) < 0.1 * len(ablations), unmoved


@pytest.mark.parametrize("outputs", [("cell",), ("mvc", "classes"), ("expression", "mvc")], ids="+".join)
@pytest.mark.parametrize(
    "shape",
    [
        {"n_batches": 3},
        {"norm_domains": 3},
        {"value_style": "category", "n_value_bins": N_BINS + 2},
        {"value_style": "scaling", "n_batches": 3},
    ],
    ids=str,
)
def test_other_checkpoints_are_swept_alike(shape, outputs):
    model = tiny_model(**shape)
    tokens = make_tokens(C, G, labels=LABELS, seed=2, style=model.config.value_style)
    ablations = every_kind(model)[::9]
    reference = of_reference(model, ablations)
    for which, found in sweep(model, tokens, ablations, outputs, reference):
        with ablated(model, [] if which is None else ablations[which], reference):
            expected = model(tokens, outputs=outputs)
        for name in outputs:
            assert distance(getattr(found, name), getattr(expected, name), tokens) < 1e-5


@pytest.mark.parametrize("style", ["cls", "avg-pool"])
def test_the_residual_stream_is_swept_where_all_of_it_is_computed(style):
    model, tokens = tiny_model(cell_style=style), make_tokens(C, G, seed=2)
    ablations = [make(places, "zero") for places in PLACES]
    for which, found in sweep(model, tokens, ablations, ("cell", "expression")):
        with ablated(model, [] if which is None else ablations[which]):
            assert distance(found.residual, model(tokens).residual, tokens) < 1e-5


def test_a_cell_swept_alone_is_as_in_a_batch():
    model, tokens = tiny_model(), make_tokens(C, G, seed=2)
    ablations = every_kind(model)[::4]
    reference = of_reference(model, ablations)
    together = dict(sweep(model, tokens, ablations, ("cell",), reference))
    for i in range(C):
        for which, found in sweep(model, tokens[i : i + 1], ablations, ("cell",), reference):
            assert torch.allclose(found.cell[0], together[which].cell[i], atol=1e-5)


# Order


def test_the_intact_model_comes_first_and_then_ablations_by_layer():
    model, tokens = tiny_model(), make_tokens(C, G)
    places = ["L2H1", ["L1.mlp", "L2H0"], "L0H3", "L1H0", ["L2.mlp", "L0.attention"], "L2.gene.GENE1", "L1H0"]
    ablations = [Ablation(place, "zero") for place in places]
    assert [which for which, _ in sweep(model, tokens, ablations, ("cell",))] == [None, 2, 4, 1, 3, 6, 0, 5]
    assert [which for which, _ in sweep(model, tokens, [], ("cell",))] == [None]


def test_outputs_stay_as_they_were_handed_out():
    model, tokens = tiny_model(), make_tokens(C, G)
    ablations = every_kind(model)[::6]
    edits = Edits(model, tokens, ablations, of_reference(model, ablations))
    held, copies = [], []
    for _, found in exact_sweep(model, tokens, ablations, edits, ("cell", "expression")):
        held.append(found)
        copies.append((found.cell.clone(), found.expression.clone()))
    for found, (cell, expression) in zip(held, copies, strict=True):
        assert torch.equal(found.cell, cell) and torch.equal(found.expression, expression)


def test_gradients_are_off_in_the_sweep_and_on_for_its_caller():
    model, tokens = tiny_model().requires_grad_(True), make_tokens(C, G)
    ablations = [make(place, how) for place in ("L0H1", "L1.mlp", "L2.gene.GENE3") for how in ("zero", "direction")]
    for _, found in exact_sweep(model, tokens, ablations, Edits(model, tokens, ablations, None)):
        assert torch.is_grad_enabled() and not found.cell.requires_grad
    unfinished = exact_sweep(model, tokens, ablations, Edits(model, tokens, ablations, None))
    next(unfinished), next(unfinished)
    unfinished.close()
    assert torch.is_grad_enabled()


def test_the_model_is_left_as_it_was():
    model, tokens = tiny_model(), make_tokens(C, G)
    before = model.fingerprint()
    ablations = every_kind(model)[::3]
    sweep(model, tokens, ablations, ("cell",), of_reference(model, ablations))
    assert model.fingerprint() == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


# Work


@pytest.fixture
def counted():
    """A model, and the calls of each layer's parts; also how many queries each layer's attention computed."""
    model, calls, queries = tiny_model(), Counter(), {layer: [] for layer in range(N_LAYERS)}
    for layer, block in enumerate(model.blocks):
        for name, part in (("attention", block.attn.qkv), ("mlp", block.mlp)):
            part.register_forward_hook(lambda *_, at=(layer, name): calls.update([at]))
        block.attn.hook_z.register_forward_hook(lambda _, args, z, layer=layer: queries[layer].append(z.shape[1]))
    return model, calls, queries


def test_the_last_layer_computes_one_query_where_cls_is_enough(counted):
    model, _, queries = counted
    ablations = [make(places, how) for places in PLACES for how in ("zero", "direction")]
    tokens = make_tokens(C, G)
    for outputs in (("cell",), ("cell", "mvc", "classes")):
        for seen in queries.values():
            seen.clear()
        assert len(sweep(model, tokens, ablations, outputs)) == 1 + len(ablations)
        intact, *rest = queries[N_LAYERS - 1]
        assert intact == G and rest and set(rest) == {1}
        assert all(set(queries[layer]) == {G} for layer in range(N_LAYERS - 1))


@pytest.mark.parametrize(
    ("style", "outputs"), [("cls", ("cell", "expression")), ("avg-pool", ("cell",)), ("w-pool", ("cell",))]
)
def test_the_last_layer_computes_all_where_all_are_read(style, outputs):
    model, seen = tiny_model(cell_style=style), []
    model.blocks[-1].attn.hook_z.register_forward_hook(lambda _, args, z: seen.append(z.shape[1]))
    sweep(model, make_tokens(C, G), all_heads(model.config, "zero"), outputs)
    assert set(seen) == {G}


def test_only_what_lies_above_an_ablation_is_run_again(counted):
    """Twice for the intact model: for its outputs, and for the climb."""
    model, calls, _ = counted
    ablations = [*all_heads(model.config, "zero"), *(Ablation(f"L{n}.attention", "zero") for n in range(N_LAYERS))]
    sweep(model, make_tokens(C, G), ablations, ("cell",))
    each = N_HEADS + 1
    for layer in range(N_LAYERS):
        assert calls[layer, "attention"] == 2 + layer * each
        assert calls[layer, "mlp"] == 2 + (layer + 1) * each


def test_an_mlp_is_replaced_behind_itself_and_a_gene_in_front_of_its_layer(counted):
    model, calls, _ = counted
    tokens = make_tokens(C, G)
    sweep(model, tokens, [Ablation(f"L{layer}.mlp", "zero") for layer in range(N_LAYERS)], ("cell",))
    for layer in range(N_LAYERS):
        assert calls[layer, "attention"] == calls[layer, "mlp"] == 2 + layer
    calls.clear()
    sweep(model, tokens, [Ablation(f"L{layer}.gene.GENE3", "zero") for layer in range(N_LAYERS)], ("cell",))
    for layer in range(N_LAYERS):
        assert calls[layer, "attention"] == calls[layer, "mlp"] == 2 + layer + 1


def test_an_ablation_is_computed_when_it_is_asked_for(counted):
    model, calls, _ = counted
    tokens, ablations = make_tokens(C, G), all_heads(tiny_model().config, "zero")
    running = exact_sweep(model, tokens, ablations, Edits(model, tokens, ablations, None))
    assert not calls
    next(running)
    assert calls == {(layer, part): 1 for layer in range(N_LAYERS) for part in ("attention", "mlp")}
    next(running)
    assert calls[0, "attention"] == 2 and calls[2, "attention"] == 2
