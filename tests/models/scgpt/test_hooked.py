"""Hook points, the two attention paths, and starting and stopping at a layer."""

from __future__ import annotations

import pytest
import torch
from helpers import D_MLP, D_MODEL, N_HEADS, N_LAYERS, greatest_difference, make_tokens, tiny_model

from workbench.errors import HookError, ShapeError
from workbench.models.tokens import Tokens

C, G, H, E = 5, 12, N_HEADS, D_MODEL // N_HEADS
SHAPES = {
    "embed.hook_gene": (C, G, D_MODEL),
    "embed.hook_value": (C, G, D_MODEL),
    "hook_cell": (C, D_MODEL),
    **{
        f"blocks.{layer}.{name}": shape
        for layer in range(N_LAYERS)
        for name, shape in {
            "hook_resid_pre": (C, G, D_MODEL),
            "attn.hook_q": (C, G, H, E),
            "attn.hook_k": (C, G, H, E),
            "attn.hook_v": (C, G, H, E),
            "attn.hook_scores": (C, H, G, G),
            "attn.hook_pattern": (C, H, G, G),
            "attn.hook_z": (C, G, H, E),
            "attn.hook_result": (C, G, H, D_MODEL),
            "hook_attn_out": (C, G, D_MODEL),
            "hook_resid_mid": (C, G, D_MODEL),
            "mlp.hook_pre": (C, G, D_MLP),
            "mlp.hook_post": (C, G, D_MLP),
            "hook_mlp_out": (C, G, D_MODEL),
            "hook_resid_post": (C, G, D_MODEL),
        }.items()
    },
}
OUTPUTS = ("cell", "expression", "mvc", "classes")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def tokens():
    return make_tokens()


@pytest.fixture(scope="module")
def cache(model, tokens):
    return model.run_with_cache(tokens)[1]


def n_listeners(model):
    return sum(len(p._forward_hooks) + len(p._backward_hooks) + len(p.fwd_hooks) for p in model.hook_dict.values())


def test_the_hooks_are_exactly_these_with_these_shapes(model, cache):
    assert set(model.hook_dict) == set(SHAPES)
    assert {name: tuple(value.shape) for name, value in cache.items()} == SHAPES


def test_scaling_has_a_value_of_width_one():
    scaling = tiny_model(value_style="scaling")
    _, cache = scaling.run_with_cache(make_tokens(style="scaling"), names_filter="embed.hook_value")
    assert tuple(cache["embed.hook_value"].shape) == (C, G, 1)


def test_hooks_resolve_in_the_order_of_computation(model, cache):
    assert model.resolve_hooks("*") == tuple(cache)


def test_wildcards_resolve_to_each_match_once(model):
    patterns = tuple(f"blocks.{layer}.attn.hook_pattern" for layer in range(N_LAYERS))
    assert model.resolve_hooks("blocks.*.attn.hook_pattern") == patterns
    assert model.resolve_hooks(["blocks.1.attn.*", "blocks.?.attn.hook_pattern"])[0] == patterns[0]
    assert len(model.resolve_hooks(["blocks.1.attn.*", "blocks.?.attn.hook_pattern"])) == 7 + 2


def test_names_filters_take_wildcards_lists_and_predicates(model, tokens):
    wanted = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]
    for names in ("blocks.*.hook_resid_post", wanted, tuple(wanted), lambda name: name.endswith("resid_post")):
        _, cache = model.run_with_cache(tokens, names_filter=names)
        assert list(cache) == wanted
    cache = model.add_caching_hooks("blocks.*.hook_resid_post")
    model(tokens)
    model.reset_hooks()
    assert list(cache) == wanted


def test_a_hook_may_be_attached_by_wildcard(model, tokens):
    seen = []
    with model.hooks(fwd_hooks=[("blocks.*.hook_resid_post", lambda x, hook: seen.append(hook.name))]):
        model(tokens)
    assert seen == [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]


