"""Where captured activations go. Every sink sees each batch once, knows padding, and can be saved and restored."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from workbench.capture.activations import CELL, PAIR, HookShape, real_rows
from workbench.errors import HookError
from workbench.files import read_arrays, read_json, write_arrays, write_json
from workbench.model.tokens import Tokens


@dataclass(frozen=True)
class Plan:
    """What a capture is about to do.

    Attributes
    ----------
    shapes
        Hooks and their axes.
    lengths
        Tokens per cell with ``<cls>``.
    """

    shapes: Mapping[str, HookShape]
    lengths: np.ndarray

    @property
    def bytes(self) -> int:
        """Bytes of everything captured, as float32."""
        return 4 * sum(shape.elements(self.lengths) for shape in self.shapes.values())


class Sink(Protocol):
    """What `capture` asks of a sink; a class of your own with these methods works the same."""

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


@dataclass(frozen=True)
class Activations:
    """Captured activations without padding.

    Attributes
    ----------
    cell_ids
        Names of the cells.
    indptr
        Tokens of cell i are rows ``indptr[i]:indptr[i + 1]``; the first of them is ``<cls>``.
    gene_ids
        Token id of each row.
    values
        By hook: (cell, ...) for ``hook_cell``; (token, ...) for everything per gene; for scores and patterns the
        flattened (head, query, key) maps one cell after another, see `pattern`.
    """

    cell_ids: tuple[str, ...]
    indptr: np.ndarray
    gene_ids: np.ndarray
    values: Mapping[str, np.ndarray]

    def of_cell(self, hook: str, cell: int) -> np.ndarray:
        """One cell's activation at a per-gene hook.

        Parameters
        ----------
        hook, cell
            Name of the hook, number of the cell.
        """
        return self.values[hook][self.indptr[cell] : self.indptr[cell + 1]]

    def pattern(self, hook: str, cell: int) -> np.ndarray:
        """One cell's scores or pattern.

        Parameters
        ----------
        hook, cell
            Name of the hook, number of the cell.

        Returns
        -------
        ndarray, shape (head, query, key)
        """
        lengths = np.diff(self.indptr)
        n_heads = len(self.values[hook]) // int((lengths**2).sum())
        start = n_heads * int((lengths[:cell] ** 2).sum())
        n = int(lengths[cell])
        return self.values[hook][start : start + n_heads * n * n].reshape(n_heads, n, n)


class _Ragged:
    """Collects batches without padding; the part that `MemorySink` and `ShardSink` share."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {}
        self._seen: tuple[str, ...] | None = None

    def add(self, hook: str, shape: HookShape, activation: Tensor, tokens: Tokens) -> None:
        if tokens.cell_ids != self._seen:
            self._seen = tokens.cell_ids
            self._add("#lengths", (~tokens.padding).sum(1).cpu().numpy())
            self._add("#gene_ids", tokens.gene_ids[~tokens.padding].cpu().numpy())
            self._add("#cell_ids", np.frombuffer("\n".join((*tokens.cell_ids, "")).encode(), dtype=np.uint8))
        if shape.kind == CELL:
            self._add(hook, activation.float().cpu().numpy().copy())
        elif shape.kind == PAIR:
            lengths = (~tokens.padding).sum(1).tolist()
            maps = [activation[i, :, :n, :n].float().cpu().numpy().ravel() for i, n in enumerate(lengths)]
            self._add(hook, np.concatenate(maps))
        else:
            self._add(hook, real_rows(activation, tokens))

    def _add(self, name: str, array: np.ndarray) -> None:
        self.parts.setdefault(name, []).append(array)

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(parts) for name, parts in self.parts.items()}

    def clear(self) -> None:
        self.parts, self._seen = {}, None


def _activations(arrays: Mapping[str, np.ndarray]) -> Activations:
    return Activations(
        cell_ids=tuple(arrays["#cell_ids"].tobytes().decode().split("\n")[:-1]),
        indptr=np.concatenate([[0], np.cumsum(arrays["#lengths"])]),
        gene_ids=arrays["#gene_ids"],
        values={name: array for name, array in arrays.items() if not name.startswith("#")},
    )


