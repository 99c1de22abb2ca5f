"""Compaction, factors, controls and settings as pictures. Nothing in the tables was measured."""

import itertools

import numpy as np
import pandas as pd
import pytest

from workbench import figures
from workbench.errors import EvaluationError

ENDPOINTS = (
    ("branch", "balanced accuracy"),
    ("branch", "macro-F1"),
    ("CD4 against CD8", "balanced accuracy"),
    ("depth", "|Spearman|"),
)
VARIANTS = {  # bytes, parameters, relative error, how much worse
    "drift, three blocks": (17_500_000, 4_320_000, 0.0, 0.0),
    "L2H5": (5_760_000, 1_440_000, 0.0, 0.003),
    "L2H5, rank 64": (730_000, 153_664, 0.08, 0.02),
    "L2H5, rank 32": (365_000, 76_832, 0.15, 0.035),
    "L2H5, rank 16": (183_000, 38_416, 0.26, 0.06),
    "L2H5, rank 8": (91_000, 19_208, 0.4, 0.11),
    "L2H5, 16 sparse factors": (120_000, 1_936, 0.55, 0.08),
}


def compaction():
    rng = np.random.default_rng(0)
    rows = []
    for i, (variant, (size, parameters, error, loss)) in enumerate(VARIANTS.items()):
        for j, (endpoint, metric) in enumerate(ENDPOINTS):
            reference = 0.9 - 0.05 * j
            difference = 0.0 if i == 0 else -loss * (0.4 + 0.2 * j) + rng.normal(0, 0.006)
            q = np.nan if i == 0 else 0.001 if abs(difference) > 0.02 else 0.4
            at = {"variant": variant, "order": i, "endpoint": endpoint, "metric": metric}
            of = {"value": reference + difference, "sd": 0.03, "n_splits": 20, "reference": reference, "q": q}
            size_of = {"bytes": size, "parameters": parameters, "relative_error": error}
            rows.append({**at, **of, "difference": difference, "p": q / 2, **size_of})
    return pd.DataFrame(rows)


def drops(n=16):
    impact = 0.43 * 0.78 ** np.arange(n) - 0.02
    share = impact.clip(min=0) / impact.clip(min=0).sum()
    rows = []
    for how, factor in (("mean", 1.0), ("zero", 1.3)):
        for i in range(n):
            q = 0.004 if i < 6 else 0.3
            of = {"impact": factor * impact[i], "sd": 0.03, "null_mean": 0.01, "null_high": 0.08, "p": q / 2, "q": q}
            more = {"share": share[i], "cumulative": share[: i + 1].sum(), "n_splits": 20}
            rows.append({"factor": f"f{(i + 1) % n:02d}", "how": how, **of, **more})
    return pd.DataFrame(rows)


def effects(n=10):
    rng = np.random.default_rng(1)
    rows = []
    for how, i, (endpoint, metric) in itertools.product(("mean", "zero"), range(n), ENDPOINTS):
        drop = rng.exponential(0.3 / (1 + i)) - 0.02
        q = 0.01 if drop > 0.08 else 0.5
        at = {"factor": f"f{i:02d}", "how": how, "endpoint": endpoint, "metric": metric, "drop": drop, "sd": 0.02}
        rows.append({**at, "n_splits": 20, "null_high": 0.07, "p": q / 3, "q": q, "intact": 0.85})
    return pd.DataFrame(rows)


def subsets():
    alone = {"f00": 0.12, "f01": 0.2, "f02": 0.06, "f03": 0.09}
    rows = []
    for (endpoint, metric), how, size in itertools.product(ENDPOINTS[:2], ("mean", "zero"), range(1, 5)):
        for kept in itertools.combinations(alone, size):
            additive = 0.25 + sum(alone[f] for f in kept)
            interaction = 0.0 if size == 1 else 0.03 * (-1) ** len("".join(kept)) * size - 0.05 * ("f01" in kept)
            at = {"subset": "+".join(kept), "size": size, "how": how, "endpoint": endpoint, "metric": metric}
            of = {"value": additive + interaction, "sd": 0.03, "intact": 0.82, "none": 0.25, "additive": additive}
            rows.append({**at, **of, "interaction": interaction, "n_splits": 20})
    return pd.DataFrame(rows)


