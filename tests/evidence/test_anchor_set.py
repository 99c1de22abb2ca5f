"""Who is fitted on, who is judged, and that the two never meet."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from workbench.cells.anchors import DETECTED, LIBRARY_SIZE, Anchors
from workbench.cells.placed import PlacedCells
from workbench.errors import EvaluationError
from workbench.evidence.anchor_set import AnchorSet, anchors_of, kinds_of
from workbench.evidence.technical import without_technical

BRANCHES = np.array(["a", "a", "b", "b", "c"])


def anchors(donors="112233", stages=(0, 1, 2, 3, 4, 0), tissue=None):
    table = pd.DataFrame({"stage": stages, "weight": 1.0})
    if donors:
        table["donor"] = list(donors)
    if tissue:
        table["tissue"] = list(tissue)
    return Anchors(np.random.default_rng(0).standard_normal((len(stages), 4)), np.array(stages), table)


def alone(**more):
    made = anchors(**more)
    return AnchorSet.of_cohort(made.centroids, made)


def frozen(first="112233", second="445"):
    a, b = anchors(first), anchors(second, (0, 2, 4))
    return AnchorSet.frozen((a.centroids, a), (b.centroids, b))


def test_a_cohort_by_itself_holds_out_its_own():
    own = alone()
    assert not own.is_frozen
    donors = own.donor_splits()
    assert [s.test.tolist() for s in donors] == [[0, 1], [2, 3], [4, 5]]
    assert [s.train.tolist() for s in donors] == [[2, 3, 4, 5], [0, 1, 4, 5], [0, 1, 2, 3]]
    branches = own.branch_splits(BRANCHES)
    assert [s.test.tolist() for s in branches] == [[0, 1, 5], [2, 3], [4]]
    for split in branches:
        assert np.array_equal(split.train, split.against) and not set(split.train) & set(split.test)
    assert len(own.random_splits(7, seed=0)) == 7


def test_a_frozen_adaptor_never_sees_what_is_judged():
    both = frozen()
    assert both.is_frozen and both.train.tolist() == list(range(6)) and both.test.tolist() == [6, 7, 8]
    (split,) = both.random_splits(20, seed=0)
    assert split.train.tolist() == list(range(6)) and split.test.tolist() == [6, 7, 8] and split.against is None
    assert [s.test.tolist() for s in both.donor_splits()] == [[6, 7], [8]]
    first = both.branch_splits(BRANCHES)[0]
    assert first.test.tolist() == [6] and first.against.tolist() == [7, 8]
    assert first.train.tolist() == [2, 3, 4], "a branch held out is one that the adaptor never saw in any cohort"
    assert both.halves(0).test.tolist() == [6, 7, 8]


def test_a_donor_of_both_cohorts_is_left_out_of_the_fit():
    split = frozen(second="114").donor_splits()[0]
    assert split.test.tolist() == [6, 7] and split.train.tolist() == [2, 3, 4, 5]


def test_donors_of_the_judged_cohort_count_whether_or_not_the_other_names_its_own():
    assert frozen(second="").donor is None and frozen(second="").donor_splits() == []
    assert alone(donors="").donor_splits() == [] and alone(donors="111111").donor_splits() == []
    unnamed = frozen(first="")
    assert [s.test.tolist() for s in unnamed.donor_splits()] == [[6, 7], [8]]
    assert all(s.train.tolist() == list(range(6)) for s in unnamed.donor_splits())
    assert unnamed.blocks(unnamed.test)[:, 0].tolist() == ["4", "4", "5"]


def test_halves_are_apart_by_donor_where_there_are_donors():
    own = alone()
    split = own.halves(0)
    assert set(own.donor[split.train]).isdisjoint(own.donor[split.test])
    assert sorted([*split.train, *split.test]) == list(range(6))
    assert {tuple(own.halves(seed).test) for seed in range(20)} != {tuple(split.test)}
    without = alone(donors="").halves(0)
    assert len(without.test) == 3 and sorted([*without.train, *without.test]) == list(range(6))
    order = np.array([5, 3, 1, 0, 2, 4])
    mixed = anchors("332211", (0, 4, 3, 2, 1, 0))
    again = AnchorSet.of_cohort(
        mixed.centroids[order], Anchors(mixed.centroids[order], mixed.stage[order], mixed.table.iloc[order])
    )
    assert set(again.donor[again.halves(0).test]) == set(own.donor[split.test]), "by the donor's name, not its place"


def test_blocks_are_what_the_data_name():
    assert alone(tissue="bbmmbm").blocks(np.arange(3)).tolist() == [["1", "b"], ["1", "b"], ["2", "m"]]
    assert alone(donors="").blocks(np.arange(3)).tolist() == [[0], [0], [0]]


def test_other_labels_leave_the_set_as_it_was():
    own = alone()
    other = own.with_stages(own.stage[::-1])
    assert other.stage.tolist() == own.stage[::-1].tolist() and own.stage.tolist() == [0, 1, 2, 3, 4, 0]
    with pytest.raises(AttributeError):
        own.stage = other.stage


def test_placed_cells_without_anchors_are_refused():
    made, obs = anchors(), pd.DataFrame({"stage": [0]}, index=["a"])
    cells = PlacedCells("mine", obs, ("A",), sp.csr_matrix((1, 1)), anchors=made)
    assert anchors_of(cells) is made
    with pytest.raises(EvaluationError, match="'mine' carry no anchors"):
        anchors_of(cells.take(np.arange(1)))


def test_the_type_of_an_anchor_is_its_stage_where_a_cohort_names_none():
    a, b = anchors(), anchors()
    named = Anchors(b.centroids, b.stage, b.table.assign(cell_type=list("xxyyzz")))
    assert kinds_of(named).tolist() == list("xxyyzz") == AnchorSet.of_cohort(b.centroids, named).kind.tolist()
    assert kinds_of(named, named).tolist() == list("xxyyzzxxyyzz")
    both = AnchorSet.frozen((b.centroids, named), (a.centroids, a)).kind
    assert both.tolist() == ["0", "1", "2", "3", "4", "0"] * 2, (
        "names of one cohort and stages of the other would not meet"
    )


def test_sequencing_is_regressed_out_of_each_cohort_by_itself():
    """Oracle: the regression on the anchors of one cohort alone."""
    rng, names = np.random.default_rng(2), (LIBRARY_SIZE, DETECTED)
    sets = []
    for donors, shift in (("1" * 9 + "2" * 9, 0.0), ("3" * 9 + "4" * 9, 5.0)):
        made = anchors(donors, tuple(range(5)) * 3 + (0, 1, 2))
        table = made.table.assign(**{name: shift + rng.normal(size=18) for name in names})
        sets.append(Anchors(made.centroids + table[LIBRARY_SIZE].to_numpy()[:, None], made.stage, table))
    one, other = sets
    both = AnchorSet.frozen((one.centroids, one), (other.centroids, other)).without_technical()
    assert both.regressed == names and not both.technical
    for rows, own in ((both.train, one), (both.test, other)):
        alone = without_technical(own.centroids, own.technical, own.column("donor"))[0]
        np.testing.assert_allclose(both.features[rows], alone)
    own = AnchorSet.of_cohort(other.centroids, other).without_technical()
    np.testing.assert_allclose(own.features, both.features[both.test])


def test_where_sequencing_is_not_known_of_the_judged_cohort_nothing_is_regressed_out():
    known = anchors("1" * 9 + "2" * 9, tuple(range(5)) * 3 + (0, 1, 2))
    known.table[LIBRARY_SIZE] = np.arange(18.0)
    unknown = anchors("445", (0, 2, 4))
    both = AnchorSet.frozen((known.centroids, known), (unknown.centroids, unknown))
    assert np.isnan(both.technical[LIBRARY_SIZE][both.test]).all()
    assert both.without_technical() is both
