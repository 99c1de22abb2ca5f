"""Enrichment agrees with closed forms, finds what was planted, and nothing in random directions of correlated genes."""

from __future__ import annotations

import itertools

import gseapy
import numpy as np
import pytest
from scipy.stats import hypergeom

from workbench.errors import EvaluationError, ShapeError
from workbench.factors.gene_sets import GeneSets
from workbench.factors.programs import COLUMNS, enrich, enrichment_scores, over_representation, preranked, rank_weights
from workbench.stats import benjamini_hochberg

N = 200
# Genes that go together with none.
ALONE = np.eye(N)


def gene_sets(**sets):
    return GeneSets("test", sets, {term: f"source of {term}" for term in sets})


@pytest.fixture(scope="module")
def planted():
    """200 genes, 3 factors of noise; term p0 stands out in what f00 reads, p1 in f01 (negative), p2 in what f02 writes."""
    rng = np.random.default_rng(1)
    genes = [f"GENE{i}" for i in range(N)]
    shuffled = rng.permutation(genes)
    sets = {f"p{k}": tuple(shuffled[12 * k : 12 * k + 12]) for k in range(3)}
    sets |= {f"d{k}": tuple(rng.choice(shuffled[36:], 14, replace=False)) for k in range(6)}
    sets["absent"] = (*sets["d0"], "ELSEWHERE1", "ELSEWHERE2")
    loadings = {side: rng.standard_normal((N, 3)) for side in ("read", "write")}
    for side, factor, term, shift in (("read", 0, "p0", 3), ("read", 1, "p1", -3), ("write", 2, "p2", 3)):
        loadings[side][np.isin(genes, sets[term]), factor] += shift
    return genes, gene_sets(**sets), loadings


@pytest.fixture(scope="module")
def result(planted):
    genes, sets, loadings = planted
    return enrich(loadings, genes, sets, ALONE, n_top=25, draws=4000, seed=0)


def test_planted_programs_are_found_and_nothing_else(result):
    for method in ("ORA", "GSEA"):
        hits = result.table.query("method == @method and q <= 0.05")
        found = set(zip(hits["factor"], hits["side"], hits["direction"], hits["term"], strict=True))
        assert found == {("f00", "read", "+", "p0"), ("f01", "read", "-", "p1"), ("f02", "write", "+", "p2")}, method


def test_the_table_is_tidy_and_complete(result):
    table = result.table
    assert list(table.columns) == list(COLUMNS) and not table[["score", "p", "q"]].isna().any().any()
    places = ["method", "factor", "side", "direction", "term"]
    assert not table.duplicated(places).any()
    n_terms = 10
    assert (table["method"] == "ORA").sum() == 3 * 2 * 2 * n_terms and (
        table["method"] == "GSEA"
    ).sum() == 3 * 2 * n_terms
    assert (table["source"] == "source of " + table["term"]).all()
    assert (table["genes"].str.split(";").str.len().where(table["genes"] != "", 0) == table["overlap"]).all()
    assert (table.query("method == 'GSEA'")["n_list"] == N).all()
    assert set(result.terms.query("kept")["term"]) == set(table["term"])
    assert table.query("term == 'absent'")["n_term"].eq(14).all(), "genes off the panel do not count"


def test_without_correlation_p_of_ora_is_the_hypergeometric_tail_with_the_panel_as_urn(result):
    ora = result.table.query("method == 'ORA'")
    some = ora["overlap"] > 0
    tail = hypergeom.sf(ora["overlap"] - 1, N, ora["n_term"], ora["n_list"])[some]
    assert (np.abs(ora["p"][some] - tail) <= 4.5 * np.sqrt(tail * (1 - tail) / 8000) + 2 / 8000).all()
    assert (ora["p"][~some] == 1).all() and (~some).any(), "a term without overlap is a test too"
    assert ora["p"].min() == 1 / 8001, "both ends of each direction, and the list itself"