def genes(n=6, per=30):
    rng = np.random.default_rng(2)
    rows = []
    for f, side in itertools.product(range(n), ("read", "write")):
        loading = np.sort(rng.exponential(0.07, per))[::-1] * rng.choice([1, -1], per, p=[0.7, 0.3])
        for i in range(per):
            at = {"factor": f"f{f:02d}", "side": side, "gene": f"GENE{17 * i + f}{'R' if side == 'read' else 'W'}"}
            rows.append({**at, "loading": loading[i], "rank": i + 1, "share": float(rng.beta(4, 1.5))})
    return pd.DataFrame(rows)


def programs(n=6):
    rows = []
    for f, side, (i, term) in itertools.product(
        range(n), ("read", "write"), enumerate(["classical monocyte", "naive CD8 T cell", "granulopoiesis"])
    ):
        q = 0.3 if side == "write" and f == 1 else 10.0 ** -(1 + (f + i) % 3) / 2
        at = {"factor": f"f{f:02d}", "side": side, "direction": "+-"[i % 2], "method": ("ORA", "GSEA")[i % 2]}
        rows.append({**at, "term": term, "q": q, "score": 2.0 + i})
    return pd.DataFrame(rows)


def added():
    rng = np.random.default_rng(3)
    controls = ["raw expression", "PCA-10", "co-expression", "spectrum-matched", "gene-permuted"]
    rows = []
    for (endpoint, metric), control in itertools.product(ENDPOINTS, controls):
        difference, half = rng.normal(0.02, 0.05), rng.uniform(0.01, 0.05)
        q = 0.01 if abs(difference) > 1.3 * half else 0.4
        at = {"endpoint": endpoint, "metric": metric, "control": control, "ours": 0.85, "theirs": 0.85 - difference}
        ends = {"low": difference - half, "high": difference + half}
        rows.append({**at, "difference": difference, **ends, "n_folds": 20, "p": q / 2, "q": q})
    return pd.DataFrame(rows)


def settings():
    rows = []
    for holdout, k in itertools.product(("branch", "donor", "random"), (2, 3, 4, 6, 8, 10, 15, 20)):
        base = {"random": 0.55, "branch": 0.38, "donor": 0.5}[holdout]
        at = {"swept": "k", "k": k, "alpha": 0.1, "beta": 1 / np.pi, "holdout": holdout, "spearman": base - 0.5 / k}
        rows.append({**at, "sd": 0.05, "n_splits": 20, "stress": 0.02 + 0.1 / k, "trustworthiness": 0.99 - 0.1 / k})
    for holdout, alpha, beta in itertools.product(
        ("branch", "donor", "random"), (0.01, 0.03, 0.1, 0.3, 1.0), (0.1, 0.2, 1 / np.pi, 0.5, 1.0)
    ):
        base = {"random": 0.55, "branch": 0.38, "donor": 0.5}[holdout] - 0.04 * abs(np.log(alpha / 0.1)) - 0.02 * beta
        at = {"swept": "alpha x beta", "k": 10, "alpha": alpha, "beta": beta, "holdout": holdout, "spearman": base}
        rows.append({**at, "sd": 0.05, "n_splits": 20, "stress": 0.03, "trustworthiness": 0.97})
    return pd.DataFrame(rows)


def heads():
    rng = np.random.default_rng(4)
    names = [
        "anchor head",
        "cell head",
        "hybrid, strong 0.04",
        "hybrid, strong 0.18",
        "hybrid, conservative 0.01",
        "PCA-10",
    ]
    rows = []
    for (endpoint, metric), name in itertools.product(ENDPOINTS, names):
        at = {"endpoint": endpoint, "metric": metric, "representation": name, "value": rng.uniform(0.5, 0.95)}
        of = {"sd": 0.04, "n_folds": 20, "n_cells": 560, "n_features": 10, "null_mean": 0.3, "null_high": 0.4}
        rows.append({**at, **of, "p": 0.001, "status": "ok"})
    return pd.DataFrame(rows)


def draw_genes(table):
    return figures.factor_genes(table, programs(), top=1)


def draw_programs(table):
    return figures.factor_genes(genes(), table, top=1)


DRAWN = {  # figure: its table, and the column without which nothing can be drawn
    figures.compaction_pareto: (compaction, "difference"),
    figures.factor_drops: (drops, "impact"),
    figures.factor_effects: (effects, "drop"),
    figures.subset_interactions: (subsets, "value"),
    draw_genes: (genes, "loading"),
    draw_programs: (programs, None),
    figures.added_value: (added, "difference"),
    figures.sensitivity: (settings, "spearman"),
}


