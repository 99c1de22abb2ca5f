"""Rows are those of the hooks, each once an epoch, in an order that the seed alone decides."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from fixtures_dictionaries import HOOK, NEXT
from helpers import tiny_cells

from workbench.capture import MemorySink, capture
from workbench.dictionaries.feeding import Feed, Reader, balancing, dealt_anew, split_cells, together
from workbench.errors import CellsError, HookError

ROWS, BUFFER = 64, 400


@pytest.fixture(scope="module")
def reader(model, cells):
    return Reader(model, model.tokenizer(cells), (HOOK, NEXT), 8)


def batches(reader, n, **options):
    feed = Feed(reader, ROWS, BUFFER, **{"seed": 0, **options})
    return feed, list(islice((batch for part in feed.rounds() for batch in part), n))


def test_rows_are_the_activations_of_genes_alone(model, cells, reader):
    sink = MemorySink()
    capture(model, cells, [HOOK, NEXT], sink, progress=False)
    found, rows = sink.result(), together(list(reader.read(range(len(cells)))))
    genes = np.ones(len(found.gene_ids), dtype=bool)
    genes[found.indptr[:-1]] = False
    assert np.array_equal(rows.genes.numpy(), found.gene_ids[genes])
    assert np.array_equal(rows.cells.numpy(), np.repeat(np.arange(len(cells)), np.diff(found.indptr) - 1))
    for hook in (HOOK, NEXT):
        assert np.allclose(rows.values[hook].numpy(), found.values[hook][genes], atol=1e-5)


def test_each_row_comes_once_an_epoch(model, reader):
    n = int(reader.n_rows.sum())
    feed, found = batches(reader, n // ROWS)
    seen = together(found)
    known = sorted(zip(seen.cells.tolist(), seen.genes.tolist(), strict=True))
    assert len(set(known)) == len(known) == n // ROWS * ROWS
    assert seen.cells[:ROWS].unique().numel() > 10  # well mixed
    assert all(len(batch) == ROWS for batch in found)


@pytest.mark.parametrize("cells_at_once", [1, 3, 16])
def test_the_order_does_not_depend_on_the_forward_pass(model, cells, reader, cells_at_once):
    _, one = batches(reader, 30)
    _, other = batches(Reader(model, model.tokenizer(cells), (HOOK, NEXT), cells_at_once), 30)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.genes, b.genes) and torch.equal(a.cells, b.cells)
        assert torch.allclose(a.values[HOOK], b.values[HOOK], atol=1e-5)


def test_the_seed_decides_and_epochs_differ(reader):
    _, one = batches(reader, 40)
    _, same = batches(reader, 40)
    _, other = batches(reader, 40, seed=1)
    assert all(torch.equal(a.cells, b.cells) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0].genes, other[0].genes)
    per_epoch = int(reader.n_rows.sum()) // ROWS
    assert not torch.equal(one[0].genes, one[per_epoch].genes)


def test_no_round_holds_more_than_the_buffer(reader):
    feed = Feed(reader, ROWS, BUFFER, 0)
    for part in islice(feed.rounds(), 12):
        assert sum(map(len, part)) + len(feed.left) <= BUFFER


def test_it_goes_on_where_it_was_saved(reader):
    feed = Feed(reader, ROWS, BUFFER, 0)
    rounds = feed.rounds()
    for _ in range(4):
        next(rounds)
    state = feed.state()
    again = Feed(reader, ROWS, BUFFER, 0)
    again.restore(*state)
    for one, other in islice(zip(rounds, again.rounds(), strict=True), 5):
        assert len(one) == len(other)
        assert all(torch.equal(a.values[NEXT], b.values[NEXT]) for a, b in zip(one, other, strict=True))


def test_balanced_genes_count_as_much(model):
    cells = tiny_cells(200, share=0.2)
    cells.X[:, :5] = 3  # in every cell
    tokenizer = model.tokenizer(cells)
    keep, expected = balancing(tokenizer, model.config.n_tokens)
    reader = Reader(model, tokenizer, (HOOK,), 16)
    plain = np.bincount(together(list(reader.read(range(200)))).genes.numpy(), minlength=40)
    feed = Feed(reader, 32, 800, 0, keep)
    seen = np.zeros(40, dtype=int)
    for part in feed.rounds():
        if feed.epoch:
            break
        seen += sum(np.bincount(batch.genes.numpy(), minlength=40) for batch in part)
    assert abs(seen.sum() + len(feed.left) - expected) < 5 * expected**0.5 + 800
    median = np.median(plain)
    assert plain[:5].min() > 3 * median and seen[:5].max() < 1.6 * median


def test_a_row_a_cell(model, cells):
    rows = together(list(Reader(model, model.tokenizer(cells), ("hook_cell",), 16).read(range(60))))
    assert rows.values["hook_cell"].shape == (60, model.config.d_model) and (rows.genes == -1).all()


def test_what_cannot_be_fed_is_refused(model, cells, reader):
    tokenizer = model.tokenizer(cells)
    with pytest.raises(HookError, match="map of gene pairs"):
        Reader(model, tokenizer, ("blocks.0.attn.hook_pattern",))
    with pytest.raises(HookError, match="two calls"):
        Reader(model, tokenizer, (HOOK, "hook_cell"))
    with pytest.raises(CellsError, match="set buffer to"):
        Feed(reader, ROWS, 100, 0)
    with (
        model.hooks([(HOOK, lambda x, hook: x.index_fill(0, torch.tensor([0]), torch.nan))]),
        pytest.raises(HookError, match=f"'{HOOK}' is not finite in cell 'cell3'"),
    ):
        list(reader.read([3, 4]))


def test_whole_donors_are_held_out(cells):
    cells = cells.copy()
    cells.obs["donor"] = [f"d{i % 6}" for i in range(60)]
    split = split_cells(cells)
    assert split.name == "donors" and len(split.train) + len(split.test) == 60
    donors = cells.obs["donor"].to_numpy()
    assert not set(donors[split.train]) & set(donors[split.test])
    assert split_cells(cells, donor=None).name == "cells"


def test_rows_dealt_anew_keep_each_gene_s_values_and_nothing_else(model, reader):
    rows = together(list(reader.read(range(60))))
    dealt = dealt_anew(rows, 3, "one")
    assert torch.equal(dealt.genes, rows.genes) and torch.equal(dealt.cells, rows.cells)
    gene = int(rows.genes.mode().values)
    at = rows.genes == gene
    for hook in (HOOK, NEXT):
        before, after = rows.values[hook], dealt.values[hook]
        assert torch.equal(after[at].sort(0).values, before[at].sort(0).values) and not torch.equal(after, before)
        # What went together within a gene does no longer.
        own = before - torch.stack([before[rows.genes == g].mean(0) for g in rows.genes])
        new = after - torch.stack([after[rows.genes == g].mean(0) for g in rows.genes])
        correlation = [torch.corrcoef(x.T).abs().triu(1).sum() for x in (own, new)]
        assert correlation[1] < 0.3 * correlation[0]
    again, other = dealt_anew(rows, 3, "one"), dealt_anew(rows, 4, "one")
    assert torch.equal(again.values[HOOK], dealt.values[HOOK]) and not torch.equal(
        other.values[HOOK], dealt.values[HOOK]
    )
