"""`carry_out` gives a command's recipe the configuration that the shell would."""

from __future__ import annotations

import pytest

import workbench
from workbench.errors import ConfigError
from workbench.recipes import carry


@pytest.fixture
def asked(monkeypatch):
    """What would be executed."""
    calls = []
    monkeypatch.setattr(carry, "execute", lambda *given: calls.append(given))
    return calls


def test_a_file_with_changes_and_its_values_in_a_mapping_are_the_same(asked, tmp_path):
    file = tmp_path / "few.yaml"
    file.write_text("checkpoint: model\ndata: {name: pbmc68k}\nstudy: {cells: 8}\n")
    workbench.carry_out("ablate", file, tmp_path / "out", changes=["sweep.null_draws=3"])
    values = {"checkpoint": tmp_path / "model", "data": {"name": "pbmc68k"}, "study": {"cells": 8}}
    workbench.carry_out("ablate", {**values, "sweep": {"null_draws": 3}}, str(tmp_path / "out"))
    (recipe, first, *rest), (_, second, *others) = asked
    assert recipe.name == "ablate" and first == second and first.sweep.null_draws == 3
    assert rest == others == [tmp_path / "out", None, ()]


def test_parts_and_the_folder_of_a_command_are_its_own(asked, tmp_path):
    workbench.carry_out("pretrain", "experiments/pretrain_blood_mini.yaml", tmp_path)
    (_, config, *_), *_ = asked
    assert config.out == tmp_path


@pytest.mark.parametrize(
    ("command", "config", "changes", "message"),
    [
        ("ablat", {}, (), "ablate"),
        ("apply", {}, (), "apply"),
        ("ablate", {"stdy": {}}, (), "stdy"),
        ("ablate", {}, ["study.cells=3"], "mapping"),
        (
            "factors",
            {"checkpoint": "model", "data": {"name": "pbmc68k"}},
            (),
            "section 'compaction' and .* nothing to do",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(command, config, changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        workbench.carry_out(command, config, tmp_path / "out", changes=changes)
    assert not (tmp_path / "out").exists()
