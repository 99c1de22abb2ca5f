"""Thinned expression against thinned counts, and library sizes against those that were planted."""

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.cells.thinning import library_sizes, thinned, with_thinned

GENES = np.array([f"G{i}" for i in range(200)])


def made(n=60, genes=200, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, size=genes) * 2, (n, genes)).astype(float)
    counts[:, 0] = 1  # a gene of a single count in every cell
    totals = counts.sum(1) * rng.uniform(2, 4, n).round()
    x = sp.csr_matrix(np.log1p(1e4 * counts / totals[:, None]))
    return counts, totals, x, np.array([f"cell{i}" for i in range(n)])


def test_library_sizes_are_read_off_the_smallest_value():
    _, totals, x, _ = made()
    np.testing.assert_allclose(library_sizes(x), totals, rtol=1e-9)
    bare = sp.vstack([x[:2], sp.csr_matrix((1, x.shape[1])), x[2:3]], format="csr")
    assert np.isnan(library_sizes(bare)).tolist() == [False, False, True, False]


def test_what_is_left_are_whole_counts_of_a_smaller_library():
    counts, totals, x, names = made()
    out = thinned(x, 0.25, names, GENES, seed=3)
    back = np.expm1(out.toarray()) * 0.25 * totals[:, None] / 1e4
    np.testing.assert_allclose(back, back.round(), atol=1e-6)
    assert (back.round() <= counts).all()
    kept, n = back.sum(), counts.sum()
    assert abs(kept - 0.25 * n) < 4 * np.sqrt(n * 0.25 * 0.75)
    # Binomial in each gene, too: the variance of what is kept of many counts.
    most = counts.max(0) > 5
    z = (back[:, most] - 0.25 * counts[:, most]) / np.sqrt(0.1875 * np.maximum(counts[:, most], 1))
    assert 0.9 < z.std() < 1.1


def test_expression_stays_what_it_was_on_average():
    _, _, x, names = made(n=400)
    linear, thin = np.expm1(x.toarray()).mean(0), np.expm1(thinned(x, 0.5, names, GENES, seed=0).toarray()).mean(0)
    assert np.abs(thin.sum() / linear.sum() - 1) < 0.02


def test_the_order_of_cells_and_genes_changes_nothing_and_the_seed_does():
    _, _, x, names = made()
    rng = np.random.default_rng(1)
    order, columns = rng.permutation(len(names)), rng.permutation(len(GENES))
    one = thinned(x, 0.5, names, GENES, 0)
    other = thinned(x[order][:, columns], 0.5, names[order], GENES[columns], 0)
    assert (one[order][:, columns] != other).nnz == 0
    assert (one != thinned(x, 0.5, names, GENES, 1)).nnz > 0


@pytest.mark.parametrize("shares", [(), (0.5, 0.25)])
def test_copies_lie_below_the_cells(shares):
    _, _, x, names = made()
    every = with_thinned(x, names, GENES, 0, shares)
    assert every.shape == ((1 + len(shares)) * 60, 200) and (every[:60] != x).nnz == 0
    for i, share in enumerate(shares):
        assert (every[60 * (i + 1) : 60 * (i + 2)] != thinned(x, share, names, GENES, 0)).nnz == 0


def test_a_cell_that_expresses_nothing_stays_like_that():
    assert thinned(sp.csr_matrix((2, 5)), 0.5, np.array(["a", "b"]), list("vwxyz"), 0).nnz == 0
