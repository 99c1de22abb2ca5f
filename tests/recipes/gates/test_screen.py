"""From tasks to the tables of the screen."""

from __future__ import annotations

import numpy as np
import pandas as pd

from workbench.recipes.gates.maps import CONTROLS
from workbench.recipes.gates.screen import screen_tables


def test_heads_are_ranked_and_controls_stand_beside_them():
    def row(operator, value, null=(0.0, 0.1), status="ok"):
        return {
            "operator": operator,
            "draw": 0,
            "residualised": value,
            "low": 0,
            "high": 1,
            "status": status,
            "null": list(null),
        }

    made = [row("L0H0", 0.2), row("L10H3", 0.9), row("L2H0", np.nan, (), "not applicable: why")]
    heads, controls = screen_tables(pd.DataFrame([*made, *(row(name, 0.5, ()) for name in CONTROLS)]))
    assert list(zip(heads["layer"], heads["head"], strict=True)) == [(10, 3), (0, 0), (2, 0)]
    assert (heads["n_null"] == 4).all() and heads["p"].tolist()[:2] == [1 / 5, 1 / 5]
    assert heads["status"].iloc[2] == "not applicable: why" and controls["operator"].tolist() == list(CONTROLS)
    assert list(heads.columns[:5]) == ["rank", "name", "layer", "head", "residualised"] and "null" not in controls
