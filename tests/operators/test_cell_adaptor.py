"""The cell head: each term beside a loop and its gradient, a planted world, and what may not change the result."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from workbench.errors import ConfigError, EvaluationError, ShapeError
from workbench.operators import cell_losses as losses
from workbench.operators.adaptor import LETAdaptor, angles
from workbench.operators.cell_adaptor import (
    CONSERVATIVE_TOPOLOGY,
    STRONG_TOPOLOGY,
    TERMS,
    CellAdaptor,
    hybrid_sweep,
)
from workbench.operators.cell_sampling import check_enough
from workbench.stats import spearman

BETA = 1 / np.pi
STAGES = 6


def world(n=30, genes=30, nuisance=5, seed=0):
    """Stages along half a circle in two dimensions, louder dimensions that say nothing, and a random operator."""
    rng = np.random.default_rng(seed)
    along = np.linspace(0, 1, STAGES)
    axes = np.linalg.qr(rng.standard_normal((genes, 2 + nuisance)))[0].T
    stage = np.repeat(np.arange(STAGES), n)
    signal = np.stack([np.cos(np.pi * along), np.sin(np.pi * along)], 1)[stage] + 0.2 * rng.standard_normal(
        (len(stage), 2)
    )
    x = signal @ axes[:2] + 1.2 * rng.standard_normal((len(stage), nuisance)) @ axes[2:]
    x += 0.1 * rng.standard_normal(x.shape)
    x[rng.random(x.shape) < 0.1] = 0
    return x, stage, np.abs(along[:, None] - along), rng.standard_normal((genes, 40))


def names_of(n):
    return np.array([f"cell {i}" for i in range(n)])


def problem(n=9, genes=7, coordinates=5, k=3, stages=3, seed=0, unknown=False):
    """Random weights, space and batch, with y = x basis - centre beside them."""
    rng = np.random.default_rng(seed)
    distances = rng.random((stages, stages))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    if unknown:
        distances[0, 1] = distances[1, 0] = -1
    x, basis, centre = (
        rng.random((n, genes)),
        rng.standard_normal((genes, coordinates)),
        rng.standard_normal(coordinates),
    )
    y, weight = x @ basis - centre, rng.random(n) + 0.1
    stage = np.concatenate([np.arange(stages), rng.integers(0, stages, n - stages)])
    tensor = torch.from_numpy
    weights = losses.Weights(
        *(tensor(rng.standard_normal(s)) for s in ((k, coordinates), coordinates, (k, stages), stages))
    )
    space = losses.Space(tensor(basis), tensor(centre), tensor(distances), 0.3, 1.7, 3)
    batch = losses.Batch(*map(tensor, (x, (y**2).sum(1), y, stage, weight / weight.sum())))
    return weights, space, batch, y


# The terms


@pytest.mark.parametrize("unknown", [False, True])
def test_every_term_is_its_definition(unknown):
    weights, space, batch, y = problem(unknown=unknown)
    w, b, classifier, offset = (part.numpy() for part in weights)
    stage, share, distances = batch.stage.numpy(), batch.weight.numpy(), space.distances.numpy()
    z = (y - b) @ w.T
    n = len(z)

    def angle(a, c):
        return np.arccos(a @ c / np.linalg.norm(a) / np.linalg.norm(c))

    stress, total = 0.0, 0.0
    for i in range(n):
        for j in range(n):
            target = distances[stage[i], stage[j]]
            if i != j and target >= 0:
                stress += share[i] * share[j] * (0.3 * angle(z[i], z[j]) - target) ** 2
                total += share[i] * share[j]
    variance = share @ ((z - share @ z) ** 2).sum(1)
    local = 0.0
    for i in range(n):
        apart = [np.inf if i == j else np.linalg.norm(y[i] - y[j]) for j in range(n)]
        local += share[i] * np.mean([((z[i] - z[j]) ** 2).sum() for j in np.argsort(apart)[:3]])
    means = np.array([np.average(z[stage == s], axis=0, weights=share[stage == s]) for s in range(3)])
    pairs = [(i, j) for i, j in ((0, 1), (0, 2), (1, 2)) if distances[i, j] >= 0]
    expected = {
        "stage": stress / total,
        "local": local / (2 * variance),
        "reconstruction": share @ ((z @ w + b - y) ** 2).sum(1),
        "classification": log_loss(stage, _softmax(1.7 * z @ classifier + offset), sample_weight=share),
        "topology": np.mean([(0.3 * angle(means[i], means[j]) - distances[i, j]) ** 2 for i, j in pairs]),
        "compactness": share @ ((z - means[stage]) ** 2).sum(1) / variance,
    }
    found = losses.terms(weights, space, batch)
    assert set(found) == set(TERMS) == set(expected)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def _softmax(logits):
    exponential = np.exp(logits)
    return exponential / exponential.sum(1, keepdims=True)


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_of_every_term_is_that_of_finite_differences(term):
    weights, space, batch, _ = problem(unknown=True)
    parts = [part.requires_grad_() for part in weights]
    value = losses.terms(weights, space, batch)[term]
    slopes = torch.autograd.grad(value, parts, allow_unused=True)
    for part, slope in zip(parts, slopes, strict=True):
        expected = torch.zeros_like(part)
        with torch.no_grad():
            for at in np.ndindex(part.shape):
                for sign in (1, -1):
                    part[at] += sign * 1e-6
                    expected[at] += sign * losses.terms(weights, space, batch)[term] / 2e-6
                    part[at] -= sign * 1e-6
        found = torch.zeros_like(part) if slope is None else slope
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_cells_that_coincide_and_stages_that_are_absent_are_no_trouble():
    weights, space, batch, _ = problem()
    rows = torch.tensor([0, 0, 2, 2])
    batch = losses.Batch(
        batch.expression[rows], batch.square[rows], batch.near[rows], batch.stage[rows], torch.full((4,), 0.25).double()
    )
    parts = [part.requires_grad_() for part in weights]
    found = losses.terms(weights, space, batch)
    slopes = torch.autograd.grad(sum(found.values()), parts)
    assert all(torch.isfinite(s).all() for s in slopes) and float(found["compactness"].detach()) == pytest.approx(0)


def test_descent_is_adam_and_leaves_its_start_alone():
    weights, space, batch, _ = problem()
    shares = dict.fromkeys(TERMS, 0.5)
    before = [part.clone() for part in weights]
    settings = {"learning_rate": 0.02, "patience": None, "progress": False}
    found = losses.descend(weights, space, lambda epoch: [batch], None, shares, epochs=3, **settings)
    assert all(torch.equal(a, b) for a, b in zip(before, weights, strict=True))
    parts = [part.clone() for part in before]
    first, second = [0 * p for p in parts], [0 * p for p in parts]
    for step in (1, 2, 3):
        leaves = [p.clone().requires_grad_() for p in parts]
        value = 0.5 * sum(losses.terms(losses.Weights(*leaves), space, batch).values())
        for i, slope in enumerate(torch.autograd.grad(value, leaves)):
            first[i] = 0.9 * first[i] + 0.1 * slope
            second[i] = 0.999 * second[i] + 0.001 * slope**2
            corrected = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
            parts[i] = parts[i] - 0.02 * corrected[0] / (corrected[1].sqrt() + 1e-8)
    for ours, expected in zip(found.weights, parts, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11)


# What it finds


@pytest.fixture(scope="module")
def planted():
    x, stage, distances, operator = world()
    test = np.arange(len(x)) % 3 == 0
    fitted = CellAdaptor(k=4).fit(x[~test], stage[~test], distances, operator)
    return x, stage, distances, operator, test, fitted


def judge(z, stage, distances, test):
    means = np.stack([z[test & (stage == s)].mean(0) for s in range(STAGES)])
    upper = np.triu_indices(STAGES, 1)
    probe = LogisticRegression(C=100, max_iter=500).fit(z[~test], stage[~test])
    return spearman(angles(means)[upper], distances[upper]), probe.score(z[test], stage[test])


def test_held_out_cells_follow_the_ruler_and_separate_where_pca_does_neither(planted):
    x, stage, distances, operator, test, fitted = planted
    rho, accuracy = judge(fitted.transform(x), stage, distances, test)
    pca = PCA(4).fit(x[~test] @ operator)
    pca_rho, pca_accuracy = judge(pca.transform(x @ operator), stage, distances, test)
    assert rho > 0.8 and rho > pca_rho + 0.3
    assert accuracy > 0.5 and accuracy > pca_accuracy + 0.2


def test_the_objective_falls_and_the_best_epoch_on_the_holdout_is_kept(planted):
    fitted = planted[-1]
    history = fitted.history_
    assert list(history) == ["epoch", *TERMS, "holdout"] and len(history) == fitted.n_epochs_
    shares = {name: getattr(fitted, name) for name in TERMS}
    loss = sum(share * history[name] for name, share in shares.items())
    assert loss.iloc[-1] < 0.8 * loss.iloc[0] and np.isfinite(history.to_numpy()).all()
    assert fitted.best_epoch_ == history["epoch"][history["holdout"].idxmin()]


def test_the_classifier_reads_held_out_cells(planted):
    x, stage, _, _, test, fitted = planted
    guessed = fitted.classifier_.predict(fitted.transform(x[test]))
    assert (guessed == stage[test].astype(str)).mean() > 0.5


def test_the_attributes_fit_together(planted):
    x, _, _, operator, test, fitted = planted
    assert fitted.encoder_.shape == (4, 40) and fitted.encoder_.dtype == np.float64
    assert fitted.bias_.shape == (40,) and fitted.matrix_.shape == (30, 4)
    assert fitted.n_cells_ + fitted.n_held_out_ == (~test).sum() and fitted.n_held_out_ == STAGES * 2
    assert fitted.n_parameters_ == 4 * 30 + 30 + 4 * STAGES + STAGES, "features of 30 genes span 30 coordinates"


def test_folding_loses_nothing(planted):
    x, _, _, operator, _, fitted = planted
    z = (x @ operator - fitted.bias_) @ fitted.encoder_.T
    for given in (x, sp.csr_matrix(x)):
        assert np.abs(fitted.transform(given) - z).max() < 1e-10


def test_the_terms_are_those_of_the_encoder_in_feature_space():
    x, stage, distances, operator = world(n=8)
    fitted = CellAdaptor(k=3, epochs=1, patience=None, learning_rate=1e-12).fit(x, stage, distances, operator)
    f = x @ operator
    total = ((f - f.mean(0)) ** 2).sum(1).mean()
    assert fitted.scale_**2 == pytest.approx(total)
    z = (f - fitted.bias_) @ fitted.encoder_.T
    rebuilt = z @ fitted.encoder_ * fitted.scale_**2 + fitted.bias_
    row = fitted.history_.iloc[0]
    assert row["reconstruction"] == pytest.approx(((rebuilt - f) ** 2).sum(1).mean() / total)
    upper = np.triu_indices(len(x), 1)
    assert row["stage"] == pytest.approx(
        ((BETA * angles(z) - distances[np.ix_(stage, stage)])[upper] ** 2).mean(), rel=1e-4
    )
    assert row["classification"] == pytest.approx(np.log(STAGES), rel=1e-6), "the classifier starts from nothing"


def test_it_starts_from_an_anchor_head():
    x, stage, distances, operator = world(n=6)
    fitted = CellAdaptor(k=3, epochs=1, patience=None, learning_rate=1e-12).fit(x, stage, distances, operator)
    anchors = LETAdaptor(k=3).fit(x @ operator, distances[np.ix_(stage, stage)])  # six parts of six cells: one each
    assert anchors.stress_ == pytest.approx(fitted.history_["stage"][0], rel=0.05)
    found, expected = (angles(z) for z in (fitted.transform(x), anchors.transform(x @ operator)))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


def test_the_hybrid_head_pulls_the_stage_means_to_the_ruler_and_the_stages_together():
    x, stage, distances, operator = world(n=8)
    settings = {"k": 3, "epochs": 25, "patience": None}
    plain = CellAdaptor(**settings).fit(x, stage, distances, operator).history_.iloc[-1]
    hybrid = CellAdaptor(**settings, topology=2.0).fit(x, stage, distances, operator).history_.iloc[-1]
    compact = CellAdaptor(**settings, compactness=1.0).fit(x, stage, distances, operator).history_.iloc[-1]
    assert hybrid["topology"] < plain["topology"] and compact["compactness"] < plain["compactness"]


def test_the_sweeps_are_those_of_the_paper():
    sweep = hybrid_sweep()
    assert [entry["name"] for entry in sweep[:2]] == ["hybrid, strong 0.04", "hybrid, strong 0.08"]
    assert sweep[-1]["name"] == "hybrid, conservative 0.03"
    found = [CellAdaptor(**entry["parameters"]) for entry in sweep]
    assert tuple(head.topology for head in found) == STRONG_TOPOLOGY + CONSERVATIVE_TOPOLOGY
    assert [head.compactness for head in found] == [0.015] * 4 + [0.0] * 4


# Which cells it is trained on


def test_stopping_early_returns_the_best_epoch_as_if_it_had_been_the_last():
    x, stage, distances, operator = world(n=8)
    settings = {"k": 4, "learning_rate": 0.1, "patience": 3}
    stopped = CellAdaptor(**settings, epochs=100).fit(x, stage, distances, operator)
    assert stopped.n_epochs_ == stopped.best_epoch_ + 3 < 100
    exact = CellAdaptor(**settings, epochs=stopped.best_epoch_).fit(x, stage, distances, operator)
    assert np.array_equal(exact.encoder_, stopped.encoder_)


def test_at_most_so_many_cells_of_each_stage_are_used():
    x, stage, distances, operator = world(n=12)
    fitted = CellAdaptor(k=3, epochs=2, per_stage=7).fit(x[5:], stage[5:], distances, operator)
    assert fitted.n_cells_ + fitted.n_held_out_ == 7 * STAGES
    everyone = CellAdaptor(k=3, epochs=2, per_stage=7, patience=None).fit(x[5:], stage[5:], distances, operator)
    assert everyone.n_cells_ == 7 * STAGES and everyone.n_held_out_ == 0
    assert everyone.best_epoch_ == 2 and everyone.history_["holdout"].isna().all()


def test_whole_donors_are_held_out():
    x, stage, distances, operator = world(n=12)
    donors = np.array(["a", "b", "c", "d"])[np.arange(len(x)) % 4]
    fitted = CellAdaptor(k=3, epochs=1).fit(x, stage, distances, operator, groups=donors)
    assert len(fitted.held_out_groups_) == 1 and fitted.n_held_out_ == len(x) // 4


def test_a_donor_that_has_a_stage_to_itself_is_trained_on():
    x, stage, distances, operator = world(n=12)
    donors = np.where(stage == 2, "alone", np.array(["a", "b", "c", "d"])[np.arange(len(x)) % 4])
    for seed in range(4):
        fitted = CellAdaptor(k=3, epochs=1, seed=seed).fit(x, stage, distances, operator, groups=donors)
        assert "alone" not in fitted.held_out_groups_ and fitted.held_out_groups_


def test_cells_are_held_out_where_no_donor_can_be_spared():
    x, stage, distances, operator = world(n=12)
    fitted = CellAdaptor(k=3, epochs=1).fit(x, stage, distances, operator, groups=np.array(["a", "b"])[stage % 2])
    assert fitted.held_out_groups_ == () and fitted.n_held_out_ == STAGES


def test_cells_without_a_stage_are_as_good_as_absent():
    x, stage, distances, operator = world(n=8)
    names = names_of(len(x))
    some = np.where(np.arange(len(x)) % 4 == 0, -1, stage)
    whole = CellAdaptor(k=3, epochs=4).fit(x, some, distances, operator, names=names)
    known = some >= 0
    part = CellAdaptor(k=3, epochs=4).fit(x[known], some[known], distances, operator, names=names[known])
    assert np.array_equal(whole.encoder_, part.encoder_)


def test_stages_that_do_not_occur_do_not_matter():
    x, stage, distances, operator = world(n=8)
    wide = np.full((2 * STAGES, 2 * STAGES), 0.5)
    wide[1::2, 1::2] = distances
    names = names_of(len(x))
    one = CellAdaptor(k=3, epochs=3, patience=None).fit(x, stage, distances, operator, names=names)
    two = CellAdaptor(k=3, epochs=3, patience=None).fit(x, 2 * stage + 1, wide, operator, names=names)
    assert np.array_equal(one.encoder_, two.encoder_) and two.classes_.tolist() == [1, 3, 5, 7, 9, 11]


def test_unknown_distances_are_left_out():
    x, stage, distances, operator = world(n=8)
    holes = distances.copy()
    holes[0, 5] = holes[5, 0] = -1
    fitted = CellAdaptor(k=3, epochs=3).fit(x, stage, holes, operator)
    assert np.isfinite(fitted.encoder_).all() and np.isfinite(fitted.history_.to_numpy()).all()


# Its manners


@pytest.mark.parametrize("named", [True, False])
def test_the_order_of_cells_does_not_matter(named):
    x, stage, distances, operator = world(n=9)
    names, donors = names_of(len(x)), np.array(["a", "b", "c", "d", "e"])[np.arange(len(x)) % 5]
    order = np.random.default_rng(0).permutation(len(x))
    settings = {"k": 3, "epochs": 4, "batch_size": 16, "per_stage": 8}
    fits = [
        CellAdaptor(**settings).fit(
            x[rows], stage[rows], distances, operator, groups=donors[rows], names=names[rows] if named else None
        )
        for rows in (np.arange(len(x)), order)
    ]
    assert np.array_equal(fits[0].encoder_, fits[1].encoder_) and np.array_equal(fits[0].bias_, fits[1].bias_)
    assert fits[0].held_out_groups_ == fits[1].held_out_groups_


def test_the_same_seed_gives_the_same_and_another_another():
    x, stage, distances, operator = world(n=8)
    fits = [CellAdaptor(k=3, epochs=3, batch_size=16, seed=s).fit(x, stage, distances, operator) for s in (0, 0, 1)]
    assert np.array_equal(fits[0].encoder_, fits[1].encoder_) and fits[0].history_.equals(fits[1].history_)
    assert not np.array_equal(fits[0].encoder_, fits[2].encoder_)


def test_the_operator_and_all_other_input_is_left_alone():
    x, stage, distances, operator = world(n=8)
    given = [sp.csr_matrix(x), stage, distances, operator]
    arrays = [given[0].data, given[0].indices, *given[1:]]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    CellAdaptor(k=3, epochs=2).fit(*given).transform(given[0])
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))


def test_only_the_encoder_its_bias_and_the_classifier_have_a_gradient():
    weights, space, batch, _ = problem()
    frozen = [space.basis, space.centre, space.distances, batch.expression, batch.near]
    losses.descend(
        weights, space, lambda epoch: [batch], batch, dict.fromkeys(TERMS, 1.0),
        epochs=2, learning_rate=0.1, patience=2, progress=False,
    )  # fmt: skip
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in [*frozen, *weights])
    again = problem()[1]
    assert all(torch.equal(a, b) for a, b in zip(frozen, (again.basis, again.centre, again.distances), strict=False))


def test_torch_is_left_as_it_was_even_without_gradients():
    x, stage, distances, operator = world(n=6)
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            fitted = CellAdaptor(k=3, epochs=2).fit(x, stage, distances, operator)
        assert torch.get_num_threads() == 2 and torch.equal(torch.random.get_rng_state(), state)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(fitted.encoder_, CellAdaptor(k=3, epochs=2).fit(x, stage, distances, operator).encoder_)


def test_sparse_cells_are_as_good_as_dense_ones():
    x, stage, distances, operator = world(n=8)
    x = x.astype(np.float32)
    fits = [CellAdaptor(k=3, epochs=3).fit(given, stage, distances, operator) for given in (x, sp.csr_matrix(x))]
    assert np.array_equal(fits[0].encoder_, fits[1].encoder_)
    np.testing.assert_allclose(fits[0].transform(sp.csr_matrix(x)), fits[0].transform(x), atol=1e-12)


def test_no_more_than_a_batch_of_cells_is_ever_dense(monkeypatch):
    x, stage, distances, operator = world(n=30)
    seen, toarray = [], sp.csr_matrix.toarray

    def watched(self, *args, **kwargs):
        seen.append(self.shape[0])
        return toarray(self, *args, **kwargs)

    monkeypatch.setattr(sp.csr_matrix, "toarray", watched)
    fitted = CellAdaptor(k=3, epochs=2, batch_size=40).fit(sp.csr_matrix(x), stage, distances, operator)
    assert max(seen) <= 40
    seen.clear()
    fitted.transform(sp.csr_matrix(x))
    assert not seen


def test_no_operator_is_the_identity():
    x, stage, distances, _ = world(n=8)
    one = CellAdaptor(k=3, epochs=3).fit(x, stage, distances)
    other = CellAdaptor(k=3, epochs=3).fit(x, stage, distances, np.eye(x.shape[1]))
    np.testing.assert_allclose(one.matrix_, other.matrix_, atol=1e-9)
    np.testing.assert_allclose(one.matrix_, one.encoder_.T, atol=1e-12)


def test_the_scale_of_the_operator_does_not_matter():
    x, stage, distances, operator = world(n=8)
    one, other = (CellAdaptor(k=3, epochs=5).fit(x, stage, distances, c * operator) for c in (1.0, 1024.0))
    np.testing.assert_allclose(one.transform(x), other.transform(x), rtol=1e-6, atol=1e-8)


def test_it_is_a_scikit_learn_estimator():
    x, stage, distances, operator = world(n=6)
    head = CellAdaptor(k=3, epochs=1, topology=0.04)
    z = head.fit_transform(x, stage, distances=distances, operator=operator)
    np.testing.assert_allclose(z, head.transform(x))
    copy = clone(head)
    assert copy.get_params() == head.get_params() and not hasattr(copy, "encoder_")
    with pytest.raises(NotFittedError):
        copy.transform(x)


def test_the_bar_is_shown_on_demand_only(capsys):
    x, stage, distances, operator = world(n=6)
    CellAdaptor(k=3, epochs=1).fit(x, stage, distances, operator)
    assert capsys.readouterr().err == ""
    CellAdaptor(k=3, epochs=1, progress=True).fit(x, stage, distances, operator)
    assert "cell head" in capsys.readouterr().err


# Bad input


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"stage": np.zeros(36, int)}, EvaluationError, "of 1 stage; at least two"),
        ({"stage": np.full(36, -1)}, EvaluationError, "of 0 stage; at least two"),
        ({"stage": np.arange(36) % 9}, EvaluationError, "stage 8, and there are distances between stages 0 to 5 only"),
        ({"stage": np.r_[5, np.arange(35) % 5]}, EvaluationError, "Stage 5 has a single cell"),
        ({"stage": np.zeros(35, int)}, ShapeError, r"36 cells need 36 stages; found \(35,\)"),
        ({"operator": np.ones((20, 4))}, ShapeError, "operator has 20 genes and the cells have 30"),
        ({"operator": np.full((30, 4), np.nan)}, EvaluationError, "hold NaN or infinity"),
        (
            {"operator": np.ones((30, 4))},
            EvaluationError,
            "width 3 was asked for, and the features of the 30 .* rank 1;",
        ),
        ({"operator": np.zeros((30, 4))}, EvaluationError, "rank 0"),
        (
            {"distances": np.full((6, 6), np.nan)},
            EvaluationError,
            "hold NaN or infinity; an unknown distance is negative",
        ),
        ({"distances": np.zeros((6, 5))}, ShapeError, "square matrix; found"),
        ({"distances": -np.ones((6, 6))}, EvaluationError, "No two stages that occur have a known distance"),
        ({"names": np.array(["same"] * 36)}, EvaluationError, "36 cells have 1 names; make names unique"),
        ({"groups": np.array(["a"])}, ShapeError, "36 cells need 36 groups"),
    ],
)
def test_what_does_not_fit_together_is_an_error(change, error, message):
    x, stage, distances, operator = world(n=6)
    given = {"stage": stage, "distances": distances, "operator": operator, **change}
    with pytest.raises(error, match=message):
        CellAdaptor(k=3, epochs=1).fit(x, **given)


def test_nan_is_an_error():
    x, stage, distances, operator = world(n=6)
    x[3, 4] = np.nan
    for given in (x, sp.csr_matrix(x)):
        with pytest.raises(ValueError, match="NaN"):
            CellAdaptor(k=3, epochs=1).fit(given, stage, distances, operator)


def test_too_few_cells_for_an_inner_holdout_are_an_error_and_no_trouble_without_one():
    x, stage, distances, operator = world(n=2)
    with pytest.raises(EvaluationError, match="0 of 12 cells can be held out .* or patience=None"):
        CellAdaptor(k=3, epochs=1).fit(x, stage, distances, operator)
    fitted = CellAdaptor(k=3, epochs=2, patience=None).fit(x, stage, distances, operator)
    assert np.isfinite(fitted.transform(x)).all()


def test_no_cell_is_left_alone_in_a_batch():
    x, stage, distances, operator = world(n=3)
    fitted = CellAdaptor(k=3, epochs=2, patience=None, batch_size=2).fit(x[:-1], stage[:-1], distances, operator)
    assert np.isfinite(fitted.history_.drop(columns="holdout").to_numpy()).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_descent_without_an_end_is_an_error():
    x, stage, distances, operator = world(n=6)
    for patience in (2, None):
        with pytest.raises(EvaluationError, match="no finite numbers; lower learning_rate, now 1e\\+200"):
            CellAdaptor(k=3, epochs=3, learning_rate=1e200, patience=patience).fit(x, stage, distances, operator)


def test_cells_of_another_panel_are_an_error():
    x, stage, distances, operator = world(n=6)
    fitted = CellAdaptor(k=3, epochs=1).fit(x, stage, distances, operator)
    with pytest.raises(ShapeError, match="fitted on 30 genes, and these cells have 29"):
        fitted.transform(x[:, 1:])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1; it must be at least 2"),
        ({"patience": 0}, "patience is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"local": -0.1}, "weight of the term 'local' is -0.1; it must not be below zero"),
    ],
)
def test_impossible_settings_are_an_error(setting, message):
    x, stage, distances, operator = world(n=6)
    with pytest.raises(ConfigError, match=message):
        CellAdaptor(**{"k": 3, **setting}).fit(x, stage, distances, operator)


@pytest.mark.parametrize(
    ("stage", "k", "said"),
    [
        ([0, 0, 1, 1], 2, "0 of 4 cells can be held out.*three are needed"),
        ([0] * 9, 2, "The cells are of 1 stage"),
        (
            [0] * 20 + [1] * 20 + [2],
            36,
            "A latent of width 36 cannot be learned from 36 cells, which span 35 directions",
        ),
        ([0] * 20 + [1] * 20 + [-1], 35, ""),
    ],
)
def test_too_few_cells_are_known_from_the_labels_alone(stage, k, said):
    stage, distances = np.array(stage), np.array([[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]])
    names = np.array([f"cell{i}" for i in range(len(stage))])
    with pytest.raises(EvaluationError, match=said) if said else nullcontext():
        check_enough(stage, distances, None, names, k=k, per_stage=100, patience=5, seed=0)
