"""Which implementation reads a folder, and what is said of a folder that none can read."""

from __future__ import annotations

import shutil

import pytest
import torch

import workbench
from workbench.errors import CheckpointError
from workbench.models import CellModel, load_model
from workbench.models.scgpt.hooked import HookedScGPT

FILES = ("args.json", "vocab.json", "best_model.pt")


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def test_a_scgpt_folder_is_read_as_scgpt(folder):
    (folder / "README.md").write_text("other files change nothing")
    model = load_model(folder, dtype=torch.float64)
    assert isinstance(model, HookedScGPT) and isinstance(model, CellModel) and model.architecture == "scGPT"
    assert model.dtype == torch.float64 and not model.training
    assert list(model.report.sha256) == ["best_model.pt", "vocab.json", "args.json"], "the weights come first"
    assert workbench.load_model is load_model


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(
        CheckpointError, match="There is no checkpoint folder '.*nowhere'.*scGPT: args.json, vocab.json"
    ):
        load_model(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="There is no checkpoint folder '.*file'"):
        load_model(tmp_path / "file")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_there(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name} .it holds .*json"):
        load_model(folder)


@pytest.mark.parametrize("held", [(), ("config.json", "model.safetensors"), tuple(f"{i:02d}.txt" for i in range(20))])
def test_a_folder_of_another_kind_is_refused_with_what_is_there_and_what_is_needed(tmp_path, held):
    for name in held:
        (tmp_path / name).write_text("")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path)
    said = str(caught.value)
    assert "no model that can be read: scGPT needs args.json, vocab.json and best_model.pt" in said and "\n" not in said
    assert f"(it holds {', '.join(held[:8]) or 'nothing'})" in said and len(said) < 400
