"""Methods of other packages, each in a process of its own, with a time budget, in whatever environment has them."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Shaped

from workbench.cells.placed import PlacedCells
from workbench.errors import ConfigError, unknown_name
from workbench.evidence import peer_worker
from workbench.evidence.protocol import (
    PSEUDOTIME,
    Fitted,
    Method,
    NotRunError,
    OutOfTimeError,
    Prediction,
    Predictions,
    Training,
)
from workbench.evidence.readouts import LINEAR, Readouts, from_stages
from workbench.files import read_arrays, write_arrays
from workbench.seeds import key

# Imported, not only found: what the worker does is part of what a campaign depends on.
WORKER = Path(peer_worker.__file__)
# Of the worker's methods; what CellTypist's may be, its own `train` says.
_OPTIONS = {
    "dpt": ("components", "neighbours", "diffusion_components"),
    "palantir": ("components", "neighbours", "waypoints"),
    "scvi": ("latent", "epochs"),
    "sctop": (),
}
# Those that say a stage themselves; the others give a latent, which linear probes read.
_LABELLING = ("celltypist", "sctop")
# Of the methods and of what they and the worker stand on; other versions may make one run that could not.
_PACKAGES = ("celltypist", "numpy", "palantir", "safetensors", "scanpy", "scikit-learn", "scipy", "sctop", "scvi-tools")
_PROBE = """
import importlib.metadata, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_EXTRA = "pip install 'scgpt-workbench[peers]', or name the interpreter that has it as peers.python"


@dataclass(frozen=True)
class PeerMethod(Method):
    """A method of another package.

    Attributes
    ----------
    name, key, about
        Its name, the worker's name of it, and what it is.
    python
        Interpreter that has the package; that of the workbench where None.
    seconds
        So long may it take to be fitted, and again to predict, process start and exchange of files included.
    options
        Options of the package, which the worker hands on.
    threads
        Threads that the process may use; one, so that what methods take can be compared.
    """

    name: str
    key: str
    about: str
    python: Path | None = None
    seconds: float = 600
    options: dict[str, Any] = field(default_factory=dict)
    threads: int = 1

    def fit(self, train: Training) -> Fitted:
        """Fit in a new process.

        Parameters
        ----------
        train
            Training side, whose cells are handed to the process as files.

        Raises
        ------
        NotRunError
            If the package is not there, or cannot work on such data.
        OutOfTimeError
            If it takes longer than its budget.
        """
        cells = train.cells
        if self.key == "scvi" and cells.counts is None:
            # The worker would say the same, half a minute of imports later.
            raise NotRunError("it needs integer counts, and the data hold none")
        depth = np.asarray(train.ruler.depths)[cells.stage]
        extra = {"stage": cells.stage.astype(np.int64), "early": (depth == depth.min()).astype(np.uint8)}
        if cells.donor is not None:
            extra["donor"] = np.unique(cells.donor.astype(str), return_inverse=True)[1].astype(np.int64)
        worker = _Worker(self)
        try:
            worker.write(cells.expression, cells.counts, "train", extra)
            options = {**self.options, "seed": train.seed}
            told = worker.ask({"do": "fit", "method": self.key, "side": "train", "options": options})
            seconds, peak = {"fit": told["seconds"], "predict": 0.0}, told["peak_bytes"]
            fitted = _FittedPeer(worker, train, told["n_parameters"], seconds, peak)
            if self.key not in _LABELLING:
                latent = fitted.arrays(cells)["latent"]
                began = time.perf_counter()
                readouts = Readouts.fit(latent, train.endpoints, LINEAR, train.seed)
                fitted.readouts = readouts
                seconds["fit"] += seconds["predict"] + time.perf_counter() - began
                fitted.n_parameters += readouts.n_parameters
            return fitted
        except BaseException:
            worker.close()
            raise


