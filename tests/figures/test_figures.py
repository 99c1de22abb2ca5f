import functools
import itertools

import numpy as np
import pandas as pd
import pytest

from figures import synthetic
from workbench import figures
from workbench.errors import EvaluationError
from workbench.evidence.contrasts import OFF_RULER
from workbench.evidence.ruler import load_ruler
from workbench.figures.style import PALETTE, UNASSIGNED, assign_colors

BLOOD = load_ruler("hematopoiesis").colors

DRAWN = {
    figures.latent_map: synthetic.latent,
    figures.head_map: synthetic.heads,
    figures.holdouts: synthetic.holdouts,
    figures.readouts: synthetic.readouts,
    figures.ruler_against_latent: synthetic.distances,
    figures.label_effects: synthetic.effects,
    figures.attribution_scatter: synthetic.attribution,
    figures.transfer_map: synthetic.transfer,
}
for name, draw, make in (
    ("effect_map", figures.effect_map, synthetic.effects),
    ("head_intervals", figures.head_intervals, synthetic.effects),
    ("interaction_matrix", figures.interaction_matrix, synthetic.interactions),
):
    of_loss = functools.partial(draw, metric="label_loss")
    of_loss.__name__ = name
    DRAWN[of_loss] = make
NOT_NEEDED = {f"z_{i}" for i in range(2, 11)} | {"ablation"}
VALUES = {
    "latent_map": "umap_1",
    "head_map": "spearman",
    "holdouts": "spearman",
    "readouts": "value",
    "ruler_against_latent": "latent",
    "label_effects": "effect",
    "attribution_scatter": "exact",
    "transfer_map": "moved",
    "effect_map": "effect",
    "head_intervals": "effect",
    "interaction_matrix": "interaction",
}


def texts(figure):
    found = [figure.layout.title.text, *(a.text for a in figure.layout.annotations)]
    return " ".join(found).replace("<br>", " ")


def shown(heat):
    """Text, value and hover of a heatmap by the names on its axes."""
    return {
        (row, column): (heat.text[i][j], heat.z[i][j], heat.hovertext[i][j])
        for i, row in enumerate(heat.y)
        for j, column in enumerate(heat.x)
    }


def framed(figure):
    """Row and column of the framed cell."""
    (shape,) = figure.layout.shapes
    heat = figure.data[0]
    assert (shape.x1 - shape.x0, shape.y1 - shape.y0) == (1, 1)
    return heat.y[round(shape.y0 + 0.5)], heat.x[round(shape.x0 + 0.5)]


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


@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_a_table_without_a_value_or_with_text_is_refused(draw):
    column = VALUES[draw.__name__]
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


def test_colors_are_assigned_and_distinct_as_long_as_they_last():
    assert len({*PALETTE, UNASSIGNED}) == len(PALETTE) + 1 == 13
    names = [f"branch {i}" for i in range(30)]
    for n in range(1, 13):
        found = assign_colors(names[:n])
        assert list(found) == names[:n] and len(set(found.values())) == n
    assert list(assign_colors(names).values()) == [PALETTE[i % 12] for i in range(30)]
    assert assign_colors([*names[:5], *names[:5]]) == assign_colors(names[:5])
    assert assign_colors([None, np.nan, pd.NA, "", OFF_RULER]) == {}


def test_a_color_that_is_fixed_is_kept_and_is_nobody_else_s():
    fixed = {"T": PALETTE[0], "B": "#123456", "elsewhere": PALETTE[1]}
    found = assign_colors(["x", "B", "y", "T"], fixed)
    assert found == {"T": PALETTE[0], "B": "#123456", "x": PALETTE[2], "y": PALETTE[3]}
    assert list(found) == ["T", "B", "x", "y"], "those of the file first, in its order"
    names = [f"branch {i}" for i in range(9)]
    last = assign_colors(names, dict.fromkeys(["elsewhere"], PALETTE[1]) | dict(zip(names, PALETTE[3:6], strict=False)))
    assert len(set(last.values())) == 9 and PALETTE[1] not in last.values()
    every = assign_colors([f"branch {i}" for i in range(12)], {"elsewhere": PALETTE[1]})
    assert set(every.values()) == set(PALETTE), "the color of a branch that is not drawn comes last"
    assert assign_colors(every, every) == every


