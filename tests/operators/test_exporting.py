"""Readouts for export and their reference, on planted types: they hold where genes and counts are fewer, and say where they do not."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from transfer_world import PANEL, TYPES, algorithm, encoder, exported, loaded, made, training, world

import workbench.operators.exporting as exporting
from workbench.cells.expression import panel_expression
from workbench.operators.calibration import fit_readout
from workbench.operators.exporting import HeldOutEncoder, export_readouts, plain_readout
from workbench.operators.reference import COUNTS, GENES, LEVEL_COLUMNS, LOSS, TrainingReference, levels_table


def test_levels_fall_with_what_is_taken_away_and_the_limit_is_where_they_fall():
    reference = algorithm().reference
    genes = {level.share: level for level in reference.levels if level.kind == GENES}
    counts = {level.share: level for level in reference.levels if level.kind == COUNTS}
    whole = reference.levels[0]
    assert whole.share == 1 and whole.accuracy > 0.85
    assert genes[0.3].accuracy < whole.accuracy and counts[0.1].accuracy < whole.accuracy - LOSS
    assert 0.95 < whole.detected < 1.05 and counts[0.1].detected < counts[0.5].detected < 0.95
    least = reference.least_coverage
    assert all(level.accuracy >= whole.accuracy - LOSS for share, level in genes.items() if share >= least)
    below = [level.accuracy for share, level in genes.items() if share < least]
    assert (
        not below
        or max(share for share in genes if share < least)
        and genes[max(s for s in genes if s < least)].accuracy < whole.accuracy - LOSS
    )
    assert genes[0.3].agreement < whole.agreement and counts[0.1].agreement < whole.agreement


def test_the_control_that_goes_along_is_logistic_regression_on_expression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cells, labels = training()
    reference = made()[3]
    by_hand = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=5000, tol=1e-9))
    by_hand.fit(cells.x.toarray().astype(float), labels)
    other = panel_expression(loaded(world(300, 70)), PANEL)
    x = other.toarray().astype(float)
    np.testing.assert_allclose(reference.plain.probabilities(x), by_hand.predict_proba(x), atol=1e-3)


def test_agreement_is_counted_on_cells_that_neither_was_fitted_on():
    cells, labels = training()
    fold = np.array([int(name.split("_")[1]) % 4 for name in cells.names])
    same, right = [], []
    for k in range(4):
        inside = cells.take(fold != k)
        matrix, offset = encoder(cells, labels, fold != k)
        every, endpoints = inside.copies()
        ours = fit_readout(np.asarray(every @ matrix) + offset, endpoints[0])
        x = cells.x[fold == k].toarray()
        plain = plain_readout(inside, "stage").predict(x)
        same += (ours.predict(x @ matrix + offset) == plain).tolist()
        right.append(balanced_accuracy_score(labels[fold == k], plain))
    whole = made()[3].levels[0]
    assert whole.agreement == np.mean(same) and abs(whole.plain_accuracy - np.mean(right)) < 1e-12


def test_of_many_cells_the_control_takes_some_in_the_shares_of_their_classes(monkeypatch):
    cells, labels = training()
    monkeypatch.setattr(exporting, "MOST_PLAIN", 100)
    order = np.random.default_rng(0).permutation(len(labels))
    few, turned = plain_readout(cells, "stage"), plain_readout(training(order=order)[0], "stage")
    np.testing.assert_allclose(turned.weights, few.weights, atol=1e-4)
    other = world(400, 71)
    right = few.predict(panel_expression(loaded(other), PANEL).toarray()) == other.obs["cell_type"].to_numpy()
    assert few.classes == TYPES and right.mean() > 0.8
    assert np.abs(few.weights - made()[3].plain.weights).max() > 0.05


def test_probabilities_are_calibrated_at_each_level():
    for level in algorithm().reference.levels:
        assert abs(level.probability - level.accuracy) < 0.12, level


def test_permuted_genes_are_displaced_and_held_out_cells_are_not():
    whole = algorithm().reference.levels[0]
    assert whole.shift < 1.5 and whole.permuted > 2 * whole.shift


def test_readouts_of_thinned_copies_hold_on_shallow_cells():
    cells, _ = training()
    matrix, offset, readouts, _ = made()
    plain = fit_readout(np.asarray(cells.x @ matrix) + offset, cells.endpoints[0])
    gains = []
    for seed in range(5):
        shallow = world(400, 50 + seed, library=400)
        z = np.asarray(panel_expression(loaded(shallow), PANEL) @ matrix) + offset
        right = shallow.obs["cell_type"].to_numpy()
        gains.append((readouts["stage"].predict(z) == right).mean() - (plain.predict(z) == right).mean())
    assert np.mean(gains) > 0.005, gains


def test_the_reference_comes_back_from_arrays_and_json():
    known = algorithm().reference
    again = TrainingReference.read(known.told(), known.arrays())
    for name, array in known.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)
    assert (
        again.plain.classes == known.plain.classes
        and again.told() == known.told()
        and again.asked == {"T4 against T8": ("T4", "T8")}
    )
    assert [dataclasses.asdict(a)["heat"] for a in again.levels] == [
        dataclasses.asdict(a)["heat"] for a in known.levels
    ]
    assert set(levels_table(known.levels)[0]) == set(LEVEL_COLUMNS)


def test_the_order_of_cells_and_genes_changes_nothing():
    order = np.random.default_rng(3).permutation(len(training()[1]))
    (_, _, readouts, one), (_, _, theirs, other) = made(), exported(*training(order=order, genes=PANEL[::-1]))
    z = np.random.default_rng(0).standard_normal((50, one.mean.size)) * one.spread + one.mean
    # The latent is the same up to signs that the class means decide alike.
    np.testing.assert_allclose(other.mean, one.mean, atol=1e-6)
    np.testing.assert_allclose(theirs["stage"].probabilities(z), readouts["stage"].probabilities(z), atol=1e-5)
    for a, b in zip(one.levels, other.levels, strict=True):
        assert (a.kind, a.share) == (b.kind, b.share)
        np.testing.assert_allclose(
            [b.detected, b.accuracy, b.probability, b.shift, b.agreement],
            [a.detected, a.accuracy, a.probability, a.shift, a.agreement],
            atol=1e-4,
        )
    np.testing.assert_allclose([other.farthest, other.library_size], [one.farthest, one.library_size], rtol=1e-4)


def test_without_copies_no_level_of_counts_is_judged():
    cells, labels = training()
    _, _, _, reference = exported(dataclasses.replace(cells, shares=()), labels)
    assert {level.kind for level in reference.levels} == {GENES} and np.isnan(reference.library_size)


def test_without_a_fold_that_can_be_judged_there_is_no_reference():
    cells, labels = training()
    every = np.ones(len(labels), dtype=bool)
    matrix, offset = encoder(cells, labels, every)
    readouts, reference = export_readouts(cells, matrix, offset, [])
    assert reference is None and set(readouts) == {"stage", "T4 against T8", "depth"}
    one_class = HeldOutEncoder(matrix, offset, labels != TYPES[0])
    assert export_readouts(cells, matrix, offset, [one_class])[1] is None


def test_labels_of_held_out_cells_have_no_part_in_levels_but_to_judge():
    """With labels permuted, readouts are at chance on held-out cells at every level."""
    cells, labels = training()
    mixed = np.random.default_rng(0).permutation(labels)
    wanted = [dataclasses.replace(cells.endpoints[0], target=mixed)]
    _, _, _, reference = exported(dataclasses.replace(cells, endpoints=wanted), mixed)
    assert all(level.accuracy < 0.32 for level in reference.levels)


@pytest.mark.parametrize("kind", [GENES, COUNTS])
def test_a_file_is_at_the_worse_of_its_levels(kind):
    reference = algorithm().reference
    assert reference.level(1.0, 2.0) is reference.levels[0]
    low = reference.level(0.31, 2.0) if kind == GENES else reference.level(1.0, 0.01)
    assert low.kind == kind and low.share == (0.3 if kind == GENES else 0.1)
