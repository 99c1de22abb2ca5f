"""Pairs, factors and programs of heads, against brute force and against the functions that a run uses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from explorer.conftest import READ, WRITTEN, planted_genes, planted_operators
from workbench.explorer.heads import described, head_factors, programs_of, short, strongest_pairs
from workbench.factors.factorise import svd_factors, top_genes
from workbench.factors.gene_sets import load_gene_sets
from workbench.factors.programs import enrich


@pytest.fixture(scope="module")
def planted():
    genes = planted_genes()
    return genes, planted_operators(genes)


def test_pairs_are_the_largest_by_size_of_those_that_enough_cells_have():
    rng = np.random.default_rng(0)
    matrix, counts = rng.normal(size=(9, 9)), rng.integers(0, 20, (9, 9)).astype(float)
    found = strongest_pairs(matrix, counts, n=7, min_cells=10)
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j and counts[i, j] >= 10]
    assert found["n_pairs"] == len(pairs)
    expected = sorted(pairs, key=lambda at: -abs(matrix[at]))[:7]
    assert [(i, j) for i, j, _, _ in found["raw"]] == expected
    assert all(value == short(matrix[i, j]) and n == counts[i, j] for i, j, value, n in found["raw"])
    mean = {j: np.mean([matrix[i, k] for i, k in pairs if k == j]) for j in range(9) if any(k == j for _, k in pairs)}
    expected = sorted(pairs, key=lambda at: -abs(matrix[at] - mean[at[1]]))[:7]
    assert [(i, j) for i, j, _, _ in found["specific"]] == expected
    assert all(value == short(matrix[i, j] - mean[j]) for i, j, value, _ in found["specific"])


def test_what_all_query_genes_share_is_no_specific_pair():
    matrix = np.zeros((6, 6))
    matrix[:, 2] = 5.0
    matrix[4, 1] = 1.0
    found = strongest_pairs(matrix, n=1)
    assert found["raw"][0][1] == 2 and found["specific"][0][:2] == [4, 1]
    assert found["raw"][0][3] is None, "operators of weights have no cells"


def test_where_no_pair_has_enough_cells_there_is_none():
    found = strongest_pairs(np.ones((4, 4)), np.full((4, 4), 3.0), min_cells=10)
    assert found == {"n_pairs": 0, "raw": [], "specific": []}


def test_factors_are_those_of_the_run(planted):
    genes, matrices = planted
    factors, expected = head_factors(matrices[1, 1], genes), svd_factors(matrices[1, 1], genes, 6)
    assert np.array_equal(factors.read, expected.read) and np.array_equal(factors.strength, expected.strength)
    rows, table = described(matrices[1, 1], factors), top_genes(expected, 10)
    for row in rows:
        for side in ("read", "write"):
            own = table[(table["factor"] == row["name"]) & (table["side"] == side)]
            assert [genes[gene] for gene, _ in row[side]] == own["gene"].tolist()
            assert [loading for _, loading in row[side]] == [short(v, 3) for v in own["loading"]]
    shares = [row["share"] for row in rows]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.01


def test_an_operator_of_low_rank_has_as_many_factors_as_its_rank():
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(12, 2)) @ rng.normal(size=(2, 12))
    assert len(head_factors(matrix, [f"G{i}" for i in range(12)]).strength) == 2


def spectrum(kind, d=450, seed=3):
    """A random operator (singular values close to each other), a clear spectrum, or few factors and noise in float32."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        return rng.standard_normal((d, d))
    sides = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2)]
    if kind == "clear":
        return (sides[0] * 0.8 ** np.arange(d)) @ sides[1].T
    # Read genes by their sum: as centred as it gets, and of rank 3 but for the rounding of float32.
    read = sides[0][:, :3] - sides[0][:, :3].mean(0)
    return ((read * [3, 2, 1]) @ sides[1][:, :3].T).astype(np.float32)


