"""The first sentences of an ablation's report and its controls, from tables made by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from openings import told

from workbench.recipes.ablate.opening import controls, opening


def effects(effect=(0.5, 0.1), beyond=(True, False), p=0.01, low=0.4, kind="head", detectable=0.2):
    return pd.DataFrame(
        {
            "metric": "cell_shift",
            "ablation": ["L0H0", "L0H1"],
            "kind": kind,
            "how": "mean",
            "effect": effect,
            "low": low,
        }
        | {"high": 0.6, "n_cells": 160, "null_low": 0.01, "null_high": 0.02, "n_null": 0 if np.isnan(p) else 20, "p": p}
        | {"q": p, "worse": 0, "beyond": beyond, "detectable": detectable}
    )


def draws(found=(4.0, 0.0)):
    return pd.DataFrame({"metric": "cell_shift", "ablation": ["L0H0", "L0H1"], "n_draws": 4, "n_found": found})


def test_a_head_beyond_the_null():
    said = told(opening({"effects": effects(), "draws": draws()}, 0))
    assert "1 of 2 heads matters for cell shift beyond a random change; most of all L0H0 (+0.5, n = 160 cells)" in said
    assert "1 of 2 heads are found in each of 4 disjoint draws" in said and "data.donor=COLUMN" in said


def test_the_head_that_is_named_is_one_that_is_beyond():
    assert "most of all L0H1 (+0.1" in told(opening({"effects": effects(beyond=(False, True))}, 5))


def test_no_head_beyond_the_null_says_what_was_missed():
    said = told(opening({"effects": effects(beyond=(False, False), p=0.4), "draws": draws((0.0, 0.0))}, 5))
    assert "No head of 2 matters" in said and "that of L0H0" in said
    assert "an effect under about 0.2 would be missed" in said and "stand in for each other" in said
    none = effects(beyond=(False, False), p=0.4, detectable=np.inf)
    said = told(opening({"effects": none}, 5))
    assert "with so few null draws none could be shown to matter" in said and "sweep.null_draws=20" in said


@pytest.mark.parametrize(("kind", "said"), [("head", "Of 2 heads L0H0"), ("layer", "Of 2 places L0H0")])
def test_without_a_null_nothing_is_tested(kind, said):
    found = told(opening({"effects": effects(beyond=(False, False), p=np.nan, kind=kind)}, 5))
    assert said in found and "no null was drawn, so this is no test" in found
    assert ("sweep.null_draws=20" in found) == (kind == "head")


def test_one_donor_has_no_interval_and_nothing_measured_is_said():
    said = told(opening({"effects": effects(low=np.nan)}, 1))
    assert "There is no interval" in said and "these cells are of one" in said
    assert "No effect on cell shift could be measured" in told(opening({"effects": effects(effect=np.nan)}, 5))


def test_controls():
    agreement = pd.DataFrame({"metric": ["a", "a", "b"], "agrees": [False, True, False]})
    transfer = pd.DataFrame({"target": "T", "source": ["B", "B", "NK"], "q": [0.01, 0.5, 0.6]})
    made = {"effects": effects(), "draws": draws(), "agreement": agreement, "transfer": transfer}
    assert [(one.text, one.state) for one in controls(made)] == [
        ("heads beyond it on 1 of 1 metrics", "holds"),
        ("1 of 1 effects found in each draw", "holds"),
        ("agrees on 1 of 2 metrics", "partly"),
        ("some head carries more on 1 of 2 contrasts", "partly"),
    ]


def test_controls_where_none_was_drawn():
    without = {"effects": effects(beyond=(False, False), p=np.nan), "draws": draws((np.nan, np.nan))}
    assert [one.state for one in controls(without)] == ["open", "open"]
    assert controls({"effects": effects(beyond=(False, False))})[0].state == "falls"
