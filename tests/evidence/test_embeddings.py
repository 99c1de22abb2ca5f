"""One pass over the cells, with its time over all sessions."""

from __future__ import annotations

import time

import pytest
from fixtures_benchmark import synthetic_cells

from workbench.evidence.embeddings import PooledSink, read_model
from workbench.models import load_model


def test_what_a_pass_took_before_an_interruption_counts(checkpoint, tmp_path, monkeypatch):
    model = load_model(checkpoint)
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
            read_model(model, tokenizer, tmp_path)
    # 256 of the 280 cells were saved, in 8 batches of 3 layers.
    began = time.perf_counter()
    found, seconds = read_model(model, tokenizer, tmp_path)
    assert seconds >= 8 * 3 * 0.02 and seconds > time.perf_counter() - began and len(found["cls"]) == len(tokenizer)
