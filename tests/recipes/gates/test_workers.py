"""Gates by two processes: what one process gives. Nothing is patched here, since workers would not know of it."""

from __future__ import annotations

import pandas as pd
import pytest
from fixtures_gates import SMALL

from workbench.engine.config import read_config
from workbench.engine.recipe import execute
from workbench.engine.sweep import Backend
from workbench.engine.tables import read_table
from workbench.planted.folder import write_world
from workbench.recipes.gates.config import GatesConfig
from workbench.recipes.gates.recipe import RECIPE

# Cohorts apart, null rulers of one feature map only: 99 refits each for a handful of anchors.
QUICK = ("adaptor.steps=25", "adaptor.k=4", "refits=1", "head_refits=2", "control_draws=2")


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    write_world(tmp_path, 3, SMALL, n_layers=1, n_heads=2, d_model=32, layer=0, head=1)
    config = read_config(tmp_path / "gates.yaml", GatesConfig, QUICK)
    one = execute(RECIPE, config, tmp_path / "one")
    both = execute(RECIPE, config, tmp_path / "both", Backend("loky", 2, progress=False))
    assert one.results["verdict"]["unmet"] == both.results["verdict"]["unmet"]
    for name in ("gates", "controls", "control_draws", "screen", "readings"):
        tables = (read_table(run.out / "tables" / f"{name}.csv") for run in (both, one))
        pd.testing.assert_frame_equal(*tables, rtol=1e-6)
