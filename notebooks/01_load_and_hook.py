# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
# ---

# %% [markdown]
# # Load a scGPT checkpoint and look inside
#
# You will learn to read a checkpoint, tokenise real cells, record activations, and switch a head off. Replace the two paths
# by your own checkpoint folder and h5ad: nothing else changes.

# %%
from pathlib import Path

import workbench
from workbench.capture import MemorySink, MomentsSink, Only, capture

root = Path(__file__).resolve().parents[1] if "__file__" in globals() else Path("..")
model = workbench.load_checkpoint(root / "artifacts" / "scgpt-blood-mini")
cells = workbench.load("pbmc68k")[:64].copy()
print(model.report.layout, model.report.n_parameters, "parameters;", cells.shape, "cells x genes")

# %% [markdown]
# ## Tokens
# What a cell becomes depends on the seed and its name only, never on batch or order.

# %%
tokenizer = workbench.Tokenizer(cells, model.config, model.vocabulary, seed=0)
print(tokenizer.match)
print(tokenizer.values)
tokens = tokenizer.tokens(0, 8)
outputs, cache = model.run_with_cache(
    tokens, names_filter=["blocks.0.attn.hook_pattern", "blocks.5.hook_resid_post"], outputs=("cell", "expression")
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
    [Only("blocks.*", moments), Only("hook_cell", memory)],
    progress=False,
)
n, mean, covariance = moments.result("blocks.5.hook_resid_post")
print(report.n_cells, "cells,", n, "gene tokens, covariance", covariance.shape)

# %% [markdown]
# ## Switch a head off
# A hook returns what the model shall use instead. It is gone after the `with` block, also after an error.


# %%
def silence_head_2(z, hook):
    """Replace head 2 by nothing."""
    z = z.clone()
    z[:, :, 2] = 0
    return z


clean = model(tokens).cell
with model.hooks(fwd_hooks=[("blocks.3.attn.hook_z", silence_head_2)]):
    silenced = model(tokens).cell
print("largest change of a cell embedding:", float((clean - silenced).abs().max()))

# %% [markdown]
# ## What could be wrong with a conclusion from here
# One head of a small model on 8 cells, zeroed rather than replaced by its mean: a change says that the head writes something,
# not what. scGPT is post-norm: the change is rescaled by every LayerNorm after it.
