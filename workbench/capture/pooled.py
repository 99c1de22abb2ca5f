"""One vector a cell from each layer, and the time that a capture takes over all its sessions."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.capture.activations import GENE
from workbench.capture.sinks import Plan
from workbench.errors import HookError
from workbench.models.tokens import Tokens

RESIDUALS = "blocks.*.hook_resid_post"
# In front of the first layer <cls> is the same in every cell.
FRONT = "blocks.0.hook_resid_pre"
CLS, MEAN = "cls", "mean"
# The mean as an embedding of cells, by which methods of a benchmark are called.
AVERAGE = "average"


class PooledSink:
    """Two vectors a cell from each hook with a row per gene: that of ``<cls>``, and the mean over its genes, padding left out.

    The mean alone in front of the first layer, where ``<cls>`` is the same in every cell, and where cells have no
    ``<cls>``, as those of a perturbation fine-tune.
    """

    identity = (CLS, MEAN)

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}
        self._fresh: dict[str, list[Tensor]] = {}

    def open(self, plan: Plan) -> None:
        """See `Sink`; hooks with one row per gene suit."""
        wrong = [name for name, shape in plan.shapes.items() if shape.kind != GENE]
        if wrong:
            raise HookError(f"'{wrong[0]}' has no row per gene to average over; capture '{RESIDUALS}' for this sink.")
        self._parts, self._fresh = {}, {}

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        return 2 * 2 * 4 * len(plan.lengths) * sum(int(np.prod(shape.inner)) for shape in plan.shapes.values())

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        x, keep = activation.float(), tokens.genes.float()
        inner = (1,) * (x.ndim - 2)
        mean = (x * keep.reshape(*keep.shape, *inner)).sum(1)
        mean = mean / keep.sum(1).clamp(min=1).reshape(-1, *inner)
        if hook != FRONT and tokens.has_cls:
            # A copy, or the whole stream would stay; on its device, or the pass would wait.
            self._fresh.setdefault(f"{CLS}/{hook}", []).append(x[:, 0].clone())
        self._fresh.setdefault(f"{MEAN}/{hook}", []).append(mean)

    def flush(self, n_cells: int) -> None:
        """Fetch what has come since the last flush from the device."""
        for name, fresh in self._fresh.items():
            self._parts.setdefault(name, []).append(torch.cat(fresh).cpu().numpy())
        self._fresh = {}

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        self.flush(0)
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self._parts, self._fresh = {name: [array] for name, array in arrays.items()}, {}

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `JoinedSink`."""
        for name, array in arrays.items():
            self._parts.setdefault(name, []).append(array)

    def streams(self) -> dict[tuple[str, str], Float[np.ndarray, "cell ..."]]:
        """Vectors of all cells by hook and pool, ``cls`` or ``mean``."""
        return {(name.split("/", 1)[1], name.split("/", 1)[0]): array for name, array in self.state().items()}

    def result(self) -> dict[str, Float[np.ndarray, "cell width"]]:
        """``average 0`` and so on, after each layer, and ``cls`` and ``average``, after the last."""
        arrays = self.streams()
        hooks = sorted({hook for hook, _ in arrays}, key=lambda hook: int(hook.split(".")[1]))
        found = {f"{AVERAGE} {layer}": arrays[hook, MEAN] for layer, hook in enumerate(hooks)}
        if (hooks[-1], CLS) not in arrays:
            raise HookError(
                "These cells have no <cls> to keep, as those of a perturbation fine-tune or of the convention 'paper'; use another sink."
            )
        return {**found, CLS: arrays[hooks[-1], CLS], AVERAGE: found[f"{AVERAGE} {len(hooks) - 1}"]}


class Clock:
    """A sink that keeps the time: it is saved with the others, so that sessions before an interruption count as well."""

    def __init__(self) -> None:
        self._began, self._before = time.perf_counter(), 0.0

    def open(self, plan: Plan) -> None:
        """See `Sink`."""

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        return 0

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        return {"seconds": np.array([self.seconds()])}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self._began, self._before = time.perf_counter(), float(arrays["seconds"][0])

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `JoinedSink`; the times of all workers are added up."""
        self.restore({"seconds": arrays["seconds"] + self._before}, 0)

    def seconds(self) -> float:
        """Seconds since it was made, and those that were saved of sessions before."""
        return self._before + time.perf_counter() - self._began