@pytest.mark.parametrize(("kind", "n"), [("random", 6), ("clear", 6), ("rank 3", 3)])
def test_of_many_genes_the_first_factors_are_those_of_the_whole_decomposition(kind, n):
    matrix = spectrum(kind)
    genes = [f"G{i:04d}" for i in range(len(matrix))]
    factors = head_factors(matrix, genes)
    u, s, vt = np.linalg.svd(matrix.astype(np.float64))
    np.testing.assert_allclose(factors.strength, s[:n], rtol=1e-10)
    expected = svd_factors(matrix, genes, n)
    np.testing.assert_allclose(factors.read, expected.read, atol=1e-8)
    np.testing.assert_allclose(factors.write, expected.write, atol=1e-8)
    assert np.abs((factors.read * u[:, :n]).sum(0)) == pytest.approx(np.ones(n), abs=1e-10)
    assert np.abs((factors.write * vt[:n]).sum(1)) == pytest.approx(np.ones(n), abs=1e-10)
    assert factors.names == expected.names and described(matrix, factors) == described(matrix, expected)
    again = head_factors(matrix, genes)
    assert np.array_equal(factors.read, again.read) and np.array_equal(factors.write, again.write)


def test_of_many_genes_too_a_head_without_factors_says_why(without_shape_checks):
    genes = [f"G{i:04d}" for i in range(450)]
    assert "zero everywhere" in head_factors(np.zeros((450, 450)), genes)
    assert "NaN" in head_factors(np.full((450, 450), np.nan), genes)


def test_an_operator_of_zeros_has_none_and_the_reason_is_said():
    found = head_factors(np.zeros((3, 3)), ["A", "B", "C"])
    assert isinstance(found, str) and "zero everywhere" in found
    assert described(np.zeros((3, 3)), found) == []


def test_the_planted_programs_are_found_and_shuffled_names_find_hardly_any(planted):
    genes, matrices = planted
    factors = [head_factors(matrices[at], genes) for at in np.ndindex(matrices.shape[:2])]
    found = programs_of(factors, genes, seed=0)
    terms = [one["term"] for one in found.summary["terms"]]
    for side, program in (("read", READ), ("write", WRITTEN)):
        rows = found.shown[3, 0, side]["rows"]
        assert terms[rows[0][0]] == program and rows[0][5] < 1e-3
        sets = load_gene_sets("hematopoiesis").sets[program]
        assert {genes[gene] for gene in rows[0][6]} <= set(sets) and len(rows[0][6]) == rows[0][2]
    assert found.hits[3][1] > max(found.hits[head][1] for head in (0, 1, 2, 4, 5))
    assert found.summary["null"]["high"] < found.summary["n_hits"]
    assert sum(hits[0] for hits in found.hits.values()) == found.summary["n_tests"]


@pytest.mark.slow
def test_lists_and_overlaps_are_those_of_the_run_s_own_test(planted):
    genes, matrices = planted
    factors = head_factors(matrices[1, 1], genes, 2)
    found, sets = programs_of([factors], genes), load_gene_sets("hematopoiesis")
    loadings = {"read": factors.read, "write": factors.write.T}
    table = enrich(loadings, genes, sets, np.eye(len(genes)), draws=1, seed=0).table
    ora = table[table["method"] == "ORA"].set_index(["factor", "side", "direction", "term"])
    assert found.summary["n_tests"] == len(ora)
    terms = [one["term"] for one in found.summary["terms"]]
    for (_, f, side), one in found.shown.items():
        for term, direction, overlap, n_list, p, q, _ in one["rows"]:
            row = ora.loc[f"f{f:02d}", side, direction, terms[term]]
            assert (overlap, n_list) == (row["overlap"], row["n_list"])
            assert p == pytest.approx(hypergeom.sf(overlap - 1, len(genes), row["n_term"], n_list), rel=6e-3) and q >= p


def test_nothing_depends_on_the_order_of_the_genes(planted):
    genes, matrices = planted
    order = np.random.default_rng(2).permutation(len(genes))
    shuffled = tuple(genes[i] for i in order)
    one = programs_of([head_factors(matrices[1, 1], genes)], genes)
    other = programs_of([head_factors(matrices[1, 1][np.ix_(order, order)], shuffled)], shuffled)
    assert one.summary["n_hits"] == other.summary["n_hits"]
    assert sorted(genes[g] for g in one.shown[0, 0, "read"]["rows"][0][6]) == sorted(
        shuffled[g] for g in other.shown[0, 0, "read"]["rows"][0][6]
    )


def test_a_panel_without_gene_symbols_is_said_not_hidden():
    genes = [f"ENSG{i:011d}" for i in range(12)]
    found = programs_of([head_factors(np.random.default_rng(0).normal(size=(12, 12)), genes)], genes)
    assert "gene symbols" in found.why and not found.shown