def test_all_lists_at_once_give_what_gseapy_gives_one_by_one(planted, result):
    genes, sets, loadings = planted
    members = np.array([np.isin(genes, sets.sets[term]) for term in sorted(sets.sets)])
    top = np.zeros((1, N), dtype=bool)
    top[0, np.argsort(-loadings["read"][:, 0])[:25]] = True
    p, odds, overlap = over_representation(top, members)
    rows = result.table.query("method == 'ORA' and factor == 'f00' and side == 'read' and direction == '+'")
    rows = rows.sort_values("term")
    np.testing.assert_allclose(odds[0], rows["score"], rtol=1e-12)
    assert list(overlap[0]) == list(rows["overlap"])
    # Names that the library takes as they are.
    ids = np.array([f"G{i:06d}" for i in range(N)], dtype=object)
    named = {f"T{i:06d}": list(ids[inside]) for i, inside in enumerate(members)}
    theirs = gseapy.enrich(gene_list=list(ids[top[0]]), gene_sets=named, background=list(ids), outdir=None).results
    ours = rows.reset_index(drop=True).iloc[[int(term[1:]) for term in theirs["Term"]]]
    assert len(theirs) == (overlap[0] > 0).sum() > 0
    np.testing.assert_allclose(p[0, [int(term[1:]) for term in theirs["Term"]]], theirs["P-value"], atol=1e-12)
    np.testing.assert_allclose(ours["score"], theirs["Odds Ratio"], rtol=1e-12)
    number = {gene: f"G{i:06d}" for i, gene in enumerate(genes)}
    for shown, hits in zip(ours["genes"], theirs["Genes"], strict=True):
        assert {number[gene] for gene in shown.split(";")} == set(hits.split(";"))


def running_sum(loading, inside):
    order = np.argsort(-loading, kind="stable")
    hit = inside[order]
    step = np.where(hit, np.abs(loading[order]) / np.abs(loading[inside]).sum(), -1 / (~inside).sum())
    walk = np.cumsum(step)
    return walk[np.argmax(np.abs(walk))], order[hit & (np.arange(len(walk)) <= np.argmax(walk))]


def modules(rng, correlation, n_modules=12, size=15, n_cells=400):
    """Cells of which genes go together in modules, the modules as gene sets, and the root of their covariance."""
    of_gene = np.arange(N) // size
    same = (of_gene[:, None] == of_gene) & (of_gene < n_modules)
    root = np.linalg.cholesky(
        np.where(same, correlation, 0) + (1 - correlation) * np.eye(N) + correlation * np.diag(~same.diagonal())
    )
    genes = [f"G{i:03d}" for i in range(N)]
    sets = gene_sets(**{f"m{m}": tuple(np.array(genes)[of_gene == m]) for m in range(n_modules)})
    return genes, sets, rng.standard_normal((n_cells, N)) @ root.T, root


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_random_directions_of_correlated_genes_are_called_no_more_often_than_alpha(correlation):
    rng = np.random.default_rng(0)
    genes, sets, cells, root = modules(rng, correlation)
    loadings = {"read": root @ rng.standard_normal((N, 40))}
    table = enrich(loadings, genes, sets, cells, n_top=25, draws=1500, seed=0).table
    share = table.assign(low=table["p"] <= 0.05).groupby("method")["low"].mean()
    assert 0.03 < share["GSEA"] < 0.07 and 0.015 < share["ORA"] < 0.06, (
        "overlaps are few numbers, so ORA is below its level"
    )
    members = np.array([np.isin(genes, sets.sets[term]) for term in sorted(sets.sets)])
    lists = np.argsort(np.argsort(-loadings["read"], axis=0), axis=0).T < 25
    naive = (over_representation(lists, members)[0] <= 0.05).mean()
    assert naive > 0.08 if correlation else naive < 0.06, "as if genes were independent"


def test_a_module_that_is_a_factor_is_found_though_its_genes_go_together():
    rng = np.random.default_rng(1)
    genes, sets, cells, _ = modules(rng, 0.3)
    planted = np.array([np.isin(genes, sets.sets[f"m{m}"]) for m in range(4)]).T + 0.3 * rng.standard_normal((N, 4))
    table = enrich({"read": planted}, genes, sets, cells, n_top=25, draws=4000, seed=0).table
    for method, part in table[table["q"] <= 0.05].groupby("method"):
        assert set(zip(part["factor"], part["term"], strict=True)) == {(f"f0{m}", f"m{m}") for m in range(4)}, method


