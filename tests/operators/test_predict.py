"""What an algorithm says of cells that are not those of training: filled genes, displacement, labels withheld, reasons."""

import dataclasses

import numpy as np
from transfer_world import PANEL, TYPES, algorithm, loaded, right, without, world

from workbench.operators.algorithm import Algorithm
from workbench.operators.predict import LEAST_PROBABILITY, predict


def test_cells_like_those_of_training_are_served_without_a_word():
    known, cells = algorithm(), world(300, 1)
    found = known.predict(loaded(cells))
    fitness = found.fitness
    assert fitness.fit and not fitness.reasons and not fitness.notices
    assert fitness.coverage == 1 and 0.9 < fitness.detected < 1.1 and fitness.shift.size < 1 and fitness.outside < 0.04
    assert abs(fitness.library_size / fitness.training_library_size - 1) < 0.1
    assert right(found, cells) > 0.85


def test_absent_genes_are_filled_in_and_not_counted_as_zero():
    known, gains = algorithm(), []
    zero = dataclasses.replace(known, reference=None)
    for seed in range(5):
        cells = without(world(300, 10 + seed), 0.6, seed)
        filled, bare = (right(one.predict(loaded(cells), 0.1, align=False), cells) for one in (known, zero))
        gains.append(filled - bare)
    assert min(gains) > 0 and np.mean(gains) > 0.1, gains


def test_transform_fills_in_too_and_is_the_latent_before_alignment():
    known, cells = algorithm(), loaded(without(world(50, 3), 0.8))
    np.testing.assert_allclose(known.transform(cells, 0.1), known.predict(cells, 0.1, align=False).latent, atol=1e-12)


def test_a_displaced_study_is_brought_back():
    known, gains = algorithm(), []
    for seed in range(5):
        cells = world(400, 20 + seed, shares=[0.6, 0.1, 0.1, 0.1, 0.1], batch=0.8)
        aligned, plain = (right(known.predict(loaded(cells), align=align), cells) for align in (True, False))
        gains.append(aligned - plain)
    assert np.mean(gains) > 0.03, gains


def test_alignment_can_be_left_out_and_is_then_seen():
    known, cells = algorithm(), loaded(world(300, 4, batch=1.0))
    plain, aligned = known.predict(cells, align=False), known.predict(cells, align=True)
    assert plain.fitness.shift.size == aligned.fitness.shift.size > 0.5
    np.testing.assert_allclose(plain.latent - aligned.latent, np.tile(plain.fitness.shift.offset, (300, 1)), atol=1e-9)


def test_batches_and_order_change_nothing():
    known, cells = algorithm(), world(200, 5)
    found = predict(known, loaded(cells), block=7)
    np.testing.assert_allclose(found.latent, known.predict(loaded(cells)).latent, atol=1e-9)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(known.predict(loaded(cells[order].copy())).latent, found.latent[order], atol=1e-5)


def test_labels_are_withheld_from_cells_out_of_range_and_unlikely_ones():
    known = algorithm()
    cells = world(300, 9)
    x = cells.X.toarray()
    x[:30, 12:] = 0
    x[:30, :12] = np.random.default_rng(0).poisson(
        40, (30, 12)
    )  # nothing but one program, which no cell of training comes near
    cells.X = x
    found = known.predict(loaded(cells))
    assert (~found.in_range[:30]).mean() > 0.9 and found.in_range[30:].mean() > 0.95
    labels, chance = found.labels("stage"), found.probabilities["stage"]
    assert (labels[~found.in_range] == -1).all() and (labels[chance.max(1) < LEAST_PROBABILITY] == -1).all()
    sure = found.in_range & (chance.max(1) >= LEAST_PROBABILITY)
    assert (labels[sure] == chance[sure].argmax(1)).all()


def test_an_endpoint_is_not_asked_of_cells_that_it_is_not_about():
    cells = world(400, 11)
    found, kind = algorithm().predict(loaded(cells)), cells.obs["cell_type"].to_numpy()
    labels = found.labels("T4 against T8")
    assert found.classes["T4 against T8"] == ("T8", "T4")
    b_cells, t_cells = kind == "B", np.isin(kind, ("T4", "T8"))
    assert (labels[b_cells] == -1).mean() > 0.95 and (labels[t_cells] >= 0).mean() > 0.8


def test_a_cell_without_any_of_the_genes_has_nothing():
    cells = world(60, 12)
    cells.X = np.vstack([np.zeros((1, len(PANEL))), cells.X.toarray()[1:]]).astype(np.float32)
    found = algorithm().predict(loaded(cells))
    assert (
        np.isnan(found.latent[0]).all()
        and np.isnan(found.probabilities["stage"][0]).all()
        and np.isnan(found.distance[0])
    )
    assert np.isnan(found.numbers["depth"][0]) and not found.in_range[0] and found.labels("stage")[0] == -1


def test_an_algorithm_that_knows_nothing_of_its_cells_says_so():
    bare = dataclasses.replace(algorithm(), reference=None)
    found = bare.predict(loaded(world(50, 13)))
    assert found.distance is None and found.in_range is None and not found.fitness.fit
    assert "knows nothing of its training cells" in found.fitness.notices[0] and bare.least_coverage == 0.5


def test_few_cells_are_said_to_be_few():
    assert "20 cells are few" in " ".join(algorithm().predict(loaded(world(20, 14))).fitness.notices)


def test_the_file_gives_the_same(tmp_path):
    known, cells = algorithm(), loaded(without(world(100, 15), 0.9))
    again = Algorithm.from_pretrained(known.save_pretrained(tmp_path / "algorithm"))
    one, other = known.predict(cells), again.predict(cells)
    np.testing.assert_array_equal(one.latent, other.latent)
    np.testing.assert_array_equal(one.probabilities["stage"], other.probabilities["stage"])
    assert one.fitness.reasons == other.fitness.reasons and len(TYPES) == len(other.classes["stage"])
