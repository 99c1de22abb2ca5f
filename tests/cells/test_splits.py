"""Folds: whole donors, or equal shares of every label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.cells.splits import make_folds
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


@pytest.mark.parametrize("n", [2, 5, 10])
def test_every_label_is_dealt_out_evenly(obs, n):
    fold, kind = make_folds(obs, n)
    assert kind == "stratified" and set(fold) == set(range(n))
    for label in set(obs["cell_type"]):
        counts = np.bincount(fold[obs["cell_type"] == label], minlength=n)
        assert counts.max() - counts.min() <= 1
    counts = np.bincount(fold)
    assert counts.max() - counts.min() <= 1, "small labels do not all fall into the first folds"


@pytest.mark.parametrize("n", [2, 3, 8])
def test_donors_stay_whole_and_folds_about_equal(with_donors, n):
    fold, kind = make_folds(with_donors, n)
    assert kind == "donor" and set(fold) == set(range(n))
    assert (with_donors.assign(fold=fold).groupby("donor")["fold"].nunique() == 1).all()
    counts = np.bincount(fold)
    if n == 8:
        assert sorted(counts) == [5, 20, 30, 40, 50, 60, 70, 90]
    else:
        assert counts.max() - counts.min() <= 20


@pytest.mark.parametrize("donors", [False, True])
def test_the_order_of_the_cells_does_not_matter(obs, donors):
    if donors:
        obs["donor"] = [f"d{i % 7}" for i in range(len(obs))]
    order = np.random.default_rng(2).permutation(len(obs))
    assert np.array_equal(make_folds(obs.iloc[order], 3)[0], make_folds(obs, 3)[0][order])


@pytest.mark.parametrize("donors", [False, True])
def test_the_seed_decides(obs, donors):
    if donors:
        obs["donor"] = [f"d{i % 40}" for i in range(len(obs))]
    first, again, other = (make_folds(obs, 5, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_too_few_donors_are_an_error(with_donors):
    with pytest.raises(
        EvaluationError, match="8 donors cannot fill 9 folds of whole donors; set evaluation.folds to at most 8"
    ):
        make_folds(with_donors, 9)


def test_of_one_donor_no_folds_can_be_made_and_that_is_said(obs):
    with pytest.raises(EvaluationError, match="1 donors cannot fill 2 folds of whole donors; leave data.donor out"):
        make_folds(obs.assign(donor="one"), 2)


def test_too_few_cells_are_an_error(obs):
    with pytest.raises(EvaluationError, match="4 cells cannot fill 5 folds; set evaluation.folds lower"):
        make_folds(obs.iloc[:4], 5)


def test_labels_and_donors_as_categories(with_donors):
    expected = make_folds(with_donors, 3)[0]
    assert np.array_equal(make_folds(with_donors.astype("category"), 3)[0], expected)
    alone = with_donors[["cell_type"]]
    assert np.array_equal(make_folds(alone.astype("category"), 3)[0], make_folds(alone, 3)[0])