class MemorySink:
    """Keeps everything, without padding; read it from `result` after the capture."""

    def __init__(self) -> None:
        self._ragged = _Ragged()
        self._plan: Plan | None = None

    def open(self, plan: Plan) -> None:
        """See `Sink`."""
        self._plan = plan
        self._ragged.clear()

    def memory(self, plan: Plan) -> int:
        """See `Sink`; twice the data, because the batches are joined at the end."""
        return 2 * plan.bytes

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        assert self._plan is not None
        self._ragged.add(hook, self._plan.shapes[hook], activation, tokens)

    def flush(self, n_cells: int) -> None:
        """See `Sink`."""

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`."""
        return self._ragged.arrays()

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """See `Sink`."""
        self._ragged.parts = {name: [array] for name, array in arrays.items()}

    def result(self) -> Activations:
        """Everything captured.

        Returns
        -------
        Activations
        """
        return _activations(self._ragged.arrays())


class ShardSink:
    """Writes safetensors shards and a manifest; memory holds one shard at a time.

    Parameters
    ----------
    folder
        Where the shards go. A capture that was interrupted goes on there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._ragged = _Ragged()
        self._plan: Plan | None = None
        self._shards: list[dict] = []

    def open(self, plan: Plan) -> None:
        """See `Sink`."""
        self._plan = plan
        self._ragged.clear()
        self._shards = []

    def memory(self, plan: Plan) -> int:
        """See `Sink`; one shard."""
        n = len(plan.lengths)
        return 2 * plan.bytes * min(1024, n) // max(n, 1)

    def update(self, hook: str, activation: Tensor, tokens: Tokens) -> None:
        """See `Sink`."""
        assert self._plan is not None
        self._ragged.add(hook, self._plan.shapes[hook], activation, tokens)

    def flush(self, n_cells: int) -> None:
        """Write what has come since the last flush as one shard, then the manifest."""
        first = self._shards[-1]["stop"] if self._shards else 0
        if n_cells == first:
            return
        name = f"cells-{first:09d}-{n_cells:09d}.safetensors"
        write_arrays(self.folder / name, self._ragged.arrays())
        self._ragged.clear()
        self._shards.append({"file": name, "start": first, "stop": n_cells})
        self._write_manifest()

    def _write_manifest(self) -> None:
        assert self._plan is not None
        write_json(
            self.folder / "manifest.json",
            {"n_cells": len(self._plan.lengths), "hooks": list(self._plan.shapes), "shards": self._shards},
        )

    def state(self) -> dict[str, np.ndarray]:
        """See `Sink`; the shards are on the disk already."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray], n_cells: int) -> None:
        """Keep the shards of the first `n_cells` cells; later ones are written again."""
        shards = read_json(self.folder / "manifest.json")["shards"]
        self._shards = [shard for shard in shards if shard["stop"] <= n_cells]
        self._write_manifest()


def read_shards(folder: str | Path) -> Activations:
    """All shards of a folder as one.

    Parameters
    ----------
    folder
        As given to `ShardSink`.

    Returns
    -------
    Activations
    """
    folder = Path(folder)
    parts = [read_arrays(folder / shard["file"])[0] for shard in read_json(folder / "manifest.json")["shards"]]
    return _activations({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def remove_shards(folder: str | Path) -> None:
    """Delete a shard folder and nothing else.

    Parameters
    ----------
    folder
        As given to `ShardSink`; it must hold a manifest.
    """
    if (Path(folder) / "manifest.json").is_file():
        shutil.rmtree(folder)


class MomentsSink:
    """Running mean and covariance per hook, over cells for ``hook_cell`` and over genes of all cells otherwise.

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
            rows = activation[:, 1:][~tokens.padding[:, 1:]].double().cpu().numpy()
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
            Name of the hook.
        """
        n = self._n[hook]
        return n, self._mean[hook].copy(), self._m2[hook] / max(n - 1, 1)
