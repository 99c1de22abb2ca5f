"""Representations of the benchmark: ranks against the same recipe in other words, and what they must not depend on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.pipeline import make_pipeline

from workbench.cells.placed import PlacedCells
from workbench.evidence import representations
from workbench.evidence.protocol import Training
from workbench.evidence.representations import ranked
from workbench.evidence.ruler import load_ruler

RULER = load_ruler("hematopoiesis")


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    values = rng.poisson(2.0, (90, 30)) * rng.random((90, 30))
    values[:30, :5] += 3
    values[:, 7] = 0
    stage = RULER.place([("HSC", "CMP", "GMP")[i // 30] for i in range(90)])[0]
    obs = pd.DataFrame({"stage": stage}, index=[f"c{i}" for i in range(90)])
    return PlacedCells("planted", obs, tuple(f"G{i}" for i in range(30)), sp.csr_matrix(values), RULER)


def training(cells):
    return Training(cells, (), 0)


def likeness(one, other):
    """Products of centred cells, which no turn of the components changes."""
    one, other = (values - values.mean(0) for values in (one, other))
    return one @ one.T, other @ other.T


@pytest.mark.parametrize("n_genes", [12, 1000])
def test_ranks_are_the_recipe_in_other_words(cells, monkeypatch, n_genes):
    monkeypatch.setattr(representations, "RANK_GENES", n_genes)
    ranks = pd.DataFrame(cells.expression.todense()).rank(axis=1).to_numpy() / 30
    varying = ranks[:, np.ptp(ranks, axis=0) > 0]
    choose = make_pipeline(SelectKBest(f_classif, k=min(n_genes, varying.shape[1])))
    expected = choose.fit_transform(varying, cells.stage)
    np.testing.assert_allclose(*likeness(ranked(training(cells)).encode(cells), expected), atol=1e-9)


def test_ranks_do_not_depend_on_the_scale_of_values(cells):
    counts = replace(cells, expression=cells.expression.expm1())
    one, other = (ranked(training(each)).encode(each) for each in (cells, counts))
    np.testing.assert_allclose(*likeness(one, other), atol=1e-9)


def test_ranks_of_a_cell_do_not_depend_on_the_others_that_are_asked(cells):
    encoder = ranked(training(cells))
    alone = replace(cells, obs=cells.obs.iloc[3:4], expression=cells.expression[3:4])
    np.testing.assert_allclose(encoder.encode(alone)[0], encoder.encode(cells)[3], atol=1e-12)