@pytest.mark.parametrize(
    "branches",
    [["G1", "S", "G2M"], ["stem", "TA", "enterocyte", "goblet", "Paneth", "tuft", "enteroendocrine", "M cell"]],
    ids=["cell cycle", "gut"],
)
def test_every_branch_of_a_ruler_of_one_s_own_has_its_own_color(branches):
    table = synthetic.latent()
    table["branch"] = np.array(branches)[np.arange(len(table)) % len(branches)]
    table["stage"] = table["branch"]
    for draw in (figures.latent_map, figures.latent_space):
        for colors in (None, assign_colors(branches), {branches[1]: "#117733"}):
            figure = draw(table, colors=colors)
            drawn = [t.marker.color for t in figure.data][: len(branches)]
            assert len(set(drawn)) == len(branches)
            shuffled = draw(table.sample(frac=1, random_state=1), colors=colors)
            assert {(t.name, t.marker.color) for t in figure.data} == {(t.name, t.marker.color) for t in shuffled.data}


def test_beyond_twelve_branches_colors_come_again_with_another_symbol():
    table = synthetic.latent()
    table["branch"] = [f"branch {i % 20:02d}" for i in range(len(table))]
    table["stage"] = table["branch"]
    for draw in (figures.latent_map, functools.partial(figures.latent_space, by=("branch",))):
        marks = [(t.marker.color, t.marker.symbol) for t in draw(table).data]
        assert len(marks) == len(set(marks)) == 20 and len({color for color, _ in marks}) == 12


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
    nine = [color for branch, color in BLOOD.items() if branch not in ("ILC", "mast")]
    for colors in (PALETTE, nine):
        seen = [lab(color, VISION[vision]) for color in colors]
        apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
        assert min(apart) > 15  # a difference of about 2.3 is just seen


def test_a_branch_keeps_its_color_whatever_is_beside_it():
    table = synthetic.latent()
    for part in (table, table[table["branch"].isin(["T", "NK"])], table[table["branch"] == "T"]):
        found = {t.marker.color for t in figures.latent_map(part, BLOOD).data if t.legendgroup == "T"}
        assert found == {BLOOD["T"]} == {"#117733"}


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
    assert {t.marker.color for t in figure.data if t.legendgroup == OFF_RULER} == {UNASSIGNED}


def test_cells_off_the_ruler_are_grey_and_are_no_branch():
    table = synthetic.latent()
    before = words(figures.latent_map(table))
    table.loc[10:12, ["stage", "branch"]] = OFF_RULER
    for draw in (figures.latent_map, figures.latent_space):
        grey = [t for t in draw(table).data if t.marker.color == UNASSIGNED]
        assert grey and all("not on the ruler" in t.name for t in grey)
    said = words(figures.latent_map(table))
    assert said.replace(", not on the ruler: 3 cells", "") == before


def words(figure):
    """The title, however its lines are broken."""
    return figure.layout.title.text.replace("<br>", " ")


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


def test_a_null_of_features_without_what_follows_sequencing_stands_beside_their_own_value():
    table = synthetic.holdouts()
    table["without_sequencing"] = table["spearman"] - 0.1
    table.loc[table["operator"] == "identity", "without_sequencing"] = np.nan
    figure = figures.holdouts(table)
    beside = [t for t in figure.data if t.name == "beside"]
    for trace, holdout in zip(beside, ["random", "branch"], strict=True):
        rows = table[(table["holdout"] == holdout) & (table["status"] == "ok")]
        np.testing.assert_array_equal(trace.x, rows["without_sequencing"])
        assert trace.marker.symbol == "diamond-open"
    assert any(t.name == "without sequencing" for t in figure.data)
    hover = next(t for t in figure.data if t.name == "value").hovertext
    assert sum("without what follows sequencing" in text for text in hover) == 3
    assert not any(t.name == "beside" for t in figures.holdouts(synthetic.holdouts()).data)


def test_readouts_have_a_facet_per_endpoint_and_metric():
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


def test_values_below_zero_and_without_sd_stay_inside_the_facet():
    table = synthetic.readouts().assign(sd=np.nan)
    table.loc[0, "value"] = -0.6
    low, high = figures.readouts(table).layout.xaxis.range
    assert low <= -0.6 and high >= 1


