"""What a user of transformer-lens types first works, or is refused by a sentence that says what to do."""

from __future__ import annotations

import pytest
import torch
import transformer_lens
import transformer_lens.utilities as utils

import workbench
from workbench.errors import WorkbenchError
from workbench.models.cache import CellCache
from workbench.models.names import full_name, spellings

MINI = "artifacts/scgpt-blood-mini"

TRANSFORMER_LENS = (
    # Loading and the configuration.
    "workbench.load_model(CHECKPOINT)",
    "workbench.HookedScGPT.from_pretrained(CHECKPOINT)",
    "workbench.HookedScGPT.from_pretrained(CHECKPOINT, device='cpu', dtype=torch.float32)",
    "model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.d_head, model.cfg.d_mlp, model.cfg.d_vocab",
    "model.cfg.n_ctx, model.cfg.act_fn",
    "model.to('cpu'); model.eval(); model.requires_grad_(False)",
    "sum(p.numel() for p in model.parameters())",
    "model.hook_dict['blocks.0.attn.hook_pattern']",
    "model.blocks[0].attn.W_Q.shape, model.blocks[0].mlp",
    # Tokens.
    "model.to_tokens(adata[:8])",
    "model.to_tokens(adata[:8], max_tokens=50)",
    "model.to_str_tokens(adata[:1])",
    "model.to_single_token('CD3E')",
    # Running.
    "model(adata[:8])",
    "model(adata[:8]).cell",
    "model(model.to_tokens(adata[:8]))",
    "model(adata[:8], outputs=('cell', 'expression')).expression",
    "model(adata[:8], stop_at_layer=2).residual",
    "torch.no_grad()(lambda: model(adata[:2]))()",
    "outputs, cache = model.run_with_cache(adata[:8])",
    "logits, cache = model.run_with_cache(adata[:8], names_filter='blocks.0.attn.hook_pattern')",
    "model.run_with_cache(adata[:8], names_filter=lambda name: name.endswith('pattern'))[1]['pattern', 0]",
    "model.run_with_cache(adata[:8], names_filter=[utils.get_act_name('pattern', 0), utils.get_act_name('resid_post', 1)])",
    "model.run_with_cache(adata[:1], remove_batch_dim=True)[1]['pattern', 0][3]",
    "model.run_with_cache(adata[:8], return_cache_object=False)[1].items()",
    "model.run_with_cache(adata[:8], stop_at_layer=1)",
    # The cache.
    "cache['pattern', 0][:, 3]",
    "cache['pattern', 0, 'attn']",
    "cache['resid_post', -1]",
    "cache['blocks.0.attn.hook_pattern']",
    "cache['attn_scores', 0]",
    "cache['q', 0], cache['k', 0], cache['v', 0], cache['z', 0], cache['result', 0]",
    "cache['embed'], cache['hook_embed']",
    "cache['pre', 0], cache['post', 0], cache['mlp_out', 0], cache['attn_out', 0], cache['resid_mid', 0]",
    "cache.stack_activation('pattern').shape",
    "cache.stack_head_results(layer=-1, return_labels=True)",
    "cache.accumulated_resid(return_labels=True, incl_mid=True)",
    "cache.keys(), len(cache), [name for name in cache]",
    "cache.to('cpu')",
    "model.run_with_cache(adata[:1])[1].remove_batch_dim()['pattern', 0]",
    "cache.apply_slice_to_batch_dim(slice(0, 2))['pattern', 0]",
    "{name: x.mean() for name, x in cache.items() if 'resid_post' in name}",
    "cache.decompose_resid(return_labels=True, mode='attn')",  # refused: post-norm
    "cache.logit_attrs(cache.stack_head_results(), 'CD3E')",  # refused: post-norm
    # Hooks.
    "model.run_with_hooks(adata[:8], fwd_hooks=[('blocks.0.attn.hook_pattern', lambda x, hook: x)])",
    "model.run_with_hooks(adata[:8], fwd_hooks=[(utils.get_act_name('z', 1), lambda x, hook: torch.zeros_like(x))]).cell",
    "model.run_with_hooks(adata[:8], fwd_hooks=[(lambda name: name.endswith('attn_scores'), lambda x, hook: x)])",
    "model.add_hook('blocks.0.hook_resid_pre', lambda x, hook: x); model(adata[:2]); model.reset_hooks()",
    "with_hooks(model, adata)",
    "model.run_with_cache(adata[:2], incl_bwd=True, loss=lambda out: out.cell.sum())[1]['blocks.0.hook_resid_pre_grad']",
    # Weights.
    "model.W_Q[0, 1], model.W_K, model.W_V, model.W_O.shape",
    "model.W_E[model.to_single_token('CD3E')]",
    "model.W_in.shape, model.W_out.shape",
    "(model.QK[1, 2].AB, model.OV.svd(), model.OV.norm())",
    "transformer_lens.FactoredMatrix(model.W_E, model.W_Q[0, 0]).AB.shape",
    "model.b_Q, model.b_K, model.b_V, model.b_O",
)