def words(figure):
    """Title and every note outside the axes, as one line."""
    found = [figure.layout.title.text, *(note.text for note in figure.layout.annotations)]
    return " ".join(found).replace("<br>", " ")


def points(figure, name):
    return [trace for trace in figure.data if trace.name == name]


@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_every_figure_is_pure_and_says_what_its_table_lacks(draw):
    make, value = DRAWN[draw]
    table = make()
    before = table.copy(deep=True)
    first = draw(table)
    assert first.to_json() == draw(table).to_json() and "n = " in words(first)
    pd.testing.assert_frame_equal(table, before)
    for column in table.columns:
        with pytest.raises(EvaluationError, match=f"'{column}'"):
            draw(table.drop(columns=column))
    with pytest.raises(EvaluationError, match="no rows"):
        draw(table.iloc[:0])
    if value is not None:
        with pytest.raises(EvaluationError, match=f"finite '{value}'"):
            draw(table.assign(**{value: np.nan}))
        with pytest.raises(EvaluationError, match="no number"):
            draw(table.assign(**{value: "high"}))
        with pytest.raises(EvaluationError, match="more than once"):
            draw(pd.concat([table, table]))


@pytest.mark.parametrize(
    ("draw", "column"),
    [
        (figures.compaction_pareto, "endpoint"),
        (figures.factor_effects, "metric"),
        (figures.subset_interactions, "endpoint"),
        (draw_programs, "term"),
        (figures.added_value, "endpoint"),
    ],
)
def test_markup_in_names_is_shown_as_it_is(draw, column):
    make, _ = DRAWN[draw]
    table = make()
    said = draw(table.assign(**{column: "<b>x" + table[column]})).to_json()
    assert "&lt;b&gt;x" in said and "<b>x" not in said


@pytest.mark.parametrize(
    ("draw", "column"),
    [
        (figures.compaction_pareto, "variant"),
        (figures.factor_drops, "factor"),
        (figures.factor_effects, "factor"),
        (figures.subset_interactions, "subset"),
        (draw_genes, "gene"),
        (figures.added_value, "control"),
        (figures.sensitivity, "holdout"),
    ],
)
def test_markup_in_the_names_of_rows_is_shown_as_it_is(draw, column):
    make, _ = DRAWN[draw]
    table = make()
    said = draw(table.assign(**{column: "<i>" + table[column]})).to_json()
    assert "&lt;i&gt;" in said and "<i>" not in said


@pytest.mark.parametrize("draw", [figures.factor_drops, figures.factor_effects, figures.subset_interactions])
def test_one_way_of_removing_is_drawn_at_a_time(draw):
    table = DRAWN[draw][0]()
    assert "mean of the training cells" in words(draw(table)) and "set to zero" in words(draw(table, how="zero"))
    pd.testing.assert_index_equal(table.index, DRAWN[draw][0]().index)
    alone = draw(table[table["how"] == "zero"], how="zero")
    assert alone.to_json() == draw(table, how="zero").to_json()
    with pytest.raises(EvaluationError, match="Unknown how 'mea'.*'mean'"):
        draw(table, how="mea")


def test_what_a_variant_loses_is_filled_and_counted():
    table = compaction()
    figure = figures.compaction_pareto(table)
    facets = points(figure, "difference")
    assert len(facets) == len(ENDPOINTS) and list(facets[0].x) == [size for size, *_ in VARIANTS.values()]
    filled = np.array([[color != "white" for color in facet.marker.color] for facet in facets])
    lost = (table["q"] <= 0.05) & (table["difference"] < 0)
    np.testing.assert_array_equal(filled.sum(axis=0), lost.groupby(table["variant"], sort=False).sum())
    assert f"L2H5, rank 8 {filled[:, 5].sum()} of 4" in words(figure) and "drift, three blocks 0 of 4" in words(figure)
    assert "Below 0: worse than drift, three blocks" in words(figure)
    assert all(set(facet.marker.symbol) == {"circle"} for facet in facets)


def test_a_variant_that_is_better_is_neither_filled_nor_lost():
    table = compaction()
    at = (table["variant"] == "L2H5") & (table["endpoint"] == "depth")
    table.loc[at, ["difference", "q"]] = [0.05, 0.001]
    figure = figures.compaction_pareto(table)
    facet = points(figure, "difference")[-1]
    assert (facet.marker.symbol[1], facet.marker.color[1]) == ("square", "white")
    assert "L2H5 0 of 4" in words(figure)


