"""Operators of all heads on the disk, summed by fold of the cells, read one matrix at a time.

The operators of a fold's complement are the sums of all other folds over their counts: any set of folds can be left out
without another pass over the cells, and no more than one head has to be in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from workbench.capture.pairs import GenePairSink
from workbench.errors import EvaluationError
from workbench.files import read_arrays, read_json, write_arrays, write_json
from workbench.operators.operator import Head, check_head, head_name
from workbench.operators.weight_operators import WeightOperators

INDEX = "operators.json"
_COUNTS = "counts"


def write_pairs(folder: Path, sink: GenePairSink, kind: str = "attention") -> None:
    """Write the sums of a capture, one file per group.

    Parameters
    ----------
    folder
        Where to; (groups x (heads + 1 per layer) x genes x genes x 4) bytes are written.
    sink
        After the capture.
    kind
        What was summed.
    """
    for group in range(sink.n_groups):
        own = sink.group(group)
        arrays = {_COUNTS: own.counts.astype(np.int32)}
        for layer, sums in enumerate(own.sums):
            arrays[f"L{layer}"] = sums.sum(0)
            arrays |= {head_name(layer, head): matrix for head, matrix in enumerate(sums)}
        write_arrays(folder / _file(group), arrays)
    shape = list(own.sums.shape[:2])
    write_json(folder / INDEX, {"kind": kind, "shape": shape, "groups": sink.n_groups, "genes": list(sink.genes)})


def write_weights(folder: Path, operators: WeightOperators) -> None:
    """Write operators that come from the checkpoint alone; no fold has a part in them.

    Parameters
    ----------
    folder
        Where to.
    operators
        ``qk`` or ``ov``.
    """
    n_layers, n_heads = operators.left.shape[:2]
    arrays = {}
    for layer, head in np.ndindex(n_layers, n_heads):
        arrays[f"{head_name(layer, head)}/left"] = operators.left[layer, head]
        arrays[f"{head_name(layer, head)}/right"] = operators.right[layer, head]
    write_arrays(folder / _file(0), arrays)
    index = {"kind": operators.kind, "shape": [n_layers, n_heads], "groups": 0, "genes": list(operators.genes)}
    write_json(folder / INDEX, index)


@dataclass(frozen=True)
class StoredOperators:
    """An `OperatorSource` over a folder.

    Attributes
    ----------
    folder
        From `write_pairs` or `write_weights`.
    without
        Groups of cells to leave out.
    """

    folder: Path
    without: frozenset[int] = frozenset()

    def leaving(self, groups: Collection[int]) -> StoredOperators:
        """The same operators without some groups of cells.

        Parameters
        ----------
        groups
            Their numbers.
        """
        return StoredOperators(self.folder, frozenset(groups))

    @cached_property
    def _index(self) -> dict:
        return read_json(self.folder / INDEX)

    @property
    def kind(self) -> str:
        """``attention``, ``qk`` or ``ov``."""
        return self._index["kind"]

    @property
    def genes(self) -> tuple[str, ...]:
        """The panel."""
        return tuple(self._index["genes"])

    @property
    def shape(self) -> Head:
        """Layers and heads per layer."""
        layers, heads = self._index["shape"]
        return layers, heads

    @cached_property
    def counts(self) -> Float[np.ndarray, "gene gene"]:
        """Cells in which both genes are tokens, of the groups that are kept; 1 everywhere for operators of weights."""
        if not self._groups:
            return np.ones((len(self.genes), len(self.genes)))
        return self._sum(_COUNTS)

    def head(self, layer: int, head: int) -> Float[np.ndarray, "gene gene"]:
        """Operator of one head; 0 where a pair was never seen together.

        Parameters
        ----------
        layer, head
            From 0.
        """
        check_head(self.shape, layer, head)
        name = head_name(layer, head)
        if not self._groups:
            parts = read_arrays(self.folder / _file(0), [f"{name}/left", f"{name}/right"])[0]
            return parts[f"{name}/left"] @ parts[f"{name}/right"]
        return (self._sum(name) / np.maximum(self.counts, 1)).astype(np.float32)

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """Mean operator over all heads of some layers.

        Parameters
        ----------
        layers
            From 0.
        """
        n_heads = self.shape[1]
        if not self._groups:
            heads = [self.head(layer, head).astype(np.float64) for layer in layers for head in range(n_heads)]
            return (sum(heads[1:], heads[0]) / len(heads)).astype(np.float32)
        parts = [self._sum(f"L{layer}") for layer in layers]
        scale = np.maximum(self.counts, 1) * len(parts) * n_heads
        return (sum(parts[1:], parts[0]) / scale).astype(np.float32)

    @cached_property
    def _groups(self) -> list[int]:
        """Groups that are kept; none for operators of weights."""
        n = self._index["groups"]
        kept = [group for group in range(n) if group not in self.without]
        if n and not kept:
            raise EvaluationError(
                f"All {n} groups of cells are left out, so no cell is left to average operators over."
            )
        return kept

    def _sum(self, name: str) -> np.ndarray:
        # In double precision: the order of the groups then changes nothing that float32 shows.
        parts = (read_arrays(self.folder / _file(group), [name])[0][name] for group in self._groups)
        total = next(parts).astype(np.float64)
        for part in parts:
            total += part
        return total


def _file(group: int) -> str:
    return f"operators-{group}.safetensors"
