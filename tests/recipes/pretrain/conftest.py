"""A training of a few steps on few cells."""

from __future__ import annotations

import pytest
from helpers import tiny_cells

SETTINGS = """
settings:
  d_model: 8
  n_layers: 2
  n_heads: 2
  d_mlp: 8
  n_bins: 11
  max_tokens: 30
  steps: 4
  batch_size: 6
  genes_per_cell: 10
  mask_ratios: [0.25, 0.5]
  warmup: 2
  validate_every: 2
  save_every: 2
  held_out: 0.2
  seed: 1
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    tiny_cells(40).write_h5ad(folder / "cells.h5ad")
    path = folder / "tiny.yaml"
    path.write_text("out: made\nnote: A note of ours.\ndata: {name: cells.h5ad}\n" + SETTINGS)
    return path
