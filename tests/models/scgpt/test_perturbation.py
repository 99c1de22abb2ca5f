"""Perturbation fine-tunes: flags, unbinned values, no <cls>, and an affine decoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import (
    D_MLP,
    D_MODEL,
    N_GENES,
    N_HEADS,
    N_LAYERS,
    checkpoint_args,
    make_tokens,
    randomise,
    require_upstream,
    tiny_cells,
    tiny_model,
    vocabulary_ids,
    write_checkpoint,
)

from workbench.capture.pooled import PooledSink
from workbench.capture.record import capture
from workbench.errors import CellsError, CheckpointError, HookError, ShapeError
from workbench.models.scgpt.checkpoint import from_upstream, load_checkpoint, save_checkpoint
from workbench.models.scgpt.layout import to_upstream


@pytest.fixture
def generator():
    """Upstream's class, with its fast path off so that it computes as in training."""
    module = require_upstream("model.generation_model")

    def make(**options):
        ids = vocabulary_ids()
        options = {"nlayers_cls": 3, "n_cls": 1, "vocab": ids, "dropout": 0.0, "pad_value": 0, **options}
        model = module.TransformerGenerator(len(ids), D_MODEL, N_HEADS, D_MLP, N_LAYERS, **options)
        return randomise(model, 3).eval()

    return make


@pytest.fixture
def cells():
    return tiny_cells(kind="log-normalised")


