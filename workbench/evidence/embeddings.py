"""What a campaign takes from the model, in one pass over the cells: frozen embeddings and operators by unit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.capture.activations import GENE
from workbench.capture.pairs import PATTERNS, GenePairSink
from workbench.capture.record import capture
from workbench.capture.sinks import Only, Plan, Sink
from workbench.errors import HookError
from workbench.models.scgpt.hooked import HookedScGPT
from workbench.models.scgpt.tokenizer import Tokenizer
from workbench.models.scgpt.tokens import Tokens
from workbench.operators.operator import Head, OperatorSource
from workbench.operators.store import write_pairs

RESIDUALS = "blocks.*.hook_resid_post"
CLS, AVERAGE = "cls", "average"
_SAMPLE = 32


class PooledSink:
    """Two vectors a cell from each residual stream: that of ``<cls>``, and the mean over its genes, padding left out."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def open(self, plan: Plan) -> None:
        """See `Sink`; hooks with one row per gene suit."""
        wrong = [name for name, shape in plan.shapes.items() if shape.kind != GENE]
        if wrong:
            raise HookError(f"'{wrong[0]}' has no row per gene to average over; capture '{RESIDUALS}' for this sink.")
        self._parts = {f"{kind}/{name}": [] for name in plan.shapes for kind in (CLS, AVERAGE)}

    def memory(self, plan: Plan) -> int:
        """See `Sink`."""
        return 2 * 2 * 4 * len(plan.lengths) * sum(int(np.prod(shape.inner)) for shape in plan.shapes.values())

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        keep = (~tokens.padding).to(activation.dtype)
        keep[:, 0] = 0
        mean = (activation * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        self._parts[f"{CLS}/{hook}"].append(activation[:, 0].float().cpu().numpy())
        self._parts[f"{AVERAGE}/{hook}"].append(mean.float().cpu().numpy())

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self._parts = {name: [array] for name, array in arrays.items()}

    def result(self) -> dict[str, Float[np.ndarray, "cell width"]]:
        """``average 0`` and so on, after each layer, and ``cls`` and ``average``, after the last."""
        arrays = self.state()
        hooks = sorted({name.split("/")[1] for name in arrays}, key=lambda hook: int(hook.split(".")[1]))
        found = {f"{AVERAGE} {layer}": arrays[f"{AVERAGE}/{hook}"] for layer, hook in enumerate(hooks)}
        return {**found, CLS: arrays[f"{CLS}/{hooks[-1]}"], AVERAGE: arrays[f"{AVERAGE}/{hooks[-1]}"]}


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
        self._before = float(arrays["seconds"][0])

    def seconds(self) -> float:
        """Of this session and of what was saved of those before."""
        return self._before + time.perf_counter() - self._began


def read_model(
    model: HookedScGPT,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    panel: Sequence[str] = (),
    unit: Mapping[str, int] | None = None,
    embed: bool = True,
    batch_size: int | None = None,
) -> tuple[dict[str, np.ndarray], float]:
    """Embeddings and operators of cells, in one pass that goes on where it was interrupted.

    Parameters
    ----------
    model, tokenizer
        The model, and its cells.
    folder
        For operators, and for what an interrupted capture needs.
    panel, unit
        Genes of the operators, and the unit of each cell by its name; no operators where `panel` is empty.
    embed
        Whether embeddings are wanted.
    batch_size
        Cells per pass.

    Returns
    -------
    embeddings, seconds
        By name, and what the pass took, over all sessions of an interrupted one; both empty where nothing was wanted.
    """
    pooled, hooks, sinks = PooledSink(), [], list[Sink]()
    if embed:
        hooks, sinks = [RESIDUALS], [Only(RESIDUALS, pooled)]
    pairs = GenePairSink(panel, model.vocabulary, unit) if panel else None
    if pairs is not None:
        hooks, sinks = [*hooks, PATTERNS], [*sinks, Only(PATTERNS, pairs)]
    if not sinks:
        return {}, 0.0
    clock = Clock()
    state = folder / "capture"
    capture(model, tokenizer, hooks, [*sinks, clock], batch_size=batch_size, state=state, save_every=256)
    seconds = clock.seconds()
    if pairs is not None:
        write_pairs(folder, pairs)
    return pooled.result() if embed else {}, seconds


def forward_seconds(model: HookedScGPT, tokenizer: Tokenizer) -> float:
    """Seconds that a forward pass takes per cell, tokenising included: the better of two passes over some cells.

    Parameters
    ----------
    model, tokenizer
        The model, and its cells.
    """
    stop = min(_SAMPLE, len(tokenizer))
    took = []
    for _ in range(2):
        began = time.perf_counter()
        with torch.no_grad():
            for tokens in tokenizer.batches(16, 0, stop):
                model(tokens.to(model.device, model.dtype))
        took.append((time.perf_counter() - began) / stop)
    return min(took)


@dataclass(frozen=True)
class OnPanel:
    """Operators on some of their genes, as an `OperatorSource`.

    Attributes
    ----------
    source
        On more genes.
    columns
        Places of the wanted genes in it.
    """

    source: OperatorSource
    columns: Int[np.ndarray, " gene"]

    @property
    def shape(self) -> Head:
        """See `OperatorSource`."""
        return self.source.shape

    def head(self, layer: int, head: int) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        return self.source.head(layer, head)[np.ix_(self.columns, self.columns)]

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """See `OperatorSource`."""
        return self.source.mean(layers)[np.ix_(self.columns, self.columns)]
