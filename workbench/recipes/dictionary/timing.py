"""How long a training would take, for ``--dry-run``: a step of each size is timed on numbers drawn at random."""

from __future__ import annotations

import time

import torch

from workbench.dictionaries.feeding import Reader
from workbench.dictionaries.saelens import make_trainer
from workbench.dictionaries.settings import DictionaryConfig
from workbench.dictionaries.stepping import Steps

BASIS = "a guess: from one pass over a few cells, and one step of each size of dictionary on random numbers"


def seconds_of_steps(config: DictionaryConfig, reader: Reader, targets: dict[str, str], device: torch.device) -> float:
    """Seconds of one step of all dictionaries, without the passes that feed it.

    Parameters
    ----------
    config
        Architecture, width and rows of a step of the dictionaries.
    reader
        Reader of all hooks and targets, which knows how wide their activations are.
    targets
        For transcoders, the hook that each of the hooks is decoded to.
    device
        Device that the dictionaries are trained on.
    """
    hooks = [hook for hook in reader.hooks if hook not in targets.values() or hook in targets]
    sizes = [(reader.width(hook), reader.width(targets[hook]) if hook in targets else None) for hook in hooks]
    seconds = {size: _one(config, *size, device) for size in dict.fromkeys(sizes)}
    return sum(seconds[size] for size in sizes)


def _one(config: DictionaryConfig, d_in: int, d_out: int | None, device: torch.device) -> float:
    """Seconds of the second of two steps; the first makes what is kept."""
    steps = Steps([make_trainer(config, d_in, d_out, 2, 0, str(device))], config, device)
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(config.rows, d_in, generator=drawn).to(device)
    y = None if d_out is None else torch.randn(config.rows, d_out, generator=drawn).to(device)
    began = 0.0
    for _ in range(2):
        began = time.perf_counter()
        steps.take([(x, 1.0, y, 1.0)])[0].item()  # a GPU has ended when its numbers are here
    return time.perf_counter() - began
