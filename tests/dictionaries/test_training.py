"""Training: SAELens's own step on what is fed, all hooks at once, to the same weights whatever interrupts it."""

from __future__ import annotations

import os
import sys
from itertools import islice

import numpy as np
import pytest
import torch
from fixtures_dictionaries import HOOK, NEXT, settings
from helpers import tiny_cells, tiny_model
from processes import kill_once

from workbench.dictionaries import Dictionary, training
from workbench.dictionaries.dictionary import JUMPRELU, JUMPRELU_TRANSCODER, STANDARD, TOPK
from workbench.dictionaries.feeding import Feed, Reader, together
from workbench.dictionaries.judging import variance_explained
from workbench.dictionaries.training import STATE, train_dictionaries
from workbench.errors import ArtifactError, ConfigError, HookError, ShapeError
from workbench.seeds import key

pytestmark = pytest.mark.usefixtures("sae_lens")
QUIET = {"progress": False}


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[hook].weights[name], value) for hook in one for name, value in other[hook].weights.items()
    )


def explained(dictionary, model, cells):
    rows = together(list(Reader(model, model.tokenizer(cells), (dictionary.hook,)).read(range(len(cells)))))
    x = rows.values[dictionary.hook]
    return variance_explained(x.numpy(), dictionary(x).numpy(), x.mean(0).numpy())


@pytest.fixture(scope="module")
def trained(model, cells, sae_lens):
    return train_dictionaries(model, cells, [HOOK, NEXT], settings(epochs=20), seed=3, **QUIET)


def test_each_hook_has_a_dictionary_of_unit_columns_that_says_whose_it_is(model, cells, trained):
    assert list(trained) == [HOOK, NEXT]
    n_rows = int((model.tokenizer(cells).lengths() - 1).sum())
    for hook, one in trained.items():
        assert torch.allclose(one.W_dec.norm(dim=1), torch.ones(32), atol=1e-5)
        assert one.hook == hook and one.origin.checkpoint == model.fingerprint() and one.architecture == TOPK
        assert one.origin.steps == round(20 * n_rows / 64) and one.origin.reason == "all steps were done"
        assert explained(one, model, cells) > 0.5


def test_the_scale_makes_the_mean_norm_the_root_of_the_width(model, cells, trained):
    rows = together(list(Reader(model, model.tokenizer(cells), (HOOK,)).read(range(60))))
    norm = (rows.values[HOOK] * trained[HOOK].origin.scale).norm(dim=1).mean()
    assert norm == pytest.approx(model.config.d_model**0.5, rel=0.05)


def test_it_depends_on_the_seed_alone(model, cells):
    def train(seed):
        state = torch.random.get_rng_state()
        found = train_dictionaries(model, cells, HOOK, settings(), seed=seed, **QUIET)
        assert torch.equal(state, torch.random.get_rng_state())
        return found

    one = train(0)
    torch.manual_seed(99)
    assert same(one, train(0)) and not same(one, train(1))


def test_activations_that_are_dealt_anew_are_another_training_and_say_so(model, cells, tmp_path):
    own, dealt = (
        train_dictionaries(model, cells, HOOK, settings(), folder=tmp_path / name, shuffled=name == "dealt", **QUIET)
        for name in ("own", "dealt")
    )
    assert not same(own, dealt) and "dealt anew within genes" in dealt[HOOK].origin.reason
    with pytest.raises(ArtifactError, match="holds the state of a training of other cells"):
        train_dictionaries(model, cells, HOOK, settings(), folder=tmp_path / "dealt", **QUIET)