@pytest.mark.parametrize("wrong", ["blocks.0.hook_resid_pst", "blocks.0.hook_resid_Post", "blocks.9.hook_resid_post"])
def test_an_unknown_hook_is_an_error_that_lists_near_matches(model, tokens, wrong):
    def nothing(x, hook):
        return None

    calls = (
        lambda: model.run_with_cache(tokens, names_filter=wrong),
        lambda: model.run_with_cache(tokens, names_filter=["hook_cell", wrong]),
        lambda: model.add_caching_hooks(wrong),
        lambda: model.resolve_hooks(wrong),
        lambda: model.run_with_hooks(tokens, fwd_hooks=[(wrong, nothing)]),
        lambda: model.hooks(fwd_hooks=[(wrong, nothing)]).__enter__(),
        lambda: model.hooks(bwd_hooks=[(wrong, nothing)]).__enter__(),
    )
    for call in calls:
        with pytest.raises(HookError, match=r"Unknown hook '.*': did you mean 'blocks\.\d\.hook_resid_p"):
            call()
    assert n_listeners(model) == 0


def test_filters_and_wildcards_that_match_nothing_are_errors(model, tokens):
    with pytest.raises(HookError, match="matches none"):
        model.run_with_cache(tokens, names_filter=lambda name: False)
    with pytest.raises(HookError, match="Unknown hook 'blocks.*.hook_nothing'"):
        model.resolve_hooks("blocks.*.hook_nothing")
    with pytest.raises(HookError, match="No hook was named"):
        model.resolve_hooks([])


def test_hooks_are_gone_after_an_exception(model, tokens):
    before = model(tokens).cell

    def fail(x, hook):
        raise RuntimeError("inside a hook")

    with pytest.raises(RuntimeError, match="inside a hook"):
        with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", fail), ("hook_cell", lambda x, hook: x * 0)]):
            model(tokens)
    assert n_listeners(model) == 0
    assert torch.equal(model(tokens).cell, before)


def test_ablating_a_head_by_its_pattern_equals_leaving_its_result_out(model, tokens):
    def silence(pattern, hook):
        pattern = pattern.clone()
        pattern[:, 1] = 0
        return pattern

    def leave_out(result, hook):
        result = result.clone()
        result[:, :, 1] = 0
        return result

    plain = model(tokens).cell
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_pattern", silence)]):
        by_pattern = model(tokens).cell
    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_result", leave_out)]):
        by_result = model(tokens).cell
    assert (by_pattern - plain).abs().max() > 1e-3
    assert (by_pattern - by_result).abs().max() < 1e-5


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
def test_the_fast_path_equals_the_eager_path(model, padded):
    tokens = make_tokens(padded=padded, seed=1)
    fast = model(tokens, outputs=OUTPUTS)
    with model.hooks(fwd_hooks=[("blocks.*.attn.hook_pattern", lambda x, hook: None)]):
        eager = model(tokens, outputs=OUTPUTS)
    with model.hooks(fwd_hooks=[("blocks.*.attn.hook_result", lambda x, hook: None)]):
        by_head = model(tokens, outputs=OUTPUTS)
    for name in ("residual", *OUTPUTS):
        for other in (eager, by_head):
            assert greatest_difference(getattr(fast, name), getattr(other, name), tokens.padding) < 1e-5


def test_a_pattern_is_the_softmax_of_scores_and_never_looks_at_padding(cache, tokens):
    for layer in range(N_LAYERS):
        scores, pattern = (cache[f"blocks.{layer}.attn.hook_{name}"] for name in ("scores", "pattern"))
        assert torch.allclose(pattern.sum(-1), torch.ones(C, H, G))
        assert torch.allclose(pattern, scores.exp() / scores.exp().sum(-1, keepdim=True), atol=1e-6)
        hidden = tokens.padding[:, None, None, :].expand_as(pattern)
        assert (pattern[hidden] == 0).all() and (scores[hidden] == -torch.inf).all()