def test_ruler_against_latent_has_no_jitter_and_a_weighted_mean():
    table = synthetic.distances()
    figure = figures.ruler_against_latent(table)
    points, mean = figure.data
    assert sorted(points.x) == sorted(table["ruler_distance"])
    assert sorted(points.marker.size) == sorted(table["n_pairs"])
    near = table[table["ruler_distance"] == table["ruler_distance"].min()]
    assert np.isclose(mean.y[0], np.average(near["latent"], weights=near["n_pairs"]))
    assert any("HSC – MPP" in hover and "n = " in hover for hover in points.hovertext)
    assert f"n = {len(table)} pairs of stages" in figure.layout.title.text


def heads_of(table, metric):
    return table[(table["metric"] == metric) & (table["kind"] == "head")]


@pytest.mark.parametrize("metric", synthetic.METRICS)
def test_effect_map_holds_the_values_at_their_place(metric):
    table = synthetic.effects().sample(frac=1, random_state=0)
    figure = figures.effect_map(table, metric)
    cells, rows = shown(figure.data[0]), heads_of(table, metric)
    assert len(cells) == len(rows) == 48
    for row in rows.itertuples():
        text, value, hover = cells[str(row.layer), str(row.head)]
        assert value == row.effect
        assert text.startswith("<b>") == (row.q <= 0.05)
        for part in (
            "95 % bootstrap interval",
            "sd over cells",
            "n = 240 cells",
            "n = 8 draws",
            "p = ",
            "q = ",
            row.unit,
        ):
            assert part in hover
        assert f"layer {row.layer}, head {row.head} (mean)" in hover
    title = texts(figure)
    assert f"{int((rows['q'] <= 0.05).sum())} of 48" in title and f"Unit: {rows['unit'].iloc[0]}" in title
    assert "n = 48 heads" in title and "240 cells" in title
    assert "8 random-direction draws per head" in title and "smallest reachable p 0.0026 (384 draws" in title


@pytest.mark.parametrize(
    ("metric", "said", "best"),
    [
        ("cell_shift", "neither sign is worse", lambda effect: effect.abs().idxmax()),
        ("label_loss", "above 0 is worse", lambda effect: effect.idxmax()),
        ("ruler", "below 0 is worse", lambda effect: effect.idxmin()),
    ],
)
def test_effect_map_frames_the_head_that_matters_most(metric, said, best):
    table = synthetic.effects()
    rows = heads_of(table, metric)
    # The largest size is on the other side, where the metric has one that is worse.
    other = rows.index[0]
    table.loc[other, "effect"] = -2 * rows["effect"].abs().max() * (rows["worse"].iloc[0] or 1)
    wanted = table.loc[best(heads_of(table, metric)["effect"])]
    figure = figures.effect_map(table, metric)
    assert framed(figure) == (str(wanted["layer"]), str(wanted["head"]))
    assert said in texts(figure) and f"layer {wanted['layer']} head {wanted['head']}" in texts(figure)


def test_effect_map_is_symmetric_around_zero_and_red_is_worse():
    table = synthetic.effects()
    for metric, red in (("label_loss", 1), ("ruler", -1)):
        heat = figures.effect_map(table, metric).data[0]
        assert heat.zmax == -heat.zmin == heads_of(table, metric)["effect"].abs().max()
        assert heat.colorscale[-1 if red == 1 else 0][1] == "#B2182B"
    heat = figures.effect_map(table, "cell_shift").data[0]
    assert heat.zmin == 0 and heat.colorscale[0][1] == "#F7F7F7"
    assert figures.effect_map(table.assign(effect=0.0), "cell_shift").data[0].zmax > 0


def test_small_effects_are_written_times_a_power_of_ten():
    table = synthetic.effects().query("metric == 'cell_shift'").assign(effect=0.0)
    table.loc[table["ablation"] == "L2H3", "effect"] = 0.01234
    heat = figures.effect_map(table, "cell_shift").data[0]
    assert shown(heat)["2", "3"][:2] == ("12.3", 0.01234) or shown(heat)["2", "3"][0] == "<b>12.3</b>"
    assert "10³" in heat.colorbar.title.text and heat.colorbar.ticktext[-1] == "12.3"