def test_a_hook_is_trained_alike_alone_and_beside_others(model, cells):
    both = train_dictionaries(model, cells, [HOOK, NEXT], settings(), **QUIET)
    alone = Dictionary.train(model, cells, NEXT, **settings().model_dump(), **QUIET)
    assert all(torch.equal(alone.weights[name], value) for name, value in both[NEXT].weights.items())


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "jumprelu", "l1"])
def test_every_architecture_learns_and_comes_back(model, cells, architecture, tmp_path):
    config = settings(architecture=architecture, epochs=20, **({"penalty": 0.5} if architecture == "l1" else {}))
    one = train_dictionaries(model, cells, HOOK, config, **QUIET)[HOOK]
    known = {"topk": TOPK, "l1": STANDARD}
    assert one.architecture == known.get(architecture, JUMPRELU) and one.origin.trained_as == architecture
    assert torch.allclose(one.W_dec.norm(dim=1), torch.ones(32), atol=1e-4)
    again = Dictionary.from_pretrained(one.save_pretrained(tmp_path))
    assert (
        explained(again, model, cells) == pytest.approx(explained(one, model, cells))
        and explained(one, model, cells) > 0.3
    )


def test_a_transcoder_learns_what_the_mlp_does(model, cells, tmp_path):
    read, write = "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"
    config = settings(architecture="batchtopk", epochs=30, k=8)
    one = train_dictionaries(model, cells, read, config, targets={read: write}, **QUIET)[read]
    assert one.architecture == JUMPRELU_TRANSCODER and one.origin.target == write
    rows = together(list(Reader(model, model.tokenizer(cells), (read, write)).read(range(60))))
    x, y = rows.values[read], rows.values[write]
    again = Dictionary.from_pretrained(one.save_pretrained(tmp_path))
    assert torch.equal(again(x), one(x))
    assert variance_explained(y.numpy(), one(x).numpy(), y.mean(0).numpy()) > 0.5
    assert 2 < float((one.encode(x) > 0).sum(1).float().mean()) < 16


def test_the_cell_embedding_has_a_dictionary(model, cells):
    one = train_dictionaries(model, cells, "hook_cell", settings(width=20, rows=16, epochs=60, buffer=64), **QUIET)[
        "hook_cell"
    ]
    assert explained(one, model, cells) > 0.5


def test_a_share_of_the_rows_takes_a_share_of_the_steps(model, cells):
    whole, half = (train_dictionaries(model, cells, HOOK, settings(share=share), **QUIET)[HOOK] for share in (1, 0.5))
    assert half.origin.steps == pytest.approx(whole.origin.steps / 2, abs=1)
    balanced = train_dictionaries(model, cells, HOOK, settings(share=0.5, balance=True), **QUIET)[HOOK]
    assert balanced.origin.steps < half.origin.steps
    for more in ({"share": 0.5}, {"balance": True}):
        with pytest.raises(HookError, match="of which none is left out"):
            train_dictionaries(model, cells, "hook_cell", settings(width=20, **more), **QUIET)


def test_saelens_trains_to_the_same(sae_lens, model, cells):
    """SAETrainer's own loop on the same batches, width, k and steps, from the same first weights and bias."""
    from sae_lens.config import SAETrainerConfig

    config = settings(epochs=12, warmup=0.0, decay=0.0)
    ours = train_dictionaries(model, cells, HOOK, config, **QUIET)[HOOK]
    feed = Feed(Reader(model, model.tokenizer(cells), (HOOK,), 8), config.rows, config.buffer, 0)
    steps = ours.origin.steps
    mean = together(next(feed.rounds())).values[HOOK].mean(0) * ours.origin.scale
    feed = Feed(feed.reader, config.rows, config.buffer, 0)
    batches = islice((batch.values[HOOK] * ours.origin.scale for part in feed.rounds() for batch in part), steps)
    torch.manual_seed(key(key(0, "dictionary", HOOK), "dictionary") % 2**63)
    sae = sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(d_in=16, d_sae=32, k=4))
    sae.b_dec.data.copy_(mean)
    rates = SAETrainerConfig(
        total_training_samples=steps * 64, train_batch_size_samples=64, lr=config.learning_rate, lr_end=config.learning_rate,
        dead_feature_window=config.dead_after,
    )  # fmt: skip
    theirs = sae_lens.SAETrainer(cfg=rates, sae=sae, data_provider=batches).fit()
    rows = together(list(Reader(model, model.tokenizer(cells), (HOOK,)).read(range(60))))
    x = rows.values[HOOK]
    with torch.no_grad():
        found = theirs(x * ours.origin.scale) / ours.origin.scale
    assert variance_explained(x.numpy(), found.numpy(), x.mean(0).numpy()) == pytest.approx(
        explained(ours, model, cells), abs=0.001
    )


