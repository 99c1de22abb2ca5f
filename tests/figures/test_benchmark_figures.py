"""The benchmark as pictures: what is drawn is what the tables say, what has no value is listed. Planted scores."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from figures import synthetic
from workbench.errors import EvaluationError
from workbench.figures import (
    benchmark_costs,
    benchmark_differences,
    benchmark_endpoints,
    benchmark_ranks,
    benchmark_tally,
)
from workbench.figures.benchmark import group_color
from workbench.figures.benchmark_costs import apart
from workbench.figures.benchmark_maps import not_apart
from workbench.figures.gallery import GALLERY
from workbench.figures.style import in_dark

EVIL = "<b>evil</b>"
NOT_RUN = "scVI-10D"
DRAW = {
    "benchmark_endpoints": (benchmark_endpoints, ("summary", "scores")),
    "benchmark_differences": (benchmark_differences, ("comparisons",)),
    "benchmark_tally": (benchmark_tally, ("comparisons",)),
    "benchmark_ranks": (benchmark_ranks, ("ranks",)),
    "benchmark_costs": (benchmark_costs, ("costs", "methods")),
}


@pytest.fixture(scope="module")
def tables():
    return synthetic.benchmark(n_methods=7, n_judged=12)


def text_of(figure):
    return " ".join([figure.layout.title.text, *[note.text for note in figure.layout.annotations]]).replace("<br>", " ")


def points(figure):
    """Marks with a hover text, by facet and method."""
    return {
        (trace.xaxis, str(name).removeprefix("<b>").removesuffix("</b>")): (x, said)
        for trace in figure.data
        if trace.hovertext is not None and trace.type == "scatter"
        for x, name, said in zip(trace.x, trace.y, trace.hovertext, strict=True)
    }


def facets(figure):
    return sum("<b style" in note.text for note in figure.layout.annotations)


def test_endpoints_draw_every_mean_and_list_what_has_none(tables):
    figure = benchmark_endpoints(tables["summary"], tables["scores"], "anchor head")
    drawn = tables["summary"].dropna(subset=["value"])
    found = points(figure)
    assert sorted(x for x, _ in found.values()) == pytest.approx(sorted(drawn["value"]))
    assert NOT_RUN not in {name for _, name in found}
    assert facets(figure) == 11  # one of twelve is undefined for everyone
    said = text_of(figure)
    assert "calibration error, lower is better" in said and "AUROC, higher is better" in said
    assert f"('{NOT_RUN}'): not run: its package is not installed" in said
    assert (
        "monocyte against macrophage AUROC ('anchor head', 'cell head'," in said and "no split has both classes" in said
    )


def test_ours_is_bold_and_its_mean_a_line_through_every_facet(tables):
    figure = benchmark_endpoints(tables["summary"], tables["scores"], "anchor head")
    lines = [shape for shape in figure.layout.shapes if shape.type == "line"]
    own = tables["summary"].query("method == 'anchor head'")["value"].dropna()
    assert [line.x0 for line in lines] == pytest.approx(list(own))
    assert "<b>anchor head</b>" in figure.layout.yaxis.categoryarray
    plain = benchmark_endpoints(tables["summary"], tables["scores"])
    assert not plain.layout.shapes and "anchor head" in plain.layout.yaxis.categoryarray


def test_methods_stand_by_group_with_one_colour_and_mark_each(tables):
    figure = benchmark_endpoints(tables["summary"], tables["scores"])
    order = list(reversed(figure.layout.yaxis.categoryarray))
    group = dict(zip(tables["methods"]["method"], tables["methods"]["group"], strict=True))
    groups = [group[name] for name in order]
    assert groups == sorted(groups, key=["extracted", "control", "baseline", "scGPT"].index)
    marks = {
        (trace.name, trace.marker.color, trace.marker.symbol) for trace in figure.data if trace.hovertext is not None
    }
    assert len(marks) == len({name for name, _, _ in marks}) == len({symbol for _, _, symbol in marks}) == 4
    assert all(color == group_color(name) for name, color, _ in marks)
    assert group_color("something else") not in {group_color(name) for name in set(groups)}


def test_every_split_is_a_dot_and_donors_are_not(tables):
    figure = benchmark_endpoints(tables["summary"], tables["scores"])
    dots = sum(len(trace.x) for trace in figure.data if trace.name == "splits")
    own = tables["scores"].query("scope == 'all'")["value"]
    assert dots == own.notna().sum() < tables["scores"]["value"].notna().sum()


def test_differences_are_filled_where_they_are_sure(tables):
    figure = benchmark_differences(tables["comparisons"])
    drawn = tables["comparisons"].dropna(subset=["difference"])
    found = points(figure)
    assert sorted(x for x, _ in found.values()) == pytest.approx(sorted(drawn["difference"]))
    open_ = [
        x
        for trace in figure.data
        if trace.hovertext is not None and trace.marker.symbol == "circle-open"
        for x in trace.x
    ]
    assert sorted(open_) == pytest.approx(sorted(drawn.loc[~(drawn["q"] <= 0.05), "difference"]))
    for axis in figure.select_xaxes():
        if axis.range:
            assert axis.range[0] < 0 < axis.range[1] and axis.title.text == "ours better →"
    said = text_of(figure)
    assert f"Of {len(drawn)}: {(drawn['outcome'] == 'win').sum()} better" in said and NOT_RUN in said
    assert "would have been found in four of five" in next(iter(found.values()))[1]


def test_a_method_of_which_intervals_are_missing_is_drawn_without(tables):
    table = tables["comparisons"].assign(low=np.nan, high=np.nan, test="none", q=np.nan, outcome="tie")
    figure = benchmark_differences(table)
    assert len(points(figure)) == table["difference"].notna().sum() and "95 %, none" in text_of(figure)


def test_the_tally_counts_what_it_shows_and_never_over_methods(tables):
    figure = benchmark_tally(tables["comparisons"])
    cells = figure.data[0]
    shown = dict(zip(cells.y, cells.z, strict=True))
    sums = {note.y: note.text for note in figure.layout.annotations if note.yref != "paper"}
    for row in tables["tally"].itertuples():
        z = np.array(shown[row.method], dtype=float)
        assert (z == 1).sum() == row.wins and (z == 0).sum() == row.ties and (z == -1).sum() == row.losses
        assert sums[row.method] == f"{row.wins} / {row.ties} / {row.losses} / {row.undefined}"
        assert np.isnan(z).sum() == row.undefined
    dashes = figure.data[1]
    assert len(dashes.x) == tables["tally"]["undefined"].sum() and len(sums) == len(tables["tally"])
    assert "planted" in figure.layout.title.text.lower()


def test_ranks_are_in_order_with_ours_coloured(tables):
    figure = benchmark_ranks(tables["ranks"], "anchor head")
    marks = [trace for trace in figure.data if trace.name == "mean rank"]
    assert len(marks) == facets(figure) == len(tables["ranks"].groupby(["endpoint", "metric"]))
    for trace in marks:
        assert list(trace.x) == sorted(trace.x) and len(set(trace.marker.color)) == 2
    assert figure.layout.yaxis.ticktext.count("<b>anchor head</b>") == 1
    assert len({color for trace in benchmark_ranks(tables["ranks"]).data[:1] for color in trace.marker.color}) == 1


def test_bars_of_ranks_join_what_is_not_further_apart(tables):
    rows = tables["ranks"].assign(mean_rank=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0] * 11, critical_difference=2.0)
    figure = benchmark_ranks(rows)
    bars = next(trace for trace in figure.data if trace.name == "not apart")
    ends = [(round(a), round(b)) for a, b in zip(bars.y[::3], bars.y[1::3], strict=True)]
    assert ends == [(0, 2), (1, 3), (2, 4), (3, 5)]
    # Bars that have a row in common are beside each other, and right of every rank.
    assert len(set(bars.x[::3])) == 3 and min(bars.x[::3]) > 6
    axis = figure.layout.xaxis
    assert max(bars.x[::3]) < axis.range[1] and max(axis.tickvals) <= 6


@pytest.mark.parametrize(
    ("ranks", "distance", "runs"),
    [
        ([1, 2, 3], 5, [(0, 2)]),
        ([1, 2, 3], 0.5, []),
        ([1, 1, 3, 3], 0, [(0, 1), (2, 3)]),
        ([1, 2, 4, 5, 5.5], 2, [(0, 1), (1, 2), (2, 4)]),
        ([1], 1, []),
    ],
)
def test_runs_within_a_distance(ranks, distance, runs):
    assert not_apart(ranks, distance) == runs


def test_runs_agree_with_every_pair():
    rng = np.random.default_rng(0)
    for _ in range(50):
        ranks, distance = np.sort(rng.uniform(1, 10, 9)), rng.uniform(0, 6)
        runs = not_apart(ranks, distance)
        together = {(i, j) for first, last in runs for i in range(first, last + 1) for j in range(i + 1, last + 1)}
        assert together == {(i, j) for i in range(9) for j in range(i + 1, 9) if ranks[j] - ranks[i] <= distance}


def test_costs_are_medians_and_nothing_trained_has_a_place():
    tables = synthetic.benchmark(n_methods=29, n_judged=1)
    figure = benchmark_costs(tables["costs"], tables["methods"])
    marks = next(trace for trace in figure.data if trace.name == "methods")
    names = [said.split("<br>")[0] for said in marks.hovertext]
    assert NOT_RUN not in names and len(names) == 28 and f"'{NOT_RUN}': not run" in text_of(figure)
    axis = figure.layout.xaxis
    assert axis.ticktext[0] == "0" and axis.tickvals[0] == pytest.approx(marks.x[names.index("Palantir")])
    assert axis.range[0] < np.log10(axis.tickvals[0]) < axis.range[1]
    # One that has room around it is where it belongs.
    own = tables["costs"].query("method == 'raw log1p, small MLP'")
    i = names.index("raw log1p, small MLP")
    assert marks.x[i] == pytest.approx(61_000)
    assert marks.y[i] == pytest.approx((own["fit_seconds"] + own["predict_seconds"]).median())
    # Crowded ones are beside it, and a line says where they belong.
    place = next(trace for trace in figure.data if trace.name == "place")
    assert 17_000 in np.round(place.x).tolist()
    places = np.log10(np.column_stack([marks.x, marks.y]))
    assert len(np.unique(places.round(3), axis=0)) == 28


def test_costs_without_a_method_that_trains_nothing_have_no_zero(tables):
    figure = benchmark_costs(tables["costs"], tables["methods"])
    assert "0" not in figure.layout.xaxis.ticktext and not figure.layout.shapes


def test_marks_move_only_where_they_are_crowded():
    places = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [200.0, 200.0]])
    found = apart(places, 20)
    between = np.linalg.norm(found[:, None] - found[None], axis=-1) + 1000 * np.eye(4)
    assert between.min() > 19.9 and found[3].tolist() == [200, 200]
    assert np.array_equal(found, apart(places, 20))


@pytest.mark.parametrize("name", list(DRAW))
def test_markup_of_the_data_is_text(tables, name):
    make, wanted = DRAW[name]
    columns = {"method": "cell head", "endpoint": "branch", "group": "extracted"}
    made = [
        tables[one].replace({column: {was: EVIL} for column, was in columns.items() if column in tables[one]})
        for one in wanted
    ]
    assert EVIL not in make(*made).to_json().replace("\\u003c", "<").replace("\\u003e", ">")


@pytest.mark.parametrize("name", list(DRAW))
def test_a_missing_column_and_no_rows_are_one_sentence(tables, name):
    make, (first, *rest) = DRAW[name]
    more = [tables[one] for one in rest]
    with pytest.raises(EvaluationError, match="lacks the column 'method'"):
        make(tables[first].drop(columns="method"), *more)
    with pytest.raises(EvaluationError, match="has no rows"):
        make(tables[first].iloc[:0], *more)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("benchmark_endpoints", "value"),
        ("benchmark_differences", "difference"),
        ("benchmark_ranks", "mean_rank"),
        ("benchmark_costs", "fit_seconds"),
    ],
)
def test_nothing_to_draw_is_one_sentence(tables, name, column):
    make, (first, *rest) = DRAW[name]
    with pytest.raises(EvaluationError, match="no row has a finite"):
        make(tables[first].assign(**{column: np.nan}), *[tables[one] for one in rest])


@pytest.mark.parametrize("name", [name for name in DRAW if name != "benchmark_costs"])
def test_two_kinds_of_split_in_one_figure_are_refused(tables, name):
    make, (first, *rest) = DRAW[name]
    both = pd.concat([tables[first], tables[first].assign(kind="transfer")])
    with pytest.raises(EvaluationError, match="more than once"):
        make(both, *[tables[one] for one in rest])


@pytest.mark.parametrize("name", list(DRAW))
def test_the_gallery_draws_one_kind_in_both_themes(tables, name):
    entry = GALLERY[name]
    kinds = {
        one: pd.concat([tables[one], tables[one].assign(kind="transfer", data="another")])
        if "kind" in tables[one]
        else tables[one]
        for one in (*entry.tables, *entry.optional)
    }
    first = entry.draw(kinds)
    assert len(in_dark(first).data) == len(first.data)
    if name != "benchmark_costs":
        assert "Donor holdout, planted" in first.layout.title.text
        assert "Transfer, another" in entry.draw(kinds, kind="transfer", data="another").layout.title.text


def test_thirty_methods_have_a_name_each(tables):
    many = synthetic.benchmark(n_methods=29, n_judged=2)
    for name, (make, wanted) in DRAW.items():
        figure = make(*[many[one] for one in wanted])
        assert figure.layout.height > 400, name
    assert len(benchmark_ranks(many["ranks"]).layout.yaxis.ticktext) == 27
