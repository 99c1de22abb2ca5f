"""Where captured activations go. Every sink sees each batch once, knows padding, and can be saved and restored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from workbench.capture.activations import CELL, PAIR, HookShape
from workbench.errors import HookError
from workbench.models.devices import sums_type
from workbench.models.protocol import Block
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
    first
        Number of the first of these cells in the file: 0 but for a part of them.
    """

    shapes: Mapping[str, HookShape]
    lengths: np.ndarray
    first: int = 0

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
        """Take one hook's activation of one batch, on the device that the model runs on.

        Where memory runs out in here, nothing must have been taken yet: the same cells come again, in smaller batches. So hooks
        may be given the same cells in batches of different sizes, in the same order.
        """

    def flush(self, n_cells: int) -> None:
        """`n_cells` cells are complete: put away what lies outside `state`."""

    def state(self) -> dict[str, np.ndarray]:
        """Everything needed to go on later."""

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """Go back to a saved state, in which `n_cells` cells were complete."""


@runtime_checkable
class HeadSink(Sink, Protocol):
    """A sink of patterns that can do without them: it takes queries and keys and makes the part of a pattern that it wants."""

    def update_heads(self, hook: str, q: Tensor, k: Tensor, tokens: Tokens, block: Block) -> None:
        """Take one layer's queries and keys of one batch in the place of its pattern, which is named by `hook`."""


@runtime_checkable
class JoinedSink(Sink, Protocol):
    """A sink that can be filled in parts, each by a worker of its own (`capture_in_parts`)."""

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the saved state of a sink of the same kind that has seen the cells right after those seen so far."""


def takes_heads(sink: Sink, hook: str) -> bool:
    """Whether a sink can do without the pattern of a layer.

    Parameters
    ----------
    sink
        Any sink; a filter answers for the sink behind it.
    hook
        Name of the pattern's hook.
    """
    if isinstance(sink, HookFilter):
        return not fnmatchcase(hook, sink.pattern) or takes_heads(sink.sink, hook)
    return isinstance(sink, HeadSink)


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
        return Plan({n: s for n, s in plan.shapes.items() if fnmatchcase(n, self.pattern)}, plan.lengths, plan.first)

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

    def update_heads(self, hook: str, q: Tensor, k: Tensor, tokens: Tokens, block: Block) -> None:
        """See `HeadSink`."""
        if fnmatchcase(hook, self.pattern):
            self.sink.update_heads(hook, q, k, tokens, block)  # type: ignore[attr-defined]

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""
        self.sink.flush(n_cells)

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        return self.sink.state()

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self.sink.restore(arrays, n_cells)

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `JoinedSink`."""
        self.sink.join(arrays)  # type: ignore[attr-defined]


class MomentsSink:
    """Running mean and covariance per hook, over cells where a hook has a row per cell, else over genes of all cells.

    Padding and ``<cls>`` are left out. Inner axes (head, width) are flattened. Sums are float64 and merged batch by
    batch by the pairwise formula (Chan, Golub & LeVeque 1983), so the order of the cells changes rounding only.
    """

    def __init__(self) -> None:
        # Of each hook: rows, their mean and their squares, on the device of its activations.
        self._sums: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._shapes: Mapping[str, HookShape] = {}

    def open(self, plan: Plan) -> None:
        """See `Sink`; pair hooks are refused."""
        pairs = [name for name, shape in plan.shapes.items() if shape.kind == PAIR]
        if pairs:
            raise HookError(f"Moments need a width, but '{pairs[0]}' is a map of gene pairs; use GenePairSink for it.")
        self._shapes = plan.shapes
        for name, shape in plan.shapes.items():
            d = int(np.prod(shape.inner))
            zeros = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)
            self._sums[name] = torch.zeros((), dtype=torch.float64), *zeros

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        return sum(8 * int(np.prod(shape.inner)) ** 2 for shape in plan.shapes.values())

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        cells = self._shapes[hook].kind == CELL
        rows = activation.flatten(1) if cells else activation.flatten(0, 1).flatten(1)
        keep = torch.ones_like(rows[:, 0], dtype=torch.bool) if cells else tokens.genes.flatten()
        wide = sums_type(activation.device)
        # Rows that do not count are made zero rather than taken out: the processor need not know how many these are.
        keep = keep[:, None]
        rows = torch.where(keep, rows.to(wide), 0)
        n, old, m2 = (part.to(activation.device, wide) for part in self._sums[hook])
        k = keep.sum().to(wide)
        mean = rows.sum(0) / k.clamp(min=1)
        centred = torch.where(keep, rows - mean, 0)
        self._sums[hook] = _merged((n, old, m2), (k, mean, centred.T @ centred))

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        arrays = {name: [part.cpu().double().numpy() for part in parts] for name, parts in self._sums.items()}
        out = {f"n/{name}": n.astype(np.int64).reshape(1) for name, (n, _, _) in arrays.items()}
        out |= {f"mean/{name}": mean for name, (_, mean, _) in arrays.items()}
        return out | {f"m2/{name}": m2 for name, (_, _, m2) in arrays.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        for name in self._sums:
            parts = (torch.as_tensor(arrays[f"{part}/{name}"]).double().clone() for part in ("n", "mean", "m2"))
            n, mean, m2 = parts
            self._sums[name] = n[0], mean, m2

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `JoinedSink`."""
        before = self._sums
        self._sums = dict(before)
        self.restore(arrays, 0)
        self._sums = {name: _merged(before[name], more) for name, more in self._sums.items()}

    def result(self, hook: str) -> tuple[int, np.ndarray, np.ndarray]:
        """Rows counted, mean and covariance (divided by n - 1) of one hook.

        Parameters
        ----------
        hook
            Name of a hook that was captured.
        """
        n, mean, m2 = (part.cpu().double().numpy() for part in self._sums[hook])
        return int(n), mean.copy(), m2 / max(int(n) - 1, 1)


def _merged(one: tuple[Tensor, Tensor, Tensor], other: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, mean and squares of two sets of rows together."""
    (n, old, m2), (k, mean, squares) = one, other
    delta, share = mean - old, k / (n + k).clamp(min=1)
    return n + k, old + delta * share, m2 + squares + torch.outer(delta, delta) * (n * share)