def test_scores_of_many_rankings_are_those_of_the_library_one_by_one():
    rng = np.random.default_rng(3)
    loading = rng.standard_normal((20, N)) * (rng.random((20, N)) < 0.7)
    members = np.array([np.isin(np.arange(N), rng.choice(N, k, replace=False)) for k in (3, 12, 40)])
    for one in loading:
        order = np.argsort(-one, kind="stable")
        found = [enrichment_scores(np.flatnonzero(inside[order])[None], rank_weights(one))[0] for inside in members]
        np.testing.assert_allclose(found, preranked(one, members)["es"], atol=1e-5)


def test_p_of_gsea_is_the_share_of_directions_of_its_sign_that_score_as_high():
    rng = np.random.default_rng(4)
    loading = rng.standard_normal(16)
    loading[:4] += 1.5
    genes = [f"g{i:02d}" for i in range(16)]
    every = np.array([running_sum(loading, np.isin(np.arange(16), c))[0] for c in itertools.combinations(range(16), 3)])
    sets = {f"t{i}": tuple(genes[g] for g in c) for i, c in enumerate(((0, 1, 2), (1, 7, 9), (5, 11, 14), (3, 4, 8)))}
    table = enrich({"read": loading[:, None]}, genes, gene_sets(**sets), np.eye(16), n_top=4, draws=4000, seed=0).table
    for row in table.query("method == 'GSEA'").itertuples():
        es = running_sum(loading, np.isin(genes, sets[row.term]))[0]
        signed = np.abs(every[np.sign(every) == np.sign(es)])
        assert row.p == pytest.approx((signed >= abs(es) - 1e-9).mean(), rel=0.2, abs=2e-3)
        assert row.score == pytest.approx(es / signed.mean(), rel=0.03)


def test_q_is_over_all_factors_sides_and_terms_of_a_method(result):
    for _, part in result.table.groupby("method"):
        np.testing.assert_allclose(part["q"], benjamini_hochberg(part["p"].to_numpy()))


def test_the_order_of_the_genes_does_not_matter(planted):
    genes, sets, loadings = planted
    order = np.random.default_rng(5).permutation(N)
    one = {"read": np.round(loadings["read"][:, :1], 1)}
    cells = np.random.default_rng(6).poisson(0.5, (60, N)) * 1.0
    a = enrich(one, genes, sets, cells, n_top=25, draws=200, seed=3)
    b = enrich(
        {"read": one["read"][order]}, [genes[i] for i in order], sets, cells[:, order], n_top=25, draws=200, seed=3
    )
    assert a.table.equals(b.table) and a.terms.equals(b.terms)


def test_the_enrichment_score_is_the_largest_deviation_of_the_running_sum():
    rng = np.random.default_rng(2)
    loading = rng.standard_normal(60)
    members = np.array([np.isin(np.arange(60), rng.choice(60, k, replace=False)) for k in (3, 8, 20)])
    members = np.vstack([members, np.isin(np.arange(60), np.argsort(-loading)[:10:2])])
    found = preranked(loading, members)
    np.testing.assert_allclose(found["es"], [running_sum(loading, m)[0] for m in members], atol=1e-8)
    assert found["edge"][3] == tuple(running_sum(loading, members[3])[1]), "the leading edge, by rank"


def test_sparse_loadings_are_tested_and_a_term_that_they_do_not_touch_has_p_1(capfd):
    rng = np.random.default_rng(0)
    loading = np.zeros(N)
    loading[:20], loading[20:40] = np.linspace(2, 1, 20), np.linspace(-1, -2, 20)
    terms = [np.arange(8), np.arange(100, 110), np.r_[0, 90:100], *(rng.choice(N, 12, replace=False) for _ in range(8))]
    found = preranked(loading, np.array([np.isin(np.arange(N), t) for t in terms]))
    assert found["es"][0] > 0.95 and found["es"][1] == 0 and found["edge"][1] == ()
    assert found["edge"][2] == (0,)
    assert capfd.readouterr() == ("", ""), "ties are ours to order, the library need not warn of them"
    genes = [f"G{i}" for i in range(N)]
    sets = gene_sets(**{f"t{k:02d}": tuple(genes[i] for i in term) for k, term in enumerate(terms)})
    table = enrich({"read": loading[:, None]}, genes, sets, ALONE, draws=1000, seed=0).table
    gsea = table.query("method == 'GSEA'").set_index("term")
    assert gsea.loc["t00", "p"] < 0.01 and gsea.loc["t01", ["score", "p"]].tolist() == [0, 1]
    assert table["p"].between(0, 1).all()


