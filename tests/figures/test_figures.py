import itertools

import numpy as np
import pandas as pd
import pytest

from figures import synthetic
from workbench import figures
from workbench.errors import EvaluationError
from workbench.figures.style import BRANCH_COLORS, FALLBACK_COLORS, UNASSIGNED

DRAWN = {
    figures.latent_map: synthetic.latent,
    figures.head_map: synthetic.heads,
    figures.holdouts: synthetic.holdouts,
    figures.readouts: synthetic.readouts,
    figures.ruler_against_latent: synthetic.distances,
}
NOT_NEEDED = {f"z_{i}" for i in range(2, 11)}


def texts(figure):
    found = [figure.layout.title.text, *(a.text for a in figure.layout.annotations)]
    return " ".join(found).replace("<br>", " ")


@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_a_missing_column_is_named(draw):
    table = DRAWN[draw]()
    for column in set(table.columns) - NOT_NEEDED:
        with pytest.raises(EvaluationError, match=f"'{column}'"):
            draw(table.drop(columns=column))


@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_an_empty_table_is_refused(draw):
    with pytest.raises(EvaluationError, match="no rows"):
        draw(DRAWN[draw]().iloc[:0])


@pytest.mark.parametrize(
    ("draw", "column"),
    [
        (figures.latent_map, "umap_1"),
        (figures.head_map, "spearman"),
        (figures.holdouts, "spearman"),
        (figures.readouts, "value"),
        (figures.ruler_against_latent, "latent"),
    ],
)
def test_a_table_without_a_value_or_with_text_is_refused(draw, column):
    table = DRAWN[draw]()
    with pytest.raises(EvaluationError, match="cannot be drawn"):
        draw(table.assign(**{column: np.nan}))
    with pytest.raises(EvaluationError, match="no number"):
        draw(table.assign(**{column: "high"}))


@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_drawing_is_pure(draw):
    table = DRAWN[draw]()
    before = table.copy(deep=True)
    first, second = draw(table), draw(table)
    pd.testing.assert_frame_equal(table, before)
    assert first.to_json() == second.to_json()
    assert "n = " in first.to_json()


def test_branch_colors_are_fixed_and_distinct():
    assert (
        len(set(BRANCH_COLORS.values()) | set(FALLBACK_COLORS) | {UNASSIGNED})
        == len(BRANCH_COLORS) + len(FALLBACK_COLORS) + 1
    )
    for branch, color in BRANCH_COLORS.items():
        assert figures.branch_color(branch) == figures.branch_color(f" {branch.upper()} cells ") == color
    assert figures.branch_color("stromal") == figures.branch_color("stromal") in FALLBACK_COLORS
    assert {figures.branch_color(b) for b in (None, np.nan, pd.NA, "")} == {UNASSIGNED}


# Machado et al. 2009, linear RGB, the whole deficiency.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(color, vision):
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(vision) @ linear, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ seen / to_xyz.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_branch_colors_stay_apart_for_everybody(vision):
    seen = [lab(color, VISION[vision]) for color in BRANCH_COLORS.values()]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    assert min(apart) > 15  # a difference of about 2.3 is just seen


def test_a_branch_keeps_its_color_whatever_is_beside_it():
    table = synthetic.latent()
    for part in (table, table[table["branch"].isin(["T", "NK"])], table[table["branch"] == "T"]):
        found = {t.marker.color for t in figures.latent_map(part).data if t.legendgroup == "T"}
        assert found == {BRANCH_COLORS["T"]}


def test_latent_map_shows_every_cell_and_the_rare_stages_on_top():
    table = synthetic.latent()
    figure = figures.latent_map(table)
    assert sum(len(t.x) for t in figure.data) == len(table)
    assert f"n = {len(table)} cells" in figure.layout.title.text
    assert "10-dimensional" in figure.layout.title.text
    sizes = [len(t.x) for t in figure.data]
    assert sizes == sorted(sizes, reverse=True)
    assert figure.data[-1].name == "plasma cell (n = 3)"
    assert figure.data[-1].marker.size > figure.data[0].marker.size
    marks = [(t.marker.color, t.marker.symbol) for t in figure.data]
    assert len(set(marks)) == len(marks)
    assert not figure.layout.xaxis.showticklabels


def test_latent_map_counts_cells_without_coordinates_and_without_branch():
    table = synthetic.latent()
    table.loc[:4, "umap_1"] = np.nan
    table.loc[10:12, "branch"] = None
    figure = figures.latent_map(table)
    assert "5 cells without coordinates" in texts(figure)
    assert {t.marker.color for t in figure.data if t.legendgroup == "unassigned"} == {UNASSIGNED}


def test_latent_map_escapes_markup_of_labels():
    figure = figures.latent_map(synthetic.latent().assign(stage="<b>HSC</b>"))
    assert "&lt;b&gt;HSC" in figure.data[0].name


