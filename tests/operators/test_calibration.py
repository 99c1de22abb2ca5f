"""Exported readouts beside scikit-learn's, and probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures_readout import N, endpoint
from sklearn.metrics import log_loss as sklearn_log_loss

from workbench.errors import EvaluationError
from workbench.operators.calibration import (
    calibration_error,
    calibration_table,
    cooled,
    exported,
    fit_readout,
    inner_folds,
    inner_latents,
    log_loss,
    temperature,
)
from workbench.operators.readout import probe
from workbench.operators.readout_weights import Readout


def overconfident(n=400, noise=20, seed=0):
    """Few informative axes, many of noise: a readout fitted on few cells is too sure."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, n)
    return np.concatenate([np.eye(3)[truth] + rng.standard_normal((n, 3)), rng.standard_normal((n, noise))], 1), truth


def fixed(x, target, groups=None, names=None):
    """Inner splits of a latent that no label went into."""
    names = np.arange(len(x)).astype(str) if names is None else names
    return inner_latents(lambda held: x, inner_folds(target, groups, names, 0))


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_arrays_say_what_scikit_learn_says(latent, n_classes, hidden):
    rng = np.random.default_rng(1)
    target = np.array([f"class {i}" for i in (latent[:, 0] > 3) + rng.integers(0, n_classes - 1, N)])
    theirs = probe("classes", hidden, 3).fit(latent, target)
    ours = exported(theirs, "classes")
    assert ours.classes == tuple(sorted(set(target)))
    np.testing.assert_allclose(ours.probabilities(latent), theirs.predict_proba(latent), atol=1e-9)
    assert np.array_equal(ours.predict(latent), theirs.predict(latent))
    outputs = 1 if n_classes == 2 else n_classes
    linear = 6 * outputs + outputs
    assert ours.n_parameters == (linear if not hidden else 6 * 5 + 5 + 5 * outputs + outputs)


@pytest.mark.parametrize("hidden", [0, 5])
def test_a_depth_is_a_number(latent, hidden):
    target = latent @ np.arange(6) + 1
    ours = fit_readout(latent, endpoint("depth", target), hidden=hidden)
    assert ours.classes == ()
    np.testing.assert_allclose(
        ours.predict(latent), probe("depth", hidden).fit(latent, target).predict(latent), atol=1e-9
    )


def test_a_binary_endpoint_has_one_column_and_the_probabilities_of_no_and_yes(latent):
    target = latent[:, 0] > 3
    ours, theirs = fit_readout(latent, endpoint("binary", target)), probe("binary").fit(latent, target)
    assert ours.weights.shape == (6, 1) and ours.classes == ("False", "True")
    assert np.array_equal(ours.predict(latent) == "True", theirs.predict(latent))


def test_extreme_latents_give_probabilities():
    readout = Readout(np.array([[1.0, -1.0]]), np.zeros(2), ("a", "b"))
    np.testing.assert_allclose(readout.probabilities(np.array([[1e4], [-1e4], [0.0]])), [[1, 0], [0, 1], [0.5, 0.5]])


def test_only_the_endpoint_s_cells_are_used(latent):
    target = np.where(latent[:, 0] > 3, "a", "b")
    cells = np.arange(0, N, 2)
    spoiled = latent.copy()
    spoiled[1::2] = 1e6
    first, second = (
        fit_readout(x, endpoint("classes", target, cells), [(x, np.arange(N) % 3 == 0)]) for x in (latent, spoiled)
    )
    assert np.array_equal(first.weights, second.weights) and np.array_equal(first.offset, second.offset)


@pytest.mark.parametrize("kind", ["classes", "binary", "depth"])
def test_one_class_is_an_error(latent, kind):
    with pytest.raises(EvaluationError, match="Endpoint 'it' has 1 class among its cells; skip it"):
        fit_readout(latent, endpoint(kind, np.ones(N)))


def test_calibration_keeps_the_label_and_lowers_the_loss_on_new_cells():
    x, truth = overconfident()
    wanted = endpoint("classes", truth, np.arange(90))
    plain = exported(probe("classes").fit(x[:90], truth[:90]), "classes")
    inner = [(x, (np.arange(len(x)) % 5 == i) & (np.arange(len(x)) < 90)) for i in range(5)]
    ours = fit_readout(x, wanted, inner)
    assert ours.n_parameters == plain.n_parameters
    assert np.array_equal(ours.predict(x), plain.predict(x))
    new = slice(90, None)
    losses = [log_loss(readout.probabilities(x[new]), truth[new]) for readout in (plain, ours)]
    gaps = [calibration_error(readout.probabilities(x[new]), truth[new]) for readout in (plain, ours)]
    assert losses[1] < losses[0] - 0.05 and gaps[1] < gaps[0] - 0.05


def test_the_temperature_of_a_readout_that_is_right_about_itself_is_near_one():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3000, 2))
    truth = (rng.random(3000) < 1 / (1 + np.exp(-x[:, 0]))).astype(int)
    assert temperature(endpoint("classes", truth), fixed(x, truth)) == (pytest.approx(1, abs=0.1), 5)
    assert temperature(endpoint("classes", truth), []) == (1, 0)


