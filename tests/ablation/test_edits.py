"""What an ablation puts in place of an activation, seen at the hook itself; and that nothing else changes."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
import torch
from helpers import D_MODEL, N_HEADS, N_LAYERS, greatest_difference, make_tokens, tiny_cells, tiny_model, vocabulary_ids

from workbench.ablation.edits import Edits, ablated
from workbench.ablation.reference import build_reference
from workbench.ablation.sites import HOWS, Ablation, site
from workbench.capture import MemorySink, MomentsSink, capture
from workbench.errors import CellsError, GeneMatchError, HookError, ShapeError
from workbench.models.tokens import Tokens

IDS = vocabulary_ids()
OUTPUTS = ("cell", "expression", "mvc")
SUBSPACE = np.random.default_rng(5).normal(size=(3, D_MODEL))
PLACES = ("L1H2", "L2.attention", "L1.mlp", "L0.gene.GENE27", "L2.gene.GENE36", "L1.gene.<cls>")
# A direction of the residual stream is no direction of a head; what it does to heads is tested by itself.
REPLACING = [(how, label) for how in HOWS for label in PLACES if (how, label) != ("direction", "L1H2")]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=2)


@pytest.fixture(scope="module")
def tokens():
    return make_tokens(5, 24, seed=1)


@pytest.fixture(scope="module")
def intact(model, tokens):
    return model.run_with_cache(tokens)[1]


@pytest.fixture(scope="module")
def reference(model):
    """Few cells, so that they lack genes of the tokens."""
    other = make_tokens(4, 18, seed=8)
    other = Tokens(other.gene_ids, other.values, other.padding, ("r2", "r0", "r3", "r1"))
    return build_reference(
        model,
        other,
        [f"blocks.*.{name}" for name in ("attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_pre")],
    )


@pytest.fixture(scope="module")
def of_reference(model, reference):
    return model.run_with_cache(reference.tokens)[1]


def onto(subspace) -> torch.Tensor:
    """Projector onto the span of rows, by another formula than the package's."""
    return torch.from_numpy(np.linalg.pinv(subspace) @ subspace).float()


def real_genes(tokens: Tokens, row: int) -> dict[int, int]:
    """Position of each gene of a cell."""
    return {int(g): at for at, g in enumerate(tokens.gene_ids[row]) if not tokens.padding[row, at]}


def touched(tokens: Tokens, place) -> torch.Tensor:
    where = ~tokens.padding
    return where & (tokens.gene_ids == IDS[place.gene]) if place.kind == "gene" else where


def by_loop(how, seed, place, own, tokens, reference, of_reference):
    """Activation that an ablation leaves at a site, cell by cell and gene by gene, and what it could not do."""
    there = of_reference[place.hook]
    if place.kind == "head":
        there = there[:, :, place.head]
    every = [(g, there[row, at]) for row in range(len(there)) for g, at in real_genes(reference.tokens, row).items()]
    found, lost = own.clone(), torch.zeros(len(tokens), dtype=torch.long)
    for row, at in touched(tokens, place).nonzero().tolist():
        gene = int(tokens.gene_ids[row, at])
        same = [x for g, x in every if g == gene]
        mean = torch.stack(same or [x for _, x in every]).mean(0)
        if how == "zero":
            found[row, at] = 0
        elif how == "mean":
            found[row, at] = mean
            lost[row] += not same
        elif how == "direction":
            found[row, at] = own[row, at] - onto(SUBSPACE) @ own[row, at]
        else:
            partner = reference.partners(tokens.cell_ids, seed)[row]
            position = real_genes(reference.tokens, partner).get(gene)
            if position is not None:
                found[row, at] = there[partner, position]
            elif how == "resample":
                found[row, at] = mean
            lost[row] += position is None
    return found, lost


def at_place(cache, place):
    return cache[place.hook][:, :, place.head] if place.kind == "head" else cache[place.hook]


def make(places, how, **more) -> Ablation:
    return Ablation(places, how, SUBSPACE if how == "direction" else None, **more)


