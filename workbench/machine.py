"""What this machine has: cores, memory, disk, folders that can be written, and where torch can compute."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Device:
    """Where torch can compute.

    Attributes
    ----------
    name
        As torch takes it: ``cpu``, ``cuda:0``, ``mps``.
    said
        Name of the card, or the number of threads of the processor.
    memory
        Bytes of its own memory; None where torch does not say.
    """

    name: str
    said: str
    memory: int | None


@dataclass(frozen=True)
class Torch:
    """What torch can do here.

    Attributes
    ----------
    version
        None where torch is not there or cannot be imported.
    devices
        Where it can compute, the processor first.
    problem
        Sentence that says why it cannot be used; None where it can.
    note
        Sentence about an accelerator that it does not use; None where there is none.
    """

    version: str | None
    devices: tuple[Device, ...]
    problem: str | None = None
    note: str | None = None

    @property
    def auto(self) -> str:
        """Name of the device that ``auto`` stands for: the first CUDA card, or Apple's mps, or the processor."""
        return next(one.name for kind in ("cuda", "mps", "cpu") for one in self.devices if one.name.startswith(kind))


@dataclass(frozen=True)
class Machine:
    """Cores, bytes of memory and disk, and the folders that runs and compiled code are written to.

    Attributes
    ----------
    system
        Operating system and processor, such as ``Linux x86_64``.
    cores, usable_cores
        Logical cores of the machine, and those that this process may use.
    memory, memory_available
        Bytes; None where psutil is not there to say it.
    folder, disk_free, folder_writable
        The current folder, free bytes on its disk, and whether files can be made in it.
    cache, cache_writable
        Folder in which ``make`` keeps environments, and whether files can be made in it.
    compiled_code
        Folder that keeps compiled code; None where none can be written.
    """

    system: str
    cores: int
    usable_cores: int
    memory: int | None
    memory_available: int | None
    folder: str
    disk_free: int
    folder_writable: bool
    cache: str
    cache_writable: bool
    compiled_code: str | None


def read_machine() -> Machine:
    """Look at this machine; nothing is left behind."""
    here, caches = Path.cwd(), Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache, cores = caches / "scgpt-workbench", os.cpu_count() or 1
    total: int | None = None
    available: int | None = None
    with suppress(ImportError):  # it is reported among the required packages
        memory = import_module("psutil").virtual_memory()
        total, available = int(memory.total), int(memory.available)
    named = os.environ.get("NUMBA_CACHE_DIR")
    # Where numba looks, in its order.
    places = [Path(named)] if named else [PACKAGE, caches / "numba"]
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        memory=total,
        memory_available=available,
        folder=str(here),
        disk_free=shutil.disk_usage(here).free,
        folder_writable=can_write(here),
        cache=str(cache),
        cache_writable=can_write(cache),
        compiled_code=next((str(place) for place in places if can_write(place)), None),
    )


def can_write(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the nearest one above it that exists.

    Parameters
    ----------
    folder
        Folder to try; need not exist, and is not made.
    """
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        # Tried, since a read-only disk or a full one is not seen in the permissions.
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
        return True
    except OSError:
        return False


def read_torch(load: Callable[[], Any] = lambda: import_module("torch")) -> Torch:
    """Import torch and ask where it can compute.

    Parameters
    ----------
    load
        Function that imports and returns torch; whatever it raises becomes a sentence.
    """
    try:
        torch = load()
        version, threads = str(torch.__version__), torch.get_num_threads()
    # A broken installation may raise anything.
    except Exception as error:
        return Torch(None, (), f"torch is installed and cannot be imported ({first_line(error)}).")
    devices, note = [Device("cpu", f"{threads} thread{'s' if threads != 1 else ''}", None)], None
    try:
        if torch.cuda.is_available():
            cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
            devices += [Device(f"cuda:{i}", card.name, int(card.total_memory)) for i, card in enumerate(cards)]
        elif shutil.which("nvidia-smi"):
            built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
            note = f"nvidia-smi is here, but torch sees no NVIDIA card; this torch ({version}) {built}."
        if torch.backends.mps.is_available():
            devices.append(Device("mps", "Apple", int(torch.mps.recommended_max_memory())))
    except Exception as error:
        note = f"torch cannot say which accelerators are here ({first_line(error)}); the processor can be used."
    return Torch(version, tuple(devices), None, note)


def first_line(error: BaseException) -> str:
    """Kind and first line of an error that is not ours.

    Parameters
    ----------
    error
        Any exception; its message is cut after 200 characters.

    Examples
    --------
    >>> from workbench.machine import first_line
    >>> first_line(OSError("no such library; searched in:"))
    'OSError: no such library; searched in:'
    """
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
