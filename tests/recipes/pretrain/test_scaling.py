"""experiments/pretrain_scaling.py: nested shares, errors of the last training as `pretrain` leaves them, and a table that resumes."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import load_script

from workbench.engine.config import read_config
from workbench.models.scgpt.pretraining import train, validate
from workbench.recipes.pretrain.config import PretrainConfig
from workbench.recipes.pretrain.context import PretrainContext


@pytest.fixture(scope="module")
def script():
    return load_script("pretrain_scaling")


@pytest.fixture(scope="module")
def context(config, tmp_path_factory):
    return PretrainContext(read_config(config, PretrainConfig), tmp_path_factory.mktemp("scaling"))


def test_shares_are_nested_and_of_those_trained_on(script, context):
    few, more, all_of_them = (script.fewer(context.data, share, 1).train for share in (0.2, 0.5, 1.0))
    assert set(few) < set(more) < set(all_of_them) == set(context.data.train)
    assert len(few) == round(0.2 * len(all_of_them)) and not set(all_of_them) & set(context.data.held_out)


def test_with_all_cells_and_steps_it_is_the_training_itself(script, context, tmp_path):
    settings = context.config.settings
    (row,) = script.errors(context.data, settings, 1.0, settings.steps, tmp_path / "one").to_dict("records")
    model, _ = train(context.data, settings, tmp_path / "other")
    expression, mvc = validate(model, context.data, settings)
    assert (row["expression"], row["mvc"]) == pytest.approx((expression, mvc), rel=1e-6)
    assert row["cells"] == len(context.data.train) and row["group"] == "cells"


def test_the_table_has_a_line_for_each_training_and_is_kept(script, config, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{script.START}\n\n{script.END}\nafter\n")
    asked = [str(config), "--shares", "0.5", "1", "--steps", "2", "4", "--out", str(tmp_path / "out")]
    assert script.main([*asked, "--docs", str(page)]) == 0
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n") and len(lines) == 1 + 4
    assert [line.split(" | ")[1] for line in lines[1:]] == ["2", "4", "2", "4"]
    assert script.main(asked) == 0 and capsys.readouterr().out.splitlines()[2:] == lines[1:], "nothing is trained again"
    numbers = [float(cell) for cell in lines[1].strip("| ").split(" | ")[3].split(", ")]
    assert np.isfinite(numbers).all()
    assert script.main([*asked, "--set", "settings.seed=2"]) == 2 and "another" in capsys.readouterr().err.lower()
