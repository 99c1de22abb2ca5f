"""A command of the workbench in a process of its own, watched: time, processor time and peak memory of each of its stages.

Stages are told by the lines that the command writes to stderr (``[operators] ...``), which are passed on. Linux keeps the peak
of a process and forgets it when asked, so the peak of a stage is exact there; elsewhere it is the highest of samples.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

# What a command does before its first stage, and after its last.
OPENING, CLOSING = "opening", "report"
_BEGINS, _ENDS = re.compile(r"^\[([\w ]+)\] \.\.\.$"), re.compile(r"^\[([\w ]+)\] done in [\d.]+ s$")
_PASS = re.compile(r"^capture \(.*?(\d+)/(\d+) \[")
_EVERY = 0.2


@dataclass
class Cost:
    """What a stage has cost so far, in all processes that worked on it.

    Attributes
    ----------
    seconds, processor
        Time of the clock and of the processor.
    peak
        Largest resident memory of the process, in bytes; of a stage in which it was killed, of all its processes.
    device
        Largest memory of the process on a device, in bytes; None without one.
    passes
        Seconds between the first cell of a pass over cells and the last; None where there was no pass from its beginning to its end.
    """

    seconds: float = 0.0
    processor: float = 0.0
    peak: int = 0
    device: int | None = None
    passes: float | None = None


@dataclass
class Watched:
    """A command that ended, or was killed.

    Attributes
    ----------
    stages
        Costs by stage, in the order in which they were begun; `OPENING` and `CLOSING` among them.
    done
        Whether it ended well.
    starts
        Processes that worked on it: more than one after a kill.
    said
        What it printed.
    """

    stages: dict[str, Cost] = field(default_factory=dict)
    done: bool = False
    starts: int = 0
    said: str = ""

    @classmethod
    def of(cls, told: dict[str, Any]) -> Watched:
        """From what `told` gave.

        Parameters
        ----------
        told
            JSON of a journal.
        """
        known = {name: told[name] for name in ("done", "starts", "said") if name in told}
        return cls(**{**known, "stages": {name: Cost(**cost) for name, cost in told["stages"].items()}})

    def told(self) -> dict[str, Any]:
        """For a journal, JSON-ready."""
        return asdict(self)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(cost.seconds for cost in self.stages.values())


def watch(
    command: Sequence[str], known: Watched, save: Callable[[], object], gpu: bool = False, folder: Path | None = None
) -> int:
    """Carry out a command and add what it costs to what is known.

    Parameters
    ----------
    command
        Its words.
    known
        What earlier processes of the same command cost; it is added to.
    save
        Called every few seconds and at the end, so that a kill loses no more.
    gpu
        Whether memory on NVIDIA cards is asked for.
    folder
        Working folder of the command.

    Returns
    -------
    int
        Exit status.
    """
    known.starts, known.said = known.starts + 1, ""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, preexec_fn=_ends_with_this_process()
    )
    probe = _Probe(process.pid, known, gpu)
    said: list[bytes] = []
    readers = [
        threading.Thread(target=lambda: said.append(process.stdout.read())),  # type: ignore[union-attr]
        threading.Thread(target=_read, args=(process.stderr, probe)),
    ]
    for reader in readers:
        reader.start()
    saved = time.monotonic()
    try:
        while process.poll() is None:
            probe.sample()
            if time.monotonic() - saved > 3:
                save()
                saved = time.monotonic()
            time.sleep(_EVERY)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for reader in readers:
            reader.join()
        known.said, known.done = b"".join(said).decode(), process.returncode == 0
        save()
    return process.returncode


def _ends_with_this_process() -> Callable[[], None] | None:
    """What a child does first, so that it does not work on when this process is killed; nothing where the system cannot."""
    if not sys.platform.startswith("linux"):
        return None
    control = ctypes.CDLL(None).prctl
    return lambda: control(1, signal.SIGTERM)


def _read(stream: Any, probe: _Probe) -> None:
    """Pass on what a command says, line by line, and tell the probe where a stage begins or ends."""
    line = b""
    while part := os.read(stream.fileno(), 2**16):
        sys.stderr.buffer.write(part)
        sys.stderr.flush()
        *whole, line = re.split(rb"[\r\n]", line + part)
        for text in whole:
            probe.line(text.decode(errors="replace"))


class _Probe:
    """Measures one process, and adds what it finds to the stage that it is in."""

    def __init__(self, pid: int, known: Watched, gpu: bool) -> None:
        self._process, self._known, self._lock = psutil.Process(pid), known, threading.Lock()
        self._status, self._clear = Path(f"/proc/{pid}/status"), Path(f"/proc/{pid}/clear_refs")
        self._cards = shutil.which("nvidia-smi") if gpu else None
        self._stage, self._last = OPENING, (time.monotonic(), 0.0)
        self._first: float | None = None
        self._enter(OPENING)

    def line(self, text: str) -> None:
        if begins := _BEGINS.match(text):
            self._enter(begins[1])
        elif _ENDS.match(text):
            self._enter(CLOSING)
        elif passed := _PASS.match(text):
            now = time.monotonic()
            if passed[1] == "0":
                self._first = now
            elif passed[1] == passed[2] and self._first is not None:
                self._known.stages[self._stage].passes = now - self._first

    def _enter(self, stage: str) -> None:
        self.sample()
        with self._lock:
            self._stage, self._first = stage, None
            self._known.stages.setdefault(stage, Cost())
            # In the order of what began last: the report comes behind the stages.
            self._known.stages[stage] = self._known.stages.pop(stage)
            with suppress(OSError):
                self._clear.write_text("5")

    def sample(self) -> None:
        """Add time and memory since the last sample to the stage."""
        with self._lock:
            cost = self._known.stages.setdefault(self._stage, Cost())
            with suppress(psutil.Error, OSError):
                now, used = time.monotonic(), sum(self._process.cpu_times()[:2])
                cost.seconds += now - self._last[0]
                cost.processor += used - self._last[1]
                self._last = (now, used)
                cost.peak = max(cost.peak, self._peak())
                if self._cards and (held := on_cards(self._cards, self._process.pid)) is not None:
                    cost.device = max(cost.device or 0, held)

    def _peak(self) -> int:
        if self._status.exists():
            for line in self._status.read_text().splitlines():
                if line.startswith("VmHWM"):
                    return 1024 * int(line.split()[1])
        return int(self._process.memory_info().rss)


def on_cards(program: str, pid: int) -> int | None:
    """Bytes that a process holds on NVIDIA cards; None where it is not among those that the driver names.

    Parameters
    ----------
    program
        Path of nvidia-smi.
    pid
        Number of the process.
    """
    asked = [program, "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True)
    rows = [line.split(",") for line in done.stdout.splitlines() if line.count(",") == 1]
    held = [int(size) * 2**20 for owner, size in rows if owner.strip() == str(pid) and size.strip().isdigit()]
    return sum(held) if held else None
