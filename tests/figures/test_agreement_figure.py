"""The figure of two rulers: a facet per measure, a row per kind of points and ruler without meaning, filled where p is small."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workbench.errors import EvaluationError
from workbench.figures import rulers_agreement
from workbench.geometry.agreement import agreement_rows


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    one, other = ([rng.normal(size=(50, 3)) for _ in range(20)] for _ in range(2))
    other[0] = one[0]
    rows = [
        {"ruler": "blood", "other": "<signals>", "points": kind, **row}
        for kind, pair in {"anchors": (one, other), "cells": (one, other[1:])}.items()
        for row in agreement_rows(*pair)
    ]
    return pd.DataFrame(rows).replace({"null_of": {"ruler": "blood", "other": "<signals>"}})


def test_values_nulls_and_n_are_in_the_figure(table):
    figure = rulers_agreement(table)
    points = [trace for trace in figure.data if trace.name == "value"]
    assert len(points) == 2 and [len(trace.x) for trace in points] == [4, 4]
    np.testing.assert_allclose(points[0].x, table.loc[table["measure"] == "debiased CKA", "value"])
    assert points[0].marker.symbol[:2] == ("circle", "circle") and "circle-open" in points[0].marker.symbol
    assert "anchors (n = 50), &lt;signals&gt; without meaning" in points[0].y
    assert "19 draws" in points[0].hovertext[0] and "<signals>" not in str(figure.layout.title.text)


def test_several_pairs_are_named_in_their_rows(table):
    figure = rulers_agreement(pd.concat([table, table.assign(other="cycle")]))
    assert "blood, cycle: cells (n = 50), blood without meaning" in figure.data[1].y


def test_a_table_without_its_columns_is_refused(table):
    with pytest.raises(EvaluationError, match="null_low"):
        rulers_agreement(table.drop(columns="null_low"))
