"""Names of cells and genes in a cache, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformer_lens import ActivationCache

import workbench
from workbench.ablation import ablated
from workbench.errors import HookError, ShapeError, VocabularyError
from workbench.models.cache import CellCache

MINI = "artifacts/scgpt-blood-mini"


@pytest.fixture(scope="module")
def model():
    return workbench.load_model(MINI)


@pytest.fixture(scope="module")
def cells():
    return workbench.load("pbmc68k")[:3]


@pytest.fixture(scope="module")
def cache(model, cells):
    return model.run_with_cache(cells)[1]


def test_genes_are_those_that_each_cell_expresses(cache, cells, model):
    match = model.tokenizer(cells).match
    assert isinstance(cache, CellCache) and isinstance(cache, ActivationCache) and cache.cells == tuple(cells.obs_names)
    for row, genes in enumerate(cache.genes):
        # Under the names of the vocabulary, which knows some genes by an approved symbol where the cells have a former one.
        places = match.place[(np.asarray(cells.X[row].todense()).ravel() > 0) & (match.place >= 0)]
        expressed = {match.genes[place] for place in places}
        assert genes[0] == "<cls>"
        assert set(genes[1:]) - {""} <= expressed
        assert (genes == "").sum() == int(cache.tokens.padding[row].sum())


def test_a_table_of_a_map_holds_its_numbers_under_the_names_of_the_genes(cache):
    table = cache.to_dataframe("pattern", 1, head=2)
    assert list(table) == ["cell", "head", "query", "key", "pattern"] and set(table["head"]) == {2}
    sums = table.groupby(["cell", "query"])["pattern"].sum()
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    cell, query, key = 1, 5, 9
    row = table.query(
        f"cell == '{cache.cells[cell]}' and query == '{cache.genes[cell, query]}' and key == '{cache.genes[cell, key]}'"
    )
    assert row["pattern"].item() == pytest.approx(float(cache["pattern", 1][cell, 2, query, key]))
    assert len(cache.to_dataframe("attn_scores", 1)) == 4 * len(table)


def test_a_table_of_vectors_leaves_padding_out(cache):
    n = int((~cache.tokens.padding).sum())
    assert cache.to_dataframe("resid_post", -1).shape == (n, 64)
    assert cache.to_dataframe("z", 0).shape == (4 * n, 16)
    one = cache.to_dataframe("z", 0, head=3)
    np.testing.assert_array_equal(one, cache.to_dataframe("z", 0).xs(3, level="head"))
    cell, gene = cache.cells[2], cache.genes[2, 7]
    np.testing.assert_array_equal(one.sort_index().loc[(cell, gene)].to_numpy().ravel(), cache["z", 0][2, 7, 3])
    whole = cache.to_dataframe("cell")
    assert list(whole.index) == list(cache.cells) and np.array_equal(whole, cache["cell"])


def test_an_anndata_says_which_gene_of_which_cell_a_row_is(cache, cells):
    found = cache.to_anndata("resid_post", 3)
    assert found.obs_names.is_unique and list(found.obs) == ["cell", "gene", "value"]
    real = ~cache.tokens.padding
    np.testing.assert_array_equal(found.X, cache["resid_post", 3][real])
    np.testing.assert_array_equal(found.obs["value"], cache.tokens.values[real])
    assert cache.to_anndata("z", 0).n_obs == 4 * found.n_obs
    assert list(cache.to_anndata("cell").obs_names) == list(cells.obs_names)


def test_fewer_cells_keep_their_names(cache):
    cut = cache.apply_slice_to_batch_dim(slice(1, 3))
    assert cut.cells == cache.cells[1:] and cut["pattern", 0].shape[0] == 2
    np.testing.assert_array_equal(cut.genes, cache.genes[1:])
    assert len(cut.to_dataframe("cell")) == 2


def test_one_cell_without_the_axis_of_cells(model, cells):
    _, cache = model.run_with_cache(cells[:1], remove_batch_dim=True)
    assert cache["pattern", 0].ndim == 3 and cache.to_dataframe("resid_post", 0).shape == (cache.genes.size, 64)


@pytest.mark.parametrize(
    ("ask", "kind", "says"),
    [
        (lambda c: c["patern", 0], HookError, r"did you mean 'blocks\.0\.attn\.hook_pattern'"),
        (lambda c: c["resid_post", 6], HookError, "layers 0 to 5"),
        (lambda c: c.to_dataframe("pattern", 0, head=4), HookError, "heads 0 to 3"),
        (lambda c: c.to_dataframe("resid_post", 0, head=1), HookError, "has no heads"),
        (lambda c: c.to_anndata("pattern", 0), HookError, "to_dataframe"),
        (lambda c: c.get_full_resid_decomposition(), HookError, "workbench.ablate"),
        (lambda c: c.stack_head_results(incl_remainder=True), HookError, "workbench.ablate"),
        (lambda c: c.accumulated_resid(apply_ln=True), HookError, "normalised already"),
        (lambda c: c.model.to_single_token("CD3EE"), VocabularyError, "CD3E"),
    ],
)
def test_what_cannot_be_is_refused_by_name(cache, ask, kind, says):
    with pytest.raises(kind, match=says):
        ask(cache)


def test_what_was_not_cached_or_was_cut_is_said(model, cells):
    _, cache = model.run_with_cache(cells, names_filter="hook_cell")
    with pytest.raises(HookError, match="was not cached"):
        _ = cache["pattern", 0]
    assert "hook_cell" in cache and ("pattern", 0) not in cache
    _, cut = model.run_with_cache(cells, pos_slice=0)
    with pytest.raises(ShapeError, match="pos_slice"):
        _ = cut.genes


def test_a_table_that_would_not_fit_is_refused(cache, monkeypatch):
    monkeypatch.setattr("workbench.models.cache._MOST_ROWS", 1000)
    with pytest.raises(ShapeError, match="name one head"):
        cache.to_dataframe("pattern", 0)


def test_a_head_is_ablated_by_its_name_alone(model, cells):
    own = model(cells).cell
    with ablated(model, "L2H1"):
        zero = model(cells).cell
    with ablated(model, workbench.Ablation("L2H1")):
        assert torch.equal(model(cells).cell, zero)
    with ablated(model, workbench.Ablation("L2H1", "mean"), reference=cells):
        mean = model(cells).cell
    assert not torch.allclose(own, zero) and not torch.allclose(zero, mean)
    assert torch.equal(model(cells).cell, own)
