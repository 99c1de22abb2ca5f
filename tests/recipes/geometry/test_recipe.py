"""``workbench geometry`` on a tiny checkpoint: values of the table, its controls, and what is refused before any pass."""

from __future__ import annotations

import importlib.util
import os

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from damage import assert_undamaged
from helpers import tiny_model
from openings import told

import workbench
from workbench.capture import capture
from workbench.capture.pooled import PooledSink
from workbench.engine.config import make_config
from workbench.engine.recipe import execute, plan
from workbench.errors import CellsError, ConfigError, HookError
from workbench.geometry.space_tables import measure_space
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.recipes.geometry.config import GeometryConfig
from workbench.recipes.geometry.opening import controls, opening
from workbench.recipes.geometry.recipe import RECIPE

N = 132


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tiny_model(seed=3), tmp_path_factory.mktemp("geometry") / "tiny")


@pytest.fixture(scope="module")
def cells(tmp_path_factory, checkpoint):
    """Counts of two types in two donors of sixty cells and one of twelve, with an embedding, and it turned."""
    from workbench.models import load_model

    names = load_model(checkpoint).vocabulary.genes
    rng = np.random.default_rng(0)
    kind = np.arange(N) % 2
    share = rng.dirichlet(np.ones(len(names)), 2)[kind]
    counts = rng.poisson(share * rng.uniform(300, 900, N)[:, None]).astype(np.float32)
    obs = pd.DataFrame(
        {"kind": np.array(["B", "T"])[kind], "donor": ["a"] * 60 + ["b"] * 60 + ["c"] * 12},
        index=[f"cell{i}" for i in range(N)],
    )
    made = ad.AnnData(sp.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=list(names)))
    made.obsm["X_own"] = rng.normal(size=(N, 4))
    made.obsm["X_turned"] = made.obsm["X_own"] @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    path = tmp_path_factory.mktemp("geometry") / "cells.h5ad"
    made.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory, checkpoint):
    """Two sets and a network of the genes of the tiny model."""
    from workbench.models import load_model

    names = load_model(checkpoint).vocabulary.genes
    folder = tmp_path_factory.mktemp("genes")
    (folder / "sets.gmt").write_text(
        "".join(f"{n}\t\t" + "\t".join(names[i::3]) + "\n" for i, n in enumerate(("odd", "even")))
    )
    (folder / "net.csv").write_text(
        "source,target\n" + "".join(f"{a},{b}\n" for a, b in zip(names, names[2:], strict=False))
    )
    return folder


