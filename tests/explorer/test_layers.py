"""Geometry of every layer in the explorer: what is drawn of its tables, and what is refused."""

import pandas as pd
import pytest
from browser import browser_page, chromium  # noqa: F401

from explorer.conftest import LAYERS, write_geometry
from workbench.engine.tables import read_table, table_path
from workbench.errors import ArtifactError, EvaluationError
from workbench.evidence.ruler import load_ruler
from workbench.explorer.data import from_run
from workbench.explorer.layers import MAP_CELLS, layer_maps, layer_measures
from workbench.explorer.page import write_explorer


@pytest.fixture(scope="module")
def tables(geometry_folder):
    return {name: read_table(table_path(geometry_folder, name)) for name in ("geometry", "maps")}


@pytest.fixture(scope="module")
def data(run_folder, geometry_folder):
    return from_run(run_folder, geometry=geometry_folder)


@pytest.fixture(scope="module")
def page(data, tmp_path_factory):
    return write_explorer(data, tmp_path_factory.mktemp("layers") / "explorer.html")


def test_measures_keep_every_value_with_its_interval_and_n(tables):
    found = layer_measures(tables["geometry"])
    assert found["hooks"] == ["resid_post cls", "resid_post mean"]
    assert [one["name"] for one in found["measures"]] == ["R_NX, k = 15", "TwoNN, 1/2 of the cells"]
    rows = found["measures"][found["first"]]["rows"]
    assert ["model", "resid_post cls", 1, 0.4, 0.38, 0.42, 40] in rows
    assert ["baseline", "expression", None, 0.6, 0.55, 0.65, 40] in rows
    assert len(rows) == 2 * 2 * (LAYERS + 1) + 2


def test_a_table_of_something_else_is_refused(tables):
    with pytest.raises(EvaluationError, match="no row of the model"):
        layer_measures(tables["geometry"].query("source == 'baseline'"))
    with pytest.raises(EvaluationError, match="lacks the column 'scope'"):
        layer_measures(tables["geometry"].drop(columns="scope"))


def test_maps_have_the_same_cells_and_the_ruler_s_colours(tables):
    many = pd.concat([tables["maps"].assign(cell_id=tables["maps"]["cell_id"] + f"-{i}") for i in range(30)])
    maps = layer_maps(many, load_ruler("hematopoiesis"))
    assert [one["name"] for one in maps] == [
        f"resid_post mean {at}, UMAP" for at in ("in front of the first layer", *(f"after layer {i}" for i in range(3)))
    ]
    assert all(one["ids"] == maps[0]["ids"] and len(one["ids"]) == MAP_CELLS and one["n_total"] == 1200 for one in maps)
    assert {group["label"]: group["branch"] for group in maps[0]["groups"]}["monocyte"] == "monocyte"
    assert (
        "NA" in {group["label"] for group in maps[0]["groups"]} and "Trustworthiness of the map 0.9" in maps[0]["note"]
    )
    alone = layer_maps(many)[0]["groups"]
    assert len({group["branch"] for group in alone}) == 1


def test_a_geometry_of_other_weights_is_refused(run_folder, tmp_path):
    with pytest.raises(ArtifactError, match="other weights"):
        from_run(run_folder, geometry=write_geometry(tmp_path / "other", weights="b" * 32))
    with pytest.raises(ArtifactError, match=r"no tables/geometry\.csv"):
        from_run(run_folder, geometry=tmp_path)


def test_without_one_there_is_no_card(run_folder, tmp_path, browser_page):  # noqa: F811
    data = from_run(run_folder)
    shown = browser_page(write_explorer(data, tmp_path / "bare.html"))
    assert data.layers is None and shown.page.locator('section[aria-label="Layers"]').count() == 0


def test_the_page_draws_the_model_its_control_and_the_baselines(browser_page, page, data):  # noqa: F811
    shown = browser_page(page)
    card = shown.page.locator('section[aria-label="Layers"]')
    chart = card.locator("svg.wbx-layers")
    titles = chart.locator("title").evaluate_all("nodes => nodes.map((node) => node.textContent)")
    assert "model, after layer 1: 0.4 (95 % 0.38 to 0.42), n = 40 cells" in titles
    assert "untrained, in front of the first layer: 0.1 (95 % 0.05 to 0.15), n = 40 cells" in titles
    assert "expression: 0.6 (95 % 0.55 to 0.65), n = 40 cells" in titles
    heights = chart.locator("circle.wbx-own").evaluate_all(
        "nodes => nodes.map((node) => Number(node.getAttribute('cy')))"
    )
    assert len(heights) == LAYERS + 1 and heights == sorted(heights, reverse=True)
    card.locator("summary").click()
    assert card.locator("tbody tr").count() == 2 * (LAYERS + 1) + 2
    card.locator("select").nth(1).select_option(label="resid_post mean")
    assert "model\tresid_post mean\t1\t0.41\t0.39 to 0.43\t40" in card.locator("tbody tr").all_inner_texts()
    card.locator("select").nth(0).select_option(label="TwoNN, 1/2 of the cells")
    assert card.locator("tbody tr").first.inner_text() == "model\tresid_post mean\tin\t5\t–\t20"
    assert shown.errors == [] and shown.page.title() == f"Explorer: {data.title}"


def test_names_beside_the_lines_do_not_lie_on_each_other(browser_page, page):  # noqa: F811
    shown = browser_page(page)
    places = shown.page.locator("svg.wbx-layers text:has(title)").evaluate_all(
        "nodes => nodes.map((node) => Number(node.getAttribute('y')))"
    )
    assert len(places) == 4 and all(b - a >= 11.9 for a, b in zip(sorted(places), sorted(places)[1:], strict=False))