def peer_methods(
    python: Path | None = None, seconds: float = 600, options: dict[str, dict[str, Any]] | None = None
) -> dict[str, PeerMethod]:
    """All peers by name.

    Parameters
    ----------
    python, seconds
        As `PeerMethod` takes them: the workbench's own interpreter and ten minutes by default.
    options
        Options by the name of the method. scanpy DPT: ``components``, ``neighbours``, ``diffusion_components``; Palantir: ``components``, ``neighbours``,
        ``waypoints``; CellTypist: those of ``celltypist.train``; scVI-10D: ``latent``, ``epochs``; scTOP: none. And ``threads`` of any.

    Raises
    ------
    ConfigError
        For options of a method that is none, or that it does not have.
    """
    known = {
        "scanpy DPT": ("dpt", "10 diffusion components, probes on them; diffusion pseudotime from the cell amid the earliest stage"),
        "Palantir": ("palantir", "multiscale diffusion space, probes on it; its pseudotime from the cell amid the earliest stage"),
        "CellTypist": ("celltypist", "trained on the stages of the training side, its own defaults; other endpoints follow from its probabilities"),
        "scTOP": ("sctop", "projections of rank z-scores on the means of the training stages, no parameter; they are made to sum to 1"),
        "scVI-10D": ("scvi", "variational autoencoder of the counts, donors as batches, 10 latent dimensions; linear probes"),
    }  # fmt: skip
    for name, given in (options or {}).items():
        if name not in known:
            raise ConfigError(unknown_name("peer", name, known))
        able = _OPTIONS.get(known[name][0])
        for option in given:
            if able is not None and option not in (*able, "threads"):
                raise ConfigError(unknown_name(f"option of {name}", option, (*able, "threads")))
    found = {}
    for name, (kind, about) in known.items():
        given = dict((options or {}).get(name, {}))
        threads = int(given.pop("threads", 1))
        found[name] = PeerMethod(name, kind, about, python, seconds, given, threads)
    return found


def scvi_latent(
    counts: sp.csr_matrix,
    batch: Shaped[np.ndarray, " cell"] | None = None,
    *,
    python: Path | None = None,
    seconds: float = 3600,
    epochs: int = 100,
    latent: int = 10,
    seed: int = 0,
) -> Float[np.ndarray, "cell latent"]:
    """Latent of cells by scVI, trained on these cells in a process of its own.

    Parameters
    ----------
    counts
        Counts of molecules, cell by gene, such as those of variable genes.
    batch
        Batch of each cell, which the model takes out; None for one batch.
    python, seconds
        As in `PeerMethod`.
    epochs, latent
        Passes over the cells, at most, and width of the latent.
    seed
        Seed of weights and batches.

    Raises
    ------
    NotRunError
        If scvi-tools is not there.
    OutOfTimeError
        If it takes longer than its budget.
    """
    options = {"epochs": epochs, "latent": latent, "seed": key(seed, "scvi") % 2**31}
    worker = _Worker(PeerMethod("scVI", "scvi", "", python, seconds))
    try:
        donor = (
            {} if batch is None else {"donor": np.unique(batch.astype(str), return_inverse=True)[1].astype(np.int64)}
        )
        worker.write(counts, counts, "train", donor)
        worker.ask({"do": "fit", "method": "scvi", "side": "train", "options": options})
        worker.ask({"do": "predict", "side": "train"})
        return read_arrays(worker.folder / "train.predicted.safetensors")[0]["latent"]
    finally:
        worker.close()


def peer_versions(python: Path | None = None) -> dict[str, str]:
    """Versions of what the peers stand on, as far as it is installed; nothing where the interpreter cannot be started.

    Parameters
    ----------
    python
        Interpreter that is asked; that of the workbench when None.
    """
    command = [str(python or sys.executable), "-E", "-c", _PROBE, *_PACKAGES]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
        return json.loads(done.stdout)
    # Whatever is wrong with it, each method will say.
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}


