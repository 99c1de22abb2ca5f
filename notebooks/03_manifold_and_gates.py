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
# # Manifolds, holdouts and the gates
#
# **Result.** On 5 held-out splits the model's operator follows the ruler less well (0.67) than plain expression (0.73) or a random matrix
# (0.76); 19 relabelled fits reach 0.66. In a planted world of 3 donors the planted head is number 1 of 8, with an interval above that of
# expression.
#
# You will learn to make anchors and a ruler, to measure the dimension of a point cloud and how well an embedding keeps neighbourhoods, to
# hold anchors out beside a null, and to put cells through the seven gates: real cells, where the truth is unknown, and a planted world,
# where it is known.
#
# The numbers are small on purpose (160 cells for the model, a panel of 120 genes, few null draws), so that it takes about a minute.

# %%
from pathlib import Path

import numpy as np
import pandas as pd

import workbench
from workbench import evidence, operators

here = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "artifacts").is_dir())
# Of your own: a checkpoint's folder, an h5ad, and what its columns mean: workbench.CellMapping(cell_type="...", donor="...").
checkpoint, data, mapping, seed = root / "artifacts" / "scgpt-blood-mini", "pbmc68k", None, 0
n_cells, n_genes = 160, 120
model, cells = workbench.load_model(checkpoint), workbench.load(data, mapping)
order = workbench.seeds.generator(seed, "notebook cells").permutation(cells.shape[0])
few = cells[np.sort(order[:n_cells])].copy()


def show(table, *columns):
    """Print some columns of a table."""
    print(table[list(columns) or table.columns].to_string(index=False, float_format="{:.3g}".format))


# %% [markdown]
# ## Anchors and the ruler
# The ruler is a stage graph from the literature: distances between stages are paths along it. No expression value has a part in it.
# Anchors are centroids of cells of one donor, tissue, label and stage. These data name no donors, so each label is split at random
# into parts, which share everything but the cells: they are no replicates.

# %%
ruler = workbench.load_ruler("hematopoiesis")
tokenizer = model.tokenizer(cells, seed=seed)
panel = workbench.choose_panel(cells, tokenizer.match, n_genes)
expression = workbench.cells.panel_expression(cells, panel)
obs = cells.obs.copy()
obs["stage"], unknown = ruler.place(obs["cell_type"])
anchors = workbench.make_anchors(expression, obs, min_cells=5, parts=3, seed=seed)
print(f"{len(anchors)} anchors of {len(cells)} cells; labels that are on no stage: {', '.join(unknown) or 'none'}")
told = anchors.table.assign(
    stage=[ruler.stages[s] for s in anchors.stage], branch=[ruler.branches[s] for s in anchors.stage]
)
show(told.groupby(["cell_type", "stage", "branch"])["n_cells"].agg(anchors="size", cells="sum").reset_index())

# %% [markdown]
# ## What the model makes of some cells
# One pass gives the cell embeddings and the mean attention between genes of the panel, head by head.

# %%
pairs, memory = workbench.GenePairSink(panel, model.vocabulary), workbench.MemorySink()
workbench.capture.capture(
    model,
    model.tokenizer(few, seed=seed),
    [workbench.capture.PATTERNS, "hook_cell"],
    [workbench.HookFilter(workbench.capture.PATTERNS, pairs), workbench.HookFilter("hook_cell", memory)],
    progress=False,
)
embedding = memory.result().values["hook_cell"].astype(np.float64)
attended = operators.DenseOperators(pairs.result().mean())
drift = operators.feature_map(attended, operators.FeatureMapSpec("drift"))
print("cell embeddings", embedding.shape, "operators", attended.array.shape, "drift feature map", drift.shape)

# %% [markdown]
# ## Dimension, by several estimators
# Estimators disagree, each with a bias of its own; one number alone means little. Intervals are over random halves of the cells. The
# null has the same principal components with each column permuted by itself: the same variances, and nothing that ties them together.

