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
# # A real checkpoint and your atlas
#
# **Result.** With what ships, 0 of 24 heads are above plain expression (0.77) in a screen of 96 cells with 4 splits. The first is below it
# by less than the spread over splits; 48 null draws reach 0.40. That says nothing of a released model or of an atlas.
#
# You will learn to do all of it with your own files: say what a checkpoint holds, see which genes match, estimate memory before anything
# runs, screen all heads on a subsample, and start the full run.
#
# Set these before starting (or edit the cell below); without them the notebook takes what ships, and says so:
#
#     WORKBENCH_CHECKPOINT   folder with args.json, vocab.json and best_model.pt
#     WORKBENCH_CELLS        an h5ad
#     WORKBENCH_CELL_TYPE, WORKBENCH_DONOR, WORKBENCH_TISSUE, WORKBENCH_BATCH   columns of obs, where it has them
#     WORKBENCH_LAYER, WORKBENCH_GENE_COLUMN   where values (X, raw, a layer) and gene symbols (a column of var) are
#     WORKBENCH_VALUES, WORKBENCH_DEPTH   what the values are (counts, log1p:10000, ...), or the column of obs with each cell's counts
#                                         over all genes: where the file holds only some genes and so does not show it

# %%
import os
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

import workbench

here = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "artifacts").is_dir())
names = ("layer", "values", "depth", "gene_column", "cell_type", "donor", "tissue", "batch")
given = {name: os.environ.get(f"WORKBENCH_{name.upper()}") for name in names}
columns = {name: value for name, value in given.items() if value}
checkpoint = Path(os.environ.get("WORKBENCH_CHECKPOINT") or root / "artifacts" / "scgpt-blood-mini")
data = os.environ.get("WORKBENCH_CELLS") or "pbmc68k"
mapping = workbench.CellMapping(**columns) if "WORKBENCH_CELLS" in os.environ else None
seed, n_cells, n_genes, n_anchor_cells = 0, 96, 150, 2000
for variable, shipped in (("WORKBENCH_CHECKPOINT", "the mini checkpoint"), ("WORKBENCH_CELLS", "700 blood cells")):
    if not os.environ.get(variable):
        print(
            f"{variable} is not set: using what ships ({shipped}). Nothing below says anything of a released model or an atlas."
        )


def show(table, *columns):
    """Print some columns of a table."""
    print(table[list(columns) or table.columns].to_string(index=False, float_format="{:.3g}".format))


# %% [markdown]
# ## Device and number type
# The weights go where you say, and everything follows. On a GPU `dtype=torch.bfloat16` halves the memory of the weights; operators are summed
# in float32 all the same. It has three digits: repeat what matters in float32, and stay with float32 for ablations, whose effects are small differences.

# %%
model = workbench.load_model(checkpoint, device="auto")
print(model.device, model.dtype)

# %% [markdown]
# ## What the checkpoint holds
# `missing` should be 0 for the encoder; decoders and classifiers may be absent. From a shell: `workbench inspect FOLDER`. The sha256 says
# whether it is the file that you think it is.

# %%
print(
    workbench.models.describe_text(workbench.models.describe(checkpoint)).replace(
        f"{checkpoint}:", f"{checkpoint.name}:"
    )
)

# %% [markdown]
# ## Cells, and which genes match
# The matrix stays on the disk and is read in blocks. Genes are matched by symbol: if few match, the names may be Ensembl ids, and symbols
# stand in a column of var (`WORKBENCH_GENE_COLUMN`). Genes that the model does not know are left out, which is a loss that nothing later shows.

# %%
cells = workbench.load(data, mapping, backed=True)
tokenizer = model.tokenizer(cells, seed=seed)
print(f"{cells.shape[0]} cells x {cells.shape[1]} genes; columns: {', '.join(cells.obs.columns) or 'none'}")
print(tokenizer.match)
print(tokenizer.values)
for kind, found in tokenizer.match.to_dict().items():
    if isinstance(found, dict) and found.get("n"):
        print(f"  {kind}: {found['n']}, the first {', '.join(found['first'])}")
lengths = tokenizer.lengths()
cut = (lengths >= tokenizer.max_tokens).mean()
print(
    f"tokens of a cell: mean {lengths.mean():.0f}, sd {lengths.std():.0f}, largest {lengths.max()} of {tokenizer.max_tokens} (n = {len(lengths)})"
)
print(f"{cut:.0%} of the cells have as many tokens as fit: of larger ones a random part of the genes is read")
for name in ("cell_type", "donor", "tissue"):
    if name in cells.obs:
        counts = cells.obs[name].value_counts()
        print(f"{name}: {len(counts)}, from {counts.min()} to {counts.max()} cells")
