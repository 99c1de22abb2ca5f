"""Worlds in which a wrong instrument fails, one of each, and the pages that were made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import load_script

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    return load_script("planted_harder")


def cells_of(page):
    lines = (ROOT / "docs" / page).read_text().splitlines()
    return {row[0]: row[1:] for row in (line.strip("| ").split(" | ") for line in lines if line.startswith("| "))}


@pytest.mark.slow
def test_redundant_heads_are_found_in_pairs_and_a_signal_of_six_only_together(script):
    from workbench.planted.circuits import MANY, REDUNDANT

    pair, six = (script.mechanism(kind, 0).iloc[0] for kind in (REDUNDANT, MANY))
    assert pair["one"] < 0.2 < 0.4 < pair["together"] and pair["interaction"] > 0.3 and pair["pair_p"] <= 0.05
    assert six["one"] < 0.05 and six["together"] > 0.4 and six["pair_p"] > 0.05


@pytest.mark.slow
def test_where_nuisance_drowns_expression_the_head_is_above_it_and_divided_heads_only_in_their_sum(script):
    loud, spread = (script.graphs(kind, 0).iloc[0] for kind in (script.LOUD, script.SPREAD))
    assert loud["first"] and loud["carrier"] > loud["expression"] + 0.05
    assert spread["together"] > spread["carrier"] and spread["together"] == pytest.approx(loud["carrier"], abs=1e-6)


def test_batches_are_thinned_alike_in_all_cells_of_a_branch(script):
    world = script.make_world(0, shape=script._SHAPE)
    cells = script.planted_cells(world, ("D1",), signal=script.REMOVED)
    found = script._batched(cells, world.ruler, 0, True)
    assert (found.X.toarray() <= cells.X.toarray()).all() and found.obs["tissue"].nunique() > 1
    branch = found.obs["tissue"].to_numpy()
    one, other = np.unique(branch)[:2]
    share = [
        found.X[branch == name].toarray().sum(0) / cells.X[branch == name].toarray().sum(0).clip(1)
        for name in (one, other)
    ]
    assert abs(np.corrcoef(*share)[0, 1]) < 0.5


def test_the_pages_say_what_their_worlds_are_for(script):
    rows = cells_of("planted_harder.md")
    circuits = {name.split(" (")[0]: values for name, values in rows.items() if name.split(" (")[0] in script.CIRCUITS}
    assert len(circuits) == len(script.CIRCUITS)
    for name in (script.CIRCUITS[0], script.CIRCUITS[1]):
        assert float(circuits[name][0]) < 0.1 < 0.5 < float(circuits[name][2]), "one off does little, all do much"
    assert float(circuits["through an MLP"][7]) < 0.65 and float(circuits["through an MLP"][5]) > 0.4
    graphs = {kind: [float(cell.split()[0]) for cell in rows[kind]] for kind in script.GRAPHS}
    assert graphs[script.LOUD][0] > graphs[script.LOUD][4] and graphs[script.SPREAD][3] > graphs[script.SPREAD][0]
    assert graphs[script.BATCH][4] > 0.4, "expression follows a ruler that a batch follows"


def test_the_page_of_the_trained_model_has_every_instrument():
    rows = cells_of("planted_learned.md")
    error = next(values for name, values in rows.items() if name.startswith("masked error"))
    assert float(error[1].split()[0]) < float(error[0].split()[0])
    assert sum(name.startswith("ablation") for name in rows) == 4 and any(name.startswith("screen") for name in rows)
