"""Random directions go together as genes do over the cells, and lean as lists and rankings do."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import norm

from workbench.dictionaries.directions import cell_directions, ranked
from workbench.dictionaries.lists import on_top, ranks_of
from workbench.errors import EvaluationError, ShapeError


def test_directions_correlate_like_genes_over_the_cells():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8)) * np.array([1, 1, 1, 1, 5, 5, 0.1, 0]) + 3
    drawn = np.array(list(cell_directions(sp.csr_matrix(x), np.arange(8)[:, None]).draws(4000, 0)))
    expected = np.eye(8)
    expected[:7, :7] = np.corrcoef(x[:, :7].T)  # the last gene does not vary, and goes with none
    assert np.abs(drawn.T @ drawn / 4000 - expected).max() < 0.1 and np.abs(drawn.mean(0)).max() < 0.1


def test_fewer_directions_are_the_first_of_more_and_hang_on_the_seed():
    peers = cell_directions(sp.csr_matrix(np.random.default_rng(1).normal(size=(9, 5))), np.arange(5)[:, None])
    many, few, other = (np.array(list(peers.draws(n, seed))) for n, seed in ((150, 0), (120, 0), (120, 1)))
    assert few.shape == (120, 5) and (many[:120] == few).all() and (few != other).all()


def test_a_list_leans_by_the_share_of_neighbours_that_it_holds():
    n = 400
    level, expression = np.arange(n), sp.csr_matrix(np.random.default_rng(2).normal(size=(50, n)))
    flat, peers = (cell_directions(expression, one[:, None]) for one in (np.zeros(n), level))
    inside = np.zeros((2, n), dtype=bool)
    inside[0, -200::10] = True  # of the upper half
    inside[1, ::20] = True  # of all
    assert np.allclose(flat.leaning(inside), norm.ppf(20 / n))
    lists = [on_top(peers.leaning(inside) + one, np.array([20, 20])).toarray() for one in peers.draws(300, 0)]
    upper = np.array(lists)[:, :, 200:].sum(2).mean(0) / 20
    assert upper[0] > 0.85 and abs(upper[1] - 0.5) < 0.05
    # Beside a covariate that the list does lean to, another changes what it leans to.
    assert np.abs(flat.beside(level).leaning(inside) - peers.leaning(inside)).max() < 0.5


@pytest.mark.parametrize("silent", [0.0, 0.6])
def test_a_ranking_leans_as_much_to_a_covariate_as_its_draws(silent):
    rng, n = np.random.default_rng(3), 1000
    level = norm.ppf((rng.permutation(n) + 0.5) / n)
    true = 0.7 * level + np.sqrt(1 - 0.49) * rng.normal(size=n)
    scores = np.maximum(true - np.quantile(true, silent), 0)
    peers = cell_directions(sp.csr_matrix(rng.normal(size=(80, n))), level[:, None])
    drawn = np.argsort(
        np.argsort(ranked(next(peers.steps(scores[None])), np.array(list(peers.draws(50, 0)))), axis=1), axis=1
    )
    for share in (0.1, 0.3):
        # Of the genes on top as many are of the upper levels.
        own, others = (level[np.argsort(-x)[..., : int(share * n)]].mean() for x in (scores, drawn))
        assert others == pytest.approx(own, abs=0.1)


def test_tops_and_ranks_are_those_of_sorting():
    values = np.random.default_rng(4).normal(size=(6, 30))
    lengths = np.array([1, 5, 30, 7, 2, 29])
    for most in (lengths, np.minimum(lengths, 8)):
        found = on_top(values, most).toarray() > 0
        assert all(
            set(np.flatnonzero(a)) == set(np.argsort(-v)[:k]) for a, v, k in zip(found, values, most, strict=True)
        )
    assert (np.argsort(ranks_of(values), axis=1) == np.argsort(-values, axis=1)).all()


def test_bad_expression_is_refused():
    x = np.random.default_rng(5).normal(size=(4, 6))
    with pytest.raises(ShapeError, match="covariates of 5 genes and expression of 6"):
        cell_directions(sp.csr_matrix(x), np.zeros((5, 1)))
    with pytest.raises(ShapeError, match="covariates of 6 genes and values of 3"):
        cell_directions(sp.csr_matrix(x), np.zeros((6, 1))).leaning(np.ones((1, 3), dtype=bool))
    with pytest.raises(EvaluationError, match="No gene varies"):
        next(cell_directions(sp.csr_matrix(np.ones((4, 6))), np.zeros((6, 1))).draws(1, 0))
    x[0, 0] = np.nan
    with pytest.raises(EvaluationError, match="not all finite"):
        cell_directions(sp.csr_matrix(x), np.zeros((6, 1)))
