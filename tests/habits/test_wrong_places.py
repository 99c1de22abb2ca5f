"""What stands in the wrong place of a call is named at once, before any work; without the checks of types that other tests make."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PLACED = "the model and the cells have changed places"
TURNED = (
    "workbench.embed(model, cells)",
    "workbench.attention(model, cells, 'L0H0')",
    "workbench.probe(model, cells)",
    "workbench.patch(model, cells, source='a', target='b')",
    "workbench.steer(model, cells, source='a', target='b')",
    "workbench.geometry(model)",
    "workbench.gene_geometry(model, cells)",
    "workbench.load(model)",
    "workbench.ablate(cells, model)",
    "capture(cells, model, 'blocks.0.hook_resid_post', [])",
    "workbench.train_dictionaries(cells, model, 'blocks.0.hook_resid_post')",
    "workbench.feature_effects(cells, model, None)",
    "workbench.feature_attribution(cells, model, None)",
    "workbench.feature_circuit(cells, model, None, None)",
)
OF_NO_CELLS = (
    "workbench.load({})",
    "workbench.embed({}, model)",
    "workbench.attention({}, model, 'L0H0')",
    "workbench.probe({}, model)",
    "workbench.patch({}, model, source='a', target='b')",
    "workbench.geometry({}, 'X_pca')",
    "workbench.gene_geometry({}, model)",
    "workbench.ablate(model, {})",
    "capture(model, {}, 'blocks.0.hook_resid_post', [])",
    "model.to_tokens({})",
)
OTHERS = {
    "pd.DataFrame({'CD3D': [1.0]})": "found DataFrame: read a file by workbench.load, or make one of a table",
    "np.ones((2, 3))": "found ndarray",
    "SimpleNamespace(mod={})": "give one modality, such as mdata['rna']",
}
NO_MODEL = {"None": "NoneType", "3": "int", "np.ones(2)": "ndarray"}
SCRIPT = """
import json, sys
from types import SimpleNamespace
import numpy as np, pandas as pd
import workbench
from workbench.capture.record import capture
model, cells = workbench.plant_head().model, workbench.load("pbmc68k")
found = {}
for line in json.load(sys.stdin):
    try:
        eval(line)
    except Exception as error:
        found[line] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def lines():
    yield from ((line, PLACED) for line in TURNED)
    yield from ((line.format(other), said) for line in OF_NO_CELLS for other, said in OTHERS.items())
    yield from (
        (f"workbench.embed(cells, {other})", f"A model is asked for, as workbench.load_model gives it, or the path of its folder; found {kind}")
        for other, kind in NO_MODEL.items()
    )  # fmt: skip


@pytest.fixture(scope="module")
def said():
    asked = json.dumps([line for line, _ in lines()])
    done = subprocess.run([sys.executable, "-c", SCRIPT], input=asked, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(("line", "wanted"), lines())
def test_it_is_said(line, wanted, said):
    assert said[line].startswith(("CellsError: ", "CheckpointError: ")) and wanted in said[line]
