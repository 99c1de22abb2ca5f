"""Peers run in processes of their own: a crash, an endless loop or a missing package is a sentence, and nothing lingers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import scipy.sparse as sp

from workbench.cells.placed import PlacedCells
from workbench.errors import ConfigError
from workbench.evidence import peers as module
from workbench.evidence.audit import every_other
from workbench.evidence.endpoints import ALL, judge
from workbench.evidence.measure import attempted
from workbench.evidence.methods import PEER, Listed
from workbench.evidence.peers import WORKER, PeerMethod, peer_methods, peer_versions
from workbench.evidence.protocol import NotRunError, OutOfTimeError, Training, Trial
from workbench.evidence.ruler import load_ruler
from workbench.operators.readout import endpoints
from workbench.requirements import installed

RULER = load_ruler("hematopoiesis")
PYTHON = os.environ.get("WORKBENCH_PEERS_PYTHON")
STAGES = ("HSC", "CMP", "GMP", "monocyte")


def planted(n=120, seed=0, prefix="c"):
    """Cells along a planted gradient of four stages."""
    rng = np.random.default_rng(seed)
    place = np.sort(rng.random(n))
    genes = 40
    centre = np.linspace(-0.2, 1.2, genes)
    mean = 6 * np.exp(-(((place[:, None] - centre) / 0.25) ** 2)) + 0.2
    counts = rng.poisson(mean).astype(np.float32)
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(np.float32)
    stage = RULER.place([STAGES[min(3, int(4 * p))] for p in place])[0]
    obs = pd.DataFrame({"stage": stage}, index=[f"{prefix}{i:04d}" for i in range(n)])
    names = tuple(f"G{i}" for i in range(genes))
    return PlacedCells("planted", obs, names, sp.csr_matrix(logged), RULER, sp.csr_matrix(counts))


@pytest.fixture(scope="module")
def train():
    cells = planted()
    donor = np.array(["a", "b"])[np.arange(len(cells)) % 2]
    cells = replace(cells, obs=cells.obs.assign(donor=donor))
    return Training(cells, tuple(endpoints(cells.stage, RULER)), 0)


def children():
    return {one.pid for one in psutil.Process().children(recursive=True)}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A worker of one's own in the place of ours."""

    def make(body):
        script = tmp_path / "worker.py"
        head = "import json, os, sys, time\nreply = lambda **m: print(json.dumps(m), flush=True)\nline = sys.stdin.readline()\n"
        script.write_text(head + textwrap.dedent(body))
        monkeypatch.setattr(module, "WORKER", script)
        return PeerMethod("fake", "celltypist", "", None, 3)

    return make


def test_a_crash_is_told_with_its_last_words(fake, train):
    before = children()
    method = fake("sys.stderr.write('something\\nran out of luck\\n'); sys.stderr.flush(); os._exit(7)")
    with pytest.raises(RuntimeError, match="its process ended: exit status 7, ran out of luck"):
        method.fit(train)
    assert children() == before


def test_what_a_crashed_process_started_ends_with_it(fake, train):
    mark = f"time.sleep(599.0{os.getpid()})"  # no other run of the tests has it
    method = fake(
        f"""
        import subprocess
        subprocess.Popen([sys.executable, '-c', 'import time; {mark}'], stdout=subprocess.DEVNULL)
        os._exit(7)
        """
    )
    with pytest.raises(RuntimeError, match="exit status 7"):
        method.fit(train)
    end = time.monotonic() + 10  # a killed process is there until the system has taken it away
    while (
        left := [one.pid for one in psutil.process_iter() if mark in " ".join(_words(one))]
    ) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


def _words(process):
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def test_a_killed_process_is_told_as_such(fake, train):
    method = fake("import signal; os.kill(os.getpid(), signal.SIGKILL)")
    predictions, _, status = attempted(Listed(method, PEER, ""), trial(train), 0.0)
    assert predictions is None and status == "failed: RuntimeError: its process ended: killed by signal 9"


def trial(train):
    cells = planted(30, 1, "t")
    return Trial(train, cells, tuple(endpoints(cells.stage, RULER)))