def test_scores_and_z_follow_from_q_k_v(cache):
    for layer in range(N_LAYERS):
        q, k, v, scores, pattern, z = (
            cache[f"blocks.{layer}.attn.hook_{name}"] for name in ("q", "k", "v", "scores", "pattern", "z")
        )
        seen = scores > -torch.inf
        expected = torch.einsum("cqhe,ckhe->chqk", q, k) / E**0.5
        assert torch.allclose(scores[seen], expected[seen], atol=1e-5)
        assert torch.allclose(z, torch.einsum("chqk,ckhe->cqhe", pattern, v), atol=1e-5)


def test_head_results_and_the_bias_sum_to_the_attention_output(model, cache):
    for layer, block in enumerate(model.blocks):
        total = cache[f"blocks.{layer}.attn.hook_result"].sum(2) + block.attn.out.bias
        assert torch.allclose(total, cache[f"blocks.{layer}.hook_attn_out"], atol=1e-5)


def test_per_head_weights_give_what_the_hooks_see(model, cache):
    for layer, block in enumerate(model.blocks):
        x = cache[f"blocks.{layer}.hook_resid_pre"]
        biases = block.attn.qkv.bias.reshape(3, H, E)
        for i, name in enumerate("QKV"):
            weight = model.stacked(f"W_{name}")[layer]
            assert weight.shape == (H, D_MODEL, E)
            expected = torch.einsum("cgd,hde->cghe", x, weight) + biases[i]
            assert torch.allclose(cache[f"blocks.{layer}.attn.hook_{name.lower()}"], expected, atol=1e-5)
        expected = torch.einsum("cghe,hed->cghd", cache[f"blocks.{layer}.attn.hook_z"], model.stacked("W_O")[layer])
        assert torch.allclose(cache[f"blocks.{layer}.attn.hook_result"], expected, atol=1e-5)
    with pytest.raises(HookError, match="did you mean 'W_Q'"):
        model.stacked("w_q")


def test_hooks_sit_where_the_docs_say(model, cache):
    for layer, block in enumerate(model.blocks):
        pre, attn, mid, mlp, post = (
            cache[f"blocks.{layer}.hook_{name}"]
            for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
        )
        assert torch.allclose(mid, block.norm1(pre + attn), atol=1e-6)
        assert torch.allclose(post, block.norm2(mid + mlp), atol=1e-6)
        if layer:
            assert torch.equal(pre, cache[f"blocks.{layer - 1}.hook_resid_post"])
    assert torch.equal(cache["blocks.0.hook_resid_pre"], cache["embed.hook_gene"] + cache["embed.hook_value"])
    assert torch.equal(cache["hook_cell"], cache[f"blocks.{N_LAYERS - 1}.hook_resid_post"][:, 0])


@pytest.mark.parametrize("layer", range(N_LAYERS + 1))
def test_a_prefix_and_the_rest_compose_to_the_full_pass(model, tokens, cache, layer):
    full = model(tokens, outputs=OUTPUTS)
    prefix = model(tokens, stop_at_layer=layer)
    assert prefix.cell is None
    if layer < N_LAYERS:
        assert greatest_difference(prefix.residual, cache[f"blocks.{layer}.hook_resid_pre"], tokens.padding) < 1e-5
    rest = model(tokens, outputs=OUTPUTS, start_at_layer=layer, residual=prefix.residual)
    for name in ("residual", *OUTPUTS):
        assert torch.equal(getattr(rest, name), getattr(full, name))


def test_only_the_blocks_asked_for_run(model, tokens):
    seen = []
    with model.hooks(fwd_hooks=[("blocks.*.hook_resid_post", lambda x, hook: seen.append(hook.layer()))]):
        residual = model(tokens, stop_at_layer=1).residual
        model(tokens, start_at_layer=1, stop_at_layer=2, residual=residual)
    assert seen == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start_at_layer": 1}, "needs `residual`"),
        ({"start_at_layer": 2, "stop_at_layer": 1, "residual": torch.zeros(C, G, D_MODEL)}, "start <= stop"),
        ({"stop_at_layer": N_LAYERS + 1}, "do not fit"),
        ({"start_at_layer": -1, "residual": torch.zeros(C, G, D_MODEL)}, "do not fit"),
        ({"residual": torch.zeros(C, G + 1, D_MODEL)}, r"\(5, 13, 16\), but the tokens ask for \(5, 12, 16\)"),
        ({"outputs": ("cel",)}, "Unknown output 'cel': did you mean 'cell'"),
    ],
)
def test_impossible_passes_are_refused(model, tokens, arguments, message):
    with pytest.raises(ShapeError, match=message):
        model(tokens, **arguments)