def test_the_front_has_only_what_nothing_smaller_beats():
    table = compaction()
    figure = figures.compaction_pareto(table)
    (front,) = points(figure, "front")
    (means,) = points(figure, "mean")
    by_hand = table.groupby("variant", sort=False)["difference"].mean()
    np.testing.assert_allclose(means.y, by_hand)
    kept = [
        (x, y)
        for x, y in sorted(zip(means.x, means.y, strict=True))
        if not any((a <= x and b > y) or (a < x and b >= y) for a, b in zip(means.x, means.y, strict=True))
    ]
    assert list(zip(front.x, front.y, strict=True)) == kept
    worse = table.copy()
    worse.loc[worse["variant"] == "L2H5, rank 64", "difference"] = -1.0
    assert 730_000 not in points(figures.compaction_pareto(worse), "front")[0].x


def test_the_mean_is_over_endpoints_that_every_variant_has():
    table = compaction()
    lost = (table["variant"] == "L2H5") & (table["endpoint"] == "depth")
    table.loc[lost, ["value", "difference"]] = np.nan
    figure = figures.compaction_pareto(table)
    others = table[table["endpoint"] != "depth"].groupby("variant", sort=False)["difference"].mean()
    np.testing.assert_allclose(points(figure, "mean")[0].y, others)
    assert "n = 3 of 4" in words(figure) and "depth, |Spearman| ('L2H5'): no value, or no size" in words(figure)
    table.loc[table["variant"] == "L2H5", "difference"] = np.where(np.arange(4) == 3, -0.1, np.nan)
    table.loc[(table["variant"] == "L2H5, rank 8") & (table["endpoint"] == "depth"), "difference"] = np.nan
    with pytest.raises(EvaluationError, match="no endpoint metric has a value of every variant"):
        figures.compaction_pareto(table)


def test_sizes_are_written_in_thousands_of_bytes():
    figure = figures.compaction_pareto(compaction())
    assert {"100 kB", "1 MB", "10 MB"} <= set(figure.layout.xaxis.ticktext)
    assert figure.layout.xaxis.type == "log" and "5.76 MB, 1,440,000 weights" in words(figure)
    without = compaction().assign(bytes=lambda t: t["bytes"].where(t["variant"] != "L2H5", 0))
    assert "'L2H5'" in words(figures.compaction_pareto(without))


def test_drops_go_from_the_largest_down_beside_their_null():
    figure = figures.factor_drops(drops().sample(frac=1, random_state=0))
    (bars,), (null,), (share,) = points(figure, "drop"), points(figure, "null"), points(figure, "cumulative share")
    assert list(bars.x) == sorted(bars.x, reverse=True) and bars.y[0] == "f01"
    assert [color != "white" for color in bars.marker.color] == [True] * 6 + [False] * 10
    assert [low + length for low, length in zip(null.base, null.x, strict=True)] == pytest.approx([0.08] * 16)
    assert list(share.x) == sorted(share.x) and share.x[-1] == pytest.approx(1)
    assert "6 of 16" in words(figure) and f"hold {100 * share.x[3]:.0f} %" in words(figure)


def test_a_factor_without_an_impact_is_listed():
    table = drops()
    table.loc[3, "impact"] = np.nan
    figure = figures.factor_drops(table)
    assert "f04: no endpoint has a value" in words(figure) and "f04" not in points(figure, "drop")[0].y
    assert "Not drawn" not in words(figures.factor_drops(drops()))


def test_without_a_null_none_is_drawn():
    figure = figures.factor_drops(drops().assign(null_mean=np.nan, null_high=np.nan))
    assert not points(figure, "null") and "No null was drawn" in words(figure)


def test_effects_are_starred_and_those_without_value_are_listed():
    table = effects()
    table.loc[2, "drop"] = np.nan
    figure = figures.factor_effects(table)
    heat = figure.data[0]
    own = table[table["how"] == "mean"]
    stars = sum(text.endswith("*</b>") for line in heat.text for text in line)
    assert stars == ((own["q"] <= 0.05) & own["drop"].notna()).sum() and f"{stars} of {len(own) - 1}" in words(figure)
    assert np.isnan(heat.z[0][2]) and heat.text[0][2] == "–"
    assert "CD4 against CD8, balanced accuracy ('f00'): no value" in words(figure)
    assert np.shape(heat.z) == (10, len(ENDPOINTS)) and "sd over n = 20 splits" in heat.hovertext[2][3]