# %%
plain = np.asarray(workbench.cells.panel_expression(few, panel).todense(), dtype=np.float64)


def permuted(x):
    """The same variances along the principal axes, each axis permuted by itself."""
    centred = x - x.mean(0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return np.column_stack(
        [workbench.seeds.generator(seed, "columns", str(i)).permutation(column) for i, column in enumerate((u * s).T)]
    )


spaces = {"panel expression": plain, "cell embedding": embedding, "cell embedding, permuted": permuted(embedding)}
dimensions = pd.concat(
    [workbench.geometry.dimension_table(x, n_subsamples=10, seed=seed).assign(space=name) for name, x in spaces.items()]
)
show(dimensions, "space", "estimator", "dimension", "low", "high", "n", "k")

# %%
workbench.figures.dimension_agreement(dimensions)

# %% [markdown]
# A few hundred points cannot show a high dimension: local PCA never exceeds the neighbours that it uses, and the others fall short the more
# the higher the truth, so the row of the expression is a lower bound. Where the permuted cloud has as many dimensions, the number comes
# from the variances alone, as the participation ratio always does; below it, something ties the axes together. TwoNN looks at the two
# nearest neighbours only, where noise is most of what there is, and often comes out higher than the rest.
#
# ## Does the embedding keep neighbourhoods?
# Trustworthiness is low when cells that are near in the embedding are far in expression; continuity when neighbours are torn apart. The
# null is the embedding with its rows permuted.

# %%
ks = (5, 10, 20, 40)
quality = workbench.geometry.embedding_quality(plain, embedding, ks).table()
shuffles = [workbench.seeds.generator(seed, "rows", str(i)).permutation(len(embedding)) for i in range(10)]
null = np.array(
    [workbench.geometry.embedding_quality(plain, embedding[s], ks).table()["trustworthiness"] for s in shuffles]
)
quality = quality.assign(null=null.mean(0), null_high=null.max(0), n=len(embedding), space="cell embedding")
show(quality, "k", "trustworthiness", "continuity", "null", "null_high", "n")

# %%
workbench.figures.trust_curve(quality)

# %% [markdown]
# ## A holdout with its null
# An adaptor is fitted on some anchors, and its latent angles are compared with the ruler on anchors that it never saw. In the null
# the stages change places, anchors of one stage together, and everything is fitted again: recognising cell types is worth as much there,
# only following the ruler is not. Beside the model stand x itself and a random matrix. A branch holdout is harder: a whole branch is
# missing when the adaptor is fitted. The null of the random holdout lies above zero because two anchors of one stage are near in every
# draw; that much is had for recognising cell types.

# %%
adaptor = workbench.LETAdaptor(k=4)
maps = {
    "drift": drift,
    **{name: operators.control(name, drift, expression, seed) for name in (operators.IDENTITY, operators.GAUSSIAN)},
}
branches = np.array(ruler.branches)
kinds = {
    "random": lambda stage: list(evidence.random_splits(len(stage), 5, seed)),
    "branch": lambda stage: list(evidence.group_splits(branches[stage], against_rest=True)),
}
rows = []
for name, matrix in maps.items():
    for kind, splits in kinds.items():
        found, null = evidence.holdout_correlation(
            anchors.centroids @ matrix, anchors.stage, ruler.distances, splits, adaptor, refits=19, seed=seed
        )
        rows.append({"operator": name, "holdout": kind, **evidence.with_null(found, null)})
table = pd.DataFrame(rows)
show(table, "holdout", "operator", "spearman", "sd", "n_splits", "n_pairs", "null_mean", "null_high", "n_null", "p")
for kind, part in table.groupby("holdout", sort=False):
    first = part.loc[part["spearman"].idxmax(), "operator"]
    print(
        f"{kind}: '{first}' is highest"
        + ("" if first == "drift" else ", so the model's operator adds nothing to it here")
    )

# %%
workbench.figures.holdouts(table, baselines=(operators.IDENTITY, operators.GAUSSIAN))

# %% [markdown]
# The picture below is of anchors that the adaptor *was* fitted on. It looks better than any holdout, which is why the holdouts count.

# %%
between = ruler.distances[np.ix_(anchors.stage, anchors.stage)]
z = adaptor.fit_transform(anchors.centroids @ drift, between)
workbench.figures.ruler_against_latent(workbench.geometry.stage_distances(operators.angles(z), anchors.stage, ruler))

# %% [markdown]
# ## The gates on real cells
# Seven questions with thresholds that were fixed before anybody looked; their hash stands beside every result. A gate that cannot be
# computed is no pass: without donors there is no donor holdout, and without a second tissue no cohort that is expected to fail.
#
# The frozen gates take many refits. Here a smaller spec with a hash of its own stands in, which asks less: what passes it has not passed
# the gates, and may well fail them. `workbench gates` knows the frozen spec only; what it says of these cells is in `docs/gates.md`.

# %%
small = evidence.GateSpec(null_rulers=19, null_p=0.05, random_splits=5)
print(f"frozen spec {evidence.SPEC.hash}, the one used here {small.hash}")
rows = []
for name, matrix in (("drift", drift), (operators.IDENTITY, maps[operators.IDENTITY])):
    for gate in evidence.evaluate(
        evidence.AnchorSet.of_cohort(anchors.centroids @ matrix, anchors),
        ruler,
        adaptor,
        seed=seed,
        refits=9,
        spec=small,
    ):
        rows.append({"cohort": name, "role": "internal", "spec": small.hash, **vars(gate)})
gates = pd.DataFrame(rows)
show(gates, "cohort", "gate", "status", "value", "rule", "threshold", "sd", "n", "null_high", "n_null", "p")

# %%
workbench.figures.gate_table(gates)

# %% [markdown]
# Read the two rows together. Gates that x itself passes say something of the cells and of the ruler, not of the model. And a gate
# may pass while its null reaches nearly as high: the threshold asks whether it is large enough to be of use, p whether chance does it.
#
# ## The gates where the truth is known
# A planted world: synthetic counts in which three programs follow the stage graph among much that does not, and a checkpoint in which
# one head encodes that graph while all others are random with the same norms. Nothing of it is real. It is here to see whether the
# instruments find what is there, and nothing where nothing is. This one is small; `docs/planted_world.md` has twenty of full size, and
# `workbench.write_world(folder, seed)` writes one as files for `workbench gates folder/gates.yaml`.

# %%
shape = workbench.planted.WorldShape(
    branches=("monocyte", "B", "T"), stages_per_branch=4, n_nuisance=6, n_background=20, cells_per_group=5
)
world = workbench.planted.make_world(5, shape=shape)
planted = workbench.planted.plant_world(world, 5, n_layers=2, n_heads=4, d_model=32)
donors = {"internal": ("D1", "D2", "D3"), "external": ("D4", "D5", "D6")}
internal, external = (
    workbench.planted.placed_cells(world, workbench.planted.planted_cells(world, who)) for who in donors.values()
)
off_graph = workbench.planted.placed_cells(
    world, workbench.planted.planted_cells(world, ("E1", "E2"), ("lung",), signal="off graph")
)
heads = workbench.weight_operators(planted.model, world.genes, "qk").dense()
print(
    f"{internal.expression.shape} planted cells x genes, {len(internal.anchors)} anchors, {len(world.stages)} stages, 3 donors"
)

# %% [markdown]
# Every head alone, fitted on one set of donors and judged on others, with donor and tissue regressed out. Does the planted one come first,
# and is it above plain expression?

# %%
rows, draws = [], []
for layer, head in np.ndindex(*heads.shape[:2]):
    row, null = evidence.score_head(heads[layer, head], internal, external, world.ruler, adaptor, refits=3, seed=seed)
    rows.append({"layer": layer, "head": head, "planted": (layer, head) == (planted.layer, planted.head), **row})
    draws.append(null)
screen = evidence.rank_heads(pd.DataFrame(rows), np.concatenate(draws))
show(screen, *"rank layer head planted residualised low high n_anchors n_donors null_high n_null p q".split())
bare, _ = evidence.score_head(np.eye(len(world.genes)), internal, external, world.ruler, adaptor, refits=0, seed=seed)
print(f"x itself: {bare['residualised']:.3g} ({bare['low']:.3g} to {bare['high']:.3g})")
own = screen[screen["planted"]].iloc[0]
apart = own["low"] > bare["high"]
print(
    f"the planted head is number {own['rank']} of {len(screen)}; its interval and that of x itself {'are apart' if apart else 'overlap'}"
)

# %% [markdown]
# Random heads are above their null as well, and x itself with them: the graph is in the planted expression, and a random matrix passes
# much of it on. So a small p does not single out a head. Being above the others and above x itself, with intervals apart, would; they are
# bootstraps over three donors, which is few, and worlds differ.
#
# The planted head through all seven gates, and the best of the random heads beside it. The last gate asks that cells whose programs were
# drawn without regard to the graph fail.

# %%
other = next((r.layer, r.head) for r in screen.itertuples() if not r.planted)
rows = []
for name, at in (("planted head", (planted.layer, planted.head)), ("best random head", other)):
    own, doomed = (
        evidence.AnchorSet.of_cohort(cells.anchors.centroids @ heads[at], cells.anchors)
        for cells in (internal, off_graph)
    )
    judged = evidence.evaluate(own, world.ruler, adaptor, seed=seed, refits=9, spec=small)
    judged.append(
        evidence.expected_to_fail(
            {"off graph": evidence.first_five(doomed, world.ruler, adaptor, seed=seed, spec=small)}
        )
    )
    rows += [{"cohort": name, "role": "internal", "spec": small.hash, **vars(gate)} for gate in judged]
gates = pd.DataFrame(rows)
show(gates, "cohort", "gate", "status", "value", "rule", "threshold", "sd", "n", "null_high", "n_null", "p")

# %%
workbench.figures.gate_table(gates)

# %% [markdown]
# Where the random head passes too, that is no fault of a gate: gates judge a latent, and a random projection of planted cells still holds
# the planted graph. Which head it is, they do not say. In worlds of full size the screen tells it from plain expression by `qk` nearly
# always and by `attention` in half of the worlds.
#
# And the dimension: as many as there are programs were planted.

# %%
matrix = heads[planted.layer, planted.head]
measured = workbench.geometry.dimension_table(
    np.asarray(internal.expression @ matrix, dtype=np.float64), n_subsamples=10, seed=seed
)
measured = measured.assign(space="planted head, f(x)")
show(measured, "space", "estimator", "dimension", "low", "high", "n", "k")
workbench.figures.dimension_agreement(measured, truth=len(shape.branches))

# %% [markdown]
# ## What could be wrong with this
# - Parts of a label are no replicates. They share donor, batch and day, so a random holdout of them is easy, and its sd is not that of
#   new donors. With donors in the data, whole donors are held out.
# - Leakage: drift was averaged over cells that are also in held-out anchors. No label was looked at, so it is mild, but it is there;
#   `workbench run` averages without the held-out folds.
# - The gates here are those of a smaller spec. With 19 null rulers the smallest p is 0.05, which is all that this spec asks.
# - Small n: about ten stages make few different distances, and the branch holdout has as many values as there are branches.
# - Weak nulls: 19 refits give no p below 0.05. Permuted rows are an easy null for trustworthiness; nearly anything beats it.
# - The ruler is a graph that people drew. That latent angles follow it may come from expression alone, which x itself stands for.
# - Gates passed by one planted world of a kind that suits linear operators say that the instruments can work, not that they work on
#   real biology. Three programs among few genes are an easy world.
# - With the checkpoint that ships, the model is a small one that was trained on most of these cells.
