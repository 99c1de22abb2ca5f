"""What a user of scanpy and scikit-learn types first works on cells as scanpy reads them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import sklearn.base
import sklearn.pipeline

import workbench
from workbench.cells.expression import panel_expression
from workbench.operators.algorithm import Algorithm

MINI = "artifacts/scgpt-blood-mini"

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
    "workbench.embed(adata[:, adata.var_names[:150]], model)",
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


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    model, shipped = workbench.load_model(MINI), sc.datasets.pbmc68k_reduced()
    keep = shipped.obs["bulk_labels"].isin(["CD14+ Monocyte", "Dendritic"]).to_numpy()
    # The genes of which there is most: a pass takes time with the square of their number.
    most = np.sort(np.argsort(-np.asarray(shipped.raw.X.mean(0)).ravel(), kind="stable")[:250])
    adata = ad.AnnData(shipped.raw.X[keep][:60, most], obs=shipped.obs[keep][:60], var=shipped.raw.var.iloc[most])
    adata.raw = adata
    adata.write_h5ad(folder / "cells.h5ad")
    cells = workbench.load(adata, cell_type="bulk_labels")
    genes = tuple(sorted(set(model.vocabulary.genes) & set(cells.var_names))[:60])
    matrix = np.random.default_rng(0).standard_normal((len(genes), 5))
    table = pd.DataFrame(panel_expression(cells, genes).toarray(), columns=list(genes))
    return {
        "workbench": workbench,
        "sc": sc,
        "ad": ad,
        "sklearn": sklearn,
        "CHECKPOINT": MINI,
        "PATH": folder / "cells.h5ad",
        "NEW": folder / "new.h5ad",
        "model": model,
        "adata": adata,
        "cells": cells,
        "algorithm": Algorithm(genes, matrix, np.zeros(5), {}, {}),
        "operator": workbench.Operator(genes, matrix, "qk", "L0H1", "made up"),
        "table": table,
        # Stages of the ruler that ships: two classes at the least.
        "labels": np.where(np.arange(len(table)) % 2, "monocyte", "dendritic cell"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("line", SCANPY)
def test_a_line_works(line, given):
    exec(line, {**given, "adata": given["adata"].copy(), "cells": given["cells"].copy()})


def test_the_list_is_as_long_as_that_of_the_habits():
    assert len(SCANPY) >= 38
