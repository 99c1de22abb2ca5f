"""The tools against closed forms and planted truths, and what they refuse."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from fixtures_dictionaries import random_dictionary

import workbench
from workbench.dictionaries import Dictionary
from workbench.errors import CellsError, EvaluationError, GeneMatchError, HookError, OutputError, ShapeError
from workbench.operators.algorithm import Algorithm

MINI = "artifacts/scgpt-blood-mini"


@pytest.fixture(scope="module")
def model():
    return workbench.load_model(MINI)


@pytest.fixture(scope="module")
def cells():
    """The 250 genes of which there is most: a pass takes time with the square of their number."""
    cells = workbench.load("pbmc68k")[:120]
    most = np.argsort(-np.asarray(cells.X.mean(0)).ravel(), kind="stable")[:250]
    return cells[:, np.sort(most)].copy()


@pytest.fixture(scope="module")
def lens_table(model, cells):
    return quiet(workbench.lens, cells, model, layers=[0, -1])


@pytest.fixture(scope="module")
def steered(model, cells):
    given = {"source": "CD14+ Monocyte", "target": "Dendritic", "doses": (2.0,), "null_draws": 19, "n_cells": 20}
    return workbench.steer(cells, model, **given)


def near(found, wanted, tolerance):
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=tolerance, atol=tolerance)


def quiet(tool, *args, **options):
    return tool(*args, progress=False, **options)


def test_embeddings_are_those_of_a_pass_at_length_one(model, cells):
    few = cells[:9]
    with torch.no_grad():
        own = model(few).cell
    made = quiet(workbench.embed, few, model)
    near(made.obsm["X_scgpt"], torch.nn.functional.normalize(own, dim=1).numpy(), 1e-5)
    near(quiet(workbench.embed, few, model, normalise=False).obsm["X_scgpt"], own.numpy(), 1e-5)
    assert made.obsm["X_scgpt"].dtype == np.float32 and "X_scgpt" not in few.obsm
    assert made.uns["X_scgpt"]["cell_style"] == "cls" and made.uns["X_scgpt"]["layer"] == 5


@pytest.mark.parametrize(("layer", "style"), [(2, "cls"), (-2, "avg-pool"), (5, "avg-pool"), (0, "w-pool")])
def test_embeddings_of_a_layer_and_style_are_made_of_its_stream(model, cells, layer, style):
    few = cells[:5]
    with torch.no_grad():
        _, cache = model.run_with_cache(few)
    stream, keep = cache["resid_post", layer], (~cache.tokens.padding)[..., None]
    wanted = {
        "cls": stream[:, 0],
        "avg-pool": (stream * keep).sum(1) / keep.sum(1),
        "w-pool": (stream * cache.tokens.values[..., None] * keep).sum(1),
    }[style]
    found = quiet(workbench.embed, few, model, layer=layer, cell_style=style).obsm["X_scgpt"]
    near(found, torch.nn.functional.normalize(wanted, dim=1).numpy(), 1e-5)


def test_embeddings_do_not_depend_on_batch_or_order(model, cells):
    few = cells[:10]
    one, other = (quiet(workbench.embed, few, model, batch_size=n).obsm["X_scgpt"] for n in (1, 7))
    turned = quiet(workbench.embed, few[::-1], model).obsm["X_scgpt"][::-1]
    near(one, other, 1e-5)
    near(one, turned, 1e-5)


def test_embeddings_go_into_the_cells_only_where_they_are_asked_to(model, cells):
    mine = cells[:3].copy()
    mine.obsm["X_pca"] = np.zeros((3, 2))
    assert quiet(workbench.embed, mine, model, key_added="X_mine") is None and mine.obsm["X_mine"].shape == (3, 64)
    quiet(workbench.embed, mine, model, key_added="X_mine", layer=0)  # one's own may be made again
    with pytest.raises(OutputError, match="not made"):
        quiet(workbench.embed, mine, model, key_added="X_pca")
    assert not mine.obsm["X_pca"].any()


def test_cells_on_the_disk_are_embedded_without_their_matrix(tmp_path, model, cells):
    cells[:4].copy().write_h5ad(tmp_path / "x.h5ad")
    backed = workbench.load(tmp_path / "x.h5ad", backed=True)
    made = quiet(workbench.embed, backed, MINI)
    assert made.X is None
    near(made.obsm["X_scgpt"], quiet(workbench.embed, cells[:4], model).obsm["X_scgpt"], 1e-5)
    plain = ad.read_h5ad(tmp_path / "x.h5ad")
    near(quiet(workbench.embed, plain, model).obsm["X_scgpt"], made.obsm["X_scgpt"], 1e-5)


def test_a_cell_without_genes_is_named_before_any_pass(model, cells):
    bare = cells[:4].copy()
    values = bare.X.toarray()
    values[2] = 0
    bare.X = sp.csr_matrix(values)
    with pytest.raises(CellsError, match=rf"1 of 4 cells .*{bare.obs_names[2]}"):
        quiet(workbench.embed, bare, model)


def test_the_latent_is_the_algorithms(cells):
    genes = tuple(cells.var_names[:30])
    known = Algorithm(genes, np.random.default_rng(0).standard_normal((30, 4)), np.ones(4), {}, {})
    near(workbench.latent(cells, known).obsm["X_workbench"], known.transform(cells), 1e-5)


def test_attention_is_the_mean_of_the_patterns(model, cells):
    few = cells[:10]
    with torch.no_grad():
        _, cache = model.run_with_cache(few, names_filter="blocks.[12].attn.hook_pattern")
    whole = pd.concat(
        [cache.to_dataframe("pattern", 2, head=3), cache.to_dataframe("pattern", 1, head=0).assign(head=10)]
    )
    whole = whole.join(pd.Series((~cache.tokens.padding).sum(1).numpy(), index=cache.cells, name="n"), on="cell")
    few = few.copy()
    few.obs["group"] = pd.Categorical(["a", "b"] * 5)
    of = dict(zip(few.obs_names, few.obs["group"].astype(str), strict=True))
    asked = {"source": ["CD74", "LYZ"], "target": ["CD37", "FTL", "CD3E"], "groupby": "group"}
    table = quiet(workbench.attention, few, model, ["L2H3", "L1H0"], batch_size=3, **asked)
    assert len(table) == 2 * 2 * 3 * 2
    for row in table.itertuples():
        head = {"L2H3": 3, "L1H0": 10}[row.head]
        part = whole.query(f"head == {head} and query == '{row.target}' and key == '{row.source}'")
        part = part[part["cell"].map(of) == row.group]
        assert row.n_cells == len(part)
        if len(part) > 1:
            found = [row.attention, row.sd, row.even, row.ratio]
            even = (1 / part["n"]).mean()
            near(found, [part["pattern"].mean(), part["pattern"].std(), even, part["pattern"].mean() / even], 1e-4)


def test_attention_goes_to_varp_with_readers_as_rows(model, cells):
    mine = cells[:20].copy()
    table = quiet(workbench.attention, mine, model, "L2H3", source=["CD74"], target=["CD37", "FTL"])
    assert (
        quiet(workbench.attention, mine, model, "L2H3", source=["CD74"], target=["CD37", "FTL"], key_added="L2H3")
        is None
    )
    at = {gene: mine.var_names.get_loc(gene) for gene in ("CD74", "CD37", "FTL")}
    for row in table.itertuples():
        assert mine.varp["L2H3"][at[row.target], at[row.source]] == pytest.approx(row.attention)
    assert mine.varp["L2H3"].nnz == 2


def test_a_probe_finds_a_planted_label_and_not_a_random_one(model, cells):
    rng = np.random.default_rng(0)
    mine = cells.copy()
    with torch.no_grad():
        stream = quiet(workbench.embed, mine, model, layer=3, normalise=False).obsm["X_scgpt"]
    along = stream @ rng.standard_normal(64)
    mine.obs["planted"] = pd.Categorical(np.where(along > np.median(along), "yes", "no"))
    mine.obs["random"] = pd.Categorical(rng.permutation(["x", "y"] * 60))
    mine.obs["number"] = along
    found = quiet(workbench.probe, mine, model, "planted", layers=[3]).set_index(["features", "layer", "pool"])
    own = found.loc[("model", 3, "cls")]
    assert own["value"] > 0.8 and own["p"] < 0.01 and own["value"] > own["null_high"] and own["n_cells"] == 120
    assert abs(own["null_mean"] - 0.5) < 0.02
    random = quiet(workbench.probe, mine, model, "random", layers=[3])
    assert (random["value"] - 0.5).abs().max() < 0.15
    number = quiet(workbench.probe, mine, model, "number", layers=[3]).set_index(["features", "layer", "pool"])
    assert number.loc[("model", 3, "cls"), "value"] > 0.9 and number["metric"].eq("|Spearman|").all()


def test_whole_donors_are_held_out(model, cells):
    mine = cells.copy()
    mine.obs["donor"] = pd.Categorical([f"d{i % 6}" for i in range(120)])
    mine.obs["label"] = pd.Categorical(["x", "y"] * 60)  # of donors alone: nothing that a held-out donor shows
    table = quiet(workbench.probe, mine, model, "label", layers=[0], folds=3)
    assert table["folds_of"].eq("donors").all()
    with pytest.raises(EvaluationError, match="folds=6"):
        quiet(workbench.probe, mine, model, "label", folds=7)


def test_a_lens_reads_expression_better_from_expression(lens_table):
    table = lens_table
    own = table[table["reads"] == "expression"].set_index(["features", "layer", "pool"])["value"]
    assert own.loc["expression"].iloc[0] == own.max() and own.max() < 1
    assert own.loc[("model", 5, "mean")] > own.loc[("untrained model", 5, "mean")]
    assert set(table["reads"]) == {"cell_type", "expression"} and set(table["layer"].dropna()) == {-1, 0, 5}


def test_patching_is_that_of_the_ablation_package(model, cells):
    table = workbench.patch(
        cells, model, source="CD14+ Monocyte", target=["Dendritic", "CD19+ B"], sites=["L1H3"], n_cells=10
    )
    assert table["ablation"].tolist() == ["L1H3"] and table["target"].item() == "Dendritic + CD19+ B"
    assert table["n_pairs"].item() == 10 and np.isfinite(table["moved"]).all()


def test_steering_along_a_difference_goes_further_than_most_random_directions(model, cells, steered):
    table = steered
    at = table.set_index(["dose", "measure"])
    moved = at.loc[(2.0, "moved")]
    # Mixtures of what so few cells of one label differ by go far as well: some of 19 as far.
    assert moved["value"] > moved["null_mean"] + 0.2 and moved["p"] <= 4 / 20
    assert moved["value"] > at.loc[(0.0, "moved"), "value"] + 0.2
    again = workbench.steer(
        cells[::-1], model, source="CD14+ Monocyte", target="Dendritic", doses=(2.0,), null_draws=0, n_cells=20
    )
    near(again.query("dose == 2")["value"], table.query("dose == 2")["value"], 1e-4)


def test_steering_along_a_feature_is_along_what_it_writes_on_average_where_it_fires(model, cells):
    at, groups = "blocks.2.hook_resid_post", {"source": "CD14+ Monocyte", "target": "Dendritic"}
    dictionary = random_dictionary(model, at, width=96)
    given = {**groups, "doses": (1.0,), "null_draws": 3, "n_cells": None}
    table = workbench.steer(cells, model, direction=(dictionary, 5), **given)
    assert (table["layer"] == 2).all()
    # The length is the mean activation where it fires in the half of the cells that nothing is judged by.
    along = dictionary.directions[5].numpy() * table["norm"].iloc[0]
    near(workbench.steer(cells, model, layer=2, direction=along, **given)["value"], table["value"], 1e-4)
    kept = cells[cells.obs["cell_type"].isin(groups.values())]
    tokens = model.to_tokens(kept)
    _, cache = model.run_with_cache(tokens, names_filter=at, return_cache_object=False)
    fired = dictionary.encode(cache[at])[tokens.genes][:, 5]
    assert table["norm"].iloc[0] == pytest.approx(float(fired[fired > 0].mean()), rel=0.2)
    for other, number, layer, says in (
        (dictionary, 96, None, "features 0 to 95, but 96"),
        (dictionary, 5, 3, "layer 3 was asked for"),
        (random_dictionary(model, "blocks.2.attn.hook_z", inner=(4, 16), width=96), 5, None, "has the shape"),
        (random_dictionary(model.untrained(0), at, width=96), 5, None, "this model has"),
        (random_dictionary(model, "hook_cell", width=96), 5, None, "in no block"),
    ):
        with pytest.raises(HookError, match=says):
            workbench.steer(cells, model, direction=(other, number), layer=layer, **given)
    silent = Dictionary("standard", {**dictionary.weights, "b_enc": torch.full((96,), -1e6)}, dictionary.origin)
    with pytest.raises(EvaluationError, match="fires at no gene"):
        workbench.steer(cells, model, direction=(silent, 5), **given)


def test_no_dose_is_the_intact_model(model, cells):
    table = workbench.steer(
        cells, model, source="CD14+ Monocyte", target="Dendritic", doses=(1e-9,), null_draws=0, n_cells=20
    )
    near(table.query("dose == 0")["value"], table.query("dose > 0")["value"], 1e-4)


def test_figures_take_what_the_tools_give(model, cells, lens_table, steered):
    figures = workbench.figures
    table = quiet(workbench.attention, cells[:20], model, "L2H3")
    assert len(figures.attention_map(table).data) == 1
    assert len(figures.layer_probes(lens_table).data) == 8
    assert len(figures.dose_curves(steered).data) == 10
    figures.transfer_map(workbench.patch(cells, model, source="CD14+ Monocyte", target="Dendritic", n_cells=6))
    with pytest.raises(EvaluationError, match="several heads"):
        figures.attention_map(quiet(workbench.attention, cells[:5], model, ["L2H3", "L0H0"]))


@pytest.mark.parametrize(
    ("ask", "kind", "says"),
    [
        (lambda m, c: workbench.embed(c, m, layer=6), HookError, "layers 0 to 5"),
        (lambda m, c: workbench.embed(c, m, cell_style="clss"), ShapeError, "did you mean 'cls'"),
        (lambda m, c: workbench.attention(c, m, "L2H9"), HookError, "no L2H9"),
        (lambda m, c: workbench.attention(c, m, "L2.mlp"), HookError, "such as L2H3"),
        (lambda m, c: workbench.attention(c, m, "L2H1", source="CD3EE"), GeneMatchError, "CD3E"),
        (lambda m, c: workbench.attention(c, m, "L2H1", source=["CD3E", "CD3E"]), GeneMatchError, "twice"),
        (lambda m, c: workbench.attention(c, m, "L2H1", groupby="celltype"), CellsError, "did you mean 'cell_type'"),
        (
            lambda m, c: workbench.attention(c, m, "L2H1", groupby="cell_type", key_added="x"),
            EvaluationError,
            "groupby",
        ),
        (lambda m, c: workbench.probe(c, m, "cell"), CellsError, "cell_type"),
        (lambda m, c: workbench.probe(c, m, layers=[9]), HookError, "layers 0 to 5"),
        (lambda m, c: workbench.probe(c[:10], m), EvaluationError, "two such classes"),
        (lambda m, c: workbench.patch(c, m, source="Monocyte", target="Dendritic"), CellsError, "CD14"),
        (lambda m, c: workbench.patch(c, m, source="Dendritic", target="Dendritic"), CellsError, "share cells"),
        (lambda m, c: workbench.steer(c, m, source="Dendritic", target="CD56+ NK"), CellsError, "needs 10"),
        (
            lambda m, c: workbench.steer(c, m, source="Dendritic", target="CD14+ Monocyte", doses=()),
            EvaluationError,
            "dose",
        ),
        (
            lambda m, c: workbench.steer(c, m, source="Dendritic", target="CD14+ Monocyte", direction=np.ones(3)),
            ShapeError,
            "64",
        ),
    ],
)
def test_what_cannot_be_done_is_said(model, cells, ask, kind, says):
    with pytest.raises(kind, match=says):
        ask(model, cells)