@pytest.fixture(scope="module")
def settings(checkpoint, cells, network):
    return {
        "genes": {
            "sets": str(network / "sets.gmt"),
            "edges": {"net": {"path": str(network / "net.csv")}},
            "null_draws": 50,
            "axes": 2,
        },
        "checkpoint": checkpoint,
        "data": {
            "name": str(cells),
            "values": "counts",
            "cell_type": "kind",
            "donor": "donor",
            "embeddings": ["X_own", "X_turned"],
        },
        "measures": {
            "neighbours": [5, 10],
            "bootstrap": 8,
            "draws": 4,
            "trustworthiness": 5,
            "components": 5,
            "maps": True,
        },
        "spaces": {"hooks": ["resid_post", "attn_out"]},
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def made(settings, tmp_path_factory):
    return execute(RECIPE, make_config(GeometryConfig, **settings), tmp_path_factory.mktemp("geometry") / "out")


def pick(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


@pytest.mark.slow
def test_damage_to_any_file_of_a_finished_geometry_is_found(settings, tmp_path):
    # Sixty runs, so of as few spaces and draws as leave every stage something to do.
    few = {"neighbours": [5], "bootstrap": 2, "draws": 1, "trustworthiness": 2, "components": 2, "maps": True}
    genes = {**settings["genes"], "null_draws": 5}
    tiny = {**settings, "measures": few, "genes": genes, "spaces": {"hooks": ["resid_post"]}, "controls": ["untrained"]}
    config = make_config(GeometryConfig, **tiny)

    def go(out):
        return int(execute(RECIPE, config, out).out != out)

    assert go(tmp_path / "made") == 0
    assert_undamaged(tmp_path / "made", tmp_path / "out", go)


@pytest.mark.slow
def test_the_table_is_what_the_measures_say_of_a_pass(made):
    context, table = made.context, made.context.read("geometry")
    sink = PooledSink()
    tokens = context.model.tokenizer(context.cells, seed=0)
    capture(context.model, tokens, "blocks.1.hook_attn_out", sink, progress=False)
    points = sink.streams()["blocks.1.hook_attn_out", "mean"]
    donor = context.cells.obs["donor"].astype(str).to_numpy()
    kind = context.cells.obs["cell_type"].astype(str).to_numpy()
    own = measure_space(points, cell_type=kind, batch=donor, donor=donor, n_draws=8, seed=0).table
    rows = pick(table, source="model", layer=1.0, hook="attn_out mean").set_index(["measure", "scope"])
    for line in own.itertuples():
        np.testing.assert_allclose(rows.loc[(line.measure, line.scope), "value"], line.value, rtol=1e-5)


@pytest.mark.slow
def test_every_pass_has_every_layer(made):
    table = made.context.read("geometry")
    assert set(table["source"]) == {
        "model",
        "random weights",
        "genes permuted over cells",
        "one library size",
        "baseline",
    }
    for source in set(table["source"]) - {"baseline"}:
        assert sorted(set(pick(table, source=source, hook="resid_post mean")["layer"])) == [-1, 0, 1, 2]
    assert {"expression", "PCA, 5 components", "X_own", "X_turned"} == set(pick(table, source="baseline")["hook"])


@pytest.mark.slow
def test_an_embedding_and_it_turned_are_alike_and_differ_where_they_must(made):
    alike = made.context.read("likeness")
    row = pick(alike, one="X_own", other="X_turned", measure="debiased CKA").iloc[0]
    assert row["value"] == pytest.approx(1) and row["null_high"] < 0.3
    values = pick(made.context.read("geometry"), source="baseline").set_index(["hook", "measure", "scope"])["value"]
    same = [("participation ratio", "covariance"), ("TwoNN", "raw"), ("partial eta squared", "cell type, whole space")]
    for measure in same:
        assert values["X_own", *measure] == pytest.approx(values["X_turned", *measure])
    turned = ("partial eta squared", "cell type, per coordinate")
    assert values["X_own", *turned] != pytest.approx(values["X_turned", *turned], rel=1e-3)


@pytest.mark.slow
def test_layers_are_laid_beside_each_other_by_the_same_draws(made):
    apart, table = made.context.read("differences"), made.context.read("geometry")
    own = pick(apart, source="model", hook="resid_post mean")
    assert sorted(set(zip(own["layer"], own["beside"], strict=True))) == [(0, -1), (1, 0), (2, -1), (2, 1)]
    assert "baseline" not in set(apart["source"])
    # The differences of single layers add up to that of the last from the first, and are those of the values.
    for (measure, scope), part in own.groupby(["measure", "scope"]):
        value = part.set_index(["layer", "beside"])["value"]
        assert value[0, -1] + value[1, 0] + value[2, 1] == pytest.approx(value[2, -1], abs=1e-9)
        rows = pick(table, source="model", hook="resid_post mean", measure=measure, scope=scope).set_index("layer")[
            "value"
        ]
        assert value[1, 0] == pytest.approx(rows[1] - rows[0], abs=1e-9)
    assert own["note"].str.startswith("interval over cells, as 3 donors are too few to draw").any()
    assert "over the same groups of cells" in (made.out / "report.html").read_text()


@pytest.mark.slow
def test_scvi_stands_beside_the_model_or_says_why_it_does_not(settings, tmp_path):
    small = {**settings, "controls": [], "genes": None, "measures": {**settings["measures"], "maps": False}}
    python = os.environ.get("WORKBENCH_PEERS_PYTHON") or None
    done = execute(
        RECIPE,
        make_config(GeometryConfig, **small, scvi={"python": python, "epochs": 3, "latent": 4}),
        tmp_path / "out",
    )
    there = set(pick(done.context.read("geometry"), source="baseline")["hook"])
    if python or importlib.util.find_spec("scvi"):
        assert "scVI, 4 dimensions" in there and not done.results["scvi"]["skipped"]
        assert "scVI, 4 dimensions" in set(done.context.read("likeness")["other"])
    else:
        assert "No module named 'scvi'" in done.results["scvi"]["skipped"]
        assert "scVI" in (done.out / "report.html").read_text() and not any("scVI" in name for name in there)


@pytest.mark.slow
def test_the_probe_is_that_of_the_function_and_reads_the_type(made):
    context, table = made.context, made.context.read("probe")
    own = workbench.probe(context.cells, context.model, folds=3, progress=False)
    wanted = own.set_index(["features", "layer", "pool"]).sort_index()
    found = table.set_index(["features", "layer", "pool"]).sort_index()
    assert (found["folds_of"] == "donors").all() and found["n_folds"].max() == 3
    for column in ("value", "null_high", "difference", "p"):
        np.testing.assert_allclose(found[column], wanted[column], atol=0.02)


@pytest.mark.slow
def test_every_stream_has_a_map_and_its_trustworthiness(made):
    maps = made.context.read("maps")
    assert maps.groupby(["layer", "hook"]).size().eq(N).all() and set(maps["layer"]) == {-1, 0, 1, 2}
    assert maps["trustworthiness"].between(0.5, 1).all()
    assert (made.out / "figures" / "maps.html").is_file() and (made.out / "figures" / "probe.html").is_file()


@pytest.mark.slow
def test_genes_are_tested_as_by_the_function(made, network):
    context = made.context
    found = workbench.gene_geometry(
        context.cells, context.model, sets=str(network / "sets.gmt"), edges={"net": network / "net.csv"},
        n_axes=2, draws=50, progress=False,
    )  # fmt: skip
    for name, table in (("gene_axes", found.axes), ("gene_edges", found.edges), ("gene_spectrum", found.spectrum)):
        np.testing.assert_allclose(context.read(name).select_dtypes(float), table.select_dtypes(float), rtol=1e-6)
    page = (made.out / "report.html").read_text()
    assert "Genes: expression level explains" in page and "sets beyond expression level" in page


@pytest.mark.slow
def test_a_small_batch_is_left_out_and_said(made):
    assert made.results["expression"]["left_out"] == {"c": 12}
    page = (made.out / "report.html").read_text()
    assert "it has 12 cells, fewer than neighbourhoods need" in page


@pytest.mark.slow
def test_expression_keeps_its_own_neighbourhoods_and_permuted_genes_none(made):
    rows = pick(made.context.read("geometry"), measure="R_NX", scope="k = 10")
    dealt = pick(rows, source="genes permuted over cells", hook="resid_post mean")["value"]
    assert dealt.abs().max() < 0.1
    # A space of noise keeps nothing either: chance is 0.
    assert abs(pick(rows, hook="X_own")["value"].iloc[0]) < 0.05


@pytest.mark.slow
def test_the_opening_is_short_and_names_what_stands_beside(made):
    table = made.context.read("geometry")
    said = told(opening(table, made.results["expression"]["of"], 3))
    assert "random weights (" in said and "PCA" in said and "over donors" in said
    assert [one.of for one in controls(table, made.context.passes, {})] == [4, 4, 4, 4]


@pytest.mark.slow
def test_nothing_is_done_twice_and_labels_pass_no_cell_again(made, settings):
    again = plan(RECIPE, make_config(GeometryConfig, **settings), made.out)
    assert {one.state.state for one in again.stages} == {"kept"}
    other = {**settings, "data": {**settings["data"], "cell_type": None}}
    kept = {
        one.state.name: one.state.state for one in plan(RECIPE, make_config(GeometryConfig, **other), made.out).stages
    }
    assert kept["model"] == kept["untrained"] == kept["expression"] == kept["genes"] == "kept"
    assert kept["measures"] == kept["probe"] == "to make"
    other = {**settings, "genes": {**settings["genes"], "axes": 3}}
    kept = {
        one.state.name: one.state.state for one in plan(RECIPE, make_config(GeometryConfig, **other), made.out).stages
    }
    assert {name for name, state in kept.items() if state != "kept"} == {"genes"}


@pytest.mark.slow
def test_no_batch_size_changes_the_table(made, settings, tmp_path):
    config = {**settings, "controls": [], "genes": None, "spaces": {**settings["spaces"], "batch_size": 7}}
    own = execute(RECIPE, make_config(GeometryConfig, **config), tmp_path / "out").context.read("geometry")
    before = pick(made.context.read("geometry"), source="model")
    after = pick(own, source="model")
    pd.testing.assert_frame_equal(after.reset_index(drop=True), before.reset_index(drop=True), rtol=2e-3)


@pytest.mark.slow
def test_values_that_are_no_counts_are_compared_as_they_are(settings, tmp_path):
    logged = ad.read_h5ad(settings["data"]["name"])
    logged.X = (logged.X.multiply(1e4 / logged.X.sum(1))).tocsr().log1p()
    logged.write_h5ad(tmp_path / "logged.h5ad")
    data = {"name": str(tmp_path / "logged.h5ad"), "values": "log1p:10000", "cell_type": "kind"}
    config = make_config(GeometryConfig, **{**settings, "data": data, "controls": ["thinned"], "genes": None})
    done = execute(RECIPE, config, tmp_path / "out")
    assert done.results["expression"]["of"] == "log-normalised values, as there are no counts"
    assert "thinned" not in done.results and "needs counts" in (done.out / "report.html").read_text()
    assert "Counts could" in " ".join(done.opening)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"spaces": {"layers": [7]}}, HookError, "There is no layer 7: this model has layers 0 to 2"),
        ({"genes": {"edges": {"net": {"path": "nothing.csv"}}}}, ConfigError, "'nothing.csv' does not exist"),
        ({"genes": {"covariates": "nothing.csv"}}, ConfigError, "'nothing.csv' does not exist"),
        ({"genes": {"sets": "hematopoesis"}}, ConfigError, "did you mean 'hematopoiesis'"),
        ({"data": {"embeddings": ["X_oun"]}}, CellsError, "did you mean 'X_own'"),
    ],
)
def test_what_is_not_there_is_refused_before_any_pass(settings, tmp_path, change, error, said):
    config = {**settings, **{key: {**settings.get(key, {}), **value} for key, value in change.items()}}
    with pytest.raises(error, match=said):
        execute(RECIPE, make_config(GeometryConfig, **config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_embedding_without_a_number_is_refused(settings, tmp_path):
    holed = ad.read_h5ad(settings["data"]["name"])
    holed.obsm["X_own"][3, 1] = np.nan
    holed.write_h5ad(tmp_path / "holed.h5ad")
    config = {**settings, "data": {**settings["data"], "name": str(tmp_path / "holed.h5ad")}}
    with pytest.raises(CellsError, match="'X_own' of 'holed.h5ad' holds NaN or infinite values in 1 of 132 cells"):
        execute(RECIPE, make_config(GeometryConfig, **config), tmp_path / "out")