def test_tokens_and_residual_of_another_device_or_type_are_moved_to_the_models(model, tokens):
    # The meta device computes shapes alone, and takes nothing of another device, as a GPU does.
    away = tiny_model().to("meta")
    out, cache = away.run_with_cache(tokens, outputs=OUTPUTS)
    assert out.cell.device.type == out.mvc.device.type == cache["blocks.1.attn.hook_pattern"].device.type == "meta"
    residual = model(tokens, stop_at_layer=1).residual
    assert away(tokens, start_at_layer=1, residual=residual).cell.shape == out.cell.shape == (C, D_MODEL)
    labels = make_tokens(labels=[0, 1, 2, 1, 0])
    assert tiny_model(n_batches=3).to("meta")(labels, outputs=("expression",)).expression.device.type == "meta"
    double = tiny_model().double()(tokens, start_at_layer=1, residual=residual).cell
    assert torch.allclose(double.float(), model(tokens).cell, atol=1e-5) and double.dtype == torch.float64


def test_gradients_reach_a_given_residual_and_equal_finite_differences(tokens):
    model = tiny_model().double()
    tokens = tokens.to("cpu", torch.float64)
    start = model(tokens, stop_at_layer=1).residual.clone().requires_grad_(True)
    model(tokens, start_at_layer=1, residual=start).cell[:, 0].sum().backward()
    step = torch.zeros_like(start)
    step[0, 3, 2] = 1e-5

    def value(residual):
        with torch.no_grad():
            return model(tokens, start_at_layer=1, residual=residual).cell[:, 0].sum()

    slope = (value(start + step) - value(start - step)) / 2e-5
    assert abs(slope) > 1e-6
    assert torch.allclose(start.grad[0, 3, 2], slope, rtol=1e-5)
    assert (start.grad[tokens.padding] == 0).all()


def test_backward_hooks_see_the_gradient(tokens):
    model = tiny_model()
    seen = {}
    start = model(tokens, stop_at_layer=0).residual.clone().requires_grad_(True)
    listen = [("blocks.0.hook_resid_pre", lambda grad, hook: seen.__setitem__(hook.name, grad.clone()))]
    with model.hooks(bwd_hooks=listen):
        model(tokens, residual=start).cell.square().sum().backward()
    assert torch.allclose(seen["blocks.0.hook_resid_pre"], start.grad)
    assert n_listeners(model) == 0


# As transformer-lens has it: positions, gradients, and listeners of other libraries


@pytest.mark.parametrize("position", [0, 3, -1, (2, 5), slice(1, 9, 3), [1, 4]])
def test_a_slice_of_positions_takes_genes_and_never_cells(model, tokens, cache, position):
    _, cut = model.run_with_cache(tokens, pos_slice=position)
    at = [position] if isinstance(position, int) else slice(*position) if isinstance(position, tuple) else position
    assert list(cut) == list(cache)
    for name, whole in cache.items():
        if name == "hook_cell":
            expected = whole
        elif name.endswith(("scores", "pattern")):
            expected = whole[:, :, at]
        else:
            expected = whole[:, at]
        assert torch.equal(cut[name], expected), name