def test_an_endless_loop_ends_with_its_budget_and_leaves_no_process(fake, train):
    before, began = children(), time.monotonic()
    method = fake(
        "import subprocess\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\ntime.sleep(600)"
    )
    with pytest.raises(OutOfTimeError, match="stopped after its 3 seconds"):
        method.fit(train)
    assert time.monotonic() - began < 60 and children() == before


def test_the_budget_holds_for_predictions_as_well(fake, train):
    method = fake("reply(seconds=0.1, peak_bytes=0, n_parameters=3, version='x'); time.sleep(600)")
    fitted = method.fit(train)
    with pytest.raises(OutOfTimeError):
        fitted.predict(train.cells)


def test_no_folder_is_left(fake, train, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fake("reply(seconds=0.1, peak_bytes=0, n_parameters=3, version='x')").fit(train).close()
    assert [path.name for path in tmp_path.iterdir()] == ["worker.py"]


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """Our worker, with some lines of one's own before its imports."""

    def make(first):
        text = WORKER.read_text()
        place = text.index("import importlib")
        (tmp_path / "worker.py").write_text(text[:place] + textwrap.dedent(first) + text[place:])
        monkeypatch.setattr(module, "WORKER", tmp_path / "worker.py")
        return tmp_path / "worker.py"

    return make


@pytest.mark.parametrize("package", ["scanpy", "safetensors"])
def test_a_missing_package_names_the_extra(worker, train, package):
    # The second is one that the worker itself needs.
    worker(f"import sys\nsys.modules[{package!r}] = None\n")
    with pytest.raises(NotRunError, match=rf"{package}.*pip install 'scgpt-workbench\[peers\]'"):
        peer_methods(None, 60)["scanpy DPT"].fit(train)


@pytest.fixture
def chatty(worker, tmp_path):
    """A package by the name of CellTypist that prints wherever it can, and like it drops genes that nobody expresses."""
    place = tmp_path / "site"
    (place / "celltypist").mkdir(parents=True)
    (place / "celltypist-0.dist-info").mkdir()
    (place / "celltypist-0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: celltypist\nVersion: 0\n")
    (place / "celltypist" / "__init__.py").write_text(
        textwrap.dedent(
            """
            import os, sys, time
            from types import SimpleNamespace
            import numpy as np
            from sklearn.linear_model import LogisticRegression
            from sklearn.preprocessing import StandardScaler
            print("{}")
            def train(X, labels, genes, check_expression, n_jobs, random_state, old=False, busy=None):
                print("{} in Python", flush=True); os.write(1, b"beneath it\\n"); os.system("echo in a child")
                if busy:
                    open(busy, "w").close()
                    time.sleep(600)
                if old:
                    raise TypeError("got an unexpected keyword argument 'multi_class'")
                seen = X.sum(0) > 0
                scaler = StandardScaler()
                classifier = LogisticRegression().fit(np.minimum(scaler.fit_transform(X[:, seen]), 10), labels)
                classifier.features = np.array(genes)[seen]
                return SimpleNamespace(classifier=classifier, scaler=scaler)
            """
        )
    )
    return worker(f"import sys\nsys.path.insert(0, {str(place)!r})\n")


def silent(cells, gene):
    """The same cells, none of which expresses a gene."""
    expression = cells.expression.tolil()
    expression[:, gene] = 0
    return replace(cells, expression=sp.csr_matrix(expression))


def test_what_a_package_prints_and_genes_that_it_drops_disturb_nothing(chatty, train):
    method = peer_methods(None, 120)["CellTypist"]
    with method.fit(replace(train, cells=silent(train.cells, 3))) as fitted:
        whole, half = fitted.predict(train.cells).of["stage"], fitted.predict(every_other(train.cells)).of["stage"]
        # Values of the gene that was dropped in training have no say.
        without = fitted.predict(silent(train.cells, 3)).of["stage"]
    assert whole.values.shape == (len(train.cells), 4)
    np.testing.assert_allclose(whole.values, without.values)
    np.testing.assert_allclose(whole.values[::2], half.values)
    found = np.array(whole.classes)[whole.values.argmax(1)]
    assert np.mean(found == np.array([RULER.stages[i] for i in train.cells.stage])) > 0.9


@pytest.mark.slow
def test_a_scikit_learn_that_celltypist_cannot_work_with_is_said(chatty, train):
    with pytest.raises(NotRunError, match="scikit-learn .* no longer takes.*use_SGD"):
        peer_methods(None, 120, {"CellTypist": {"old": True}})["CellTypist"].fit(train)


@pytest.mark.slow
def test_a_worker_whose_parent_is_killed_ends_and_leaves_no_folder(chatty, train, tmp_path):
    folder, busy = tmp_path / "exchange", tmp_path / "busy"
    folder.mkdir()
    with_files = module._Worker.__new__(module._Worker)
    with_files.folder = folder
    stage = {"stage": train.cells.stage.astype(np.int64)}
    module._Worker.write(with_files, train.cells.expression, train.cells.counts, "train", stage)
    del with_files
    asked_for = {"do": "fit", "method": "celltypist", "side": "train", "folder": str(folder)}
    asked_for["options"] = {"seed": 0, "busy": str(busy)}
    parent = f"""
        import json, subprocess, sys, time
        worker = subprocess.Popen([sys.executable, {str(chatty)!r}, {str(folder)!r}], stdin=subprocess.PIPE)
        worker.stdin.write((json.dumps({asked_for!r}) + "\\n").encode())
        worker.stdin.flush()
        print(worker.pid, flush=True)
        time.sleep(600)
    """
    asks = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(asks.stdout.readline())
        assert _within(120, busy.exists)
    finally:
        os.kill(asks.pid, signal.SIGKILL)
        asks.wait()
        asks.stdout.close()
    assert _within(60, lambda: not folder.exists())
    assert _within(60, lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def _within(seconds, true):
    until = time.monotonic() + seconds
    while time.monotonic() < until and not true():
        time.sleep(0.1)
    return true()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"Palantr": {}}, "Unknown peer 'Palantr': did you mean 'Palantir'"),
        ({"Palantir": {"waypoint": 5}}, "Unknown option of Palantir 'waypoint': did you mean 'waypoints'"),
    ],
)
def test_options_that_nothing_takes_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        peer_methods(options=options)


