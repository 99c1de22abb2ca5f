"""The first sentences of a training's report and its controls, from tables made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from openings import told

from workbench.recipes.pretrain.opening import BEST, MODEL, controls, opening


def evaluation(ours=50.0, other=80.0):
    errors = {
        MODEL: ours,
        "MVC decoder": 20.0,
        "gene mean": 90.0,
        "linear regression on the other genes (ridge 10)": other,
    }
    rows = [
        {
            "cells": "cells",
            "mask_ratio": ratio,
            "predictor": name,
            "mse": mse,
            "low": mse - 5,
            "high": mse + 5,
            "n_cells": 70,
        }
        for ratio in (0.25, 0.5, 0.75)
        for name, mse in {**errors, BEST: 3.0}.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("ours", "verdict", "step", "states"),
    [
        (50.0, "it is surely better", "Use the checkpoint", ["holds", "holds"]),
        (99.0, "it is surely worse", "settings.steps", ["falls", "falls"]),
        (78.0, "so neither is surely better", "settings.steps", ["holds", "falls"]),
    ],
)
def test_beside_the_best_simple_predictor(ours, verdict, step, states):
    said = told(opening(evaluation(ours), 600))
    assert (
        f"With 50% hidden it errs by {ours:.3g} bins squared against 80 for linear regression on the other genes"
        in said
    )
    assert verdict in said and step in said and "70 held-out cells" in said
    assert [one.state for one in controls(evaluation(ours))] == states


def test_nothing_hidden():
    assert "No hidden value of a held-out cell could be judged." in told(opening(evaluation(np.nan, np.nan), 600))
