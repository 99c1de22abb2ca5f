"""LET: planted configurations, the full problem beside the reduced one, and one result whatever the rounding."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from operators.test_let import objective, scaled
from workbench.errors import EvaluationError, ShapeError
from workbench.operators import adaptor
from workbench.operators.adaptor import LETAdaptor, angles
from workbench.operators.algorithm import fold

BETA = 1 / np.pi


def problem(n=12, d=20, seed=0):
    """Anchors with random features and random distances."""
    rng = np.random.default_rng(seed)
    distances = rng.random((n, n))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return rng.standard_normal((n, d)) + rng.standard_normal(d), distances


def test_where_one_decomposition_does_not_converge_another_gives_the_same_fit(monkeypatch):
    X, distances = problem(n=12, d=40)
    plain = LETAdaptor(k=3).fit(X, distances)

    def fails(*_, **__):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(adaptor.np.linalg, "svd", fails)
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.svd(X)
    u, s, vt = adaptor._svd(X)
    np.testing.assert_allclose(u * s @ vt, X, atol=1e-12)
    monkeypatch.undo()
    monkeypatch.setattr(adaptor, "_svd", lambda x: scipy.linalg.svd(x, full_matrices=False, lapack_driver="gesvd"))
    np.testing.assert_allclose(LETAdaptor(k=3).fit(X, distances).transform(X), plain.transform(X), atol=1e-4)


def test_only_the_ratios_of_weights_count_and_a_light_anchor_hardly_counts():
    X, distances = problem(n=12, d=6)
    plain = LETAdaptor(k=3).fit(X, distances)
    np.testing.assert_allclose(LETAdaptor(k=3).fit(X, distances, np.full(12, 7.0)).encoder_, plain.encoder_, atol=1e-5)
    light = np.where(np.arange(12) == 5, 1e-9, 1.0)
    others = np.arange(12) != 5
    spoiled = distances.copy()
    spoiled[5], spoiled[:, 5] = 0.9, 0.9
    one, other = (LETAdaptor(k=3, steps=2000).fit(X, d, light) for d in (distances, spoiled))
    assert one.stress_ == pytest.approx(other.stress_, abs=1e-4)
    np.testing.assert_allclose(angles(one.transform(X[others])), angles(other.transform(X[others])), atol=0.05)


@pytest.mark.parametrize("weights", [np.zeros(12), np.full(12, np.nan), -np.ones(12)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(EvaluationError, match="12 anchors need 12 weights above zero"):
        LETAdaptor(k=2).fit(*problem(n=12, d=6), weights)


# What it finds


def planted(n=25, d=15, noise=0.0, seed=1, orthonormal=True):
    """Points of a sphere off the origin of feature space, and their angles as distances."""
    rng = np.random.default_rng(seed)
    unit = rng.standard_normal((n, 3)) + [0.5, 0, 0]
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    axes = np.linalg.qr(rng.standard_normal((d, 3)))[0].T if orthonormal else rng.standard_normal((3, d))
    X = unit @ axes + rng.standard_normal(d) + noise * rng.standard_normal((n, d))
    return X, BETA * np.arccos(np.clip(unit @ unit.T, -1, 1))


def test_a_planted_sphere_is_found():
    X, distances = planted()
    fitted = LETAdaptor(k=3, alpha=1e-4, steps=500).fit(X, distances)
    assert fitted.stress_ < 1e-5
    np.testing.assert_allclose(BETA * angles(fitted.transform(X)), distances, atol=0.02)


def test_a_planted_sphere_whose_features_are_stretched_is_found():
    X, distances = planted(orthonormal=False)
    fitted = LETAdaptor(k=3, alpha=0.0, steps=1000).fit(X, distances)
    assert fitted.stress_ < 1e-4


def test_the_sphere_holds_for_points_that_were_left_out():
    X, distances = planted(n=60, noise=0.01)
    fitted = LETAdaptor(k=3, alpha=0.01, steps=500).fit(X[:40], distances[:40, :40])
    found = BETA * angles(fitted.transform(X))[40:, 40:]
    upper = np.triu_indices(20, 1)
    assert np.corrcoef(found[upper], distances[40:, 40:][upper])[0, 1] > 0.98


def test_reconstruction_alone_is_the_principal_axes():
    X, _ = problem(n=15, d=8)
    fitted = LETAdaptor(k=3, alpha=1e6, steps=2000).fit(X, np.zeros((15, 15)))
    singular = np.linalg.svd(X - X.mean(0), compute_uv=False)
    assert fitted.reconstruction_ == pytest.approx(1e6 * (singular[3:] ** 2).sum() / (singular**2).sum(), rel=1e-3)


def test_both_terms_are_those_of_the_encoder_it_returns():
    X, distances = problem()
    fitted = LETAdaptor(k=4, alpha=0.3).fit(X, distances)
    z = fitted.transform(X)
    np.testing.assert_allclose(z, (X - fitted.bias_) @ fitted.encoder_.T)
    upper = np.triu_indices(len(X), 1)
    # The fit's angles are those of lengths with a floor of a thousandth.
    assert fitted.stress_ == pytest.approx(((BETA * angles(z) - distances)[upper] ** 2).mean(), rel=1e-4)
    # The encoder is W / scale, so that W^T z = encoder^T z x scale^2 in units of the features.
    rebuilt = z @ fitted.encoder_ * fitted.scale_**2 + fitted.bias_
    variance = ((X - X.mean(0)) ** 2).sum(1).mean()
    assert fitted.scale_**2 == pytest.approx(variance)
    assert fitted.reconstruction_ == pytest.approx(0.3 * ((rebuilt - X) ** 2).sum(1).mean() / variance)


@pytest.mark.parametrize("make", [problem, lambda n, d: planted(n, d, noise=0.1)], ids=["random", "planted"])
def test_the_solution_in_few_coordinates_solves_the_full_problem(make):
    X, distances = make(12, 40)
    k, alpha = 4, 0.1
    fitted = LETAdaptor(k=k, alpha=alpha, steps=5000).fit(X, distances)
    value, gradient = objective(k, scaled(X), distances, alpha)
    ours = np.concatenate([(fitted.encoder_ * fitted.scale_).ravel(), (fitted.bias_ - X.mean(0)) / fitted.scale_])
    assert value(ours) == pytest.approx(fitted.stress_ + fitted.reconstruction_)
    # No direction outside the anchors' hull lowers the loss.
    outside = np.linalg.svd(X - X.mean(0))[2][11:]
    slope = gradient(ours).reshape(k + 1, 40)
    assert np.abs(slope @ outside.T).max() < 1e-8 * max(1, np.abs(slope).max())
    start = np.concatenate([np.linalg.svd(scaled(X), full_matrices=False)[2][:k].ravel(), np.zeros(40)])
    options = {"maxiter": 5000, "maxcor": 20}
    for seed in (None, 0, 1, 2):
        at = start if seed is None else np.random.default_rng(seed).standard_normal(len(start)) * np.abs(start).mean()
        full = minimize(value, at, jac=gradient, method="L-BFGS-B", options=options)
        # Random distances leave many minima about as deep.
        assert value(ours) <= full.fun * 1.1 + 1e-9
    if make is not problem:
        assert np.linalg.norm(slope) < 1e-3 * np.linalg.norm(gradient(start))


def test_nothing_outside_the_anchors_hull_is_used():
    X, distances = problem(n=6, d=30)
    fitted = LETAdaptor(k=10).fit(X, distances)
    assert fitted.encoder_.shape == (10, 30)
    outside = np.linalg.svd(X - X.mean(0))[2][5:]
    np.testing.assert_allclose(fitted.encoder_ @ outside.T, 0, atol=1e-10)


# Its manners


def test_it_is_deterministic():
    X, distances = problem()
    first, second = (LETAdaptor(k=3).fit(X.copy(), distances.copy()) for _ in range(2))
    assert np.array_equal(first.encoder_, second.encoder_) and np.array_equal(first.bias_, second.bias_)
    np.random.seed(5)
    assert np.array_equal(LETAdaptor(k=3).fit(X, distances).encoder_, first.encoder_)


def blood_like(seed, n=34, d=60):
    """Anchors of a few groups whose features' variances fall as those of an operator do, on a ruler of six stages."""
    rng = np.random.default_rng(seed)
    stage = np.arange(n) % 6
    X = (rng.standard_normal((6, d))[stage] + 0.5 * rng.standard_normal((n, d))) * 0.8 ** np.arange(d)
    return X, np.abs(np.subtract.outer(stage, stage)) / 5


