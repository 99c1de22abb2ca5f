"""What the measured comparisons share: synthetic cells, fresh processes, peak memory, figures and their table."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from threadpoolctl import threadpool_limits

Sizes = dict[str, Any]
Result = dict[str, np.ndarray]
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Side:
    """One of the two sides of a comparison.

    Attributes
    ----------
    prepare
        From the sizes to what `run` takes: data, model, imports. Not measured.
    run
        What is measured; its value goes to `finish`.
    finish
        From that value to arrays by which the two sides are compared. Not measured.
    """

    prepare: Callable[[Sizes], Any]
    run: Callable[[Any], Any]
    finish: Callable[[Any, Any], Result]


def synthetic_cells(n_cells: int, n_genes: int, n_expressed: float, seed: int = 0) -> AnnData:
    """Negative binomial counts: log-normal gene means, log-normal depths.

    Parameters
    ----------
    n_cells, n_genes
        Shape.
    n_expressed
        Genes that a cell of median depth expresses on average.
    seed
        Seed.
    """
    rng = np.random.default_rng(seed)
    shape = 0.5
    means = rng.lognormal(0, 1.6, n_genes)
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        expressed = (1 - (1 + np.exp(middle) * means / shape) ** -shape).sum()
        low, high = (middle, high) if expressed < n_expressed else (low, middle)
    depths = np.exp(low + 0.45 * rng.standard_normal(n_cells))
    blocks = []
    for start in range(0, n_cells, 100):
        rate = (
            depths[start : start + 100, None]
            * means
            * rng.gamma(shape, 1 / shape, (len(depths[start:][:100]), n_genes))
        )
        blocks.append(sp.csr_matrix(rng.poisson(rate).astype(np.float32)))
    return AnnData(
        sp.vstack(blocks, format="csr"),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)]),
        uns={"workbench": {"values": "counts"}},  # at small sizes they hold too few genes to show it
    )


def _memory(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise KeyError(field)


class PeakGrowth:
    """How far the resident memory of this process rises within a ``with`` block, above where it was at its start.

    Linux counts it exactly; elsewhere the highest value of the process's whole life is all there is.
    """

    bytes = 0

    def __enter__(self) -> PeakGrowth:
        gc.collect()
        self._exact = _CLEAR.exists()
        if self._exact:
            # Memory that is free but still held would hide the first growth.
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:
                trim(0)
            _CLEAR.write_text("5")
            self._base = _memory("VmRSS")
        else:
            self._base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return self

    def __exit__(self, *_: object) -> None:
        if self._exact:
            self.bytes = _memory("VmHWM") - self._base
        else:
            unit = 1 if platform.system() == "Darwin" else 1024
            self.bytes = unit * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._base)


def measure_here(side: Side, sizes: Sizes, toy: Sizes, at_least: float = 0) -> tuple[dict[str, Any], Result]:
    """Measure one side in this process.

    Parameters
    ----------
    side
        The side.
    sizes
        Sizes of the measured run; ``threads`` is the number of threads of torch, BLAS and OpenMP.
    toy
        Sizes of the warm-up, small enough to leave no memory behind that the measured run could use.
    at_least
        Seconds for which runs are repeated; the best time counts, and the peak of the first.

    Returns
    -------
    figures, result
        Seconds (of the clock and of the processor) and peak bytes, and what `Side.finish` gives.
    """
    torch.set_num_threads(sizes["threads"])
    small = side.prepare({**sizes, **toy})
    side.finish(small, side.run(small))
    del small
    ready = side.prepare(sizes)
    seconds: list[float] = []
    cpu: list[float] = []

    def timed() -> Any:
        start, cpu_start = time.perf_counter(), time.process_time()
        value = side.run(ready)
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
        return value

    # Only now, when the warm-up has loaded every library that has threads of its own.
    with threadpool_limits(sizes["threads"]):
        with PeakGrowth() as peak:
            value = timed()
        while sum(seconds) < at_least:
            del value
            value = timed()
    figures = {
        "seconds": min(seconds),
        "cpu_seconds": min(cpu),
        "peak_bytes": max(peak.bytes, 1),
        "runs": len(seconds),
    }
    return figures, side.finish(ready, value)


def _one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def serve(sides: dict[str, Side], job: str) -> None:
    """Be a fresh process: measure the sides it is asked for and leave figures and results in files.

    Parameters
    ----------
    sides
        By name.
    job
        JSON written by `measure`.
    """
    asked = json.loads(job)
    if asked["one_core"]:
        _one_core()
    folder = Path(asked["folder"])
    for name in asked["sides"]:
        figures, result = measure_here(sides[name], asked["sizes"], asked["toy"], asked["at_least"])
        np.savez(folder / f"{name}.npz", **result)
        (folder / f"{name}.json").write_text(json.dumps(figures))


def measure(
    script: str,
    processes: Sequence[Sequence[str]],
    sizes: Sizes,
    toy: Sizes,
    outer: int,
    at_least: float = 0,
    one_core: bool = False,
) -> tuple[dict[str, dict[str, Any]], dict[str, Result]]:
    """Measure sides in turn, in fresh processes.

    Parameters
    ----------
    script
        File that calls `serve` when it gets ``--serve``.
    processes
        Names of the sides that share a process, for each kind of process; the kinds take turns.
    sizes, toy
        As in `measure_here`.
    outer
        Processes of each kind.
    at_least
        Seconds for which a process repeats its runs.
    one_core
        Keep each process with all its threads on one core, where the system allows that.

    Returns
    -------
    figures, results
        By side: the best time of all, the median over processes of the peak; the result of the last process.
    """
    seen: dict[str, list[dict[str, Any]]] = {}
    results: dict[str, Result] = {}
    for names in list(processes) * outer:
        with tempfile.TemporaryDirectory() as folder:
            job = {
                "sides": names,
                "sizes": sizes,
                "toy": toy,
                "at_least": at_least,
                "one_core": one_core,
                "folder": folder,
            }
            done = subprocess.run([sys.executable, script, "--serve", json.dumps(job)], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(
                    f"The process that measures {', '.join(names)} failed ({done.returncode}):\n{done.stderr[-4000:]}"
                )
            for name in names:
                seen.setdefault(name, []).append(json.loads((Path(folder) / f"{name}.json").read_text()))
                with np.load(Path(folder) / f"{name}.npz") as file:
                    results[name] = dict(file)
    figures = {
        name: {
            "seconds": min(f["seconds"] for f in runs),
            "cpu_seconds": min(f["cpu_seconds"] for f in runs),
            "peak_bytes": int(np.median([f["peak_bytes"] for f in runs])),
            "runs": sum(f["runs"] for f in runs),
            "best_per_process": [round(f["seconds"], 4) for f in runs],
        }
        for name, runs in seen.items()
    }
    return figures, results


def versions(*packages: str) -> dict[str, str]:
    """Installed versions, Python's among them.

    Parameters
    ----------
    *packages
        Distribution names.
    """
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def arguments(doc: str | None, **more: dict[str, Any]) -> argparse.Namespace:
    """Read the command line that every comparison has, with options of its own.

    Parameters
    ----------
    doc
        Description.
    **more
        Keyword arguments of `argparse.ArgumentParser.add_argument` by option name.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--full", action="store_true", help="larger sizes, which take longer")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    for name, options in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser.parse_args()


