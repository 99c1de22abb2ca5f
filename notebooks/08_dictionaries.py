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
# # Take activations apart into features
#
# **Result.** Of what a gene's name leaves, the dictionary explains 0.55 (95 % 0.53 to 0.57), and the largest 16 of PCA 0.61. The usual rule names
# 0.24 of features and 0.18 of random directions of the cells; beyond these 0 have a name. Of three features none does more than those that are
# alike (smallest q 0.68).
#
# You will learn to train a sparse dictionary of one layer, to judge it beside a gene's name alone and simpler codes, to name its features beside
# random directions of the cells, to put it into the model and take a feature away, and to compare what that does with features that are alike.
#
# Training takes SAELens (`pip install ".[dictionaries]"`); everything else takes the package alone. One layer and three passes over 560 cells, so that it
# takes about a minute: `workbench dictionary experiments/dictionary_blood_mini.yaml` does all layers, other seeds and controls.

# %%
from pathlib import Path

import torch

import workbench
from workbench import dictionaries

here = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "artifacts").is_dir())
# Of your own: a checkpoint's folder, an h5ad, and what its columns mean: workbench.CellMapping(cell_type="...", donor="...").
checkpoint, data, mapping, seed = root / "artifacts" / "scgpt-blood-mini", "pbmc68k", None, 0
model, cells = workbench.load_model(checkpoint), workbench.load(data, mapping)


def show(table, *columns):
    """Print some columns of a table."""
    print(table[list(columns) or table.columns].to_string(index=False, float_format="{:.3g}".format))


# %% [markdown]
# ## Train
# A fifth of the cells is held out: whole donors, where the cells name them. A row of an activation belongs to a gene of a cell; `<cls>` and padding have none.

# %%
split = dictionaries.split_cells(cells)
train, held_out = cells[split.train], cells[split.test]
hook = f"blocks.{model.config.n_layers // 2}.hook_resid_post"
asked = dictionaries.DictionaryConfig(width=256, k=16, rows=1024, epochs=3)
dictionary = workbench.train_dictionaries(model, train, hook, asked, seed=seed, progress=False)[hook]
print(
    f"{dictionary.width} features of {hook}, {asked.k} active; {len(split.train)} cells trained on, {len(split.test)} held out"
)

# %% [markdown]
# ## Judge: does it know more than the gene's name?
# Variance explained says little by itself. `within_genes` is what is explained around each gene's mean: 0 is a table of one mean per gene, below 0 is worse.

# %%
judged = dictionary.judge(model, held_out, train, n_cells=100, progress=False)
show(judged.codes)
summary = judged.summary
print(
    f"beyond each gene's mean {summary['within_genes']:.2f} (95 % {summary['within_low']:.2f} to {summary['within_high']:.2f}, n = "
    f"{summary['n_cells']} cells); dead {100 * summary['dead']:.1f} %"
)

# %% [markdown]
# With the reconstruction in the stream's place the model goes on: how much of the loss does it recover, beside the gene's mean in that place?

# %%
show(judged.losses, "metric", "replaced_by", "loss", "recovered_zero")

# %% [markdown]
# ## Name, beside random directions of the cells
# The usual rule names a feature whose top genes are over-represented in some gene set. So are those on top of
# random directions of the cells, whose genes go together: `rule_random`. `named` counts what does better than these.

# %%
sets = workbench.load_gene_sets("hematopoiesis")
names = dictionaries.name_features(
    model, held_out, dictionary, sets, cell_type="cell_type", draws=500, ranked_draws=100, seed=seed
)
show(names.summary)
best = names.features.sort_values("p", kind="stable").head(6)
show(best, "feature", "genes", "program", "overlap", "p", "q", "cell_type")

# %% [markdown]
# ## Put it into the model
# With `error=True` what the dictionary leaves out stays in, and the model computes what it did. Then one feature alone can be taken away.

# %%
feature = int(best["feature"].iloc[0])
few = held_out[:8]
with torch.no_grad():
    intact = model(few).cell
    with model.spliced({dictionary.hook: dictionary}, error=True):
        same = model(few).cell
        with model.hooks([(f"{dictionary.hook}.hook_features", dictionaries.edit_features([feature], scale=0))]):
            without = model(few).cell
print(
    f"largest change of the cell embedding: {float((same - intact).abs().max()):.0e} spliced, {float((without - intact).abs().max()):.0e} without F{feature}"
)

# %% [markdown]
# ## What features cause, beside features that are alike
# Three features, the first ones with a name's smallest p: chosen by their genes, not by what they do. Their null is other features that fire as often
# and are as strong.

# %%
tested = sorted(best["feature"].head(3).tolist())
effects = workbench.feature_effects(
    model, held_out, dictionary, tested, metrics=["cell_shift"], null_draws=40, n_cells=40, seed=seed
)
show(effects, "feature", "rate", "n_alike", "effect", "low", "high", "null_low", "null_high", "p", "q")
workbench.figures.feature_intervals(effects).show()

# %% [markdown]
# ## What could be wrong with this
# - Three passes are a short training. Ten explain more, in front of PCA in the late layers; `docs/dictionaries.md` has both.
# - Features are not the same twice: another seed finds hardly any of them again, so tell no story of a single one.
# - Held-out cells are of the same sample and day where there are no donors. Intervals are over cells then, and new donors are another matter.
# - A name is what top genes have in common. It does not say what the model uses the feature for.
# - The null of effects is the dictionary's own features. With three features of forty that are alike, p is at least 1/41; no difference found is not
#   no difference.
# - The mini checkpoint is small, and none of these cells was trained on. It says nothing about the released models.