@pytest.mark.parametrize("seed", range(4))
def test_rounding_of_the_features_changes_the_latent_as_little(seed):
    """The last digits of float32, as another batch size or order of the cells leaves them, stay last digits."""
    X, distances = blood_like(seed)
    near = X * (1 + 1e-7 * np.random.default_rng(seed + 9).standard_normal(X.shape))
    first, second = (LETAdaptor(k=6).fit(x, distances) for x in (X, near))
    z = first.transform(X)
    assert first.stopped_ == second.stopped_ == "gradient"
    np.testing.assert_allclose(second.transform(near), z, atol=3e-5 * np.abs(z).max())
    np.testing.assert_allclose(angles(second.transform(near)), angles(z), atol=3e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_features_of_few_axes_are_fitted_on_these_and_not_on_their_rounding(seed):
    """As a head of low rank gives them: what single precision adds is no axis that a fit could stretch."""
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 60))
    stage = rng.integers(0, 5, 40)
    distances = np.abs(np.subtract.outer(stage, stage)) / 4
    fits = [LETAdaptor(k=10).fit(x, distances) for x in (exact, exact.astype(np.float32))]
    assert all(one.stopped_ == "gradient" and one.n_iter_ < 200 for one in fits)
    one, other = (angles(fitted.transform(exact)) for fitted in fits)
    np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.linalg.matrix_rank(fits[1].encoder_, tol=1e-6) == 3


