"""Every notebook runs from top to bottom, as a script and in a kernel, and says what could be wrong with it."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import runpy
import subprocess
from pathlib import Path

import pytest
from helpers import randomise

from workbench.models.scgpt.checkpoint import save_checkpoint
from workbench.models.scgpt.config import ModelConfig
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
# What the fast tier runs; the others take longer than it should.
FAST = {"01_load_and_hook"}
OWN = "WORKBENCH_"
# Runs of them that are kept, for those who only look.
SHOWN = ROOT / "notebooks" / "shown"
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w-])")
DONORS = "kang2018_8donors.h5ad"


def _id(path):
    return path.stem


def _slow(path):
    return pytest.param(path, id=path.stem, marks=() if path.stem in FAST else pytest.mark.slow)


def _cells(path):
    jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed; pip install -e '.[notebook]'")
    return jupytext.read(path)


def _result(path):
    """The first paragraph of a notebook, behind the word that opens it."""
    paragraph = _cells(path).cells[0].source.split("\n\n")[1]
    assert paragraph.startswith("**Result.** ")
    return " ".join(paragraph.split()).removeprefix("**Result.** ")


def _unfounded(path, outputs):
    """Numbers of the result that no cell has printed, to their last digit, give or take one of it."""
    printed = [float(x.replace(",", "")) for x in NUMBER.findall("\n".join(o.get("text", "") for o in outputs))]
    told = NUMBER.findall(_result(path))
    assert told

    def founded(text):
        digits = len(text.partition(".")[2])
        within = 1.01 * 10**-digits if digits else 0
        return any(abs(x - float(text.replace(",", ""))) <= within for x in printed)

    return [text for text in told if not founded(text)]


def _shown(path):
    """Cells of the run that is kept; text in one piece."""
    cells = json.loads((SHOWN / f"{path.stem}.ipynb").read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
        for output in cell.get("outputs", ()):
            output["text"] = "".join(output.get("text", ""))
    return cells


@pytest.fixture(autouse=True)
def _nothing_of_the_users_own(monkeypatch):
    for name in [name for name in os.environ if name.startswith(OWN)]:
        monkeypatch.delenv(name)


@pytest.fixture
def tree():
    """The files of the checkout before; a notebook writes nothing but into temporary folders."""

    def files():
        return {
            f for place in (ROOT, ROOT / "notebooks") for f in place.iterdir() if not f.name.startswith((".", "__"))
        }

    before = files()
    yield
    assert files() <= before


def test_there_are_eight_and_the_readme_names_each():
    assert len(NOTEBOOKS) == 8
    told = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert not [path.name for path in NOTEBOOKS if path.name not in told]


@pytest.mark.parametrize("path", [_slow(path) for path in NOTEBOOKS])
def test_notebook_runs_as_a_script(path, capsys, tree):
    runpy.run_path(str(path))
    assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=_id)
def test_notebook_runs_in_a_kernel(path, monkeypatch, tree):
    # A kernel starts where the server did, or in the notebook's folder: each place is taken by some.
    place, notebook = ROOT if path.stem in FAST else path.parent, _cells(path)
    client = pytest.importorskip("nbclient", reason="nbclient is not installed; pip install -e '.[notebook]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": str(place)}}
    ).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    assert not _unfounded(path, shown)
    pictures = [output for output in shown if "application/vnd.plotly.v1+json" in output.get("data", {})]
    assert bool(pictures) == ("workbench.figures" in path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def random_model(shared_data, tmp_path_factory):
    """A checkpoint of random weights whose vocabulary has the genes of the cells."""
    import anndata as ad

    genes = ad.read_h5ad(shared_data / DONORS, backed="r").var_names
    vocabulary = Vocabulary.of_genes(sorted(genes))
    config = ModelConfig(n_tokens=len(vocabulary), d_model=32, n_layers=3, n_heads=2, d_mlp=32, max_tokens=400)
    return save_checkpoint(
        randomise(HookedScGPT(config, vocabulary), seed=0), tmp_path_factory.mktemp("model") / "random"
    )


@pytest.mark.slow
@pytest.mark.shared_data(DONORS)
@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if 'pbmc68k", None' in path.read_text("utf-8")], ids=_id)
def test_another_checkpoint_and_cells_with_donors_are_two_values_at_the_top(path, shared_data, random_model, capsys):
    own = f"{str(shared_data / DONORS)!r}, workbench.CellMapping(values='counts', cell_type='cell_type', donor='donor')"
    text = path.read_text("utf-8").replace('"pbmc68k", None', own)
    text = text.replace('root / "artifacts" / "scgpt-blood-mini"', f"Path({str(random_model)!r})")
    assert str(shared_data) in text and str(random_model) in text
    exec(compile(text, str(path), "exec"), {"__file__": str(path), "__name__": "__main__"})
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_one_on_your_own_files_takes_them(tmp_path, monkeypatch, capsys):
    from workbench.planted.cells import WorldShape
    from workbench.planted.folder import write_world

    size = WorldShape(("monocyte", "B", "T"), 3, n_nuisance=6, n_background=20, cells_per_group=5)
    world = write_world(tmp_path / "world", 5, size, n_layers=2, n_heads=4, d_model=32)
    own = {"CHECKPOINT": world / "planted-checkpoint-5", "CELLS": world / "donors.h5ad", "CELL_TYPE": "cell_type"}
    for name, value in {**own, "DONOR": "donor"}.items():
        monkeypatch.setenv(OWN + name, str(value))
    runpy.run_path(str(next(path for path in NOTEBOOKS if path.stem.startswith("07_"))))
    told = capsys.readouterr().out
    assert "is not set" not in told and "no screen" not in told
    assert "2 layers x 4 heads" in told and "donor: 6" in told and "data.donor=donor" in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_id)
def test_notebook_says_what_it_teaches_and_what_could_be_wrong(path):
    cells = _cells(path).cells
    first, last = cells[0], cells[-1]
    assert first.cell_type == last.cell_type == "markdown"
    title, result, teaches = first.source.split("\n\n")[:3]
    assert title.startswith("# ") and result.startswith("**Result.** ") and teaches.startswith("You will learn ")
    sentences = re.split(r"(?<=[.:;]) ", _result(path))
    assert 1 <= _result(path).count(". ") + 1 <= 3
    assert max(len(sentence.split()) for sentence in sentences) <= 30
    section = f"\n{last.source}".rpartition("\n## ")[2]
    assert section.startswith("What could be wrong with this")
    assert section.count("\n- ") >= 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_id)
def test_notebook_is_paired_text_without_outputs_or_paths_of_a_machine(path):
    notebook, text = _cells(path), path.read_text(encoding="utf-8")
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
    assert not re.search(r"(?<![\w.)}])/(home|root|work|tmp|Users|mnt|opt)\b|\b[A-Z]:\\", text)
    # An opened notebook may lie beside its text, but git must not know it.
    known = subprocess.run(
        ["git", "ls-files", "notebooks/[0-9]*.ipynb"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not known.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_id)
def test_notebook_imports_at_most_six_names(path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = {x.asname or x.name for node in tree if isinstance(node, ast.Import | ast.ImportFrom) for x in node.names}
    assert "*" not in names and len(names) <= 6, names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_id)
def test_the_run_that_is_kept_is_of_this_notebook(path):
    cells = _shown(path)
    assert [(cell["cell_type"], cell["source"]) for cell in cells] == [
        (cell.cell_type, cell.source) for cell in _cells(path).cells
    ], f"{path.name} has changed since; `make notebooks` runs it again"
    assert not _unfounded(path, [output for cell in cells for output in cell.get("outputs", ())])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=_id)
def test_the_run_that_is_kept_is_small_and_the_same_each_time(path):
    file = SHOWN / f"{path.stem}.ipynb"
    assert file.stat().st_size < 700_000
    cells = _shown(path)
    assert not [cell for cell in cells if cell["metadata"] or cell.get("execution_count") or "id" in cell]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data"}
    pictures = [output["data"] for output in outputs if output["output_type"] == "display_data"]
    assert bool(pictures) == ("workbench.figures" in path.read_text(encoding="utf-8"))
    for picture in pictures:
        assert list(picture) == ["image/png"] and len(base64.b64decode(picture["image/png"])) < 80_000
    printed = "\n".join(output["text"] for output in outputs)
    assert not re.search(r"(?<![\w.)}])/(home|root|work|tmp|Users|mnt|opt)\b|\b[A-Z]:\\", printed)


def test_what_is_kept_is_small_and_of_notebooks_that_there_are():
    kept = sorted(SHOWN.glob("*.ipynb"))
    assert [file.stem for file in kept] == [path.stem for path in NOTEBOOKS]
    assert sum(file.stat().st_size for file in kept) < 3_000_000
