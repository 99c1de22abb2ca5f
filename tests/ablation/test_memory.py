"""Sweeps, attribution, patching and references that run out of memory: the same numbers from smaller batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import make_tokens, tiny_model

from workbench.ablation.attribution import attribute
from workbench.ablation.metrics import cell_shift, masked_error
from workbench.ablation.patching import activation_patching
from workbench.ablation.reference import build_reference, needed_hooks
from workbench.ablation.sites import Ablation, all_heads
from workbench.ablation.study import INTACT, Study, evaluate, intact_cells
from workbench.errors import CellsError


def limit(model, most: int):
    """From now on a pass of more cells than so many ends in the middle."""
    mlp = model.blocks[1].mlp
    whole = mlp.forward

    def forward(x):
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(x)

    mlp.forward = forward
    return model


@pytest.fixture
def tokens():
    tokens = make_tokens(12, 12, padded=False, seed=2)
    padding = tokens.padding.clone()
    padding[::3, 8:] = True
    return replace(tokens, padding=padding, cell_ids=tuple(f"cell{i}" for i in range(12)))


def study(model, tokens, grid):
    references = [build_reference(model, tokens, needed_hooks(grid), 6) for _ in range(2)]
    return Study(model, tokens, (cell_shift(), masked_error()), *references, batch_size=6, seed=3)


def test_a_sweep_goes_on_in_smaller_batches_and_keeps_to_them(tokens, capsys):
    grid = [Ablation("L0H1", "zero"), Ablation("L1H2", "mean"), Ablation("L2H0", "resample", seed=4)]
    wanted = evaluate(study(tiny_model(2), tokens, grid), grid, range(12))
    small = study(tiny_model(2), tokens, grid)
    limit(small.model, 2)
    first, second = evaluate(small, grid, range(7)), evaluate(small, grid, range(7, 12))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "[memory] no room for 6 cells at a time; going on with 3",
        "[memory] no room for 3 cells at a time; going on with 1",
    ]
    found = (
        pd.concat([first, second])
        .set_index(["ablation", "row"])
        .loc[list(zip(wanted["ablation"], wanted["row"], strict=True))]
    )
    assert set(wanted["ablation"]) == {INTACT, *(one.key for one in grid)}
    for name in ("cell_shift", "masked_error", "fallbacks", "fallbacks_masked"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6)


def test_references_embeddings_attribution_and_patching_do_too(tokens, capsys):
    whole, small = tiny_model(2), limit(tiny_model(2), 4)
    hooks = needed_hooks(all_heads(whole.config, "mean"))
    wanted, found = (build_reference(model, tokens, hooks, 12) for model in (whole, small))
    for hook, mean in wanted.means.items():
        torch.testing.assert_close(found.means[hook], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(intact_cells(small, tokens), intact_cells(whole, tokens), rtol=1e-5, atol=1e-6)
    estimates = [
        attribute(Study(model, tokens, (masked_error(),), wanted, wanted, batch_size=12), masked_error(), range(12))
        for model in (whole, small)
    ]
    np.testing.assert_allclose(estimates[1], estimates[0], rtol=1e-4, atol=1e-6)
    others = replace(make_tokens(6, 12, padded=False, seed=9), cell_ids=tuple(f"other{i}" for i in range(6)))
    tables = [activation_patching(model, tokens, others, sites=["L0H1", "L2H3"], draws=20) for model in (whole, small)]
    np.testing.assert_allclose(tables[1]["moved"], tables[0]["moved"], rtol=1e-4)
    assert capsys.readouterr().err.count("[memory]") >= 4
    with pytest.raises(CellsError, match="too little memory"):
        intact_cells(limit(tiny_model(2), 0), tokens)