def compared(figures: dict[str, dict[str, Any]], sizes: Sizes, peer_name: str) -> dict[str, Any]:
    """What every report of two sides says: figures, their ratios, and how they were taken.

    Parameters
    ----------
    figures
        As `measure` gives them, with ``ours`` and ``peer``.
    sizes
        What was measured, with ``threads`` and ``repetitions``.
    peer_name
        What the peer is called.
    """
    ours, peer = figures["ours"], figures["peer"]
    return {
        "ratio": peer["seconds"] / ours["seconds"],
        "cpu_ratio": peer["cpu_seconds"] / ours["cpu_seconds"],
        "memory_ratio": peer["peak_bytes"] / ours["peak_bytes"],
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "threads": sizes["threads"],
        "repetitions": sizes["repetitions"],
        "statistic": "best time and median peak memory over repetitions, each in a fresh process",
        "agree": True,
    }


def show(report: dict[str, Any], as_json: bool) -> None:
    """Print a comparison.

    Parameters
    ----------
    report
        With ``ours``, ``peer``, ``ratio``, ``cpu_ratio``, ``memory_ratio`` and ``sizes``, and ``bounds``: name of a figure -> what is
        asked of it, ``at least`` or ``at most`` a number.
    as_json
        As one JSON object instead of a table.
    """
    if as_json:
        print(json.dumps(report))
        return
    print(f"{report['what']}\n{', '.join(f'{k} {v}' for k, v in report['sizes'].items() if v is not None)}")
    print(f"{'':42}{'seconds':>10}{'CPU s':>10}{'peak MiB':>10}")
    for label, side in (("workbench", report["ours"]), (report["peer_name"], report["peer"])):
        print(f"{label:42}{side['seconds']:10.3f}{side['cpu_seconds']:10.3f}{side['peak_bytes'] / 2**20:10.1f}")
    print(f"{'ratio':42}{report['ratio']:10.1f}{report['cpu_ratio']:10.1f}{report['memory_ratio']:10.1f}")
    for name, value in report.get("more", {}).items():
        print(f"{name:42}{value if isinstance(value, str) else f'{value:10.3g}'}")
    for name, bound in report["bounds"].items():
        print(f"{'bound: ' + name.replace('_', ' '):42}{bound}")
    print(f"{report['statistic']}; {', '.join(f'{k} {v}' for k, v in report['versions'].items())}")