def test_positions_and_the_cell_of_one_cell_without_its_axis(model, tokens, cache):
    _, cut = model.run_with_cache(tokens[:1], pos_slice=0, remove_batch_dim=True)
    assert cut["hook_cell"].shape == (D_MODEL,) and cut["blocks.0.hook_resid_post"].shape == (1, D_MODEL)
    assert cut["blocks.1.attn.hook_q"].shape == (1, H, E) and cut["blocks.1.attn.hook_pattern"].shape == (H, 1, G)
    assert torch.allclose(cut["hook_cell"], cache["hook_cell"][0], atol=1e-5)
    with pytest.raises(ShapeError, match="batch of one cell; this one has 5"):
        model.run_with_cache(tokens, remove_batch_dim=True)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_are_cached_beside_activations(tokens, frozen):
    model = tiny_model().double().requires_grad_(not frozen)

    def loss(outputs):
        return outputs.cell[:, 0].sum()

    outputs, cache = model.run_with_cache(tokens, incl_bwd=True, loss=loss)
    assert set(cache) == {*SHAPES, *(f"{name}_grad" for name in SHAPES)}
    assert all(cache[f"{name}_grad"].shape == cache[name].shape for name in SHAPES)
    assert all(torch.isfinite(value).all() for name, value in cache.items() if name.endswith("_grad"))
    one_hot = torch.zeros_like(outputs.cell)
    one_hot[:, 0] = 1
    assert torch.equal(cache["hook_cell_grad"], one_hot)
    start = cache["blocks.1.hook_resid_pre"].clone().requires_grad_(True)
    loss(model(tokens, start_at_layer=1, residual=start)).backward()
    assert torch.allclose(cache["blocks.1.hook_resid_pre_grad"], start.grad)
    assert n_listeners(model) == 0 and not any(p._forward_pre_hooks for p in model.hook_dict.values())
    with torch.no_grad():
        _, some = model.run_with_cache(
            tokens, names_filter=["embed.hook_gene", "blocks.2.*post"], incl_bwd=True, loss=loss, pos_slice=0
        )
    wanted = ["embed.hook_gene", "blocks.2.mlp.hook_post", "blocks.2.hook_resid_post"]
    assert set(some) == {*wanted, *(f"{name}_grad" for name in wanted)}
    for name in wanted:
        assert torch.allclose(some[f"{name}_grad"], cache[f"{name}_grad"][:, :1])


def test_gradients_need_a_loss_that_is_one_number(model, tokens):
    with pytest.raises(HookError, match="no loss of its own: pass the one whose gradient is wanted"):
        model.run_with_cache(tokens, incl_bwd=True)
    with pytest.raises(HookError, match=r"shape \(5, 16\); make one number of it"):
        model.run_with_cache(tokens, incl_bwd=True, loss=lambda outputs: outputs.cell)
    assert n_listeners(model) == 0 and not any(p._forward_pre_hooks for p in model.hook_dict.values())


def test_the_pattern_can_be_switched_on_for_listeners_that_pytorch_does_not_know(tokens):
    model, seen = tiny_model(), []
    fused = model(tokens).cell
    for layer in range(N_LAYERS):
        attn = model.block(layer).attn
        for hook in (attn.hook_scores, attn.hook_pattern, attn.hook_result):
            call = hook.forward
            hook.forward = lambda x, call=call, hook=hook: seen.append(hook.name) or call(x)
    model(tokens)
    assert not seen
    model.use_pattern()
    assert torch.allclose(model(tokens).cell, fused, atol=1e-5)
    assert len(seen) == 3 * N_LAYERS
    model.use_pattern(False)
    assert torch.equal(model(tokens).cell, fused) and len(seen) == 3 * N_LAYERS


@pytest.mark.parametrize("name", ["hook_scores", "hook_pattern", "hook_result", "hook_z"])
def test_nnsight_sees_what_the_hooks_see(tokens, cache, name):
    nnsight = pytest.importorskip("nnsight", minversion="0.8")
    model = tiny_model()
    model.use_pattern()
    net = nnsight.NNsight(model)
    with net.trace(tokens):
        found = getattr(net.blocks[1].attn, name).output.save()
    assert torch.allclose(found, cache[f"blocks.1.attn.{name}"], atol=1e-5)


