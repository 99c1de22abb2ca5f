"""Factors are what they are said to be, whatever the order of genes, and no rank-n sum comes nearer than the SVD's."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.factorise import (
    Factors,
    by_size,
    hard_sparse,
    nmf_factors,
    relative_error,
    sparse_pca_factors,
    svd_factors,
    top_genes,
)

GENES = tuple(f"g{i:02d}" for i in range(30))


def operator(rank=30, d=30, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((d, rank)) * 0.8 ** np.arange(rank)) @ rng.standard_normal((rank, d))


def attention(d=30, parts=4, seed=1):
    rng = np.random.default_rng(seed)
    return rng.gamma(0.3, 1, (d, parts)) @ rng.gamma(0.3, 1, (parts, d)) + 0.01 * rng.random((d, d))


def check(factors):
    np.testing.assert_allclose(np.linalg.norm(factors.read, axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(factors.write, axis=1), 1, atol=1e-12)
    assert (factors.strength > 0).all() and (np.diff(factors.strength) <= 0).all()


@pytest.mark.parametrize("n", [1, 5, 29])
def test_the_error_of_the_svd_is_the_tail_of_the_singular_values(n):
    a = operator()
    s = np.linalg.svd(a, compute_uv=False)
    factors = svd_factors(a, GENES, n)
    check(factors)
    np.testing.assert_allclose(factors.strength, s[:n])
    assert relative_error(a, factors) == pytest.approx(np.sqrt((s[n:] ** 2).sum() / (s**2).sum()), rel=1e-8)


def test_all_factors_together_are_the_operator():
    a = operator()
    np.testing.assert_allclose(svd_factors(a, GENES, 30).matrix(), a, atol=1e-12)


def test_no_other_factorisation_of_the_same_rank_comes_nearer():
    a = attention()
    best = relative_error(a, svd_factors(a, GENES, 4))
    others = [nmf_factors(a, GENES, 4, 0), sparse_pca_factors(a, GENES, 4, 0)]
    for factors in others:
        check(factors)
    for factors in (*others, hard_sparse(svd_factors(a, GENES, 4), 20, 20)):
        assert relative_error(a, factors) >= best - 1e-12, factors.method


@pytest.mark.parametrize(
    "make", [svd_factors, lambda a, g, n: sparse_pca_factors(a, g, n, 3), lambda a, g, n: nmf_factors(a, g, n, 3)]
)
def test_the_order_of_genes_does_not_matter(make):
    a, order = attention(), np.random.default_rng(5).permutation(30)
    plain = make(a, GENES, 4)
    moved = make(a[np.ix_(order, order)], tuple(np.array(GENES)[order]), 4)
    # NMF starts from a randomised decomposition and stops at a tolerance; the others are exact.
    atol = 2e-2 if plain.method == "nmf" else 1e-6
    np.testing.assert_allclose(moved.read, plain.read[order], atol=atol)
    np.testing.assert_allclose(moved.write, plain.write[:, order], atol=atol)


def test_the_sign_is_that_of_the_heavier_tail_and_a_tie_goes_by_the_name_of_the_gene():
    a = operator()
    u, s, vt = np.linalg.svd(a)
    factors = svd_factors(a, GENES, 30)
    assert ((factors.read**3).sum(0) > 0).all()
    turned = np.sign((factors.read * u).sum(0))
    np.testing.assert_allclose(factors.read, u * turned, atol=1e-12)
    np.testing.assert_allclose(factors.write, vt * turned[:, None], atol=1e-12)
    read, write = np.array([1.0, -1, 0]) / np.sqrt(2), np.array([0.0, 0, 1])
    for genes, positive in ((("b", "a", "c"), "a"), (("a", "b", "c"), "a"), (("c", "b", "a"), "b")):
        for sign in (1, -1):
            one = svd_factors(sign * np.outer(read, write), genes, 1)
            assert one.read[genes.index(positive), 0] > 0, (genes, sign)


def test_more_factors_than_the_rank_are_refused_in_both_precisions():
    for dtype in (np.float64, np.float32):
        a = operator(rank=3).astype(dtype)
        assert svd_factors(a, GENES, 3).read.shape == (30, 3)
        with pytest.raises(EvaluationError, match="4 factors were asked for and the operator has rank 3"):
            svd_factors(a, GENES, 4)
        with pytest.raises(EvaluationError, match="rank 3"):
            sparse_pca_factors(a, GENES, 4, 0)


def test_bad_operators_are_refused(without_shape_checks):
    a = operator()
    with pytest.raises(EvaluationError, match="rank 0"):
        svd_factors(np.zeros((30, 30)), GENES, 1)
    with pytest.raises(EvaluationError, match="ask for 1 to 30"):
        svd_factors(a, GENES, 0)
    with pytest.raises(ShapeError, match=r"found \(30, 30\)"):
        svd_factors(a, GENES[:29], 1)
    with pytest.raises(EvaluationError, match="named twice"):
        svd_factors(a, (*GENES[:29], "g00"), 1)
    a[3, 4] = np.nan
    with pytest.raises(EvaluationError, match="1 entries of the operator are NaN"):
        svd_factors(a, GENES, 1)
    with pytest.raises(EvaluationError, match="entries are negative and NMF only adds"):
        nmf_factors(operator(), GENES, 2, 0)
    with pytest.raises(EvaluationError, match="came out empty"):
        sparse_pca_factors(attention(), GENES, 4, 0, penalty=1e3)
    with pytest.raises(EvaluationError, match="above 0"):
        sparse_pca_factors(attention(), GENES, 4, 0, penalty=0)


def test_nmf_finds_parts_that_do_not_overlap():
    a = np.zeros((30, 30))
    a[:10, :8], a[10:18, 8:20], a[18:, 20:] = 3.0, 2.0, 1.0
    factors = nmf_factors(a, GENES, 3, 0)
    assert (factors.read >= 0).all() and (factors.write >= 0).all()
    assert relative_error(a, factors) < 1e-3
    of_gene = np.argmax(factors.read, axis=1), np.argmax(factors.write, axis=0)
    for rows, columns in ((slice(0, 10), slice(0, 8)), (slice(10, 18), slice(8, 20)), (slice(18, 30), slice(20, 30))):
        assert len({*of_gene[0][rows], *of_gene[1][columns]}) == 1


def test_sparse_pca_is_sparse_on_the_write_side_and_sparser_with_a_larger_penalty():
    a = attention()
    shares = [(sparse_pca_factors(a, GENES, 3, 0, penalty=p).write != 0).mean() for p in (0.01, 0.5, 1.0)]
    assert 1 >= shares[0] > shares[1] > shares[2] > 0
    free = sparse_pca_factors(a, GENES, 3, 0, penalty=1e-6)
    assert relative_error(a, free) == pytest.approx(relative_error(a, svd_factors(a, GENES, 3)), rel=1e-3)


def test_the_same_seed_gives_the_same_factors():
    a = attention()
    for make in (nmf_factors, sparse_pca_factors):
        one, two = make(a, GENES, 3, 7), make(a, GENES, 3, 7)
        assert np.array_equal(one.read, two.read) and np.array_equal(one.write, two.write)


def test_hard_sparse_sets_the_other_entries_to_zero_and_changes_nothing_else():
    factors = svd_factors(operator(), GENES, 4)
    sparse = hard_sparse(factors, 6, 9)
    assert (np.count_nonzero(sparse.read, axis=0) == 6).all() and (np.count_nonzero(sparse.write, axis=1) == 9).all()
    for f in range(4):
        whole = factors.strength[f] * np.outer(factors.read[:, f], factors.write[f])
        part = sparse.strength[f] * np.outer(sparse.read[:, f], sparse.write[f])
        left = part != 0
        np.testing.assert_allclose(part[left], whole[left])
        assert np.abs(whole[left]).sum() > np.abs(whole[np.ix_(range(6), range(9))]).sum()
        unit = np.outer(sparse.read[:, f], sparse.write[f])
        assert (unit * whole).sum() == pytest.approx(sparse.strength[f]), "the least-squares strength"
    np.testing.assert_allclose(hard_sparse(factors, 30, 30).matrix(), factors.matrix())
    with pytest.raises(EvaluationError, match="keep 1 to 30"):
        hard_sparse(factors, 31, 5)


def test_the_papers_hard_sparse_operator_has_1920_loadings():
    genes = tuple(f"g{i}" for i in range(200))
    sparse = hard_sparse(svd_factors(operator(20, 200), genes, 16))
    assert sparse.n_weights == 1920 + 16
    assert sparse.n_bytes == 1920 * (4 + 2) + 16 * 4 + 2 * 16 * 2
    dense = svd_factors(operator(20, 200), genes, 16)
    assert dense.n_bytes == 4 * dense.n_weights == 4 * (2 * 16 * 200 + 16)


def test_top_genes_are_ranked_by_size_and_ties_go_by_name():
    read = np.array([[0.5, -0.7, 0.5, 0.1, 0.0]]).T
    read /= np.linalg.norm(read)
    factors = Factors(("d", "c", "a", "b", "e"), read, np.ones(1), np.eye(5)[:1], "by hand")
    table = top_genes(factors, 4)
    reads = table[table["side"] == "read"]
    assert list(reads["gene"]) == ["c", "a", "d", "b"] and list(reads["rank"]) == [1, 2, 3, 4]
    assert reads["loading"].iloc[0] < 0
    assert list(table[table["side"] == "write"]["gene"]) == ["d"], "a loading of zero is no rank"
    assert by_size(read, factors.genes)[:, 0].tolist() == [1, 2, 0, 3, 4]


def test_factors_keep_their_names_when_others_are_left_out():
    factors = svd_factors(operator(), GENES, 4)
    some = factors.keep([3, 1])
    assert factors.names == ("f00", "f01", "f02", "f03") and some.names == ("f03", "f01")
    np.testing.assert_allclose(some.matrix() + factors.keep([0, 2]).matrix(), factors.matrix(), atol=1e-12)
    for wrong in ([4], [-1], [1, 1]):
        with pytest.raises(EvaluationError, match="factors 0 to 3"):
            factors.keep(wrong)


def test_factors_of_another_panel_are_refused(without_shape_checks):
    factors = svd_factors(operator(), GENES, 2)
    with pytest.raises(ShapeError, match="30 genes need an operator of 30 x 30"):
        relative_error(np.ones((20, 20)), factors)
    with pytest.raises(ShapeError, match="2 factors of 29 genes"):
        Factors(GENES[1:], factors.read, factors.strength, factors.write, "svd")
