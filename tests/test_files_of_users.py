"""What writes into a folder of the caller's: it replaces what it wrote itself, and nothing else."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from fixtures_gates import SMALL
from helpers import tiny_model

from workbench.capture.activations import HookShape
from workbench.capture.ragged import ShardSink
from workbench.capture.sinks import Plan
from workbench.errors import OutputError
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.operators.algorithm import Algorithm
from workbench.operators.estimator import Extractor
from workbench.operators.saved_operator import Operator
from workbench.planted.folder import write_world


def write_shards(folder):
    sink = ShardSink(folder)
    sink.open(Plan({"hook_cell": HookShape("cell", (4,))}, np.ones(2)))
    sink._write_manifest()


def extractor(folder):
    cells = pd.DataFrame(np.kron(np.eye(2), np.ones((6, 1))) * 5, columns=["A", "B"])
    Extractor(k=1, parts=2).fit(cells, np.repeat(["x", "y"], 6)).save_pretrained(folder)


ALGORITHM = Algorithm(("A", "B"), np.eye(2), np.zeros(2), {}, {})
WRITERS = {
    "algorithm": (ALGORITHM.save_pretrained, ("README.md", "config.json", "weights.safetensors")),
    "extractor": (extractor, ("README.md",)),
    "operator": (Operator(("A",), np.eye(1), "qk", "L0H0", "a").save, ("operator.json", "operator.safetensors")),
    "checkpoint": (partial(save_checkpoint, tiny_model()), ("args.json", "vocab.json", "best_model.pt")),
    "world": (
        lambda folder: write_world(folder, 1, SMALL, n_layers=1, n_heads=2, d_model=32, layer=0, head=1),
        ("run.yaml", "programs.gmt", "off_graph.h5ad"),
    ),
    "shards": (write_shards, ("manifest.json",)),
}


@pytest.mark.parametrize("text", ["mine", '{"mine": 1}', "[1]"])
@pytest.mark.parametrize("name, file", [(name, file) for name, (_, files) in WRITERS.items() for file in files])
def test_a_file_of_the_users_is_not_replaced(name, file, text, tmp_path):
    (tmp_path / file).write_text(text)
    with pytest.raises(OutputError, match=f"holds {file}, which the workbench did not make and would overwrite"):
        WRITERS[name][0](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file] and (tmp_path / file).read_text() == text


@pytest.mark.parametrize("name", WRITERS)
def test_what_it_wrote_itself_is_replaced_and_files_beside_it_stay(name, tmp_path):
    write, files = WRITERS[name]
    (tmp_path / "notes.txt").write_text("mine")
    write(tmp_path)
    (tmp_path / files[-1]).unlink()  # as a killed process may leave it
    write(tmp_path)
    assert all((tmp_path / file).is_file() for file in files) and (tmp_path / "notes.txt").read_text() == "mine"
