"""Agreement of latents against what is known: a latent and itself, latents of their own noise, and a planted share."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.geometry.agreement import ANGLE, CKA, agreement_rows
from workbench.geometry.likeness import cka, principal_angle


def draws(rng, n, points=80, axes=3):
    return [rng.normal(size=(points, axes)) for _ in range(n)]


def test_a_latent_agrees_with_itself_turned_and_scaled_more_than_any_draw():
    rng = np.random.default_rng(0)
    one, other = draws(rng, 20), draws(rng, 20)
    other[0] = 3 * one[0] @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 1
    rows = agreement_rows(one, other)
    assert [(row["measure"], row["null_of"]) for row in rows] == [
        (CKA, "ruler"), (CKA, "other"), (ANGLE, "ruler"), (ANGLE, "other")]  # fmt: skip
    assert all(row["p"] == 1 / 20 and row["p_apart"] == 1 and row["n_null"] == 19 for row in rows)
    assert rows[0]["value"] == pytest.approx(1) and rows[2]["value"] == pytest.approx(0, abs=1e-4)


def test_numbers_are_those_of_the_measures_and_a_narrower_latent_counts():
    rng = np.random.default_rng(1)
    one, other = draws(rng, 5), draws(rng, 5, axes=2)
    rows = agreement_rows(one, other)
    assert rows[0]["value"] == cka(one[0], other[0]) and rows[2]["value"] == principal_angle(one[0], other[0])
    assert rows[0]["null_mean"] == pytest.approx(np.mean([cka(z, other[0]) for z in one[1:]]))
    assert rows[3]["null_mean"] == pytest.approx(np.mean([principal_angle(one[0], z) for z in other[1:]]))
    assert rows[0]["axes"] == 2 and rows[0]["n_points"] == 80


def test_under_the_null_p_is_spread_evenly_and_a_share_in_common_is_found():
    rng = np.random.default_rng(2)
    null = [agreement_rows(draws(rng, 20, 40), draws(rng, 20, 40)) for _ in range(200)]
    for i in range(4):
        p = np.array([rows[i]["p"] for rows in null])
        assert 0.02 <= (p <= 0.1).mean() <= 0.18 and abs(p.mean() - 0.525) < 0.08
    found = 0
    for _ in range(20):
        one, other = draws(rng, 20, 40), draws(rng, 20, 40)
        other[0] = other[0] + 1.5 * one[0]
        found += agreement_rows(one, other)[0]["p"] == 1 / 20
    assert found >= 19


def test_without_draws_there_is_no_p():
    rng = np.random.default_rng(3)
    rows = agreement_rows(draws(rng, 1), draws(rng, 1))
    assert all(np.isnan(row["null_mean"]) and row["n_null"] == 0 and np.isnan(row["p"]) for row in rows)