def test_a_cell_does_not_depend_on_padding_or_on_its_neighbours(model, tokens):
    together = model(tokens, outputs=OUTPUTS)
    for i in range(C):
        alone = model(tokens[i : i + 1], outputs=OUTPUTS)
        n = int((~tokens.padding[i]).sum())
        assert alone.residual.shape[1] == n
        assert torch.allclose(alone.cell[0], together.cell[i], atol=1e-5)
        assert torch.allclose(alone.expression[0], together.expression[i, :n], atol=1e-5)


@pytest.mark.parametrize("cell_style", ["avg-pool", "w-pool"])
def test_pools_leave_padding_out(cell_style):
    model, tokens = tiny_model(cell_style=cell_style), make_tokens()
    together = model(tokens).cell
    for i in range(C):
        assert torch.allclose(model(tokens[i : i + 1]).cell[0], together[i], atol=1e-5)


def test_the_order_of_genes_means_nothing(model):
    tokens = make_tokens(padded=False)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(G - 1)])
    shuffled = Tokens(tokens.gene_ids[:, order], tokens.values[:, order], tokens.padding)
    a, b = model(tokens, outputs=OUTPUTS), model(shuffled, outputs=OUTPUTS)
    assert torch.allclose(a.cell, b.cell, atol=1e-5)
    assert torch.allclose(a.residual[:, order], b.residual, atol=1e-5)
    assert torch.allclose(a.mvc[:, order], b.mvc, atol=1e-5)


def test_absent_decoders_say_so(tokens):
    model = tiny_model(n_classes=0, mvc_style=None, has_expression=False)
    for name in ("classes", "mvc", "expression"):
        with pytest.raises(ShapeError, match=f"no decoder for '{name}'"):
            model(tokens, outputs=(name,))
    assert model(tokens).cell is not None


def test_bad_tokens_are_refused(model, tokens):
    outside = tokens.gene_ids.clone()
    outside[2, 3] = 43
    with pytest.raises(ShapeError, match="go from 1 to 43, but the embedding has 43 rows"):
        model(Tokens(outside, tokens.values, tokens.padding))
    with pytest.raises(ShapeError, match="from -1 to"):
        model(Tokens(torch.where(outside == 43, -1, outside), tokens.values, tokens.padding))
    with pytest.raises(ShapeError, match="the batch is empty"):
        model(tokens[5:])
    with pytest.raises(ShapeError, match="padding at position 0"):
        model(Tokens(tokens.gene_ids, tokens.values, torch.ones_like(tokens.padding)))


def test_tokens_of_unequal_shapes_are_refused(tokens, without_shape_checks):
    with pytest.raises(ShapeError, match=r"one shape \(cell, gene\); found \(5, 12\), \(5, 11\)"):
        Tokens(tokens.gene_ids, tokens.values[:, 1:], tokens.padding)


def test_shapes_are_checked_in_tests(model, tokens):
    from jaxtyping import TypeCheckError

    with pytest.raises(TypeCheckError, match="padding"):
        model.pool(torch.zeros(C, G, D_MODEL), tokens.values, tokens.padding[:, 1:])


@pytest.mark.parametrize("shape", [{"n_batches": 3}, {"norm_domains": 3}])
def test_batch_labels_are_asked_for_where_needed(shape, tokens):
    model = tiny_model(**shape)
    for labels, found in ((None, "none"), ([0, 1, 2, 3, 0], r"\[0, 1, 2, 3\]"), ([-1, 0, 0, 0, 0], r"\[-1, 0\]")):
        with pytest.raises(ShapeError, match=rf"3 batches: tokens need batch_labels from 0 to 2 \(found {found}\)"):
            model(make_tokens(labels=labels))
    assert model(make_tokens(labels=[0, 1, 2, 0, 1])).cell.shape == (C, D_MODEL)


def test_the_fingerprint_follows_the_weights(model):
    assert model.fingerprint() == tiny_model().fingerprint() != tiny_model(seed=1).fingerprint()
    other = tiny_model()
    other.blocks[2].mlp.linear2.bias[0] += 1e-3
    assert other.fingerprint() != model.fingerprint()


