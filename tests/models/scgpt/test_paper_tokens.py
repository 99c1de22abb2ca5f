"""Tokens of the convention ``paper`` against an oracle of a few lines, and what refuses them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import genes, tiny_cells, tiny_model

from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.pooled import RESIDUALS, PooledSink
from workbench.capture.ragged import MemorySink
from workbench.capture.record import capture
from workbench.errors import CellsError, CheckpointError, GeneMatchError, HookError, ShapeError

PANEL = [genes()[i] for i in (9, 2, 5, 7, 1, 4)]


def oracle(cells, panel, vocabulary):
    """By cell: genes and values, highest first, ties in the order of the panel."""
    counts = cells.X.toarray()
    x = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    columns = [list(cells.var_names).index(gene) for gene in panel]
    found = []
    for row in x[:, columns]:
        pairs = sorted(((-value, i) for i, value in enumerate(row) if value > 0))
        found.append([(vocabulary.ids[panel[i]], -value) for value, i in pairs])
    return found


@pytest.mark.parametrize("most", [30, 3])
def test_tokens_are_those_of_the_oracle(most):
    model, cells = tiny_model(), tiny_cells(17)
    tokenizer = model.tokenizer(cells, panel=PANEL, max_tokens=most)
    tokens = tokenizer.tokens()
    wanted = [row[:most] for row in oracle(cells, PANEL, model.vocabulary)]
    assert tokenizer.lengths().tolist() == [len(row) for row in wanted]
    for row, own in enumerate(wanted):
        n = len(own)
        assert tokens.gene_ids[row, :n].tolist() == [gene for gene, _ in own]
        np.testing.assert_allclose(tokens.values[row, :n], [value for _, value in own], rtol=1e-5)
        assert (tokens.gene_ids[row, n:] == model.vocabulary.pad_id).all() and (tokens.values[row, n:] == 0).all()
        assert tokens.padding[row].tolist() == [False] * n + [True] * (tokens.padding.shape[1] - n)
    assert not tokens.has_cls and (tokens.genes == ~tokens.padding).all()
    parts = [tokens[2:9], tokens.take([4, 1]), tokens.to("cpu"), next(iter(tokenizer.batches(5)))]
    assert not any(part.has_cls for part in parts)


def test_sums_of_attention_are_those_of_a_loop_over_cells():
    model, cells = tiny_model(), tiny_cells(11)
    sink = GenePairSink(PANEL, model.vocabulary, precision="float64")
    capture(model, model.tokenizer(cells, panel=PANEL), PATTERNS, sink, progress=False, batch_size=4)
    place = {model.vocabulary.ids[gene]: i for i, gene in enumerate(PANEL)}
    wanted, counts = np.zeros((3, 4, len(PANEL), len(PANEL))), np.zeros((len(PANEL), len(PANEL)))
    for own in oracle(cells, PANEL, model.vocabulary):
        ids, values = torch.tensor([[g for g, _ in own]]), torch.tensor([[v for _, v in own]], dtype=torch.float32)
        from workbench.models.tokens import Tokens

        one = Tokens(ids, values, torch.zeros_like(ids, dtype=torch.bool), without_cls=True)
        _, cache = model.run_with_cache(one, outputs=())
        at = [place[int(gene)] for gene in ids[0]]
        counts[np.ix_(at, at)] += 1
        for layer in range(3):
            for head in range(4):
                wanted[layer, head][np.ix_(at, at)] += cache["pattern", layer][0, head].numpy()
    found = sink.result()
    assert found.sums.dtype == np.float64 and (found.counts == counts).all()
    np.testing.assert_allclose(found.sums, wanted, atol=1e-5)


def test_nothing_is_drawn_but_the_convention_is_in_the_fingerprint():
    model, cells = tiny_model(), tiny_cells(6)
    own, other, short = (model.tokenizer(cells, panel=p) for p in (None, PANEL, PANEL[:4]))
    assert len({one.fingerprint() for one in (own, other, short)}) == 3
    a, b = (model.tokenizer(cells, panel=PANEL, seed=seed).tokens() for seed in (0, 1))
    assert torch.equal(a.gene_ids, b.gene_ids) and torch.equal(a.values, b.values)


def test_no_embedding_of_a_cell_is_read_of_it():
    model, tokens = tiny_model(), tiny_model().tokenizer(tiny_cells(4), panel=PANEL)
    with pytest.raises(ShapeError, match="for operators only"):
        model(tokens.tokens())
    with pytest.raises(ShapeError, match="for operators only"):
        capture(model, tokens, "hook_cell", MemorySink(), progress=False)
    capture(model, tokens, RESIDUALS, sink := PooledSink(), progress=False)
    with pytest.raises(HookError, match="no <cls>"):
        sink.result()


def test_what_cannot_be_fed_is_refused():
    cells = tiny_cells(5)
    with pytest.raises(CheckpointError, match="'category'"):
        tiny_model(value_style="category", n_value_bins=51).tokenizer(cells, panel=PANEL)
    for panel in ([*PANEL, "NOGENE"], [*PANEL, PANEL[0]], []):
        with pytest.raises(GeneMatchError, match="The panel of the convention 'paper'"):
            tiny_model().tokenizer(cells, panel=panel)
    bare = cells.copy()
    bare.X[0, [list(cells.var_names).index(gene) for gene in PANEL]] = 0
    with pytest.raises(CellsError, match="1 cells express no gene of the panel .first: 'cell0'"):
        tiny_model().tokenizer(bare, panel=PANEL).tokens()
