"""The first sentences of a campaign's report and its controls, from planted tables."""

from __future__ import annotations

import numpy as np
import pytest
from figures import synthetic
from openings import told

from workbench.recipes.benchmark.opening import controls, opening


@pytest.fixture(scope="module")
def planted():
    return synthetic.benchmark(n_methods=7, n_judged=6)


def test_wins_and_losses_over_methods(planted):
    said = told(opening(planted, "anchor head", False))
    tally = planted["tally"].query("wins + ties + losses > 0")
    ahead, behind = (tally["wins"] > tally["losses"]).sum(), (tally["wins"] < tally["losses"]).sum()
    assert f"Of {len(tally)} methods anchor head wins more than it loses against {ahead}, and loses more" in said
    assert f"against {behind}; hardest: " in said and "10 splits (donor holdout, sd" in said
    assert "would come out as a tie" in said and "under 'transfer'" in said
    assert "choose by the measures" in told(opening(planted, "anchor head", True))


def test_without_donors(planted):
    changed = {name: planted[name].assign(kind="stratified") for name in ("splits", "summary", "comparisons", "tally")}
    said = told(opening({**planted, **changed}, "anchor head", True))
    assert "splits share people" in said and "data.donor=COLUMN" in said


def test_no_test_and_no_method(planted):
    untested = planted["comparisons"].assign(q=np.nan, detectable=np.nan)
    assert "too few of them for a test" in told(opening({**planted, "comparisons": untested}, "anchor head", False))
    none = planted["tally"].assign(wins=0, ties=0, losses=0)
    assert "Nothing could be compared" in told(opening({**planted, "tally": none}, "anchor head", False))
    assert controls({**planted, "tally": none}) == []


def test_controls_and_baselines_alone_are_marked(planted):
    found = {one.name: one for one in controls(planted)}
    assert set(found) == {"raw log1p", "LET on x itself", "anchor head, labels permuted"}
    assert found["anchor head, labels permuted"].state == "holds"
    first = planted["tally"].assign(wins=0, ties=1, losses=3)
    lost = controls({**planted, "tally": first})[0]
    assert (lost.state, lost.text) == ("falls", "not beaten (4 measures), worse on 3")
