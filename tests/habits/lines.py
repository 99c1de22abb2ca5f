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

SCANPY = (
    # Reading.
    "workbench.load('pbmc68k')",
    "workbench.load(PATH)",
    "workbench.load(adata, cell_type='bulk_labels')",
    "workbench.load(PATH, cell_type='bulk_labels', backed=True)",
    "workbench.load(adata, layer='raw', cell_type='louvain')",
    # The cell embedding, where scanpy looks for it.
    "workbench.embed(adata, model)",
    "workbench.embed(adata, CHECKPOINT).obsm['X_scgpt']",
    "workbench.embed(adata, model, key_added='X_scgpt'); sc.pp.neighbors(adata, use_rep='X_scgpt')",
    "sc.pp.neighbors(workbench.embed(adata, model), use_rep='X_scgpt', n_neighbors=5)",
    "workbench.embed(adata, model, layer=3, cell_style='avg-pool', normalise=False, batch_size=4)",
    "workbench.embed(adata[adata.obs['bulk_labels'] == 'Dendritic'], model)",
    "workbench.embed(adata[:, adata.var_names[:500]], model)",
    "workbench.embed(ad.AnnData(adata.X, obs=adata.obs, var=adata.var), model)",
    "workbench.embed(adata, model).write_h5ad(NEW)",
    "workbench.latent(cells, algorithm)",
    "workbench.latent(cells, algorithm, key_added='X_latent'); cells.obsm['X_latent']",
    "algorithm.transform(cells)",
    # Attention.
    "workbench.attention(adata, model, 'L2H3', source='CD74', target=['LYZ', 'FTL'], groupby='bulk_labels')",
    "workbench.attention(adata, model, 'L2H3').pivot(index='target', columns='source', values='attention')",
    "workbench.attention(adata, model, 'L2H3', key_added='attention'); adata.varp['attention']",
    "workbench.figures.attention_map(workbench.attention(adata, model, 'L2H3'))",
    # Probes.
    "workbench.lens(adata, model, labels='bulk_labels', layers=[0, -1], folds=2)",
    "workbench.probe(adata, model, 'bulk_labels', layers=[5], folds=2).sort_values('value')",
    "workbench.probe(adata, model, 'n_genes', layers=[5], folds=2)",
    "workbench.figures.layer_probes(workbench.probe(adata, model, 'bulk_labels', layers=[5], folds=2))",
    # Cause.
    "workbench.ablate(model, cells, n_cells=8)",
    "workbench.ablate(model, cells, ['L2H1', 'L0.mlp'], n_cells=8)['metric'].unique()",
    "workbench.patch(adata, model, source='CD14+ Monocyte', target='Dendritic', groupby='bulk_labels', n_cells=6)",
    "workbench.steer(adata, model, source='CD14+ Monocyte', target='Dendritic', groupby='bulk_labels', doses=[1], null_draws=2)",
    "workbench.figures.transfer_map(workbench.patch(cells, model, source='CD14+ Monocyte', target='Dendritic', n_cells=6))",
    # Activations as AnnData.
    "sc.pp.pca(model.run_with_cache(adata[:4])[1].to_anndata('resid_post', -1), n_comps=5)",
    "model.run_with_cache(adata[:4])[1].to_dataframe('pattern', 0, head=3).groupby('query')['pattern'].max()",
    # scikit-learn.
    "sklearn.base.clone(workbench.LETAdaptor(k=3))",
    "sklearn.base.clone(workbench.Extractor(operator, k=3)).get_params()",
    "workbench.Extractor(operator, k=3).fit(table, labels).predict(table)",
    "workbench.Extractor(operator, k=3).fit_transform(table, labels)",
    "sklearn.pipeline.make_pipeline(workbench.Extractor(operator, k=3)).fit(table, labels).score(table, labels)",
    "model.tokenizer(adata).match.share",
)
