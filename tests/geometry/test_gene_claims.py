"""Claims about gene vectors against planted truths and closed forms."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.errors import EvaluationError
from workbench.geometry.gene_claims import NEARNESS, POSITION, matched_draws, matched_moments, place, set_tests
from workbench.geometry.gene_covariates import make_design, make_strata
from workbench.geometry.gene_edges import clean_edges, edge_tests, rewired, share_changed
from workbench.geometry.gene_vectors import singular_axes
from workbench.stats import benjamini_hochberg

N, D, SIZE, N_SETS = 400, 12, 15, 20


def level_of(rng):
    """Expression, and a detection that follows it as in cells."""
    expression = rng.gamma(1.5, 1.0, N)
    return np.column_stack([expression, 1 - np.exp(-expression * np.exp(rng.normal(0, 0.1, N)))])


def judged(vectors, level, sets, seed, family=None, draws=4000):
    axes = singular_axes(vectors, 3)
    placed = place([(0.0, "model", axes)], make_design(level, family))
    table = set_tests(placed, sets, make_strata(level, family), kind="set", draws=draws, seed=seed)
    return axes, table.assign(q=benjamini_hochberg(table["p"].to_numpy()))


def random_sets(rng, weight=None):
    p = None if weight is None else weight / weight.sum()
    return {f"S{i:02d}": rng.choice(N, SIZE, replace=False, p=p) for i in range(N_SETS)}


def planted_set_comes_first(seed):
    rng = np.random.default_rng(seed)
    level, sets = level_of(rng), random_sets(rng)
    axis = np.zeros(D)
    axis[seed % D] = 4.0
    vectors = rng.standard_normal((N, D)) + np.outer(np.log(level[:, 0]), rng.standard_normal(D))
    vectors[sets["S07"]] += axis
    first = judged(vectors, level, sets, seed)[1].sort_values("p", kind="stable").iloc[0]
    return first["set"] == "S07" and first["q"] < 0.05


def found_beyond_level(seed):
    """Tests called by matched genes and by a shuffle, of sets that are of high expression and nothing else; and how far an axis is level."""
    rng = np.random.default_rng(1000 + seed)
    level = level_of(rng)
    sets = random_sets(rng, level[:, 0] ** 1.5)
    # Bent, so that a straight line through expression would not do.
    vectors = 0.3 * rng.standard_normal((N, D)) + np.outer(np.tanh(level[:, 0]) * 3, rng.standard_normal(D))
    axes, table = judged(vectors, level, sets, seed)
    explained = make_design(level).explained(axes.coordinates)[0]
    shuffled = benjamini_hochberg(table["p_shuffled"].to_numpy())
    return int((table["q"] < 0.05).sum()), int((shuffled < 0.05).sum()), explained, float((table["p"] < 0.05).mean())


def test_a_planted_axis_is_found_first():
    assert all(planted_set_comes_first(seed) for seed in range(3))


@pytest.mark.slow
def test_a_planted_axis_is_found_first_in_nineteen_of_twenty_seeds():
    assert sum(planted_set_comes_first(seed) for seed in range(20)) >= 19


def test_an_axis_of_expression_level_is_called_that_and_no_set_beyond_it():
    called, shuffled, explained, _ = found_beyond_level(0)
    assert called == 0 and shuffled > 5 and explained > 0.9


@pytest.mark.slow
def test_the_error_rate_on_level_alone_is_the_stated_one():
    runs = [found_beyond_level(seed) for seed in range(40)]
    # 40 worlds of 80 tests each: a world with any false call in 5 %, and p below .05 in 5 %.
    assert sum(run[0] > 0 for run in runs) <= 5
    assert 0.02 < np.mean([run[3] for run in runs]) < 0.08
    assert min(run[1] for run in runs) > 0 and min(run[2] for run in runs) > 0.9


def test_a_set_that_is_a_family_adds_nothing_to_it():
    rng = np.random.default_rng(5)
    level, members = level_of(rng), np.arange(12)
    family = np.array(["RPL"] * 12 + [""] * (N - 12), dtype=object)
    vectors = rng.standard_normal((N, D))
    vectors[members, 0] += 5
    without = judged(vectors, level, {"ribosome": members}, 0)[1]
    within = judged(vectors, level, {"ribosome": members}, 0, family)[1]
    assert without["p"].min() < 0.001
    assert not (within.loc[within["measure"] == POSITION, "p"] < 0.05).any()


def test_matched_draws_keep_strata_and_have_the_moments_of_the_closed_form():
    rng = np.random.default_rng(0)
    strata, values = np.repeat(np.arange(5), 20), rng.standard_normal((100, 3)) + np.arange(100)[:, None] / 30
    rows = np.array([0, 3, 7, 25, 61, 62, 63])
    drawn = matched_draws(rows, strata, 20000, rng)
    assert all(len(set(one)) == len(rows) for one in drawn[:500].tolist())
    assert (np.sort(strata[drawn], axis=1) == np.sort(strata[rows])).all()
    mean, sd = matched_moments(values, rows, strata)
    found = values[drawn].mean(1)
    np.testing.assert_allclose(found.mean(0), mean, atol=4 * sd.max() / np.sqrt(20000))
    np.testing.assert_allclose(found.std(0), sd, rtol=0.03)
    # Every gene of a stratum comes as often as any other.
    assert np.abs(np.bincount(drawn[:, :3].ravel(), minlength=20)[:20] / 3000 - 1).max() < 0.1


def test_nearness_is_the_mean_cosine_of_all_pairs():
    rng = np.random.default_rng(1)
    level, rows = level_of(rng), np.array([1, 5, 9, 20])
    placed = place([(0.0, "model", singular_axes(rng.standard_normal((N, D)), 4))], make_design(level))
    table = set_tests(placed, {"S": rows}, make_strata(level), kind="set", draws=50, seed=0)
    cosines = placed.direction[rows] @ placed.direction[rows].T
    wanted = (cosines.sum() - np.trace(cosines)) / 12
    assert table.loc[table["measure"] == NEARNESS, "statistic"].item() == pytest.approx(wanted)
    assert table.query("axis == 2")["statistic"].item() == pytest.approx(placed.position[rows, 1].mean())


def test_a_set_that_is_its_whole_stratum_has_no_p():
    rng = np.random.default_rng(1)
    level = level_of(rng)
    placed = place([(0.0, "model", singular_axes(rng.standard_normal((N, D)), 2))], make_design(level))
    strata = np.zeros(N, dtype=int)
    strata[:6] = 1
    assert set_tests(placed, {"S": np.arange(6)}, strata, kind="set", draws=20, seed=0)["p"].isna().all()


def test_covariates_are_taken_out_as_by_least_squares():
    rng = np.random.default_rng(2)
    level, family = level_of(rng), np.array(["A", "B", "", "C"] * 100, dtype=object)
    family[3::8] = ""
    design = make_design(level, family)
    values = rng.standard_normal((N, 2)) + level[:, :1]
    dummies = (design.group[:, None] == np.unique(design.group)).astype(float)
    both = np.hstack([dummies, design.basis])
    wanted = values - both @ np.linalg.lstsq(both, values, rcond=None)[0]
    np.testing.assert_allclose(design.residuals(values), wanted, atol=1e-10)
    assert design.explained(level[:, :1])[0] > 0.9
    assert design.explained(rng.standard_normal((N, 50))).mean() < 0.02


def test_strata_hold_genes_that_are_alike():
    level = level_of(np.random.default_rng(3))
    strata = make_strata(level)
    sizes = np.bincount(strata)
    assert sizes.min() >= 20 and len(sizes) == 16
    within = np.mean([np.log(level[strata == s, 0]).var() for s in range(16)])
    assert within < 0.2 * np.log(level[:, 0]).var()
    turned = make_strata(level[::-1])[::-1]
    assert len({(a, b) for a, b in zip(strata.tolist(), turned.tolist(), strict=True)}) == 16


def some_edges(rng, n=200, n_edges=900):
    pairs = rng.integers(n, size=(3 * n_edges, 2))
    hubs = rng.integers(5, size=(200, 1))
    pairs = np.vstack([np.hstack([hubs, rng.integers(n, size=(200, 1))]), pairs])
    return clean_edges(pairs)[0][:n_edges]


@pytest.mark.parametrize("directed", [False, True])
def test_rewiring_keeps_degrees_exactly_and_moves(directed):
    rng = np.random.default_rng(4)
    edges, strata = some_edges(rng), np.arange(200) % 4
    new = rewired(edges, strata, 10 * len(edges), rng, directed=directed)

    def degrees(e):
        return np.bincount(e.ravel(), minlength=200)

    assert (degrees(new) == degrees(edges)).all()

    def between_strata(e):
        return np.bincount(np.sort(strata[e], axis=1) @ [4, 1], minlength=16)

    assert (between_strata(new) == between_strata(edges)).all()
    if directed:
        for side in (0, 1):
            assert (np.bincount(new[:, side], minlength=200) == np.bincount(edges[:, side], minlength=200)).all()
    assert (new[:, 0] != new[:, 1]).all() and len({tuple(sorted(e)) for e in new.tolist()}) == len(edges)
    assert share_changed(edges, new, 200) > 0.8 and share_changed(edges, edges[:, ::-1], 200) == 0


def test_edges_are_cleaned_and_counted():
    edges = np.array([[0, 1], [1, 0], [2, 2], [-1, 3], [3, 4], [0, 4]])
    kept, counts = clean_edges(edges, ["A", "B", "", "C", "C"])
    assert kept.tolist() == [[0, 1], [0, 4]]
    assert counts == {"unmeasured": 1, "own": 1, "repeated": 1, "same_family": 1}


def edge_world(seed, linked):
    rng = np.random.default_rng(seed)
    level, vectors = level_of(rng), rng.standard_normal((N, D))
    vectors += np.outer(3 * np.log(level[:, 0]), rng.standard_normal(D))
    hidden = rng.standard_normal(N)
    vectors[:, 0] += 3 * hidden * linked
    # Genes are linked where they are alike in what is hidden, or in expression alone.
    of = hidden if linked else np.log(level[:, 0])
    i, j = rng.integers(N, size=(2, 20000))
    near = np.abs(of[i] - of[j]) < 0.1
    edges = clean_edges(np.column_stack([i[near], j[near]]))[0][:600]
    return place([(0.0, "model", singular_axes(vectors, 4))], make_design(level)), edges, make_strata(level)


def edges_judged(seed, linked):
    placed, edges, strata = edge_world(seed, linked)
    table, changed = edge_tests(placed, "net", edges, strata, directed=False, draws=400, min_changed=0.5, seed=seed)
    return benjamini_hochberg(table["p"].to_numpy()) < 0.05, changed, table


def test_planted_edges_are_found_and_edges_of_like_expression_are_not():
    called, changed, table = edges_judged(0, True)
    assert called.any() and changed > 0.8 and (table["n"] == 600).all()
    called, _, table = edges_judged(0, False)
    assert not called.any() and table["raw_statistic"].max() > 0.5


@pytest.mark.slow
def test_edges_of_like_expression_are_called_no_more_often_than_stated():
    assert sum(edges_judged(seed, False)[0].any() for seed in range(20)) <= 3
    assert sum(edges_judged(seed, True)[0].any() for seed in range(20)) >= 19


def test_a_star_cannot_be_rewired_and_is_said():
    placed, _, strata = edge_world(0, True)
    star = np.column_stack([np.zeros(20, dtype=int), np.arange(1, 21)])
    table, changed = edge_tests(placed, "star", star, strata, directed=False, draws=30, min_changed=0.5, seed=0)
    assert changed == 0 and table["p"].isna().all()
    with pytest.raises(EvaluationError, match="has 3 edges"):
        edge_tests(placed, "few", star[:3], strata, directed=False, draws=30, min_changed=0.5, seed=0)


def test_axes_are_those_of_the_covariance():
    x = np.random.default_rng(0).standard_normal((50, 6)) * np.arange(1, 7) + 3
    axes = singular_axes(x, 4)
    values = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(axes.values**2 / 49, values)
    np.testing.assert_allclose(axes.coordinates.std(0), 1)
    assert axes.participation == pytest.approx(values.sum() ** 2 / (values**2).sum())
    far = np.linalg.norm(axes.points / np.sqrt(50), axis=1)
    assert (far <= np.linalg.norm(x - x.mean(0), axis=1) + 1e-9).all()


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: singular_axes(np.full((5, 3), np.nan), 2), "5 of them not finite"),
        (lambda: singular_axes(np.ones((5, 3)), 2), "same vector"),
        (lambda: singular_axes(np.eye(3), 0), "0 axes"),
        (lambda: make_design(np.full((40, 1), np.nan)), "not finite"),
        (lambda: make_design(np.random.default_rng(0).random((20, 3))), "too few to take out 3 covariates"),
    ],
)
def test_what_cannot_be_is_refused(work, words):
    with pytest.raises(EvaluationError, match=words):
        work()


def test_tables_do_not_depend_on_the_order_of_sets():
    rng = np.random.default_rng(6)
    level, sets = level_of(rng), random_sets(rng)
    vectors = rng.standard_normal((N, D))
    one = judged(vectors, level, sets, 0, draws=500)[1]
    other = judged(vectors, level, dict(reversed(sets.items())), 0, draws=500)[1]
    keys = ["set", "axis"]
    pd.testing.assert_frame_equal(one.sort_values(keys, ignore_index=True), other.sort_values(keys, ignore_index=True))