def test_without_a_null_the_figures_say_so_and_mark_nothing():
    table = synthetic.effects(null=0)
    for figure in (
        figures.effect_map(table, "label_loss"),
        figures.label_effects(table),
        figures.head_intervals(table, "label_loss"),
    ):
        assert "No null was drawn" in texts(figure)
    cells = shown(figures.effect_map(table, "label_loss").data[0])
    assert all("<b>" not in text and "no null was drawn" in hover for text, _, hover in cells.values())
    one = synthetic.effects(null=1).assign(p=np.nan, q=np.nan)
    assert "a p takes two draws or more per head" in texts(figures.effect_map(one, "label_loss"))


def test_a_head_without_an_effect_is_blank_and_never_framed():
    table = synthetic.effects()
    at = heads_of(table, "label_loss")["effect"].idxmax()
    table.loc[at, "effect"] = np.nan
    figure = figures.effect_map(table, "label_loss")
    place = str(table.loc[at, "layer"]), str(table.loc[at, "head"])
    assert shown(figure.data[0])[place][0].strip("</b>") == "–" and framed(figure) != place


@pytest.mark.parametrize("draw", [figures.effect_map, figures.head_intervals])
def test_metric_and_way_of_ablating_are_chosen_by_name(draw):
    table = synthetic.effects(hows=("mean", "zero"))
    with pytest.raises(EvaluationError, match=r"several ways of ablating \(mean, zero\).*how='mean'"):
        draw(table, "label_loss")
    with pytest.raises(EvaluationError, match="way of ablating 'zerro'.*zero"):
        draw(table, "label_loss", "zerro")
    with pytest.raises(EvaluationError, match="metric 'label los'.*label_loss"):
        draw(table, "label los", "zero")
    only = draw(table[table["how"] == "zero"], "label_loss")
    assert draw(table, "label_loss", "zero").to_json() == only.to_json()
    twice = pd.concat([synthetic.effects()] * 2)
    with pytest.raises(EvaluationError, match="layer 0 head 0 has more than one row"):
        draw(twice, "label_loss")
    with pytest.raises(EvaluationError, match="no row of kind 'head'"):
        draw(table[table["kind"] == "mlp"], "label_loss")
    with pytest.raises(EvaluationError, match="'layer' or 'head' is missing"):
        draw(synthetic.effects().assign(head=np.nan), "label_loss")


@pytest.mark.parametrize(("metric", "sign"), [("label_loss", 1), ("ruler", -1), ("cell_shift", 0)])
def test_head_intervals_are_ordered_by_what_matters(metric, sign):
    table = synthetic.effects()
    figure = figures.head_intervals(table, metric, top=5)
    rows = heads_of(table, metric)
    score = rows["effect"] * sign if sign else rows["effect"].abs()
    rows = rows.loc[score.sort_values(ascending=False).index[:5]]
    bar, points = figure.data[:2]
    assert list(points.y) == list(rows["ablation"]) == list(figure.layout.yaxis.categoryarray)[::-1]
    assert list(points.x) == list(rows["effect"])
    x, base = np.array(points.x, float), np.array(bar.base, float)
    np.testing.assert_allclose(x + np.array(points.error_x.array, float), rows["high"])
    np.testing.assert_allclose(x - np.array(points.error_x.arrayminus, float), rows["low"])
    assert list(bar.base) == list(rows["null_low"])
    np.testing.assert_allclose(base + np.array(bar.x, float), rows["null_high"])
    assert list(points.marker.symbol) == ["circle" if q <= 0.05 else "circle-open" for q in rows["q"]]
    assert all("q = " in hover for hover in points.hovertext)
    assert "The 5 of n = 48 heads" in texts(figure) and "240 cells" in texts(figure)
    assert [s.x0 for s in figure.layout.shapes] == [0]
    assert not [t for t in figures.head_intervals(synthetic.effects(null=0), metric).data if t.type == "bar"]
    assert "95 % bootstrap interval" in texts(figure)
    assert "without an interval" in texts(figures.head_intervals(table.assign(low=np.nan, high=np.nan), metric, top=5))


