"""Processor time of a command that needs no model, `workbench inspect`, against `import torch` alone.

Both are whole processes, started in turn. Ratios are ours by the peer's: 1 is the import and nothing beside it. `--full` inspects a
checkpoint of the released shape with random weights.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import arguments, show, versions

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "artifacts" / "scgpt-blood-mini"
REPEATS = 5
PEER = ("-c", "import torch")
# The released whole-human checkpoint.
FULL = {"d_model": 512, "n_layers": 12, "n_heads": 8, "d_mlp": 512}
N_GENES = 60_694


def command(*words: str) -> tuple[str, ...]:
    """Arguments of Python for a command of the workbench.

    Parameters
    ----------
    *words
        The command and what it is given, as in a shell.
    """
    return "-m", "workbench.cli", *words


# A process of its own starts each side: the peak of a process counts that of the one that it was started from.
_START = """import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": used.ru_utime + used.ru_stime,
                  "peak_bytes": used.ru_maxrss * unit}))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def start(*given: str) -> dict[str, float]:
    """Run Python once, from start to end.

    Parameters
    ----------
    *given
        Its arguments.

    Returns
    -------
    dict
        ``seconds`` of the clock, ``cpu_seconds``, and ``peak_bytes`` of resident memory.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", _START, *given], env=environment, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"python {' '.join(given)} failed ({done.returncode}).")
    return json.loads(done.stdout)


def compare(checkpoint: Path, repeats: int) -> dict[str, Any]:
    """Start the sides in turn and put their figures together.

    Parameters
    ----------
    checkpoint
        Folder that is inspected.
    repeats
        Times that each side is started; the best time counts, and the largest peak.
    """
    sides = {"ours": command("inspect", str(checkpoint)), "peer": PEER}
    sides |= {"workbench --help": command("--help"), "workbench config run": command("config", "run")}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, given in sides.items():
            runs[name].append(start(*given))
    figures = {
        name: {
            **{key: min(run[key] for run in found) for key in ("seconds", "cpu_seconds")},
            "peak_bytes": max(run["peak_bytes"] for run in found),
            "runs": repeats,
        }
        for name, found in runs.items()
    }
    ours, peer = figures.pop("ours"), figures.pop("peer")
    ratio = ours["cpu_seconds"] / peer["cpu_seconds"]
    size = sum(file.stat().st_size for file in checkpoint.iterdir())
    return {
        "what": "startup: `workbench inspect` against `import torch`, whole processes; ratios are ours by the peer's",
        "bounds": {"ratio": "at most 1.3"},
        "ratio": ratio,
        "cpu_ratio": ratio,
        "memory_ratio": ours["peak_bytes"] / peer["peak_bytes"],
        "ours": ours,
        "peer": peer,
        "peer_name": "import torch",
        "sizes": {"checkpoint": checkpoint.name, "megabytes": round(size / 1e6, 1)},
        "threads": 1,
        "repetitions": repeats,
        "statistic": f"ratio of processor time; best of {repeats} processes of each side, largest peak",
        "agree": True,
        "more": {f"{name}, ratio": side["cpu_seconds"] / peer["cpu_seconds"] for name, side in figures.items()},
        "versions": versions("torch", "transformer-lens"),
    }


def random_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of the released shape with random weights.

    Parameters
    ----------
    folder
        Where it goes.
    """
    import torch

    from workbench.models.scgpt.checkpoint import save_checkpoint
    from workbench.models.scgpt.config import ModelConfig
    from workbench.models.scgpt.hooked import HookedScGPT
    from workbench.models.vocabulary import Vocabulary

    torch.manual_seed(0)
    vocabulary = Vocabulary.of_genes([f"GENE{i}" for i in range(N_GENES)])
    return save_checkpoint(HookedScGPT(ModelConfig(len(vocabulary), **FULL), vocabulary), folder)


def main() -> None:
    options = arguments(__doc__, repeats={"type": int, "default": REPEATS, "help": "processes of each side"})
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(Path(folder) / "released shape") if options.full else CHECKPOINT
        show(compare(checkpoint, options.repeats), options.json)


if __name__ == "__main__":
    main()
