"""Points on a ruler: groups held out whole, correlations and exchanges counted apart, embeddings and axes of known shape."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import EvaluationError
from workbench.geometry.ruler_axis import axis_rows
from workbench.geometry.ruler_embeddings import COMPONENTS, ISOMAP, MDS, embedded, reduced, spread_of
from workbench.geometry.ruler_fit import LET, Follows, cross_fitted, follow_rows, lay_out, until_enough
from workbench.operators.adaptor import LETAdaptor
from workbench.stats import spearman

ADAPTOR = LETAdaptor(k=3, steps=300, tol=0.01)


def points(seed, n=48, d=6):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * [3, 2, 1, 1, 1, 1]
    between = spread_of(x)
    # Two points a group for the first twelve, one for the others.
    groups = np.array([f"g{i // 2 if i < 12 else i}" for i in range(n)])
    return x, between / between.max(), groups, rng.normal(size=(n, 1))


def test_groups_are_held_out_whole_and_in_folds_of_like_size():
    _, distances, groups, level = points(0)
    layout = lay_out(distances, groups, level, folds=4, seed=1)
    assert layout.n_groups == len(set(groups)) == 42
    assert all(len(set(layout.group[groups == name])) == 1 for name in set(groups))
    sizes = np.bincount(layout.fold[layout.group])
    assert sizes.max() - sizes.min() <= 1 and np.bincount(layout.stratum).min() >= 10
    with pytest.raises(
        EvaluationError, match="48 points on the ruler are of 3 groups; 16 groups are needed for 4 folds"
    ):
        lay_out(distances, np.repeat(["a", "b", "c"], 16), level, folds=4, seed=1)


def test_distances_of_groups_are_means_over_their_pairs():
    _, distances, groups, level = points(1)
    layout = lay_out(distances, groups, level, folds=4, seed=0)
    a, b = layout.group[0], layout.group[2]
    assert layout.averaged(distances)[a, b] == pytest.approx(distances[:2, 2:4].mean())


def test_the_score_is_the_rank_correlation_within_folds():
    _, distances, groups, level = points(2)
    layout = lay_out(distances, groups, level, folds=4, seed=0)
    other = layout.averaged(points(3)[1])
    ruler, upper = layout.averaged(distances), np.triu_indices(layout.n_groups, 1)
    whole = Follows(layout, whole=True)
    assert whole.scored(other) == pytest.approx(spearman(other[upper], ruler[upper]), abs=1e-6)
    assert whole.n_pairs == len(upper[0])
    follows, by_fold = Follows(layout), []
    for fold in range(4):
        rows = np.flatnonzero(layout.fold == fold)
        pairs = np.ix_(rows, rows)
        at = np.triu_indices(len(rows), 1)
        by_fold.append((spearman(other[pairs][at], ruler[pairs][at]), len(at[0])))
    values, n = zip(*by_fold, strict=True)
    assert follows.scored(other) == pytest.approx(np.average(values, weights=n), abs=1e-6)
    assert follows.scored(ruler) == pytest.approx(1) and follows.n_pairs == sum(n)


def test_groups_change_places_within_fold_and_stratum_only():
    _, distances, groups, level = points(4)
    layout = lay_out(distances, groups, level, folds=4, seed=0)
    alone = layout.__class__(layout.distances, layout.group, layout.fold, np.arange(layout.n_groups))
    ruler = layout.averaged(distances)
    np.testing.assert_allclose(Follows(alone).null(ruler, 5, seed=0), 1)
    null = Follows(layout).null(ruler, 200, seed=0)
    assert null.max() < 1 and len(null) == 200
    np.testing.assert_array_equal(null, Follows(layout).null(ruler, 200, seed=0))


def test_held_out_groups_have_no_part_in_the_fit():
    """What the ruler says of a fold changes nothing in the latent of that fold."""
    x, distances, groups, level = points(5)
    layout = lay_out(distances, groups, level, folds=4, seed=0)
    out = np.flatnonzero(layout.fold[layout.group] == 0)
    changed = distances.copy()
    changed[out] = changed[:, out] = 0.5
    rows = np.flatnonzero(layout.fold == 0)
    one, other = (cross_fitted(x, layout.measured(d), ADAPTOR)[np.ix_(rows, rows)] for d in (distances, changed))
    np.testing.assert_array_equal(one, other)
    assert np.isnan(cross_fitted(x, layout, ADAPTOR)[rows[0], np.flatnonzero(layout.fold == 1)[0]])


def test_long_draws_end_when_ten_are_as_large():
    assert until_enough(0.5, lambda draw: 1.0, 99)["p"] == 1 and until_enough(0.5, lambda draw: 1.0, 99)["n_null"] == 10
    rare = until_enough(0.5, lambda draw: float(draw == 7), 99)
    assert (rare["p"], rare["n_null"]) == (2 / 100, 99)
    assert until_enough(0.5, lambda draw: float(draw % 2), 99)["p"] == 10 / 20
    assert np.isnan(until_enough(0.5, lambda draw: 0.0, 0)["p"])


@pytest.mark.parametrize("method", [MDS, ISOMAP, COMPONENTS])
def test_a_plane_is_laid_flat(method):
    grid = np.stack(np.meshgrid(np.arange(6.0), np.arange(5.0)), -1).reshape(-1, 2)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 2)))[0]
    flat = embedded(grid @ turn.T, method, 8, 0)
    upper = np.triu_indices(30, 1)
    assert flat.shape == (30, 2) and spearman(spread_of(flat)[upper], spread_of(grid)[upper]) > 0.97
    np.testing.assert_array_equal(flat, embedded(grid @ turn.T, method, 8, 0))


def test_components_keep_distances():
    x = points(6)[0]
    np.testing.assert_allclose(spread_of(reduced(x, 6)), spread_of(x), atol=1e-6)
    assert reduced(x, 2).shape == (48, 2)
    with pytest.raises(EvaluationError, match="same representation"):
        reduced(np.ones((5, 3)), 2)
    with pytest.raises(EvaluationError, match="not finite"):
        reduced(np.full((5, 3), np.nan), 2)


def test_what_follows_the_ruler_is_found_by_every_fit_and_noise_by_none():
    x, distances, groups, level = points(7)
    layout = lay_out(distances, groups, level, folds=4, seed=0)

    def rewired(draw):
        order = np.random.default_rng(draw).permutation(len(x))
        return distances[np.ix_(order, order)]

    asked = {"neighbours": (10,), "seeds": (0,), "draws": 199, "seed": 0, "rewired": rewired, "rewirings": 39}
    found = {row["method"]: row for row in follow_rows(x, layout, ADAPTOR, **asked)}
    assert set(found) == {LET, COMPONENTS, MDS, ISOMAP}
    assert all(row["p"] == 1 / 200 and row["rewired_p"] == 1 / 40 and row["n_groups"] == 42 for row in found.values())
    other = follow_rows(points(8)[0], layout, ADAPTOR, **asked)
    assert all(row["p"] > 0.01 and row["rewired_p"] > 1 / 40 for row in other)
    broken = follow_rows(x, layout, ADAPTOR, **{**asked, "neighbours": (60,)})
    assert [row["status"][:9] for row in broken[2:]] == ["undefined", "undefined"]


def test_the_first_axis_is_compared_by_groups():
    group = np.repeat(np.arange(6), 3)
    axis = np.array([0.0, 1, 2, 10, 11, 12])
    latent = np.column_stack([axis[group], 0.01 * np.tile([1.0, -1, 0], 6)])
    broad = np.where(group < 3, "low", "high")
    rows = axis_rows(latent, group, broad, {"up": axis[group], "down": -axis[group]}, draws=199, seed=0)
    eta, up, down = rows
    within = 2 * ((np.arange(3) - 1) ** 2).sum()
    assert eta["value"] == pytest.approx(1 - within / ((axis - axis.mean()) ** 2).sum()) and eta["n"] == 6
    assert (up["value"], down["value"]) == (pytest.approx(1), pytest.approx(-1)) and up["axis_share"] > 0.99
    assert up["p"] < 0.05 and 0.05 < eta["p"] < 0.3  # one of ten ways to choose three of six, either side