def shuffled(tokens: Tokens, seed: int = 0) -> tuple[Tokens, torch.Tensor]:
    """The same cells with their genes in another order behind ``<cls>``, and that order."""
    rng = torch.Generator().manual_seed(seed)
    order = torch.arange(tokens.gene_ids.shape[1]).repeat(len(tokens), 1)
    for row, n in enumerate((~tokens.padding).sum(1).tolist()):
        order[row, 1:n] = 1 + torch.randperm(n - 1, generator=rng)
    ids, values = tokens.gene_ids.gather(1, order), tokens.values.gather(1, order)
    return Tokens(ids, values, tokens.padding, tokens.cell_ids), order


def listeners(model) -> int:
    """Hooks of any kind on any part of the model."""
    return (
        model.context_level
        + ("forward" in vars(model))
        + sum(
            len(part._forward_hooks) + len(part._forward_pre_hooks) + len(getattr(part, "fwd_hooks", ()))
            for part in model.modules()
        )
    )


# What an ablation puts in place


@pytest.mark.parametrize(("how", "label"), REPLACING)
def test_the_activation_is_replaced_gene_by_gene(model, tokens, intact, reference, of_reference, how, label):
    place = site(label)
    with ablated(model, make(label, how, seed=6), reference):
        _, cache = model.run_with_cache(tokens)
    found, own = at_place(cache, place), at_place(intact, place)
    expected, _ = by_loop(how, 6, place, own, tokens, reference, of_reference)
    where = touched(tokens, place)
    assert where.any()
    assert torch.allclose(found[where], expected[where], atol=2e-6)
    assert torch.equal(found[~where], own[~where]), "padding and other genes stay as they are"
    assert (found[where] - own[where]).abs().max() > 1e-2
    if place.kind == "head":
        others = [h for h in range(N_HEADS) if h != place.head]
        assert torch.equal(cache[place.hook][:, :, others], intact[place.hook][:, :, others])
    below = [name for name in cache if list(cache).index(name) < list(cache).index(place.hook)]
    assert below and all(torch.equal(cache[name], intact[name]) for name in below)
    assert greatest_difference(cache["hook_cell"], intact["hook_cell"], tokens.padding) > 1e-4


@pytest.mark.parametrize("label", PLACES)
@pytest.mark.parametrize("how", HOWS)
def test_fallbacks_are_the_tokens_that_got_another_value(model, tokens, reference, of_reference, how, label):
    place, one = site(label), make(label, how, seed=6)
    own = torch.zeros(*tokens.gene_ids.shape, 4 if place.kind == "head" else D_MODEL)
    expected = torch.zeros(5, dtype=torch.long)
    if (how, place.kind) != ("direction", "head"):
        expected = by_loop(how, 6, place, own, tokens, reference, of_reference)[1]
    found = Edits(model, tokens, [one], reference).fallbacks(one)
    assert found.tolist() == expected.tolist()
    if place.kind != "gene":
        assert bool(found.any()) == (how in ("mean", "resample", "patch"))


def test_fallbacks_of_several_genes_are_counted_once_each(model, tokens, reference):
    genes = [f"L{layer}.gene.GENE{i}" for i in range(40) for layer in (0, 1)]
    for how in ("mean", "resample"):
        all_genes, mixed, head = (Ablation(s, how) for s in (genes, [*genes[:3], "L1.mlp"], "L0H0"))
        edits = Edits(model, tokens, [all_genes, mixed, head], reference)
        assert edits.fallbacks(all_genes).tolist() == edits.fallbacks(head).tolist() == edits.fallbacks(mixed).tolist()


@pytest.mark.parametrize("how", HOWS)
def test_the_first_positions_alone_are_edited_alike(model, tokens, reference, intact, how):
    for label in PLACES:
        place, one = site(label), make(label, how)
        edits = Edits(model, tokens, [one], reference)
        own = at_place(intact, place)
        functions = [edits.change] if place.kind == "head" else []
        functions += [] if (how, place.kind) == ("direction", "head") else [edits.replaced]
        for function in functions:
            for n in (1, 7):
                assert torch.allclose(function(own[:, :n], one, place), function(own, one, place)[:, :n], atol=1e-6)


def test_seeds_draw_other_cells(model, tokens, reference):
    cells = {}
    for seed in range(4):
        with ablated(model, Ablation("L0H1", "resample", seed=seed), reference):
            cells[seed] = model(tokens).cell
            assert torch.equal(model(tokens).cell, cells[seed])
    assert sum(torch.equal(cells[0], cells[seed]) for seed in range(4)) == 1


