"""LET's loss by hand, its gradient, and its minimum beside that of SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad, minimize

from workbench.operators.let import loss, minimised, weights_of

BETA = 1 / np.pi


def problem(n=12, d=20, seed=0):
    """Anchors with random features and random distances."""
    rng = np.random.default_rng(seed)
    distances = rng.random((n, n))
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0)
    return rng.standard_normal((n, d)) + rng.standard_normal(d), distances


def objective(k, points, distances, alpha, weights=None, beta=BETA):
    """Loss and gradient as functions of one vector."""
    fixed = np.ascontiguousarray(points), distances, *weights_of(weights, len(points)), beta, alpha

    def value(flat):
        return float(sum(loss(flat, k, *fixed)[:2]))

    def gradient(flat):
        return loss(flat, k, *fixed)[2]

    return value, gradient


def scaled(X):
    return (X - X.mean(0)) / np.sqrt(((X - X.mean(0)) ** 2).sum() / len(X))


def axes_of(X):
    """Points on their principal axes, as an adaptor hands them over."""
    u, s, _ = np.linalg.svd(scaled(X), full_matrices=False)
    return u[:, s > 1e-9] * s[s > 1e-9]


def test_the_loss_by_hand():
    points = np.array([[1.0, 0], [0, 2], [-1, -1]])
    w, b = np.array([[1.0, 0.5], [0, 2]]), np.array([0.1, -0.2])
    distances = np.array([[0, 0.2, 0.4], [0.2, 0, 0.6], [0.4, 0.6, 0]])
    z = np.array([w @ (p - b) for p in points])
    pairs = np.triu_indices(3, 1)
    for given, of_pair, of_anchor in (
        (None, [1 / 3] * 3, [1 / 3] * 3),
        ([1.0, 2, 3], [2 / 11, 3 / 11, 6 / 11], [1 / 6, 1 / 3, 1 / 2]),
    ):
        # A direction is z by a length that is never 0: a thousandth of the root mean square is added in squares.
        length = np.sqrt((z**2).sum(1) + 1e-6 * np.dot(of_anchor, (z**2).sum(1)))
        stress = reconstruction = 0.0
        for i, j, share in zip(*pairs, of_pair, strict=True):
            angle = np.arccos(z[i] @ z[j] / length[i] / length[j])
            stress += (0.3 * angle - distances[i, j]) ** 2 * share
        for p, latent, share in zip(points, z, of_anchor, strict=True):
            reconstruction += 0.7 * ((w.T @ latent + b - p) ** 2).sum() * share
        fixed = weights_of(None if given is None else np.array(given), 3)
        found = loss(np.concatenate([w.ravel(), b]), 2, points, distances, *fixed, 0.3, 0.7)
        assert found[:2] == (pytest.approx(stress, rel=1e-12), pytest.approx(reconstruction, rel=1e-12))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 10.0])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_the_gradient(k, alpha, weighted):
    X, distances = problem(n=8, d=5)
    weights = np.random.default_rng(0).random(8) + 0.1 if weighted else None
    value, gradient = objective(k, scaled(X), distances, alpha, weights)
    at = np.random.default_rng(k).standard_normal(k * 5 + 5)
    assert check_grad(value, gradient, at) < 1e-5 * max(np.linalg.norm(gradient(at)), 1)


@pytest.mark.parametrize("short", [1e-2, 1e-3, 1e-5, 0.0])
def test_the_gradient_where_an_anchor_is_near_the_origin(short):
    X, distances = problem(n=8, d=5)
    points = scaled(X)
    value, gradient = objective(3, points, distances, 0.1)
    rng = np.random.default_rng(1)
    at = np.concatenate([rng.standard_normal(15), points[2] + short * rng.standard_normal(5)])
    assert check_grad(value, gradient, at, epsilon=1e-9) < 1e-3 * np.linalg.norm(gradient(at))


def test_a_rotation_of_the_latent_changes_no_loss():
    X, distances = problem(n=8, d=5)
    value, _ = objective(3, scaled(X), distances, 0.1)
    rng = np.random.default_rng(2)
    w, b = rng.standard_normal((3, 5)), rng.standard_normal(5)
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0] @ w
    assert value(np.concatenate([turned.ravel(), b])) == pytest.approx(value(np.concatenate([w.ravel(), b])), rel=1e-12)


SETTINGS = {"alpha": 0.1, "beta": BETA, "steps": 20_000, "tol": 1e-6}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("k", [2, 4])
def test_it_ends_at_a_minimum(k, seed):
    points, distances = axes_of(problem(14, 30, seed)[0]), problem(14, 30, seed)[1]
    found = minimised(points, distances, None, k=k, **SETTINGS)
    value, gradient = objective(k, points, distances, 0.1)
    flat, start = np.concatenate([found.w.ravel(), found.b]), np.zeros((k + 1) * points.shape[1])
    start[: k * points.shape[1]] = np.eye(k, points.shape[1]).ravel()
    assert found.stopped == "gradient" and found.gradient <= 1e-6
    assert np.linalg.norm(gradient(flat)) <= 1.01e-6 * np.linalg.norm(gradient(start))
    assert value(flat) == pytest.approx(found.stress + found.reconstruction, rel=1e-12)
    # No step of SciPy's from there, and from close by, leads lower.
    rng = np.random.default_rng(seed)
    for shift in (0.0, 1e-3):
        at = flat + shift * rng.standard_normal(len(flat))
        again = minimize(value, at, jac=gradient, method="L-BFGS-B", options={"maxiter": 20_000, "maxfun": 10**6})
        assert again.fun >= value(flat) - 1e-9


def test_the_gauge():
    """Its first k columns are symmetric without a negative eigenvalue, whatever the width."""
    X, distances = problem(14, 30)
    points = axes_of(X)
    for k in (1, 3, 13):
        w = minimised(points, distances, None, k=k, **SETTINGS).w
        np.testing.assert_allclose(w[:, :k], w[:, :k].T, atol=1e-9)
        assert np.linalg.eigvalsh(w[:, :k]).min() > -1e-9


def test_why_it_stopped():
    points, distances = axes_of(problem()[0]), problem()[1]
    few = minimised(points, distances, None, k=3, **{**SETTINGS, "steps": 7})
    assert few.stopped == "steps" and few.n_iter == 7 and few.gradient > 1e-6
    # A tolerance that no rounding allows.
    deep = minimised(points, distances, None, k=3, **{**SETTINGS, "steps": 3000, "tol": 1e-300})
    assert deep.stopped in ("rounding", "steps") and deep.gradient < 1e-6


def test_a_start_at_the_optimum_is_left_alone():
    """Two anchors opposite to each other, one ruler diameter apart, on one axis."""
    points, distances = np.array([[1.0], [-1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]])
    found = minimised(points, distances, None, k=1, **SETTINGS)
    assert found.stopped == "gradient"
    np.testing.assert_allclose(np.abs(found.w), 1, atol=1e-3)
