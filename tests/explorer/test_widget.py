"""`workbench.explore` in Python: what is given to the notebook, what it answers, and what is refused."""

from __future__ import annotations

import sys

import pytest
import torch

import workbench
from workbench.engine.config import read_config
from workbench.errors import ArtifactError, ConfigError, EvaluationError
from workbench.evidence.contrasts import OFF_RULER
from workbench.explorer import widget as module
from workbench.explorer.data import from_model
from workbench.explorer.live import answer
from workbench.explorer.page import script
from workbench.files import write_json
from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.recipes.run.config import RunConfig

NOTEBOOK = """
import sys
sys.path[:0] = {paths!r}
from helpers import tiny_cells, tiny_model
import workbench
shown = workbench.explore(tiny_model(seed=1), tiny_cells(24), n_cells=12, max_cells=4, null_draws=2)
sent = []
shown.send = lambda content, buffers=None: sent.append(content)
shown
"""
MESSAGE = """
shown._handle_custom_msg({"type": "ablate", "id": 1, "heads": ["L0H0"], "how": "zero", "labels": ["B"]}, [])
print(sent[0]["type"], sent[0]["n"], sorted(shown.data)[:2])
"""
OWN_RULER = """
name: own
literature: {a2020: "A, Journal 1:1 (2020)"}
stages:
  root: {from: [], branch: stem, source: a2020}
  left: {from: [root], branch: L, source: a2020}
  right: {from: [root], branch: R, source: a2020}
"""


@pytest.fixture
def asked():
    """Sends a message to a widget as a notebook would; returns what came back."""

    def ask(shown, message):
        sent = []
        shown.send = lambda content, buffers=None: sent.append(content)
        shown._handle_custom_msg(message, [])
        return sent

    return ask


def test_a_model_with_cells_is_live(model, cells, asked):
    pytest.importorskip("anywidget", reason="needs anywidget")
    shown = workbench.explore(model, cells, n_cells=12, max_cells=4, null_draws=2)
    assert shown.data["live"]["max_cells"] == 4 and len(shown.data["maps"][0]["x"]) == 12
    assert shown._esm.strip() == script().strip() and shown.trait_metadata("data", "sync")
    message = {"type": "ablate", "id": 5, "heads": ["L2H0"], "how": "mean", "labels": ["B", "T"]}
    assert asked(shown, message) == [answer(shown.session, message)]
    assert asked(shown, {**message, "labels": []})[0]["type"] == "error"
    assert asked(shown, {"type": "something else"}) == []


def test_what_fails_otherwise_is_said_and_raised(model, cells, asked, monkeypatch):
    pytest.importorskip("anywidget", reason="needs anywidget")
    shown = workbench.explore(model, cells, n_cells=4, null_draws=1)

    def broken(session, message):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "answer", broken)
    sent = []
    shown.send = sent.append
    with pytest.raises(RuntimeError):
        shown._asked(shown, {"type": "ablate", "id": 2}, [])
    assert sent[0]["id"] == 2 and "RuntimeError: out of memory" in sent[0]["message"]

    def interrupted(session, message):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shown._asked(shown, {"type": "ablate", "id": 3}, [])
    assert sent[1] == {"type": "error", "id": 3, "message": "The ablation was interrupted; ask again."}


def test_a_run_alone_is_shown_and_not_live(run_folder, data, effects_folder, asked):
    pytest.importorskip("anywidget", reason="needs anywidget")
    shown = workbench.explore(run_folder, ablation=effects_folder)
    assert shown.data == data.to_dict() and shown.data["live"] is None
    assert asked(shown, {"type": "ablate", "id": 1, "heads": ["L0H0"], "how": "zero", "labels": []}) == []


def test_a_run_with_cells_uses_its_checkpoint(model, cells, data, tmp_path, asked, monkeypatch):
    pytest.importorskip("anywidget", reason="needs anywidget")
    run = tmp_path
    checkpoint = save_checkpoint(model, tmp_path / "model")
    (run / "resolved.yaml").write_text(f"name: planted\ncheckpoint: {checkpoint}\n")
    (run / "manifest.json").write_text('{"checkpoint": {"weights": "another"}}')
    monkeypatch.setattr(module, "from_run", lambda run, **more: data)
    with pytest.raises(ArtifactError, match="other weights"):
        workbench.explore(run, cells)
    write_json(run / "manifest.json", {"checkpoint": {"weights": model.fingerprint()}})
    of_model = from_model(model)
    monkeypatch.setattr(module, "from_run", lambda run, **more: of_model)
    shown = workbench.explore(run, cells, n_cells=8, null_draws=1)
    assert [one["key"] for one in shown.data["maps"]] == ["embedding"] and shown.data["live"]
    assert {one["label"]: one["branch"] for one in shown.data["maps"][0]["groups"]} == {"B": "B", "T": "T"}
    message = {"type": "ablate", "id": 1, "heads": ["L0H0"], "how": "zero", "labels": ["B"]}
    assert asked(shown, message)[0]["type"] == "shift"
    # It goes where it is asked to, in the float type of the run.
    (run / "half.yaml").write_text(f"name: half\ncheckpoint: {checkpoint}\ndtype: bfloat16\n")
    half = module._model_of(tmp_path / "absent", read_config(run / "half.yaml", RunConfig), "cpu")
    assert half.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="'cuda:93' cannot be used"):
        workbench.explore(run, cells, device="cuda:93")
    with pytest.raises(ConfigError, match="on a device already"):
        workbench.explore(model, cells, device="cpu")
    # Where the run's ruler puts these labels, and its configuration maps one of them, branches are the run's.
    (run / "own.yaml").write_text(OWN_RULER)
    (run / "resolved.yaml").write_text(
        f"name: own\ncheckpoint: {checkpoint}\nruler: {run / 'own.yaml'}\nstages: {{T: left}}\n"
    )
    shown = workbench.explore(run, cells, n_cells=8, null_draws=1)
    assert {one["label"]: one["branch"] for one in shown.data["maps"][0]["groups"]} == {"T": "L", "B": OFF_RULER}


def test_what_does_not_go_together_is_refused(model, run_folder, effects_folder):
    pytest.importorskip("anywidget", reason="needs anywidget")
    with pytest.raises(EvaluationError, match="beside a run"):
        workbench.explore(model, ablation=effects_folder)
    with pytest.raises(EvaluationError, match="a geometry is shown beside a run"):
        workbench.explore(model, geometry=effects_folder)
    with pytest.raises(EvaluationError, match="genes: a run has its genes"):
        workbench.explore(run_folder, genes=["A"])


def test_without_anywidget_the_sentence_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    module._widget_class.cache_clear()
    with pytest.raises(ConfigError, match=r'pip install "scgpt-workbench\[notebook\]"'):
        workbench.explore(model)
    module._widget_class.cache_clear()


@pytest.mark.slow
def test_it_runs_in_a_notebook(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    for name in ("anywidget", "ipykernel"):
        pytest.importorskip(name, reason=f"needs {name}")
    paths = [path for path in sys.path if path]
    cells = [nbformat.v4.new_code_cell(NOTEBOOK.format(paths=paths)), nbformat.v4.new_code_cell(MESSAGE)]
    notebook = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown, printed = notebook.cells
    output = next(one for one in shown.outputs if one.output_type == "execute_result")
    assert "application/vnd.jupyter.widget-view+json" in output.data
    text = "".join(one.text for one in printed.outputs if one.output_type == "stream")
    assert text.split()[:2] == ["shift", "4"] and "alpha" in text
