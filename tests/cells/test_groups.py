"""Groups that no label touches, and the folds that are made of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.cells.groups import DONORS, HASHED, SINGLE, make_folds, make_groups
from workbench.errors import EvaluationError


@pytest.fixture
def obs():
    rng = np.random.default_rng(0)
    labels = np.repeat(["B", "T", "NK", "rare"], [103, 211, 48, 3])
    return pd.DataFrame({"cell_type": rng.permutation(labels)}, index=[f"cell{i}" for i in range(365)])


@pytest.fixture
def with_donors(obs):
    sizes = [90, 70, 60, 50, 40, 30, 20, 5]
    obs["donor"] = np.random.default_rng(1).permutation(np.repeat([f"d{i}" for i in range(8)], sizes))
    return obs


def dealt(obs, n_folds, most=None, seed=0):
    donors = obs["donor"].to_numpy() if "donor" in obs else None
    groups = make_groups(obs.index.to_numpy(str), donors, most, seed)
    return make_folds(groups, obs["cell_type"].to_numpy(), n_folds, seed), groups


@pytest.mark.parametrize("n", [2, 5, 10])
def test_of_single_cells_every_label_is_dealt_out_evenly(obs, n):
    fold, groups = dealt(obs, n)
    assert groups.kind == SINGLE and set(fold) == set(range(n))
    for label in set(obs["cell_type"]):
        counts = np.bincount(fold[obs["cell_type"] == label], minlength=n)
        assert counts.max() - counts.min() <= 1
    counts = np.bincount(fold)
    assert counts.max() - counts.min() <= 1, "small labels do not all fall into the first folds"


@pytest.mark.parametrize("most", [1, 4, 10])
def test_hashed_groups_are_equal_and_know_no_label(obs, most):
    groups = make_groups(obs.index.to_numpy(str), None, most)
    assert groups.kind == HASHED and len(groups) == most
    counts = np.bincount(groups.of_cell)
    assert counts.max() - counts.min() <= 1
    if most > 1:
        shares = pd.crosstab(groups.of_cell, obs["cell_type"])["T"] / counts
        assert abs(shares.mean() - 211 / 365) < 0.02 and shares.std() > 0, "drawn as by chance, not by label"


@pytest.mark.parametrize(("most", "n"), [(10, 5), (10, 4), (10, 3), (16, 8), (7, 7)])
def test_folds_are_whole_groups_and_labels_nearly_even(obs, most, n):
    fold, groups = dealt(obs, n, most)
    assert set(fold) == set(range(n))
    of_group = pd.DataFrame({"group": groups.of_cell, "fold": fold}).groupby("group")["fold"].nunique()
    assert (of_group == 1).all()
    per_fold = np.bincount([fold[groups.of_cell == g][0] for g in range(most)], minlength=n)
    assert per_fold.max() - per_fold.min() <= 1
    if most == n:
        return

    # Better than dealing groups in their order, by the very measure of evenness: squares over what is expected.
    def unevenness(place):
        table = pd.crosstab(place, obs["cell_type"]).reindex(range(n), fill_value=0).to_numpy(float)
        wanted = np.outer(np.bincount(place, minlength=n) / len(obs), table.sum(0))
        return ((table - wanted) ** 2 / table.sum(0)).sum()

    assert unevenness(fold) < unevenness(groups.of_cell % n)


def test_other_labels_move_folds_but_never_groups(obs):
    fold, groups = dealt(obs, 5, 10)
    other = obs.assign(cell_type=np.random.default_rng(5).permutation(obs["cell_type"]))
    moved, same = dealt(other, 5, 10)
    assert np.array_equal(groups.of_cell, same.of_cell) and not np.array_equal(fold, moved)
    renamed, _ = dealt(obs.replace({"cell_type": {"B": "a B cell", "NK": "zz"}}), 5, 10)
    assert np.array_equal(fold, renamed), "names of labels decide nothing"


@pytest.mark.parametrize("n", [2, 3, 8])
def test_donors_stay_whole_and_folds_about_equal(with_donors, n):
    fold, groups = dealt(with_donors, n, 10)
    assert groups.kind == DONORS and groups.names == tuple(f"d{i}" for i in range(8)) and set(fold) == set(range(n))
    assert (with_donors.assign(fold=fold).groupby("donor")["fold"].nunique() == 1).all()
    counts = np.bincount(fold)
    if n == 8:
        assert sorted(counts) == [5, 20, 30, 40, 50, 60, 70, 90]
    else:
        assert counts.max() - counts.min() <= 20


def test_more_donors_than_groups_share_them(with_donors):
    _, groups = dealt(with_donors, 2, 3)
    assert len(groups) == 3
    assert sorted(sum((name.split("+") for name in groups.names), [])) == [f"d{i}" for i in range(8)]
    assert (with_donors.assign(group=groups.of_cell).groupby("donor")["group"].nunique() == 1).all()
    assert np.bincount(groups.of_cell).max() - np.bincount(groups.of_cell).min() <= 20
    for cell, group in zip(with_donors["donor"], groups.of_cell, strict=True):
        assert cell in groups.names[group].split("+")


@pytest.mark.parametrize("most", [None, 6])
@pytest.mark.parametrize("donors", [False, True])
def test_the_order_of_the_cells_does_not_matter(obs, donors, most):
    if donors:
        obs["donor"] = [f"d{i % 7}" for i in range(len(obs))]
    order = np.random.default_rng(2).permutation(len(obs))
    assert np.array_equal(dealt(obs.iloc[order], 3, most)[0], dealt(obs, 3, most)[0][order])


@pytest.mark.parametrize("most", [None, 12])
@pytest.mark.parametrize("donors", [False, True])
def test_the_seed_decides(obs, donors, most):
    if donors:
        obs["donor"] = [f"d{i % 40}" for i in range(len(obs))]
    first, again, other = (dealt(obs, 5, most, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_too_few_donors_are_an_error(with_donors):
    said = "8 donors cannot fill 9 folds of whole donors; ask for at most 8 folds"
    with pytest.raises(EvaluationError, match=said):
        dealt(with_donors, 9)


def test_of_one_donor_no_folds_can_be_made_and_that_is_said(obs):
    with pytest.raises(EvaluationError, match="1 donor cannot fill 2 folds of whole donors; leave data.donor out"):
        dealt(obs.assign(donor="one"), 2)


def test_too_few_cells_or_groups_are_an_error(obs):
    with pytest.raises(EvaluationError, match="4 cells cannot fill 5 folds; ask for at most 4"):
        dealt(obs.iloc[:4], 5)
    with pytest.raises(EvaluationError, match="4 cells cannot fill 5 groups; set capture.groups lower"):
        dealt(obs.iloc[:4], 2, 5)
    with pytest.raises(
        EvaluationError, match="10 groups of cells cannot fill 11 folds; set capture.groups to 11 or more"
    ):
        dealt(obs, 11, 10)


def test_labels_and_donors_as_categories(with_donors):
    expected = dealt(with_donors, 3)[0]
    assert np.array_equal(dealt(with_donors.astype("category"), 3)[0], expected)
    alone = with_donors[["cell_type"]]
    assert np.array_equal(dealt(alone.astype("category"), 3)[0], dealt(alone, 3)[0])