def test_a_cell_alone_is_ablated_as_in_a_batch(model, tokens, reference):
    for how in ("mean", "resample", "patch"):
        with ablated(model, Ablation(["L0H1", "L1.mlp", "L2.gene.GENE36"], how), reference):
            together = model(tokens).cell
            for i in range(len(tokens)):
                assert torch.allclose(model(tokens[i : i + 1]).cell[0], together[i], atol=1e-5)


# The order of genes


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("label", PLACES)
def test_the_order_of_genes_means_nothing(model, tokens, reference, how, label):
    other, order = shuffled(tokens)
    assert not torch.equal(other.gene_ids, tokens.gene_ids)
    of_other, _ = shuffled(reference.tokens, seed=1)
    again = build_reference(model, of_other, list(reference.means))
    one = make(label, how)
    with ablated(model, one, reference):
        plain = model(tokens, outputs=OUTPUTS)
    with ablated(model, one, again):
        moved = model(other, outputs=OUTPUTS)
    assert torch.allclose(moved.cell, plain.cell, atol=1e-5)
    for name in ("expression", "mvc"):
        expected = getattr(plain, name).gather(1, order)
        assert greatest_difference(getattr(moved, name), expected, tokens.padding) < 1e-5
    a, b = (Edits(model, t, [one], r) for t, r in ((tokens, reference), (other, again)))
    assert torch.equal(a.fallbacks(one), b.fallbacks(one))


# Directions


def attention_out(model, tokens, ablation, reference=None, layer=1):
    with ablated(model, ablation, reference):
        return model.run_with_cache(tokens)[1][f"blocks.{layer}.hook_attn_out"]


def test_a_direction_of_a_head_is_gone_from_what_the_head_adds(model, tokens, intact):
    real, p = ~tokens.padding, onto(SUBSPACE)
    result, own = intact["blocks.1.attn.hook_result"][:, :, 2], intact["blocks.1.hook_attn_out"]
    out = attention_out(model, tokens, make("L1H2", "direction"))
    assert torch.allclose((own - out)[real], (result @ p)[real], atol=1e-5), "what the head added along it is gone"
    rest = torch.eye(D_MODEL) - p
    assert torch.allclose((out @ rest)[real], (own @ rest)[real], atol=1e-5), "and nothing else"
    assert torch.equal(out[~real], own[~real])
    assert ((own - out)[real].abs().amax(1) > 1e-3).all()


def test_directions_of_all_heads_leave_the_bias(model, tokens):
    real, p = ~tokens.padding, onto(SUBSPACE)
    out = attention_out(model, tokens, make([f"L1H{h}" for h in range(N_HEADS)], "direction"))
    along = (out @ p)[real]
    assert torch.allclose(along, (model.block(1).attn.out.bias @ p).expand_as(along), atol=1e-5)


def test_a_whole_space_is_the_head_itself(model, tokens):
    zero = attention_out(model, tokens, Ablation("L1H2", "zero"))
    for subspace in (np.eye(D_MODEL), np.random.default_rng(0).normal(size=(D_MODEL + 5, D_MODEL))):
        out = attention_out(model, tokens, Ablation("L1H2", "direction", subspace))
        assert greatest_difference(out, zero, tokens.padding) < 1e-5


@pytest.mark.parametrize("label", ["L1H2", "L1.attention"])
def test_directions_count_by_their_span(model, tokens, label):
    a, b = SUBSPACE[:2]
    plain = attention_out(model, tokens, Ablation(label, "direction", np.stack([a, b])))
    same = [a, 1e4 * b, a - b, np.zeros(D_MODEL), (a / 3).astype(np.float32), (a / 7).astype(np.float32)]
    again = attention_out(model, tokens, Ablation(label, "direction", np.stack(same)))
    assert greatest_difference(plain, again, tokens.padding) < 1e-5
    alone = attention_out(model, tokens, Ablation(label, "direction", a[None]))
    assert greatest_difference(plain, alone, tokens.padding) > 1e-3
    nothing = attention_out(model, tokens, Ablation(label, "direction", np.zeros((2, D_MODEL))))
    assert torch.equal(nothing, attention_out(model, tokens, []))