@dataclass
class _FittedPeer:
    worker: _Worker
    train: Training
    n_parameters: int
    seconds: dict[str, float]
    peak_bytes: int
    readouts: Readouts | None = None

    def arrays(self, cells: PlacedCells) -> dict[str, np.ndarray]:
        side = self.worker.write(cells.expression, cells.counts, f"cells{self.worker.asked}", {})
        told = self.worker.ask({"do": "predict", "side": side})
        self.seconds["predict"] = told["seconds"]
        self.peak_bytes = max(self.peak_bytes, told["peak_bytes"])
        return read_arrays(self.worker.folder / f"{side}.predicted.safetensors")[0]

    def predict(self, cells: PlacedCells) -> Predictions:
        found = self.arrays(cells)
        began = time.perf_counter()
        if self.readouts is None:
            of = from_stages(self.train, found["stages"], found["chance"])
        else:
            of = self.readouts.predict(found["latent"])
        if PSEUDOTIME in found:
            of[PSEUDOTIME] = Prediction((), found[PSEUDOTIME].reshape(-1, 1))
        self.seconds["predict"] += time.perf_counter() - began
        return Predictions(of, found["latent"])

    def close(self) -> None:
        self.worker.close()

    def __enter__(self) -> _FittedPeer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Worker:
    """The process, and the folder through which it is fed."""

    def __init__(self, method: PeerMethod) -> None:
        self.method, self.asked = method, 0
        self.folder = Path(tempfile.mkdtemp(prefix="workbench-peer-"))
        self.errors = (self.folder / "stderr").open("wb")
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        given = {**dict.fromkeys(limits, str(method.threads)), "PYTHONHASHSEED": "0", "PYTHONPATH": ""}
        # Otherwise it makes a folder in the home of whoever imports it.
        given["CELLTYPIST_FOLDER"] = str(self.folder / "celltypist")
        python = str(method.python or sys.executable)
        # A copy: the folder of a script is the first place that its imports are looked for, and ours has modules of its own.
        script = shutil.copy(WORKER, self.folder)
        try:
            self.process = subprocess.Popen(
                [python, str(script), str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                cwd=self.folder,
                env={**os.environ, **given},
                start_new_session=True,
            )
        except OSError as error:
            self.errors.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise NotRunError(
                f"the interpreter '{python}' cannot be started ({error.strerror}); check peers.python"
            ) from error

    def write(self, expression: Any, counts: Any, side: str, extra: dict[str, np.ndarray]) -> str:
        arrays = {"shape": np.array(expression.shape, dtype=np.int64), **extra}
        for name, matrix in (("expression", expression), ("counts", counts)):
            if matrix is not None:
                matrix = sp.csr_matrix(matrix)
                arrays[f"{name}/data"] = matrix.data.astype(np.float32)
                arrays[f"{name}/indices"] = matrix.indices.astype(np.int32)
                arrays[f"{name}/indptr"] = matrix.indptr.astype(np.int64)
        write_arrays(self.folder / f"{side}.safetensors", arrays)
        return side

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        assert self.process.stdin is not None and self.process.stdout is not None
        # An error says that it has ended; what it said before that, if anything, is read below.
        with suppress(OSError):
            self.process.stdin.write((json.dumps({**request, "folder": str(self.folder)}) + "\n").encode())
            self.process.stdin.flush()
        line = self._line(time.monotonic() + self.method.seconds)
        told = json.loads(line)
        if told.get("error") == "missing":
            raise NotRunError(f"{told['message']}; {_EXTRA}")
        if told.get("error") == "not run":
            raise NotRunError(told["message"])
        if "error" in told:
            raise RuntimeError(told["message"])
        return told

    def _line(self, until: float) -> bytes:
        """The next reply; the process is ended where it takes too long."""
        assert self.process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                self.close()
                raise OutOfTimeError(f"stopped after its {self.method.seconds:g} seconds")
            part = os.read(self.process.stdout.fileno(), 65536)
            if not part:
                raise RuntimeError(f"its process ended: {self._last_words()}")
            line += part
        return line

    def _last_words(self) -> str:
        self._end_what_it_started()
        code = self.process.wait()
        lines = (self.folder / "stderr").read_bytes().decode(errors="replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return f"{how}{f', {lines[-1][:200]}' if lines else ''}"

    def _end_what_it_started(self) -> None:
        """Kill its group; its own exit status stays what it is if it ends within seconds."""
        until = time.monotonic() + 5
        while time.monotonic() < until:
            # Not reaped yet, its id is nobody else's.
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                break
            time.sleep(0.02)
        self._kill()

    def _kill(self) -> None:
        # The second is what macOS says of a group that has ended.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.process.poll() is None:
            # Whatever it has started goes with it.
            self._kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __del__(self) -> None:
        if hasattr(self, "process"):
            self.close()
