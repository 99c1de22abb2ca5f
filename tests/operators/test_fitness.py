"""Whether an algorithm is fit for the cells of a file: what speaks against it, and what is done about a displacement."""

import dataclasses
import functools

import numpy as np
import pytest
import scipy.sparse as sp
from transfer_world import PANEL, TYPES, algorithm, encoder, loaded, right, training, without, world

from workbench.errors import GeneMatchError
from workbench.operators.algorithm import Algorithm
from workbench.operators.exporting import HeldOutEncoder, export_readouts


def test_shallow_cells_on_which_two_classifiers_differ_are_said_to_be_no_good():
    found = algorithm().predict(loaded(world(300, 6, library=60)))
    assert not found.fitness.fit and found.fitness.detected < 0.5
    assert "Logistic regression on the expression of the same training cells gives" in " ".join(found.fitness.reasons)


@functools.cache
def narrow():
    """An algorithm that looks at a third of each type's program."""
    cells, labels = training()
    seen = np.arange(len(PANEL)) % 12 < 4  # of each type's program a third

    def latent(inside):
        matrix = encoder(cells, labels, inside)[0] * seen[:, None]
        return matrix, -np.asarray(cells.x[inside].mean(0)).ravel() @ matrix

    fold = np.array([int(name.split("_")[1]) % 4 for name in cells.names])
    inner = [HeldOutEncoder(*latent(fold != k), fold == k) for k in range(4)]
    whole = latent(np.ones(len(labels), dtype=bool))
    return Algorithm(PANEL, *whole, *_swapped(export_readouts(cells, *whole, inner))), seen


def _swapped(exported):
    readouts, reference = exported
    return readouts, {"data": "planted"}, reference


def test_a_study_that_the_algorithm_reads_worse_than_plain_expression_is_said_to_be_one():
    """Genes of the latent are off in this study, and most others are not: the latent misleads, the control does not."""
    known, seen = narrow()
    for seed in range(5):
        cells = world(400, 80 + seed)
        factor = np.where(seen, np.exp(2.5 * np.random.default_rng(seed).standard_normal(len(PANEL))), 1.0)
        off = cells.copy()
        off.X = sp.csr_matrix(np.rint(cells.X.toarray() * factor), dtype=np.float32)
        for file, said in ((cells, False), (off, True)):
            found = known.predict(loaded(file), align=False)
            ours, plain = (
                (np.array(TYPES)[numbers] == file.obs["cell_type"].to_numpy()).mean()
                for numbers in (found.probabilities["stage"].argmax(1), found.plain["stage"])
            )
            assert abs(plain - ours) <= 1 - found.fitness.agreement + 1e-9
            assert ("Logistic regression" in " ".join(found.fitness.reasons)) == said, (seed, ours, plain)
            assert not said or plain > ours + 0.05


def test_a_displacement_is_taken_off_unless_the_control_agrees_with_surely_more_labels_without():
    """On files that are displaced and on files in which genes of the latent are off, the choice is the better one or nearly."""
    chosen, best = [], []
    for known in (algorithm(), narrow()[0]):
        for seed in range(8):
            cells = loaded(world(300, 120 + seed, shares=[0.6, 0.1, 0.1, 0.1, 0.1], batch=0.8))
            found, left, off = (known.predict(cells, align=align) for align in (None, False, True))
            alone = [one.probabilities["stage"].argmax(1) == one.plain["stage"] for one in (left, off)]
            more, fewer = (alone[0] & ~alone[1]).sum(), (alone[1] & ~alone[0]).sum()
            assert found.fitness.aligned == (more - fewer <= 2 * np.sqrt(more + fewer))
            same = off if found.fitness.aligned else left
            np.testing.assert_array_equal(found.latent, same.latent)
            assert off.fitness.aligned and not left.fitness.aligned
            better = left.fitness.agreement > off.fitness.agreement
            assert any("left as it is" in one for one in off.fitness.notices) == better
            assert better or found.fitness.aligned
            kind = cells.obs["cell_type"].to_numpy()
            ours, *both = (
                (np.array(TYPES)[one.probabilities["stage"].argmax(1)] == kind).mean() for one in (found, left, off)
            )
            chosen.append(ours)
            best.append(max(both))
    assert np.mean(chosen) > np.mean(best) - 0.02, (chosen, best)


def test_an_algorithm_without_a_control_has_none_and_says_what_else_it_knows():
    known, cells = algorithm(), loaded(world(100, 14))
    before = dataclasses.replace(known.reference, plain=None)
    found = dataclasses.replace(known, reference=before).predict(cells)
    assert "No control on plain expression" in found.fitness.notices[0] and known.predict(cells).fitness.notices == ()
    assert found.fitness.aligned and found.plain == {} and np.isnan(found.fitness.agreement) and found.fitness.fit
    np.testing.assert_allclose(found.latent, known.predict(cells, align=True).latent, atol=1e-12)


def test_too_few_genes_are_refused_by_the_measured_limit_and_said_where_they_are_forced():
    known, cells = algorithm(), loaded(without(world(200, 7), 0.1))
    with pytest.raises(GeneMatchError):
        known.predict(cells)
    found = known.predict(cells, 0.01)
    assert not found.fitness.fit and "10% of the genes are measured" in found.fitness.reasons[0]


def test_cells_of_which_the_genes_are_permuted_are_no_such_cells():
    known, said = algorithm(), 0
    for seed in range(20):
        cells = world(300, 100 + seed)
        cells.var_names = np.random.default_rng(seed).permutation(cells.var_names)
        said += not known.predict(loaded(cells)).fitness.fit
    assert said >= 19


def test_good_files_are_seldom_said_to_be_unfit():
    assert (
        sum(not algorithm().predict(loaded(world(300, 200 + seed, batch=0.15))).fitness.fit for seed in range(40)) <= 2
    )


def test_a_file_of_one_type_is_labelled_and_said_to_be_one():
    cells = world(300, 8, shares=[0, 0, 0, 0, 1.0])
    found = algorithm().predict(loaded(cells))
    assert right(found, cells) > 0.85 and found.fitness.fit
    assert "look like one class (mono)" in found.fitness.notices[0]