def test_head_map_holds_the_values_at_their_place():
    table = synthetic.heads().sample(frac=1, random_state=0)
    table = table[~((table["layer"] == 2) & (table["head"] == 3))]
    figure = figures.head_map(table, {"identity": 0.314, "gaussian": 0.02})
    heat = figure.data[0]
    assert (heat.zmin, heat.zmax) == (-1, 1)
    for row in table.itertuples():
        at = heat.y.index(str(row.layer)), heat.x.index(str(row.head))
        assert heat.z[at] == row.spearman
        assert heat.text[at].startswith("<b>") == (row.q <= 0.05)
        assert "n = 20 splits" in heat.hovertext[at]
    assert np.isnan(heat.z[2, 3])
    title = figure.layout.title.text
    assert "identity 0.314; gaussian 0.02" in title.replace("<br>", " ")
    assert "n = 47 heads" in title
    best = table.loc[table["spearman"].idxmax()]
    assert f"layer {int(best['layer'])} head {int(best['head'])}" in title.replace("<br>", " ")


def test_head_map_refuses_a_head_that_is_there_twice():
    table = synthetic.heads()
    with pytest.raises(EvaluationError, match="layer 0 head 1 has more than one row"):
        figures.head_map(pd.concat([table, table.iloc[[1]]]))


def test_holdouts_draw_the_defined_and_list_the_undefined():
    figure = figures.holdouts(synthetic.holdouts(), baselines=["identity"])
    assert "<b>random holdout</b>" in texts(figure) and "<b>branch holdout</b>" in texts(figure)
    assert "donor (every operator): undefined: the cells name no donors" in texts(figure)
    assert "n = 496 pairs, 20 splits" in texts(figure)
    points = [t for t in figure.data if t.type == "scatter" and t.mode == "markers+text"]
    table = synthetic.holdouts().query("status == 'ok'")
    assert len(points) == 2
    for trace, holdout in zip(points, ["random", "branch"], strict=True):
        rows = table[table["holdout"] == holdout]
        assert list(trace.x) == list(rows["spearman"])
        assert list(trace.error_x.array) == list(rows["sd"])
        assert list(trace.marker.symbol) == ["circle", "circle", "circle-open", "circle"]
    bars = [t for t in figure.data if t.type == "bar"]
    assert all(list(t.base) == [0.0] * 4 and list(t.x) == [0.18] * 4 for t in bars)


def test_readouts_have_a_panel_per_endpoint_and_metric():
    figure = figures.readouts(synthetic.readouts())
    points = [t for t in figure.data if t.type == "scatter" and t.mode == "markers+text"]
    assert len(points) == 4
    assert {len(t.x) for t in points} == {3}
    assert "monocyte/macrophage, AUROC (every representation): undefined: only one class" in texts(figure)
    assert "n = 205 cells, 5 folds" in texts(figure)
    assert all("n = " in hover for t in points for hover in t.hovertext)
    bars = [t for t in figure.data if t.type == "bar"]
    assert bars[-1].base[0] == 0.5 and np.isclose(bars[-1].x[0], 0.06)


def test_readouts_name_the_representations_that_are_undefined():
    table = synthetic.readouts()
    table.loc[(table["endpoint"] == "stage") & (table["representation"] == "PCA-10"), "status"] = "undefined: 3 genes"
    assert "stage, balanced accuracy (PCA-10): undefined: 3 genes" in texts(figures.readouts(table))


@pytest.mark.parametrize(
    ("draw", "make"), [(figures.holdouts, synthetic.holdouts), (figures.readouts, synthetic.readouts)]
)
def test_nothing_defined_or_a_row_twice_is_refused(draw, make):
    with pytest.raises(EvaluationError, match="no row is defined .*too few anchors"):
        draw(make().assign(status="undefined: too few anchors"))
    with pytest.raises(EvaluationError, match="twice"):
        draw(pd.concat([make(), make().iloc[[0]]]))


def test_values_below_zero_and_without_sd_stay_inside_the_panel():
    table = synthetic.readouts().assign(sd=np.nan)
    table.loc[0, "value"] = -0.6
    low, high = figures.readouts(table).layout.xaxis.range
    assert low <= -0.6 and high >= 1


def test_ruler_against_latent_has_no_jitter_and_a_weighted_mean():
    table = synthetic.distances()
    figure = figures.ruler_against_latent(table)
    points, mean = figure.data
    assert sorted(points.x) == sorted(table["ruler"])
    assert sorted(points.marker.size) == sorted(table["n_pairs"])
    near = table[table["ruler"] == table["ruler"].min()]
    assert np.isclose(mean.y[0], np.average(near["latent"], weights=near["n_pairs"]))
    assert any("HSC – MPP" in hover and "n = " in hover for hover in points.text)
    assert f"n = {len(table)} pairs of stages" in figure.layout.title.text
