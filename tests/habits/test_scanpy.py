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
from tests.habits.lines import SCANPY
from workbench.cells.expression import panel_expression
from workbench.operators.algorithm import Algorithm

MINI = "artifacts/scgpt-blood-mini"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    model, shipped = workbench.load_model(MINI), sc.datasets.pbmc68k_reduced()
    keep = shipped.obs["bulk_labels"].isin(["CD14+ Monocyte", "Dendritic"]).to_numpy()
    adata = ad.AnnData(shipped.raw.X[keep], obs=shipped.obs[keep], var=shipped.raw.var)[:60].copy()
    adata.raw = adata
    adata.write_h5ad(folder / "cells.h5ad")
    cells = workbench.load(adata, cell_type="bulk_labels")
    genes = tuple(sorted(model.vocabulary.genes)[:60])
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