def test_a_side_without_negative_loadings_has_no_negative_list():
    rng = np.random.default_rng(0)
    loadings = {"read": np.abs(rng.standard_normal((N, 1))), "write": -np.eye(N)[:, 3:4]}
    sets = gene_sets(a=tuple(f"G{i}" for i in range(10)))
    ora = enrich(loadings, [f"G{i}" for i in range(N)], sets, ALONE, draws=1, seed=0).table.query("method == 'ORA'")
    assert list(zip(ora["side"], ora["direction"], ora["n_list"], strict=True)) == [
        ("read", "+", 60),
        ("write", "-", 1),
    ]


def test_equal_loadings_are_ordered_by_gene_name():
    genes = ["d", "b", "a", "c", *(f"x{i}" for i in range(20))]
    loading = np.r_[1.0, 1, 1, 1, np.full(20, -0.5)][:, None]
    ora = enrich(
        {"read": loading}, genes, gene_sets(t=("a", "b", "c", "d")), np.eye(24), n_top=2, draws=1, seed=0
    ).table
    assert ora.query("method == 'ORA' and direction == '+'")["genes"].tolist() == ["a;b"]


def test_a_panel_of_mixed_spelling_is_not_upper_cased_on_the_way():
    genes = [
        *(f"Cd{i}" for i in range(6)),
        *(f"C{i}orf1" for i in range(6)),
        *(f"GENE{i}" for i in range(150)),
        "7",
        "12",
    ]
    loading = np.linspace(1, -1, len(genes))[:, None]
    sets = gene_sets(t=("CD0", "CD1", "C1orf1", "7"), u=tuple(f"GENE{i}" for i in range(8)))
    table = enrich({"read": loading}, genes, sets, np.eye(len(genes)), n_top=10, draws=1, seed=0).table
    assert set(table.query("term == 't'")["n_term"]) == {4}
    assert table.query("term == 't' and method == 'ORA' and direction == '+'")["genes"].tolist() == ["Cd0;Cd1;C1orf1"]


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"loadings": {}}, EvaluationError, "no loadings to enrich"),
        ({"loadings": {"read": np.full((N, 2), np.nan)}}, EvaluationError, "side 'read' are not all finite"),
        (
            {"loadings": {"read": np.eye(N)[:, :3] * [1, 0, 1]}},
            EvaluationError,
            "Factor f01 is zero everywhere on side 'read'",
        ),
        ({"loadings": {"read": np.ones((N - 1, 2))}}, ShapeError, r"shape \(199, 2\); they need 200 genes"),
        ({"loadings": {"read": np.ones((N, 0))}}, ShapeError, r"shape \(200, 0\)"),
        (
            {"loadings": {"read": np.ones((N, 2)), "write": np.ones((N, 3))}},
            ShapeError,
            "Sides differ in their factors",
        ),
        ({"n_top": N}, EvaluationError, "n_top is 200; .* fewer than the panel's 200"),
        ({"n_top": 0}, EvaluationError, "n_top is 0"),
        ({"draws": 0}, EvaluationError, "0 random directions were asked for"),
        ({"expression": np.ones((5, N - 1))}, ShapeError, r"Expression has shape \(5, 199\); it needs cells x the 200"),
        ({"expression": np.full((5, N), np.nan)}, EvaluationError, "Expression is not all finite"),
        ({"min_size": 50}, EvaluationError, "No term of 'test' has 50 to 500 genes .* the most has 14"),
        ({"genes": ["A"] * N}, EvaluationError, "found A twice"),
        ({"genes": [f"ENSG{i}" for i in range(N)]}, EvaluationError, "check that both are gene symbols"),
    ],
)
def test_what_cannot_be_enriched_is_refused(planted, without_shape_checks, change, error, sentence):
    genes, sets, loadings = planted
    given = {"loadings": loadings, "genes": genes, "sets": sets, "expression": ALONE, "draws": 1, "seed": 0, **change}
    with pytest.raises(error, match=sentence):
        enrich(**given)