def test_the_order_of_named_cells_does_not_matter():
    x, truth = overconfident(150)
    names, order = np.array([f"cell{i}" for i in range(150)]), np.random.default_rng(3).permutation(150)
    heats = [
        temperature(endpoint("classes", truth[rows]), fixed(x[rows], truth[rows], None, names[rows]))[0]
        for rows in (np.arange(150), order)
    ]
    assert heats[0] == pytest.approx(heats[1], abs=1e-4)


def test_inner_folds_hold_out_whole_donors():
    x, truth = overconfident(200)
    # Within a donor the noise is the same for all of its cells: only across donors it is seen to be noise.
    donor = np.arange(200) % 10
    x = np.concatenate([x[:, :3], 3 * np.random.default_rng(4).standard_normal((10, 20))[donor]], axis=1)
    across, within = (temperature(endpoint("classes", truth), fixed(x, truth, groups))[0] for groups in (donor, None))
    assert across > within


def test_losses_are_scikit_learn_s_with_balanced_weights():
    rng = np.random.default_rng(5)
    truth = np.repeat([0, 1, 2], [50, 10, 5])
    chance = rng.dirichlet(np.ones(3), 65)
    weights = 65 / (3 * np.bincount(truth)[truth])
    assert log_loss(chance, truth) == pytest.approx(sklearn_log_loss(truth, chance, sample_weight=weights))


def test_calibration_error_by_hand():
    chance = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.35, 0.65]])
    assert calibration_error(chance, np.array([0, 0, 1, 1])) == pytest.approx(0.5 * 0.05 + 0.5 * 0.35)
    assert calibration_error(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])) == 0


def test_a_cooler_readout_is_surer():
    readout = Readout(np.array([[1.0, -1.0]]), np.array([0.5, 0.0]), ("a", "b"))
    x = np.array([[1.0]])
    assert (
        cooled(readout, 0.5).probabilities(x).max()
        > readout.probabilities(x).max()
        > cooled(readout, 2).probabilities(x).max()
    )


def test_the_table_judges_on_held_out_folds_only():
    x, truth = overconfident(160)
    wanted = [endpoint("classes", truth), endpoint("depth", truth.astype(float))]
    table = calibration_table(lambda *folds: x, wanted, np.arange(160) % 4, seed=1)
    assert table["calibrated"].tolist() == [False, True] and (table["n_folds"] == 4).all()
    assert table["log_loss"].iloc[1] < table["log_loss"].iloc[0] and table["temperature"].iloc[1] > 1
    assert table["n_inner"].tolist() == [0, 3]
    two = calibration_table(lambda *folds: x, wanted, np.arange(160) % 2)
    assert two["n_inner"].tolist() == [0, 0] and two["log_loss"].nunique() == 1, "no fold is left for calibration"
    nothing = calibration_table(lambda *folds: x, [endpoint("classes", np.zeros(160))], np.arange(160) % 4)
    assert nothing.empty


def test_a_latent_that_saw_the_labels_is_calibrated_on_cells_that_it_did_not_see():
    """A latent fitted to labels amid noise: right of its own cells, so that a temperature found on these is too low."""
    rng = np.random.default_rng(6)
    truth, fold = rng.integers(0, 3, 240), np.arange(240) % 6
    x = np.concatenate([np.eye(3)[truth] + 1.5 * rng.standard_normal((240, 3)), rng.standard_normal((240, 80))], 1)
    asked = []

    def features(*folds):
        asked.append(folds)
        kept = ~np.isin(fold, folds)
        weights = np.linalg.lstsq(x[kept], np.eye(3)[truth[kept]], rcond=None)[0]
        return x @ weights

    wanted = [endpoint("classes", truth)]
    nested = calibration_table(features, wanted, fold).set_index("calibrated")
    seen = calibration_table(lambda *folds: features(folds[0]), wanted, fold).set_index("calibrated")
    assert nested["temperature"][True] > 1.5 * seen["temperature"][True]
    assert nested["log_loss"][True] < seen["log_loss"][True] < nested["log_loss"][False]
    assert nested["calibration_error"][True] < 0.5 * nested["calibration_error"][False]
    first = asked[: 6 + 15]
    assert sorted(map(len, first)) == [1] * 6 + [2] * 15, "each pair of folds once"


def test_latents_that_cannot_be_made_are_left_out():
    def make(held):
        if held[1]:
            raise EvaluationError("too few anchors")
        return np.zeros((6, 1))

    found = inner_latents(make, np.array([0, 1, 2, 0, -1, 2]))
    assert [held.tolist() for _, held in found] == [
        [True, False, False, True, False, False],
        [False, False, True, False, False, True],
    ]


def test_folds_of_classes_that_no_other_fold_has_cannot_be_judged():
    x, _ = overconfident(80)
    fold = np.arange(80) % 4
    apart = np.array([f"class {2 * k + i}" for k, i in zip(fold, np.arange(80) // 4 % 2, strict=True)])
    assert calibration_table(lambda *folds: x, [endpoint("classes", apart)], fold).empty