def flagged(tokens, seed=0):
    drawn = torch.rand(tokens.gene_ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.2
    return replace(tokens, flags=drawn.long())


@pytest.mark.parametrize(
    "options", [{}, {"explicit_zero_prob": True}, {"cell_emb_style": "avg-pool", "do_mvc": True}], ids=str
)
@pytest.mark.parametrize("live", [True, False], ids=["live", "folder"])
def test_outputs_equal_upstream(generator, cells, tmp_path, options, live):
    theirs = generator(**options)
    style = options.get("cell_emb_style", "cls")
    args = checkpoint_args(include_zero_gene="all", cell_emb_style=style, max_seq_len=1536)
    ours = (
        from_upstream(theirs, vocabulary_ids(), {"max_seq_len": 1536})
        if live
        else load_checkpoint(write_checkpoint(tmp_path, theirs.state_dict(), args))
    )
    assert ours.config.perturbation and not ours.report.unexpected and not ours.report.mismatched
    tokens = flagged(ours.tokenizer(cells).tokens())
    outputs = ours.outputs
    assert outputs == (("expression",) if style == "cls" else ("cell", "expression", "mvc", "classes"))
    found, cache = ours.run_with_cache(tokens, outputs=outputs)
    last = {}
    theirs.transformer_encoder.register_forward_hook(lambda m, a, out: last.update(stream=out))
    with torch.no_grad():
        torch.manual_seed(0)
        said = theirs(tokens.gene_ids, tokens.values, tokens.flags, tokens.padding, CLS=True, MVC="mvc" in outputs)
    assert (cache[f"blocks.{N_LAYERS - 1}.hook_resid_post"] - last["stream"]).abs().max() < 1e-5
    if "explicit_zero_prob" in options:
        assert (found.expression_zero - said["mlm_zero_probs"]).abs().max() < 1e-5
        kept = said["mlm_output"] != 0  # upstream draws which predictions are zero
        assert kept.any() and (found.expression - said["mlm_output"])[kept].abs().max() < 1e-4
    else:
        assert (found.expression - said["mlm_output"]).abs().max() < 1e-4
    if "mvc" in outputs:
        assert (found.mvc - said["mvc_output"]).abs().max() < 1e-4
        assert (found.classes - said["cls_output"]).abs().max() < 1e-5


def test_predictions_equal_upstreams_own_for_all_genes(generator, cells):
    """`pred_perturb` on what its data loader makes of cells: all genes, the values as they are, a flag each."""
    theirs = generator()
    ours = from_upstream(theirs, vocabulary_ids(), {"max_seq_len": 1536})
    tokens = flagged(ours.tokenizer(cells).tokens())

    class Batch:
        pert = ["a"] * len(tokens)
        x = torch.stack([torch.from_numpy(cells.X.toarray()), tokens.flags.float()], dim=1).flatten(0, 0)

        def to(self, device):
            return self

    batch = Batch()
    batch.x = torch.stack([torch.from_numpy(cells.X.toarray()).flatten(), tokens.flags.flatten().float()], dim=1)
    ids = np.array([vocabulary_ids()[g] for g in cells.var_names])
    with torch.no_grad():
        wanted = theirs.pred_perturb(batch, include_zero_gene="all", gene_ids=ids, amp=False)
    assert torch.equal(tokens.gene_ids[0], torch.from_numpy(ids))
    assert (ours(tokens, outputs=("expression",)).expression - wanted).abs().max() < 1e-4


def perturbed_model(**shape):
    return tiny_model(perturbation=True, n_classes=0, mvc_style=None, **shape)


def test_closed_form_without_upstream(cells):
    """The flag's row is added to every gene, and the decoder is a factor of the value and a summand."""
    model = perturbed_model()
    tokens = flagged(model.tokenizer(cells, max_tokens=N_GENES).tokens())
    out, cache = model.run_with_cache(tokens, outputs=("expression",))
    rows = model.embed.flag.weight[tokens.flags]
    wanted = cache["embed.hook_gene"] + cache["embed.hook_value"] + rows
    assert torch.allclose(cache["blocks.0.hook_resid_pre"], wanted, atol=1e-6)
    factor, summand = (
        d.fc(out.residual).squeeze(-1) for d in (model.decoder.coeff_decoder, model.decoder.bias_decoder)
    )
    assert torch.allclose(out.expression, factor * tokens.values + summand, atol=1e-6)


def test_tokens_are_all_genes_with_their_own_values_and_no_cls(cells):
    model = perturbed_model()
    tokenizer = model.tokenizer(cells, max_tokens=N_GENES)
    tokens = tokenizer.tokens()
    assert (tokens.values.numpy() == cells.X.toarray()).all() and (tokens.values == 0).any()
    assert not tokens.padding.any() and not tokens.flags.any() and tokens.genes.all()
    assert model.vocabulary.cls_id not in tokens.gene_ids
    assert (tokenizer.lengths() == N_GENES).all()
    few = model.tokenizer(cells, max_tokens=7)
    assert (few.lengths() == 7).all() and few.tokens().gene_ids.shape == (20, 7)
    assert all(len(set(row)) == 7 for row in few.tokens().gene_ids.tolist())
    one = few.tokens(3, 4)
    assert torch.equal(one.gene_ids, few.tokens()[3:4].gene_ids), "a cell's genes do not depend on its batch"
    for part in (tokens[2:4], tokens.take([2, 3]), next(tokens.batches(2)), tokens.to("cpu")):
        assert part.flags.shape == part.gene_ids.shape


@pytest.mark.parametrize("kind", ["counts", "normalised"])
def test_values_that_it_was_not_trained_on_are_refused(kind):
    with pytest.raises(CellsError, match="perturbation fine-tune, which reads log1p.*data.layer"):
        perturbed_model().tokenizer(tiny_cells(kind=kind))


def test_what_it_has_no_place_for_is_refused(cells):
    model, plain = perturbed_model(), tiny_model()
    tokens = model.tokenizer(cells).tokens()
    with pytest.raises(ShapeError, match="no <cls> and so no cell embedding"):
        model(tokens)
    for wrong, given in ((model, make_tokens()), (plain, tokens)):
        with pytest.raises(ShapeError, match="needs Tokens.flags"):
            wrong(given, outputs=("expression",))
    sink = PooledSink()
    capture(model, model.tokenizer(cells), ["blocks.*.hook_resid_post"], [sink], progress=False)
    assert {pool for _, pool in sink.streams()} == {"mean"}
    with pytest.raises(HookError, match="have no <cls> to keep"):
        sink.result()


def test_it_is_written_and_read_and_settings_of_another_arithmetic_are_refused(tmp_path, cells):
    model = perturbed_model()
    read = load_checkpoint(save_checkpoint(model, tmp_path / "a"))
    assert read.config == model.config
    tokens = model.tokenizer(cells).tokens()
    assert torch.equal(
        read(tokens, outputs=("expression",)).expression, model(tokens, outputs=("expression",)).expression
    )
    state = to_upstream(model.state_dict())
    for setting in (
        {"decoder_activation": "ReLU"},
        {"decoder_adaptive_bias": True},
        {"include_zero_gene": "batch-wise"},
    ):
        with pytest.raises(CheckpointError, match=f"says {next(iter(setting))}"):
            load_checkpoint(write_checkpoint(tmp_path / "b", state, checkpoint_args(**setting)))