def test_head_intervals_say_how_many_heads_beyond_the_null_are_not_among_the_worst():
    table = synthetic.effects()
    losses = table[(table["metric"] == "label_loss") & (table["kind"] == "head")].sort_values("effect")
    table.loc[losses.index, "q"] = 1.0
    assert "not drawn" not in texts(figures.head_intervals(table, "label_loss", top=5))
    sure = [*losses.index[:3], losses.index[-1]]
    table.loc[sure, "q"] = 0.01
    table.loc[sure, ["low", "high"]] = [-1.0, 1.0]
    assert "0 of 5" in texts(figures.head_intervals(table, "label_loss", top=5)), "each interval holds 0"
    table.loc[sure, ["low", "high"]] = [0.5, 1.0]
    said = texts(figures.head_intervals(table, "label_loss", top=5))
    assert f"1 of 5 and 3 of the {len(losses) - 5} that are not drawn" in said


def test_attribution_scatter_has_a_facet_per_metric_and_rho_per_method():
    table = synthetic.attribution()
    table.loc[0, "estimated"] = np.nan
    figure = figures.attribution_scatter(table)
    marks = [t for t in figure.data if t.mode == "markers" and t.x[0] is not None]
    assert [(t.xaxis, t.name, len(t.x)) for t in marks] == [
        ("x", "gradient", 47),
        ("x", "integrated gradients", 48),
        ("x2", "gradient", 48),
        ("x2", "integrated gradients", 48),
    ]
    assert len({(t.marker.symbol, t.marker.color) for t in marks}) == 2
    part = table[(table["metric"] == "masked error") & (table["method"] == "gradient")]
    assert list(marks[2].x) == list(part["exact"]) and list(marks[2].y) == list(part["estimated"])
    assert f"rho {part['exact'].corr(part['estimated'], method='spearman'):.2f}, gradient" in texts(figure)
    assert "layer 0, head 3" in marks[2].hovertext[3] and "estimated" in marks[2].hovertext[3]
    lines = [t for t in figure.data if t.mode == "lines"]
    assert len(lines) == 2 and all(list(t.x) == list(t.y) for t in lines)
    assert "1 rows without both effects" in texts(figure)
    with pytest.raises(EvaluationError, match="more than one row"):
        figures.attribution_scatter(pd.concat([table, table]))


def test_interaction_matrix_is_symmetric_with_single_effects_apart():
    table = synthetic.interactions()
    figure = figures.interaction_matrix(table, "label_loss")
    heat, diagonal = figure.data
    assert list(heat.x) == list(heat.y) == ["L0H1", "L2H3", "L2H7", "L4H0", "L5H6", "L10H2"]
    cells, single = shown(heat), shown(diagonal)
    for row in table.itertuples():
        for at in ((row.first, row.second), (row.second, row.first)):
            text, value, hover = cells[at]
            assert value == row.interaction
            assert text.startswith("<b>") == (row.low > 0 or row.high < 0)
            assert "n = 240 cells" in hover and f"{row.first} alone" in hover and "both" in hover
            assert np.isnan(single[at][1])
        assert single[row.first, row.first][1] == row.effect_first
        assert single[row.second, row.second][1] == row.effect_second
        assert np.isnan(cells[row.first, row.first][1])
    assert len({color for _, color in diagonal.colorscale}) == 1 and not diagonal.showscale
    bold = int(((table["low"] > 0) | (table["high"] < 0)).sum())
    assert f"{bold} of 15, without a correction for the number of pairs" in texts(figure)
    assert "No null was drawn" in texts(figure)


def test_interaction_matrix_leaves_out_the_pairs_drawn_at_random():
    chosen = synthetic.interactions().assign(random=False, p=0.25, q=0.5)
    drawn = synthetic.interactions(("L1H1", "L1H2", "L1H3"), seed=9).assign(random=True, p=np.nan)
    figure = figures.interaction_matrix(pd.concat([chosen, drawn]), "label_loss")
    assert "L1H1" not in figure.data[0].x and "n = 15 pairs of 6 heads" in texts(figure)
    assert "n = 3 pairs of heads drawn at random" in texts(figure) and "smallest reachable p 0.25" in texts(figure)
    assert "q for one pair alone 1;" in texts(figure)
    assert "p = 0.25<br>q = 0.5" in shown(figure.data[0])["L0H1", "L2H3"][2]
    assert "pairs of heads drawn at random" in texts(figures.interaction_matrix(chosen, "label_loss"))


