"""The proof on few worlds: what experiments/planted_world.py does over twenty and two hundred.

Seeds are below 200, which that experiment does not use.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from workbench.evidence.gate_spec import GATES, SPEC
from workbench.planted.proof import NULLS, OPERATORS, null_draw, recovery

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", OPERATORS)
def test_what_was_planted_is_found(kind):
    # Estimated from patterns an operator has as many axes as there are anchors, and a world takes five minutes.
    seeds = (101,) if kind == "attention" else (101, 102, 103)
    found = pd.concat([recovery(seed, kind) for seed in seeds])
    assert (found["planted_rank"] == 1).all() and (found["spec"] == SPEC.hash).all()
    assert ((found["dimension"] - found["truth"]).abs() <= 1).all()
    assert (found["overlap"] >= 0.95).all() and (found["overlap_of_others"] < 0.3).all()
    assert (found["gates_passed"] == len(GATES)).all(), found["failed"].tolist()
    assert (found["residualised"] > found["best_other"]).all()
    # Estimated from patterns it is above plain expression in about half of the worlds only (docs/planted_world.md).
    if kind != "attention":
        assert (found["residualised"] > found["identity"]).all()


def test_where_nothing_is_nothing_passes_and_p_is_uniform():
    null = pd.concat([null_draw(seed, kind, "qk") for seed in range(101, 111) for kind in NULLS])
    assert "pass" not in set(null["verdict"])
    removed = null[null["kind"] == "signal removed"]
    fair = null[null["kind"] != "rewired ruler"]  # a rewired graph keeps some of the real one
    for p in (fair["null_ruler"], removed["blocked_permutation"]):
        assert kstest(p.to_numpy(dtype=float), "uniform").pvalue > 0.01
        assert np.mean(p <= 0.05) <= 0.2


def test_a_world_is_the_same_twice():
    one, again = (recovery(104, "ov") for _ in range(2))
    pd.testing.assert_frame_equal(one, again)
