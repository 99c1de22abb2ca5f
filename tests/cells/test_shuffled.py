"""Cells as controls: what stays, what goes, and that no order matters."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from workbench.cells.shuffled import permuted_genes, thinned
from workbench.errors import CellsError


@pytest.fixture(scope="module")
def counts():
    """Forty cells of two kinds, whose genes go together, with library sizes far apart."""
    rng = np.random.default_rng(0)
    kind, size = np.arange(40) % 2, rng.uniform(200, 3000, 40)
    share = rng.dirichlet(np.ones(30), 2)[kind]
    cells = AnnData(sp.csr_matrix(rng.poisson(share * size[:, None]).astype(np.float32)))
    cells.obs_names, cells.var_names = [f"c{i}" for i in range(40)], [f"G{i}" for i in range(30)]
    return cells


def test_each_gene_keeps_its_values_and_no_two_go_together(counts):
    before, after = counts.X.toarray(), permuted_genes(counts, seed=0).X.toarray()
    np.testing.assert_array_equal(np.sort(after, 0), np.sort(before, 0))
    apart = np.abs(np.corrcoef(np.log1p(before).T)[np.triu_indices(30, 1)]).mean()
    assert np.abs(np.corrcoef(np.log1p(after).T)[np.triu_indices(30, 1)]).mean() < 0.6 * apart
    assert not np.array_equal(after, permuted_genes(counts, seed=1).X.toarray())


def test_values_stay_in_their_batch(counts):
    batch = np.array(["a", "b"]).repeat(20)
    after = permuted_genes(counts, batch, seed=0).X.toarray()
    for rows in (slice(20), slice(20, 40)):
        np.testing.assert_array_equal(np.sort(after[rows], 0), np.sort(counts.X.toarray()[rows], 0))


@pytest.mark.parametrize("change", [permuted_genes, lambda cells, *, seed: thinned(cells, seed=seed)[0]])
def test_no_order_of_cells_or_genes_matters(counts, change):
    rows, columns = np.random.default_rng(1).permutation(40), np.random.default_rng(2).permutation(30)
    whole = change(counts, seed=0)
    again = change(counts[rows][:, columns].copy(), seed=0)
    np.testing.assert_array_equal(again.X.toarray(), whole[again.obs_names][:, again.var_names].X.toarray())


def test_thinned_cells_have_one_library_size(counts):
    made, target, smaller = thinned(counts, seed=0)
    before, after = counts.X.toarray(), made.X.toarray()
    assert (after <= before).all() and (after == after.round()).all()
    enough = before.sum(1) >= target
    assert smaller == (~enough).sum() == 2 and (after[enough].sum(1) == target).all()
    np.testing.assert_array_equal(after[~enough], before[~enough])


def test_thinning_draws_each_molecule_alike(counts):
    drawn = np.mean([thinned(counts, 100, seed=seed)[0].X.toarray() for seed in range(200)], 0)
    expected = counts.X.toarray() * 100 / counts.X.toarray().sum(1, keepdims=True)
    # The spread of 200 hypergeometric draws is under .25 a gene of at most 100 counts.
    assert np.abs(drawn - expected).max() < 5 * 5 / np.sqrt(200)
    assert np.abs(drawn - expected).mean() < 0.15


def test_what_is_no_count_is_refused(counts):
    logged = counts.copy()
    logged.X = counts.X.log1p()
    with pytest.raises(CellsError, match="Only counts can be thinned"):
        thinned(logged, seed=0)