def test_the_order_of_the_anchors_does_not_matter():
    X, distances = blood_like(0)
    order = np.random.default_rng(0).permutation(len(X))
    first = LETAdaptor(k=6).fit(X, distances)
    second = LETAdaptor(k=6).fit(X[order], distances[np.ix_(order, order)])
    np.testing.assert_allclose(second.transform(X), first.transform(X), atol=3e-5)


@pytest.mark.parametrize("factor", [1e-6, 1000.0])
def test_the_scale_of_the_features_does_not_matter(factor):
    X, distances = blood_like(1)
    first = LETAdaptor(k=3).fit(X, distances)
    second = LETAdaptor(k=3).fit(factor * X, distances)
    assert second.stress_ == pytest.approx(first.stress_, rel=1e-9)
    assert second.reconstruction_ == pytest.approx(first.reconstruction_, rel=1e-9)
    np.testing.assert_allclose(second.transform(factor * X), first.transform(X), atol=3e-5)


def test_an_offset_of_the_features_does_not_matter():
    X, distances = blood_like(1)
    first = LETAdaptor(k=3).fit(X, distances)
    second = LETAdaptor(k=3).fit(X + 10, distances)
    np.testing.assert_allclose(second.transform(X + 10), first.transform(X), atol=3e-5)


def test_a_rotation_of_the_features_does_not_matter():
    # So nothing that is read from the latent tests what an operator writes, only A A^T.
    x, distances = blood_like(1)
    rng = np.random.default_rng(0)
    operator = rng.standard_normal((x.shape[1], 20))
    turned = operator @ np.linalg.qr(rng.standard_normal((20, 20)))[0]
    first, second = (LETAdaptor(k=3).fit(x @ matrix, distances) for matrix in (operator, turned))
    assert second.stress_ == pytest.approx(first.stress_, rel=1e-7)
    np.testing.assert_allclose(angles(second.transform(x @ turned)), angles(first.transform(x @ operator)), atol=1e-4)


