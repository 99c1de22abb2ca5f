"""Readouts for export and their reference, on planted types: they hold where genes and counts are fewer, and say where they do not."""

import dataclasses

import numpy as np
import pytest
from transfer_world import PANEL, TYPES, algorithm, encoder, exported, loaded, made, training, world

from workbench.cells.expression import panel_expression
from workbench.operators.calibration import fit_readout
from workbench.operators.exporting import HeldOutEncoder, export_readouts
from workbench.operators.reference import COUNTS, GENES, LEVEL_COLUMNS, LOSS, TrainingReference, levels_table


def test_levels_fall_with_what_is_taken_away_and_the_limit_is_where_they_fall():
    reference = algorithm().reference
    genes = {level.share: level for level in reference.levels if level.kind == GENES}
    counts = {level.share: level for level in reference.levels if level.kind == COUNTS}
    whole = reference.levels[0]
    assert whole.share == 1 and whole.accuracy > 0.85
    assert genes[0.3].accuracy < whole.accuracy and counts[0.1].accuracy < whole.accuracy - LOSS
    assert 0.95 < whole.detected < 1.05 and counts[0.1].detected < counts[0.5].detected < 0.95
    least = reference.least(GENES)
    assert all(level.accuracy >= whole.accuracy - LOSS for share, level in genes.items() if share >= least)
    below = [level.accuracy for share, level in genes.items() if share < least]
    assert (
        not below
        or max(share for share in genes if share < least)
        and genes[max(s for s in genes if s < least)].accuracy < whole.accuracy - LOSS
    )
    assert reference.fewest_detected() > counts[0.1].detected


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
    assert again.told() == known.told() and again.asked == {"T4 against T8": ("T4", "T8")}
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
            [b.detected, b.accuracy, b.probability, b.shift],
            [a.detected, a.accuracy, a.probability, a.shift],
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
