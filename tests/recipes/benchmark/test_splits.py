"""Splits hold out whole units, the first of them disjoint; draws depend on names, not on order."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from workbench.cells.groups import make_groups
from workbench.cells.placed import PlacedCells
from workbench.errors import EvaluationError
from workbench.recipes.benchmark.splits import (
    HOLDOUT,
    STRATIFIED,
    TRANSFER,
    Holdout,
    drawn_cells,
    first_of_each,
    genes_of_all,
    make_holdouts,
    panel_of,
    split_of,
    with_units,
)


def obs(donors=("a", "b", "c", "d"), per=6):
    names = [f"{donor}{i}" for donor in donors for i in range(per)]
    return pd.DataFrame(
        {"donor": [n[0] for n in names], "cell_type": [["B", "NK"][i % 2] for i in range(len(names))]}, index=names
    )


def placed(table, genes=(), expression=None):
    stage = table["cell_type"].map({"B": 0, "NK": 1}).fillna(-1).astype(int)
    values = sp.csr_matrix((len(table), len(genes))) if expression is None else sp.csr_matrix(expression)
    return PlacedCells("cells", table.assign(stage=stage), tuple(genes), values)


def units(table, n_units=8, most=None):
    cells = placed(table)
    groups = make_groups(cells.names, cells.donor, most or (None if cells.donor is not None else 16))
    return with_units(cells, groups, n_units, 0)


def test_whole_donors_are_held_out_and_none_is_called_a_number():
    cells, names, kind = units(obs().assign(donor=["01", "1"] * 6 + ["NA"] * 12))
    assert kind == HOLDOUT and names == ("01", "1", "NA")
    fold = cells.column("fold")
    assert len(set(fold)) == 3 and fold[0] != fold[1] and (fold == cells.column("group")).all()


def test_donors_that_are_summed_together_are_held_out_together():
    cells, names, _ = units(obs(), most=3)
    assert len(names) == 3 and sorted("+".join(names).split("+")) == ["a", "b", "c", "d"]
    assert (pd.crosstab(cells.column("fold"), cells.donor) > 0).sum(0).eq(1).all()


def test_without_donors_units_are_whole_groups_that_hold_every_label():
    table = obs(per=12).drop(columns="donor")
    cells, names, kind = units(table, 4)
    assert kind == STRATIFIED and len(names) == 4
    fold, group = cells.column("fold"), cells.column("group")
    assert (pd.crosstab(group, fold) > 0).sum(1).eq(1).all() and len(set(group)) == 16
    assert (pd.crosstab(fold, table["cell_type"].to_numpy()) >= 4).all().all()


def test_more_units_than_groups_are_refused():
    with pytest.raises(EvaluationError, match="16 groups of cells cannot fill 17 folds.*capture.groups"):
        units(obs().drop(columns="donor"), 17)


def test_two_donors_are_too_few():
    with pytest.raises(EvaluationError, match="have 2 donor.*need three"):
        units(obs(("a", "b")))


@pytest.mark.parametrize(("n_units", "share", "n"), [(8, 0.25, 12), (6, 0.34, 40), (5, 0.2, 3), (40, 0.25, 30)])
def test_splits_are_distinct_and_the_disjoint_ones_are(n_units, share, n):
    names = tuple(f"d{i}" for i in range(n_units))
    holdouts = make_holdouts(names, HOLDOUT, n, share, seed=1)
    size = max(1, round(share * n_units))
    assert len({one.units for one in holdouts}) == len(holdouts) == len({one.name for one in holdouts})
    assert all(len(one.units) == size for one in holdouts) and len(holdouts) <= n
    apart = [one.units for one in holdouts if one.disjoint]
    assert all(not a & b for a, b in combinations(apart, 2)) and len(apart) == min(n, n_units // size)


def test_no_more_splits_than_there_are_and_every_one_of_them():
    holdouts = make_holdouts(("a", "b", "c", "d"), HOLDOUT, 88, 0.5, seed=0)
    assert {one.units for one in holdouts} == set(map(frozenset, combinations(range(4), 2)))


def test_some_unit_is_always_left_to_train_on():
    assert all(len(one.units) == 2 for one in make_holdouts(("a", "b", "c"), HOLDOUT, 3, 0.99, seed=0))


def test_splits_depend_on_the_seed_alone():
    names = tuple(f"d{i}" for i in range(9))
    first, again, other = (make_holdouts(names, HOLDOUT, 10, 0.3, seed) for seed in (0, 0, 1))
    assert first == again and first != other


def test_a_split_holds_out_the_groups_of_its_units_and_balances_stages():
    cells, _, _ = units(obs(per=12).drop(columns="donor"), 4)
    split = split_of(Holdout("x", STRATIFIED, frozenset({1, 2})), cells, cells, 5, 0)
    assert split.held == set(cells.column("group")[np.isin(cells.column("fold"), [1, 2])])
    assert not set(cells.column("fold")[split.train]) & {1, 2} and set(cells.column("fold")[split.test]) == {1, 2}
    assert np.bincount(cells.stage[split.train]).tolist() == [5, 5]
    for rows in (split.train, split.test):
        assert cells.names[rows].tolist() == sorted(cells.names[rows])
    order = np.random.default_rng(0).permutation(len(cells))
    mixed = split_of(Holdout("x", STRATIFIED, frozenset({1, 2})), cells.take(order), cells.take(order), 5, 0)
    assert cells.take(order).names[mixed.train].tolist() == cells.names[split.train].tolist()


def test_a_transfer_holds_nothing_out_and_judges_the_cohort():
    cells, _, _ = units(obs(), 8)
    other = placed(obs(("x", "y")).assign(cell_type=["B"] * 6 + ["soup"] * 6))
    split = split_of(Holdout("to other", TRANSFER, cohort="other"), cells, other, 500, 0)
    assert split.held == frozenset() and len(split.train) == len(cells) and len(split.test) == 6


def test_a_side_without_a_placed_cell_is_refused():
    cells, _, _ = units(obs().assign(cell_type=["soup"] * 6 + ["B"] * 18))
    with pytest.raises(EvaluationError, match="Split 'a' has no cell with a place on the ruler on its test side"):
        split_of(Holdout("a", HOLDOUT, frozenset({0})), cells, cells, 500, 0)


def test_operators_are_on_the_genes_of_any_panel_and_a_panel_on_those_that_both_sides_measure():
    table = obs(("a", "b", "c"), 2)
    # Gene A is seen in donor a alone, B and D everywhere, C in b and c.
    cells, _, _ = units(table)
    values = np.array([[1, 1, 0, 1]] * 2 + [[0, 1, 1, 1]] * 4)
    cells = placed(cells.obs, "ABCD", values)
    holdouts = [Holdout(name, HOLDOUT, frozenset({i})) for i, name in enumerate("abc")]
    assert [panel_of(one, cells, cells, 3) for one in holdouts] == [tuple("BCD"), tuple("ABD"), tuple("ABD")]
    assert genes_of_all(holdouts, {"internal": cells}, 3) == tuple("ABCD")
    assert genes_of_all(holdouts[:1], {"internal": cells}, 2) == tuple("BC")
    assert panel_of(holdouts[0], cells, cells, None) == tuple("ABCD")
    other = placed(obs(("x",), 2), "DA", np.ones((2, 2)))
    transfer = Holdout("to other", TRANSFER, cohort="other")
    assert panel_of(transfer, cells, other, None) == tuple("AD") and panel_of(transfer, cells, other, 1) == tuple("D")


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
