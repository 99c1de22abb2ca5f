"""Feature maps of operators, in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import ShapeError
from workbench.extractor.operator import drift, feature_map, single, thirds


@pytest.fixture
def operators():
    return np.random.default_rng(0).standard_normal((12, 3, 5, 5))


def test_twelve_layers_are_the_paper_s_blocks():
    assert [list(range(12))[part] for part in thirds(12)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize("n", range(3, 40))
def test_thirds_are_a_partition_into_about_equal_parts(n):
    parts = [list(range(n))[part] for part in thirds(n)]
    assert sum(parts, []) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_layers_have_no_drift(n):
    with pytest.raises(ShapeError, match=f"at least 3 layers, the model has {n}; use 'single'"):
        drift(np.zeros((n, 2, 4, 4)))


def test_drift_by_hand(operators):
    x = np.random.default_rng(1).standard_normal((2, 5))
    blocks = [
        sum(operators[i, h] for i in layers for h in range(3)) / 12 for layers in (range(4), range(4, 8), range(8, 12))
    ]
    expected = np.concatenate([x @ (blocks[0] - blocks[1]), x @ (blocks[1] - blocks[2])], axis=1)
    np.testing.assert_allclose(x @ drift(operators), expected, atol=1e-12)
    assert drift(operators).shape == (5, 10)


def test_layers_that_do_not_differ_have_no_drift():
    same = np.broadcast_to(np.arange(9.0).reshape(3, 3), (6, 2, 3, 3))
    assert (drift(same) == 0).all()


def test_a_constant_offset_of_all_layers_changes_nothing(operators):
    np.testing.assert_allclose(drift(operators + 3), drift(operators), atol=1e-12)


def test_single_is_the_operator_itself(operators):
    assert np.array_equal(single(operators, 7, 2), operators[7, 2])
    assert np.array_equal(feature_map(operators, "single", 7, 2), operators[7, 2])
    assert np.array_equal(feature_map(operators, "drift"), drift(operators))


@pytest.mark.parametrize(("layer", "head"), [(12, 0), (-1, 0), (0, 3), (0, -1)])
def test_a_head_that_does_not_exist(operators, layer, head):
    with pytest.raises(
        ShapeError, match=f"no head {head} in layer {layer}: the model has layers 0 to 11 with heads 0 to 2"
    ):
        single(operators, layer, head)