def test_its_input_is_left_alone():
    X, distances = problem()
    before = X.copy(), distances.copy()
    LETAdaptor(k=3).fit(X, distances).transform(X)
    assert np.array_equal(X, before[0]) and np.array_equal(distances, before[1])


@pytest.mark.parametrize("k", [1, 2, 11, 30])
def test_any_width_works(k):
    X, distances = problem()
    z = LETAdaptor(k=k).fit(X, distances).transform(X)
    assert z.shape == (12, k) and np.isfinite(z).all()


def test_anchors_that_coincide_are_no_trouble():
    X, distances = problem()
    X[1], distances[1] = X[0], distances[0]
    distances[:, 1] = distances[:, 0]
    distances[0, 1] = distances[1, 0] = 0
    fitted = LETAdaptor(k=3).fit(X, distances)
    assert np.isfinite(fitted.encoder_).all() and np.isfinite(fitted.stress_)


def test_features_that_do_not_differ_are_an_error():
    with pytest.raises(EvaluationError, match="features do not differ: the operator maps all of them to one point"):
        LETAdaptor().fit(np.ones((5, 3)), np.zeros((5, 5)))


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("shape", [(4, 4), (5, 4), (6, 6)])
def test_distances_of_another_shape_are_an_error(shape):
    with pytest.raises(ShapeError, match=rf"5 anchors need 5 x 5 distances; found \({shape[0]}, {shape[1]}\)"):
        LETAdaptor().fit(np.eye(5), np.zeros(shape))


def test_nan_is_an_error():
    X, distances = problem()
    X[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        LETAdaptor().fit(X, distances)


def test_it_is_a_scikit_learn_estimator():
    adaptor = LETAdaptor(k=4, alpha=0.2, beta=0.5, steps=7, tol=1e-4)
    assert adaptor.get_params() == {"k": 4, "alpha": 0.2, "beta": 0.5, "steps": 7, "tol": 1e-4}
    X, distances = problem()
    with pytest.warns(ConvergenceWarning, match="LET stopped before its optimum"):
        adaptor.fit(X, distances)
    copy = clone(adaptor)
    assert copy.get_params() == adaptor.get_params() and not hasattr(copy, "encoder_")
    assert copy.set_params(k=2).k == 2 and adaptor.k == 4
    assert adaptor.n_iter_ <= 7 and adaptor.n_features_in_ == 20
    with pytest.raises(NotFittedError):
        copy.transform(X)


def test_angles_by_hand():
    z = np.array([[1.0, 0], [2, 2], [-3, 0], [0, 0]])
    found = angles(z)
    np.testing.assert_allclose(
        found[:3, :3], np.pi * np.array([[0, 0.25, 1], [0.25, 0, 0.75], [1, 0.75, 0]]), atol=1e-7
    )
    assert np.isfinite(found).all()


def test_folding_loses_nothing():
    rng = np.random.default_rng(0)
    x, feature_map = rng.random((30, 18)), rng.standard_normal((18, 36))
    _, distances = problem()
    fitted = LETAdaptor(k=5).fit(x[:12] @ feature_map, distances)
    matrix, offset = fold(feature_map, fitted.encoder_, fitted.bias_)
    z = fitted.transform(x @ feature_map)
    assert matrix.shape == (18, 5) and offset.shape == (5,)
    assert np.abs(x @ matrix + offset - z).max() <= 1e-5 * np.abs(z).max()
    matrix, offset = fold(feature_map.astype(np.float32), fitted.encoder_, fitted.bias_)
    assert matrix.dtype == np.float64 and np.abs(x @ matrix + offset - z).max() <= 1e-5 * np.abs(z).max()
