"""The planted code is what passes the hook, and a dictionary of the right width finds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import require_sae_lens

from workbench.dictionaries import Dictionary
from workbench.dictionaries.feeding import Reader, together
from workbench.dictionaries.judging import match_features
from workbench.errors import CheckpointError
from workbench.planted.dictionary import plant_dictionary


def test_the_stream_is_the_code():
    world = plant_dictionary(0, n_genes=300, n_cells=5, genes_per_cell=40)
    reader = Reader(world.model, world.model.tokenizer(world.cells), (world.hook,))
    rows = together(list(reader.read(range(5))))
    want = (world.codes @ world.directions)[rows.genes.numpy()]
    assert np.allclose(rows.values[world.hook].numpy(), want, atol=1e-4)
    assert ((world.codes > 0).sum(1) == 3).all() and np.allclose(np.linalg.norm(world.directions, axis=1), 1)
    again = plant_dictionary(0, n_genes=300, n_cells=5, genes_per_cell=40)
    assert again.model.fingerprint() == world.model.fingerprint()
    with pytest.raises(CheckpointError, match="no larger than the whole"):
        plant_dictionary(0, n_genes=30)


def share_found(seed: int, architecture: str) -> float:
    require_sae_lens()
    torch.set_num_threads(1)
    world = plant_dictionary(seed)
    settings = {
        "width": 96,
        "k": 3,
        "rows": 512,
        "buffer": 20000,
        "epochs": 15,
        "learning_rate": 5e-3,
        "dead_after": 30,
    }
    found = Dictionary.train(
        world.model, world.cells, world.hook, seed=seed, architecture=architecture, progress=False, **settings
    )
    return float((match_features(world.directions, found.W_dec.numpy())[2] > 0.9).mean())


def test_planted_features_are_recovered():
    assert share_found(0, "topk") >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_planted_features_are_recovered_over_twenty_seeds(architecture):
    shares = np.array([share_found(seed, architecture) for seed in range(20)])
    assert shares.min() >= 0.95, shares
