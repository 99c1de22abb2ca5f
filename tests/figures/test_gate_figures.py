"""Gates, screens, dimensions, curves, lineages and planted worlds as pictures. Nothing in the tables was measured."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from workbench import figures
from workbench.errors import EvaluationError
from workbench.evidence import gate_spec as spec


def dimension():
    names = ["TwoNN", "local PCA", "participation ratio"]
    rows = [(s, n, "", 4 + i + j, 3.5 + i, 4.9 + i, 500, 20) for i, s in enumerate("fz") for j, n in enumerate(names)]
    return pd.DataFrame(rows, columns=["space", "estimator", "note", "dimension", "low", "high", "n", "k"])


def quality():
    k = np.array([5, 10, 20])
    return pd.DataFrame({"space": "anchors", "k": k, "trustworthiness": 0.9, "continuity": 0.95, "null": 0.5, "n": 96})


def elbow():
    k = np.arange(1, 8)
    return pd.DataFrame(
        {"k": k, "stress": 1 / k, "reconstruction": 0.1 / k, "trustworthiness": 1 - 0.3 / k, "n_anchors": 96}
    )


def lineages():
    ok = {"root": "HSC", "stages": "HSC > a > b", "status": "ok", "n_depths": 3, "null_mean": 0.0, "null_high": 0.4}
    rows = [
        {"lineage": "erythroid", "spearman": 0.8, "p": 0.001, "q": 0.002, "n_anchors": 20, **ok},
        {"lineage": "B", "spearman": -0.2, "p": 0.7, "q": 0.7, "n_anchors": 9, **ok},
        {"lineage": "T", "status": "not applicable: no anchor is of this branch"},
    ]
    return pd.DataFrame(rows)


def gates():
    rows = []
    for cohort, role in (("own", "internal"), ("lung", "expected to fail")):
        for i, gate in enumerate(spec.GATES[: 7 if role == "internal" else 5]):
            row = {
                "cohort": cohort,
                "role": role,
                "gate": gate,
                "rule": ">=",
                "threshold": 0.2,
                "sd": 0.1,
                "n": 8,
                "unit": "splits",
            }
            rows.append(
                {
                    **row,
                    "value": 0.25 + i / 100,
                    "null_high": 0.1,
                    "p": 0.05,
                    "status": "pass",
                    "note": "said",
                    "spec": "ab",
                }
            )
    table = pd.DataFrame(rows)
    table.loc[2, ["value", "status", "note"]] = [np.nan, "not applicable", "the data name no donors"]
    table.loc[10, ["value", "status"]] = [0.058, "fail"]
    return table


def screen(n=24):
    rows = []
    for i in range(n):
        row = {
            "rank": i + 1,
            "layer": i // 4,
            "head": i % 4,
            "gates": "4 of 5",
            "residualised": 0.6 - i / 50,
            "spearman": 0.7,
        }
        more = {
            "null_mean": 0.1,
            "null_high": 0.4,
            "p": 0.001,
            "q": 0.01 if i < 5 else 0.5,
            "n_anchors": 90,
            "n_donors": 3,
        }
        rows.append(
            {
                **row,
                "low": 0.5 - i / 50,
                "high": 0.7 - i / 50,
                "trustworthiness": 0.99,
                "CD4_against_CD8_auroc": 0.8,
                **more,
            }
        )
    return pd.DataFrame(rows)


def p_values():
    p = (np.arange(50) + 0.5) / 50
    return pd.DataFrame({"kind": ["even"] * 50 + ["small"] * 50, "p": [*p, *p**3]})


def recovery():
    rows = [(k, s, 1, 32, 5.5 + s / 10, 6, 0.99, 7, 7) for k in ("qk", "attention") for s in range(5)]
    columns = [
        "operator",
        "seed",
        "planted_rank",
        "n_heads",
        "dimension",
        "truth",
        "overlap",
        "gates_passed",
        "gates_total",
    ]
    return pd.DataFrame(rows, columns=columns)


DRAWN = {
    figures.dimension_agreement: (dimension, "dimension"),
    figures.trust_curve: (quality, "trustworthiness"),
    figures.let_elbow: (elbow, "stress"),
    figures.trajectories: (lineages, "spearman"),
    figures.gate_table: (gates, None),
    figures.head_screen: (screen, "residualised"),
    figures.p_uniform: (p_values, "p"),
    figures.recovery: (recovery, "dimension"),
}
OPTIONAL = {"CD4_against_CD8_auroc"}


def title(figure):
    return figure.layout.title.text.replace("<br>", " ")


@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_every_figure_is_pure_and_says_what_its_table_lacks(draw):
    make, value = DRAWN[draw]
    table = make()
    before = table.copy(deep=True)
    assert draw(table).to_json() == draw(table).to_json() and "n = " in draw(table).to_json()
    pd.testing.assert_frame_equal(table, before)
    for column in set(table.columns) - OPTIONAL:
        with pytest.raises(EvaluationError, match=f"'{column}'"):
            draw(table.drop(columns=column))
    with pytest.raises(EvaluationError, match="no rows"):
        draw(table.iloc[:0])
    if value is not None:
        with pytest.raises(EvaluationError, match="cannot be drawn"):
            draw(table.assign(**{value: np.nan}))
        with pytest.raises(EvaluationError, match="no number"):
            draw(table.assign(**{value: "high"}))


def test_the_gates_here_are_those_of_the_spec():
    from workbench.figures.gates import GATES

    assert GATES == spec.GATES


def test_dimensions_have_their_intervals_their_median_and_the_truth():
    figure = figures.dimension_agreement(dimension(), truth=6)
    first = figure.data[0]
    assert list(first.x) == [4, 5, 6] and first.error_x.array[0] == pytest.approx(0.9)
    assert "f 5; z 6" in title(figure) and "Planted truth: 6" in title(figure)
    assert {shape.x0 for shape in figure.layout.shapes} == {5, 6}
    assert "Planted" not in title(figures.dimension_agreement(dimension()))


def test_the_curve_shows_gate_and_null():
    figure = figures.trust_curve(quality(), threshold=0.8)
    assert [t.name for t in figure.data] == ["trustworthiness", "continuity", "trustworthiness, rows permuted"]
    assert figure.layout.shapes[0].y0 == 0.8
    without = figures.trust_curve(quality().assign(null=np.nan))
    assert len(without.data) == 2


def test_the_elbow_adds_up():
    figure = figures.let_elbow(elbow().sample(frac=1, random_state=0))
    np.testing.assert_allclose(figure.data[0].y, np.array(figure.data[1].y) + np.array(figure.data[2].y))
    assert list(figure.data[0].x) == list(range(1, 8))


def test_lineages_that_are_not_applicable_are_listed():
    figure = figures.trajectories(lineages())
    (points,) = [t for t in figure.data if t.type == "scatter" and t.mode == "markers+text"]
    assert list(points.y) == ["erythroid", "B"] and list(points.x) == [0.8, -0.2]
    assert any("no anchor is of this branch" in a.text for a in figure.layout.annotations)


def test_the_gate_table_tells_status_by_sign_and_word():
    heat = figures.gate_table(gates()).data[0]
    at = list(heat.x).index("donor<br>holdout")
    assert heat.text[0][at] == "<b>–</b>" and "not applicable" in heat.hovertext[0][at]
    assert "the data name no donors" in heat.hovertext[0][at]
    failed = list(heat.x).index("branch<br>holdout")
    assert heat.text[1][failed] == "<b>✗</b> 0.058" and heat.text[0][failed].startswith("<b>✓</b>")
    assert heat.text[1][6] == "" and np.isnan(heat.z[1][6]), "a gate that nobody asked for stays blank"
    said = title(figures.gate_table(gates()))
    assert "10 gates pass" in said and "1 fail" in said and "Spec ab" in said and "does well to fail" in said
    with pytest.raises(EvaluationError, match="'odd' is no gate or status"):
        figures.gate_table(gates().assign(status="odd"))
    with pytest.raises(EvaluationError, match="a gate twice"):
        figures.gate_table(pd.concat([gates(), gates()]))


def test_the_screen_shows_the_first_heads_with_controls_and_the_planted_one():
    figure = figures.head_screen(screen(), controls={"identity": 0.55}, planted="L0H1", top=6)
    (points,) = [t for t in figure.data if t.type == "scatter" and t.mode == "markers+text"]
    assert list(points.y) == ["L0H0", "L0H1 (planted)", "L0H2", "L0H3", "L1H0", "L1H1"]
    assert list(points.marker.symbol) == ["circle"] * 5 + ["circle-open"]
    assert "AUROC 0.8" in points.hovertext[0] and "CD4 against CD8" in points.hovertext[0]
    assert "identity 0.55" in title(figure) and "5 of 24" in title(figure)
    assert [shape.x0 for shape in figure.layout.shapes] == [0.55]


def test_p_values_come_with_their_test():
    figure = figures.p_uniform(p_values())
    small = p_values().query("kind == 'small'")["p"]
    assert f"{kstest(small, 'uniform').pvalue:.3g}" in title(figure)
    steps = [t for t in figure.data if t.name == "small"][0]
    assert steps.x[0] == 0 and steps.y[-1] == 1 and steps.y[1] == pytest.approx(1 / 50)


def test_recovery_counts_what_was_found():
    table = recovery()
    table.loc[0, ["planted_rank", "gates_passed"]] = [3, 6]
    said = title(figures.recovery(table))
    assert (
        "first in 9 of 10" in said
        and "all gates in 9" in said
        and "within 1 in 10" in said
        and "Nothing here is real" in said
    )


def test_an_endpoint_of_the_screen_may_have_any_name():
    """A ruler file names its endpoints, and such a name is no name of Python's."""
    table = screen().assign(**{"S/G2M_vs._class_auroc": 0.625})
    hovers = [text for trace in figures.head_screen(table).data for text in np.atleast_1d(trace.hovertext)]
    assert sum("<br>S/G2M vs. class: AUROC 0.625" in str(text) for text in hovers) == min(20, len(table))


@pytest.mark.parametrize(
    ("draw", "table", "column"),
    [
        (figures.dimension_agreement, dimension(), "space"),
        (figures.gate_table, gates(), "cohort"),
        (figures.trajectories, lineages().iloc[:1], "lineage"),
        (figures.p_uniform, p_values(), "kind"),
    ],
)
def test_markup_in_names_is_shown_as_it_is(draw, table, column):
    assert (
        "&lt;b&gt;x"
        in draw(
            table.assign(**{column: ["<b>x"] * len(table)}).drop_duplicates(["gate", column])
            if column == "cohort"
            else table.assign(**{column: "<b>x"})
        ).to_json()
    )
