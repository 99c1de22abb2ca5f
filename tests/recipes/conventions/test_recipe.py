"""``workbench conventions`` on a tiny checkpoint: its table against numbers of its own making, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from damage import assert_undamaged
from fixtures_run import cells, checkpoint, write  # noqa: F401

from workbench.engine.config import make_config, read_config
from workbench.engine.recipe import execute, plan
from workbench.errors import ConfigError
from workbench.figures import conventions
from workbench.operators.convention import Convention
from workbench.operators.operator import head_name
from workbench.operators.store import StoredOperators
from workbench.recipes.conventions.config import ConventionsConfig
from workbench.recipes.conventions.context import CONVENTIONS, OURS
from workbench.recipes.conventions.recipe import RECIPE
from workbench.recipes.conventions.scores import head_under
from workbench.stats import spearman


@pytest.fixture(scope="module")
def settings(cells, checkpoint, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("conventions")
    cells.write_h5ad(folder / "cells.h5ad")
    data = {"name": str(folder / "cells.h5ad"), "cell_type": "label", "donor": "donor", "values": "log1p:10000"}
    scored = {"holdouts": 3, "control_draws": 2, "bootstrap": 50}
    return {"checkpoint": checkpoint, "data": data, "panel": {"size": 20}, "anchors": {"min_cells": 2}, "adaptor": {"k": 3, "steps": 60}, "evaluation": scored}  # fmt: skip


@pytest.fixture(scope="module")
def done(settings, tmp_path_factory):
    return execute(RECIPE, make_config(ConventionsConfig, **settings), tmp_path_factory.mktemp("out") / "conventions")


def test_every_convention_stands_beside_scgpts_own(done):
    table, heads = done.context.read("conventions"), done.context.read("convention_heads")
    rows = table[table["kind"] == "convention"].set_index("name")
    assert list(rows.index) == list(CONVENTIONS)
    ours = heads[heads["name"] == OURS]["spearman"].to_numpy()
    for name, row in rows.iterrows():
        own = heads[heads["name"] == name]
        assert row["rank_correlation"] == pytest.approx(spearman(ours, own["spearman"].to_numpy()))
        assert row["n_heads"] == len(own) == 6 and row["score"] == pytest.approx(own["spearman"].max())
        assert row["best"].split(", ")[0] == own.loc[own["spearman"].idxmax(), "head"]
        if name != OURS:
            assert row["low"] <= row["rank_correlation"] <= row["high"] + 1e-9
    assert rows.loc[OURS, "rank_correlation"] == pytest.approx(1) and rows.loc[OURS, "shared"] == 5
    controls = table[table["kind"] == "control"].set_index("name")
    assert controls.loc["co-detection of genes", ["n", "of"]].tolist() == [3, "splits"]
    assert controls.loc["a random matrix", ["n", "of"]].tolist() == [2, "draws"] and controls["sd"].notna().all()


@pytest.mark.slow
def test_damage_to_any_file_of_finished_conventions_is_found(done, settings, tmp_path):
    def go(out):
        return int(execute(RECIPE, make_config(ConventionsConfig, **settings), out).out != out)

    assert_undamaged(done.out, tmp_path / "out", go)


def test_heads_have_the_closed_form_of_their_convention(done):
    source = StoredOperators(done.context.folder("paper"))
    assert source.convention == Convention("paper")
    sums, counts = source.of_group(0, 1, 1)
    np.testing.assert_array_equal(head_under(source, Convention("paper", "sum"), 1, 1), sums)
    turned = head_under(source, Convention("paper", "mean", "key x query"), 1, 1)
    np.testing.assert_allclose(turned, (sums / np.maximum(counts, 1)).T)
    np.testing.assert_allclose(turned.T, source.head(1, 1), atol=1e-6)
    assert head_name(1, 1) == "L1H1"


def test_nothing_is_done_twice_and_every_figure_is_drawn(done, settings):
    again = execute(RECIPE, make_config(ConventionsConfig, **settings), done.out)
    assert again.seconds == done.seconds
    table, heads = done.context.read("conventions"), done.context.read("convention_heads")
    figure = conventions(table, heads)
    assert len(figure.data[0].x) == len(heads) and len(figure.data[1].x) == len(table)
    page = (done.out / "report.html").read_text()
    assert "Does it matter by which convention" in page and "not what scGPT was trained on" in page


def test_passes_that_change_nothing_are_left_out_and_said(settings, tmp_path):
    config = make_config(ConventionsConfig, **{**settings, "panel": {}})
    listed = [one.state.name for one in plan(RECIPE, config, tmp_path / "out").stages]
    assert listed == ["scgpt", "paper", "scores"]


@pytest.mark.parametrize("more", [{"operator": "qk"}, {"capture": {"over_cells": "sum"}}])
def test_a_convention_of_ones_own_is_refused(settings, more):
    with pytest.raises(ConfigError, match="goes through all of them by itself"):
        make_config(ConventionsConfig, **settings, **more)


def test_the_configuration_that_ships_is_read():
    assert read_config("experiments/conventions_blood_mini.yaml", ConventionsConfig).panel.size == 500
