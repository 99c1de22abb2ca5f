"""Operators on the disk beside the same sums in memory."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import genes, tiny_cells, tiny_model

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.errors import ArtifactError, EvaluationError, ShapeError
from workbench.operators.operator import DenseOperators, FeatureMapSpec, feature_map
from workbench.operators.store import StoredOperators, write_pairs, write_weights
from workbench.operators.weight_operators import weight_operators

PANEL = tuple(genes()[:12])


@pytest.fixture(scope="module")
def sink():
    model, cells = tiny_model(), tiny_cells(18)
    groups = {name: i % 3 for i, name in enumerate(cells.obs_names)}
    sink = GenePairSink(PANEL, model.vocabulary, groups)
    capture(model, model.tokenizer(cells, seed=0), [PATTERNS], [sink], progress=False)
    return sink


@pytest.fixture
def stored(sink, tmp_path):
    write_pairs(tmp_path, sink)
    return StoredOperators(tmp_path)


@pytest.mark.parametrize("without", [None, 0, 2])
def test_every_head_is_the_mean_over_the_groups_that_are_kept(stored, sink, without):
    expected = sink.result(without).mean()
    kept = stored.leaving([] if without is None else [without])
    assert kept.shape == expected.shape[:2] == (3, 4) and kept.genes == PANEL and kept.kind == "attention"
    for layer, head in np.ndindex(*kept.shape):
        np.testing.assert_allclose(kept.head(layer, head), expected[layer, head], atol=1e-6)
    np.testing.assert_allclose(kept.mean([0, 2]), expected[[0, 2]].mean((0, 1)), atol=1e-6)
    assert np.array_equal(kept.counts, sink.result(without).counts)


def test_several_groups_are_left_out_together(stored, sink):
    only = sink.group(1)
    np.testing.assert_allclose(stored.leaving([0, 2]).head(1, 3), only.mean()[1, 3], atol=1e-6)


def test_feature_maps_are_those_of_the_operators_in_memory(stored, sink):
    dense = DenseOperators(sink.result().mean())
    for spec in (
        FeatureMapSpec(),
        FeatureMapSpec("single", (2, 1)),
        FeatureMapSpec("topk", weights={(0, 1): 0.4, (2, 2): 0.6}),
    ):
        np.testing.assert_allclose(feature_map(stored, spec), feature_map(dense, spec), atol=1e-6)


@pytest.mark.parametrize("kind", ["qk", "ov"])
def test_operators_of_the_checkpoint_have_no_groups(kind, tmp_path):
    operators = weight_operators(tiny_model(), PANEL, kind)
    write_weights(tmp_path, operators)
    stored = StoredOperators(tmp_path)
    for kept in (stored, stored.leaving([0, 1, 2])):
        np.testing.assert_allclose(kept.head(1, 2), operators.matrix(1, 2), atol=1e-6)
        np.testing.assert_allclose(kept.mean([0, 1]), operators.dense()[:2].mean((0, 1)), atol=1e-5)
        assert kept.kind == kind and (kept.counts == 1).all()


def test_what_cannot_be(stored):
    with pytest.raises(ShapeError, match="no head 4 in layer 0"):
        stored.head(0, 4)
    with pytest.raises(EvaluationError, match="All 3 groups of cells are left out"):
        stored.leaving([0, 1, 2]).head(0, 0)


def test_a_truncated_file_is_said(stored):
    path = stored.folder / "operators-1.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="truncated"):
        stored.head(0, 0)