def test_it_goes_on_to_the_same_weights_bit_for_bit(model, cells, monkeypatch, tmp_path):
    whole = train_dictionaries(model, cells, [HOOK, NEXT], settings(), **QUIET)
    step, calls = training._step, []

    def breaking(*args):
        calls.append(1)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(training, "_step", breaking)
    again = {"folder": tmp_path, "save_every": 0, **QUIET}
    with pytest.raises(KeyboardInterrupt):
        train_dictionaries(model, cells, [HOOK, NEXT], settings(), **again)
    assert same(train_dictionaries(model, cells, [HOOK, NEXT], settings(), **again), whole)
    n = len(calls)
    assert same(train_dictionaries(model, cells, [HOOK, NEXT], settings(), **again), whole) and len(calls) == n
    with pytest.raises(ArtifactError, match="another training|a training of other"):
        train_dictionaries(model, cells, [HOOK, NEXT], settings(k=5), **again)


RUN = "import sys; from dictionaries.test_training import in_folder; in_folder(sys.argv[1])"
LONG = {"epochs": 40}


def in_folder(folder):
    return train_dictionaries(
        tiny_model(seed=2), tiny_cells(60), [HOOK, NEXT], settings(**LONG), folder=folder, save_every=0, **QUIET
    )


@pytest.mark.slow
def test_killed_and_called_again_it_ends_with_the_same_weights(model, cells, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    kill_once((tmp_path / STATE).is_file, [sys.executable, "-c", RUN, str(tmp_path)])
    torch.set_num_threads(1)
    assert same(in_folder(tmp_path), train_dictionaries(model, cells, [HOOK, NEXT], settings(**LONG), **QUIET))


def test_what_cannot_be_trained_is_refused(model, cells):
    with pytest.raises(ShapeError, match=f"15 features are fewer than the 16 numbers of an activation at '{HOOK}'"):
        train_dictionaries(model, cells, HOOK, settings(width=15), **QUIET)
    with pytest.raises(ShapeError, match="fewer than 5000 features"):
        train_dictionaries(model, cells, HOOK, settings(width=5000), **QUIET)
    with pytest.raises(HookError, match="map of gene pairs"):
        train_dictionaries(model, cells, "blocks.0.attn.hook_pattern", settings(), **QUIET)
    with pytest.raises(HookError, match="not among the hooks"):
        train_dictionaries(model, cells, HOOK, settings(), targets={NEXT: HOOK}, **QUIET)
    with pytest.raises(ConfigError, match="trained as batchtopk"):
        train_dictionaries(model, cells, HOOK, settings(), targets={HOOK: NEXT}, **QUIET)
    with pytest.raises(ConfigError, match="k is 40, but there are 32 features"):
        Dictionary.train(model, cells, HOOK, width=32, k=40)
    with pytest.raises(HookError, match="names 3 hooks"):
        Dictionary.train(model, cells, "blocks.*.hook_resid_post", **settings().model_dump(), **QUIET)
    with (
        model.hooks([(HOOK, lambda x, hook: x * np.nan)]),
        pytest.raises(HookError, match="not finite"),
    ):
        train_dictionaries(model, cells, HOOK, settings(), **QUIET)


def test_without_saelens_the_command_that_brings_it_is_said(model, cells, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(ConfigError, match=r"\[dictionaries\]"):
        train_dictionaries(model, cells, HOOK, settings(), **QUIET)
