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
    assert len(figures.feature_graph(edges().assign(q=1.0)).data) == 0
    assert [t.mode for t in figures.feature_graph(edges(), top=1).data].count("lines") == 1


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
