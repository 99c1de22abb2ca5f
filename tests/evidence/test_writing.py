"""What an operator writes: planted ties are found, others are not, and turning the written side is seen."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.evidence.writing import compared_cells, covariates, deal_genes, follow, judge_written
from workbench.operators.controls import coexpression

GENES, CELLS, PROGRAMS = 120, 240, 6


def world(seed):
    """Counts of genes that go in programs, at expression levels that do not: log values, programs, mean of the training half."""
    rng = np.random.default_rng(seed)
    program, mean = rng.integers(0, PROGRAMS, GENES), rng.lognormal(0, 1, GENES)
    activity = rng.gamma(1, 1, (CELLS, PROGRAMS))
    x = np.log1p(rng.poisson(mean * (0.3 + activity[:, program]))).astype(float)
    return x, program


def judged(x, operator, seed=0, kinds=None, n_draws=99):
    return judged_all(x, [operator], seed, kinds, n_draws)[0]


def judged_all(x, operators, seed, kinds=None, n_draws=99):
    mean, genes = x[: CELLS // 2].mean(0), [f"G{i}" for i in range(x.shape[1])]
    deal = deal_genes(genes, mean, n_draws, seed)
    folds = (np.arange(CELLS // 2, CELLS, 2), np.arange(CELLS // 2 + 1, CELLS, 2))
    cells = [
        compared_cells(x[rows], deal, covariates(x[rows].sum(1), None if kinds is None else kinds[rows]))
        for rows in folds
    ]
    return [judge_written([follow(one, operator, deal) for one in cells], deal) for operator in operators]


def followed(x, operator, deal, kinds=None):
    return follow(compared_cells(x, deal, covariates(x.sum(1), kinds)), operator, deal)


def rotation(n, seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    return q * np.sign(np.diag(r))


def test_correlation_is_that_of_score_and_gene_with_the_covariates_taken_out():
    x, _ = world(0)
    operator = np.random.default_rng(1).normal(size=(GENES, GENES))
    deal = deal_genes([f"G{i}" for i in range(GENES)], x.mean(0), 5, 0)
    size = x.sum(1)
    found = followed(x, operator, deal)
    basis = np.column_stack([np.ones(CELLS), size])
    for read, part in zip(deal.parts, found, strict=True):
        scores, genes = x[:, read] @ operator[np.ix_(read, ~read)], x[:, ~read]
        rest = [y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0] for y in (scores, genes)]
        expected = np.corrcoef(rest[0].T, rest[1].T)[: (~read).sum(), (~read).sum() :]
        np.testing.assert_allclose(part, expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_planted_ties_are_found_and_their_turned_form_is_not_the_same(seed):
    x, program = world(seed)
    planted = (program[:, None] == program).astype(float)
    own, turned = judged(x, planted, seed), planted @ rotation(GENES, seed)
    assert own.p == pytest.approx(0.01) and own.correlation > 0.3 and own.n_genes == GENES
    # What the adaptor sees of it has not changed; what it writes has.
    np.testing.assert_allclose(turned @ turned.T, planted @ planted.T, atol=1e-9)
    assert judged(x, turned, seed).correlation < 0.3 * own.correlation


def hits(kinds, seeds):
    """Worlds in which operators that tie no genes are called at .05, by kind."""
    found = dict.fromkeys(kinds, 0)
    for seed in seeds:
        x, _ = world(seed)
        mean, rng = x[: CELLS // 2].mean(0), np.random.default_rng(1000 + seed)
        noise = rng.normal(size=(GENES, GENES))
        operators = {
            "gaussian": lambda noise=noise: noise,
            "row norms": lambda noise=noise, mean=mean: noise * mean[:, None],
            "column norms": lambda noise=noise, mean=mean: noise * mean,
            "turned": lambda x=x, seed=seed: coexpression(sp.csr_matrix(x[: CELLS // 2])) @ rotation(GENES, seed),
        }
        for kind, one in zip(kinds, judged_all(x, [operators[kind]() for kind in kinds], seed), strict=True):
            found[kind] += one.p <= 0.05
    return found


@pytest.mark.parametrize(
    "kinds", [("gaussian", "turned"), pytest.param(("row norms", "column norms"), marks=pytest.mark.slow)]
)
def test_operators_that_tie_nothing_are_called_at_the_level(kinds):
    """Of 200 worlds at .05: 3 to 19 by chance (99.9 %)."""
    assert all(3 <= calls <= 19 for calls in hits(kinds, range(200)).values())


def test_what_follows_cell_types_alone_is_found_over_all_cells_and_not_inside_types():
    found = {"all": 0, "inside": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        kinds, program = rng.integers(0, 4, CELLS), rng.integers(0, 4, GENES)
        # Genes of a program are high in one type; inside a type they are independent.
        x = np.log1p(rng.poisson(rng.lognormal(0, 1, GENES) * (0.3 + 3.0 * (kinds[:, None] == program))))
        planted = (program[:, None] == program).astype(float)
        found["all"] += judged(x, planted, seed).p <= 0.05
        found["inside"] += judged(x, planted, seed, kinds).p <= 0.05
    assert found["all"] == 20 and found["inside"] <= 4


def test_no_gene_has_a_part_in_its_own_score():
    x, _ = world(0)
    operator = np.random.default_rng(0).normal(size=(GENES, GENES))
    own = judged(x, operator)
    assert judged(x, operator + 1e3 * np.eye(GENES)).correlation == pytest.approx(own.correlation, abs=1e-12)


def test_order_of_cells_and_genes_and_scale_decide_nothing():
    x, program = world(3)
    operator = (program[:, None] == program) + np.random.default_rng(0).normal(size=(GENES, GENES))
    genes = [f"G{i}" for i in range(GENES)]
    mean, order, rows = (
        x.mean(0),
        np.random.default_rng(1).permutation(GENES),
        np.random.default_rng(2).permutation(CELLS),
    )
    deal = deal_genes(genes, mean, 50, 0)
    other = deal_genes([genes[i] for i in order], mean[order], 50, 0)
    one = judge_written([followed(x, operator, deal)], deal)
    turned = 7 * operator[np.ix_(order, order)]
    two = judge_written([followed(x[rows][:, order], turned, other)], other)
    assert two.correlation == pytest.approx(one.correlation, abs=1e-9)
    assert set(np.array(genes)[deal.read]) == {genes[i] for i in order[other.read]}


def test_halves_are_even_in_every_level_and_exchanges_stay_in_it():
    x, _ = world(0)
    mean = x.mean(0)
    deal = deal_genes([f"G{i}" for i in range(GENES)], mean, 30, 0)
    tenths = np.empty(GENES, dtype=int)
    tenths[np.argsort(mean, kind="stable")] = np.arange(GENES) // (GENES // 10)
    assert all(abs(2 * deal.read[tenths == one].sum() - (tenths == one).sum()) <= 1 for one in range(10))
    for read, exchanged in zip(deal.parts, deal.exchanged, strict=True):
        levels = tenths[~read]
        assert all((levels[order] == levels).all() and len(set(order)) == len(order) for order in exchanged)
        assert np.mean(exchanged != np.arange(len(levels))) > 0.7, "names move"


def test_genes_and_cells_without_variance_have_no_value():
    x, program = world(0)
    x[:, :7] = 0.0
    planted = (program[:, None] == program).astype(float)
    found = judged(x, planted)
    assert found.n_genes == GENES - 7 and np.isfinite(found.null).all()
    nothing = judged(np.ones_like(x), planted)
    assert nothing.n_genes == 0 and np.isnan(nothing.correlation) and np.isnan(nothing.p)
