"""Checkpoints that were trained with genes without expression as tokens (``include_zero_gene``)."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
from helpers import (
    N_GENES,
    by_gene,
    checkpoint_args,
    genes,
    make_upstream,
    require_upstream,
    tiny_cells,
    tiny_model,
    vocabulary_ids,
    write_checkpoint,
)

from workbench.errors import CheckpointError
from workbench.models.scgpt.checkpoint import from_upstream, load_checkpoint, save_checkpoint
from workbench.models.scgpt.layout import to_upstream


@pytest.fixture
def upstream_tokens(monkeypatch):
    """Tokens as scGPT's fine-tuning scripts make them, its class for vocabularies put aside."""
    text, vocab = types.ModuleType("torchtext"), types.ModuleType("torchtext.vocab")
    text.vocab, vocab.Vocab = vocab, object
    monkeypatch.setitem(sys.modules, "torchtext", text)
    monkeypatch.setitem(sys.modules, "torchtext.vocab", vocab)
    module = require_upstream("tokenizer.gene_tokenizer")

    def make(binned, max_len, zeros=True):
        ids = vocabulary_ids()
        gene_ids = np.array([ids[gene] for gene in genes()])
        # The function asks the vocabulary for ids only; the id of <cls> it takes by its default, the name.
        cells = module.tokenize_batch(binned, gene_ids, include_zero_gene=zeros, cls_id=ids["<cls>"])
        return module.pad_batch(cells, max_len, ids, pad_value=-2)

    return make


def dense(tokens, n_cells):
    """Bins by cell and gene; NaN where a gene is no token."""
    out = np.full((n_cells, N_GENES), np.nan, dtype=np.float32)
    for row, values in enumerate(by_gene(tokens).values()):
        out[row, list(values)] = list(values.values())
    return out


@pytest.mark.parametrize("zeros", [True, False])
def test_tokens_equal_those_of_upstreams_scripts(upstream_tokens, zeros):
    cells = tiny_cells()
    ours = tiny_model(max_tokens=100, include_zeros=zeros).tokenizer(cells).tokens()
    binned = np.nan_to_num(dense(ours, 20))  # bins of ties are drawn: upstream starts from ours
    theirs = upstream_tokens(binned, 100, zeros)
    assert torch.equal(ours.gene_ids, theirs["genes"]) and torch.equal(ours.values, theirs["values"])
    assert torch.equal(ours.padding, theirs["genes"] == vocabulary_ids()["<pad>"])
    assert (ours.values[:, 0] == 0).all(), "these scripts give <cls> the value 0"


def test_embeddings_equal_upstreams(upstream_tokens, eager_upstream):
    theirs = make_upstream(eager_upstream, explicit_zero_prob=True)
    ours = from_upstream(theirs, vocabulary_ids(), {"include_zero_gene": True, "max_seq_len": 100})
    tokens = ours.tokenizer(tiny_cells()).tokens()
    made = upstream_tokens(np.nan_to_num(dense(tokens, 20)), 100)
    with torch.no_grad():
        wanted = theirs(made["genes"], made["values"], made["genes"] == vocabulary_ids()["<pad>"])
    assert (ours(tokens).cell - wanted["cell_emb"]).abs().max() < 1e-5


def test_zeros_are_the_bin_0_and_other_bins_stay_as_they_are():
    cells = tiny_cells()
    every = dense(tiny_model(max_tokens=100, include_zeros=True).tokenizer(cells).tokens(), 20)
    expressed = dense(tiny_model(max_tokens=100).tokenizer(cells).tokens(), 20)
    assert not np.isnan(every).any() and ((every == 0) == (cells.X.toarray() == 0)).all()
    assert (every[every > 0] == expressed[~np.isnan(expressed)]).all()


def test_a_sample_is_of_all_genes_uniform_and_a_function_of_the_cell():
    cells = tiny_cells(2000)
    tokenizer = tiny_model(max_tokens=11, include_zeros=True).tokenizer(cells)
    tokens = tokenizer.tokens()
    assert (tokenizer.lengths() == 11).all() and tokens.gene_ids.shape == (2000, 11) and not tokens.padding.any()
    counts = np.bincount(tokens.gene_ids[:, 1:].flatten().numpy(), minlength=N_GENES)[:N_GENES]
    assert counts.sum() == 20000 and abs(counts - 500).max() < 5 * np.sqrt(500 * 0.75)
    values = cells.X.toarray()[np.arange(2000)[:, None], tokens.gene_ids[:, 1:].numpy()]
    assert ((tokens.values[:, 1:].numpy() == 0) == (values == 0)).all()
    alone = tokenizer.tokens(7, 8)
    assert torch.equal(alone.gene_ids[0], tokens.gene_ids[7]) and torch.equal(alone.values[0], tokens.values[7])


def test_args_json_decides_and_a_contradiction_is_asked_about(tmp_path):
    plain, zero = (to_upstream(tiny_model(zero_probability=z).state_dict()) for z in (False, True))
    for said, wanted in ((True, True), ("all", True), (False, False)):
        model = load_checkpoint(write_checkpoint(tmp_path / "a", plain, checkpoint_args(include_zero_gene=said)))
        assert model.config.include_zeros is wanted and model.config.cls_value == 0
        assert load_checkpoint(save_checkpoint(model, tmp_path / "b")).config == model.config
    assert load_checkpoint(write_checkpoint(tmp_path / "a", plain)).config.cls_value == -2
    for said in ("batch-wise", "row-wise", 2):
        with pytest.raises(CheckpointError, match="tokens of a cell depend on other cells"):
            load_checkpoint(write_checkpoint(tmp_path / "a", plain, checkpoint_args(include_zero_gene=said)))
    model = load_checkpoint(write_checkpoint(tmp_path / "c", zero))
    with pytest.raises(CheckpointError, match='probability of a zero.*Add "include_zero_gene": true'):
        model.tokenizer(tiny_cells())