def test_interaction_matrix_refuses_a_pair_twice_and_an_unknown_metric():
    table = synthetic.interactions()
    swapped = table.iloc[[0]].rename(columns={"first": "second", "second": "first"})
    with pytest.raises(EvaluationError, match="'L0H1' and 'L2H3' is there more than once"):
        figures.interaction_matrix(pd.concat([table, swapped]), "label_loss")
    with pytest.raises(EvaluationError, match="paired with itself"):
        figures.interaction_matrix(table.assign(second=table["first"]), "label_loss")
    with pytest.raises(EvaluationError, match="metric 'cell_shift'"):
        figures.interaction_matrix(table, "cell_shift")


def test_label_effects_show_labels_by_heads_in_percentage_points():
    table = synthetic.effects()
    figure = figures.label_effects(table, top=3)
    heat = figure.data[0]
    rows = table[table["metric"].str.startswith("label_error: ") & (table["kind"] == "head")]
    size = rows["effect"].abs().groupby(rows["ablation"]).max().sort_values(ascending=False)
    assert list(heat.x) == list(size.index[:3]) and list(heat.y) == list(synthetic.LABELS)
    cells = shown(heat)
    for row in rows[rows["ablation"].isin(heat.x)].itertuples():
        text, value, hover = cells[row.metric.removeprefix("label_error: "), row.ablation]
        assert value == row.effect and f"{100 * row.effect:z.1f}" in text
        assert text.startswith("<b>") == (row.q <= 0.05)
        assert f"n = {row.n_cells} cells" in hover
    assert [tick.split(" (n = ")[-1] for tick in figure.layout.yaxis.ticktext] == ["90)", "130)", "12)"]
    assert "The 3 of 48 heads" in texts(figure)
    with pytest.raises(EvaluationError, match="no metric named 'label_error: '"):
        figures.label_effects(table[table["metric"] == "label_loss"])
    table.loc[table["metric"] == "label_error: B", "effect"] = np.nan
    assert "B" not in figures.label_effects(table).data[0].y


def test_transfer_map_shows_percent_of_the_way():
    table = synthetic.transfer().sample(frac=1, random_state=0)
    figure = figures.transfer_map(table)
    cells = shown(figure.data[0])
    for row in table.itertuples():
        text, value, hover = cells[str(row.layer), str(row.head)]
        assert value == row.moved and f"{100 * row.moved:z.1f}" in text
        assert text.startswith("<b>") == (row.q <= 0.05)
        for part in (row.target, row.source, "n = 60 pairs", "312 shared genes", "null", "p = ", "q = "):
            assert part in hover
    best = table.loc[table["moved"].idxmax()]
    assert framed(figure) == (str(best["layer"]), str(best["head"]))
    assert "n = 48 heads, 60 pairs of cells, 312 shared genes" in texts(figure)
    parts = pd.DataFrame({**table.iloc[0].to_dict(), "head": -1}, index=[0])
    assert figures.transfer_map(pd.concat([table, parts])).to_json() == figure.to_json()


def test_transfer_map_without_a_null_and_with_several_contrasts():
    table = synthetic.transfer()
    none = figures.transfer_map(table.assign(null_mean=np.nan, null_low=np.nan, null_high=np.nan, p=np.nan, q=np.nan))
    assert "No null was drawn" in texts(none)
    assert all("<b>" not in text and "no null was drawn" in hover for text, _, hover in shown(none.data[0]).values())
    with pytest.raises(EvaluationError, match="several contrasts"):
        figures.transfer_map(pd.concat([table, table.assign(source="NK")]))


def test_ablation_figures_escape_markup_of_names():
    evil = "<b>x</b>"
    effects = synthetic.effects().replace({"metric": {"label_loss": evil, "label_error: B": f"label_error: {evil}"}})
    effects["unit"] = evil
    pairs = synthetic.interactions().replace({"L0H1": evil}).assign(metric=evil)
    for figure in (
        figures.effect_map(effects, evil),
        figures.head_intervals(effects, evil),
        figures.label_effects(effects),
        figures.attribution_scatter(
            synthetic.attribution().assign(metric=evil, method=f"{evil} gradient", head=range(192))
        ),
        figures.interaction_matrix(pairs, evil),
        figures.transfer_map(synthetic.transfer().assign(target=evil, source=evil)),
    ):
        found = figure.to_json()
        assert "&lt;b&gt;x" in found.replace("\\u003c", "<").replace("\\u003e", ">")
        assert evil not in found.replace("\\u003c", "<").replace("\\u003e", ">")
