"""Lines that users of transformer-lens and of scanpy type, each as a small program of its own."""

from __future__ import annotations

# What stands before each line: a tutorial's first page has this, too.
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

SCANPY = ()
