"""The simulated worlds behind docs/calibration_others.md, a few of each."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import load_script

ROOT = Path(__file__).resolve().parents[1]
NAMED_BY = ("top genes", "ranking", "regulators")


@pytest.fixture(scope="module")
def script():
    load_script("calibration_factors")  # which it imports from
    load_script("calibration_others_worlds")
    load_script("calibration_others_models")
    yield load_script("calibration_others")
    for name in ("calibration_factors", "calibration_others_worlds", "calibration_others_models", "calibration_others"):
        del sys.modules[name]


@cache
def worlds(script, part, world, n):
    """Rows of some worlds, without the long sweep."""
    one = script.PARTS[part]
    made = [
        pd.DataFrame(one.made(world, np.random.default_rng(i), *([0] if one.numbered else []))).assign(draw=i)
        for i in range(n)
    ]
    return pd.concat(made, ignore_index=True)


# Of so many tests one in twenty is small by chance; the most are those of the binomial distribution at 99.9 %, or more where
# the tests of a world share something.
@pytest.mark.parametrize(
    ("part", "world", "n", "what", "most"),
    [
        ("writing", "GAUSSIAN", 8, "heads that do not", 22),
        ("patching", "ALIKE", 5, "heads", 10),
        ("steering", "ALIKE", 8, "moved", 4),
        ("probe", "CELLS", 10, "probe", 4),
        ("probe", "CELLS", 10, "difference of two probes", 4),
        ("readouts", "CELLS", 10, "binary, AUROC", 4),
        ("readouts", "IN_DONORS", 10, "binary, AUROC", 4),
        ("features", "DO_ALIKE", 8, "features", 22),
        ("features", "BESIDE_MORE", 8, "features", 22),
        ("names", "TOGETHER", 2, "top genes", 6),
        ("names", "TOGETHER", 2, "ranking", 6),
        ("names", "TOGETHER", 2, "regulators", 6),
    ],
)
def test_where_nothing_is_one_in_twenty_is_small(script, part, world, n, what, most):
    rows = worlds(script, part, getattr(script, world), n)
    p = rows.loc[rows["what"] == what, "p"]
    assert p.between(0, 1, inclusive="right").all() and (p <= 0.05).sum() <= most


@pytest.mark.parametrize(
    ("part", "world", "n", "what", "least"),
    [
        ("writing", "TIES", 2, "heads that tie genes", 8),
        ("agreement", "SAME", 1, "debiased CKA, draws of the other", 1),
        ("patching", "APART", 2, "the planted head", 2),
        ("steering", "OUTPUT", 2, "moved", 2),
        ("probe", "READ", 6, "probe", 3),
        ("readouts", "READ", 6, "binary, AUROC", 3),
        ("features", "DO_MORE", 2, "features that do more", 11),
        # What the page says of a rank alone.
        ("features", "BESIDE_MORE", 8, "features, as if they scattered alike", 40),
        ("names", "MODULES", 1, "top genes", 11),
    ],
)
def test_what_is_there_is_found(script, part, world, n, what, least):
    rows = worlds(script, part, getattr(script, world), n)
    assert (rows.loc[rows["what"] == what, "p"] <= 0.05).sum() >= least


@pytest.mark.parametrize(
    ("part", "world", "n", "least"),
    [
        ("stability", "5 groups, little noise", 8, 0.75),
        ("explained", "5 donors", 300, 0.9),
        ("explained", "10 donors", 300, 0.87),
    ],
)
def test_intervals_over_few_groups_hold_the_truth(script, part, world, n, least):
    rows = worlds(script, part, world, n).query("what in ('share explained', \"interval of a factor's strength\")")
    assert ((rows["low"] <= rows["truth"]) & (rows["truth"] <= rows["high"])).mean() >= least


def test_where_noise_adds_to_strengths_the_interval_takes_it_off(script):
    rows = worlds(script, "stability", script.NOISY, 5).query('what == "interval of a factor\'s strength"')
    assert ((rows["low"] <= rows["truth"]) & (rows["truth"] <= rows["high"])).sum() >= 8


def test_the_page_has_every_world_and_holds_the_band_where_it_says_so(script):
    text = (ROOT / "docs" / "calibration_others.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    for part in script.PARTS.values():
        assert all(any(line[0] == world for line in lines) for world in part.worlds)
    share = {(line[0], line[1]): float(line[3].split("%")[0]) for line in lines if "%" in line[3]}
    for world, what in (
        (script.GAUSSIAN, "heads that do not"),
        (script.ROWS, "heads that do not"),
        (script.TURNED, "heads that do not"),
        (script.ALIKE, "heads"),
        (script.ALIKE, "moved"),
        (script.CELLS, "probe"),
        (script.CELLS, "binary, AUROC"),
        (script.IN_DONORS, "binary, AUROC"),
        *((world, "features") for world in (script.DO_ALIKE, script.EIGHT_DONORS, script.SCATTER, script.BESIDE_MORE)),
        *((world, by) for world in (script.ALONE, script.TOGETHER, script.STRONG) for by in NAMED_BY),
    ):
        assert share[world, what] <= 7, (world, what)
    assert min(share[script.TIES, "heads that tie genes"], share[script.APART, "the planted head"]) >= 80
    assert all(share[script.MODULES, by] >= least for by, least in zip(NAMED_BY, (95, 70, 95), strict=True))
    assert share[script.BESIDE_MORE, "features, as if they scattered alike"] > 7
    for world in (script.NEITHER, script.FIRST, script.BOTH):
        assert share[world, "largest of the four, by which a report counts"] <= 5
