"""``workbench manifold`` on a tiny checkpoint and a graph of its genes: tables against numbers of their own making, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from damage import assert_undamaged
from fixtures_manifold import FITS, gene_world
from published import faults

from workbench.engine.config import make_config, read_config
from workbench.engine.recipe import execute, plan
from workbench.errors import ConfigError, EvaluationError
from workbench.evidence.ruler import load_ruler
from workbench.figures import genes_on_ruler
from workbench.recipes.manifold.config import ManifoldConfig
from workbench.recipes.manifold.recipe import RECIPE
from workbench.recipes.manifold.stages import CODE, EXPRESSION, LEVEL
from workbench.stats import benjamini_hochberg


@pytest.fixture(scope="module")
def settings(pbmc68k, tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifold")
    adaptor = {"k": 2, "steps": 50, "tol": 0.1}
    return {**gene_world(pbmc68k, folder), "fits": FITS, "adaptor": adaptor}


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    return execute(RECIPE, make_config(ManifoldConfig, **settings), tmp_path_factory.mktemp("out") / "manifold")


def test_every_representation_stands_beside_controls_and_both_nulls(done):
    table = done.context.read("manifold_genes")
    assert set(table["ruler"]) == {"edges"} and set(table["status"]) == {"ok"}
    held = table[table["method"] == "LET, held-out groups"]
    assert {EXPRESSION, LEVEL, CODE} < set(held.loc[held["kind"] == "control", "representation"])
    assert {"operator rows (drift)", "operator columns (drift)", "gene table"} < set(
        held.loc[held["kind"] == "model", "representation"]
    )
    assert len(table) == len(held) * 4 and set(held["n_null"]) == {19} and set(held["n_rewired"]) == {5}
    own = held[held["kind"] == "model"]
    expected = benjamini_hochberg(np.fmax(own["p"], own["rewired_p"]).to_numpy())
    np.testing.assert_allclose(own["q"], expected)
    assert held.loc[held["kind"] == "control", "q"].isna().all()
    plane = table[table["method"] == "two principal components"].set_index("representation")["spearman"]
    mds = table[table["method"] == "geodesic MDS"].set_index("representation")
    np.testing.assert_allclose(mds["margin"], mds["spearman"] - plane[mds.index])


@pytest.mark.slow
def test_damage_to_any_file_of_a_finished_manifold_is_found(done, settings, tmp_path):
    def go(out):
        return int(execute(RECIPE, make_config(ManifoldConfig, **settings), out).out != out)

    assert_undamaged(done.out, tmp_path / "out", go)


def test_a_graph_without_signals_says_what_is_left_out(done):
    page = (done.out / "report.html").read_text()
    assert "the ruler has no senders and receivers" in page and "Do the model&#x27;s genes follow" in page.replace(
        "'", "&#x27;"
    )
    figure = genes_on_ruler(done.context.read("manifold_genes"))
    assert len(figure.data) >= 4


def test_every_head_is_screened_as_a_feature_map_of_it_alone(done, settings, tmp_path):
    heads = done.context.read("manifold_heads")
    assert heads[["layer", "head"]].to_numpy().tolist() == [[i, j] for i in range(3) for j in range(2)]
    np.testing.assert_allclose(heads["q"], benjamini_hochberg(np.fmax(heads["p"], heads["rewired_p"]).to_numpy()))
    adaptor = {**settings["adaptor"], "feature_map": "single", "layer": 1, "head": 1}
    alone = execute(RECIPE, make_config(ManifoldConfig, **{**settings, "adaptor": adaptor}), tmp_path / "out")
    table = alone.context.read("manifold_genes")
    own = table[(table["representation"] == "operator rows (L1H1)") & (table["method"] == "LET, held-out groups")]
    one = heads[(heads["layer"] == 1) & (heads["head"] == 1)]
    for column in ("spearman", "p", "rewired_p"):
        np.testing.assert_allclose(one[column], own[column], atol=1e-6)


def test_criteria_are_those_of_the_table_of_fits(done):
    gates, table = done.context.read("manifold_gates"), done.context.read("manifold_genes")
    held = table[table["method"] == "LET, held-out groups"].set_index("representation")
    for row in gates.to_dict("records"):
        own = held.loc[row["representation"]]
        met = {
            "beyond families of like expression and degree": own["p"] <= 0.01,
            "beyond rewired graphs": own["rewired_p"] <= 0.01,
            "q over the model's representations": own["q"] <= 0.05,
            "above expression over cells": own["spearman"] > held.loc[EXPRESSION, "spearman"],
            "above level and degree": own["spearman"] > held.loc[LEVEL, "spearman"],
            "above the same network before training": own["spearman"]
            > held.loc[held.index.str.startswith("untrained"), "spearman"].max(),
        }
        assert row["status"] == ("pass" if met[row["gate"]] else "fail")
    assert len(gates) == 6 * (held["kind"] == "model").sum()


def test_the_latent_of_genes_has_a_dimension_by_every_estimator(done):
    table = done.context.read("manifold_dimension")
    assert table.groupby("space")["estimator"].nunique().eq(5).all() and set(table["n"]) == {56}
    ratio = table[table["estimator"] == "participation ratio"]["dimension"]
    assert ((ratio >= 1) & (ratio <= 2 + 1e-9)).all(), "a latent of width two"
    page = (done.out / "report.html").read_text()
    assert all(f'id="figure-{name}"' in page for name in ("manifold_heads", "manifold_dimension"))


@pytest.mark.slow  # two more cohorts
def test_an_external_file_of_cells_stands_beside_the_internal_one(done, settings, tmp_path):
    cells = ad.read_h5ad(settings["data"]["name"])
    other = cells[::2, 3:].copy()
    other.write_h5ad(tmp_path / "other.h5ad")
    external = {**settings["data"], "name": str(tmp_path / "other.h5ad")}
    both = execute(RECIPE, make_config(ManifoldConfig, **settings, external=external), tmp_path / "out")
    table = both.context.read("manifold_genes")
    own = table[table["cohort"] == "internal"].drop(columns="cohort").reset_index(drop=True)
    pd.testing.assert_frame_equal(own, done.context.read("manifold_genes"), rtol=1e-6)
    assert set(table.loc[table["cohort"] == "external", "n_points"]) == {53}
    alone = execute(RECIPE, make_config(ManifoldConfig, **{**settings, "data": external}), tmp_path / "alone")
    found = table[table["cohort"] == "external"].drop(columns="cohort").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, alone.context.read("manifold_genes"), rtol=1e-6)
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(f'id="figure-manifold_genes-{name}"' in page for name in ("internal", "external"))
    assert "Cohort: external." in page and "External: " in page


def test_nothing_is_done_twice(done, settings):
    again = execute(RECIPE, make_config(ManifoldConfig, **settings), done.out)
    assert again.seconds == done.seconds


def test_signals_bring_groups_of_cells(settings, tmp_path, monkeypatch):
    """A package of liana's name whose resource links genes of these cells."""
    genes = load_ruler(settings["ruler"]).stages
    edges = pd.read_csv(settings["ruler"])
    site = tmp_path / "site"
    (site / "liana" / "resource").mkdir(parents=True)
    (site / "liana" / "__init__.py").write_text("")
    (site / "liana-1.0.dist-info").mkdir()
    (site / "liana-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: liana\nVersion: 1.0\n")
    columns = {"source_genesymbol": edges["source"], "target_genesymbol": edges["target"], "resource": "consensus"}
    pd.DataFrame(columns).to_csv(site / "liana" / "resource" / "omni_resource.csv")
    monkeypatch.syspath_prepend(site)
    config = make_config(ManifoldConfig, **{**settings, "ruler": "communication"})
    done = execute(RECIPE, config, tmp_path / "out")
    cells, axis = (done.context.read(name) for name in ("manifold_cells", "manifold_axis"))
    assert set(cells["holdout"]) == {"random", "whole cell types"} and cells["spearman"].notna().all()
    assert set(cells.loc[cells["kind"] == "control", "representation"]) == {
        "expression",
        "a random matrix",
        "untrained: operators",
    }
    assert set(axis["n"]) == {10} and "broad classes" in set(axis["of"])
    assert done.results["signals"]["n_pairs"] == len(edges.drop_duplicates()) and len(genes) >= 50
    assert "made of their expression" in (done.out / "report.html").read_text()
    assert faults("manifold", done.out) == []


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"ruler": "hematopoiesis"}, EvaluationError, "lies over cells; workbench manifold takes one over genes"),
        ({"panel": {"size": 30}}, EvaluationError, "of the 56 genes of the ruler 'edges' .* 40 are needed"),
        ({"fits": {"folds": 15}}, EvaluationError, "groups are needed for 15 folds"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_pass(settings, tmp_path, change, error, said):
    with pytest.raises(error, match=said):
        plan(RECIPE, make_config(ManifoldConfig, **{**settings, **change}), tmp_path / "out")


def test_a_ruler_of_which_no_gene_is_in_the_vocabulary_is_refused(settings, tmp_path):
    (tmp_path / "mouse.csv").write_text("source,target\nCd4x,Cd8x\nCd8x,Cd3x\n")
    with pytest.raises(
        EvaluationError, match="0 of the 3 genes of the ruler 'mouse' .* are among the 60 genes of the panel"
    ):
        plan(
            RECIPE, make_config(ManifoldConfig, **{**settings, "ruler": str(tmp_path / "mouse.csv")}), tmp_path / "out"
        )


def test_topk_is_refused(settings):
    with pytest.raises(ConfigError, match="topk screens heads by a ruler over cells"):
        make_config(ManifoldConfig, **{**settings, "adaptor": {"feature_map": "topk"}})


def test_the_configuration_that_ships_is_read():
    assert read_config("experiments/second_manifold_blood_mini.yaml", ManifoldConfig).ruler == "communication"
