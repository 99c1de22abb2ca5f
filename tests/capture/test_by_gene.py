"""Mean vectors of genes in the pass of other sinks, against the pass of their own that `gene_vectors` makes."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures_benchmark import checkpoint, synthetic_cells  # noqa: F401

from workbench.capture.by_gene import GeneMeansSink, stream_of
from workbench.capture.record import capture
from workbench.capture.sinks import HookFilter
from workbench.errors import HookError
from workbench.models import load_model
from workbench.tools.gene_vectors import ALL, gene_vectors


@pytest.fixture(scope="module")
def model(checkpoint):  # noqa: F811
    return load_model(checkpoint)


def test_means_are_those_of_a_pass_of_their_own_whatever_the_batches(model, tmp_path):
    cells = synthetic_cells()
    expected = gene_vectors(cells, model, progress=False)[ALL]
    kept = [gene for i, gene in enumerate(expected.genes) if i % 3]
    rows = [expected.genes.index(gene) for gene in kept]
    for size in (1, 7):
        names = [stream_of(layer) for layer in expected.layers]
        sinks = {name: GeneMeansSink(kept, model.vocabulary) for name in names}
        filters = [HookFilter(name, sink) for name, sink in sinks.items()]
        capture(model, cells, names, filters, batch_size=size, progress=False)
        for i, name in enumerate(names):
            n, mean = sinks[name].result()
            assert np.array_equal(n, expected.n[rows])
            np.testing.assert_allclose(mean[name], expected.vectors[i][rows], rtol=1e-4, atol=1e-6)
        again = GeneMeansSink(kept, model.vocabulary)
        again._sums = dict.fromkeys([name])
        again.restore(sinks[name].state(), len(cells))
        assert np.array_equal(again.result()[1][name], mean[name], equal_nan=True)


def test_a_map_of_pairs_is_refused(model):
    with pytest.raises(HookError, match="has no row per gene"):
        name = "blocks.0.attn.hook_pattern"
        capture(model, synthetic_cells(), name, GeneMeansSink(model.vocabulary.genes[:3], model.vocabulary))
