"""Sinks that keep activations themselves, without padding: in memory, or as shards on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from workbench.capture.activations import CELL, PAIR, HookShape, real_rows
from workbench.capture.sinks import Plan
from workbench.errors import ArtifactError
from workbench.files import hash_file, keep_others, read_arrays, read_json, write_arrays, write_json
from workbench.models.tokens import Tokens


@dataclass(frozen=True)
class Activations:
    """Captured activations without padding.

    Attributes
    ----------
    cell_ids
        Names of the cells, in the order of the pass.
    indptr
        Tokens of cell i are rows ``indptr[i]:indptr[i + 1]``; the first of them is ``<cls>``.
    gene_ids
        Token id of each row.
    values
        By hook: (cell, ...) for ``hook_cell`` and whatever else has a row per cell; (token, ...) for everything per gene; for
        scores, patterns and other maps the flattened (head, query, key) maps one cell after another, see `pattern`.
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
        self.first = ""

    def add(self, hook: str, shape: HookShape, activation: Tensor, tokens: Tokens) -> None:
        if hook == self.first:
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
        self.parts = {}


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
        self._plan, self._ragged.first = plan, next(iter(plan.shapes))
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

    def join(self, arrays: Mapping[str, np.ndarray]) -> None:
        """See `JoinedSink`."""
        for name, array in arrays.items():
            self._ragged._add(name, array)

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
        self.folder = Path(folder).expanduser()
        self._ragged = _Ragged()
        self._plan: Plan | None = None
        self._shards: list[dict] = []

    def open(self, plan: Plan) -> None:
        """See `Sink`; an `OutputError` where the folder holds a manifest of other origin."""
        keep_others(self.folder, ("manifest.json",), self.folder / "manifest.json", "hooks", "shards")
        self._plan, self._ragged.first = plan, next(iter(plan.shapes))
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
        written = write_arrays(self.folder / name, self._ragged.arrays())
        self._ragged.clear()
        self._shards.append({"file": name, "start": first, "stop": n_cells, "hash": hash_file(written)})
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
        Folder that a `ShardSink` wrote, with its manifest.

    Returns
    -------
    Activations

    Raises
    ------
    ArtifactError
        If the manifest or a shard is missing, or a shard was changed since it was written.
    """
    folder = Path(folder).expanduser()
    shards = read_json(folder / "manifest.json")["shards"]
    parts = [read_arrays(folder / shard["file"])[0] for shard in shards]
    for shard in shards:
        # Those of older workbenches have no hash.
        if shard.get("hash", "") not in ("", hash_file(folder / shard["file"])):
            raise ArtifactError(f"'{folder / shard['file']}' was changed since it was written; capture again.")
    return _activations({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def remove_shards(folder: str | Path) -> None:
    """Delete a shard folder and nothing else.

    Parameters
    ----------
    folder
        As given to `ShardSink`; it must hold a manifest.
    """
    folder = Path(folder).expanduser()
    if (folder / "manifest.json").is_file():
        shutil.rmtree(folder)
