"""Where captured activations go. Every sink sees each batch once, knows padding, and can be saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from workbench.capture.activations import CELL, PAIR, HookShape
from workbench.errors import HookError
from workbench.models.tokens import Tokens


@dataclass(frozen=True)
class Plan:
    """What a capture is about to do.

    Attributes
    ----------
    shapes
        Names of the captured hooks, each with its axes.
    lengths
        Tokens per cell with ``<cls>``.
    """

    shapes: Mapping[str, HookShape]
    lengths: np.ndarray

    @property
    def bytes(self) -> int:
        """Bytes of everything captured, as float32."""
        return 4 * sum(shape.elements(self.lengths) for shape in self.shapes.values())


@runtime_checkable
class Sink(Protocol):
    """What `capture` asks of a sink; a class of your own with these methods works the same.

    A sink whose state depends on settings gives them, ready for JSON, as an attribute ``identity``: a state that was
    saved with other settings is then refused.
    """

    def open(self, plan: Plan) -> None:
        """Check that the hooks suit the sink and get ready; called once, before any batch."""

    def memory(self, plan: Plan) -> int:
        """Bytes of memory needed at most."""

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """Take one hook's activation of one batch."""

    def flush(self, n_cells: int) -> None:
        """`n_cells` cells are complete: put away what lies outside `state`."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything needed to go on later."""

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """Go back to a saved state, in which `n_cells` cells were complete."""


class HookFilter:
    """Lets a sink see some of the captured hooks, so that one pass can feed sinks of different kinds.

    Parameters
    ----------
    pattern
        Name or shell wildcard of hooks, for example ``"hook_cell"``.
    sink
        The sink that gets them.
    """

    def __init__(self, pattern: str, sink: Sink) -> None:
        self.pattern, self.sink = pattern, sink
        self.identity = [pattern, type(sink).__name__, getattr(sink, "identity", None)]

    def _part(self, plan: Plan) -> Plan:
        return Plan({n: s for n, s in plan.shapes.items() if fnmatchcase(n, self.pattern)}, plan.lengths)

    def open(self, plan: Plan) -> None:
        """See `Sink`."""
        part = self._part(plan)
        if not part.shapes:
            raise HookError(f"None of the captured hooks matches '{self.pattern}'; capture it, or drop this sink.")
        self.sink.open(part)

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        return self.sink.memory(self._part(plan))

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        if fnmatchcase(hook, self.pattern):
            self.sink.update(hook, activation, tokens)

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""
        self.sink.flush(n_cells)

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        return self.sink.state()

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self.sink.restore(arrays, n_cells)


class MomentsSink:
    """Running mean and covariance per hook, over cells where a hook has a row per cell, else over genes of all cells.

    Padding and ``<cls>`` are left out. Inner axes (head, width) are flattened. Sums are float64 and merged batch by
    batch by the pairwise formula (Chan, Golub & LeVeque 1983), so the order of the cells changes rounding only.
    """

    def __init__(self) -> None:
        self._n: dict[str, int] = {}
        self._mean: dict[str, np.ndarray] = {}
        self._m2: dict[str, np.ndarray] = {}
        self._shapes: Mapping[str, HookShape] = {}

    def open(self, plan: Plan) -> None:
        """See `Sink`; pair hooks are refused."""
        pairs = [name for name, shape in plan.shapes.items() if shape.kind == PAIR]
        if pairs:
            raise HookError(f"Moments need a width, but '{pairs[0]}' is a map of gene pairs; use GenePairSink for it.")
        self._shapes = plan.shapes
        for name, shape in plan.shapes.items():
            d = int(np.prod(shape.inner))
            self._n[name], self._mean[name], self._m2[name] = 0, np.zeros(d), np.zeros((d, d))

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        return sum(8 * int(np.prod(shape.inner)) ** 2 for shape in plan.shapes.values())

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        if self._shapes[hook].kind == CELL:
            rows = activation.double().cpu().numpy()
        else:
            rows = activation[tokens.genes].double().cpu().numpy()
        rows = rows.reshape(len(rows), -1)
        n, k = self._n[hook], len(rows)
        if k == 0:
            return
        mean = rows.mean(0)
        delta = mean - self._mean[hook]
        centred = rows - mean
        self._m2[hook] += centred.T @ centred + np.outer(delta, delta) * (n * k / (n + k))
        self._mean[hook] += delta * (k / (n + k))
        self._n[hook] = n + k

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        out = {f"n/{name}": np.array([n]) for name, n in self._n.items()}
        out |= {f"mean/{name}": mean for name, mean in self._mean.items()}
        return out | {f"m2/{name}": m2 for name, m2 in self._m2.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        for name in self._n:
            self._n[name] = int(arrays[f"n/{name}"][0])
            self._mean[name], self._m2[name] = arrays[f"mean/{name}"].copy(), arrays[f"m2/{name}"].copy()

    def result(self, hook: str) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows counted, mean and covariance (divided by n - 1) of one hook.

        Parameters
        ----------
        hook
            Name of a hook that was captured.
        """
        n = self._n[hook]
        return n, self._mean[hook].copy(), self._m2[hook] / max(n - 1, 1)
