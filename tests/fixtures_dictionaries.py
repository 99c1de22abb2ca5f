"""Settings and random dictionaries that tests of dictionaries share."""

from __future__ import annotations

import numpy as np
import torch

from workbench.dictionaries.dictionary import Dictionary, Origin, vocabulary_hash
from workbench.dictionaries.settings import DictionaryConfig

HOOK, NEXT = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"


def settings(**more) -> DictionaryConfig:
    return DictionaryConfig(**{"width": 32, "k": 4, "rows": 64, "buffer": 400, "epochs": 2, "cells_at_once": 8, **more})


def random_dictionary(
    model, hook=HOOK, *, width=24, architecture="topk", k=3, inner=None, target=None, seed=0
) -> Dictionary:
    """Random weights of some architecture, as a dictionary of a hook of the model."""
    inner = inner or (model.config.d_model,)
    rng = torch.Generator().manual_seed(seed)
    d = int(np.prod(inner))
    decoder = torch.randn(width, d, generator=rng)
    weights = {
        "W_enc": torch.randn(d, width, generator=rng) / d**0.5,
        "b_enc": 0.1 * torch.randn(width, generator=rng),
        "W_dec": decoder / decoder.norm(dim=1, keepdim=True),
        "b_dec": 0.1 * torch.randn(d, generator=rng),
        "threshold": 0.2 * torch.rand(width, generator=rng),
    }
    origin = Origin(hook, target or hook, model.fingerprint(), vocabulary_hash(model), inner, trained_as=architecture)
    return Dictionary(architecture, weights, origin, k=k if architecture == "topk" else 0)
