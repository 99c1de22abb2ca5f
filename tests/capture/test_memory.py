"""Sums by torch operations, as on a GPU, against compiled code; and captures that run out of memory in the middle of a pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import genes, tiny_cells, tiny_model

from workbench.capture import GenePairSink, HookFilter, MemorySink, MomentsSink, ShardSink, capture, pairs, read_shards
from workbench.capture.pooled import RESIDUALS, PooledSink
from workbench.errors import CellsError

SCORES, PATTERNS = "blocks.*.attn.hook_scores", pairs.PATTERNS


@pytest.fixture(scope="module")
def cells():
    cells = tiny_cells(13, seed=4)
    matrix = cells.X.tolil()
    for i in range(13):
        matrix[i, (i + 1) % 40 : 40 : 1 + i % 5] = 0
        matrix[i, i] = 1 + i
    cells.X = matrix.tocsr()
    return cells


@pytest.fixture(scope="module")
def groups(cells):
    return {name: i % 3 for i, name in enumerate(cells.obs_names)}


@pytest.fixture
def away(monkeypatch):
    """As if the processor were a GPU."""
    monkeypatch.setattr(pairs, "_COMPILED", frozenset())


def summed(model, cells, groups, hooks=PATTERNS, **options):
    sink = GenePairSink(genes(17)[::-1], model.vocabulary, groups)
    capture(model, cells, hooks, sink, progress=False, batch_size=4, **options)
    return sink


@pytest.mark.parametrize("hooks", [PATTERNS, SCORES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_on_a_device_are_those_of_compiled_code(cells, groups, monkeypatch, hooks, dtype):
    model = tiny_model(seed=1).to(dtype)
    for given in (groups, None):
        compiled = summed(model, cells, given, hooks)
        with monkeypatch.context() as patch:
            patch.setattr(pairs, "_COMPILED", frozenset())
            found = summed(model, cells, given, hooks)
        pairings = [(found.group(i), compiled.group(i)) for i in range(compiled.n_groups)]
        for one, other in [*pairings, (found.result(), compiled.result())]:
            assert one.sums.dtype == np.float32 and np.abs(other.sums).max() > 0
            np.testing.assert_allclose(one.sums, other.sums, rtol=1e-6, atol=1e-6)
            np.testing.assert_array_equal(one.counts, other.counts)


def test_a_state_that_was_saved_goes_on_on_either_side(cells, groups, monkeypatch, tmp_path):
    model = tiny_model(seed=1)
    tokens, whole = model.tokenizer(cells).tokens(), summed(model, cells, groups)
    for first in (frozenset({"cpu"}), frozenset()):
        sinks = []
        for compiled, batch in ((first, tokens[:6]), (frozenset({"cpu"}) ^ first, tokens[6:])):
            monkeypatch.setattr(pairs, "_COMPILED", compiled)
            sink = GenePairSink(genes(17)[::-1], model.vocabulary, groups)
            capture(model, cells[:1], PATTERNS, sink, progress=False)  # opens it
            sink.restore(sinks[0].state() if sinks else {k: v * 0 for k, v in sink.state().items()}, 0)
            with model.hooks([(PATTERNS, lambda x, hook, s=sink, b=batch: s.update(hook.name, x, b))]):
                model(batch)
            sinks.append(sink)
        np.testing.assert_allclose(sinks[1].result().sums, whole.result().sums, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(sinks[1].result().counts, whole.result().counts)


# Out of memory


def without_memory(most: int, layer: int = 1):
    """A model that has no memory for more cells than so many, which it finds out in the middle of a pass."""
    model = tiny_model(seed=1)
    mlp = model.blocks[layer].mlp
    whole = mlp.forward

    def forward(x):
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(x)

    mlp.forward = forward
    return model


def sinks_for(model, groups, folder):
    return {
        "pairs": HookFilter(PATTERNS, GenePairSink(genes(17), model.vocabulary, groups)),
        "pooled": HookFilter(RESIDUALS, PooledSink()),
        "moments": HookFilter(RESIDUALS, MomentsSink()),
        "memory": HookFilter("*", MemorySink()),
        "shards": HookFilter("blocks.*.hook_resid_post", ShardSink(folder)),
    }


def recorded(model, cells, groups, folder, **options):
    sinks = sinks_for(model, groups, folder)
    hooks = [PATTERNS, RESIDUALS, "hook_cell"]
    report = capture(model, cells, hooks, list(sinks.values()), progress=False, save_every=8, **options)
    assert report.n_cells == len(cells)
    moments = [sinks["moments"].sink.result(f"blocks.{layer}.hook_resid_post") for layer in (0, 2)]
    found = {f"moment {i} {j}": np.asarray(part) for i, parts in enumerate(moments) for j, part in enumerate(parts)}
    for name, kept in (("memory", sinks["memory"].sink.result()), ("shards", read_shards(folder))):
        assert kept.cell_ids == tuple(cells.obs_names)
        found |= {f"{name} {hook}": values for hook, values in kept.values.items()}
        found |= {f"{name} lengths": kept.indptr, f"{name} genes": kept.gene_ids}
    sums = sinks["pairs"].sink.result()
    return found | sinks["pooled"].sink.result() | {"sums": sums.sums, "counts": sums.counts}


@pytest.mark.parametrize("most", [3, 1])
@pytest.mark.parametrize("way", ["compiled", "away"])
def test_a_capture_without_memory_goes_on_in_smaller_batches_to_the_same_result(
    cells, groups, tmp_path, capsys, request, most, way
):
    if way == "away":
        request.getfixturevalue("away")
    wanted = recorded(tiny_model(seed=1), cells, groups, tmp_path / "whole", batch_size=7)
    found = recorded(without_memory(most), cells, groups, tmp_path / "halved", batch_size=7)
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    said = [line for line in capsys.readouterr().err.splitlines() if "[memory]" in line]
    assert said == ["[memory] no room for 7 cells at a time; going on with 3"] + (
        ["[memory] no room for 3 cells at a time; going on with 1"] if most == 1 else []
    )


def test_a_sink_without_memory_is_given_less_at_a_time(cells, monkeypatch):
    model = tiny_model(seed=1)

    class Narrow(PooledSink):
        def update(self, hook, activation, tokens):
            if hook == "blocks.1.hook_resid_post" and len(tokens) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            super().update(hook, activation, tokens)

    narrow, plain = Narrow(), PooledSink()
    capture(model, cells, RESIDUALS, [plain, narrow], progress=False, batch_size=5)
    for name, values in plain.result().items():
        np.testing.assert_allclose(narrow.result()[name], values, rtol=1e-5, atol=1e-6)


def test_no_memory_for_one_cell_is_a_sentence(cells):
    with pytest.raises(CellsError, match=r"too little memory on the device for one cell.*Lower max_tokens"):
        capture(without_memory(0), cells, RESIDUALS, PooledSink(), progress=False)