def test_subsets_stand_over_the_factors_they_keep():
    table = subsets()
    figure = figures.subset_interactions(table, endpoint="branch", metric="macro-F1")
    own = table[(table["metric"] == "macro-F1") & (table["how"] == "mean")]
    (values,), (additive,) = points(figure, "subset kept, mean ± sd"), points(figure, "additive prediction")
    assert len(values.y) == 15 and set(additive.marker.symbol.split("-")[1:]) == {"open"}
    dots = [trace for trace in points(figure, "kept") if trace.mode == "markers"][0]
    for x, (value, predicted) in enumerate(zip(values.y, additive.y, strict=True)):
        kept = "+".join(f"f{y:02d}" for at, y in zip(dots.x, dots.y, strict=True) if at == x)
        row = own[own["subset"] == kept].iloc[0]
        assert (row["value"], row["additive"]) == (value, predicted)
    sizes = [dots.x.count(x) for x in range(15)]
    assert sizes == sorted(sizes) and {shape.y0 for shape in figure.layout.shapes} == {0.82, 0.25}


def test_a_subset_without_value_is_listed_and_an_unknown_endpoint_is_refused():
    table = subsets()
    table.loc[3, "value"] = np.nan
    figure = figures.subset_interactions(table)
    assert "branch, balanced accuracy ('f03'): no value" in words(figure)
    assert len(points(figure, "subset kept, mean ± sd")[0].y) == 14
    with pytest.raises(EvaluationError, match="Unknown endpoint 'branches'.*'branch'"):
        figures.subset_interactions(table, endpoint="branches")
    with pytest.raises(EvaluationError, match="Unknown metric"):
        figures.subset_interactions(table, metric="AUROC")


def test_the_largest_loadings_are_drawn_the_paler_the_less_stable():
    table = genes()
    figure = figures.factor_genes(table, programs(), top=2)
    facets = points(figure, "genes")
    assert len(facets) == 4 and all(len(facet.y) == 12 for facet in facets)
    own = table[(table["factor"] == "f01") & (table["side"] == "write")]
    first = own.loc[own["loading"].abs().nlargest(12).index].sort_values("loading")
    assert list(facets[3].y) == list(first["gene"]) and list(facets[3].x) == list(first["loading"])
    alpha = [float(color.rsplit(", ", 1)[1].rstrip(")")) for color in facets[3].marker.color]
    np.testing.assert_allclose(alpha, first["share"], atol=1e-3)
    bare = figures.factor_genes(table.assign(share=np.nan), programs(), top=1)
    assert all(color.endswith("1.000)") for facet in points(bare, "genes") for color in facet.marker.color)
    assert "No bootstrap was made" in words(bare)


def test_the_program_over_a_facet_has_the_smallest_q():
    said = [
        note.text.replace("<br>", " ") for note in figures.factor_genes(genes(), programs(), top=3).layout.annotations
    ]
    tested = programs().query("factor == 'f02' and side == 'read'").sort_values("q").iloc[0]
    assert "f02 reads" in said[4] and tested["term"] in said[4] and f"q = {tested['q']:.2g}" in said[4]
    assert "f01 writes" in said[3] and "no program with q ≤ 0.05; nearest" in said[3]
    untested = figures.factor_genes(genes(), programs().query("factor != 'f00'"), top=1).layout.annotations[0].text
    assert "no program was tested" in untested


def test_long_names_of_genes_are_cut_on_the_axis_and_whole_on_hover():
    table = genes().assign(gene=lambda t: "A-VERY-LONG-NAME-OF-A-GENE-" + t["gene"])
    figure = draw_genes(table)
    axis, bars = figure.layout.yaxis, figure.data[0]
    assert list(axis.tickvals) == list(bars.y) and len(set(bars.y)) == len(bars.y)
    assert all(len(text) <= 16 and text.endswith("…") for text in axis.ticktext)
    assert all("A-VERY-LONG-NAME-OF-A-GENE-" in hover for hover in bars.hovertext)


def test_a_side_without_genes_is_listed_and_an_unknown_one_is_refused():
    table = genes()
    zero = table.assign(loading=table["loading"].where((table["factor"] != "f01") | (table["side"] != "read"), 0.0))
    figure = figures.factor_genes(zero, programs(), top=2)
    assert "f01, read: no gene" in words(figure) and len(points(figure, "genes")[2].y) == 0
    with pytest.raises(EvaluationError, match="Unknown side 'reads'.*'read'"):
        figures.factor_genes(table.assign(side="reads"), programs())
    with pytest.raises(EvaluationError, match="at least 1 factor"):
        figures.factor_genes(table, programs(), top=0)


