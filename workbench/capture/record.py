"""Run cells through the model once and hand what the hooks see to sinks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from anndata import AnnData
from torch import Tensor
from tqdm import tqdm

from workbench.capture.activations import PAIR, hook_shapes, last_layer, run_to
from workbench.capture.ragged import ShardSink
from workbench.capture.sinks import HookFilter, Plan, Sink, takes_heads
from workbench.errors import ArtifactError, CellsError, HookError
from workbench.files import digest, read_state, write_state
from workbench.models import CellModel, CellTokenizer
from workbench.models.devices import Fitting, prefetched
from workbench.models.load import as_model
from workbench.models.tokens import Tokens

# Bytes that a layer's attention maps of one batch may take; cells per batch follow from it. On a CPU maps that stay in
# the cache, and in blocks that the allocator reuses, are far faster than long batches.
_MAP_BUDGET = {"cpu": 4 * 2**20}
_MAP_BUDGET_ELSEWHERE = 64 * 2**20
# Of a CUDA card's memory.
_MAP_SHARE = 1 / 32
STATE = "capture-state.safetensors"


@dataclass(frozen=True)
class CaptureReport:
    """What a capture did.

    Attributes
    ----------
    hooks
        Hook names, wildcards expanded, in the order of computation.
    n_cells, n_tokens
        Cells, and real tokens with ``<cls>``.
    resumed_at
        Cells that an interrupted capture had finished already.
    estimated_bytes
        Memory the sinks were expected to take.
    seconds
        Wall-clock time of this run alone.
    """

    hooks: tuple[str, ...]
    n_cells: int
    n_tokens: int
    resumed_at: int
    estimated_bytes: int
    seconds: float


def capture(
    model: CellModel | str | Path,
    cells: AnnData | CellTokenizer,
    hooks: str | Sequence[str],
    sinks: Sink | Sequence[Sink],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    state: str | Path | None = None,
    save_every: int = 1024,
    progress: bool = True,
    rows: tuple[int, int] | None = None,
) -> CaptureReport:
    """Record activations of cells in one pass for all sinks.

    Parameters
    ----------
    model
        Hooked model, on any device; ablations and hooks on it take part.
    cells
        Cells as `datasets.load` returns them, or their tokens from ``model.tokenizer``.
    hooks
        Names or wildcards, for example ``"blocks.*.attn.hook_pattern"``.
    sinks
        One or more sinks; each sees every hook.
    seed, max_tokens
        For the tokeniser, when `cells` is an AnnData.
    batch_size
        Cells per forward pass; by default as many as keep the attention maps of a layer small. It changes results by
        float rounding only.
    state
        Folder for a resumable state (by default that of a `ShardSink`, if there is one). A capture that was killed
        and is called again goes on at the last save, to the same result. Not while the model is ablated or hooked.
    save_every
        Cells between saves, and cells per shard.
    progress
        Show a progress bar with the byte estimate.
    rows
        First cell, and the one after the last, of those that are read; all cells when None.

    Returns
    -------
    CaptureReport

    Raises
    ------
    HookError
        If a name matches nothing (near matches are listed), does not suit a sink or has axes that no sink knows, or a state
        is to be kept of a model that is ablated or hooked.
    CellsError
        If the sinks would not fit into memory; said before any work is done. If there is too little memory on the device for one
        cell; where it does not suffice for a batch, batches are halved, which is said on stderr.
    ArtifactError
        If the state folder belongs to another capture.
    """
    model = as_model(model)
    names = model.resolve_hooks(hooks)
    tokenizer = cells if hasattr(cells, "lengths") else model.tokenizer(cells, seed=seed, max_tokens=max_tokens)
    all_sinks: list[Any] = list(sinks) if isinstance(sinks, Sequence) else [sinks]
    folder = Path(state) if state is not None else _shard_folder(all_sinks)
    if folder is not None and _is_changed(model):
        raise HookError(
            f"The model is ablated or hooked, which the state in '{folder}' could not tell from the intact model. Capture "
            "without `state` and ShardSink here, or leave the `with` block first."
        )
    first, last = rows or (0, len(tokenizer))
    n_cells, plan = last - first, Plan(hook_shapes(model, tokenizer, names), tokenizer.lengths()[first:last], first)
    estimate = sum(sink.memory(plan) for sink in all_sinks)
    available = psutil.virtual_memory().available
    if estimate > 0.9 * available:
        raise CellsError(
            f"The sinks would take about {estimate / 2**30:.1f} GiB of memory for {n_cells} cells, but "
            f"{available / 2**30:.1f} GiB are free. Use ShardSink or GenePairSink, fewer hooks, or a smaller panel."
        )
    for sink in all_sinks:
        sink.open(plan)
    # All values are read for it, so only where there is a state that it tells from others.
    identity = "" if folder is None else _identity(model, tokenizer, names, all_sinks, save_every, rows)
    start = _resume(folder, identity, all_sinks)
    fitting = Fitting(batch_size or max(1, min(32, _maps_in_budget(plan, model.device))))
    size = fitting.size
    began, done = time.perf_counter(), start
    stop_at = last_layer(names, model.config.n_layers)
    bar = tqdm(total=n_cells, initial=start, unit="cell", disable=not progress, desc=f"capture (~{_human(estimate)})")
    current: list[Tokens] = []

    # Cells that a sink has seen of a hook: a pass that is done again in halves may have come past it.
    taken: dict[tuple[int, str], int] = {}

    def deliver(activation: Tensor, hook: Any) -> None:
        for i, sink in enumerate(all_sinks):
            if taken.get((i, hook.name), 0) <= done:
                sink.update(hook.name, activation.detach(), current[0])
                taken[i, hook.name] = done + len(current[0])

    # Where no sink needs a layer's large pattern itself, the fused attention runs, and sinks get queries and keys.
    direct = [] if _is_changed(model) else [n for n in names if _is_direct(n, plan, all_sinks, model.device)]
    queries: dict[str, Tensor] = {}

    def keep(q: Tensor, hook: Any) -> None:
        queries[_pattern_of(hook.name)] = q.detach()

    def compare(k: Tensor, hook: Any) -> None:
        name = _pattern_of(hook.name)
        q, block = queries.pop(name), model.block(int(name.split(".")[1]))
        for i, sink in enumerate(all_sinks):
            if taken.get((i, name), 0) <= done:
                sink.update_heads(name, q, k.detach(), current[0], block)
                taken[i, name] = done + len(current[0])

    listeners: list[tuple[Any, Any]] = [(name, deliver) for name in names if name not in direct]
    for name in direct:
        part = name.removesuffix("pattern")
        listeners += [(f"{part}q", keep), (f"{part}k", compare)]

    def work(tokens: Tokens) -> int:
        queries.clear()  # of a pass that ended in the middle
        current[:] = [tokens.to(model.device, model.dtype)]
        run_to(model, current[0], stop_at)
        return len(tokens)

    _keep_freed_blocks()
    with bar, torch.no_grad(), model.hooks(listeners):
        for until in range((start // save_every + 1) * save_every, n_cells + save_every, save_every):
            until = min(until, n_cells)
            for tokens in prefetched(tokenizer.batches(size, first + done, first + until), model.device):
                for n in fitting.batches(tokens, work):
                    done += n
                    bar.update(n)
            for sink in all_sinks:
                sink.flush(done)
            if folder is not None:
                _save(folder, identity, done, all_sinks)
            if done == n_cells:
                break
    return CaptureReport(names, n_cells, int(plan.lengths.sum()), start, estimate, time.perf_counter() - began)


def _identity(
    model: CellModel,
    tokenizer: CellTokenizer,
    names: Sequence[str],
    sinks: Sequence[Any],
    save_every: int,
    rows: tuple[int, int] | None,
) -> str:
    of_sinks = [[type(sink).__name__, getattr(sink, "identity", None)] for sink in sinks]
    # How often a state is saved changes nothing but the size of shards.
    size = save_every if _shard_folder(sinks) else None
    part = [] if rows is None else [list(rows)]
    return digest(model.fingerprint(), tokenizer.fingerprint(), list(names), of_sinks, size, *part)


def _keep_freed_blocks() -> None:
    # glibc gives large freed blocks back to the system at once, and getting them again costs more than computing an
    # attention map. It stops doing so for sizes that it has seen freed: show it its limit (untouched, so it costs nothing).
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _maps_in_budget(plan: Plan, device: torch.device) -> int:
    """Maps of all heads of a layer, for the longest cell, that fit into the budget."""
    budget = _MAP_BUDGET.get(device.type, _MAP_BUDGET_ELSEWHERE)
    if device.type == "cuda":
        budget = int(_MAP_SHARE * torch.cuda.get_device_properties(device).total_memory)
    longest = int(plan.lengths.max())
    heads = max((shape.inner[0] for shape in plan.shapes.values() if shape.kind == PAIR), default=0)
    return budget // max(1, 4 * heads * longest**2)


def _is_direct(name: str, plan: Plan, sinks: Sequence[Sink], device: torch.device) -> bool:
    """Whether queries and keys are handed on in the place of a pattern; one that stays in the cache costs less than many small steps."""
    large = device.type not in _MAP_BUDGET or not _maps_in_budget(plan, device)
    return large and name.endswith(".attn.hook_pattern") and all(takes_heads(sink, name) for sink in sinks)


def _pattern_of(name: str) -> str:
    """Name of the pattern that queries or keys of this name belong to."""
    return name[: name.rindex("hook_")] + "hook_pattern"


def _is_changed(model: CellModel) -> bool:
    """Whether somebody has put an ablation or hooks on the model, so that its weights do not say what it computes."""
    return "forward" in vars(model) or any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def _shard_folder(sinks: Sequence[Sink]) -> Path | None:
    inner = [sink.sink if isinstance(sink, HookFilter) else sink for sink in sinks]
    return next((sink.folder for sink in inner if isinstance(sink, ShardSink)), None)


def _save(folder: Path, identity: str, done: int, sinks: Sequence[Sink]) -> None:
    arrays = {f"{i}:{name}": array for i, sink in enumerate(sinks) for name, array in sink.state().items()}
    write_state(folder / STATE, arrays, {"identity": identity, "done": done})


def _resume(folder: Path | None, identity: str, sinks: Sequence[Sink]) -> int:
    if folder is None or (saved := read_state(folder / STATE)) is None:
        return 0
    arrays, about = saved
    if about["identity"] != identity:
        raise ArtifactError(
            f"'{folder}' holds the state of a capture of other cells, hooks, sinks or another model. "
            "Choose another folder, or remove it to start afresh."
        )
    done = int(about["done"])
    for i, sink in enumerate(sinks):
        own: Mapping[str, np.ndarray] = {k.split(":", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{i}:")}
        sink.restore(own, done)
    return done


def _human(n: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}"
        n //= 1024
    return f"{n:.0f} GiB"
