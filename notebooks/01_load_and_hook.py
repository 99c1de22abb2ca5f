# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Load a scGPT checkpoint and look inside
#
# You will learn to read a checkpoint, tokenise real cells, record activations, and switch a head off, beside a random change of
# the same size. Replace the two paths by your own checkpoint folder and h5ad: nothing else changes.

# %%
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import workbench
from workbench.capture import HookFilter, MemorySink, MomentsSink, capture
from workbench.seeds import generator

here = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "artifacts").is_dir())
checkpoint, data = root / "artifacts" / "scgpt-blood-mini", "pbmc68k"
model = workbench.load_model(checkpoint)
cells = workbench.load(data)[:64].copy()
print(model.report.layout, model.report.n_parameters, "parameters;", cells.shape, "cells x genes")

# %% [markdown]
# ## Tokens
# What a cell becomes depends on the seed and its name only, never on batch or order.

# %%
tokenizer = model.tokenizer(cells, seed=0)
print(tokenizer.match)
print(tokenizer.values)
tokens = tokenizer.tokens(0, 8)
last = f"blocks.{model.config.n_layers - 1}.hook_resid_post"
outputs, cache = model.run_with_cache(
    tokens, names_filter=["blocks.0.attn.hook_pattern", last], outputs=("cell", "expression")
)
print({name: tuple(value.shape) for name, value in cache.items()})

# %% [markdown]
# ## Record many cells in one pass
# Names may be wildcards; each sink takes its part. Padding is never recorded.

# %%
moments, memory = MomentsSink(), MemorySink()
report = capture(
    model,
    tokenizer,
    ["blocks.*.hook_resid_post", "hook_cell"],
    [HookFilter("blocks.*", moments), HookFilter("hook_cell", memory)],
    progress=False,
)
n, mean, covariance = moments.result(last)
print(report.n_cells, "cells,", n, "gene tokens, covariance", covariance.shape)

# %% [markdown]
# ## Switch a head off
# A hook returns what the model shall use instead. It is gone after the `with` block, also after an error.

# %%
layer = model.config.n_layers // 2
place = f"blocks.{layer}.attn.hook_z"
clean = model(tokens).cell


def turned(head, rotation):
    """Take away a head's result, turned by a matrix first; the identity takes away the result itself."""

    def function(z, hook):
        z = z.clone()
        z[:, :, head] -= z[:, :, head] @ rotation
        return z

    return function


def shift(head, rotation):
    """How far each cell embedding turns: 1 - cosine."""
    with model.hooks(fwd_hooks=[(place, turned(head, rotation))]):
        return (1 - torch.cosine_similarity(clean, model(tokens).cell, dim=1)).numpy()


print(
    "largest shift when nothing is taken away:", shift(0, torch.zeros(model.config.d_head, model.config.d_head)).max()
)

# %% [markdown]
# ## Is that much?
# Any change of this size turns the cell embedding. So each head is beside random changes of the same norm at the same place: what
# silencing takes away, turned by a random rotation. A head inside the range of its null does no more than noise would.

# %%
rows, draws = [], 8
width = model.config.d_head
for head in range(model.config.n_heads):
    own = shift(head, torch.eye(width))
    null = []
    for draw in range(draws):
        noise = generator(0, "rotation", str(head), str(draw)).standard_normal((width, width))
        null.append(shift(head, torch.as_tensor(np.linalg.qr(noise)[0], dtype=torch.float32)).mean())
    row = {"head": f"L{layer}H{head}", "shift": own.mean(), "sd": own.std(ddof=1), "n_cells": len(own)}
    rows.append({**row, "null_low": min(null), "null_high": max(null), "n_null": draws})
table = pd.DataFrame(rows)
print(table.to_string(index=False, float_format="{:.2g}".format))
beyond = (table["shift"] > table["null_high"]).sum()
print(f"{beyond} of {len(table)} heads of layer {layer} are above all {draws} of their null draws")

# %% [markdown]
# ## What could be wrong with this
# - 8 cells, the first of the file, and few null draws: with 8 draws no p can be below 1 / 9, and four heads are four chances.
#   `02_ablate.py` does it with intervals over cells and a correction for the number of heads.
# - Zero is not what the rest of the model is used to. A head that writes nearly the same into every cell looks important when it is
#   zeroed and harmless when it is replaced by its mean.
# - A shift says that the head writes something, not what, and not whether anything that reads the cell embedding cares.
# - scGPT is post-norm: every change is rescaled by each LayerNorm after it, so shifts of early and late layers do not compare.
# - With the checkpoint that ships, this is a small model trained on few cells. It says nothing about the released ones.
