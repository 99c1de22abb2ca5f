"""Steps over active features alone, beside SAELens's own on the same batches from the same first weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fixtures_dictionaries import settings

from workbench.dictionaries import kernels, stepping
from workbench.dictionaries.saelens import make_trainer, restore_trainer, trainer_state
from workbench.dictionaries.stepping import Steps, is_sparse

pytestmark = pytest.mark.usefixtures("sae_lens")
ROWS, D, WIDTH = 96, 24, 80
CONFIG = settings(rows=ROWS)
KINDS = ["topk", "batchtopk", "matryoshka"]


def pair(kind, d_out=None, k=6, **more):
    """SAELens's trainer and one of the same first weights that steps sparsely."""
    config = settings(architecture=kind, width=WIDTH, k=k, rows=ROWS, warmup=0.0, decay=0.5, **more)
    trainers = [make_trainer(config, D, d_out, 40, 0, "cpu") for _ in range(2)]
    for trainer in trainers:
        trainer.sae.b_dec.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
        trainer.sae.W_dec.data *= torch.linspace(0.5, 2, WIDTH)[:, None]  # lengths count for the choice
    return trainers


def batches(n, d=D, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((12, d))
    return [torch.from_numpy((rng.standard_normal((ROWS, 12)) @ mix).astype(np.float32)) for _ in range(n)]


def run(theirs, ours, xs, ys=None):
    steps, errors = Steps([ours], CONFIG, torch.device("cpu")), []
    for i, x in enumerate(xs):
        y = None if ys is None else ys[i]
        both = x if y is None else torch.cat([x, y], 1)
        found = theirs.step(both).losses["mse_loss"].item()
        own = steps.take([(x, 1.0, y, 1.0)])[0].item()
        errors.append(own / found - 1)
        theirs.n_training_steps += 1
    return errors


def apart(one, other):
    """Greatest difference of any weight."""
    there = other.sae.state_dict()
    return max(float((value - there[name]).abs().max()) for name, value in one.sae.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_saelens_own(kind):
    theirs, ours = pair(kind)
    start = copy.deepcopy(theirs.sae.state_dict())
    errors = run(theirs, ours, batches(20))
    assert (
        np.abs(errors).max() < 1e-5
        and apart(theirs, ours) < 1e-5
        and float((ours.sae.W_dec - start["W_dec"]).detach().abs().max()) > 0.01
    )
    assert torch.equal(theirs.act_freq_scores, ours.act_freq_scores)
    assert torch.equal(theirs.n_forward_passes_since_fired, ours.n_forward_passes_since_fired)
    assert theirs.optimizer.param_groups[0]["lr"] == ours.optimizer.param_groups[0]["lr"]
    for name in ("n_training_samples", "n_frac_active_samples"):
        assert getattr(theirs, name) == getattr(ours, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_dead, k", [(3, 24), (30, 6)])
def test_dead_features_are_revived_alike(kind, n_dead, k):
    """With few dead features all are asked, with many the largest of each row."""
    theirs, ours = pair(kind, k=k, dead_after=8)
    start = ours.sae.W_dec.detach().clone()
    for trainer in (theirs, ours):
        trainer.sae.b_enc.data[:n_dead] = -20.0
    run(theirs, ours, batches(16))
    assert bool(ours.dead_neurons[:n_dead].all()) and apart(theirs, ours) < 1e-5
    moved = (ours.sae.W_dec.detach() - start)[:n_dead].abs().max(1).values > 1e-4
    assert bool(moved.all()) if n_dead < D // 2 else D // 2 <= int(moved.sum()) < n_dead


def test_a_transcoders_steps_are_saelens_own():
    theirs, ours = pair("batchtopk", d_out=18, dead_after=5)
    run(theirs, ours, batches(12), batches(12, 18, seed=1))
    assert apart(theirs, ours) < 1e-5


def test_fewer_positive_features_than_k_are_all_taken():
    for kind in KINDS:
        theirs, ours = pair(kind)
        for trainer in (theirs, ours):
            trainer.sae.b_enc.data[3:] = -30.0
        run(theirs, ours, batches(3))
        assert apart(theirs, ours) < 1e-5 and float(ours.act_freq_scores[3:].sum()) == 0


def test_what_is_written_out_is_known():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert all(
        is_sparse(settings(architecture=kind), cpu) and not is_sparse(settings(architecture=kind), gpu)
        for kind in KINDS
    )
    assert not any(is_sparse(settings(architecture=kind), cpu) for kind in ("jumprelu", "l1"))


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_the_size_of_pieces_change_rounding_alone(kind, monkeypatch):
    xs = batches(6, seed=2)
    found = []
    for n_threads, rows, features in ((1, 512, 256), (3, 512, 256), (2, 7, 11)):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", n_threads)
        monkeypatch.setattr(stepping, "_ROWS", rows)
        monkeypatch.setattr(stepping, "_FEATURES", features)
        theirs, ours = pair(kind, dead_after=3)
        run(theirs, ours, xs)
        found.append(ours.sae.state_dict())
    one, more, other = found
    assert all(torch.equal(one[name], more[name]) for name in one)  # threads share the same pieces
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_a_state_goes_on_bit_for_bit():
    xs = batches(8, seed=3)
    _, whole = pair("matryoshka", dead_after=2)
    steps = Steps([whole], CONFIG, torch.device("cpu"))
    for x in xs[:4]:
        steps.take([(x, 2.0, None, 0.0)])
    _, again = pair("matryoshka", dead_after=2)
    restore_trainer(again, *trainer_state(whole))
    for trainer in (whole, again):
        steps = Steps([trainer], CONFIG, torch.device("cpu"))
        for x in xs[4:]:
            steps.take([(x, 2.0, None, 0.0)])
    assert all(torch.equal(value, again.sae.state_dict()[name]) for name, value in whole.sae.state_dict().items())


@pytest.mark.parametrize("width, k", [(80, 6), (33, 4), (7, 7), (50, 40), (9, 1)])
def test_the_k_largest_are_those_of_a_sort_and_of_equals_the_first(width, k):
    rng = np.random.default_rng(width)
    pre = np.round(rng.standard_normal((60, width)), 1).astype(np.float32)  # with equals
    lengths = rng.choice([0.5, 1.0, 2.0], width).astype(np.float32)
    features, values = np.empty((60, k), np.int32), np.empty((60, k), np.float32)
    kernels.top_of_rows(pre, lengths, k, features, values)
    best = np.sort(np.argsort(-pre * lengths, axis=1, kind="stable")[:, :k], axis=1)
    assert np.array_equal(features, best)
    assert np.array_equal(values, np.maximum(np.take_along_axis(pre, best, 1), 0))