@pytest.mark.parametrize("how", ["direction", "zero"])
def test_a_layer_and_its_heads_together_leave_nothing(model, tokens, how):
    """Heads are part of what the layer's attention adds, so it is edited after them."""
    real = ~tokens.padding
    whole = attention_out(model, tokens, make("L1.attention", how))
    for places in (["L1.attention", "L1H2"], ["L1H2", "L1.attention"]):
        together = attention_out(model, tokens, make(places, how))
        one_by_one = attention_out(model, tokens, [make(place, how) for place in places])
        for out in (together, one_by_one):
            assert greatest_difference(out, whole, tokens.padding) < 1e-5
            assert (out @ onto(SUBSPACE))[real].abs().max() < 1e-5


# The random-direction null


@pytest.mark.parametrize("how", HOWS)
def test_a_null_draw_turns_the_change_and_keeps_its_geometry(model, tokens, intact, reference, how):
    real, own = ~tokens.padding, intact["blocks.1.hook_attn_out"]
    plain = (attention_out(model, tokens, make("L1H2", how), reference) - own)[real]
    turned = []
    for draw in range(3):
        out = attention_out(model, tokens, make("L1H2", how, rotation=draw), reference)
        assert torch.equal(out[~real], own[~real])
        change = (out - own)[real]
        assert torch.allclose(change.norm(dim=1), plain.norm(dim=1), atol=1e-5)
        assert torch.allclose(change @ change.T, plain @ plain.T, atol=2e-5), "angles between all cells and genes"
        turned.append(change)
    for a, b in ((plain, turned[0]), (plain, turned[1]), (turned[0], turned[1]), (turned[1], turned[2])):
        assert (a - b).abs().max() > 0.1 * plain.abs().max()
    again = attention_out(model, tokens, make("L1H2", how, rotation=1), reference)
    assert torch.equal((again - own)[real], turned[1])


def test_a_null_draw_is_one_matrix_whatever_is_put_in_place(model, tokens, intact, reference):
    """Solved from one ablation, it predicts another one's change and that of other cells."""
    real, own = ~tokens.padding, intact["blocks.1.hook_attn_out"]

    def changes(how, rows):
        where = real[rows]
        return [
            (attention_out(model, tokens, Ablation("L1H2", how, rotation=r), reference) - own)[rows][where].double()
            for r in (None, 3)
        ]

    before, after = changes("mean", slice(0, 3))
    turn = torch.linalg.pinv(before, rtol=1e-4) @ after
    for how in ("zero", "resample"):
        plain, turned = changes(how, slice(3, 5))
        assert torch.allclose(plain @ turn, turned, atol=1e-4)


