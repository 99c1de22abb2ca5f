"""``~`` is the home folder wherever a path is given in Python, and no folder of that name is made."""

import numpy as np
import pytest

import workbench
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.operators.algorithm import Algorithm
from workbench.planted.cells import WorldShape


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert not list((tmp_path / "work").iterdir())


def test_a_world(home):
    shape = WorldShape(("monocyte", "B", "T"), 3, n_nuisance=6, n_background=20, cells_per_group=5)
    workbench.write_world("~/world", 0, shape, n_layers=1, n_heads=2, d_model=32)
    assert (home / "world" / "donors.h5ad").is_file()


def test_a_checkpoint(home, tiny_checkpoint):
    save_checkpoint(workbench.load_model(tiny_checkpoint), "~/model")
    assert (home / "model" / "vocab.json").is_file()
    assert workbench.load_model("~/model").config == workbench.load_model(tiny_checkpoint).config


def test_an_algorithm(home):
    known = Algorithm(genes=("A", "B"), matrix=np.eye(2), offset=np.zeros(2), readouts={}, card={})
    known.save_pretrained("~/algorithm")
    assert (home / "algorithm").is_dir() and Algorithm.from_pretrained("~/algorithm").genes == ("A", "B")
