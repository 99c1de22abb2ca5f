"""Pseudotime that a representation tells without labels, beside the depth that is read out of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import spearmanr

from workbench.cells.placed import PlacedCells
from workbench.evidence.protocol import PSEUDOTIME, Training
from workbench.evidence.readouts import Encoder, Represented, fitted_on
from workbench.evidence.ruler import load_ruler
from workbench.operators.readout import endpoints

RULER = load_ruler("hematopoiesis")
# One way down the tree, so that time along it is defined.
WAY = [name for name in ("HSC", "MPP", "CMP", "GMP", "monocyte") if name in RULER.stages]


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    place = np.repeat(np.arange(len(WAY)), 40)
    stage = RULER.place([WAY[i] for i in place])[0]
    obs = pd.DataFrame({"stage": stage}, index=[f"c{i}" for i in range(len(stage))])
    z = np.column_stack([place + rng.normal(0, 0.3, len(place)), rng.normal(0, 0.3, (len(place), 2))])
    return PlacedCells("made", obs, ("a", "b", "c"), sp.csr_matrix(z.astype(np.float32)), RULER)


def fitted(cells, columns, **settings):
    def represent(train):
        return Encoder(lambda some: np.asarray(some.expression.todense(), dtype=float)[:, columns], 0)

    train = Training(cells, tuple(endpoints(cells.stage, RULER)), seed=0)
    return Represented(represent, **settings).fit(train)


def test_pseudotime_follows_the_way_from_the_earliest_stage_and_knows_no_other_label(cells):
    found = fitted(cells, [0, 1, 2], pseudotime=True).predict(cells).of
    depth = np.asarray(RULER.depths)[cells.stage]
    told = found[PSEUDOTIME].values[:, 0]
    assert spearmanr(told, depth).statistic > 0.9
    # All labels but the earliest change places: what is read out changes, pseudotime does not.
    late = np.flatnonzero(depth > depth.min())
    stage = cells.stage.copy()
    stage[late] = np.random.default_rng(1).permutation(stage[late])
    moved = PlacedCells("made", cells.obs.assign(stage=stage), cells.genes, cells.expression, RULER)
    again = fitted(moved, [0, 1, 2], pseudotime=True).predict(cells).of
    assert np.array_equal(again[PSEUDOTIME].values, found[PSEUDOTIME].values)
    assert not np.allclose(again["depth"].values, found["depth"].values)


def test_a_representation_of_noise_tells_none(cells):
    told = fitted(cells, [1, 2], pseudotime=True).predict(cells).of[PSEUDOTIME].values[:, 0]
    assert abs(spearmanr(told, cells.stage).statistic) < 0.3
    assert PSEUDOTIME not in fitted(cells, [0]).predict(cells).of


def test_readouts_of_a_large_side_are_fitted_on_a_sample_of_its_cells(cells, monkeypatch):
    monkeypatch.setattr("workbench.evidence.readouts.MOST_FITTED", 60)
    train = Training(cells, tuple(endpoints(cells.stage, cells.ruler)), 0)
    few = fitted_on(train)
    assert len(few.cells) == 60 and set(few.cells.names) <= set(cells.names)
    place = {name: i for i, name in enumerate(cells.names)}
    rows = np.array([place[name] for name in few.cells.names])
    for one, own in zip(train.endpoints, few.endpoints, strict=True):
        assert set(rows[own.cells]) == set(one.cells) & set(rows)
        assert np.array_equal(own.target, one.target[rows])
    monkeypatch.setattr("workbench.evidence.readouts.MOST_FITTED", len(cells))
    assert fitted_on(train) is train
