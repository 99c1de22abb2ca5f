"""Where a model runs and in which float type: checked before any work, and said."""

from __future__ import annotations

import multiprocessing
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from workbench.errors import CellsError, ConfigError
from workbench.machine import first_line, read_torch
from workbench.models.tokens import Tokens

Found = TypeVar("Found")

AUTO = "auto"
_AHEAD = 2
# Torch has no class of its own for these: of mps, and of the processor's memory.
_OUT_OF_MEMORY = re.compile("out of memory|DefaultCPUAllocator")


def find_device(asked: str | torch.device | Sequence[str] = AUTO) -> torch.device:
    """The device that was asked for, tried.

    Parameters
    ----------
    asked
        ``auto`` (the first CUDA card, or Apple's mps, or the processor), a name that torch knows such as ``cuda:1``, or
        several, all of which have to be there: worker processes of a sweep take them in turn, this process the first.

    Raises
    ------
    ConfigError
        If one is not there, or cannot be used; the message says which ones torch sees.
    """
    if not isinstance(asked, str | torch.device):
        devices = [find_device(one) for one in asked]
        if not devices:
            raise ConfigError("device is an empty list; name a device, or leave the key out for auto.")
        # Processes that joblib starts are numbered from 1 in their names.
        number = re.search(r"^LokyProcess-(\d+)$", multiprocessing.current_process().name)
        return devices[(int(number[1]) - 1 if number else 0) % len(devices)]
    seen = read_torch()
    if asked == AUTO:
        return torch.device(seen.auto)
    try:
        device = torch.device(asked)
        torch.empty(0, device=device)
        if device.type != "meta":
            return device
        why = "it holds no numbers"
    # A card that is not there is an error of another class by each backend of torch.
    except Exception as error:
        why = first_line(error)
    there = ", ".join(f"{one.name} ({one.said})" for one in seen.devices)
    raise ConfigError(
        f"The device '{asked}' cannot be used ({why}); torch sees {there}. Name one of these, or auto; 'workbench doctor' says more."
    )


def describe_device(device: torch.device, dtype: torch.dtype | str) -> str:
    """Device, its card and the float type in one line.

    Parameters
    ----------
    device
        Where the weights of the model lie.
    dtype
        Float type of the weights, or its name.

    Examples
    --------
    >>> import torch
    >>> from workbench.models.devices import describe_device
    >>> describe_device(torch.device("meta"), torch.float32)
    'meta, float32'
    """
    names = (str(device), f"{device.type}:{device.index or 0}")
    card = next((f" ({one.said})" for one in read_torch().devices if one.name in names), "")
    return f"{device}{card}, {str(dtype).removeprefix('torch.')}"


def sums_type(device: torch.device) -> torch.dtype:
    """Float type of long sums: double precision, but single on Apple's mps, which has no other.

    Parameters
    ----------
    device
        Where the sums are made.
    """
    return torch.float32 if device.type == "mps" else torch.float64


def prefetched(batches: Iterator[Tokens], device: torch.device) -> Iterator[Tokens]:
    """The same batches; those for a GPU are made in a thread while the model runs, and for CUDA in pinned memory.

    Parameters
    ----------
    batches
        Batches on the processor; where they are read by a thread, nothing else may read them.
    device
        Where they are to go.
    """
    if device.type == "cpu":
        yield from batches
        return

    def make() -> Tokens | None:
        batch = next(batches, None)
        return batch.pinned() if batch is not None and device.type == "cuda" else batch

    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(make) for _ in range(_AHEAD))
        while (batch := coming.popleft().result()) is not None:
            coming.append(thread.submit(make))
            yield batch


class Fitting:
    """Batches that fit into the device's memory: where it runs out, they are halved from there on, which is said on stderr.

    Parameters
    ----------
    size
        Cells per batch to begin with.

    Attributes
    ----------
    size
        Cells per batch that have fitted so far, at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def batches(self, tokens: Tokens, work: Callable[[Tokens], Found]) -> Iterator[Found]:
        """What a function finds for each batch, in the order of the cells.

        Parameters
        ----------
        tokens
            Cells on any device, of which each batch is a part.
        work
            Function of a batch. It is called anew with half of the cells where memory has run out in it, so it must have
            left nothing behind by then.

        Raises
        ------
        CellsError
            If there is too little memory for one cell.
        """
        return self.parts(len(tokens), lambda start, stop: work(tokens[start:stop]))

    def parts(self, n: int, work: Callable[[int, int], Found]) -> Iterator[Found]:
        """The same for numbers of cells.

        Parameters
        ----------
        n
            Number of cells in all batches together.
        work
            Function of the first cell of a batch and of the one behind its last, as `batches` has it.
        """
        start = 0
        while start < n:
            stop = min(start + self.size, n)
            fitted, found = _tried(work, start, stop)
            if not fitted:
                self._halve(stop - start)
                continue
            yield found
            start = stop

    def _halve(self, cells: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if cells == 1:
            raise CellsError(
                "There is too little memory on the device for one cell at a time. Lower max_tokens or the size of the panel, free the "
                "device of other work, or run on --device cpu."
            )
        self.size = cells // 2
        print(f"[memory] no room for {cells} cells at a time; going on with {self.size}", file=sys.stderr)


def _tried(work: Callable[[int, int], Any], start: int, stop: int) -> tuple[bool, Any]:
    """Whether memory was enough, and what was found. The error ends here, and with it what its frames hold."""
    try:
        return True, work(start, stop)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
    return False, None
