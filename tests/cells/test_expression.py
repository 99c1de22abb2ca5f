"""Expression on a panel: the same from a file, a backed file and memory, for every odd input that is valid."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from helpers import genes, tiny_cells, vocabulary_ids

from workbench.cells.datasets import load
from workbench.cells.expression import expression_on, match_panel, on_genes, panel_expression
from workbench.cells.genes import match_cells
from workbench.cells.values import row_facts
from workbench.errors import CellsError, GeneMatchError
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.models.vocabulary import Vocabulary

PANEL = tuple(genes()[5:35])


def odd_inputs() -> dict[str, ad.AnnData]:
    """Cells as people have them; every one means the cells of `tiny_cells`."""
    cells = tiny_cells(24)
    dense = cells.X.toarray()
    said = {"workbench": {"values": "counts"}}
    halves, held = np.floor(dense / 2), cells.X.tocoo()
    # Every entry twice, half of the value each.
    order = np.argsort(np.tile(held.row, 2), kind="stable")
    parts = np.tile(held.data / 2, 2)[order], np.tile(held.col, 2)[order], cells.X.indptr * 2
    split = np.column_stack([dense - halves, halves])
    names = pd.DataFrame(index=genes())
    return {
        "dense": ad.AnnData(dense, cells.obs, names, said),
        "columns": ad.AnnData(sp.csc_matrix(dense), cells.obs, names, said),
        "whole numbers": ad.AnnData(dense.astype(np.int32), cells.obs, names, said),
        "repeated entries": ad.AnnData(sp.csr_matrix(parts, shape=(24, 40)), cells.obs, names, said),
        "two columns a gene": ad.AnnData(split, cells.obs, pd.DataFrame(index=[*genes(), *genes()]), said),
        "blanks and the genome": ad.AnnData(
            dense, cells.obs, pd.DataFrame(index=[f"GRCh38_{g} " for g in genes()]), said
        ),
        "another order": ad.AnnData(dense[:, ::-1], cells.obs, pd.DataFrame(index=genes()[::-1]), said),
        "of another case": ad.AnnData(dense, cells.obs, pd.DataFrame(index=[g.lower() for g in genes()]), said),
    }


@pytest.mark.parametrize("kind", odd_inputs())
def test_an_odd_input_is_the_same_backed_in_memory_and_by_hand(kind, tmp_path):
    plain, odd = load(tiny_cells(24)), odd_inputs()[kind]
    odd.write_h5ad(tmp_path / "odd.h5ad")
    vocabulary = Vocabulary(vocabulary_ids())
    settings = ModelConfig(n_tokens=43, d_model=8, n_layers=1, n_heads=1, d_mlp=8)

    def tokens(cells):
        made = Tokenizer(cells, settings, vocabulary).tokens()
        found = zip(made.gene_ids.tolist(), made.values.tolist(), strict=True)
        return [dict(zip(ids, values, strict=True)) for ids, values in found]

    expected = panel_expression(plain, PANEL).toarray()
    for form in ("file", "backed", "memory", "by hand"):
        cells = load(odd) if form == "memory" else load(tmp_path / "odd.h5ad", backed=form == "backed")
        cells = odd if form == "by hand" else cells
        np.testing.assert_allclose(panel_expression(cells, PANEL).toarray(), expected, rtol=1e-6, err_msg=form)
        assert tokens(cells) == tokens(plain), form


def test_counts_are_given_beside_where_there_are_counts():
    for kind in ("counts", "log-normalised"):
        cells = tiny_cells(9, kind=kind)
        match = match_cells(cells, genes())
        rows = np.array([2, 3, 7])
        expression, counts = expression_on(cells, match, (*PANEL[::-1], "NOT MEASURED"), rows)
        assert expression.shape == (3, 31) and expression[:, 30].nnz == 0
        whole, _ = expression_on(cells, match, PANEL)
        assert np.array_equal(expression.toarray()[:, :30], whole.toarray()[rows][:, ::-1])
        assert (counts is None) == (kind != "counts")
        if counts is not None:
            assert np.array_equal(counts.toarray()[:, :30], cells.X.toarray()[rows][:, 5:35][:, ::-1])


def test_a_cell_may_lack_the_panel_but_not_every_gene():
    cells = tiny_cells(6)
    dense = cells.X.toarray()
    dense[2, 5:35] = 0
    lacking = ad.AnnData(dense.copy(), cells.obs, cells.var, cells.uns)
    assert panel_expression(lacking, PANEL)[2].nnz == 0
    dense[4] = 0
    with pytest.raises(CellsError, match=r"1 cells express no gene that is used \(cell4\)"):
        panel_expression(ad.AnnData(dense, cells.obs, cells.var, cells.uns), PANEL)


def test_too_few_genes_of_the_panel_are_an_error_that_says_what_the_names_look_like():
    cells = tiny_cells(6)
    cells.var_names = [f"ENSG{i:011d}" for i in range(40)]
    with pytest.raises(GeneMatchError, match="measure 0 of the 30 panel genes.*look like Ensembl ids.*--gene-column"):
        match_panel(cells, PANEL, 0.5)


def test_a_matrix_with_more_columns_than_genes_is_refused():
    block = sp.csr_matrix((np.ones(2, np.float32), np.array([0, 2]), np.array([0, 2])), shape=(1, 3))
    place = np.array([1, -1, 0])
    assert on_genes(block, place, 2).toarray().tolist() == [[1, 1]]
    block.indices[1] = 3  # a damaged file: SciPy does not look
    with pytest.raises(CellsError, match="columns up to 4, and 3 genes: the file is damaged"):
        on_genes(block, place, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_numbers_and_sums_of_cells_are_those_of_numpy(dtype):
    dense = np.random.default_rng(0).poisson(1.0, (40, 30)).astype(dtype)
    dense[::3, 4] += 0.25
    dense[1], dense[2, 5] = 0, np.nan
    whole, sums = row_facts(sp.csr_matrix(dense))
    assert np.array_equal(whole, (dense == np.round(dense)).all(1))
    assert np.allclose(sums, dense.sum(1, dtype=np.float64), rtol=1e-12, equal_nan=True)