def test_threads_are_one_unless_said_otherwise():
    found = peer_methods(options={"scVI-10D": {"threads": 2, "epochs": 5}})
    assert found["Palantir"].threads == 1
    assert found["scVI-10D"].threads == 2 and found["scVI-10D"].options == {"epochs": 5}


def test_an_interpreter_that_is_not_there_is_said(train):
    with pytest.raises(NotRunError, match="the interpreter '/nowhere/python' cannot be started.*peers.python"):
        PeerMethod("x", "dpt", "", Path("/nowhere/python")).fit(train)


def test_what_is_installed_for_peers_is_found_in_their_environment(tmp_path):
    venv.create(tmp_path / "env", symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    assert peer_versions(python) == {}
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "palantir-1.4.5.dist-info").mkdir()
    (site / "palantir-1.4.5.dist-info" / "METADATA").write_text("Name: palantir\nVersion: 1.4.5\n")
    assert peer_versions(python) == {"palantir": "1.4.5"}
    assert peer_versions()["scanpy"] == installed("scanpy") and peer_versions(Path("/nowhere/python")) == {}


def test_data_without_counts_are_nothing_for_scvi(train):
    bare = replace(train, cells=replace(train.cells, counts=None))
    with pytest.raises(NotRunError, match="integer counts"):
        peer_methods()["scVI-10D"].fit(bare)


def test_the_worker_needs_nothing_of_ours():
    imported = [line for line in WORKER.read_text().splitlines() if line.lstrip().startswith(("import", "from"))]
    assert not any("workbench" in line for line in imported)


