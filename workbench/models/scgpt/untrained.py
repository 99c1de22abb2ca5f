"""The same model before training: what an architecture is worth without what it learned."""

from __future__ import annotations

import torch

from workbench.models.scgpt.hooked import HookedScGPT
from workbench.seeds import key


def untrained(model: HookedScGPT, seed: int) -> HookedScGPT:
    """A model of the same shape and vocabulary with weights as before training, PyTorch's own initial draw.

    Parameters
    ----------
    model
        Where shape, vocabulary, device and type come from; not changed.
    seed
        Of the weights. The caller's random numbers stay as they were.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key(seed, "untrained control") % 2**63)
        fresh = HookedScGPT(model.config, model.vocabulary)
    return fresh.requires_grad_(False).eval().to(device=model.device, dtype=model.dtype)
