"""The null of a probe: how often it errs on planted cells without an effect, and what it relabels."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest

import workbench
from workbench.cells.groups import make_folds, make_groups
from workbench.errors import EvaluationError

probe = importlib.import_module("workbench.evidence.probing")
N, DONORS, WIDTH, RUNS = 200, 8, 12, 200


def planted(seed, kind, folds, effect=0.0):
    """Row of a probe of cells with donor offsets; the label goes by donor or is drawn for each cell."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(DONORS), N // DONORS)
    x = rng.standard_normal((N, WIDTH)) + 2 * rng.standard_normal((DONORS, WIDTH))[of]
    yes = {
        "cells": rng.random(N) < 0.5,
        "cells of donors": rng.random(N) < rng.uniform(0.2, 0.8, DONORS)[of],
        "donors": rng.permutation(np.arange(DONORS) % 2 == 0)[of],
        "numbers": rng.standard_normal(N) + rng.standard_normal(DONORS)[of],
    }[kind]
    x[:, 0] += effect * yes
    donor = None if kind == "cells" else of.astype(str).astype(object)
    number = kind == "numbers"
    y = yes if number else np.where(yes, "yes", "no")
    names = np.array([f"cell {i}" for i in range(N)])
    fold = make_folds(make_groups(names, donor, None, 0), np.zeros(N) if number else y, folds, 0)
    target = probe.ProbeTarget("label", "depth" if number else "classes", y, fold, np.arange(N), donor)
    return probe.describe_probe(probe.probe_scores(x, target, None, 0), None, target, folds)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cells", "cells of donors", "donors", "numbers"])
@pytest.mark.parametrize("folds", [2, 4])
def test_without_an_effect_one_p_in_twenty_at_most_is_small(kind, folds):
    if kind == "donors":
        folds *= 2  # of two folds one may lack a class outside
    p = np.array([planted(seed, kind, folds)["p"] for seed in range(RUNS)])
    assert (p <= 0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / RUNS)


@pytest.mark.parametrize(("kind", "least"), [("cells", 1 / 1001), ("cells of donors", 1 / 1001), ("donors", 1 / 70)])
def test_an_effect_is_found_and_no_p_is_below_what_relabelling_allows(kind, least):
    row = planted(0, kind, 8, effect=40.0)
    assert row["value"] > 0.9 and row["p_least"] == pytest.approx(least) and least <= row["p"] < 0.05
    assert row["relabelled"] == {"cells": "cells in folds", "cells of donors": "cells in donors"}.get(kind, kind)


def target(values, donor, fold=(0, 0, 0, 1, 1, 1)):
    every = [np.array(side) for side in (values, fold, range(6))]
    return probe.ProbeTarget("label", "classes", *every, None if donor is None else np.array(donor))


def test_different_relabellings_are_counted():
    assert target(list("aabbba"), None).relabellings() == 3 * 3
    assert target(list("aabbba"), list("ppqqrr")).relabellings() == 2, "only the cells of r can change places"
    assert target(list("aabbaa"), list("ppqqrr")).whole and target(list("aabbaa"), list("ppqqrr")).relabellings() == 3


def test_the_order_of_the_cells_changes_nothing():
    cells = workbench.load("pbmc68k")[:60].copy()
    cells.obs["donor"] = pd.Categorical([f"d{i % 6}" for i in range(60)])
    cells.obs["half"] = pd.Categorical(np.random.default_rng(0).permutation(["x", "y"] * 30))
    more = {"layers": [0], "folds": 3, "progress": False}
    one, other = (workbench.probe(c, "artifacts/scgpt-blood-mini", "half", **more) for c in (cells, cells[::-1]))
    assert (one["p"] == other["p"]).all() and set(one["relabelled"]) == {"cells in donors"}


def test_a_label_that_one_fold_holds_alone_is_refused():
    cells = workbench.load("pbmc68k")[:40].copy()
    cells.obs["donor"] = pd.Categorical(["d0"] * 20 + ["d1"] * 20)
    cells.obs["sex"] = pd.Categorical(["f"] * 20 + ["m"] * 20)
    with pytest.raises(EvaluationError, match="every cell has the sex 'm'"):
        workbench.probe(cells, "artifacts/scgpt-blood-mini", "sex", layers=[0], folds=2, progress=False)


def test_value_and_spread_are_over_the_folds_that_have_a_score():
    said = np.array(["a", "b", "a", "b", "a", "b"])
    found = {"metric": "balanced accuracy", "values": np.array([0.5, np.nan, 0.8, 1.0]), "said": said}
    row = probe.describe_probe(found, None, target(list("ababab"), None), 4)
    assert row["n_folds"] == 3 and row["value"] == pytest.approx(2.3 / 3)
    assert row["sd"] == pytest.approx(np.std([0.5, 0.8, 1.0], ddof=1))