def test_null_draws_are_uniform_over_rotations_and_reflections(model, tokens):
    edits, place = Edits(model, tokens, [], None), site("L1H2")
    own = torch.zeros(5, 24, D_MODEL // N_HEADS)
    own[0, 1, 0] = 1
    lengths = model.block(1).attn.W_O[2, 0].norm()
    found = (
        torch.stack([edits.change(own, Ablation(place, "zero", rotation=r), place)[0, 1] for r in range(400)]) / lengths
    )
    assert found.mean(0).abs().max() < 4.5 / np.sqrt(400 * D_MODEL)
    assert (found.T @ found / 400 - torch.eye(D_MODEL) / D_MODEL).abs().max() < 4.5 * np.sqrt(2 / 400) / D_MODEL


def test_null_draws_leave_nothing_in_memory(model, tokens):
    edits, place = Edits(model, tokens, [], None), site("L1H2")
    own, held = torch.zeros(5, 24, D_MODEL // N_HEADS), []
    tracemalloc.start()
    try:
        for draws in (range(2000, 2010), range(2010, 2200)):
            for draw in draws:
                edits.change(own, Ablation(place, "zero", rotation=draw), place)
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 20 * 8 * D_MODEL**2, "of 190 matrices"


def test_heads_of_one_null_draw_are_turned_each_by_its_own_matrix(model, tokens, intact):
    own = intact["blocks.1.hook_attn_out"]
    both = attention_out(model, tokens, Ablation(["L1H0", "L1H2"], "zero", rotation=2)) - own
    alone = [attention_out(model, tokens, Ablation(f"L1H{h}", "zero", rotation=2)) - own for h in (0, 2)]
    assert greatest_difference(both, sum(alone), tokens.padding) < 1e-5
    real, plain = ~tokens.padding, attention_out(model, tokens, Ablation(["L1H0", "L1H2"], "zero")) - own
    assert (both[real].norm(dim=1) - plain[real].norm(dim=1)).abs().max() > 1e-2


# Several at once


def test_several_ablations_are_in_place_at_once(model, tokens, intact, reference, of_reference):
    several = [
        Ablation(["L1H2", "L0H1"], "resample", seed=3),
        Ablation("L2.mlp", "mean"),
        Ablation("L1H0", "resample", seed=4),
        Ablation("L2H3", "zero"),
        Ablation("L1.gene.GENE36", "mean"),
    ]
    with ablated(model, several, reference):
        _, cache = model.run_with_cache(tokens)
    for one in several:
        for place in one.sites:
            where = touched(tokens, place)
            expected, _ = by_loop(one.how, one.seed, place, at_place(cache, place), tokens, reference, of_reference)
            assert torch.allclose(at_place(cache, place)[where], expected[where], atol=2e-6)
    with ablated(model, several[::-1], reference):
        assert torch.allclose(model(tokens).cell, cache["hook_cell"], atol=1e-6)


def test_places_of_one_ablation_are_ablated_as_several_ablations(model, tokens, reference):
    for how in HOWS:
        places = ["L0H1", "L1.mlp", "L1H2", "L1H3", "L2.gene.GENE36", "L2.attention"]
        with ablated(model, make(places, how), reference):
            together = model(tokens).cell
        with ablated(model, [make(place, how) for place in places], reference):
            assert torch.allclose(model(tokens).cell, together, atol=1e-6)


def test_blocks_nest(model, tokens, reference):
    outer, inner = Ablation("L0H1", "resample"), Ablation(["L1H2", "L0.mlp"], "resample", seed=1)
    with ablated(model, [outer, inner], reference):
        together = model(tokens).cell
    with ablated(model, outer, reference):
        alone = model(tokens).cell
        with ablated(model, inner, reference):
            nested = model(tokens).cell
        assert torch.equal(model(tokens).cell, alone)
    assert torch.allclose(nested, together, atol=1e-6)


def test_no_ablation_changes_nothing(model, tokens):
    with ablated(model, []):
        inside = model(tokens, outputs=OUTPUTS)
    plain = model(tokens, outputs=OUTPUTS)
    assert all(torch.equal(getattr(inside, name), getattr(plain, name)) for name in OUTPUTS)


# The model inside and after the block


def test_weights_are_not_touched(model, tokens, reference):
    before = model.fingerprint()
    for how in ("zero", "mean", "resample", "direction"):
        with ablated(model, make(["L0H1", "L1.mlp", "L2.gene.GENE36"], how), reference):
            assert model(tokens).cell is not None and model.fingerprint() == before
    assert model.fingerprint() == before


def test_activations_that_a_caller_holds_are_not_written_to(model, tokens, reference):
    residual = model(tokens, stop_at_layer=1).residual
    before = residual.clone()
    for how in ("zero", "mean", "direction"):
        with ablated(model, make(["L1.gene.GENE36", "L1H2"], how), reference):
            model(tokens, start_at_layer=1, residual=residual)
    assert torch.equal(residual, before)
    fresh = make_tokens(5, 24, seed=1)
    assert torch.equal(tokens.values, fresh.values) and torch.equal(tokens.gene_ids, fresh.gene_ids)


@pytest.mark.parametrize(
    "ending", ["as it should", "raised inside", "raised in a hook", "bad tokens", "no reference", "generator"]
)
def test_no_hook_is_left_behind(model, tokens, intact, reference, ending):
    assert listeners(model) == 0

    def fail(*args, **more):
        raise RuntimeError("stop")

    several = [
        Ablation(["L0H1", "L1.mlp"], "resample"),
        Ablation("L2H2", "mean", rotation=1),
        make("L1H1", "direction"),
    ]
    bad = Tokens(tokens.gene_ids, tokens.values, torch.ones_like(tokens.padding), tokens.cell_ids)
    if ending == "as it should":
        with ablated(model, several, reference):
            assert listeners(model) > 0
            model(tokens)
    elif ending == "raised inside":
        with pytest.raises(KeyError), ablated(model, several, reference):
            model(tokens)
            raise KeyError
    elif ending == "raised in a hook":
        with pytest.raises(RuntimeError, match="stop"), ablated(model, several, reference):
            model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_mlp_out", fail)])
    elif ending == "bad tokens":
        with pytest.raises(ShapeError, match="padding at position 0"), ablated(model, several[2:]):
            model(bad)
    elif ending == "no reference":
        with pytest.raises(CellsError), ablated(model, several):
            model(tokens)
    else:
        blocks = ablated(model, several, reference)
        blocks.__enter__()
        model(tokens)
        blocks.__exit__(None, None, None)
    assert listeners(model) == 0
    assert all(not x._forward_hooks for x in model.hook_dict.values()) and not model._forward_pre_hooks
    assert torch.allclose(model(tokens).cell, intact["hook_cell"], atol=1e-5)


def test_a_failed_pass_does_not_spoil_the_next(model, tokens, reference):
    one = Ablation("L0H1", "resample")
    with ablated(model, one, reference):
        expected = model(tokens).cell
        nameless = Tokens(tokens.gene_ids, tokens.values, tokens.padding)
        with pytest.raises(CellsError, match="draws by cell name"):
            model(nameless)
        assert torch.equal(model(tokens).cell, expected)
    assert listeners(model) == 0


def test_tokens_may_be_given_by_keyword(model, tokens, reference):
    for how in ("zero", "mean", "resample"):
        with ablated(model, Ablation("L1H2", how), reference):
            assert torch.equal(model(tokens=tokens, outputs=("cell",)).cell, model(tokens).cell)


def test_all_ways_to_run_the_model_are_ablated(model, tokens, reference):
    """transformer-lens' `run_with_hooks` calls `forward` past the hooks of the model itself."""
    for how in ("zero", "resample", "direction"):
        with ablated(model, make(["L0H1", "L1.mlp"], how), reference):
            model(tokens[:2])
            cell = model(tokens).cell
            model(tokens[:2])
            assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=[]).cell, cell)
            assert torch.equal(model.forward(tokens).cell, cell)
            assert torch.equal(model.run_with_cache(tokens, names_filter="hook_cell")[0].cell, cell)


