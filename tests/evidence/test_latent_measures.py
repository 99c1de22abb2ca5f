"""Measures of a latent against closed forms and planted latents."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.evidence.latent_measures import (
    ALL,
    AXES,
    ONE,
    PLAIN,
    RESIDUAL,
    SCORE,
    SILHOUETTE,
    SPREAD,
    THREE,
    TRUST,
    TWO_LAYERS,
    HeldOut,
    axis_correlation,
    latent_measures,
    spread,
    subtype_auroc,
)
from workbench.evidence.ruler import load_ruler
from workbench.operators.readout import Endpoint, endpoints

N = 600


def test_spread_is_the_share_that_stages_do_not_explain():
    stage = np.repeat([0, 1, 2], 40)
    points = np.array([[0.0], [5.0], [10.0]])[stage]
    assert spread(points, stage) == 0
    mixed = np.random.default_rng(0).permutation(points)
    assert spread(mixed, stage) > 0.9 and np.isnan(spread(points, np.full(len(points), -1)))
    # Cells without a stage count nowhere, and a scale changes nothing.
    away = np.concatenate([points, [[1e6]]])
    assert spread(3 * away, np.append(stage, -1)) == 0


def test_axes_that_are_one_and_axes_that_are_apart():
    x = np.random.default_rng(0).standard_normal(4000)
    y = np.random.default_rng(1).standard_normal(4000)
    assert axis_correlation(np.column_stack([x, -2 * x])) == pytest.approx(1)
    assert axis_correlation(np.column_stack([x, y])) < 0.05
    assert axis_correlation(np.column_stack([x, x, y, np.ones_like(x)])) == pytest.approx(1 / 3, abs=0.05)
    assert np.isnan(axis_correlation(x[:, None]))


def test_a_subtype_on_a_faint_axis_is_lost_by_three_and_found_by_one():
    rng = np.random.default_rng(2)
    yes = rng.integers(0, 2, N).astype(bool)
    z = rng.standard_normal((N, 6)) * [50, 40, 30, 1, 1, 1]
    z[:, 5] -= 4 * yes
    test = np.arange(N) % 3 == 0
    found = subtype_auroc(z, Endpoint("a", "binary", yes, np.arange(N)), test, 0)
    assert found[ALL] > 0.97 and found[ONE] > 0.97 and found[THREE] < 0.65 and abs(found[TWO_LAYERS]) < 0.05


def test_a_subtype_that_no_line_tells_is_told_by_two_layers():
    rng = np.random.default_rng(3)
    z = rng.uniform(-1, 1, (N, 2))
    yes = (z[:, 0] > 0) == (z[:, 1] > 0)
    found = subtype_auroc(z, Endpoint("a", "binary", yes, np.arange(N)), np.arange(N) % 3 == 0, 0)
    assert found[ALL] < 0.65 and found[TWO_LAYERS] > 0.25
    one_class = Endpoint("a", "binary", np.ones(N, bool), np.arange(N))
    assert all(np.isnan(value) for value in subtype_auroc(z, one_class, np.arange(N) % 3 == 0, 0).values())


def test_the_planted_latent_scores_above_noise_in_every_measure_and_the_score_is_the_formula():
    ruler = load_ruler("hematopoiesis")
    names = ["CD4", "CD8", "monocyte", "dendritic", "B"]
    stage = np.repeat([ruler.stages.index(name) for name in names], N // 5)
    # Classical scaling of the ruler: its own latent.
    between = ruler.distances[np.ix_(stage, stage)]
    centred = -0.5 * (between**2 - (between**2).mean(0) - (between**2).mean(1)[:, None] + (between**2).mean())
    values, vectors = np.linalg.eigh(centred)
    rng = np.random.default_rng(4)
    z = vectors[:, -4:] * np.sqrt(values[-4:]) + 0.02 * rng.standard_normal((N, 4))
    obs = pd.DataFrame(
        {"stage": stage, "donor": np.array(list("ab"))[np.arange(N) % 2]}, index=[str(i) for i in range(N)]
    )
    test = np.arange(N) % 3 == 0
    held = HeldOut(obs, test, ruler, endpoints(stage, ruler))
    rows = np.flatnonzero(test)

    def of(latent):
        return latent_measures(latent, z[rows], rows, held, min_cells=5, seed=0)

    true, noise = of(z), of(rng.standard_normal((N, 4)))
    for name in (TRUST, SILHOUETTE, RESIDUAL, f"CD4 against CD8, {ALL}", SCORE):
        assert true[name] > noise[name] + 0.2, name
    assert true[SPREAD] < noise[SPREAD] and true[PLAIN] > 0.7 and AXES in true
    aurocs = true[f"CD4 against CD8, {ALL}"] + true[f"monocyte against dendritic, {ALL}"]
    wanted = true[RESIDUAL] + 0.25 * aurocs + 0.40 * true[SILHOUETTE] - 0.20 * true[SPREAD]
    assert true[SCORE] == pytest.approx(wanted)
    lost = of(np.zeros((N, 4)))
    assert np.isnan(lost[SPREAD]) and np.isnan(lost[AXES])
