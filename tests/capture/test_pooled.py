"""Vectors pooled over the genes of each cell, and the time of a pass over all its sessions."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from fixtures_benchmark import checkpoint, synthetic_cells  # noqa: F401

from workbench.capture.pooled import RESIDUALS, Clock, PooledSink
from workbench.capture.sinks import HookFilter
from workbench.errors import HookError
from workbench.models import load_model
from workbench.operators.capturing import Reading, read_operators


@pytest.fixture(scope="module")
def model(checkpoint):  # noqa: F811
    return load_model(checkpoint)


def read(folder, model, tokenizer, *sinks):
    more = [HookFilter(RESIDUALS, one) for one in sinks]
    return read_operators(folder, Reading(model, tokenizer, (), "attention", {}, more))


def test_vectors_are_those_of_a_plain_forward_pass(model, tmp_path):
    tokenizer, pooled = model.tokenizer(synthetic_cells()), PooledSink()
    read(tmp_path, model, tokenizer, pooled)
    found, tokens = pooled.result(), tokenizer.tokens()
    with torch.no_grad():
        cache = model.run_with_cache(tokens)[1]
    genes = tokens.genes.numpy()
    for layer in range(model.config.n_layers):
        x = cache[f"blocks.{layer}.hook_resid_post"].numpy()
        mean = np.stack([row[own].mean(0) for row, own in zip(x, genes, strict=True)])
        np.testing.assert_allclose(found[f"average {layer}"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["cls"], x[:, 0], rtol=1e-4, atol=1e-5)
    assert np.array_equal(found["average"], found[f"average {layer}"])


def test_a_hook_without_a_row_per_gene_is_refused(model, tmp_path):
    with pytest.raises(HookError, match="'hook_cell' has no row per gene"):
        tokenizer = model.tokenizer(synthetic_cells())
        read_operators(
            tmp_path, Reading(model, tokenizer, (), "attention", {}, [HookFilter("hook_cell", PooledSink())])
        )


def test_what_a_pass_took_before_an_interruption_counts(model, tmp_path, monkeypatch):
    tokenizer = model.tokenizer(synthetic_cells(per_group=14))
    flush, update = PooledSink.flush, PooledSink.update

    def slow(sink, *given):
        time.sleep(0.02)
        update(sink, *given)

    def killed(sink, n_cells):
        if n_cells == len(tokenizer):
            raise KeyboardInterrupt
        flush(sink, n_cells)

    with monkeypatch.context() as first:
        first.setattr(PooledSink, "update", slow)
        first.setattr(PooledSink, "flush", killed)
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path, model, tokenizer, PooledSink(), Clock())
    # 256 of the 280 cells were saved, in 8 batches of 3 layers.
    pooled, clock, began = PooledSink(), Clock(), time.perf_counter()
    read(tmp_path, model, tokenizer, pooled, clock)
    assert clock.seconds() >= 8 * 3 * 0.02 and clock.seconds() > time.perf_counter() - began
    assert len(pooled.result()["cls"]) == len(tokenizer)
