"""Steps over active features alone, beside SAELens's own on the same batches from the same first weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from fixtures_dictionaries import settings

from workbench.dictionaries import kernels, stepping
from workbench.dictionaries.saelens import make_trainer, restore_trainer, trainer_state
from workbench.dictionaries.stepping import SparseStep, is_sparse, take_step

pytestmark = pytest.mark.usefixtures("sae_lens")
ROWS, D, WIDTH = 96, 24, 80
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
    step, errors = SparseStep(ours), []
    for i, x in enumerate(xs):
        y = None if ys is None else ys[i]
        both = x if y is None else torch.cat([x, y], 1)
        found = theirs.step(both).losses["mse_loss"].item()
        own = take_step([step], [(x, 1.0, y, 1.0)])[0]
        errors.append(own / found - 1)
        theirs.n_training_steps += 1
        ours.n_training_steps += 1
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
    assert np.abs(errors).max() < 1e-5 and apart(theirs, ours) < 1e-5 and float((ours.sae.W_dec - start["W_dec"]).detach().abs().max()) > 0.01
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