@pytest.mark.parametrize("listened", ["", "blocks.1.attn.hook_pattern", "blocks.1.attn.hook_scores"])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
def test_the_first_queries_alone_are_those_of_all(model, padded, listened):
    tokens = make_tokens(padded=padded, seed=1)
    padding = tokens.padding if padded else None
    x, attn = model(tokens, stop_at_layer=1).residual, model.block(1).attn
    with model.hooks(fwd_hooks=[(listened, lambda x, hook: None)] if listened else []):
        full = attn.mix(x, padding)
        assert full.shape == (C, G, H, E)
        for n in (1, 5, G):
            z = attn.mix(x, padding, keep=n)
            assert z.shape == (C, n, H, E)
            assert torch.allclose(z, full[:, :n], atol=1e-6)
    assert n_listeners(model) == 0


def test_hooks_see_only_the_queries_that_are_kept(model, tokens):
    seen, attn = {}, model.block(1).attn
    x = model(tokens, stop_at_layer=1).residual
    listen = [("blocks.1.attn.*", lambda x, hook: seen.__setitem__(hook.name.split("_")[-1], tuple(x.shape)))]
    with model.hooks(fwd_hooks=listen):
        attn.project(attn.mix(x, tokens.padding, keep=2))
    assert seen == {
        "q": (C, 2, H, E),
        "k": (C, G, H, E),
        "v": (C, G, H, E),
        "scores": (C, H, 2, G),
        "pattern": (C, H, 2, G),
        "z": (C, 2, H, E),
        "result": (C, 2, H, D_MODEL),
    }


@pytest.mark.parametrize("listened", [False, True], ids=["summed", "by head"])
def test_mixing_and_projecting_are_the_attention(model, tokens, cache, listened):
    for layer, block in enumerate(model.blocks):
        name = f"blocks.{layer}"
        x = cache[f"{name}.hook_resid_pre"]
        with model.hooks(fwd_hooks=[(f"{name}.attn.hook_result", lambda x, hook: None)] if listened else []):
            z = block.attn.mix(x, tokens.padding)
            out = block.attn.project(z)
            assert torch.equal(block.project(block.mix(x, tokens.padding)), out)
            assert torch.allclose(block.attn.project(z[:, :3]), out[:, :3], atol=1e-6)
        assert torch.allclose(z, cache[f"{name}.attn.hook_z"], atol=1e-5)
        assert torch.allclose(out, cache[f"{name}.hook_attn_out"], atol=1e-5)
        by_hand = torch.einsum("cghe,hed->cgd", z, block.attn.W_O) + block.attn.out.bias
        assert torch.allclose(out, by_hand, atol=1e-5)


def test_a_block_in_parts_is_the_block(model, tokens, cache):
    for layer, block in enumerate(model.blocks):
        x, seen = cache[f"blocks.{layer}.hook_resid_pre"], {}
        with model.hooks([(f"blocks.{layer}.hook_*", lambda x, hook, seen=seen: seen.update({hook.name: x}))]):
            mid = block.after_attention(x, block.project(block.mix(x, tokens.padding)))
            out = block.after_mlp(mid, block.feed_forward(mid))
        assert torch.equal(out, block(x, tokens.padding))
        assert torch.allclose(
            out[~tokens.padding], cache[f"blocks.{layer}.hook_resid_post"][~tokens.padding], atol=1e-5
        )
        names = ("attn_out", "resid_mid", "mlp_out", "resid_post")
        assert list(seen) == [f"blocks.{layer}.hook_{name}" for name in names], "each part passes its own hook point"


def test_outputs_are_those_that_have_a_decoder():
    assert tiny_model().outputs == OUTPUTS
    assert tiny_model(n_classes=0, mvc_style=None).outputs == ("cell", "expression")
    assert tiny_model(has_expression=False).outputs == ("cell", "mvc", "classes")