REFUSED = ("cache.decompose_resid", "cache.logit_attrs")


def with_hooks(model, adata):
    seen = []
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: seen.append(hook.name))]):
        model(adata[:2])
    assert seen == ["blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def names():
    model, adata = workbench.load_model(MINI), workbench.load("pbmc68k")
    _, cache = model.run_with_cache(adata[:3])
    assert isinstance(cache, CellCache)
    return {
        "workbench": workbench,
        "torch": torch,
        "transformer_lens": transformer_lens,
        "utils": utils,
        "CHECKPOINT": MINI,
        "model": model,
        "adata": adata,
        "cache": cache,
        "with_hooks": with_hooks,
    }


@pytest.mark.parametrize("line", TRANSFORMER_LENS)
def test_a_line_works_or_says_what_to_do(line, names):
    if line.startswith(REFUSED):
        with pytest.raises(WorkbenchError, match="workbench.ablate"):
            exec(line, dict(names))
    else:
        exec(line, dict(names))


def test_nine_in_ten_lines_work():
    assert len(TRANSFORMER_LENS) >= 55
    assert sum(line.startswith(REFUSED) for line in TRANSFORMER_LENS) <= len(TRANSFORMER_LENS) / 10


def test_every_hook_is_reached_by_the_short_name_of_transformer_lens(names):
    cache, model = names["cache"], names["model"]
    for name in model.hook_dict:
        *_, part = name.split(".")
        short = part.removeprefix("hook_")
        key = (short, int(name.split(".")[1])) if name.startswith("blocks.") else (name,)
        if name in ("embed.hook_gene", "embed.hook_value"):
            key = (part,)
        assert cache.name(*key) == name
        for spelling in spellings(name):
            assert full_name(spelling) == name and model.resolve_hooks(spelling) == (name,)


def test_weights_are_what_the_hooks_see(names):
    model, cache = names["model"], names["cache"]
    x, attn = cache["resid_pre", 1], model.blocks[1].attn
    torch.testing.assert_close(torch.einsum("cgd,hde->cghe", x, model.W_Q[1]) + attn.b_Q, cache["q", 1])
    written = torch.einsum("cghe,hed->cghd", cache["z", 1], model.W_O[1])
    torch.testing.assert_close(written, cache["result", 1])
    torch.testing.assert_close(written.sum(2) + model.b_O[1], cache["attn_out", 1])
    torch.testing.assert_close(
        cache["resid_mid", 1] @ model.W_in[1] + model.blocks[1].mlp.linear1.bias, cache["pre", 1]
    )
    post = cache["post", 1] @ model.W_out[1] + model.blocks[1].mlp.linear2.bias
    torch.testing.assert_close(post, cache["mlp_out", 1])
    torch.testing.assert_close(model.OV[1, 2].AB, model.W_V[1, 2] @ model.W_O[1, 2])
    torch.testing.assert_close(model.QK[1, 2].AB, model.W_Q[1, 2] @ model.W_K[1, 2].T)


def test_head_results_are_made_from_z_where_they_were_not_cached(names):
    model, adata, whole = names["model"], names["adata"], names["cache"]
    _, cache = model.run_with_cache(adata[:3], names_filter="blocks.*.attn.hook_z")
    stacked, labels = cache.stack_head_results(return_labels=True)
    assert labels[-1] == "L5H3"
    torch.testing.assert_close(stacked, whole.stack_head_results())