def real(name):
    if name == "scanpy DPT":
        return peer_methods(Path(sys.executable), 300)[name]
    if PYTHON is None:
        pytest.skip("WORKBENCH_PEERS_PYTHON names no interpreter with the peers; `make peers` prints one")
    return peer_methods(Path(PYTHON), 600, {"scVI-10D": {"epochs": 20}})[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scanpy DPT", "Palantir", "CellTypist", "scTOP", "scVI-10D"])
def test_a_planted_gradient_is_found_on_cells_that_were_not_there(name, train):
    truth = planted(60, seed=1, prefix="t")
    asked, cells = tuple(endpoints(truth.stage, RULER)), truth.without_labels()
    with real(name).fit(train) as fitted:
        whole, half = fitted.predict(cells), fitted.predict(every_other(cells))
    judged = judge(whole, truth, asked, trained=train.endpoints, seed=0)
    rows = {(r["endpoint"], r["metric"]): r for r in judged if r["scope"] == ALL}
    assert rows["depth", "|Spearman|"]["value"] > 0.7, rows
    told = "ok" if name in ("scanpy DPT", "Palantir") else "not predicted"
    assert rows["pseudotime", "|Spearman|"]["status"] == told, rows
    assert told != "ok" or rows["pseudotime", "|Spearman|"]["value"] > 0.7, rows
    assert rows["stage", "balanced accuracy"]["value"] > (0.4 if name == "scVI-10D" else 0.6), rows
    assert fitted.n_parameters > 0 and fitted.seconds["fit"] > 0
    for endpoint, one in half.of.items():
        np.testing.assert_allclose(one.values, whole.of[endpoint].values[::2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scanpy DPT", "Palantir", "CellTypist", "scTOP", "scVI-10D"])
def test_a_peer_gives_the_same_twice(name, train):
    cells = planted(40, seed=2, prefix="t")
    method, found = real(name), []
    for _ in range(2):
        fitted = method.fit(train)
        found.append(fitted.predict(cells).latent)
        fitted.close()
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_celltypist_takes_a_gene_that_nobody_expresses(train):
    with real("CellTypist").fit(replace(train, cells=silent(train.cells, 3))) as fitted:
        assert fitted.predict(train.cells).of["stage"].values.shape == (len(train.cells), 4)


@pytest.mark.slow
def test_scvis_latent_does_not_depend_on_the_donor_that_a_cell_is_put_under(tmp_path):
    real("scVI-10D")
    # A copy: beside the worker lie modules whose names are those of the standard library.
    shutil.copy(WORKER, tmp_path)
    code = """
        import numpy as np, scipy.sparse as sp
        from peer_worker import ScVI
        rng = np.random.default_rng(0)
        counts = sp.csr_matrix(rng.poisson(2, (120, 20)).astype(np.float32))
        fitted = ScVI({"counts": counts, "donor": np.arange(120) % 3}, {"seed": 0, "epochs": 3})
        found = []
        for fitted.batch in ("0", "1", "2"):
            found.append(fitted.predict({"counts": counts[:40]})["latent"])
        assert np.ptp(found[0]) > 0
        assert all(np.array_equal(found[0], one) for one in found[1:])
    """
    done = subprocess.run(
        [PYTHON, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_celltypists_probabilities_become_predictions_of_branches_and_pairs(fake, train):
    method = fake(
        """
        import numpy as np
        from safetensors.numpy import save_file
        reply(seconds=0.1, peak_bytes=0, n_parameters=3, version='x')
        request = json.loads(sys.stdin.readline())
        chance = np.array([[0.7, 0.1, 0.1, 0.1], [0.0, 0.2, 0.2, 0.6]])
        stages = np.array(STAGES)
        save_file({'stages': stages, 'chance': chance, 'latent': chance}, f"{request['folder']}/{request['side']}.predicted.safetensors")
        reply(seconds=0.1, peak_bytes=0, n_parameters=3, version='x')
        """.replace("STAGES", str(sorted(set(train.cells.stage.tolist()))))
    )
    fitted = method.fit(train)
    found = fitted.predict(train.cells).of
    fitted.close()
    stages = sorted(set(train.cells.stage.tolist()))
    names = [RULER.stages[i] for i in stages]
    stage = found["stage"]
    assert stage.values[0, stage.classes.index(names[0])] == pytest.approx(0.7)
    branch = found["branch"]
    assert branch.values.sum(1) == pytest.approx(1)
    depths = np.asarray(RULER.depths)[stages]
    assert found["depth"].values[1, 0] == pytest.approx(np.array([0.0, 0.2, 0.2, 0.6]) @ depths)
    assert "CD4 against CD8" not in found