def test_the_genes_of_tokens_are_neither_padding_nor_cls(tokens):
    expected = ~tokens.padding
    expected[:, 0] = False
    assert torch.equal(tokens.genes, expected) and not tokens.padding[:, 0].any()
    assert not tokens.genes[:, 0].any() and tokens.take([]).genes.shape == (0, 0)


@pytest.mark.parametrize("cell_style", ["cls", "avg-pool", "w-pool"])
@pytest.mark.parametrize("shape", [{}, {"n_batches": 3}], ids=["plain", "batches"])
def test_decoding_the_last_residual_is_the_end_of_the_pass(cell_style, shape):
    model, tokens = tiny_model(cell_style=cell_style, **shape), make_tokens(labels=[0, 2, 1, 0, 0])
    residual = model(tokens, stop_at_layer=N_LAYERS).residual
    full = model(tokens, outputs=OUTPUTS)
    assert torch.equal(residual, full.residual)
    for wanted in (OUTPUTS, *((name,) for name in OUTPUTS)):
        found = model.decode(residual, tokens, wanted)
        for name in wanted:
            assert torch.equal(getattr(found, name), getattr(full, name))
        assert all(getattr(found, name) is None for name in ("expression", "mvc", "classes") if name not in wanted)
    assert model.decode(residual, tokens, ()).cell is None


@pytest.mark.parametrize("shape", [{}, {"n_batches": 3}], ids=["plain", "batches"])
def test_decoding_needs_no_more_than_cls_where_it_is_the_cell(shape, without_shape_checks):
    model, tokens = tiny_model(**shape), make_tokens(labels=[0, 2, 1, 0, 0])
    wanted = ("cell", "mvc", "classes")
    full = model(tokens, outputs=wanted)
    first = model.decode(full.residual[:, :1], tokens, wanted)
    for name in wanted:
        assert torch.allclose(getattr(first, name), getattr(full, name), atol=1e-6)


def test_taken_cells_are_those_asked_for_cut_to_the_longest(tokens):
    labelled = make_tokens(labels=[0, 1, 2, 1, 0])
    for rows, length in (([4, 2], 8), ([3, 0, 3], 12), ([4], 4), (range(1, 4), 10)):
        found = labelled.take(rows)
        rows = list(rows)
        assert found.gene_ids.shape == (len(rows), length)
        assert found.cell_ids == tuple(f"cell{i}" for i in rows)
        assert found.batch_labels.tolist() == [[0, 1, 2, 1, 0][i] for i in rows]
        for name in ("gene_ids", "values", "padding"):
            assert torch.equal(getattr(found, name), getattr(tokens, name)[rows, :length])
        assert not found.padding.all(0).any()


def test_taking_leaves_the_cells_as_they_were_and_may_take_none(tokens):
    found = tokens.take([1, 1])
    found.values[0] = 99
    assert (tokens.values < 99).all() and (found.values[1] < 99).all()
    assert found.batch_labels is None
    nothing = tokens.take([])
    assert len(nothing) == 0 and nothing.gene_ids.shape == (0, 0) and nothing.cell_ids == ()
    nameless = Tokens(tokens.gene_ids, tokens.values, tokens.padding)
    assert nameless.take([3, 0]).cell_ids == ()
    with pytest.raises(IndexError):
        tokens.take([C])


def test_taken_cells_run_as_before(model, tokens):
    assert torch.allclose(model(tokens.take([3, 1, 4])).cell, model(tokens).cell[[3, 1, 4]], atol=1e-5)


def test_slices_of_tokens_are_cut_to_their_longest_cell(tokens):
    parts = list(make_tokens(labels=[0, 1, 2, 1, 0]).batches(2))
    assert [tuple(part.gene_ids.shape) for part in parts] == [(2, 12), (2, 8), (1, 4)]
    assert [part.cell_ids for part in parts] == [("cell0", "cell1"), ("cell2", "cell3"), ("cell4",)]
    assert parts[1].batch_labels.tolist() == [2, 1]
    assert torch.equal(parts[1].values, tokens.values[2:4, :8])