def test_each_pass_is_ablated_with_its_own_cells(model, tokens, reference):
    one = [Ablation("L0H1", "resample"), Ablation("L1H2", "mean", rotation=0)]
    parts = [tokens[:2], tokens[2:], make_tokens(3, 20, seed=9)]
    expected = []
    for part in parts:
        with ablated(model, one, reference):
            expected.append(model(part).cell)
    with ablated(model, one, reference):
        for part, cell in zip([*parts, *parts[::-1]], [*expected, *expected[::-1]], strict=True):
            assert torch.equal(model(part).cell, cell)


def test_a_pass_may_start_and_stop_at_a_layer(model, tokens, reference):
    one = Ablation(["L0H1", "L1.mlp", "L2H2"], "resample")
    with ablated(model, one, reference):
        whole = model(tokens).cell
        for layer in range(N_LAYERS + 1):
            half = model(tokens, stop_at_layer=layer).residual
            assert torch.allclose(model(tokens, start_at_layer=layer, residual=half).cell, whole, atol=1e-6)


# Those who listen inside


@pytest.mark.parametrize("how", ["mean", "resample", "patch"])
def test_a_listener_sees_each_pass_once_and_its_own_cells(model, tokens, reference, how):
    seen = []
    with ablated(model, Ablation("L1H2", how), reference):
        listen = [("blocks.*.hook_resid_pre", lambda x, hook: seen.append((hook.name, x.clone())))]
        plain = model(tokens)
        with model.hooks(listen):
            assert torch.equal(model(tokens).cell, plain.cell)
    assert [name for name, _ in seen] == [f"blocks.{layer}.hook_resid_pre" for layer in range(N_LAYERS)]
    assert all(x.shape == (*tokens.gene_ids.shape, D_MODEL) for _, x in seen)


def test_a_cache_holds_what_the_pass_computed_and_no_more(model, tokens, reference):
    with ablated(model, Ablation("L0H1", "resample"), reference):
        _, cache = model.run_with_cache(tokens, stop_at_layer=1)
    assert all(name.startswith(("embed.", "blocks.0.")) for name in cache)


