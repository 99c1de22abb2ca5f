"""Splits hold out whole units, the first of them disjoint; draws depend on names, not on order."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from workbench.errors import EvaluationError
from workbench.recipes.benchmark.splits import HOLDOUT, STRATIFIED, drawn_cells, first_of_each, make_splits, make_units


def obs(donors=("a", "b", "c", "d"), per=6):
    names = [f"{donor}{i}" for donor in donors for i in range(per)]
    return pd.DataFrame(
        {"donor": [n[0] for n in names], "cell_type": [["B", "NK"][i % 2] for i in range(len(names))]}, index=names
    )


def test_whole_donors_are_held_out_and_none_is_called_a_number():
    unit, names, kind = make_units(obs().assign(donor=["01", "1"] * 6 + ["NA"] * 12), 8, 0)
    assert kind == HOLDOUT and names == ("01", "1", "NA")
    assert len(set(unit)) == 3 and unit[0] != unit[1]


def test_without_donors_groups_hold_every_label():
    table = obs().drop(columns="donor")
    unit, names, kind = make_units(table, 4, 0)
    assert kind == STRATIFIED and len(names) == 4
    assert (pd.crosstab(unit, table["cell_type"]) >= 2).all().all()


def test_two_donors_are_too_few():
    with pytest.raises(EvaluationError, match="have 2 donor.*need three"):
        make_units(obs(("a", "b")), 8, 0)


@pytest.mark.parametrize(("units", "share", "n"), [(8, 0.25, 12), (6, 0.34, 40), (5, 0.2, 3), (40, 0.25, 30)])
def test_splits_are_distinct_and_the_disjoint_ones_are(units, share, n):
    names = tuple(f"d{i}" for i in range(units))
    splits = make_splits(names, HOLDOUT, n, share, seed=1)
    size = max(1, round(share * units))
    assert len({split.held for split in splits}) == len(splits) == len({split.name for split in splits})
    assert all(len(split.held) == size for split in splits) and len(splits) <= n
    apart = [split.held for split in splits if split.disjoint]
    assert all(not a & b for a, b in combinations(apart, 2)) and len(apart) == min(n, units // size)


def test_no_more_splits_than_there_are_and_every_one_of_them():
    splits = make_splits(("a", "b", "c", "d"), HOLDOUT, 88, 0.5, seed=0)
    assert {split.held for split in splits} == set(map(frozenset, combinations(range(4), 2)))


def test_some_unit_is_always_left_to_train_on():
    assert all(len(split.held) == 2 for split in make_splits(("a", "b", "c"), HOLDOUT, 3, 0.99, seed=0))


def test_splits_depend_on_the_seed_alone():
    names = tuple(f"d{i}" for i in range(9))
    first, again, other = (make_splits(names, HOLDOUT, 10, 0.3, seed) for seed in (0, 0, 1))
    assert first == again and first != other


def test_which_cells_are_drawn_does_not_depend_on_their_order():
    table = obs(per=20)
    kept = set(table.index[drawn_cells(table, 5, 3)])
    mixed = table.sample(frac=1, random_state=0)
    assert set(mixed.index[drawn_cells(mixed, 5, 3)]) == kept
    assert pd.Series([name[0] for name in kept]).value_counts().eq(5).all()
    assert drawn_cells(table, None, 3).all()


def test_a_small_group_gives_all_it_has():
    names, groups = np.array([f"c{i}" for i in range(7)]), np.array([0, 0, 1, 1, 1, 1, 1])
    kept = first_of_each(names, groups, 3, 0, "test")
    assert kept[:2].all() and kept[2:].sum() == 3