def test_what_ours_adds_is_filled_by_q_and_has_its_interval():
    table = added()
    figure = figures.added_value(table)
    facets = points(figure, "value")
    assert len(facets) == len(ENDPOINTS)
    for (_, part), facet in zip(table.groupby(["endpoint", "metric"], sort=False), facets, strict=True):
        assert list(facet.y) == list(part["control"]) and list(facet.x) == list(part["difference"])
        assert [symbol == "circle" for symbol in facet.marker.symbol] == list(part["q"] <= 0.05)
        np.testing.assert_allclose(np.array(facet.x) + facet.error_x.array, part["high"])
        np.testing.assert_allclose(np.array(facet.x) - facet.error_x.arrayminus, part["low"])
    better = ((table["q"] <= 0.05) & (table["difference"] > 0)).sum()
    assert f"ours better in {better}" in words(figure)
    strict = points(figures.added_value(table, q=0.001), "value")
    assert all(symbol == "circle-open" for facet in strict for symbol in facet.marker.symbol)


def test_controls_without_a_difference_are_listed_and_keep_their_place():
    table = added()
    table.loc[1, ["difference", "low", "high", "q"]] = np.nan
    figure = figures.added_value(table)
    assert "branch, balanced accuracy ('PCA-10'): no fold has a value of both" in words(figure)
    assert list(points(figure, "value")[0].y) == [c for c in dict.fromkeys(table["control"]) if c != "PCA-10"]
    assert list(figure.layout.yaxis.categoryarray)[::-1] == list(dict.fromkeys(table["control"]))
    table.loc[:4, "difference"] = np.nan
    assert "branch, balanced accuracy (every control)" in words(figures.added_value(table))


def test_settings_have_a_line_and_a_map_per_holdout():
    table = settings()
    figure = figures.sensitivity(table.sample(frac=1, random_state=0))
    lines = [trace for trace in figure.data if trace.type == "scatter" and trace.showlegend]
    assert [line.name for line in lines] == ["random holdout", "branch holdout", "donor holdout"]
    own = table.query("swept == 'k' and holdout == 'branch'")
    assert list(lines[1].x) == list(own["k"]) and list(lines[1].y) == list(own["spearman"])
    assert list(lines[1].error_y.array) == list(own["sd"])
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 3 and len({(heat.zmin, heat.zmax) for heat in maps}) == 1
    assert list(maps[0].y) == ["0.01", "0.03", "0.1", "0.3", "1"] and list(maps[0].x)[2] == "0.318"
    at = table.query("swept == 'alpha x beta' and holdout == 'donor' and alpha == 0.3 and beta == 0.2").iloc[0]
    assert maps[2].z[3][1] == at["spearman"] and "donor holdout" in maps[2].hovertext[3][1]


def test_each_sweep_can_be_drawn_alone():
    table = settings()
    widths = figures.sensitivity(table[table["swept"] == "k"])
    assert not [trace for trace in widths.data if trace.type == "heatmap"]
    assert [trace.name for trace in widths.data[3:]] == ["stress", "trustworthiness"]
    weights = figures.sensitivity(table[table["swept"] != "k"].assign(beta=lambda t: t["beta"].where(t["beta"] < 1)))
    assert {trace.type for trace in weights.data} == {"heatmap"} and weights.data[0].x[-1] == "fitted"


def test_a_fit_that_differs_between_holdouts_has_a_line_for_each():
    table = settings()
    table["stress"] += 0.01 * (table["holdout"] == "donor")
    assert [trace.name for trace in figures.sensitivity(table).data[3:7]] == [
        "random holdout",
        "branch holdout",
        "donor holdout",
        "trustworthiness",
    ]


def test_undefined_settings_are_listed_and_unknown_sweeps_refused():
    table = settings()
    table.loc[3, "spearman"] = np.nan
    assert "k = 6 ('branch'): no split has a value" in words(figures.sensitivity(table))
    with pytest.raises(EvaluationError, match="Unknown sweep 'kk'.*'k'"):
        figures.sensitivity(table.assign(swept="kk"))


def test_the_heads_of_the_adaptor_are_drawn_as_readouts():
    figure = figures.readouts(heads(), baselines=["PCA-10"])
    facets = points(figure, "value")
    assert len(facets) == len(ENDPOINTS) and list(facets[0].y)[:2] == ["anchor head", "cell head"]