def test_a_hook_on_the_cells_does_not_change_their_partners(model, tokens, intact, reference, of_reference):
    place, one = site("L1H2"), Ablation("L1H2", "resample")
    shift = [("blocks.0.hook_resid_pre", lambda x, hook: x + 1)]
    with ablated(model, one, reference), model.hooks(shift):
        _, cache = model.run_with_cache(tokens)
    where = ~tokens.padding
    expected, _ = by_loop("resample", 0, place, at_place(intact, place), tokens, reference, of_reference)
    assert torch.allclose(at_place(cache, place)[where], expected[where], atol=2e-6)
    assert (cache["blocks.0.hook_attn_out"] - intact["blocks.0.hook_attn_out"])[where].abs().max() > 0.1


def test_plain_hooks_of_pytorch_do_not_see_partners_either(model, tokens, reference):
    calls = []
    handles = [
        model.block(0).register_forward_hook(lambda module, args, out: calls.append("block")),
        model.register_forward_hook(lambda module, args, out: calls.append("model")),
    ]
    try:
        with ablated(model, Ablation("L1H2", "resample"), reference):
            model(tokens)
    finally:
        for handle in handles:
            handle.remove()
    assert calls == ["block", "model"]
    assert listeners(model) == 0


def test_capture_works_inside(model):
    tokenizer = model.tokenizer(tiny_cells(7, seed=2), seed=1)
    others = model.tokenizer(tiny_cells(4, seed=3), seed=1).tokens(0, 4)
    others = Tokens(others.gene_ids, others.values, others.padding, tuple(f"other{i}" for i in range(4)))
    one = Ablation(["L0H1", "L1H2"], "resample")
    reference = build_reference(model, others, ["blocks.*.attn.hook_z"])
    hook = "blocks.1.attn.hook_z"
    with ablated(model, one, reference):
        expected = [model.run_with_cache(tokenizer.tokens(i, i + 1))[1] for i in range(7)]
        kept, moments = MemorySink(), MomentsSink()
        capture(model, tokenizer, [hook, "hook_cell"], [kept, moments], batch_size=3, progress=False)
    assert np.allclose(
        kept.result().values["hook_cell"], torch.cat([c["hook_cell"] for c in expected]).numpy(), atol=1e-5
    )
    every = torch.cat([c[hook][0, 1:] for c in expected]).flatten(1)
    n, mean, _ = moments.result(hook)
    assert n == len(every) and np.allclose(mean, every.mean(0).numpy(), atol=1e-5)


# What is refused


@pytest.mark.parametrize("how", ["mean", "resample", "patch"])
def test_a_reference_is_asked_for_where_needed(model, tokens, how):
    one = Ablation("L1H2", how)
    with (
        ablated(model, one),
        pytest.raises(CellsError, match="need reference cells; pass a reference, or use how='zero'"),
    ):
        model(tokens)
    with pytest.raises(CellsError, match="need reference cells"):
        Edits(model, tokens, [Ablation("L0H0", "zero"), one], None)
    assert listeners(model) == 0


def test_a_reference_without_the_genes_is_refused(model, reference):
    ids = torch.tensor([[IDS["<cls>"], *sorted(set(range(40)) - set(reference.tokens.gene_ids.flatten().tolist()))]])
    assert ids.shape[1] > 3
    strangers = Tokens(ids, torch.ones(ids.shape), torch.zeros(ids.shape, dtype=torch.bool), ("far",))
    for how in ("mean", "resample"):
        with ablated(model, Ablation("L1H2", how), reference), pytest.raises(GeneMatchError, match="Only 0%"):
            model(strangers)
    with ablated(model, Ablation("L1H2", "patch"), reference):
        patched = model(strangers, outputs=OUTPUTS)
    assert patched.cell.isfinite().all()


def test_a_reference_without_the_means_is_refused(model, tokens, reference):
    bare = build_reference(model, reference.tokens, ())
    for how in ("mean", "resample"):
        with (
            ablated(model, Ablation("L1H2", how), bare),
            pytest.raises(HookError, match="no means of 'blocks.1.attn.hook_z'"),
        ):
            model(tokens)
    with ablated(model, Ablation("L1H2", "patch"), bare):
        model(tokens)


def test_a_place_outside_the_model_is_refused_on_entering(model):
    with pytest.raises(HookError, match="There is no L7H0"), ablated(model, [Ablation("L0H0"), Ablation("L7H0")]):
        pytest.fail("entered")
    with pytest.raises(ShapeError, match="directions of this model"):
        with ablated(model, Ablation("L0H0", "direction", SUBSPACE[:, 1:])):
            pytest.fail("entered")
    assert listeners(model) == 0
