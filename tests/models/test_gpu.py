"""The same on a CUDA card as on the processor: passes, sums, ablations; and passes that the processor does not wait for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import genes, make_tokens, tiny_cells, tiny_model

from workbench.ablation.attribution import attribute
from workbench.ablation.metrics import cell_shift, masked_error
from workbench.ablation.patching import activation_patching
from workbench.ablation.reference import build_reference, needed_hooks
from workbench.ablation.sites import Ablation
from workbench.ablation.study import Study, evaluate
from workbench.capture import GenePairSink, HookFilter, MomentsSink, capture
from workbench.capture.pairs import PATTERNS
from workbench.capture.pooled import RESIDUALS, PooledSink
from workbench.models.devices import Fitting, find_device

pytestmark = pytest.mark.gpu

# Largest difference from single precision on the processor, as a share of the largest number.
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def near(found, wanted, bound, what=""):
    found, wanted = (np.asarray(torch.as_tensor(x).float().cpu()) for x in (found, wanted))
    assert np.nanmax(np.abs(found - wanted)) <= bound * np.nanmax(np.abs(wanted)), what


@pytest.fixture(params=BOUNDS, ids=str)
def there(request):
    """A model on the processor, the same one on the card, and how far they may differ."""
    return tiny_model(seed=1), tiny_model(seed=1).to("cuda", request.param), BOUNDS[request.param]


def test_auto_takes_the_card():
    assert find_device() == torch.device("cuda:0")


def test_outputs_and_hooks_are_those_of_the_processor(there):
    here, card, bound = there
    wanted, kept = here.run_with_cache(make_tokens(6), outputs=here.outputs)
    found, cache = card.run_with_cache(make_tokens(6), outputs=card.outputs)
    for name in here.outputs:
        near(getattr(found, name), getattr(wanted, name), bound, name)
    for name, value in kept.items():
        assert cache[name].device.type == "cuda"
        if "scores" not in name:  # -inf at padding
            near(cache[name], value, bound, name)


def sums(model, cells):
    pairs, pooled, moments = GenePairSink(genes(20), model.vocabulary), PooledSink(), MomentsSink()
    sinks = [HookFilter(PATTERNS, pairs), HookFilter(RESIDUALS, pooled), HookFilter(RESIDUALS, moments)]
    capture(model, cells, [PATTERNS, RESIDUALS], sinks, batch_size=4, progress=False)
    found = {**pooled.result(), "mean": pairs.result().mean(), "counts": pairs.result().counts}
    return found | dict(zip("nms", moments.result("blocks.1.hook_resid_post"), strict=True))


def test_a_capture_adds_up_the_same(there):
    here, card, bound = there
    wanted, found = sums(here, tiny_cells(19)), sums(card, tiny_cells(19))
    for name, value in wanted.items():
        near(found[name], value, bound, name)
    np.testing.assert_array_equal(found["counts"], wanted["counts"])


def test_ablation_attribution_and_patching_are_the_same(there):
    here, card, bound = there
    tokens = replace(make_tokens(10, padded=False), cell_ids=tuple(f"a{i}" for i in range(10)))
    others = replace(make_tokens(6, padded=False, seed=4), cell_ids=tuple(f"b{i}" for i in range(6)))
    grid = [Ablation("L0H1", "zero"), Ablation("L1H2", "mean", rotation=1), Ablation("L2H0", "resample", seed=4)]
    found = []
    for model in (here, card):
        references = [build_reference(model, tokens, ["blocks.*.attn.hook_z", *needed_hooks(grid)], 4)] * 2
        study = Study(model, tokens, (cell_shift(), masked_error()), *references, batch_size=4, seed=3)
        found.append(
            {
                **evaluate(study, grid, range(10))[["cell_shift", "masked_error", "fallbacks"]].to_dict("list"),
                "attribution": attribute(study, masked_error(), range(10)),
                "patching": activation_patching(model, tokens, others, sites=["L0H1"], draws=20)["moved"],
            }
        )
    for name, value in found[0].items():
        near(found[1][name], value, 4 * bound, name)


def test_no_pass_waits_for_the_card():
    model, tokens = tiny_model(seed=1).to("cuda"), make_tokens(6)
    pairs, pooled, moments = GenePairSink(genes(20), model.vocabulary), PooledSink(), MomentsSink()
    sinks = [HookFilter(PATTERNS, pairs), HookFilter(RESIDUALS, pooled), HookFilter(RESIDUALS, moments)]
    capture(model, tiny_cells(6), [PATTERNS, RESIDUALS], sinks, progress=False)  # sums lie on the card from now on
    batch = tokens.pinned().to(model.device, model.dtype)

    def deliver(x, hook):
        for sink in sinks:
            sink.update(hook.name, x, batch)

    try:
        with torch.no_grad(), model.hooks([(name, deliver) for name in (PATTERNS, RESIDUALS)]):
            torch.cuda.set_sync_debug_mode("error")
            model(batch, outputs=("cell", "expression", "mvc"))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_card_that_is_full_gets_smaller_batches(capsys):
    total = torch.cuda.get_device_properties(0).total_memory

    def work(start, stop):
        return torch.empty((stop - start) * (total // 6), dtype=torch.uint8, device="cuda")[:1].cpu(), stop - start

    assert sum(n for _, n in Fitting(8).parts(11, work)) == 11
    assert "[memory] no room for 8 cells at a time; going on with 4" in capsys.readouterr().err
