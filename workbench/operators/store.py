"""Operators of all heads on the disk, summed by fold of the cells, read one matrix at a time.

The operators of a fold's complement are the sums of all other folds over their counts: any set of folds can be left out
without another pass over the cells, and no more than one head has to be in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
from jaxtyping import Float, Real

from workbench.capture.pairs import GenePairSink
from workbench.errors import EvaluationError
from workbench.files import read_arrays, read_json, write_arrays, write_json
from workbench.operators.convention import KEY_QUERY, SUM, Convention
from workbench.operators.operator import Head, check_head, head_name
from workbench.operators.weight_operators import WeightOperators

INDEX = "operators.json"
_COUNTS = "counts"


def check_folder(folder: Path, convention: Convention) -> None:
    """Refuse a folder that holds operators of another convention.

    Parameters
    ----------
    folder
        Folder that operators are about to be written into; it need not be there.
    convention
        Convention that they are made under.

    Raises
    ------
    ArtifactError
        If it holds operators of another one.
    """
    if (folder / INDEX).is_file():
        found = Convention.read(read_json(folder / INDEX).get("convention"))
        convention.check(found, f"What '{folder}' holds")


def write_pairs(
    folder: Path, sink: GenePairSink, kind: str = "attention", convention: Convention | None = None
) -> None:
    """Write the sums of a capture, one file per group.

    Parameters
    ----------
    folder
        Where to; (groups x (heads + 1 per layer) x genes x genes x 4) bytes are written.
    sink
        Sums of all groups, after the capture.
    kind
        Kind of operator, by which `StoredOperators.kind` says what was summed.
    convention
        Convention of the operators, which `StoredOperators` reads the sums under; the default when None.

    Raises
    ------
    ArtifactError
        If the folder holds operators of another convention.
    """
    convention = convention or Convention()
    check_folder(folder, convention)
    for group in range(sink.n_groups):
        own = sink.group(group)
        arrays = {_COUNTS: own.counts.astype(np.int32)}
        for layer, sums in enumerate(own.sums):
            arrays[f"L{layer}"] = sums.sum(0)
            arrays |= {head_name(layer, head): matrix for head, matrix in enumerate(sums)}
        write_arrays(folder / _file(group), arrays)
    shape = list(own.sums.shape[:2])
    index = {"kind": kind, "shape": shape, "groups": sink.n_groups, "genes": list(sink.genes)}
    write_json(folder / INDEX, {**index, "convention": convention.told()})


def write_weights(folder: Path, operators: WeightOperators) -> None:
    """Write operators that come from the checkpoint alone; no fold has a part in them.

    Parameters
    ----------
    folder
        Folder to write to; made if need be.
    operators
        Operators of all heads, of kind ``qk`` or ``ov``.
    """
    shape, arrays = operators.left.shape[:2], dict[str, np.ndarray]()
    for at in np.ndindex(*shape):
        name = head_name(*at)
        arrays |= {f"{name}/left": operators.left[at], f"{name}/right": operators.right[at]}
    write_arrays(folder / _file(0), arrays)
    index = {"kind": operators.kind, "shape": list(shape), "groups": 0, "genes": list(operators.genes)}
    write_json(folder / INDEX, index)


@dataclass(frozen=True)
class StoredOperators:
    """An `OperatorSource` over a folder.

    Attributes
    ----------
    folder
        Folder that `write_pairs` or `write_weights` wrote.
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
            Numbers of the groups, from 0; they take the place of those that were left out before.
        """
        return StoredOperators(self.folder, frozenset(groups))

    @cached_property
    def _index(self) -> dict:
        return read_json(self.folder / INDEX)

    @property
    def kind(self) -> str:
        """``attention``, ``qk`` or ``ov``."""
        return self._index["kind"]

    @cached_property
    def convention(self) -> Convention:
        """Convention that they were made under; the default for those of weights."""
        return Convention.read(self._index.get("convention"))

    def check(self, convention: Convention) -> None:
        """Refuse operators that are not of a convention.

        Parameters
        ----------
        convention
            The convention that is wanted.

        Raises
        ------
        ArtifactError
            If they are of another.
        """
        convention.check(self.convention, f"What '{self.folder}' holds")

    @property
    def genes(self) -> tuple[str, ...]:
        """The panel."""
        return tuple(self._index["genes"])

    @property
    def shape(self) -> Head:
        """Layers and heads per layer."""
        layers, heads = self._index["shape"]
        return layers, heads

    @property
    def n_groups(self) -> int:
        """Groups of cells that sums are kept by, those that are left out among them; 0 for operators of weights."""
        return self._index["groups"]

    def of_group(
        self, group: int, layer: int, head: int
    ) -> tuple[Float[np.ndarray, "gene gene"], Real[np.ndarray, "gene gene"]]:
        """Sums of one head over one group of cells, and what they are divided by once groups are added up.

        That is the number of cells in which both genes are tokens; for the plain sum it is 1 / groups everywhere.

        Parameters
        ----------
        group
            Number of the group, 0 to ``n_groups - 1``.
        layer, head
            Place of the head, both counted from 0.
        """
        check_head(self.shape, layer, head)
        name = head_name(layer, head)
        found = read_arrays(self.folder / _file(group), [name, _COUNTS])[0]
        plain = self.convention.over_cells == SUM
        counts = np.full(found[_COUNTS].shape, 1 / self.n_groups) if plain else found[_COUNTS]
        return self._turned(found[name]), counts

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
            Place of the head, both counted from 0.
        """
        check_head(self.shape, layer, head)
        name = head_name(layer, head)
        if not self._groups:
            parts = read_arrays(self.folder / _file(0), [f"{name}/left", f"{name}/right"])[0]
            return parts[f"{name}/left"] @ parts[f"{name}/right"]
        return self._turned((self._sum(name) / self._divisor).astype(np.float32))

    def mean(self, layers: Sequence[int]) -> Float[np.ndarray, "gene gene"]:
        """Mean operator over all heads of some layers.

        Parameters
        ----------
        layers
            Numbers of the layers, from 0, one or more.
        """
        n_heads = self.shape[1]
        if not self._groups:
            heads = [self.head(layer, head).astype(np.float64) for layer in layers for head in range(n_heads)]
            return (sum(heads[1:], heads[0]) / len(heads)).astype(np.float32)
        parts = [self._sum(f"L{layer}") for layer in layers]
        scale = self._divisor * len(parts) * n_heads
        return self._turned((sum(parts[1:], parts[0]) / scale).astype(np.float32))

    @property
    def _divisor(self) -> Float[np.ndarray, "gene gene"] | float:
        """What sums over cells are divided by."""
        return 1.0 if self.convention.over_cells == SUM else np.maximum(self.counts, 1)

    def _turned(self, matrix: Float[np.ndarray, "gene gene"]) -> Float[np.ndarray, "gene gene"]:
        """A matrix in rows of queries, in the orientation of the convention."""
        return np.ascontiguousarray(matrix.T) if self.convention.orientation == KEY_QUERY else matrix

    @cached_property
    def _groups(self) -> list[int]:
        """Groups that are kept; none for operators of weights."""
        n = self.n_groups
        kept = [group for group in range(n) if group not in self.without]
        if n and not kept:
            raise EvaluationError(
                f"All {n} groups of cells are left out, so no cell is left to average operators over."
            )
        return kept

    def _sum(self, name: str) -> np.ndarray:
        # In double precision: the order of the groups then changes nothing that float32 shows.
        parts = (read_arrays(self.folder / _file(group), [name])[0][name] for group in self._groups)
        return reduce(np.add, parts, np.zeros(()))


def _file(group: int) -> str:
    return f"operators-{group}.safetensors"