if "donor" not in cells.obs:
    print("no donors are named: nothing below can say whether it holds for another donor")

# %% [markdown]
# ## Memory, before anything runs
# Operators take groups x heads x panel x panel x 4 bytes, whatever the number of cells; attention maps of one batch come on top, and the
# screen holds the panel's expression.


# %%
def estimate(layers, heads, width, genes, tokens, batch, groups=10):
    """GiB of the largest parts of a run."""
    return {
        "heads": f"{layers} x {heads}",
        "genes": genes,
        "operators": groups * layers * heads * genes**2 * 4 / 2**30,
        "attention of a batch": batch * heads * tokens**2 * 4 / 2**30,
        "stream of a batch": batch * tokens * width * 4 / 2**30,
        "expression, dense": cells.shape[0] * genes * 4 / 2**30,
    }


rows = workbench.ablation.choose_rows(cells.obs_names.to_list(), n_cells, seed)
sample = cells[np.array(rows)].copy()
shape = (model.config.n_layers, model.config.n_heads, model.config.d_model)
tokens = int(lengths.max())
rows = [estimate(*shape, size, tokens, 8) for size in (n_genes, min(1200, len(tokenizer.match.genes)))]
rows.append(estimate(12, 8, 512, 1200, 1200, 8))
show(pd.DataFrame(rows).assign(unit="GiB, 10 groups of cells, batches of 8"))

# %% [markdown]
# The last row is a model of 12 x 8 heads and width 512 with 1,200 genes. `capture` makes its own estimate first and refuses what does not fit.
#
# ## How long
# A pass over some cells, after one over a few to warm up, tells how long all of them take. On another device or at another load it is another
# number.

# %% tags=["machine"]
own = model.tokenizer(sample, seed=seed)
for part in (model.tokenizer(sample[:8], seed=seed), own):
    told = workbench.capture.capture(model, part, "hook_cell", workbench.MemorySink(), progress=False)
each = told.seconds / told.n_cells
print(
    f"about {each * 1000:.0f} ms a cell (one pass over {told.n_cells} cells, no spread known): {each * len(cells) / 3600:.2g} h for all {len(cells)}"
)

# %% [markdown]
# ## A first screen, on a subsample
# Mean attention of every head over few cells (drawn by name), then each head alone: does a latent made of it follow the ruler on anchors
# that the adaptor never saw? Two controls stand beside it. Anchors come from more cells than the passes, because they cost nothing.

# %%
panel = workbench.choose_panel(cells, tokenizer.match, n_genes)
pairs = workbench.GenePairSink(panel, model.vocabulary)
workbench.capture.capture(
    model, own, [workbench.capture.PATTERNS], [workbench.HookFilter(workbench.capture.PATTERNS, pairs)], progress=False
)
result = pairs.result()
operators = workbench.operators.DenseOperators(result.mean())
off = ~np.eye(len(panel), dtype=bool)
seen = result.counts[off]
print(
    f"{len(sample)} cells; a pair of genes was seen in {np.median(seen):.0f} of them (median; 5 % in {np.quantile(seen, 0.05):.0f} or fewer)"
)

# %%
screen, why = None, ""
ruler = workbench.load_ruler("hematopoiesis")
if "cell_type" not in cells.obs:
    why = "the cells have no cell type column: set WORKBENCH_CELL_TYPE"
else:
    keep = np.array(workbench.ablation.choose_rows(cells.obs_names.to_list(), n_anchor_cells, seed))
    more = cells[keep].copy()
    obs = more.obs.copy()
    obs["stage"], unknown = ruler.place(obs["cell_type"])
    for label in unknown:
        print(f"label on no stage of the ruler, left out: {label} ({ruler.hint(label)})")
    expression = workbench.cells.panel_expression(more, panel)
    try:
        anchors = workbench.make_anchors(expression, obs, min_cells=5, parts=1 if "donor" in obs else 3, seed=seed)
    except workbench.errors.EvaluationError as error:
        why = str(error)
