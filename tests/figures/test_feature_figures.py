"""Figures of features: every row and edge is drawn where it belongs, and tables that cannot be drawn are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench import figures
from workbench.errors import EvaluationError


def effects(n=6) -> pd.DataFrame:
    effect = np.linspace(-1, 2, n)
    return pd.DataFrame(
        {
            "metric": "label_loss",
            "unit": "nats",
            "worse": 1,
            "ablation": [f"blocks.1.hook_resid_post.F{k}" for k in range(n)],
            "how": "zero",
            "feature": range(n),
            "rate": 0.1,
            "norm": 1.0,
            "effect": effect,
            "low": effect - 0.5,
            "high": effect + 0.5,
            "n_cells": 20,
            "null_low": -0.4,
            "null_high": 0.6,
            "n_null": 30,
            "n_alike": 31,
            "p": 0.01,
            "q": [0.9] * (n - 1) + [0.01],
            "smallest_p": 1 / 31,
        }
    )


def edges() -> pd.DataFrame:
    low, mid, high = (f"blocks.{i}.hook_resid_post" for i in range(3))
    rows = [
        (low, 0, mid, 4, 1.0, 0.01),
        (low, 1, mid, 5, -0.5, 0.01),
        (mid, 4, high, 7, 0.2, 0.04),
        (low, 2, mid, 5, 0.1, 0.5),
    ]
    table = pd.DataFrame(rows, columns=["source_hook", "source", "target_hook", "target", "strength", "q"])
    return table.assign(source_rate=0.1, target_rate=0.2)


def test_the_worst_features_are_first_and_filled_where_they_are_sure():
    figure = figures.feature_intervals(effects(), top=3)
    points = figure.data[1]
    assert list(points.y) == ["F5", "F4", "F3"] and list(points.x) == pytest.approx([2, 1.4, 0.8])
    assert list(points.marker.symbol) == ["circle", "circle-open", "circle-open"]
    assert "30 other features" in figure.layout.title.text.replace("<br>", " ")
    none = effects().assign(null_low=np.nan, null_high=np.nan, n_null=0, q=np.nan, p=np.nan, smallest_p=np.nan)
    assert "no features are alike" in figures.feature_intervals(none).layout.title.text.replace("<br>", " ").lower()


def test_edges_go_from_column_to_column_and_weak_ones_are_left_out():
    figure = figures.feature_graph(edges())
    lines = [t for t in figure.data if t.mode == "lines"]
    assert [tuple(t.x) for t in lines] == [(0, 1), (0, 1), (1, 2)]
    assert lines[0].line.width > lines[1].line.width and lines[0].line.color != lines[1].line.color
    assert sorted(figure.data[-1].text) == ["F0", "F1", "F4", "F5", "F7"]
    assert "n = 4" in figure.layout.title.text
    none = figures.feature_graph(edges().assign(q=1.0))
    assert len(none.data) == 0 and none.layout.annotations[-1].text == "no edge has q ≤ 0.05"
    assert [t.mode for t in figures.feature_graph(edges(), top=1).data].count("lines") == 1


def estimates() -> pd.DataFrame:
    rows = pd.DataFrame({"feature": range(6), "rate": 0.1, "estimated": np.arange(6.0), "n_cells": 20})
    exact = [np.nan, 1.5, np.nan, 2.5, 4.0, np.nan]
    parts = [rows.assign(hook=hook, metric="label_loss", exact=exact) for hook in ("blocks.1.a", "blocks.2.a")]
    return pd.concat(parts, ignore_index=True)


def test_estimates_stand_beside_what_was_measured_in_a_facet_for_each_hook():
    figure = figures.feature_estimates(estimates())
    points = [t for t in figure.data if t.mode == "markers" and t.hovertext is not None]
    assert [list(t.x) for t in points] == [[1, 3, 4]] * 2 and [list(t.y) for t in points] == [[1.5, 2.5, 4]] * 2
    said = " ".join(note.text for note in figure.layout.annotations)
    assert "rho 1 over 3 of 6" in said and "blocks.1.a" in said and "blocks.2.a" in said
    one = figures.feature_estimates(estimates().drop(columns="hook").head(6))
    assert "blocks" not in " ".join(note.text for note in one.layout.annotations)
    with pytest.raises(EvaluationError, match="no feature has an exact effect"):
        figures.feature_estimates(estimates().assign(exact=np.nan))


def test_doses_say_what_was_added_where_the_table_does():
    table = pd.DataFrame(
        {"dose": [0.0, 1.0], "measure": "moved", "value": [0.0, 0.2], "n_cells": 9, "n_null": 5, "layer": 2}
    )
    table = table.assign(low=-1.0, high=1.0, null_mean=0.0, null_low=-0.1, null_high=0.1)
    named = figures.dose_curves(table.assign(along="F7", target="B", source="T"))
    assert "B steered towards T: F7 is added behind layer 2" in named.layout.title.text.replace("<br>", " ")
    assert "Added behind layer 2" in figures.dose_curves(table).layout.title.text.replace("<br>", " ")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(EvaluationError, match="lacks the column 'q'"):
        figures.feature_graph(edges().drop(columns="q"))
    back = edges().iloc[[0]].rename(columns={"source_hook": "target_hook", "target_hook": "source_hook"})
    with pytest.raises(EvaluationError, match="in a circle"):
        figures.feature_graph(pd.concat([edges(), back]))
    with pytest.raises(EvaluationError, match="more than once"):
        figures.feature_intervals(pd.concat([effects(), effects()]))
    with pytest.raises(EvaluationError, match="metric"):
        figures.feature_intervals(effects(), metric="cell_shift")
