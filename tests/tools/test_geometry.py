"""Geometry in one call: the table of `measure_space` for every embedding and layer, and what is refused."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import workbench
from workbench.errors import CellsError, EvaluationError, HookError
from workbench.geometry.space_tables import measure_space
from workbench.tools.geometry import measure_geometry

MINI = "artifacts/scgpt-blood-mini"


@pytest.fixture(scope="module")
def model():
    return workbench.load_model(MINI)


@pytest.fixture(scope="module")
def cells():
    cells = workbench.load("pbmc68k")[:130].copy()
    cells.obs["donor"] = [f"d{i % 5}" for i in range(130)]
    cells.obsm["X_mine"] = np.random.default_rng(0).normal(size=(130, 4))
    return cells


def quiet(*args, **options):
    return workbench.geometry(*args, **{"ks": (5, 10), "batch": None, "n_draws": 0, "progress": False, **options})


@pytest.fixture(scope="module")
def table(cells, model):
    return quiet(cells, "X_mine", model=model, layers=[0, -1], hooks=["resid_post"])


def test_every_space_is_in_the_table(table):
    assert list(table)[:7] == ["source", "layer", "hook", "measure", "scope", "value", "low"]
    spaces = table[["source", "layer", "hook"]].drop_duplicates().fillna(-9).itertuples(index=False)
    streams = [
        (-1, "resid_post mean"),
        (0, "resid_post cls"),
        (0, "resid_post mean"),
        (5, "resid_post cls"),
        (5, "resid_post mean"),
    ]
    wanted = [(who, *stream) for who in ("model", "random weights") for stream in streams]
    wanted += [("baseline", -9, name) for name in ("X_mine", "expression", "PCA, 50 components")]
    assert [tuple(space) for space in spaces] == wanted
    assert not table.duplicated(["source", "layer", "hook", "measure", "scope"]).any()


@pytest.mark.slow
def test_layers_are_measured_as_their_streams(cells, model, table):
    with torch.no_grad():
        _, cache = model.run_with_cache(cells)
    stream = cache["resid_post", 5]
    keep = cache.tokens.genes[..., None]
    for hook, points in (("cls", stream[:, 0]), ("mean", (stream * keep).sum(1) / keep.sum(1))):
        own = measure_space(
            points.double().numpy(),
            cell_type=cells.obs["cell_type"].to_numpy(),
            donor=cells.obs["donor"].to_numpy(),
            n_draws=0,
            seed=0,
        ).table
        mine = table.query(f"source == 'model' and layer == 5 and hook == 'resid_post {hook}'")
        both = own.merge(mine, on=["measure", "scope"], suffixes=("", "_mine"))
        assert len(both) >= 8
        np.testing.assert_allclose(both["value_mine"], both["value"], rtol=2e-4)


@pytest.mark.slow
def test_nothing_depends_on_the_batch_or_the_order_of_cells(cells, model, table):
    options = {"model": model, "layers": [0, -1], "hooks": ["resid_post"]}
    other = quiet(cells, "X_mine", batch_size=7, **options)
    np.testing.assert_allclose(other["value"], table["value"], rtol=1e-3, atol=1e-4)
    turned = quiet(cells[::-1].copy(), "X_mine", **options)
    np.testing.assert_allclose(turned["value"], table["value"], rtol=1e-3, atol=1e-4)


def test_noise_says_nothing_of_expression_and_the_model_more_than_untrained(table):
    found = table.query("measure == 'R_NX' and scope == 'k = 10'").set_index(["source", "layer", "hook"])["value"]
    assert abs(found["baseline", :, "X_mine"].iloc[0]) < 0.05 < found["model", 5, "resid_post cls"]
    assert found["model", 5, "resid_post cls"] > found["random weights", 5, "resid_post cls"]
    assert found["baseline", :, "expression"].iloc[0] > found["model", 5, "resid_post cls"]


def test_the_model_may_come_second_and_the_table_is_drawn(cells, model, table):
    found = quiet(cells, model, layers=[0, -1], hooks=["resid_post"])
    own = table[table["hook"] != "X_mine"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, own, rtol=1e-6)
    figure = workbench.figures.geometry_layers(table, measures=[("R_NX", "k = 10")])
    assert [trace.name for trace in figure.data] == ["model", "random weights"]


def test_logged_values_are_said_to_be_no_counts(cells, table):
    assert table.query("measure == 'R_NX'")["note"].str.contains("log-normalised values, as there are no counts").all()
    assert not quiet(counted(cells), "X_mine")["note"].str.contains("no counts").any()


def counted(cells):
    """Counts drawn from the expression of these cells."""
    drawn = np.random.default_rng(0).poisson(np.expm1(cells.X.toarray())).astype(np.float32)
    made = ad.AnnData(drawn, obs=cells.obs[["cell_type", "donor"]].copy(), var=cells.var[[]])
    made = workbench.load(made, values="counts")
    made.obsm["X_mine"] = cells.obsm["X_mine"]
    return made


def test_embeddings_by_name_are_put_in_the_cells_order(cells):
    frame = pd.DataFrame(cells.obsm["X_mine"], index=cells.obs_names)
    wanted = quiet(cells, "X_mine")
    found = quiet(cells, {"X_mine": frame.sample(frac=1, random_state=0)})
    pd.testing.assert_frame_equal(found, wanted)
    with pytest.raises(CellsError, match=r"lacks 1 of the 130 cells \(first: '"):
        quiet(cells, {"X_mine": frame.iloc[1:]})
    with pytest.raises(CellsError, match="names a cell twice"):
        quiet(cells, {"X_mine": frame.iloc[[0, *range(129)]]})


def test_what_is_not_there_is_refused_before_any_pass(cells, model):
    with pytest.raises(CellsError, match="key of obsm 'X_mien'.*X_mine"):
        quiet(cells, "X_mien")
    with pytest.raises(CellsError, match="Nothing to measure"):
        quiet(cells)
    with pytest.raises(CellsError, match="no column 'cel_type' in obs"):
        quiet(cells, "X_mine", cell_type="cel_type")
    with pytest.raises(HookError, match="no layer 6"):
        quiet(cells, model=model, layers=[6])
    with pytest.raises(CellsError, match="Two models"):
        quiet(cells, model, model=model)
    with pytest.raises(HookError, match="hook 'residual'"):
        quiet(cells, model=model, hooks=["residual"])
    with pytest.raises(EvaluationError, match="None of 1 batches has the 202 cells"):
        quiet(cells, "X_mine", ks=(200,))
    bad = cells.copy()
    bad.obsm["X_mine"][3, 1] = np.nan
    with pytest.raises(
        CellsError, match=rf"holds NaN or infinite values in 1 of 130 cells \(first: '{cells.obs_names[3]}'\)"
    ):
        quiet(bad, "X_mine")
    with pytest.raises(CellsError, match=r"has the shape \(130,\)"):
        quiet(cells, {"flat": np.zeros(130)})


def test_a_space_that_cannot_be_measured_says_why(cells):
    table = quiet(cells, {"flat": np.ones((130, 3)), "X_mine": cells.obsm["X_mine"]})
    row = table.query("hook == 'flat'")
    assert row["measure"].tolist() == ["not measured"] and "All 130 points are the same" in row["note"].iloc[0]
    assert len(table.query("hook == 'X_mine'")) > 10


def test_small_batches_are_left_out_of_expression(cells):
    few = counted(cells)
    few.obs["batch"] = ["big"] * 100 + ["small"] * 30
    table = quiet(few, "X_mine", batch="batch")
    assert (table.query("measure == 'R_NX'")["n"] == 100).all()
    ours = table.set_index(["hook", "measure", "scope"])
    assert (ours.loc[(["expression", "PCA, 50 components"], "participation ratio", "covariance"), "n"] == 130).all()
    assert "1 batches of 30 cells left out" in ours.loc[("X_mine", "R_NX", "k = 5"), "note"]


def test_the_room_is_the_function(cells):
    pd.testing.assert_frame_equal(
        quiet(cells, "X_mine"), measure_geometry(cells, "X_mine", ks=(5, 10), batch=None, n_draws=0, progress=False)
    )
    assert workbench.geometry.neighbors.find_neighbors and callable(workbench.geometry)
