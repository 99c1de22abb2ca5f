"""Feature maps of operators, in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import ShapeError
from workbench.operators.operator import DenseOperators, FeatureMapSpec, feature_map, head_name, screen_weights, thirds


@pytest.fixture
def operators():
    return DenseOperators(np.random.default_rng(0).standard_normal((12, 3, 5, 5)))


def drift(array, blocks=()):
    return feature_map(DenseOperators(array), FeatureMapSpec("drift", blocks=blocks))


def test_twelve_layers_are_the_paper_s_blocks():
    assert thirds(12) == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


@pytest.mark.parametrize("n", range(3, 40))
def test_thirds_are_a_partition_into_about_equal_parts(n):
    parts = thirds(n)
    assert sum(parts, ()) == tuple(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("n", [1, 2])
def test_fewer_layers_have_no_drift(n):
    with pytest.raises(ShapeError, match=f"at least 3 layers, the model has {n}; use 'single'"):
        drift(np.zeros((n, 2, 4, 4)))


def test_drift_by_hand(operators):
    x = np.random.default_rng(1).standard_normal((2, 5))
    blocks = [
        sum(operators.head(i, h) for i in layers for h in range(3)) / 12
        for layers in (range(4), range(4, 8), range(8, 12))
    ]
    expected = np.concatenate([x @ (blocks[0] - blocks[1]), x @ (blocks[1] - blocks[2])], axis=1)
    found = feature_map(operators, FeatureMapSpec())
    np.testing.assert_allclose(x @ found, expected, atol=1e-12)
    assert found.shape == (5, 10)


def test_blocks_of_one_s_own(operators):
    found = drift(operators.array, ((0,), (5, 6), (11,), (1, 2)))
    means = [operators.array[list(block)].mean((0, 1)) for block in ((0,), (5, 6), (11,), (1, 2))]
    expected = [means[0] - means[1], means[1] - means[2], means[2] - means[3]]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-12)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        (((0, 1), (12,)), "layer 12 of a model with layers 0 to 11"),
        (((0, 1),), r"\[\[0, 1\]\]"),
        (((0,), ()), r"\[\[0\], \[\]\]"),
    ],
)
def test_blocks_that_cannot_be(operators, blocks, said):
    with pytest.raises(ShapeError, match=f"two or more blocks of layers that exist; found {said}"):
        drift(operators.array, blocks)


def test_layers_that_do_not_differ_have_no_drift():
    same = np.broadcast_to(np.arange(9.0).reshape(3, 3), (6, 2, 3, 3))
    assert (drift(same) == 0).all()


def test_a_constant_offset_of_all_layers_changes_nothing(operators):
    np.testing.assert_allclose(drift(operators.array + 3), drift(operators.array), atol=1e-12)


def test_single_is_the_operator_itself(operators):
    spec = FeatureMapSpec("single", (7, 2))
    assert np.array_equal(feature_map(operators, spec), operators.array[7, 2]) and spec.name == "L7H2" == head_name(
        7, 2
    )


def test_topk_is_the_weighted_sum(operators):
    spec = FeatureMapSpec("topk", weights={(7, 2): 0.75, (0, 0): 0.25, (3, 1): 0.0})
    expected = 0.75 * operators.array[7, 2] + 0.25 * operators.array[0, 0]
    np.testing.assert_allclose(feature_map(operators, spec), expected, atol=1e-12)
    before = operators.array.copy()
    feature_map(operators, spec)
    assert np.array_equal(operators.array, before), "the operators themselves stay as they are"


@pytest.mark.parametrize("weights", [None, {}, {(0, 0): 0.0}])
def test_topk_without_a_weight(operators, weights):
    with pytest.raises(ShapeError, match="needs a head with a weight other than 0; found none"):
        feature_map(operators, FeatureMapSpec("topk", weights=weights))


def test_weights_of_a_screen_are_its_best_scores_and_sum_to_one():
    scores = {(0, 0): 0.1, (0, 1): 0.6, (1, 0): -0.9, (1, 1): 0.2, (2, 0): float("nan"), (2, 1): 0.2}
    assert screen_weights(scores, 2) == pytest.approx({(0, 1): 0.75, (1, 1): 0.25}), "of equal scores the first counts"
    assert sum(screen_weights(scores, 10).values()) == pytest.approx(1) and len(screen_weights(scores, 10)) == 4
    with pytest.raises(ShapeError, match="No head of the screen has a score above 0"):
        screen_weights({(0, 0): -0.1}, 3)


@pytest.mark.parametrize(("layer", "head"), [(12, 0), (-1, 0), (0, 3), (0, -1)])
def test_a_head_that_does_not_exist(operators, layer, head):
    with pytest.raises(
        ShapeError, match=f"no head {head} in layer {layer}: the model has layers 0 to 11 with heads 0 to 2"
    ):
        feature_map(operators, FeatureMapSpec("single", (layer, head)))
