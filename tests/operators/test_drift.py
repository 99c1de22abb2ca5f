"""Likeness of layers and the genes that change, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.operators.drift import READ, WRITE, drift_genes, layer_likeness
from workbench.operators.operator import DenseOperators


def test_likeness_is_the_cosine_without_what_all_rows_share():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 5))
    shared = rng.standard_normal(5)
    operators = DenseOperators(np.stack([[a, a], [2 * a + shared, 2 * a - shared], [b + 9 * shared, b]]))
    table = layer_likeness(operators).set_index(["first", "second"])["cosine"]
    assert table[0, 1] == pytest.approx(1) and table[2, 2] == pytest.approx(1)
    x, y = a - a.mean(0), b - b.mean(0)
    assert table[0, 2] == pytest.approx((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())) == table[2, 0]


def test_a_planted_change_is_in_its_row_and_column():
    operators = np.zeros((3, 1, 6, 6))
    operators[1, 0, 2, 4] = 5.0
    table = drift_genes(DenseOperators(operators), list("ABCDEF"), top=6)
    assert set(table["step"]) == {"block 1 - block 2", "block 2 - block 3"}
    assert np.allclose(table.groupby(["step", "side"])["share"].sum(), 1)
    first = table[table["rank"] == 1].set_index(["step", "side"])["gene"]
    assert (first.xs(READ, level=1) == "C").all() and (first.xs(WRITE, level=1) == "E").all()


def test_layers_without_anything_of_their_own_have_no_likeness():
    operators = DenseOperators(np.ones((3, 1, 4, 4)))
    assert layer_likeness(operators)["cosine"].isna().all()
    assert (drift_genes(operators, list("ABCD"))["share"] == 0).all()