if not why:
    adaptor = workbench.LETAdaptor(k=4)
    splits = list(workbench.evidence.random_splits(len(anchors), 4, seed))

    def score(matrix, refits):
        """Random holdouts of the anchors under a feature map."""
        return workbench.evidence.holdout_correlation(
            anchors.centroids @ matrix,
            anchors.stage,
            ruler.distances,
            lambda _: splits,
            adaptor,
            refits=refits,
            seed=seed,
        )

    at = list(np.ndindex(*operators.shape))
    scored = [score(operators.head(*one), 2) for one in at]
    null = np.concatenate([draws for _, draws in scored])
    screen = pd.DataFrame(
        [
            {"layer": i, "head": j, **workbench.evidence.with_null(row, null)}
            for (i, j), (row, _) in zip(at, scored, strict=True)
        ]
    )
    screen = screen.assign(q=workbench.stats.benjamini_hochberg(screen["p"].to_numpy()), n_anchors=len(anchors))
    best = screen.sort_values("spearman", ascending=False)
    controls = {
        name: score(workbench.operators.control(name, operators.head(*at[0]), expression, seed), 0)[0]
        for name in (workbench.operators.IDENTITY, workbench.operators.GAUSSIAN)
    }
    bare = {name: row["spearman"] for name, row in controls.items()}
    show(best.head(5), *"layer head spearman sd n_splits n_anchors null_mean null_high n_null p q".split())
    for name, row in controls.items():
        print(f"{name}: {row['spearman']:.3g} (sd {row['sd']:.3g}, n = {row['n_splits']} splits)")
    print(f"{(screen['spearman'] > bare[workbench.operators.IDENTITY]).sum()} of {len(screen)} heads are above x itself; the first by "
          f"{best['spearman'].iloc[0] - bare[workbench.operators.IDENTITY]:.2g}, where sd over splits is {best['sd'].iloc[0]:.2g} and {controls[workbench.operators.IDENTITY]['sd']:.2g}")  # fmt: skip
else:
    print("no screen:", why)

# %%
workbench.figures.head_map(screen, bare) if screen is not None else None

# %% [markdown]
# Above the null means that the ruler is in it. Above x itself would mean that the model put it there; of many heads some are above by chance,
# by about as much as the spread over splits. `workbench run` compares with controls fold by fold, with intervals, and a screen that finds
# no head above x itself is a result, and reason to think before the full run.
#
# ## The full run
# The same configurations with other paths and columns. With a donor column whole donors are held out (of fewer than five donors,
# `--set evaluation.folds=N`); a run that was interrupted goes on.

# %%
changes = [f"checkpoint={checkpoint}"] if os.environ.get("WORKBENCH_CHECKPOINT") else []
if mapping is not None:
    changes += [f"data.name={data}", *(f"data.{name}={value}" for name, value in columns.items()), "data.backed=true"]
shared = " ".join(f"--set {shlex.quote(change)}" for change in changes)
size, parts = min(1200, len(tokenizer.match.genes)), 1 if "donor" in cells.obs else 6
sets = f"--set panel.size={size} --set anchors.parts={parts}"
print(f"workbench run experiments/demo.yaml --out my_run {sets} {shared}")
print(f"workbench ablate experiments/ablation_blood_mini.yaml --out my_ablation --dry-run --set contrasts=[] {shared}")
print("workbench apply my_run/algorithm my_atlas.h5ad --out my_atlas.labels.h5ad")

# %% [markdown]
# On a machine with a GPU these commands use it by themselves (`--dtype bfloat16` halves the memory); or do the passes in Python as above (then `capture` with
# `state=FOLDER`, so that it may be interrupted); fits of adaptors and readouts run on the CPU.
#
# ## What could be wrong with this
# - A screen on so few cells is for choosing what to do next. Its best head was chosen by the number that is shown, which is biased upward.
# - Pairs of genes that few cells express together have operators made of noise. The number of cells per pair is printed for that reason.
# - Weak null: two refits per head, pooled over heads that share anchors and splits, and four splits whose sd is over the same anchors.
# - The anchors' cells may be the sample's: no label was looked at, yet it is not independent. Without donors, parts of a label are
#   no replicates, and a random holdout of them is easy.
# - The panel holds the genes that most cells express. What a head does with rare genes is not in it.
# - Labels of an atlas were often made from the same genes, or by a model. Agreement of an operator with them may be circular.
# - A checkpoint that loads is not thereby the one you think: compare the sha256 with the source, and know what it was trained on. If the
#   atlas was in its training data, nothing here is out of sample.
# - Batch effects and tissues go through the operator like anything else. `workbench gates` regresses them out, this screen does not.
